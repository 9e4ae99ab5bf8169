"""Shared set-up: DeepCTR-Torch without its version check, few threads, no time limits on a busy machine."""

import os

from hypothesis import HealthCheck, settings

settings.register_profile("unhurried", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("long", settings.get_profile("unhurried"), max_examples=20_000)  # nox -s fuzz
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "unhurried"))


def pytest_configure(config):
    """Import what nearly every test needs; not in pytest-xdist's first process, which only hands tests out."""
    if config.getoption("numprocesses", None) and not hasattr(config, "workerinput"):
        return
    import torch

    from sllmr_plugin.backends.deepctr import import_deepctr_torch

    import_deepctr_torch()
    torch.set_num_threads(1)
