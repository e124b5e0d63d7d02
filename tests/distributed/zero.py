"""The game on two ranks whose parameters DeepSpeed shards, from a process that may fork; needs a folder as argument."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

os.environ["DS_ACCELERATOR"] = "cpu"

import deepspeed
import torch
import training
from ranks import ended, forked, join
from training import Case

from amu_fast.unlearn.objectives import GameObjective, UnlearningBatch

CASE = Case()
SIZE = 2


def sharded(folder: Path, stage: int, rank: int) -> dict[str, Any]:
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(SIZE)}
    join(folder, rank, SIZE)
    # else it compiles an extension for shared memory first
    sys.modules["deepspeed.comm.torch"].build_shm_op = lambda: None
    deepspeed.init_distributed("gloo")
    plain = training.network(CASE)
    engine, *_ = deepspeed.initialize(
        model=plain,
        optimizer=torch.optim.SGD(plain.parameters(), lr=training.RATE, momentum=training.MOMENTUM),
        config={
            "train_micro_batch_size_per_gpu": 1,
            "gradient_clipping": 0.0,
            "zero_optimization": {"stage": stage, "stage3_param_persistence_threshold": 0},
            "zero_allow_untested_optimizer": True,
        },
    )
    objective: GameObjective = training.objective_of(CASE)
    history = []
    for step in range(3):
        parts = training.own(CASE, training.whole_batch(CASE, step), step, rank, SIZE)
        terms = objective(engine, UnlearningBatch(**parts, step=step))
        engine.backward(terms.loss)
        engine.step()
        history.append(training.means(terms.values))
    tensors = []
    for parameter in engine.parameters():
        with deepspeed.zero.GatheredParameters([parameter]):
            tensors.append(parameter.detach().flatten().clone())
    return {"parameters": torch.cat(tensors), "history": history}


def main(folder: Path) -> None:
    single = Case(dtype=torch.float32)
    codes = ended(
        [
            forked(lambda: training.run(CASE, "none", 0, 1), folder / "one.pt"),
            forked(lambda: training.run(single, "none", 0, 1), folder / "single.pt"),
        ]
    )
    for stage in (1, 3):
        meeting = folder / str(stage)
        meeting.mkdir()
        codes += ended(
            [
                forked(lambda r=rank, s=stage, m=meeting: sharded(m, s, r), meeting / f"{rank}.pt")
                for rank in range(SIZE)
            ]
        )
    (folder / "codes.json").write_text(json.dumps(codes))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
