"""Sequences of deletion requests: a queue whose state lies on disk, each request with its own report.

DIR/queue.json               what the queue is about and its requests, in order, with their states
DIR/requests/0001/           what `Result.save` writes: model, report, figures; complete once its request is done
DIR/.lock                    held by the process that works on the queue

A request starts from the model that the one before it left. Whatever stops the process, requests that are done stay
done, and the one that was under way is done again from its start, with the same bits on the CPU.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from amu_fast.audit.attacks import LossThreshold, Outputs
from amu_fast.audit.intervals import accuracy_interval
from amu_fast.errors import DataError
from amu_fast.report import codec
from amu_fast.report.provenance import config_hash, hash_rows
from amu_fast.report.report import Metric
from amu_fast.report.writing import write_atomic
from amu_fast.rows import Rows
from amu_fast.unlearn.api import unlearn
from amu_fast.unlearn.request_state import DeletionRequest, QueueState
from amu_fast.unlearn.result import MODEL_FILE, Result

if TYPE_CHECKING:
    from amu_fast.protocols import Method

STATE_FILE, LOCK_FILE, FOLDER = "queue.json", ".lock", "requests"


@dataclass(frozen=True, eq=False)
class DeletionQueue:
    """Deletion requests on one trained model.

    Args:
        directory: Where the state lies; made if missing, continued if there is one of the same data, method and seed.
        model: The model as it was trained, before any request. Left unchanged.
        training: Its training rows, all of them: a tuple of tensors, a map-style data set or a DataLoader.
        validation: Rows never trained on, for the method.
        test: Rows for the figures only.
        method: Any object with `unlearn(model, splits, seed=)`.
        seed: Of the first request.

    Raises:
        DataError: The folder is another queue's or is damaged, or unusable rows.
    """

    directory: Path
    model: nn.Module
    training: Any
    validation: Any
    test: Any
    method: Method
    seed: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "directory", Path(self.directory))
        rows = Rows.of(self.training, "training")
        fresh = QueueState(self.seed, hash_rows(rows), config_hash(self.method))
        path = self.directory / STATE_FILE
        if not path.exists():
            write_atomic(path, codec.dumps(fresh, QueueState.SCHEMA).encode())
            return
        found = self.state
        for name in ("seed", "data", "method"):
            if getattr(found, name) != getattr(fresh, name):
                raise DataError(
                    f"{path} belongs to a queue with another {name} ({getattr(found, name)}, here "
                    f"{getattr(fresh, name)}); use another directory"
                )

    @property
    def state(self) -> QueueState:
        """The state on disk."""
        path = self.directory / STATE_FILE
        try:
            return codec.loads(path.read_bytes(), QueueState, QueueState.SCHEMA)
        except OSError as error:
            raise DataError(f"cannot read {path}: {error.strerror}") from error
        except DataError as error:
            raise DataError(f"{path}: {error}") from error

    @property
    def pending(self) -> tuple[DeletionRequest, ...]:
        """Requests that wait, in order."""
        return tuple(request for request in self.state.requests if request.finished is None)

    def submit(self, name: str, rows: Sequence[int] | Tensor) -> DeletionRequest:
        """Put a request into the queue; it is on disk when this returns.

        Raises:
            DataError: A name that is taken, no rows, rows outside the training data, twice, or requested before.
        """
        numbers = tuple(int(row) for row in (rows.tolist() if isinstance(rows, Tensor) else rows))
        with self._locked():
            state = self.state
            self._check(name, numbers, state)
            request = DeletionRequest(name, numbers, _now())
            self._write(replace(state, requests=(*state.requests, request)))
        return request

    def process(self, limit: int | None = None, *, figures: bool = True) -> tuple[Result, ...]:
        """Do the waiting requests, oldest first, at most `limit` of them; each is written before the next starts.

        Each report has, beside what `unlearn` measures, the accuracy and the loss attack's AUC on the rows of all
        requests so far ("all_forgotten_accuracy", "all_forgotten_loss_auc"): a later request must not bring back what
        an earlier one took out.

        Raises:
            DataError: Another process works on this queue, or unusable data.
            SolveError: A run diverged; its request and those behind it still wait.
        """
        done: list[Result] = []
        with self._locked():
            while limit is None or len(done) < limit:
                state = self.state
                waiting = [k for k, request in enumerate(state.requests) if request.finished is None]
                if not waiting:
                    break
                done.append(self._do(state, waiting[0], figures))
        return tuple(done)

    def current_model(self) -> nn.Module:
        """The model after all requests that are done."""
        finished = [k for k, request in enumerate(self.state.requests) if request.finished is not None]
        return self._model_after(finished[-1] if finished else None)

    def folder(self, number: int) -> Path:
        """Of request `number`, from 0."""
        return self.directory / FOLDER / f"{number + 1:04d}"

    def _do(self, state: QueueState, number: int, figures: bool) -> Result:
        rows = Rows.of(self.training, "training")
        before = torch.tensor([r for request in state.requests[:number] for r in request.rows], dtype=torch.int64)
        forget = torch.tensor(state.requests[number].rows, dtype=torch.int64)
        kept = torch.ones(len(rows), dtype=torch.bool)
        kept[before], kept[forget] = False, False
        model = self._model_after(number - 1 if number else None)
        result = unlearn(
            model,
            retain=rows.take(kept.nonzero().flatten(), "retain"),
            forget=rows.take(forget, "forget"),
            validation=self.validation,
            test=self.test,
            method=self.method,
            seed=state.seed + number,
        )
        result = self._measured(result, rows.take(torch.cat([before, forget]), "forgotten"))
        result.save(self.folder(number), figures=figures)
        finished = replace(state.requests[number], finished=_now())
        self._write(replace(state, requests=(*state.requests[:number], finished, *state.requests[number + 1 :])))
        return result

    def _measured(self, result: Result, forgotten: Rows) -> Result:
        members, others = Outputs.of_model(result.model, forgotten), Outputs.of_model(result.model, self.test)
        metrics = {
            "all_forgotten_accuracy": Metric.of(accuracy_interval(members.correct)),
            "all_forgotten_loss_auc": Metric.of(LossThreshold().run((members, others)).auc),
        }
        return replace(result, report=replace(result.report, metrics={**result.report.metrics, **metrics}))

    def _model_after(self, number: int | None) -> nn.Module:
        model = deepcopy(self.model)
        if number is None:
            return model
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        path = self.folder(number) / MODEL_FILE
        try:
            model.load_state_dict(load_file(path))
        except (OSError, SafetensorError, RuntimeError) as error:
            raise DataError(f"{path}, the model after request {number + 1}, cannot be loaded: {error}") from error
        return model

    def _check(self, name: str, rows: tuple[int, ...], state: QueueState) -> None:
        size = len(Rows.of(self.training, "training"))
        if any(request.name == name for request in state.requests):
            raise DataError(f"the queue has a request {name!r} already; give each its own name")
        if not rows:
            raise DataError(f"request {name!r} names no row")
        outside = [row for row in rows if not 0 <= row < size]
        if outside or len(set(rows)) < len(rows):
            raise DataError(
                f"request {name!r}: rows must be distinct and lie in 0 to {size - 1}, got {outside or rows}"
            )
        taken = {row: request.name for request in state.requests for row in request.rows}
        again = [row for row in rows if row in taken]
        if again:
            raise DataError(f"request {name!r}: row {again[0]} is in request {taken[again[0]]!r} already; leave it out")
        if len(taken) + len(rows) >= size:
            raise DataError(f"request {name!r} would leave no training row; retraining from nothing is not unlearning")

    def _write(self, state: QueueState) -> None:
        write_atomic(self.directory / STATE_FILE, codec.dumps(state, QueueState.SCHEMA).encode())

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """One process at a time; the system lets go of the lock when its holder dies."""
        import fcntl

        path = self.directory / LOCK_FILE
        with path.open("a") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise DataError(f"another process works on the queue in {self.directory}; wait for it") from error
            yield


def _now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="seconds")
