"""A run of the game whose state has everything in it is killed and started again, many times: a script.

It imports torch once and forks a child for each start of the run.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import signal
import sys
import time
from pathlib import Path

import numpy as np
import torch
from torch import nn
from unlearn.checkpoint_two_ranks import two_ranks
from unlearn.test_checkpoint_faults import dying

from amu_fast.audit import Auditor, ChanceCap, MemoryBank, log_likelihood
from amu_fast.unlearn.checkpoint import (
    CheckpointStore,
    capture_rng,
    model_state,
    optimizer_state,
    restore,
    restore_rng,
)
from amu_fast.unlearn.objectives import GameObjective, UnlearningBatch

STEPS, KILLS = 30, 24
BALLAST = 50_000  # parameters that only make a save as long as a step


class Classifier(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.drop, self.second = nn.Linear(5, 8), nn.Dropout(0.3), nn.Linear(8, 3)
        self.ballast = nn.Parameter(torch.zeros(BALLAST))

    def forward(self, x):
        return self.second(self.drop(self.first(x).tanh())) + self.ballast[:3]


class Run:
    """Batches come from all three global generators and from the position in a shuffled pass."""

    def __init__(self, folder: Path) -> None:
        torch.manual_seed(0)
        random.seed(0)
        np.random.seed(0)  # noqa: NPY002 (its state is part of what is tested)
        self.rows = torch.randn(60, 5), torch.randint(3, (60,))
        self.model = Classifier()
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=0.01, amsgrad=True)
        self.schedule = torch.optim.lr_scheduler.ExponentialLR(self.optimizer, 0.99)
        auditor = Auditor(scores=log_likelihood)
        self.game = GameObjective(auditor, weight=1.0, every=2, cap=ChanceCap(), bank=MemoryBank(20))
        self.order, self.at, self.step = torch.randperm(60), 0, 0
        self.store = CheckpointStore(folder, config_hash="run")
        self.trace: list[float] = []
        if self.store.latest():
            self.resume()

    def resume(self) -> None:
        checkpoint = self.store.load()
        restore(checkpoint, self.model, self.optimizer)
        state = checkpoint.state
        self.game.load_state_dict(state["game"])
        self.schedule.load_state_dict(state["schedule"])
        self.order, self.at, self.trace, self.step = state["order"], state["at"], state["trace"], checkpoint.step
        restore_rng(state["rng"])

    def train_step(self) -> None:
        if self.at + 20 > 60:
            self.order, self.at = torch.randperm(60), 0
        chosen, self.at = self.order[self.at : self.at + 20], self.at + 20
        x, y = self.rows
        noise = 0.1 * torch.from_numpy(np.random.standard_normal((20, 5))).float()  # noqa: NPY002
        parts = [{"x": x[chosen] + noise, "labels": y[chosen]}]
        for _ in range(2):
            shift = random.gauss(0.0, 1.0)
            parts.append({"x": torch.randn(12, 5) + shift, "labels": torch.randint(3, (12,))})
        self.model.train()
        self.optimizer.zero_grad()
        loss = self.game(self.model, UnlearningBatch(*parts, step=self.step)).loss
        loss.backward()
        self.optimizer.step()
        self.schedule.step()
        self.step += 1
        self.trace.append(float(loss.detach()))

    def save(self) -> None:
        self.store.save(
            self.step,
            model=model_state(self.model),
            optimizer=optimizer_state(self.model, self.optimizer),
            state={
                "game": self.game.state_dict(),
                "schedule": self.schedule.state_dict(),
                "order": self.order,
                "at": self.at,
                "trace": self.trace,
                "rng": capture_rng(),
            },
        )

    def digest(self) -> str:
        """Of all bits that the run ends with, those of the generators' next numbers included."""
        digest = hashlib.sha256(repr((self.step, self.at, self.trace, self.schedule.get_last_lr())).encode())
        moments = [v for s in self.optimizer.state_dict()["state"].values() for v in s.values()]
        bank = self.game.leader.bank
        numbers = torch.rand(3), torch.tensor([random.random()]), torch.from_numpy(np.random.random(3))  # noqa: NPY002
        for value in (*self.model.state_dict().values(), *moments, self.order, bank.members.scores, *numbers):
            digest.update(value.numpy().tobytes())
        return digest.hexdigest() + repr(self.game.leader.cap)


def child(folder: Path, out: int, die_at: int = 0) -> None:
    """Go on from the latest checkpoint, saving after every step; a line for each checkpoint that is there.

    With `die_at` it is killed when its so-manieth file or folder is forced to the disk: 5 such calls are in a save.
    """
    run = Run(folder)
    calls, fsync = 0, os.fsync

    def counted(descriptor: int) -> None:
        nonlocal calls
        calls += 1
        if calls == die_at:
            os.kill(os.getpid(), signal.SIGKILL)
        fsync(descriptor)

    os.fsync = counted
    os.write(out, b"0\n")
    while run.step < STEPS:
        run.train_step()
        run.save()
        os.write(out, f"{run.step}\n".encode())
    os.write(out, f"end {run.digest()}\n".encode())


def start(*arguments) -> tuple[int, int]:
    """Pid of a forked child, and the end of a pipe from which to read what it says."""
    read, write = os.pipe()
    pid = os.fork()
    if pid:
        os.close(write)
        return pid, read
    os.close(read)
    try:
        child(arguments[0], write, *arguments[1:])
        os._exit(0)
    except BaseException as error:
        os.write(write, f"error {error!r}\n".encode())
        os._exit(1)


def heard(pid: int, read: int) -> list[str]:
    """All that a child said, once it is gone."""
    with os.fdopen(read) as file:
        said = file.read().splitlines()
    os.waitpid(pid, 0)
    return said


def killed_often(folder: Path) -> dict[str, object]:
    rng = random.Random(1)
    # imports on first use, before the forks; also the length of a step with its save
    warm = Run(folder / "warm")
    for _ in range(2):
        began = time.perf_counter()
        warm.train_step()
        warm.save()
        pace = time.perf_counter() - began
    expected = heard(*start(folder / "never-stopped"))[-1]
    store, done, lost = CheckpointStore(folder / "killed-0"), 0, []
    half_written: set[Path] = set()
    while len(lost) < KILLS:
        kill = len(lost)
        die_at = 6 * rng.randrange(2) + rng.randint(1, 5) if kill % 3 == 0 else 0
        pid, read = start(store.folder, die_at)
        if not die_at:
            if kill % 3 == 1:  # else it is killed while it starts
                os.read(read, 2)
            time.sleep(rng.uniform(0.0, 2.5) * pace)
            os.kill(pid, signal.SIGKILL)
        said = heard(pid, read)
        if said and said[-1] == expected:  # it was over before: on to another one
            store, done = CheckpointStore(folder / f"killed-{kill}"), 0
            continue
        done = max([done, *map(int, said)])
        half_written.update(store.folder.glob(".step-*.staging"))
        latest = store.load().step if store.latest() else 0
        lost.append(done - latest)
        done = latest
    final = heard(*start(store.folder))[-1]
    left = sorted(path.name for path in store.folder.iterdir())
    inside = len(half_written)
    return {"expected": expected, "final": final, "inside": inside, "lost": lost, "left": left}


if __name__ == "__main__":
    torch.set_num_threads(1)
    where = Path(sys.argv[1])
    print(json.dumps({"killed": killed_often(where), "ranks": two_ranks(where), "dying": dying(where)}))
