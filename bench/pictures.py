"""`python -m amu_fast.bench.pictures`: the pictures of docs/game-explained.md, each drawn from a computation.

Handwritten digits of scikit-learn, a tenth of the labels wrong, a small network trained on 500 rows of which 200 are to
be forgotten. One run with one seed: it explains, it does not compare methods.
"""

from __future__ import annotations

import argparse
import io
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from amu_fast.audit import Auditor, ChanceCap, ModelOutputs, auc_interval, auditor_step, confidence
from amu_fast.bench.picture_panels import cap_panels, derivative_panels, follower_panel, score_panels
from amu_fast.followers import Logistic, SquaredHinge
from amu_fast.report.provenance import Provenance, plain
from amu_fast.report.writing import write_atomic
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


def one_fold(members: Tensor, others: Tensor, plan: Plan) -> tuple[Tensor, Tensor, Tensor]:
    """Equally many rows of either side, their labels, and a mask of the seven tenths that train the attack."""
    n = min(len(members), len(others))
    scores = torch.cat([members[:n], others[:n]]).detach().double()
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


def compute(plan: Plan) -> dict[str, Any]:
    """All that the pictures show."""
    parts = parts_of(plan)
    models = {name: original(plan, parts) for name in ("before", "after", "without the cap")}
    seen = {
        "with the cap": play(plan, models["after"], parts, ChanceCap()),
        "without": play(plan, models["without the cap"], parts, None),
    }
    shown: dict[str, Any] = {"cap": seen, "scores": {}}
    for name in ("before", "after"):
        with torch.no_grad():
            sides = {part: confidence(released(models[name], parts[part])) for part in ("forget", "validation", "test")}
        fold = one_fold(sides["forget"], sides["validation"], plan)
        auc = auc_interval(*(sides[part].flatten().numpy() for part in ("forget", "test")))
        shown["scores"][name] = {"sides": sides, "attack": attacked(*fold), "auc": auc}
        if name == "before":
            shown["derivative"] = derivative(sides["forget"], sides["validation"], plan)
    with torch.no_grad():
        two = [log_odds_and_entropy(released(models["before"], parts[part])) for part in ("forget", "validation")]
    fold = one_fold(*two, plan)
    shown["follower"] = {"fold": fold, "attack": attacked(*fold)}
    return shown


def record(plan: Plan, shown: dict[str, Any]) -> dict[str, Any]:
    """The figures that the page quotes."""
    scores, found = shown["scores"], shown["derivative"]
    total = torch.tensor(found["direct"]) + torch.tensor(found["implicit"])
    differences = torch.tensor(found["differences"])
    return {
        "accuracy": {name: value["attack"]["accuracy"] for name, value in scores.items()},
        "auc": {name: [value["auc"].value, value["auc"].low, value["auc"].high] for name, value in scores.items()},
        "largest_difference": float((total - differences).abs().max() / differences.abs().max()),
        "share_implicit": float(torch.tensor(found["implicit"]).norm() / total.norm()),
        "first_step_off": next((i for i, on in enumerate(shown["cap"]["with the cap"]["on"]) if not on), None),
        "steps_on": int(sum(shown["cap"]["with the cap"]["on"])),
        "last_auc": {
            name: {side: seen[side][-1] for side in ("test", "validation")} for name, seen in shown["cap"].items()
        },
        "stops": list(plan.stops),
        "error": found["error"],
        "bound": found["bound"],
        "provenance": plain(Provenance.collect(plan)),
    }


def markdown(found: dict[str, Any]) -> str:
    """The record for readers."""
    accuracy, auc, last = found["accuracy"], found["auc"], found["last_auc"]
    before, after = (
        f"{accuracy[name]:.0%} | {auc[name][0]:.2f} [{auc[name][1]:.2f}, {auc[name][2]:.2f}]" for name in auc
    )
    sides = {name: f"{last[name]['test']:.3f} | {last[name]['validation']:.3f}" for name in last}
    return f"""\
| | attack right on held-out rows | AUC of p_y, forget against test |
| --- | --- | --- |
| before the game | {before} |
| after it | {after} |

Largest difference between formula and central difference: {found["largest_difference"]:.0e} of the largest entry. Share of
the implicit term in the gradient's norm: {found["share_implicit"]:.2f}. The cap stops the game first at step
{found["first_step_off"]} and lets it play {found["steps_on"]} steps in all.

| at the end | AUC against test rows | AUC against the game's own rows |
| --- | --- | --- |
| with the cap | {sides["with the cap"]} |
| without | {sides["without"]} |

One run, one seed: intervals (DeLong, 95 %) are over rows, for this model only.
"""


def svg(figure: Any) -> bytes:
    """The figure as SVG; equal inputs give equal bytes."""
    import matplotlib as mpl

    buffer = io.BytesIO()
    with mpl.rc_context({"svg.hashsalt": "amu_fast", "svg.fonttype": "none"}):
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    return buffer.getvalue()


def main(arguments: Sequence[str] | None = None) -> int:
    """Compute and draw: about ten seconds."""
    parser = argparse.ArgumentParser(prog="python -m amu_fast.bench.pictures", description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("out/pictures"), help="folder of the record")
    parser.add_argument("--images", type=Path, help="folder of the pictures (default: the record's)")
    options = parser.parse_args(arguments)
    plan = Plan()
    shown = compute(plan)
    images = options.out if options.images is None else options.images
    for name, draw in (("scores", score_panels), ("follower", follower_panel), ("derivative", derivative_panels),
                       ("cap", cap_panels)):  # fmt: skip
        write_atomic(images / f"game-{name}.svg", svg(draw(shown, plan.stops)))
    found = record(plan, shown)
    write_atomic(options.out / "pictures.md", markdown(found).encode())
    write_atomic(options.out / "pictures.json", (json.dumps(found, indent=1) + "\n").encode())
    print(markdown(found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
