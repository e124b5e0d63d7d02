"""The search: every method gets the same number of configurations on the same tuning units.

A coarse grid of eight, then rounds of four around the best so far. A configuration's figure is its average gap to the
tuning units' *own* retrained models, which a user would not have (S16): it serves the comparison, where each method is
to show its best. Units that are judged later take no part.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Protocol

from amu_fast.experiments.families import Family, Parameters
from amu_fast.experiments.records import Search, Trial, check_fingerprint, read, save, search_path
from amu_fast.experiments.runs import run_method
from amu_fast.experiments.units import Unit
from amu_fast.report.provenance import config_hash


def tune(
    folder: Path,
    family: Family,
    share: float,
    units: Sequence[Unit],
    rounds: int,
    notify: Callable[[str], None] = lambda _: None,
) -> Search:
    """Run, or finish, one search; each trial is on disk before the next starts.

    Args:
        folder: Of the table.
        family: What to tune.
        share: Budget, as a share of retraining's gradient samples.
        units: Tuning units.
        rounds: Refinements; 8 + 4·rounds configurations in all.
        notify: Told of each trial.
    """
    path = search_path(folder, share, family.name)
    started = Search(family.name, share, tuple(unit.seed for unit in units), _fingerprint(family, share, units))
    return search(path, started, family, rounds, lambda p, r: _try(family, p, share, units, r), notify)


class Grid(Protocol):
    """A first grid and how it is refined."""

    @property
    def coarse(self) -> tuple[Parameters, ...]:
        """First configurations."""

    def refined(self, best: Parameters, round_: int) -> tuple[Parameters, ...]:
        """Configurations around the best one, closer in each round."""


def search(
    path: Path,
    started: Search,
    grid: Grid,
    rounds: int,
    attempt: Callable[[Parameters, int], Trial],
    notify: Callable[[str], None] = lambda _: None,
) -> Search:
    """Go on with the search at `path`, or with `started`; each trial is on disk before the next starts.

    Args:
        path: Of the record.
        started: A search without trials.
        grid: Configurations.
        rounds: Refinements.
        attempt: Runs one configuration of one round.
        notify: Told of each trial.

    Raises:
        DataError: The record at `path` is of another search.
    """
    found = started
    if path.is_file():
        found = read(path, Search)
        check_fingerprint(path, found.fingerprint, started.fingerprint)
    for round_ in range(1 + rounds):
        planned = _configurations(grid, found, round_)
        done = sum(trial.round == round_ for trial in found.trials)
        for parameters in planned[done:]:
            trial = attempt(parameters, round_)
            found = replace(found, trials=(*found.trials, trial))
            save(path, found)
            notify(f"{found.family} at {100 * found.share:g} %: {_text(parameters)} gap {trial.gap:.2f}")
    return found


def _configurations(grid: Grid, found: Search, round_: int) -> tuple[Parameters, ...]:
    """Those of a round, which depend on the rounds before it only."""
    if round_ == 0:
        return grid.coarse
    before = replace(found, trials=tuple(trial for trial in found.trials if trial.round < round_))
    return grid.refined(before.best.parameters, round_ - 1)


def _try(family: Family, parameters: Parameters, share: float, units: Sequence[Unit], round_: int) -> Trial:
    epochs = share * units[0].task.epochs
    method = family.build(parameters, epochs, units[0].task)
    records = [run_method(unit, method, parameters=parameters, full=False).record for unit in units]
    return Trial(
        parameters=dict(parameters),
        round=round_,
        gaps=tuple(record.gap for record in records),
        differences=tuple(record.differences for record in records),
        collapses=sum(record.collapsed or bool(record.diverged) for record in records),
        seconds=sum(record.seconds for record in records),
    )


def _fingerprint(family: Family, share: float, units: Sequence[Unit]) -> str:
    unit = units[0]
    first = family.build(family.coarse[0], share * unit.task.epochs, unit.task)
    numbers = [u.seed for u in units]
    return config_hash([asdict(unit.task), unit.data_digest, numbers, share, family.coarse, family.ratios, first])


def _text(parameters: Parameters) -> str:
    return ", ".join(f"{name} {value:.3g}" for name, value in parameters.items())
