"""Shared set-up: DeepCTR-Torch without its version check, and few threads for tiny models."""

import torch

from sllmr_plugin.backends.quiet import import_deepctr_torch

import_deepctr_torch()
torch.set_num_threads(1)
