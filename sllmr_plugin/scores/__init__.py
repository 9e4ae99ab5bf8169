"""The score table: files of LLM scores read, checked, encoded and held as per-user arrays, in memory or mapped."""
