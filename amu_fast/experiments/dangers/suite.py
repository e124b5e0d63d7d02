"""All danger scenarios on one task: each with the case that should warn and the case that should not."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from amu_fast.audit.intervals import clopper_pearson
from amu_fast.experiments.dangers.badfu import MALICIOUS, BadFU, BadFUResult
from amu_fast.experiments.dangers.camouflage import CamouflageAudit
from amu_fast.experiments.dangers.cast import Cast, half_a_class
from amu_fast.experiments.dangers.federated import FedAvg
from amu_fast.experiments.dangers.over_unlearning import OverUnlearningAudit, over_matched_noise
from amu_fast.experiments.dangers.poisoned import KINDS, MembershipAudit, request_of
from amu_fast.experiments.dangers.quantisation import QuantisationAudit
from amu_fast.experiments.dangers.relearning import FastRelearning, RelearningAttack
from amu_fast.experiments.dangers.report import DangerReport
from amu_fast.experiments.dangers.triggers import PatchTrigger
from amu_fast.experiments.dangers.utility import CompositionAudit, UtilityAudit
from amu_fast.experiments.population import Population
from amu_fast.experiments.tasks import Task
from amu_fast.protocols import Method
from amu_fast.unlearn.methods import FineTune, GradientAscent, NegGradPlus, ScoreMomentMatching
from amu_fast.unlearn.optimise import Sgd
from amu_fast.unlearn.streams import generator

Rows = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class Case:
    """One audit of one planted (or clean) situation.

    Attributes:
        name: What was planted.
        report: What the audit found.
        shown: Figures and intervals for the table.
        expected: Codes of the warnings that it should give; None where nothing is known beforehand.
    """

    name: str
    report: DangerReport
    shown: tuple[str, ...]
    expected: tuple[str, ...] | None = None

    @property
    def as_expected(self) -> bool | None:
        """Whether exactly the expected codes were given; None where none are expected."""
        return None if self.expected is None else set(self.report.codes) == set(self.expected)


@dataclass(frozen=True)
class Plan:
    """Sizes of all scenarios.

    Attributes:
        task: Of the scenarios with one model.
        federated_rows: Clean training rows of BadFU.
        poison: Its backdoor rows.
        rounds: Of federated averaging.
        request: Rows of a poisoned request.
        random_sets: Forget sets drawn at random, for the camouflage audit's false alarms.
        ascent: Learning rate of the gradient ascent that goes too far.
        seed: Of everything.
    """

    task: Task
    federated_rows: int
    poison: int
    rounds: int
    request: int
    random_sets: int = 200
    ascent: float = 0.03
    seed: int = 0
    matching: ScoreMomentMatching = field(
        default_factory=lambda: ScoreMomentMatching(epochs=8.0, optimiser=Sgd(lr=0.05), batch_size=32)
    )


_SGD = Sgd(lr=0.05, weight_decay=5e-4, warmup=0.1)
PLAN = Plan(
    Task(train=3_000, forget=300, validation=1_500, test=3_000, noise=0.05, epochs=15.0, batch_size=32, optimiser=_SGD),
    federated_rows=6_000,
    poison=100,
    rounds=10,
    request=300,
)
QUICK = Plan(
    Task("mnist-5k", 1_500, 200, 800, 1_000, noise=0.05, epochs=12.0, batch_size=32, optimiser=_SGD, references=1),
    federated_rows=3_000,
    poison=60,
    rounds=10,
    request=200,
)


def backdoor(plan: Plan, population: Population) -> Iterator[Case]:
    """BadFU, its control, and the camouflage audit on its forget set."""
    order = torch.randperm(len(population), generator=generator(plan.seed, "badfu"))
    sizes = (plan.federated_rows, plan.task.validation, plan.task.test)
    parts = order[: sum(sizes)].split(sizes)
    train, validation, test = ((population.inputs[rows], population.labels[rows]) for rows in parts)
    trigger = PatchTrigger(float(population.inputs.max()))
    fed, tuning = FedAvg(plan.rounds), FedAvg(max(1, plan.rounds // 3))
    scenario = BadFU(trigger, poison=plan.poison, training=fed, fine_tuning=tuning)
    result = scenario.run(plan.task.network(population), train, test, plan.seed)
    woken, shown = ("TRIGGER_WOKEN",), ("before", "after", "test_accuracy_after")
    yield Case("camouflage unlearned by retraining", result.reports["retrain"], shown, woken)
    yield Case("camouflage unlearned by fine-tuning", result.reports["fine_tune"], shown, woken)
    other = PatchTrigger(trigger.value, corner="top left")
    report = scenario.audit(result.before, result.after["retrain"], *test, other, scenario.target)
    yield Case("a patch that nobody planted", report, shown[:2], ())
    yield _unpoisoned(scenario, result, test, plan.seed, shown)
    yield from _camouflage(scenario, result, validation, test, plan)
    yield _false_alarms(plan, population)


def _unpoisoned(scenario: BadFU, result: BadFUResult, test: Rows, seed: int, shown: tuple[str, ...]) -> Case:
    """As many clean rows of the same client, which fine-tuning forgets.

    Nothing is expected: the backdoor is still there, and further training alone may move its success.
    """
    federation = result.poisoned.federation
    clean = federation.sizes[MALICIOUS] - len(result.poisoned.camouflage) - len(result.poisoned.backdoor)
    rows = torch.randperm(clean, generator=generator(seed, "control"))[: len(result.poisoned.camouflage)]
    rest = federation.without(MALICIOUS, rows)
    after = scenario.fine_tuning.train(result.before, rest, seed=seed + 3, fresh=False)
    report = scenario.audit(result.before, after, *test, scenario.trigger, scenario.target)
    return Case("clean rows unlearned by fine-tuning", report, shown[:2])


def _camouflage(scenario: BadFU, result: BadFUResult, validation: Rows, test: Rows, plan: Plan) -> Iterator[Case]:
    forget = result.poisoned.forget
    shown = ("concentration", "pattern_p", "auc", "auc_p")
    found = CamouflageAudit()(forget, validation, model=result.before, seed=plan.seed)
    yield Case("forget set of camouflage", found.report, shown, ("SHARED_PATTERN", "FORGET_SET_STANDS_OUT"))
    if found.pattern is not None:
        searched = scenario.audit.search(result.before, result.after["retrain"], *test, found.pattern)
        yield Case("its pattern as a trigger", searched, ("before", "after", "target"), ("TRIGGER_WOKEN",))
    half = len(forget[1]) // 2
    mixed = tuple(torch.cat([a[:half], b[:half]]) for a, b in zip(forget, test, strict=True))
    report = CamouflageAudit()((mixed[0], mixed[1]), validation, seed=plan.seed).report
    yield Case("forget set, half of it camouflage", report, shown, ("FORGET_SET_STANDS_OUT",))


def _false_alarms(plan: Plan, population: Population) -> Case:
    """Share of forget sets drawn at random that the camouflage audit warns about."""
    alarms = 0
    for number in range(plan.random_sets):
        order = torch.randperm(len(population), generator=generator(plan.seed + number, "false alarms"))
        forget, validation = order[: plan.poison], order[plan.poison : plan.poison + plan.task.validation]
        rows = ((population.inputs[part], population.labels[part]) for part in (forget, validation))
        alarms += bool(CamouflageAudit()(*rows, seed=number).report.warnings)
    share = clopper_pearson(alarms, plan.random_sets)
    report = DangerReport("camouflage", {"sets": float(plan.random_sets)}, {"alarms": share})
    return Case("random forget sets (alpha 1 %)", report, ("sets", "alarms"))


def requests(plan: Plan, cast: Cast) -> Iterator[Case]:
    """Poisoned requests: membership, composition, and what obeying one does to the classes."""
    train, rows = cast.training_rows(), cast.splits.rows
    test = rows("test").fetch(torch.arange(len(rows("test"))))
    counts = train[1].bincount()
    expected = {"non_members": ("NOT_MEMBERS",), "mislabelled": ("NOT_MEMBERS",)}
    for kind in KINDS:
        size = int(0.9 * counts.max()) if kind == "one_class" else plan.request
        named = request_of(kind, train, test, size, len(counts), plan.seed)
        report = MembershipAudit()(cast.original, cast.references, named, rows("retain"), rows("validation"))
        # A single class has too few other training rows, and may be memorised too little for any attack to see.
        wanted = None if kind == "one_class" else expected.get(kind, ())
        yield Case(f"request: {kind}", report, ("rows", "member_share", "control"), wanted)
        if kind in ("honest", "one_class"):
            yield from _obeyed(plan, cast, kind, named)


def _obeyed(plan: Plan, cast: Cast, kind: str, named: Rows) -> Iterator[Case]:
    """Composition of a request, and the accuracy of each class after it."""
    aimed = kind == "one_class"
    report = CompositionAudit()(named[1], cast.training_rows()[1])
    yield Case(f"request: {kind}", report, ("share_of_class", "p"), ("ONE_CLASS",) if aimed else ())
    method = NegGradPlus(5.0, 0.8, Sgd(lr=0.02, clip=1.0), 32)
    after = method.unlearn(cast.original, cast.obeying(named), seed=plan.seed).model
    report = UtilityAudit()(after, cast.original, cast.splits.rows("test"))
    codes = ("UTILITY_COLLAPSE",) if aimed else ()
    yield Case(f"request: {kind}, obeyed by NegGrad+", report, ("accuracy", "reference_accuracy"), codes)


def ascent(plan: Plan, population: Population) -> Iterator[Case]:
    """Over-unlearning (S12): ascent on half a class, too short and too far; over-matched noise."""
    parts = half_a_class(plan.task.draw(population, plan.seed), population.labels)
    cast = Cast.of(replace(plan.task, references=0), population, plan.seed, parts)
    shown = ("auc", "retrain_auc", "auc_difference", "trained_auc")
    yield Case("original, half a class", OverUnlearningAudit()(cast.original, cast.retrain, cast.splits), shown, ())
    method = GradientAscent(0.5, Sgd(lr=plan.ascent, weight_decay=0.0, schedule="constant", clip=1.0), 50)
    after = method.unlearn(cast.original, cast.splits, seed=plan.seed).model
    report = OverUnlearningAudit()(after, cast.retrain, cast.splits)
    yield Case("ascent pushed too far, half a class", report, shown, ("OVER_UNLEARNED",))
    yield Case("over-matched noise", OverUnlearningAudit()(*over_matched_noise(seed=plan.seed)), shown, ())


def robustness(plan: Plan, cast: Cast) -> Iterator[Case]:
    """Relearning and quantisation of fine-tuning, of moment matching, and of another retraining, the control."""
    methods: dict[str, Method | None] = {
        "fine-tuning": FineTune(3.0, Sgd(lr=0.02), 32),
        "moment matching": plan.matching,
        "another retraining": None,
    }
    for name, method in methods.items():
        model = cast.floor if method is None else method.unlearn(cast.original, cast.splits, seed=plan.seed).model
        wanted = () if method is None else None
        time = FastRelearning()(model, cast.retrain, cast.original, cast.splits, plan.seed)
        yield Case(f"relearn time: {name}", time, ("passes", "retrain_passes"), wanted)
        relearned = RelearningAttack(attack=cast.attack)(model, cast.retrain, cast.splits, plan.seed)
        yield Case(f"relearning attack: {name}", relearned, ("before", "after"), wanted)
        rounded = QuantisationAudit(attack=cast.attack)(model, cast.retrain, cast.splits)
        shown = tuple(f"{bits}_auc_difference" for bits in ("full", "8_bit", "4_bit"))
        yield Case(f"quantisation: {name}", rounded, (*shown, "4_bit_test_accuracy"), wanted)


def run_all(plan: Plan, population: Population, notify: Callable[[str], None] = lambda _: None) -> Iterator[Case]:
    """Every case of every scenario, in the order of the documents."""
    notify("BadFU and camouflage")
    yield from backdoor(plan, population)
    notify("training the original, retrain and references")
    cast = Cast.of(plan.task, population, plan.seed)
    notify("poisoned requests")
    yield from requests(plan, cast)
    notify("over-unlearning")
    yield from ascent(plan, population)
    notify("relearning and quantisation")
    yield from robustness(plan, cast)
