"""Trainer's data side: micro-batches of several parts, and what is counted on them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader
from transformers import Trainer

from amu_fast.integrations.audits import data_randomness
from amu_fast.integrations.batches import MicroBatches, Order
from amu_fast.integrations.collators import PartCollator
from amu_fast.integrations.data import GAME_PARTS, PartRows, UnlearnDatasets
from amu_fast.integrations.terms import Window, counted
from amu_fast.unlearn.objectives import Objective


class PartLoader(DataLoader[Any]):
    """A loader that tells its sampler which epoch it is."""

    def set_epoch(self, epoch: int) -> None:
        """Which epoch the next iteration is."""
        sampler: Any = self.batch_sampler
        sampler.set_epoch(epoch)


class DealsParts(Trainer):
    """The part of `UnlearnTrainer` that deals rows to micro-batches and ranks."""

    splits: UnlearnDatasets
    objective: Objective
    audit_batch_size: int
    exact_accumulation: bool
    part_collator: PartCollator
    window: Window | None = None

    @property
    def network(self) -> nn.Module:
        """The model, as Trainer evaluates it."""
        model: Any = self.model
        return model

    def order(self) -> Order:
        """Which rows each micro-batch has."""
        return Order(
            {name: len(self.splits.part(name)) for name in GAME_PARTS},
            self.objective.needs,
            retain_batch=self._train_batch_size * self.accelerator.num_processes,
            audit_batch=self.audit_batch_size,
            accumulation=self.args.gradient_accumulation_steps,
            pooled=self.exact_accumulation,
            ranks=self.accelerator.num_processes,
            seed=self.args.seed,
        )

    def get_train_dataloader(self) -> DataLoader[Any]:
        """This rank's micro-batches; not prepared by Accelerate, which would share them out once more."""
        return PartLoader(
            PartRows(self.splits),  # type: ignore[arg-type]
            batch_sampler=MicroBatches(self.order(), self.accelerator.process_index),
            collate_fn=self.part_collator,
            num_workers=self.args.dataloader_num_workers,
            pin_memory=self.args.dataloader_pin_memory and self.args.device.type == "cuda",
            # of its own: a loader draws its workers' seeds from the global one at each epoch
            generator=torch.Generator().manual_seed(self.args.seed),
        )

    def get_batch_samples(
        self, epoch_iterator: Iterator[Any], num_batches: int, device: torch.device
    ) -> tuple[list[Any], Tensor | int | None]:
        """The micro-batches of a step and their number of counted retain labels on all ranks.

        Data sets that draw random numbers get those of the step, so that a resumed run sees the same rows.
        """
        with data_randomness(self.args.seed, self.state.global_step):
            batches = list(islice(epoch_iterator, num_batches))
        self.window = self.window_of(batches)
        return batches, self.window.total

    def window_of(self, batches: Sequence[Any]) -> Window:
        """The optimiser step that these micro-batches of this rank are."""
        shifted = bool(self._loss_shifts_labels)
        items = [counted(batch["retain"]["labels"], shifted=shifted) if "retain" in batch else 0 for batch in batches]
        mine = torch.tensor(float(sum(items)), device=self.args.device)
        total = self.accelerator.reduce(mine, "sum")
        return Window(batches, items, total, self.state.global_step, self.accelerator.num_processes)

    def move(self, inputs: Mapping[str, Any]) -> dict[str, Any]:
        """Nested tensors on the model's device."""
        return {name: self._prepare_input(value) for name, value in inputs.items()}

    def floating_point_ops(self, inputs: dict[str, Any]) -> int:
        """Of all parts, forward and backward."""
        parts = [part for part in inputs.values() if isinstance(part, Mapping)]
        return sum(super(DealsParts, self).floating_point_ops(dict(part)) for part in parts or [inputs])

    def _track_num_input_tokens(self, inputs: dict[str, Any]) -> None:
        for part in inputs.values():
            super()._track_num_input_tokens(part)
