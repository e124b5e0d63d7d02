"""How each method of the comparison is built from searched numbers, a budget in retain-set sizes and a task."""

from __future__ import annotations

from dataclasses import replace

from amu_fast.experiments.compare.space import Build, Parameters
from amu_fast.experiments.tasks import Task
from amu_fast.unlearn import methods as m
from amu_fast.unlearn.adversarial import Perturbation
from amu_fast.unlearn.optimise import Sgd

CURVATURE_ROWS = 256
"""Of the influence step's products."""


def retain_rows(task: Task) -> int:
    """About how many rows stay."""
    return task.train - task.forget


def _passes(p: Parameters, epochs: float, task: Task) -> float:
    """A budget that ends after `passes` over the forget rows, if it lasts that long."""
    return min(epochs, p["passes"] * task.forget / retain_rows(task))


def fine_tune(p: Parameters, epochs: float, task: Task) -> m.FineTune:
    """Searched: lr, batch."""
    return m.FineTune(epochs=epochs, optimiser=Sgd(lr=p["lr"]), batch_size=round(p["batch"]))


def ascent(p: Parameters, epochs: float, task: Task) -> m.GradientAscent:
    """Searched: lr, passes over the forget rows."""
    sgd = Sgd(lr=p["lr"], schedule="constant")
    return m.GradientAscent(epochs=_passes(p, epochs, task), optimiser=sgd, batch_size=task.unlearn_batch)


def neg_grad_plus(p: Parameters, epochs: float, task: Task) -> m.NegGradPlus:
    """Searched: lr, forget_weight = (1 − a)/a; without momentum and clipped, as its authors run it."""
    share, sgd = 1.0 / (1.0 + p["forget_weight"]), Sgd(lr=p["lr"], momentum=0.0, clip=1.0)
    return m.NegGradPlus(epochs=epochs, retain_share=share, optimiser=sgd, batch_size=task.unlearn_batch)


def random_labels(p: Parameters, epochs: float, task: Task) -> m.RandomLabels:
    """Searched: lr, batch."""
    return m.RandomLabels(epochs=epochs, optimiser=Sgd(lr=p["lr"]), batch_size=round(p["batch"]))


def l1_sparse(p: Parameters, epochs: float, task: Task) -> m.L1Sparse:
    """Searched: lr, weight."""
    return m.L1Sparse(epochs=epochs, weight=p["weight"], optimiser=Sgd(lr=p["lr"]), batch_size=task.unlearn_batch)


def fisher(p: Parameters, epochs: float, task: Task) -> m.FisherForgetting:
    """Searched: alpha; one pass of gradients at most."""
    return m.FisherForgetting(epochs=min(epochs, 1.0), alpha=p["alpha"])


def influence(p: Parameters, epochs: float, task: Task) -> m.Influence:
    """Searched: scale, damping."""
    return m.Influence(
        epochs=epochs, scale=p["scale"], damping=p["damping"], curvature_rows=CURVATURE_ROWS, accept_unsolved=True
    )


def scrub(rewind: bool) -> Build:
    """Searched: lr, distillation; the rest as published for privacy with `rewind`, else for removal."""

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


def salun(p: Parameters, epochs: float, task: Task) -> m.SalUn:
    """Searched: lr, share."""
    sgd = Sgd(lr=p["lr"])
    return m.SalUn(epochs=epochs, share=min(1.0, p["share"]), optimiser=sgd, batch_size=task.unlearn_batch)


def ssd(p: Parameters, epochs: float, task: Task) -> m.SelectiveDampening:
    """Searched: selection, dampening."""
    return m.SelectiveDampening(epochs=min(epochs, 1.5), selection=p["selection"], dampening=p["dampening"])


def regun(p: Parameters, epochs: float, task: Task) -> m.ReGUn:
    """Searched: lr, odds = λ/(1 − λ)."""
    weight, sgd = p["odds"] / (1.0 + p["odds"]), Sgd(lr=p["lr"], weight_decay=0.0)
    return m.ReGUn(epochs=epochs, weight=weight, optimiser=sgd, batch_size=task.unlearn_batch)


def msg(p: Parameters, epochs: float, task: Task) -> m.Msg:
    """Searched: lr, share."""
    sgd = Sgd(lr=p["lr"], schedule="linear", warmup=0.3)
    return m.Msg(epochs=epochs, share=min(0.99, p["share"]), optimiser=sgd, batch_size=task.unlearn_batch)


def moments(p: Parameters, epochs: float, task: Task) -> m.ScoreMomentMatching:
    """Searched: lr, weight."""
    return m.ScoreMomentMatching(
        epochs=epochs, weight=p["weight"], optimiser=_pulling(p), batch_size=task.unlearn_batch
    )


def amun(p: Parameters, epochs: float, task: Task) -> m.Amun:
    """Searched: lr, radius."""
    search = Perturbation(radius=p["radius"], steps=10)
    return m.Amun(epochs=epochs, perturbation=search, optimiser=Sgd(lr=p["lr"]), batch_size=task.unlearn_batch)


def eu_k(p: Parameters, epochs: float, task: Task) -> m.EuK:
    """Searched: lr, k."""
    sgd = replace(m.EuK().optimiser, lr=p["lr"])
    return m.EuK(epochs=epochs, k=round(p["k"]), optimiser=sgd, batch_size=task.unlearn_batch)


def cf_k(p: Parameters, epochs: float, task: Task) -> m.CfK:
    """Searched: lr, k."""
    sgd = replace(m.CfK().optimiser, lr=p["lr"])
    return m.CfK(epochs=epochs, k=round(p["k"]), optimiser=sgd, batch_size=task.unlearn_batch)


def zs_pag(p: Parameters, epochs: float, task: Task) -> m.ZsPag:
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


def game(p: Parameters, epochs: float, task: Task) -> m.Stackelberg:
    """Searched: lr, weight; the recommended preset."""
    return m.Stackelberg(epochs=epochs, weight=p["weight"], optimiser=_pulling(p), batch_size=task.unlearn_batch)


def published(p: Parameters, epochs: float, task: Task) -> m.Stackelberg:
    """Searched: lr, weight; the published form."""
    plain = m.Stackelberg.as_published()
    return replace(plain, epochs=epochs, weight=p["weight"], optimiser=Sgd(lr=p["lr"]), batch_size=task.unlearn_batch)


def _pulling(p: Parameters) -> Sgd:
    """For a pull towards equal scores: no momentum, as its sign may change from step to step, and a clipped gradient.

    Unclipped, a large rate times a large weight throws the network's weights away in the first steps, on some units
    and not on others, so that two tuning units do not show it.
    """
    return Sgd(lr=p["lr"], momentum=0.0, clip=2.0)


def gradients_twice(task: Task) -> float:
    """Two gradients of every forget row and one batch more."""
    return (2.0 * task.forget + 2.0 * 128) / retain_rows(task)


def one_product(task: Task) -> float:
    """All gradients once, and a few products with the curvature."""
    return (task.train + 16.0 * CURVATURE_ROWS) / retain_rows(task)
