"""What a queue of deletion requests keeps on disk."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar


@dataclass(frozen=True)
class DeletionRequest:
    """One request.

    Attributes:
        name: As the controller calls it; unique in its queue.
        rows: (n,) row numbers of the training data to be forgotten.
        received: When it was put into the queue, UTC, ISO 8601.
        finished: When its model was written; None while it waits.
    """

    name: str
    rows: tuple[int, ...]
    received: str
    finished: str | None = None


@dataclass(frozen=True)
class QueueState:
    """What `queue.json` holds.

    Attributes:
        seed: Of the first request; request k runs with seed + k.
        data: SHA-256 of the training rows.
        method: Hash of the method's configuration.
        requests: In the order in which they came.
    """

    SCHEMA: ClassVar[str] = "amu-fast-deletions/1"

    seed: int
    data: str
    method: str
    requests: tuple[DeletionRequest, ...] = ()
