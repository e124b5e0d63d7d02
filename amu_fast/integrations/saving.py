"""Trainer's saving, made whole: see `amu_fast.integrations.checkpoints`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn
from transformers import Trainer
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR, rotate_checkpoints

from amu_fast.audit.intervals import Interval
from amu_fast.integrations.audits import Audit
from amu_fast.integrations.checkpoints import clear_staging, seal, staging_of
from amu_fast.integrations.reporting import config_of

if TYPE_CHECKING:
    from amu_fast.integrations.trainer import UnlearnTrainer

# a run may go on for longer than it was meant to
_MAY_DIFFER = ("max_steps", "num_train_epochs")


class SavesWhole(Trainer):
    """The part of `UnlearnTrainer` that writes checkpoints."""

    _staging: Path | None = None

    def _get_output_dir(self, trial: Any) -> str:
        return super()._get_output_dir(trial) if self._staging is None else str(self._staging)

    def _push_from_checkpoint(self, checkpoint_folder: str) -> None:
        if self._staging is None:
            super()._push_from_checkpoint(checkpoint_folder)

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        """Write Trainer's files into a hidden folder, seal it and rename it; all ranks return together."""
        mine: Any = self
        run = Path(self._get_output_dir(trial))
        path = run / f"{PREFIX_CHECKPOINT_DIR}-{self.state.global_step}"
        staging = staging_of(path)
        if self.args.should_save:
            run.mkdir(parents=True, exist_ok=True)
            clear_staging(run)
        self.accelerator.wait_for_everyone()
        mine.recorder.flush()
        self._staging = staging
        try:
            super()._save_checkpoint(model, trial)
        finally:
            self._staging = None
        self.accelerator.wait_for_everyone()
        if self.args.should_save:
            written = staging / path.name
            self._name_best(run, written)
            seal(written, path, identity(config_of(mine)), state_of(mine))
            staging.rmdir()
            rotate_checkpoints(str(run), self.args.save_total_limit, self.state.best_model_checkpoint, use_mtime=True)
        self.accelerator.wait_for_everyone()
        if self.args.push_to_hub:
            self._push_from_checkpoint(str(path))

    def _name_best(self, run: Path, written: Path) -> None:
        """Trainer looked for the best checkpoint in the hidden folder."""
        if self.state.best_global_step:
            best = run / f"{PREFIX_CHECKPOINT_DIR}-{self.state.best_global_step}"
            if best.exists() or best.name == written.name:
                self.state.best_model_checkpoint = str(best)
                self.state.save_to_json(str(written / TRAINER_STATE_NAME))


def identity(config: Mapping[str, Any]) -> dict[str, Any]:
    """What must be the same when a run goes on."""
    return {name: value for name, value in config.items() if name not in _MAY_DIFFER}


def state_of(trainer: UnlearnTrainer) -> dict[str, Any]:
    """What the checkpoint holds beyond Trainer's own."""
    return {
        "step": trainer.state.global_step,
        "objective": trainer.objective.state_dict(),
        "recorder": trainer.recorder.state_dict(),
        "audits": [asdict(audit) for audit in trainer.audits],
        "first_guesses": trainer.first_guesses,
        "seconds": trainer.seconds,
    }


def load_state(trainer: UnlearnTrainer, state: Mapping[str, Any]) -> None:
    """Put it back."""
    trainer.objective.load_state_dict(state["objective"])
    trainer.recorder.load_state_dict(state["recorder"])
    trainer.audits = [Audit(**{key: _whole(value) for key, value in audit.items()}) for audit in state["audits"]]
    trainer.first_guesses = dict(state["first_guesses"])
    trainer.seconds = float(state["seconds"])


def _whole(value: Any) -> Any:
    return Interval(**value) if isinstance(value, Mapping) else value
