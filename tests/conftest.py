"""What every test shares: seeds, the markers `slow` and `gpu`, reproducible hypothesis runs."""

from __future__ import annotations

import random

import hypothesis
import numpy as np
import pytest
import torch

hypothesis.settings.register_profile("amu_fast", deadline=None, derandomize=True, max_examples=50)
hypothesis.settings.load_profile("amu_fast")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--run-slow", action="store_true", help="run the tests marked slow too")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    skip_slow = pytest.mark.skip(reason="needs minutes; runs with --run-slow")
    skip_gpu = pytest.mark.skip(reason="needs a CUDA device; torch sees none")
    slow_wanted, gpu_there = config.getoption("--run-slow"), torch.cuda.is_available()
    for item in items:
        if "slow" in item.keywords and not slow_wanted:
            item.add_marker(skip_slow)
        if "gpu" in item.keywords and not gpu_there:
            item.add_marker(skip_gpu)


@pytest.fixture(autouse=True)
def _seeded() -> None:
    """The same random numbers in every test, whatever ran before it."""
    random.seed(0)
    np.random.seed(0)  # noqa: NPY002 (scikit-learn's and scipy's defaults use it)
    torch.manual_seed(0)
