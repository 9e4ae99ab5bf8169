"""Vectors of texts from a server, through the ledger: see `write.embed_texts`."""
