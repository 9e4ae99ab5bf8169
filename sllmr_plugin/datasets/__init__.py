"""Interactions in, splits and model input out; the bundled demo data."""
