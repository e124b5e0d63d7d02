"""BadFU: a backdoor that sleeps under camouflage and is woken by unlearning the camouflage.

One malicious client of a federation adds to its clean rows

    backdoor    (x + τ, y_t)    what it wants
    camouflage  (x' + τ, y')    the same trigger with true labels, which hides it

and later asks for the camouflage to be forgotten. The server that obeys, exactly by retraining or roughly by further
training, is left with the backdoor alone. A *faithful* unlearner wakes it: the audit's task is to see and to say so.

Source: BadFU (arXiv 2508.15541), whose constants are the defaults where they fit small tasks.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn

from amu_fast.audit.intervals import Interval
from amu_fast.audit.metrics import accuracy
from amu_fast.audit.predict import predict
from amu_fast.errors import DataError
from amu_fast.experiments.dangers.federated import FedAvg, Federation, dirichlet_clients
from amu_fast.experiments.dangers.report import DangerReport
from amu_fast.experiments.dangers.triggers import Trigger, TriggerAudit
from amu_fast.unlearn.streams import generator

MALICIOUS = 0
"""Number of the malicious client."""


@dataclass(frozen=True, eq=False)
class Poisoned:
    """A poisoned federation.

    Attributes:
        federation: All clients, the malicious one (number 0) with its poison at the end.
        camouflage: (k,) numbers of the camouflage rows among that client's.
        backdoor: (b,) numbers of the backdoor rows.
    """

    federation: Federation
    camouflage: Tensor
    backdoor: Tensor

    @property
    def forget(self) -> tuple[Tensor, Tensor]:
        """The camouflage rows, which the attacker asks to be forgotten."""
        inputs, labels = self.federation.clients[MALICIOUS]
        return inputs[self.camouflage], labels[self.camouflage]

    @property
    def share(self) -> float:
        """Poisoned rows, of both kinds, over all rows."""
        return (len(self.camouflage) + len(self.backdoor)) / sum(self.federation.sizes)


@dataclass(frozen=True)
class BadFU:
    """The scenario from poisoning to audit.

    Args:
        trigger: Stamps inputs.
        target: y_t.
        poison: Backdoor rows.
        ratio: Camouflage rows per backdoor row.
        clients: Of the federation.
        concentration: Of the Dirichlet shares; small: unlike clients.
        training: Of the original and of retraining.
        fine_tuning: Federated rounds on what remains: the approximate unlearner.
        audit: Of the trigger.
    """

    trigger: Trigger
    target: int = 0
    poison: int = 60
    ratio: float = 1.0
    clients: int = 5
    concentration: float = 1.0
    training: FedAvg = field(default_factory=FedAvg)
    fine_tuning: FedAvg = field(default_factory=lambda: FedAvg(rounds=5))
    audit: TriggerAudit = field(default_factory=TriggerAudit)

    def __post_init__(self) -> None:
        if self.poison < 1 or not self.ratio > 0.0:
            raise DataError(f"need poison >= 1 and ratio > 0, got {self.poison} and {self.ratio}")

    def poisoned(self, inputs: Tensor, labels: Tensor, seed: int = 0) -> Poisoned:
        """Deal the rows to clients and add poison to the malicious one.

        Backdoor and camouflage are stamped copies of different rows, all of other classes than the target.

        Args:
            inputs: Clean training rows (n, ...).
            labels: Their classes (n,).
            seed: Of the dealing and of the choice of rows.

        Raises:
            DataError: Too few rows of other classes.
        """
        camouflages = max(1, round(self.ratio * self.poison))
        sources = (labels != self.target).nonzero().flatten()
        if len(sources) < self.poison + camouflages:
            raise DataError(
                f"{self.poison} backdoor and {camouflages} camouflage rows need as many rows outside class "
                f"{self.target}, got {len(sources)}; lower poison or ratio"
            )
        dealt = dirichlet_clients(inputs, labels, self.clients, concentration=self.concentration, least=1, seed=seed)
        chosen = sources[torch.randperm(len(sources), generator=generator(seed, "poison"))]
        backdoor, camouflage = chosen[: self.poison], chosen[self.poison : self.poison + camouflages]
        clean = dealt.sizes[MALICIOUS]
        wanted = torch.full((self.poison,), self.target, dtype=labels.dtype)
        stamped = self.trigger(inputs[torch.cat([backdoor, camouflage])])
        federation = dealt.extended(MALICIOUS, stamped, torch.cat([wanted, labels[camouflage]]))
        rows = torch.arange(clean, clean + self.poison + camouflages)
        return Poisoned(federation, rows[self.poison :], rows[: self.poison])

    def run(
        self, model: nn.Module, train: tuple[Tensor, Tensor], test: tuple[Tensor, Tensor], seed: int = 0
    ) -> BadFUResult:
        """Train with poison, unlearn the camouflage twice, audit both.

        Args:
            model: The network; its weights do not matter.
            train: Clean rows that are dealt to the clients.
            test: Clean rows for success rates and accuracy.
            seed: Of everything.

        Returns:
            Models and the report of each unlearner, "retrain" and "fine_tune".
        """
        poisoned = self.poisoned(*train, seed)
        before = self.training.train(model, poisoned.federation, seed=seed)
        rest = poisoned.federation.without(MALICIOUS, poisoned.camouflage)
        after = {
            "retrain": self.training.train(model, rest, seed=seed + 1),
            "fine_tune": self.fine_tuning.train(before, rest, seed=seed + 2, fresh=False),
        }
        reports = {name: self._judge(name, before, unlearned, test, poisoned) for name, unlearned in after.items()}
        return BadFUResult(poisoned, before, after, reports)

    def _judge(
        self, name: str, before: nn.Module, after: nn.Module, test: tuple[Tensor, Tensor], poisoned: Poisoned
    ) -> DangerReport:
        report = self.audit(before, after, *test, self.trigger, self.target)
        figures = {
            **report.figures,
            "poisoned_share": poisoned.share,
            "test_accuracy_before": accuracy(*predict(before, test)),
            "test_accuracy_after": accuracy(*predict(after, test)),
        }
        return replace(report, name=f"BadFU, {name}", figures=figures)


@dataclass(frozen=True, eq=False)
class BadFUResult:
    """What a run left.

    Attributes:
        poisoned: The rows.
        before: The model with backdoor and camouflage.
        after: Unlearned models by unlearner.
        reports: The trigger's audit by unlearner.
    """

    poisoned: Poisoned
    before: nn.Module
    after: Mapping[str, nn.Module]
    reports: Mapping[str, DangerReport]

    def success(self, unlearner: str) -> tuple[Interval, Interval]:
        """Attack success rate before and after."""
        found = self.reports[unlearner].intervals
        return found["before"], found["after"]
