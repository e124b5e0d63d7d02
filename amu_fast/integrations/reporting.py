"""A trainer's run as plain values and as a report."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import is_dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

from torch import nn

from amu_fast.integrations.audits import Audit
from amu_fast.report.provenance import Provenance, plain
from amu_fast.report.report import AttackRecord, Cost, MethodRecord, Metric, Report
from amu_fast.unlearn.objectives import GameObjective, Objective

if TYPE_CHECKING:
    from amu_fast.integrations.trainer import UnlearnTrainer

REPORT_FILE = "unlearn_report.json"
_ARGUMENTS = (
    "learning_rate", "weight_decay", "adam_beta1", "adam_beta2", "adam_epsilon", "max_grad_norm", "lr_scheduler_type",
    "warmup_steps", "optim", "per_device_train_batch_size", "gradient_accumulation_steps", "max_steps",
    "num_train_epochs", "bf16", "fp16", "activation_checkpointing", "label_smoothing_factor", "world_size",
)  # fmt: skip


def objective_config(objective: Objective) -> dict[str, Any]:
    """The options of an objective as plain values; not what it has learned since."""
    if is_dataclass(objective):
        return {key: value for key, value in plain(objective).items() if key != "group"}
    config: dict[str, Any] = {"type": type(objective).__name__, "name": objective.name}
    if isinstance(objective, GameObjective):
        leader = objective.leader
        cap = None if leader.cap is None else {"decay": leader.cap.decay, "warmup": leader.cap.warmup}
        bank = None if leader.bank is None else leader.bank.capacity
        config |= {"auditor": plain(objective.auditor), "weight": leader.weight, "every": objective.every}
        config |= {"parts": leader.parts, "cap": cap, "bank": bank}
    return config


def config_of(trainer: UnlearnTrainer) -> dict[str, Any]:
    """What a run depends on besides the weights and rows it was given."""
    arguments = {name: getattr(trainer.args, name) for name in _ARGUMENTS if hasattr(trainer.args, name)}
    rows = {name: len(getattr(trainer.splits, name)) for name in ("retain", "forget", "validation")}
    return {
        "objective": objective_config(trainer.objective),
        "seed": trainer.args.seed,
        "rows": rows,
        "audit_batch_size": trainer.audit_batch_size,
        "exact_accumulation": trainer.exact_accumulation,
        "model": _kind(trainer.network),
        **{
            name: str(value) if not isinstance(value, (bool, int, float)) else value
            for name, value in arguments.items()
        },
    }


def report_of(trainer: UnlearnTrainer, metrics: Mapping[str, Metric | None], seconds: float) -> Report:
    """The record of a run so far; the last audit of each attack is in it."""
    config = config_of(trainer)
    used = trainer.recorder.read
    budget = used if trainer.budget is None else trainer.budget
    provenance = Provenance.collect(config)
    latest = {(audit.attack, audit.against): audit for audit in trainer.audits}
    return Report(
        MethodRecord(trainer.objective.name, {**config, "audits": [a.config() for a in trainer.audit_callbacks]}),
        trainer.args.seed,
        trainer.recorder.columns(),
        Cost(used, budget, seconds, trainer.state.global_step, trainer.stopped),
        replace(provenance, versions={**provenance.versions, **_versions()}),
        metrics=metrics,
        attacks=tuple(_attack(audit) for audit in latest.values()),
    )


def _attack(audit: Audit) -> AttackRecord:
    name, (members, nonmembers) = f"{audit.attack} against {audit.against}", audit.auc.sizes
    return AttackRecord(name, audit.auc, {}, members, nonmembers, audit.in_game)


def _versions() -> dict[str, str]:
    found = {}
    for name in ("transformers", "accelerate", "peft"):
        with suppress(PackageNotFoundError):
            found[name] = version(name)
    return found


def _kind(model: nn.Module) -> str:
    inner: Any = model
    adapter = getattr(inner, "active_peft_config", None)
    base = inner if adapter is None else inner.get_base_model()
    suffix = "" if adapter is None else f" with {adapter.peft_type.value}"
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    return f"{type(base).__name__}{suffix}, {trained} trained weights"
