"""DeepCTR-Torch: its `fit`, the seams of it that a wrapped model uses, and what is checked before."""
