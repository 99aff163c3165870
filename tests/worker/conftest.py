"""What the tests of the worker share."""

from __future__ import annotations

import pytest

from studio.store import Store
from studio.worker.loop import Worker


@pytest.fixture
def worker(store: Store) -> Worker:
    return Worker(store, "cpu")
