"""What two ranks find; run with a folder. Ranks are forks, so that transformers is imported once."""

from __future__ import annotations

import os
import sys
import traceback
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

import amu_fast.unlearn  # noqa: F401

assert not {"transformers", "accelerate", "peft"} & set(sys.modules), "the library itself needs none of them"

from tiny import llama, rows, splits, trainer, update, weights  # noqa: E402

from amu_fast.integrations import AuditCallback  # noqa: E402

CASES = [(1, False), (4, False), (4, True)]


def on_rank(folder: Path, rank: int) -> dict[str, Any]:
    address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": sys.argv[2]}
    os.environ |= {**address, "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2"}
    found: dict[str, Any] = {str(case): update(folder / "steps", case[0], 2, exact=case[1]) for case in CASES}
    found["uneven"], found["weights"] = zip(*(uneven(folder, resume) for resume in (False, True)), strict=True)
    dist.barrier()
    dist.destroy_process_group()
    return found


def uneven(folder: Path, resume: bool) -> tuple[list[Any], torch.Tensor]:
    """Parts that two ranks cannot share evenly, and dropout: audits and weights after three steps, or the last one."""
    options = {"max_steps": 3, "save_strategy": "steps", "save_steps": 2, "gradient_accumulation_steps": 2}
    taught = trainer(
        folder / "uneven",
        llama(dropout=0.3),
        options={**options, "ddp_backend": "gloo"},
        splits=splits(forget=rows(9, 2), tune=rows(7, 5, people=4)),
        audit_batch_size=5,
        callbacks=[AuditCallback(2)],
    )
    taught.train(resume_from_checkpoint=str(folder / "uneven" / "checkpoint-2") if resume else None)
    assert (folder / "uneven" / "unlearn_report.json").exists() or not taught.is_world_process_zero()
    return taught.audits, weights(taught.model)


def main(folder: Path) -> int:
    pids = []
    for rank in range(2):
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                torch.save(on_rank(folder, rank), folder / f"rank-{rank}.pt")
                code = 0
            except BaseException:
                traceback.print_exc()
            finally:
                sys.stderr.flush()
                os._exit(code)
        pids.append(pid)
    return max(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) != 0 for pid in pids)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
