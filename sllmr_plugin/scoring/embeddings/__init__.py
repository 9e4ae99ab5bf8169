"""Vectors of texts from a server: asked, checked, kept and paid for as scores are, and found again text by text."""
