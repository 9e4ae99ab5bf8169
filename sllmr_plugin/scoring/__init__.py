"""The offline scoring pipeline: from interactions to a score table, with a language model or without one."""
