"""`transformers.Trainer` for unlearning: any objective, any model that returns logits and a loss."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import DistributedType  # type: ignore[import-untyped]
from torch import Tensor, nn
from transformers import TrainerCallback, TrainingArguments
from transformers.trainer_utils import TrainOutput, get_last_checkpoint

from amu_fast.errors import DataError
from amu_fast.integrations.audits import Audit
from amu_fast.integrations.callbacks import AuditCallback, BudgetStop
from amu_fast.integrations.checkpoints import verified
from amu_fast.integrations.checks import check_setup
from amu_fast.integrations.collators import PadRows, PartCollator
from amu_fast.integrations.data import GAME_PARTS, UnlearnDatasets
from amu_fast.integrations.dealing import DealsParts
from amu_fast.integrations.recording import Recorder
from amu_fast.integrations.reporting import REPORT_FILE, config_of, report_of
from amu_fast.integrations.saving import SavesWhole, identity, load_state
from amu_fast.integrations.statistics import refresh_at_end
from amu_fast.integrations.terms import Part, Window, exact_terms, frozen_statistics, plain_terms
from amu_fast.report.report import Metric, Report
from amu_fast.unlearn.objectives import AUXILIARY, Objective


class UnlearnTrainer(DealsParts, SavesWhole):
    """Trains a model to forget; everything that `Trainer` can do with a model it does here too.

    An epoch is one pass over retain. Which rows a step has depends on (seed, step) only. Retain rows go through the
    model's own loss, forget and validation rows through the objective, one term's graph alive at a time. Gradients are
    those of one batch of all micro-batches and ranks: the retain loss is a mean over all counted labels, and the
    payoff the mean over micro-batches, or with `exact_accumulation` one game on all of them (docs/product.md).

    Args:
        model: Returns logits, and a mean loss where `labels` are given: of transformers, of PEFT, or any other.
        args: `per_device_train_batch_size` is that of the retain rows.
        splits: The parts of the task.
        objective: What to descend, `GameObjective()` for the game.
        audit_batch_size: Forget rows, and validation rows, of a micro-batch, of all ranks together; a game wants 32.
        exact_accumulation: Score all micro-batches of a step without gradient, solve one game, re-forward each.
        data_collator: Of one part's rows, without the keys of `AUXILIARY`; None: `PadRows`.
        budget: Gradient samples at which the run ends; None: `args` alone say when.
        callbacks: `AuditCallback` among them.
        eval_dataset: For Trainer's own evaluation.
        processing_class: Tokenizer or image processor, saved with the model; a tokenizer's padding token is used.
        compute_metrics: For Trainer's own evaluation.
        optimizers: Optimizer and scheduler; None: those of `args`.

    Raises:
        DataError: What cannot work together, with the remedy.
    """

    def __init__(
        self,
        model: nn.Module,
        args: TrainingArguments,
        *,
        splits: UnlearnDatasets,
        objective: Objective,
        audit_batch_size: int = 32,
        exact_accumulation: bool = False,
        data_collator: Callable[[list[Any]], dict[str, Any]] | None = None,
        budget: float | None = None,
        callbacks: Sequence[TrainerCallback] = (),
        eval_dataset: Any = None,
        processing_class: Any = None,
        compute_metrics: Callable[..., dict[str, float]] | None = None,
        optimizers: tuple[Any, Any] = (None, None),
    ) -> None:
        self.splits: UnlearnDatasets = splits
        self.objective: Objective = objective
        self.budget = budget
        self.audit_batch_size, self.exact_accumulation = audit_batch_size, exact_accumulation
        self.audits: list[Audit] = []
        self.first_guesses: dict[str, list[float]] = {}
        self.stopped = False
        self.seconds = 0.0
        pad_token = getattr(processing_class, "pad_token_id", None)
        super().__init__(
            model,
            args,
            data_collator=PadRows(pad_token or 0) if data_collator is None else data_collator,
            train_dataset=splits.retain,
            eval_dataset=eval_dataset,
            processing_class=processing_class,
            compute_metrics=compute_metrics,
            callbacks=list(callbacks),
            optimizers=optimizers,
        )
        check_setup(self)
        collate: Any = self.data_collator
        if args.remove_unused_columns:
            collate = self._get_collator_with_removed_columns(collate, description="training")
        self.part_collator = PartCollator(collate)
        self.recorder = Recorder(objective.name, self.accelerator)
        self.audit_callbacks = [callback for callback in callbacks if isinstance(callback, AuditCallback)]
        for audit in self.audit_callbacks:
            audit.set_trainer(self)
        if budget is not None:
            self.add_callback(BudgetStop(self, budget))

    def training_step(
        self, model: nn.Module, inputs: dict[str, Any], num_items_in_batch: Tensor | int | None = None
    ) -> Tensor:
        """Forward and backward of a micro-batch, term by term; returns its share of the step's loss.

        `num_items_in_batch` is not used: both terms are scaled here, whatever the model does with it.
        """
        window = self.window
        if window is None:
            raise DataError("training_step follows get_batch_samples; call train()")
        model.train()
        schedule_free: Any = self.optimizer
        if callable(getattr(schedule_free, "train", None)):
            schedule_free.train()
        parts = self.move(inputs)
        shown = torch.zeros((), device=self.args.device)
        with frozen_statistics(model, parts), self.compute_loss_context_manager():
            for part in self._descended(self._terms(model, window, parts)):
                self.recorder.add([part.terms])
                shown = shown + part.shown
        if window.last:
            self.recorder.close(self.state.global_step + 1, self._get_learning_rate())
        window.at += 1
        return shown

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        """The whole loss of a training batch (part -> inputs), or Trainer's of any other."""
        if not any(isinstance(inputs.get(name), Mapping) for name in GAME_PARTS):
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        parts = self.move(inputs)
        terms = list(self._terms(model, self.window or self.window_of([inputs]), parts))
        loss = torch.stack([part.loss for part in terms]).sum()
        return (loss, {}) if return_outputs else loss

    def train(
        self, resume_from_checkpoint: str | bool | None = None, trial: Any = None, ignore_keys_for_eval: Any = None
    ) -> TrainOutput:
        """Train, or go on from a checkpoint, and write `unlearn_report.json` into `args.output_dir`.

        Args:
            resume_from_checkpoint: A folder; True: the latest one. On the CPU the run ends with the bits of one that
                was never stopped.
            trial: Of a search, see `Trainer`.
            ignore_keys_for_eval: See `Trainer`.

        Raises:
            DataError: A checkpoint that is damaged, foreign or of another version, with the reason.
            SolveError: A loss or payoff is not finite.
        """
        began, self.stopped = time.perf_counter(), False
        path: Any = resume_from_checkpoint or None
        if path is True:
            path = get_last_checkpoint(self.args.output_dir)
            if path is None:
                raise DataError(f"no checkpoint in {self.args.output_dir}; start the run without resuming")
        self.audits, self.first_guesses, self.seconds = [], {}, 0.0
        self.recorder = Recorder(self.objective.name, self.accelerator)
        if path is not None:
            load_state(self, verified(Path(path), identity(config_of(self))))
        output = super().train(path, trial, ignore_keys_for_eval)
        self.recorder.flush()
        self.seconds += time.perf_counter() - began
        if self.is_world_process_zero():
            self.report().save(Path(str(self.args.output_dir)) / REPORT_FILE)
        return output

    def report(self, metrics: Mapping[str, Metric | None] | None = None) -> Report:
        """The record of the run: configuration, history, cost, provenance, and the last audit of each attack.

        Args:
            metrics: What else was measured.
        """
        return report_of(self, metrics or {}, self.seconds)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Log, with training's figures averaged over the steps since the last time; waits for the device."""
        if "loss" in logs:
            logs = {**logs, **self.recorder.means()}
        super().log(logs, start_time)

    def _finalize_training(self, trial: Any, num_train_samples: Any, start_time: Any) -> TrainOutput:
        refresh_at_end(self)
        return super()._finalize_training(trial, num_train_samples, start_time)

    def _terms(self, model: nn.Module, window: Window, parts: Mapping[str, Any]) -> Iterator[Part]:
        def retain(model: nn.Module, part: Mapping[str, Tensor]) -> Tensor:
            inputs = {key: value for key, value in part.items() if key not in AUXILIARY}
            mean: Any = super(UnlearnTrainer, self).compute_loss(model, inputs)
            return mean * window.retain_scale

        objective: Any = self.objective
        if self.exact_accumulation:
            return exact_terms(objective, model, window, parts, retain, self.move)
        return plain_terms(objective, model, window, parts, retain)

    def _descended(self, terms: Iterator[Part]) -> Iterator[Part]:
        """Backward on each term before the next one is asked for."""
        if self.accelerator.distributed_type == DistributedType.DEEPSPEED:
            # its engine takes a step at the end of each backward of the last micro-batch
            whole = list(terms)
            loss = torch.stack([part.loss for part in whole]).sum()
            self.accelerator.backward(loss, scale_wrt_gas=False)
            yield from whole
            return
        for part in terms:
            if part.loss.requires_grad:
                self.accelerator.backward(part.loss)
            yield part
