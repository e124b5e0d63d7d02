"""What the tests of certificates share: attacks with scores, a judge's verdict, a signer's keys."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from amu_fast.audit.attacks import AttackResult
from amu_fast.audit.intervals import Interval
from amu_fast.certificate import SigningKey

IDS = tuple(f"person-{name}" for name in ("ada", "bob", "cle", "dan", "eve"))


INSIDE = Interval(0.0, -0.01, 0.02, 0.9, "this model", "paired DeLong", (500, 500))


@dataclass(frozen=True)
class Judged:
    """A verdict as another module would hand it over."""

    outcome: str
    exit_code: int
    reasons: tuple[str, ...]
    claims: tuple[object, ...] = ()


@dataclass(frozen=True)
class Claim:
    """One of its claims."""

    name: str
    state: str
    kind: str = "auc"
    side: str = "both"
    margin: float = 0.05
    required: bool = True
    reasons: tuple[str, ...] = ()
    interval: Interval | None = INSIDE
    simultaneous: Interval | None = INSIDE


@dataclass(frozen=True)
class Keys:
    """The signer's key, and the file of its public half."""

    key: SigningKey
    private: Path
    public: Path


def attacks() -> tuple[AttackResult, ...]:
    rng = np.random.default_rng(0)
    pairs = {name: (rng.normal(shift, 1, 40), rng.normal(0, 1, 60)) for name, shift in (("loss", 0.3), ("margin", 4.0))}
    return tuple(AttackResult.of_scores(name, *pair) for name, pair in pairs.items())
