"""Module operators on two ranks, plain, wrapped in DDP and sharded by FSDP2; run with a folder as argument.

Ranks are forks, made before autograd has threads; each leaves what it found in a file.
"""

from __future__ import annotations

import os
import sys
import traceback
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist
from linalg import networks as nets
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel

from amu_fast.errors import DataError
from amu_fast.linalg import (
    ConjugateGradient,
    CrossEntropy,
    DampedOperator,
    EmpiricalFisherOperator,
    GaussNewtonOperator,
    HessianOperator,
)

#: Rows of the two ranks' batches: uneven on purpose.
SHARES = ((4, 3), (2, 2))


def batches(rank):
    pieces = nets.micro(nets.rows(), *SHARES[0], *SHARES[1])
    return pieces[:2] if rank == 0 else pieces[2:]


def operators(model, mine, mode):
    def outputs(model, batch):
        return model(batch[0])

    return {
        "hessian": HessianOperator(model, nets.loss, mine, mode=mode),
        "gauss-newton": GaussNewtonOperator(model, outputs, CrossEntropy(labels=lambda b: b[1]), mine, mode=mode),
        "fisher": EmpiricalFisherOperator(model, nets.losses, mine, mode=mode),
    }


def refusal(build):
    try:
        build()
    except DataError as error:
        return str(error)
    return ""


def on_rank(rank):
    found = {}
    mine, model = batches(rank), nets.mlp()
    v = nets.normal(sum(p.numel() for p in model.parameters()), seed=3)
    wrapped = DistributedDataParallel(nets.mlp())
    for mode in ("double_backward", "jvp", "finite_difference"):
        for label, subject in (("plain", model), ("ddp", wrapped)):
            for name, operator in operators(subject, mine, mode).items():
                found[f"{name} {mode} {label}"] = operator.matvec(v)
    operator = DampedOperator(operators(model, mine, "double_backward")["gauss-newton"], 0.1)
    found["solution"] = ConjugateGradient(rtol=1e-10).solve(operator, v).raise_for_status().value
    found["alone"] = HessianOperator(model, nets.loss, mine, group=None).matvec(v)
    sharded = nets.mlp()
    fully_shard(sharded, mesh=init_device_mesh("cpu", (2,)))
    before = [p.to_local().clone() for p in sharded.parameters()]
    for name, operator in operators(sharded, mine, "finite_difference").items():
        found[f"{name} sharded"] = operator.matvec(v)
    found["restored"] = all(
        torch.equal(p.to_local(), b) and p.grad is None for p, b in zip(sharded.parameters(), before, strict=True)
    )
    found["refused"] = refusal(lambda: HessianOperator(sharded, nets.loss, mine))
    found["uneven"] = refusal(lambda: HessianOperator(sharded, nets.loss, mine[: 2 - rank], mode="finite_difference"))
    operator = HessianOperator(sharded, nets.loss, mine, mode="finite_difference")
    with torch.no_grad():
        sharded[0].weight.mul_(1.5)
    found["stale"] = refusal(lambda: operator.matvec(v))
    return found


def main(folder):
    pids = []
    for rank in range(2):
        pid = os.fork()
        if pid:
            pids.append(pid)
            continue
        code = 1
        try:
            dist.init_process_group("gloo", f"file://{folder}/meeting", timedelta(seconds=60), 2, rank)
            torch.save(on_rank(rank), folder / f"{rank}.pt")
            dist.destroy_process_group()
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(code)
    return max(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids)


if __name__ == "__main__":
    torch.set_num_threads(1)
    sys.exit(main(Path(sys.argv[1])))
