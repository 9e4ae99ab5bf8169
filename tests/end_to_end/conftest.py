"""What the end-to-end tests share; all of them are marked as slow."""

from pathlib import Path

import pytest

from .nursery import Nursery


def pytest_collection_modifyitems(items):
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:  # the hook is given the tests of other folders, too
            item.add_marker("slow")


@pytest.fixture
def nursery(tmp_path):
    nursery = Nursery(tmp_path / "log.txt")
    yield nursery
    nursery.close()
