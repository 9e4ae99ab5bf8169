"""The gated LLM loss in pure torch: pairs, losses, signals, gates; knows no CTR library."""
