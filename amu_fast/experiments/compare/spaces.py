"""What is searched of each method in the comparison, and the point where its search begins.

Every method has two searched numbers (one where it has no more) and starts from its authors' constants as far as they
fit; momentum, decay and schedules are those of its class. Third parties add a space by an entry point of the group
`amu_fast.spaces` whose object is a `Space`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from importlib.metadata import entry_points
from typing import Any

from amu_fast.errors import DataError
from amu_fast.experiments.tasks import Task
from amu_fast.unlearn import methods as m
from amu_fast.unlearn.adversarial import Perturbation
from amu_fast.unlearn.optimise import Sgd
from amu_fast.unlearn.plugins import loaded

SPACES = "amu_fast.spaces"

Parameters = Mapping[str, float]
Build = Callable[[Parameters, float, Task], Any]


@dataclass(frozen=True)
class Axis:
    """One searched number, on a log scale.

    Attributes:
        low: Smallest, > 0.
        high: Largest.
        whole: Whole numbers only.
        most: A value that it may not pass when it is doubled, if there is one.
    """

    low: float
    high: float
    whole: bool = False
    most: float = float("inf")

    def __post_init__(self) -> None:
        if not 0.0 < self.low < self.high:
            raise DataError(f"an axis needs 0 < low < high, got {self.low} and {self.high}")


@dataclass(frozen=True)
class Space:
    """A method with what is searched of it.

    Attributes:
        name: Row of the table.
        title: As it is printed.
        build: From parameters, budget in retain-set sizes and task to a method.
        axes: By parameter.
        start: The first configuration.
        weight: The parameter whose half and double are tried afterwards: how strongly it unlearns.
        needs: Retain-set sizes below which the method cannot run, as a function of the task.
    """

    name: str
    title: str
    build: Build
    axes: Mapping[str, Axis]
    start: Parameters
    weight: str
    needs: Callable[[Task], float] = lambda task: 0.0

    def __post_init__(self) -> None:
        if set(self.start) != set(self.axes) or self.weight not in self.axes:
            raise DataError(f"{self.name}: start and weight must name its axes {sorted(self.axes)}, got {self.start}")

    def affordable(self, share: float, task: Task) -> bool:
        """Whether the budget pays for a run at all."""
        return share * task.epochs >= self.needs(task)


def retain_rows(task: Task) -> int:
    """About how many rows stay."""
    return task.train - task.forget


def _passes(p: Parameters, epochs: float, task: Task) -> float:
    """A budget that ends after `passes` over the forget rows, if it lasts that long."""
    return min(epochs, p["passes"] * task.forget / retain_rows(task))


def _fine_tune(p: Parameters, epochs: float, task: Task) -> m.FineTune:
    return m.FineTune(epochs=epochs, optimiser=Sgd(lr=p["lr"]), batch_size=round(p["batch"]))


def _ascent(p: Parameters, epochs: float, task: Task) -> m.GradientAscent:
    sgd = Sgd(lr=p["lr"], schedule="constant")
    return m.GradientAscent(epochs=_passes(p, epochs, task), optimiser=sgd, batch_size=task.unlearn_batch)


def _neg_grad_plus(p: Parameters, epochs: float, task: Task) -> m.NegGradPlus:
    share, sgd = 1.0 / (1.0 + p["forget_weight"]), Sgd(lr=p["lr"], momentum=0.0, clip=1.0)
    return m.NegGradPlus(epochs=epochs, retain_share=share, optimiser=sgd, batch_size=task.unlearn_batch)


def _random_labels(p: Parameters, epochs: float, task: Task) -> m.RandomLabels:
    return m.RandomLabels(epochs=epochs, optimiser=Sgd(lr=p["lr"]), batch_size=round(p["batch"]))


def _l1_sparse(p: Parameters, epochs: float, task: Task) -> m.L1Sparse:
    return m.L1Sparse(epochs=epochs, weight=p["weight"], optimiser=Sgd(lr=p["lr"]), batch_size=task.unlearn_batch)


def _fisher(p: Parameters, epochs: float, task: Task) -> m.FisherForgetting:
    return m.FisherForgetting(epochs=min(epochs, 1.0), alpha=p["alpha"])


def _influence(p: Parameters, epochs: float, task: Task) -> m.Influence:
    return m.Influence(
        epochs=epochs, scale=p["scale"], damping=p["damping"], curvature_rows=_CURVATURE_ROWS, accept_unsolved=True
    )


def _scrub(rewind: bool) -> Build:
    def build(p: Parameters, epochs: float, task: Task) -> m.Scrub:
        rows = task.unlearn_batch
        plain = m.Scrub(
            epochs=epochs,
            distillation=p["distillation"],
            optimiser=Sgd(lr=p["lr"]),
            batch_size=rows,
            forget_batch_size=rows,
        )
        if not rewind:
            return plain
        return replace(plain, rewind=True, rounds=5, max_rounds=3, retain_share=1.0, name="scrub_r")

    return build


def _salun(p: Parameters, epochs: float, task: Task) -> m.SalUn:
    sgd = Sgd(lr=p["lr"])
    return m.SalUn(epochs=epochs, share=min(1.0, p["share"]), optimiser=sgd, batch_size=task.unlearn_batch)


def _ssd(p: Parameters, epochs: float, task: Task) -> m.SelectiveDampening:
    return m.SelectiveDampening(epochs=min(epochs, 1.5), selection=p["selection"], dampening=p["dampening"])


def _regun(p: Parameters, epochs: float, task: Task) -> m.ReGUn:
    weight, sgd = p["odds"] / (1.0 + p["odds"]), Sgd(lr=p["lr"], weight_decay=0.0)
    return m.ReGUn(epochs=epochs, weight=weight, optimiser=sgd, batch_size=task.unlearn_batch)


def _msg(p: Parameters, epochs: float, task: Task) -> m.Msg:
    sgd = Sgd(lr=p["lr"], schedule="linear", warmup=0.3)
    return m.Msg(epochs=epochs, share=min(0.99, p["share"]), optimiser=sgd, batch_size=task.unlearn_batch)


def _moments(p: Parameters, epochs: float, task: Task) -> m.ScoreMomentMatching:
    return m.ScoreMomentMatching(
        epochs=epochs, weight=p["weight"], optimiser=_without_momentum(p), batch_size=task.unlearn_batch
    )


def _amun(p: Parameters, epochs: float, task: Task) -> m.Amun:
    search = Perturbation(radius=p["radius"], steps=10)
    return m.Amun(epochs=epochs, perturbation=search, optimiser=Sgd(lr=p["lr"]), batch_size=task.unlearn_batch)


def _eu_k(p: Parameters, epochs: float, task: Task) -> m.EuK:
    sgd = replace(m.EuK().optimiser, lr=p["lr"])
    return m.EuK(epochs=epochs, k=round(p["k"]), optimiser=sgd, batch_size=task.unlearn_batch)


def _cf_k(p: Parameters, epochs: float, task: Task) -> m.CfK:
    sgd = replace(m.CfK().optimiser, lr=p["lr"])
    return m.CfK(epochs=epochs, k=round(p["k"]), optimiser=sgd, batch_size=task.unlearn_batch)


def _zs_pag(p: Parameters, epochs: float, task: Task) -> m.ZsPag:
    """Stand-ins may take half of the budget, up to 40 gradients a forget row; training then takes `passes`."""
    rows = task.forget / retain_rows(task)
    search = min(0.5 * epochs, 40.0 * rows)
    budget = search + min(epochs - search, p["passes"] * rows)
    sgd = Sgd(lr=p["lr"], weight_decay=0.0)
    return m.ZsPag(
        epochs=budget,
        perturbation=Perturbation(radius=1.0, steps=10),
        search_share=search / budget,
        optimiser=sgd,
        batch_size=task.unlearn_batch,
    )


def _game(p: Parameters, epochs: float, task: Task) -> m.Stackelberg:
    return m.Stackelberg(
        epochs=epochs, weight=p["weight"], optimiser=_without_momentum(p), batch_size=task.unlearn_batch
    )


def _published(p: Parameters, epochs: float, task: Task) -> m.Stackelberg:
    plain = m.Stackelberg.as_published()
    return replace(plain, epochs=epochs, weight=p["weight"], optimiser=Sgd(lr=p["lr"]), batch_size=task.unlearn_batch)


def _without_momentum(p: Parameters) -> Sgd:
    """A pull towards equal scores must not persist into later steps, when its sign may have changed."""
    return Sgd(lr=p["lr"], momentum=0.0)


_CURVATURE_ROWS = 256
_RATE = Axis(0.003, 0.3)
_BATCH = Axis(32, 128, whole=True)
_LAYERS = Axis(1, 3, whole=True)


def _gradients_twice(task: Task) -> float:
    """Two gradients of every forget row and one batch more."""
    return (2.0 * task.forget + 2.0 * 128) / retain_rows(task)


def _one_product(task: Task) -> float:
    """All gradients once, and a few products with the curvature."""
    return (task.train + 16.0 * _CURVATURE_ROWS) / retain_rows(task)


OURS = (
    Space(
        "fine_tune", "fine-tuning", _fine_tune, {"lr": Axis(0.02, 0.5), "batch": _BATCH}, {"lr": 0.1, "batch": 64}, "lr"
    ),
    Space(
        "gradient_ascent",
        "gradient ascent",
        _ascent,
        {"lr": Axis(1e-5, 1e-2), "passes": Axis(1, 10)},
        {"lr": 1e-4, "passes": 5},
        "lr",
    ),
    Space(
        "neg_grad_plus",
        "NegGrad+",
        _neg_grad_plus,
        {"lr": Axis(0.05, 1.0), "forget_weight": Axis(0.02, 2.0)},
        {"lr": 0.3, "forget_weight": 0.2},
        "forget_weight",
    ),
    Space(
        "random_labels",
        "random labels",
        _random_labels,
        {"lr": _RATE, "batch": _BATCH},
        {"lr": 0.01, "batch": 64},
        "lr",
    ),
    Space(
        "l1_sparse",
        "l1-sparse",
        _l1_sparse,
        {"lr": Axis(0.01, 0.5), "weight": Axis(1e-6, 2e-3)},
        {"lr": 0.05, "weight": 5e-4},
        "weight",
    ),
    Space("fisher", "Fisher forgetting", _fisher, {"alpha": Axis(1e-9, 1e-5)}, {"alpha": 1e-6}, "alpha"),
    Space(
        "influence",
        "influence",
        _influence,
        {"scale": Axis(0.1, 10.0), "damping": Axis(0.01, 1.0)},
        {"scale": 1.0, "damping": 0.1},
        "scale",
        _one_product,
    ),
    Space(
        "scrub",
        "SCRUB",
        _scrub(False),
        {"lr": Axis(1e-4, 0.03), "distillation": Axis(1e-3, 1.0)},
        {"lr": 5e-4, "distillation": 1e-3},
        "lr",
    ),
    Space(
        "scrub_r",
        "SCRUB+R",
        _scrub(True),
        {"lr": Axis(1e-4, 0.03), "distillation": Axis(1e-3, 1.0)},
        {"lr": 5e-4, "distillation": 0.5},
        "lr",
    ),
    Space(
        "salun",
        "SalUn",
        _salun,
        {"lr": _RATE, "share": Axis(0.05, 1.0, most=1.0)},
        {"lr": 0.013, "share": 0.5},
        "lr",
    ),
    Space(
        "ssd",
        "SSD",
        _ssd,
        {"selection": Axis(1.0, 100.0), "dampening": Axis(0.1, 3.0)},
        {"selection": 10.0, "dampening": 1.0},
        "dampening",
        _gradients_twice,
    ),
    Space("regun", "ReGUn", _regun, {"lr": _RATE, "odds": Axis(0.03, 3.0)}, {"lr": 0.01, "odds": 1.0}, "odds"),
    Space(
        "msg",
        "MSG",
        _msg,
        {"lr": _RATE, "share": Axis(0.03, 0.6, most=0.99)},
        {"lr": 0.01, "share": 0.3},
        "share",
        _gradients_twice,
    ),
    Space(
        "moment_matching",
        "score moment matching",
        _moments,
        {"lr": Axis(0.05, 0.5), "weight": Axis(0.2, 8.0)},
        {"lr": 0.15, "weight": 1.0},
        "weight",
    ),
    Space("amun", "AMUN", _amun, {"lr": _RATE, "radius": Axis(0.3, 3.0)}, {"lr": 0.01, "radius": 1.0}, "lr"),
    Space("eu_k", "EU-k", _eu_k, {"lr": Axis(0.01, 0.3), "k": _LAYERS}, {"lr": 0.1, "k": 2}, "lr"),
    Space("cf_k", "CF-k", _cf_k, {"lr": Axis(0.01, 0.3), "k": _LAYERS}, {"lr": 0.1, "k": 2}, "lr"),
    Space(
        "zs_pag", "ZS-PAG", _zs_pag, {"lr": Axis(1e-4, 0.03), "passes": Axis(1, 10)}, {"lr": 1e-3, "passes": 3}, "lr"
    ),
    Space(
        "stackelberg",
        "Stackelberg",
        _game,
        {"lr": Axis(0.05, 0.5), "weight": Axis(1.0, 32.0)},
        {"lr": 0.15, "weight": 5.0},
        "weight",
    ),
    Space(
        "as_published",
        "Stackelberg, as published",
        _published,
        {"lr": Axis(0.01, 0.2), "weight": Axis(0.05, 10.0)},
        {"lr": 0.01, "weight": 1.0},
        "weight",
    ),
)


def spaces() -> Mapping[str, Space]:
    """By name: this package's in the order of the table, then third parties'.

    Raises:
        BackendError: An entry point that cannot be imported.
        DataError: One that is no `Space`, or takes a name that is taken.
    """
    found = {space.name: space for space in OURS}
    for point in entry_points(group=SPACES):
        space = loaded(point)
        if not isinstance(space, Space) or space.name in found:
            raise DataError(f"the entry point {SPACES}: {point.name} = {point.value} must be a Space with a new name")
        found[space.name] = space
    return found
