"""What the pictures of docs/game-explained.md show: data, a network, the game on it, attacks and derivatives."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from amu_fast.audit import Auditor, ChanceCap, ModelOutputs, auc_interval, auditor_step, confidence
from amu_fast.followers import Logistic, SquaredHinge
from amu_fast.unlearn.game import Leader

Rows = tuple[Tensor, Tensor]
_PARTS = {"retain": (0, 300), "forget": (300, 500), "validation": (500, 900), "test": (900, 1797)}


@dataclass(frozen=True)
class Plan:
    """What is computed.

    Attributes:
        noise: Share of wrong labels, in every part: something to memorise.
        training: Steps of Adam, all rows at once.
        steps: Steps of the game.
        weight: α of equation (1).
        lr: Of the game's SGD.
        stops: Relative tolerances at which the follower stops, for the picture of the bound.
        seed: Of everything.
    """

    noise: float = 0.1
    training: int = 150
    steps: int = 200
    weight: float = 20.0
    lr: float = 0.15
    stops: tuple[float, ...] = (3e-1, 1e-1, 1e-2, 1e-3, 1e-4, 1e-6, 1e-8, 1e-10)
    seed: int = 0


def parts_of(plan: Plan) -> dict[str, Rows]:
    """The four parts: inputs in [0, 1] and labels."""
    from sklearn.datasets import load_digits

    data = load_digits()
    rng = torch.Generator().manual_seed(plan.seed)
    order = torch.randperm(len(data.target), generator=rng)
    inputs = torch.tensor(data.data, dtype=torch.float32)[order] / 16
    labels = torch.tensor(data.target)[order]
    wrong = torch.rand(len(labels), generator=rng) < plan.noise
    labels = torch.where(wrong, (labels + 1) % 10, labels)
    return {name: (inputs[a:b], labels[a:b]) for name, (a, b) in _PARTS.items()}


def original(plan: Plan, parts: dict[str, Rows]) -> nn.Module:
    """The network before unlearning, trained on retain and forget rows."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(plan.seed)
        model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
    inputs, labels = (torch.cat([parts["retain"][i], parts["forget"][i]]) for i in (0, 1))
    optimiser = torch.optim.Adam(model.parameters(), lr=1e-2)
    for _ in range(plan.training):
        optimiser.zero_grad()
        functional.cross_entropy(model(inputs), labels).backward()
        optimiser.step()
    return model


def released(model: nn.Module, rows: Rows) -> ModelOutputs:
    """What the model says of rows."""
    return ModelOutputs(model(rows[0]), rows[1])


def play(plan: Plan, model: nn.Module, parts: dict[str, Rows], cap: ChanceCap | None) -> dict[str, list[float]]:
    """Play the game on `model` in place, all rows at every step; what was seen at each."""
    leader = Leader(Auditor(), plan.weight, cap=cap)
    optimiser = torch.optim.SGD(model.parameters(), lr=plan.lr)
    seen: dict[str, list[float]] = {"payoff": [], "permuted": [], "on": [], "test": [], "validation": []}
    for _ in range(plan.steps):
        forget = confidence(released(model, parts["forget"]))
        with torch.no_grad():
            validation, test = (confidence(released(model, parts[name])) for name in ("validation", "test"))
        term, values = leader.term(forget, validation)
        for name, others in (("test", test), ("validation", validation)):
            seen[name].append(auc_interval(forget.detach().flatten().numpy(), others.flatten().numpy()).value)
        chance = values.get("permuted_payoff", torch.nan)
        for name, value in (("payoff", values["payoff"]), ("permuted", chance), ("on", values["game_on"])):
            seen[name].append(float(value))
        optimiser.zero_grad()
        (functional.cross_entropy(model(parts["retain"][0]), parts["retain"][1]) + term).backward()
        optimiser.step()
    return seen


def one_fold(sides: Sequence[Tensor], plan: Plan) -> tuple[Tensor, Tensor, Tensor]:
    """Equally many rows of both sides, members first; their labels; a mask of the seven tenths that train."""
    n = min(len(side) for side in sides)
    scores = torch.cat([side[:n] for side in sides]).detach().double()
    labels = torch.ones(2 * n, dtype=torch.int64)
    labels[n:] = -1
    train = torch.zeros(2 * n, dtype=torch.bool)
    rng = torch.Generator().manual_seed(plan.seed)
    for start in (0, n):
        train[start + torch.randperm(n, generator=rng)[: (7 * n + 5) // 10]] = True
    return scores, labels, train[None]


def attacked(scores: Tensor, labels: Tensor, train: Tensor) -> dict[str, Any]:
    """The best response on one fold, and where it draws its line in the scores' own units."""
    leaf = scores.clone().requires_grad_()
    step = auditor_step(leaf, labels, follower=SquaredHinge(l2=0.1), train_masks=train, standardize=True)
    step.value.backward()
    deviation, mean = torch.std_mean(scores[train[0]], 0, correction=0)
    w = step.params[0, 0]
    slope = w[:-1] / deviation
    return {"slope": slope, "offset": w[-1] - slope @ mean, "accuracy": float(step.accuracy[0, 0]), "grad": leaf.grad}


def derivative(members: Tensor, others: Tensor, plan: Plan) -> dict[str, Any]:
    """Both terms of dM/ds of the forget rows beside central differences of the refitted payoff; error and bound."""
    members, others = members.detach().double(), others.detach().double()
    auditor = Auditor()

    def gradient(auditor: Auditor, parts: Any = "full") -> tuple[Tensor, float]:
        leaf = members.clone().requires_grad_()
        payoff = auditor.payoff(leaf, others, parts=parts)
        payoff.value.backward()
        assert leaf.grad is not None
        return leaf.grad.flatten(), float(payoff.bounds.gradient_bound.sum())

    found: dict[str, Any] = {name: gradient(auditor, name)[0].tolist() for name in ("direct", "implicit")}
    found["differences"] = [_difference(auditor, members, others, row) for row in range(len(members))]
    logistic = [gradient(replace(auditor, follower=Logistic(l2=0.1, rtol=stop))) for stop in (*plan.stops, 1e-14)]
    exact = logistic.pop()[0]
    found["error"] = [float((grad - exact).norm() / exact.norm()) for grad, _ in logistic]
    found["bound"] = [bound / float(exact.norm()) for _, bound in logistic]
    return found


def _difference(auditor: Auditor, members: Tensor, others: Tensor, row: int, step: float = 1e-5) -> float:
    moved = [members.clone() for _ in range(2)]
    moved[0][row] += step
    moved[1][row] -= step
    up, down = (float(auditor.payoff(rows, others, parts="value").value) for rows in moved)
    return (up - down) / (2 * step)


def log_odds_and_entropy(outputs: ModelOutputs) -> Tensor:
    """(n, 2): log p_y - log(1 - p_y), and minus the entropy; any function of this kind is a score map."""
    log_p = outputs.log_probabilities().double()
    p_y = log_p.gather(1, outputs.labels[:, None])
    odds = p_y - torch.log(-torch.expm1(p_y).clamp_max(-1e-6))
    return torch.cat([odds, (log_p.exp() * log_p).sum(1, keepdim=True)], 1)
