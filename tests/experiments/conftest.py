from __future__ import annotations

import pytest
import tiny

from amu_fast.experiments.tasks import Task


@pytest.fixture(scope="session")
def tiny_task() -> Task:
    return tiny.TASK
