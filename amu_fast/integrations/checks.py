"""What an `UnlearnTrainer` refuses before its first step."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from transformers.training_args import ParallelMode

from amu_fast.errors import DataError
from amu_fast.unlearn.batch_norm import tracking_layers

if TYPE_CHECKING:
    from amu_fast.integrations.trainer import UnlearnTrainer

_STEPPING_IN_BACKWARD = ("lomo", "adalomo")


def check_setup(trainer: UnlearnTrainer) -> None:
    """Check options against each other, the model and the launch.

    Raises:
        DataError: With the remedy.
    """
    args, accelerator = trainer.args, trainer.accelerator
    if args.parallel_mode == ParallelMode.NOT_DISTRIBUTED and args.n_gpu > 1:
        raise DataError(
            f"{args.n_gpu} GPUs in one process would be driven by DataParallel, which splits games; launch with "
            "torchrun, or make one GPU visible"
        )
    launched = int(os.environ.get("WORLD_SIZE", "1"))
    if launched != accelerator.num_processes:
        raise DataError(
            f"{launched} processes were launched and accelerate knows of {accelerator.num_processes}: each would train "
            "a model of its own; without GPUs pass use_cpu=True in TrainingArguments"
        )
    parallel = getattr(accelerator, "parallelism_config", None)
    if parallel is not None and max(parallel.tp_size, parallel.cp_size, parallel.sp_size) > 1:
        raise DataError("tensor, context and sequence parallelism repeat rows on ranks; use data parallelism, or FSDP")
    if str(getattr(args.optim, "value", args.optim)) in _STEPPING_IN_BACKWARD:
        raise DataError(f"optim={args.optim} steps inside backward, and a step has several backwards; use adamw_torch")
    if not args.average_tokens_across_devices:
        raise DataError("average_tokens_across_devices must be True: the retain loss is a mean over all ranks")
    if trainer.budget is not None and not trainer.budget > 0.0:
        raise DataError(f"budget must be > 0 or None, got {trainer.budget}; it counts gradient samples")
    if trainer.exact_accumulation:
        _check_exact(trainer)
    trainer.order()


def _check_exact(trainer: UnlearnTrainer) -> None:
    objective = trainer.objective
    missing = [name for name in ("audits", "score", "solve", "replay") if not hasattr(objective, name)]
    if missing:
        raise DataError(
            f"exact_accumulation needs an objective with {', '.join(missing)}; the terms of {objective.name} "
            "are means over micro-batches; use exact_accumulation=False"
        )
    if tracking_layers(trainer.network):
        raise DataError(
            "exact_accumulation scores rows twice and batch-norm statistics move in between; use "
            "gradient_accumulation_steps=1 with a larger batch, or exact_accumulation=False"
        )
