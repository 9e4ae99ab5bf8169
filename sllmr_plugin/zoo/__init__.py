"""Backbones by name, with their own constructor arguments: DeepCTR-Torch's, and the same over FuxiCTR's layers."""

from .deepctr import BACKBONES, build_model, input_rows

__all__ = ["BACKBONES", "build_model", "input_rows"]
