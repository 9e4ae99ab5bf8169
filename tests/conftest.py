"""Shared set-up: DeepCTR-Torch without its version check, few threads, no time limits on a busy machine."""

import os

import torch
from hypothesis import HealthCheck, settings

from sllmr_plugin.backends.deepctr import import_deepctr_torch

import_deepctr_torch()
torch.set_num_threads(1)
settings.register_profile("unhurried", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("long", settings.get_profile("unhurried"), max_examples=20_000)  # nox -s fuzz
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "unhurried"))
