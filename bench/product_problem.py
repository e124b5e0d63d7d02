"""P2's problem: one matrix of rows and what the operators over it take, with their exact results in float64."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from amu_fast.bench.cases import ProductCase
from amu_fast.bench.contender import Verdict
from amu_fast.ops import losses

L2, LOSS = 1e-2, losses.SQUARED_HINGE
#: Entries of X that become float64 at a time.
CHUNK = 2**22

Outputs = tuple[Tensor, ...]


@dataclass(frozen=True)
class ProductProblem:
    """x (n, d); c (n,), v (d,) or, with k right-hand sides, c (n, k) and v (d, k); y, t (n,); w, u (d,).

    Vectors are float32 where x is bfloat16.
    """

    case: ProductCase
    x: Tensor
    c: Tensor
    v: Tensor
    y: Tensor
    t: Tensor
    w: Tensor
    u: Tensor

    @staticmethod
    def of(case: ProductCase, device: torch.device) -> ProductProblem:
        """Gaussian rows; margins of order 1, so that the hinge has rows on both sides."""
        n, d, k = case.rows, case.columns, case.right_sides
        generator = torch.Generator().manual_seed(0)
        draw = torch.Generator(device=device).manual_seed(0)
        x = torch.empty(n, d, device=device).normal_(generator=draw).to(getattr(torch, case.dtype))
        columns = () if case.operator != "glm_hvp_multi" else (k,)
        c = torch.rand(n, *columns, generator=generator) / n
        v, w, u = (torch.randn(d, *more, generator=generator) / d**0.5 for more in (columns, (), ()))
        y = torch.where(torch.rand(n, generator=generator) < 0.5, 1.0, -1.0)
        t = torch.full((n,), 1 / n)
        return ProductProblem(case, x, *(part.to(device) for part in (c, v, y, t, w, u)))

    def compute(self, x: Tensor, rows: slice, dtype: torch.dtype) -> Outputs:
        """The operator in plain PyTorch on some rows; results per row, and sums over rows without their l2 part."""
        c, y, t = (part[rows].to(dtype) for part in (self.c, self.y, self.t))
        v, w, u = (part.to(dtype) for part in (self.v, self.w, self.u))
        if self.case.operator in ("glm_hvp", "glm_hvp_multi"):
            return (x.mT @ (c * (x @ v)),)
        m = y * (x @ w)
        slope, curvature = losses.slope(LOSS, m, 1.0), losses.curvature(LOSS, m, 1.0)
        if self.case.operator == "glm_gradient_curvature":
            c = t * curvature
            objective = (t * losses.loss(LOSS, m, 1.0)).sum()
            return objective, x.mT @ (t * y * slope), c, x.square().mT @ c
        along_w = t * curvature * (x @ u)
        return (-(torch.outer(t * y * slope, u) + torch.outer(along_w, w)),)

    def finish(self, parts: Outputs, dtype: torch.dtype) -> Outputs:
        """Add the l2 part."""
        v, w = self.v.to(dtype), self.w.to(dtype)
        if self.case.operator in ("glm_hvp", "glm_hvp_multi"):
            return (parts[0] + L2 * v,)
        if self.case.operator == "glm_gradient_curvature":
            objective, gradient, c, diagonal = parts
            return objective + L2 / 2 * w.square().sum(), gradient + L2 * w, c, diagonal + L2
        return parts

    def chunked(self, dtype: torch.dtype, size: int) -> Outputs:
        """`size` rows at a time."""
        total: list[Tensor] = []
        rows: list[list[Tensor]] = []
        for start in range(0, self.case.rows, size):
            part = slice(start, start + size)
            outputs = self.compute(self.x[part].to(dtype), part, dtype)
            for i, output in enumerate(outputs):
                if i == len(total):
                    total.append(torch.zeros_like(output))
                    rows.append([])
                if i in self.per_row:
                    rows[i].append(output)
                else:
                    total[i] += output
        joined = tuple(torch.cat(rows[i]) if i in self.per_row else value for i, value in enumerate(total))
        return self.finish(joined, dtype)

    @property
    def per_row(self) -> tuple[int, ...]:
        """Which outputs have one entry per row."""
        return {"glm_gradient_curvature": (2,), "glm_mixed_vjp": (0,)}.get(self.case.operator, ())

    @cached_property
    def exact(self) -> Outputs:
        """In float64, from the rounded inputs."""
        return self.chunked(torch.float64, max(1, CHUNK // self.case.columns))

    def errors(self, outputs: Outputs) -> list[float]:
        """Relative error of each output, in the 2-norm."""
        pairs = zip(outputs, self.exact, strict=True)
        return [float((mine.double() - true).norm() / true.norm()) for mine, true in pairs]

    @cached_property
    def reference_errors(self) -> list[float]:
        """Of PyTorch in the case's own precision."""
        dtype = self.x.dtype
        return self.errors(self.finish(self.compute(self.x, slice(None), dtype), dtype))

    def judge(self, outputs: Outputs) -> Verdict:
        """Error of the worst output, at most twice PyTorch's in the same precision (at least two roundings)."""
        floor = 2 * torch.finfo(self.x.dtype).eps
        limits = [max(2 * error, floor) for error in self.reference_errors]
        errors = self.errors(outputs)
        worst = max(range(len(errors)), key=lambda i: errors[i] / limits[i] if errors[i] == errors[i] else float("inf"))
        return Verdict(errors[worst], limits[worst])
