"""A function of a module and a batch as a pure function of the chosen parameters, and the weights of the batches.

    F(w) = sum_j weight_j f(w, batch_j),   weight_j = rows_j / sum of all rows of all ranks

so that micro-batches, and ranks, are the same as one large batch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, final

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.func import functional_call

from amu_fast.errors import DataError
from amu_fast.linalg.flat import Choice, FlatParameters, named, stamp

Subject = nn.Module | Mapping[str, Tensor]
Function = Callable[[Any, Any], Tensor]
Reduction = Literal["mean", "sum"]
Group = dist.ProcessGroup | Literal["auto"] | None


class _Evaluation(nn.Module):
    """`function(model, batch)` as a module, whose parameters `functional_call` can replace."""

    def __init__(self, model: nn.Module, function: Function) -> None:
        super().__init__()
        self.model, self.function = model, function

    def forward(self, batch: Any) -> Tensor:
        return self.function(self.model, batch)


@final
@dataclass(frozen=True, eq=False)
class ModuleFunction:
    """f(w, batch) for the chosen parameters w; all others are constants.

    Args:
        subject: the module without wrappers, or tensors by name.
        function: `function(subject, batch)`, a tensor.
        batches: can be iterated over again and again, with the same rows each time.
        parameters: the chosen ones.
        weights: of the batches.
        group: the ranks over which products are summed; None: nothing is.
    """

    subject: Subject
    function: Function
    batches: Iterable[Any]
    parameters: FlatParameters
    weights: tuple[float, ...]
    group: dist.ProcessGroup | None

    @staticmethod
    def of(
        subject: Subject,
        function: Function,
        batches: Iterable[Any],
        chosen: Choice | None,
        rows: Callable[[Any], float] | None,
        group: Group,
        reduction: Reduction = "mean",
    ) -> ModuleFunction:
        """Choose parameters and weigh batches; one pass over the batches, one number summed over ranks.

        Args:
            subject: the module, perhaps wrapped, or tensors by name.
            function: `function(subject, batch)`, a tensor.
            batches: not an iterator.
            chosen: see `FlatParameters.of`.
            rows: of a batch; None: the length of its first tensor.
            group: "auto": the default group where a process group is initialised.
            reduction: "mean": f is a mean over the batch's rows; "sum": it is a sum, and every batch weighs 1.

        Raises:
            DataError: something of it is unusable.
        """
        if reduction not in ("mean", "sum"):
            raise DataError(f"reduction must be 'mean' or 'sum', got {reduction!r}; it says what the function returns")
        if isinstance(batches, Iterator):
            raise DataError(f"batches is a {type(batches).__name__}, which is used up once; pass a list or a loader")
        bare = unwrapped(subject)
        reshard(bare)
        parameters = FlatParameters.of(bare, chosen)
        ranks = _group(group)
        if parameters.sharded and ranks is None:
            raise DataError("sharded parameters have gradients averaged over ranks; pass group='auto' or their group")
        counts = [float((rows or leading_size)(batch)) for batch in batches]
        if not counts or min(counts) < 0 or sum(counts) <= 0:
            raise DataError(f"batches hold {counts[:8]} rows; every rank needs at least one batch that counts")
        total = _total(counts, parameters, ranks)
        if reduction == "sum":
            counts, total = [1.0] * len(counts), 1.0 / (ranks.size() if parameters.sharded and ranks else 1)
        made = ModuleFunction(bare, function, batches, parameters, tuple(c / total for c in counts), ranks)
        # Before any forward, after which a sharded module may show other tensors.
        assert made.tracked
        return made

    def weighted(self) -> Iterator[tuple[Any, float]]:
        """Every batch with its weight."""
        number = 0
        for number, batch in enumerate(self.batches, 1):
            if number > len(self.weights):
                break
            yield batch, self.weights[number - 1]
        if number != len(self.weights):
            raise DataError(f"batches gave {len(self.weights)} batches first, now {number}; keep them fixed")

    def values(self, *, requires_grad: bool = False) -> list[Tensor]:
        """The chosen parameters' present values: no copies, but other leaves."""
        return [tensor.detach().requires_grad_(requires_grad) for tensor in self.parameters.tensors]

    def __call__(self, values: Sequence[Tensor], batch: Any, constants: Mapping[str, Tensor] | None = None) -> Tensor:
        """Value at other values; `constants` replaces what was not chosen (None: as it is, without gradient)."""
        chosen = dict(zip(self.parameters.names, values, strict=True))
        merged = {**(self.constants if constants is None else constants), **chosen}
        if self._evaluation is None:
            return self.function(merged, batch)
        renamed = {f"model.{name}": tensor for name, tensor in merged.items()}
        result: Tensor = functional_call(self._evaluation, renamed, (batch,))
        return result

    def in_place(self, batch: Any) -> Tensor:
        """Value for the subject as it stands, for parameters that cannot be replaced."""
        return self.function(self.subject, batch)

    @cached_property
    def _evaluation(self) -> _Evaluation | None:
        return _Evaluation(self.subject, self.function) if isinstance(self.subject, nn.Module) else None

    @cached_property
    def constants(self) -> dict[str, Tensor]:
        """What was not chosen, detached, each under one name."""
        taken = {id(tensor) for tensor in self.parameters.tensors}
        others: dict[str, Tensor] = {}
        for name, tensor in named(self.subject).items():
            if id(tensor) not in taken:
                taken.add(id(tensor))
                others[name] = tensor.detach()
        return others

    @cached_property
    def tracked(self) -> tuple[Tensor, ...]:
        """Every parameter once, chosen or not."""
        return tuple({id(tensor): tensor for tensor in named(self.subject).values()}.values())

    def stamp(self) -> tuple[tuple[int, ...], ...]:
        """Changes with any parameter, chosen or not."""
        return stamp(self.tracked)

    def reduced(self, product: Tensor) -> Tensor:
        """Sum over ranks, in place. Sharded gradients come summed already."""
        if self.group is not None and not self.parameters.sharded:
            dist.all_reduce(product, group=self.group)
        return product


def unwrapped(subject: Subject) -> Subject:
    """Without DistributedDataParallel, which would wait for a backward of its own, and `torch.compile`."""
    while isinstance(subject, nn.Module):
        inner = getattr(subject, "_orig_mod", None)
        if isinstance(subject, nn.parallel.DistributedDataParallel):
            inner = subject.module
        if not isinstance(inner, nn.Module):
            break
        subject = inner
    return subject


def reshard(subject: Subject) -> None:
    """Free what FSDP2 has gathered, which would hide what is written to the shards."""
    for module in subject.modules() if isinstance(subject, nn.Module) else ():
        # FSDP2's class is not imported for this: that takes longer than torch itself.
        free: Any = getattr(module, "reshard", None)
        if free is not None and hasattr(module, "set_reshard_after_forward"):
            free()


def leading_size(batch: Any) -> float:
    """Length of the first tensor of a batch: a tensor, a mapping or a sequence."""
    found = batch.values() if isinstance(batch, Mapping) else [batch] if isinstance(batch, Tensor) else batch
    if isinstance(found, Iterable):
        for part in found:
            if isinstance(part, Tensor) and part.dim() > 0:
                return float(part.shape[0])
    raise DataError(f"rows of a {type(batch).__name__} are unknown; pass rows=, a function of the batch")


def _group(group: Group) -> dist.ProcessGroup | None:
    if group != "auto":
        return group
    active = dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1
    return dist.group.WORLD if active else None


def _total(counts: Sequence[float], parameters: FlatParameters, group: dist.ProcessGroup | None) -> float:
    """Rows of all ranks; averaged, not summed, where gradients are averaged over ranks too (sharded parameters)."""
    if group is None:
        return sum(counts)
    mine = [sum(counts), float(len(counts)), -float(len(counts))]
    total = torch.tensor(mine, dtype=torch.float64, device=parameters.device)
    rows, extremes = total[:1].clone(), total[1:].clone()
    dist.all_reduce(rows, group=group)
    if not parameters.sharded:
        return float(rows)
    dist.all_reduce(extremes, op=dist.ReduceOp.MAX, group=group)
    if float(extremes.sum()) != 0:
        raise DataError(
            f"ranks have between {-int(extremes[1])} and {int(extremes[0])} batches; sharded parameters need as many "
            "batches on every rank (an empty remainder can be split)"
        )
    return float(rows) / dist.get_world_size(group)
