"""The states of the global random number generators."""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from amu_fast.errors import DataError


def capture_rng() -> dict[str, Any]:
    """States of the global generators of Python, NumPy and torch, the latter also on CUDA once it is in use.

    Returns:
        Plain numbers and tensors, for the state of a checkpoint and for `restore_rng`. They belong to one rank.

    >>> state = capture_rng()
    >>> first = torch.rand(1), random.random()
    >>> restore_rng(state)
    >>> (torch.rand(1), random.random()) == first
    True
    """
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() and torch.cuda.is_initialized() else []
    numpy_state = np.random.get_state()  # noqa: NPY002 (the global generator is the one that others draw from)
    return {"python": random.getstate(), "numpy": numpy_state, "torch": torch.get_rng_state(), "cuda": cuda}


def restore_rng(state: Mapping[str, Any]) -> None:
    """Set the global generators to what `capture_rng` returned.

    Args:
        state: Of the same rank. Its CUDA part is for as many devices as there are here.

    Raises:
        DataError: A part is missing or does not fit.
    """
    try:
        if state["cuda"] and len(state["cuda"]) != torch.cuda.device_count():
            raise DataError(
                f"the random state is of {len(state['cuda'])} CUDA devices, here are {torch.cuda.device_count()}; "
                "resume on as many, or seed anew and give up the same numbers"
            )
        random.setstate(state["python"])
        np.random.set_state(state["numpy"])  # noqa: NPY002
        torch.set_rng_state(state["torch"])
        if state["cuda"]:
            torch.cuda.set_rng_state_all(state["cuda"])
    except DataError:
        raise
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise DataError(
            f"not a state of capture_rng: {type(error).__name__}: {error}; with several ranks, take this rank's from "
            "Checkpoint.of_rank()"
        ) from error
