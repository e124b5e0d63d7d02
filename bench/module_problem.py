"""P4's problem: the damped Hessian of a small network's mean loss, and the iterates that 20 CG steps must reach.

    (H + damping I) u = b,   H = d2/dw2 mean_i cross-entropy(net(x_i; w), y_i),   u_0 = 0 or, as some peers begin, b

The labels are drawn from the network itself, which leaves H little indefinite; the damping does the rest.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

import torch
import torch.nn.functional as F  # noqa: N812 (its usual name)
from torch import Tensor, nn

from amu_fast.bench.cases import ModuleCase
from amu_fast.bench.contender import Verdict

TOLERANCE = 1e-4
CLASSES = 10
LAYERS = 4


@dataclass(frozen=True)
class ModuleProblem:
    """A network in float32, rows x (n, d), labels y (n,), and right-hand sides (p,) that calls rotate through.

    These are the gradients of quarters of the rows, as in influence unlearning.
    """

    case: ModuleCase
    net: nn.Sequential
    x: Tensor
    y: Tensor
    rhs: tuple[Tensor, ...]

    @staticmethod
    def of(case: ModuleCase, device: torch.device) -> ModuleProblem:
        """The same on every machine, up to rounding."""
        generator = torch.Generator().manual_seed(0)
        widths = [case.columns, *[case.width] * (LAYERS - 1), CLASSES]
        layers: list[nn.Module] = []
        for before, after in pairwise(widths):
            layers += [nn.Linear(before, after), nn.Tanh()]
        net = nn.Sequential(*layers[:-1])
        with torch.no_grad():
            for layer in net:
                if isinstance(layer, nn.Linear):
                    layer.weight.copy_(torch.randn(layer.weight.shape, generator=generator) * layer.in_features**-0.5)
                    layer.bias.zero_()
            x = torch.randn(case.rows, case.columns, generator=generator)
            y = torch.multinomial(net(x).softmax(-1), 1, generator=generator)[:, 0]
        sides = []
        for part in torch.arange(case.rows).chunk(4):
            gradient = torch.autograd.grad(F.cross_entropy(net(x[part]), y[part]), list(net.parameters()))
            flat = torch.cat([g.reshape(-1) for g in gradient])
            sides.append((flat / flat.norm()).to(device))
        return ModuleProblem(case, net.to(device), x.to(device), y.to(device), tuple(sides))

    @property
    def device(self) -> torch.device:
        """Of everything."""
        return self.x.device

    @property
    def parameters(self) -> list[nn.Parameter]:
        """In the order of the flat vectors."""
        return list(self.net.parameters())

    def loss(self, net: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        """The mean over rows."""
        return F.cross_entropy(net(batch[0]), batch[1])

    def functional(self, values: tuple[Tensor, ...]) -> Tensor:
        """The loss at other parameters, for peers that work on functions."""
        names = [name for name, _ in self.net.named_parameters()]
        outputs = torch.func.functional_call(self.net, dict(zip(names, values, strict=True)), (self.x,))
        return F.cross_entropy(outputs, self.y)

    def tree(self, vector: Tensor) -> tuple[Tensor, ...]:
        """A flat vector as one tensor per parameter."""
        parts = vector.split([p.numel() for p in self.parameters])
        return tuple(part.view(p.shape) for part, p in zip(parts, self.parameters, strict=True))

    @cached_property
    def flops(self) -> float:
        """Of one product with the graph kept: 12 n per weight, and 4 n in the first layer, whose input is constant."""
        weights = [p.numel() for p in self.parameters if p.dim() == 2]
        return float(self.case.rows * (12 * sum(weights) - 8 * weights[0]))

    @cached_property
    def _wide(self) -> tuple[nn.Module, Tensor]:
        net = nn.Sequential(*[type(m)(m.in_features, m.out_features) if isinstance(m, nn.Linear) else nn.Tanh()
                              for m in self.net]).to(self.device, torch.float64)  # fmt: skip
        net.load_state_dict(self.net.state_dict())
        return net, self.x.double()

    def iterate(self, number: int, start: str) -> Tensor:
        """Where textbook CG in float64 is after the case's steps."""
        net, x = self._wide
        values = list(net.parameters())
        gradient = torch.autograd.grad(F.cross_entropy(net(x), self.y), values, create_graph=True)

        def product(v: Tensor) -> Tensor:
            parts = torch.autograd.grad(gradient, values, self.tree(v), retain_graph=True)
            return torch.cat([part.reshape(-1) for part in parts]) + self.case.damping * v

        b = self.rhs[number % len(self.rhs)].double()
        return textbook(product, b, torch.zeros_like(b) if start == "zero" else b.clone(), self.case.steps)

    def judge(self, solution: Tensor, number: int, start: str) -> Verdict:
        """The distance to the float64 iterate, relative."""
        expected = self.iterate(number, start)
        error = (solution.detach().reshape(-1).double() - expected).norm() / expected.norm()
        return Verdict(float(error), TOLERANCE)


def textbook(product, b: Tensor, x: Tensor, steps: int) -> Tensor:  # type: ignore[no-untyped-def]
    """Hestenes and Stiefel's conjugate gradients, exactly so many steps; a zero start costs no product."""
    r = b - product(x) if bool(x.any()) else b.clone()
    p, rr = r.clone(), torch.dot(r, r)
    for _ in range(steps):
        hp = product(p)
        alpha = rr / torch.dot(p, hp)
        x = x + alpha * p
        r = r - alpha * hp
        before, rr = rr, torch.dot(r, r)
        p = r + (rr / before) * p
    return x
