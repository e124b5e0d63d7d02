"""Makes the language table: prepare units, tune every method alike, judge on fresh units; resumable at every record."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from amu_fast.errors import DataError
from amu_fast.experiments.language.families import FAMILIES
from amu_fast.experiments.language.judge import ACCURACIES, ATTACKS, Controls, headline, panel
from amu_fast.experiments.language.runs import fingerprint, run_recipe
from amu_fast.experiments.language.units import QUICK_TASK, LanguageTask, LanguageUnit, corpus_digest, prepare_unit
from amu_fast.experiments.language.wording import WORDS
from amu_fast.experiments.records import (
    REFERENCES,
    Search,
    Trial,
    UnitRecord,
    check_fingerprint,
    read,
    run_path,
    save,
    search_path,
    unit_path,
)
from amu_fast.experiments.render import figure, markdown
from amu_fast.experiments.runs import RunRecord
from amu_fast.experiments.summary import Summary, aggregate
from amu_fast.experiments.tuning import search
from amu_fast.experiments.workers import Job, Notify, run_jobs
from amu_fast.report.provenance import config_hash, plain
from amu_fast.report.writing import write_atomic

GAME = "game"
ACCURACY_MARGINS = dict(zip(ACCURACIES, (1.0, 3.0, 1.0, 1.0), strict=True))
ATTACK_MARGIN, ATTACK_SHARE = 5.0, 0.2


@dataclass(frozen=True)
class LanguagePlan:
    """What a table is made of.

    Attributes:
        task: What its units share.
        units: Judged.
        tuning_units: Where methods are tuned.
        shares: Budgets, shares of a fine-tuning's gradient samples.
        families: Methods, by name.
        rounds: Refinements of each search.
    """

    task: LanguageTask = field(default_factory=LanguageTask)
    units: tuple[int, ...] = tuple(range(10))
    tuning_units: tuple[int, ...] = (900, 901)
    shares: tuple[float, ...] = (0.05, 0.125)
    families: tuple[str, ...] = tuple(FAMILIES)
    rounds: int = 1

    def __post_init__(self) -> None:
        unknown = set(self.families) - set(FAMILIES)
        if unknown or not self.families:
            raise DataError(f"methods must be among {list(FAMILIES)}, got {sorted(unknown) or 'none'}")


QUICK = LanguagePlan(
    QUICK_TASK,
    units=(0, 1),
    tuning_units=(900,),
    shares=(0.125,),
    families=("fine_tune", "moment_matching", "game"),
    rounds=0,
)


def make_table(plan: LanguagePlan, folder: Path, *, jobs: int = 2, notify: Notify | None = None) -> Summary:
    """Make what is missing below `folder`, then aggregate everything.

    Args:
        plan: Of the table.
        folder: Where records are; one plan's task per folder.
        jobs: Worker processes; 1 works in this process.
        notify: Told of every finished piece; None: a line on the standard error stream.

    Raises:
        DataError: Records of another task, or damaged ones.
    """
    ignored = folder / "units" / ".gitignore"
    if not ignored.is_file():
        write_atomic(ignored, b"*\n")
    prepare: list[Job] = [partial(_prepare, plan, folder, n) for n in (*plan.tuning_units, *plan.units)]
    pairs = [(name, share) for share in sorted(plan.shares, reverse=True) for name in plan.families]
    tune: list[Job] = [partial(_search, plan, folder, name, share) for name, share in pairs]
    judge: list[Job] = [partial(_judge, plan, folder, n, share) for n in plan.units for share in plan.shares]
    for title, phase in (("units", prepare), ("searches", tune), ("judged", judge)):
        run_jobs(title, phase, jobs, notify)
    return write_summary(plan, folder)


def write_summary(plan: LanguagePlan, folder: Path) -> Summary:
    """The three files that readers want, from the records alone."""
    summary = aggregate(
        folder, plan.units, plan.tuning_units, plan.shares, plan.families, plan.families,
        game=GAME, utility="general_accuracy", margins_of=margins_of,
    )  # fmt: skip
    write_atomic(folder / "table.png", figure(summary, WORDS))
    write_atomic(folder / "table.md", markdown(summary, WORDS).encode())
    write_atomic(folder / "table.json", summary.to_json().encode())
    return summary


def margins_of(tuning: Sequence[UnitRecord]) -> dict[str, float]:
    """Margins in points by S8: an attack's is min(5, 20 % of the original's excess over retrain), on tuning units."""
    margins = dict(ACCURACY_MARGINS)
    for name in ATTACKS:
        excess = [u.headline["original"][name] - u.headline["retrain"][name] for u in tuning]
        share = ATTACK_SHARE * 100.0 * sum(excess) / len(excess)
        margins[name] = min(ATTACK_MARGIN, share) if share > 0.0 else ATTACK_MARGIN
    return margins


def _unit(plan: LanguagePlan, folder: Path, seed: int) -> LanguageUnit:
    return prepare_unit(plan.task, seed, folder / "units")


def _prepare(plan: LanguagePlan, folder: Path, seed: int) -> str:
    unit, path = _unit(plan, folder, seed), unit_path(folder, seed)
    if not path.is_file():
        save(path, _record(unit))
    record = read(path, UnitRecord)
    expected = config_hash([plain(plan.task), corpus_digest(plan.task)])
    check_fingerprint(path, config_hash([record.task, record.data_digest]), expected)
    control = record.positive_control
    return f"unit {seed}: calibrated AUC of the original {control.value:.3f} (≥ {control.low:.3f} by authors)"


def _record(unit: LanguageUnit) -> UnitRecord:
    controls = Controls.of(unit.outputs, unit.references)
    return UnitRecord(
        unit=unit.seed,
        task=plain(unit.task),
        data_digest=corpus_digest(unit.task),
        headline={name: headline(unit.outputs[name], unit.references) for name in REFERENCES},
        panel={name: {**panel(unit.outputs[name]), "steps": float("nan")} for name in REFERENCES},
        positive_control=controls.positive,
        negative_control=controls.negative,
        controls_passed=controls.passed,
        seconds=dict(unit.seconds),
        retrain_samples=unit.task.fine_tuning_samples,
    )


def _search(plan: LanguagePlan, folder: Path, name: str, share: float) -> str:
    units = [_unit(plan, folder, seed) for seed in plan.tuning_units]
    family = FAMILIES[name]
    data = [(unit.seed, unit.data_digest) for unit in units]
    recipes = [plain(family.recipe(parameters)) for parameters in family.coarse]
    key = config_hash([plain(plan.task), data, share, recipes, family.ratios])
    started = Search(name, share, plan.tuning_units, key)

    def attempt(parameters: Mapping[str, float], round_: int) -> Trial:
        runs = [run_recipe(unit, family.recipe(parameters), share) for unit in units]
        return Trial(
            parameters=dict(parameters),
            round=round_,
            gaps=tuple(run.gap for run in runs),
            differences=tuple(run.differences for run in runs),
            collapses=sum(run.collapsed or bool(run.diverged) for run in runs),
            seconds=sum(run.seconds for run in runs),
        )

    best = search(search_path(folder, share, name), started, family, plan.rounds, attempt).best
    chosen = ", ".join(f"{key} {value:.3g}" for key, value in best.parameters.items())
    return f"{name} at {100 * share:g} %: {chosen}, gap {best.gap:.2f}"


def _judge(plan: LanguagePlan, folder: Path, seed: int, share: float) -> str:
    unit = _unit(plan, folder, seed)
    gaps = [f"{name} {_row(plan, folder, unit, share, name).gap:.2f}" for name in plan.families]
    return f"unit {seed} at {100 * share:g} %, gaps: {', '.join(gaps)}"


def _row(plan: LanguagePlan, folder: Path, unit: LanguageUnit, share: float, name: str) -> RunRecord:
    parameters = read(search_path(folder, share, name), Search).best.parameters
    recipe, path = FAMILIES[name].recipe(parameters), run_path(folder, share, name, unit.seed)
    if path.is_file():
        record = read(path, RunRecord)
        check_fingerprint(path, record.fingerprint, fingerprint(unit, recipe, share))
        return record
    record = run_recipe(unit, recipe, share)
    save(path, record)
    return record
