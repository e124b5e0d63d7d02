"""Chosen parameters of a module, or of a mapping of tensors, as one vector of p numbers.

    v (p,)  <->  one tensor per parameter, in the order of `names`; the parts are views of the vector

A parameter that occurs under several names (tied weights) is one parameter, under the first of its names that was
chosen. Sharded parameters (DTensor) count with all their entries: every rank holds the whole vector.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, final

import torch
from torch import Tensor, nn

from amu_fast.errors import DataError

#: Names (of parameters or of modules that hold them), the parameters themselves, or a predicate (name, parameter).
Choice = Iterable[str] | Iterable[Tensor] | Callable[[str, Tensor], bool]


@final
@dataclass(frozen=True, eq=False)
class FlatParameters:
    """What a flat vector means.

    Args:
        names: of the parameters, in the order of the vector.
        tensors: the parameters themselves.

    >>> import torch
    >>> chosen = FlatParameters.of(torch.nn.Linear(2, 1), None)
    >>> chosen.names, chosen.numel
    (('weight', 'bias'), 3)
    >>> [part.tolist() for part in chosen.split(torch.tensor([1.0, 2.0, 3.0]))]
    [[[1.0, 2.0]], [3.0]]
    """

    names: tuple[str, ...]
    tensors: tuple[Tensor, ...]

    @staticmethod
    def of(subject: nn.Module | Mapping[str, Tensor], chosen: Choice | None) -> FlatParameters:
        """Choose parameters.

        Args:
            subject: the module, or tensors by name.
            chosen: names of parameters or of modules that hold them, the parameters themselves, or a predicate of
                (name, parameter); None: those of a module that require gradients, all of a mapping.

        Raises:
            DataError: nothing was chosen, something is not there, or what was chosen is not floating point.
        """
        everything = named(subject)
        picked = _picked(everything, _default(subject) if chosen is None else chosen)
        if not picked:
            raise DataError(f"no parameter was chosen out of {len(everything)}; pass names, parameters or a predicate")
        tensors = tuple(everything[name] for name in picked)
        for name, tensor in zip(picked, tensors, strict=True):
            if not tensor.is_floating_point() or tensor.device != tensors[0].device:
                raise DataError(
                    f"parameter {name} is {tensor.dtype} on {tensor.device}; choose floating-point parameters on one "
                    f"device, such as those on {tensors[0].device}"
                )
        return FlatParameters(tuple(picked), tensors)

    @cached_property
    def sizes(self) -> list[int]:
        """Entries of each parameter."""
        return [tensor.numel() for tensor in self.tensors]

    @cached_property
    def numel(self) -> int:
        """Number of entries, p."""
        return sum(self.sizes)

    @cached_property
    def dtype(self) -> torch.dtype:
        """Of the vectors: float64 if any parameter is, else float32, in which a solver can work."""
        return torch.float64 if any(t.dtype == torch.float64 for t in self.tensors) else torch.float32

    @property
    def device(self) -> torch.device:
        """Of the parameters."""
        return self.tensors[0].device

    def views(self, vector: Tensor) -> list[Tensor]:
        """The parts of a contiguous `vector (p,)`, in its own memory."""
        return [part.view(t.shape) for part, t in zip(vector.split(self.sizes), self.tensors, strict=True)]

    def split(self, vector: Tensor) -> list[Tensor]:
        """`views`, or copies in the dtype of a parameter that has another one."""
        return [part.to(t.dtype) for part, t in zip(self.views(vector), self.tensors, strict=True)]

    def join(self, parts: Sequence[Tensor]) -> Tensor:
        """One tensor per parameter as a new vector `(p,)` in the vectors' dtype."""
        return torch.cat([part.reshape(-1).to(self.dtype) for part in parts])

    def named(self, vector: Tensor) -> dict[str, Tensor]:
        """The parts of `vector (p,)` by name."""
        return dict(zip(self.names, self.split(vector), strict=True))

    @property
    def sharded(self) -> bool:
        """Whether a parameter is spread over ranks (FSDP2)."""
        return any(hasattr(tensor, "device_mesh") for tensor in self.tensors)


def named(subject: nn.Module | Mapping[str, Tensor]) -> dict[str, Tensor]:
    """All parameters by all their names."""
    if isinstance(subject, nn.Module):
        return dict(subject.named_parameters(remove_duplicate=False))
    return dict(subject)


def stamp(tensors: Iterable[Tensor]) -> tuple[tuple[int, ...], ...]:
    """Changes whenever one of the tensors is written to or gets other storage; nothing on the device is touched."""
    return tuple(mark for tensor in tensors for mark in _marks(tensor))


def _marks(tensor: Any) -> list[tuple[int, ...]]:
    """Of a sharded tensor two: it and its local part are written to independently."""
    inner = getattr(tensor, "_local_tensor", None)
    if inner is None:
        return [(tensor._version, tensor.data_ptr())]
    return [(tensor._version,), (inner._version, inner.data_ptr())]


def _default(subject: nn.Module | Mapping[str, Tensor]) -> Callable[[str, Tensor], bool]:
    if isinstance(subject, nn.Module):
        return lambda name, tensor: tensor.requires_grad
    return lambda name, tensor: tensor.is_floating_point()


def _picked(everything: dict[str, Tensor], chosen: Choice) -> list[str]:
    """The first chosen name of every chosen parameter, in the subject's order."""
    if callable(chosen):
        matching = [name for name, tensor in everything.items() if chosen(name, tensor)]
    else:
        wanted: list[Any] = [chosen] if isinstance(chosen, str) else list(chosen)
        found = [[name for name, tensor in everything.items() if _is(want, name, tensor)] for want in wanted]
        for want, names in zip(wanted, found, strict=True):
            if not names:
                label = want if isinstance(want, str) else f"a tensor of shape {tuple(want.shape)}"
                raise DataError(f"{label} is no parameter here; there are {', '.join(list(everything)[:8])} ...")
        union = {name for names in found for name in names}
        matching = [name for name in everything if name in union]
    first: dict[int, str] = {}
    for name in matching:
        first.setdefault(id(everything[name]), name)
    return list(first.values())


def _is(want: str | Tensor, name: str, tensor: Tensor) -> bool:
    if isinstance(want, Tensor):
        return tensor is want
    return name == want or name.startswith(f"{want}.")
