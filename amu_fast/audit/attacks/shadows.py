"""What shadow models said of the judged rows, having seen them or not: the evidence of LiRA, U-LiRA and RMIA."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from amu_fast.audit.attacks.outputs import SplitOutputs
from amu_fast.audit.metrics import as_matrix
from amu_fast.errors import DataError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from amu_fast.audit.metrics import Array

    Mask = NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class ShadowScores:
    """Phi of k shadow models on n rows, and which of them saw which row.

    Attributes:
        phi: (k, n) phi = log p_y - log(1 - p_y).
        inside: (k, n) True where model i was trained on row j (for U-LiRA: and unlearned it afterwards).
        outside: (k, n) True where it never saw the row; None: wherever `inside` is False. A model may be neither: one
            that was trained on the row and kept it says nothing of unlearning.
    """

    phi: Array
    inside: Mask
    outside: Mask | None = None

    def __post_init__(self) -> None:
        phi = as_matrix(self.phi, "shadow scores")
        inside = _mask(self.inside, phi.shape, "inside")
        outside = ~inside if self.outside is None else _mask(self.outside, phi.shape, "outside")
        both = np.argwhere(inside & outside)
        if len(both):
            raise DataError(f"model {both[0][0]} is inside and outside for row {both[0][1]}; it is one or the other")
        for name, value in (("phi", phi), ("inside", inside), ("outside", outside)):
            object.__setattr__(self, name, value)

    @property
    def never(self) -> Mask:
        """(k, n): `outside`, spelled out."""
        assert self.outside is not None
        return self.outside

    def counts(self) -> tuple[int, int]:
        """Fewest models inside and fewest outside of any row."""
        return int(self.inside.sum(axis=0).min()), int(self.never.sum(axis=0).min())

    def beside(self, other: ShadowScores) -> ShadowScores:
        """The same models on these rows and then on `other`'s."""
        if len(self.phi) != len(other.phi):
            raise DataError(
                f"all parts need the same shadow models, got {len(self.phi)} for one and {len(other.phi)} for another"
            )
        joined = (np.concatenate(pair, axis=1) for pair in zip(self._arrays(), other._arrays(), strict=True))
        return ShadowScores(*joined)

    def _arrays(self) -> tuple[Array, Mask, Mask]:
        return self.phi, self.inside, self.never


@dataclass(frozen=True, eq=False)
class Shadows:
    """Shadow models on the judged rows.

    Attributes:
        forget: on the forget rows, in their order.
        test: on the test rows, in their order.
        population: on further rows Z that calibrate RMIA; the target's validation rows, in their order.
    """

    forget: ShadowScores
    test: ShadowScores
    population: ShadowScores | None = None

    @staticmethod
    def of(models: Sequence[Any], inside: tuple[Any, Any], splits: Any = None, *, population: bool = False) -> Shadows:
        """From shadow models (or their `SplitOutputs`) on the target's splits.

        Args:
            models: k of them.
            inside: masks (k, forget rows) and (k, test rows); for references that saw neither, two of `False`.
            splits: the target's splits; not needed for outputs.
            population: also take the validation rows, which no shadow model saw.
        """
        parts = ("forget", "test", *(("validation",) if population else ()))
        outputs = [SplitOutputs.of(model, splits, parts) for model in models]
        if not outputs:
            raise DataError("shadow attacks need at least 1 shadow model, got 0")
        phi = {part: _stack([o.require(part).require("phi") for o in outputs], part) for part in parts}
        masks = {"forget": inside[0], "test": inside[1], "validation": False}
        made = [ShadowScores(phi[part], np.broadcast_to(masks[part], phi[part].shape)) for part in parts]
        return Shadows(*made)

    def judged(self, members: Array, nonmembers: Array) -> ShadowScores:
        """Forget and then test rows, once their numbers agree with the target's."""
        for part, rows in (("forget", members), ("test", nonmembers)):
            have = getattr(self, part).phi.shape[1]
            if have != len(rows):
                raise DataError(f"the shadows have {have} {part} rows and the target {len(rows)}; use the same rows")
        return self.forget.beside(self.test)


def _mask(values: Any, shape: tuple[int, ...], name: str) -> Mask:
    mask = np.asarray(values)
    if mask.dtype != np.bool_ or mask.shape != shape:
        raise DataError(f"{name} must be bool {shape} like phi, got {mask.dtype} {mask.shape}")
    return mask


def _stack(rows: list[Array], part: str) -> Array:
    lengths = {len(row) for row in rows}
    if len(lengths) != 1:
        raise DataError(f"all shadow models must answer the same {part} rows, got {sorted(lengths)} rows")
    return np.stack(rows)
