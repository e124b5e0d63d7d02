"""The search of one method at one budget: the same number of configurations for every method, by optuna.

The first configuration is the method's usual one, the next are spread evenly (Sobol), the rest are proposed by a
tree-structured Parzen estimator. A configuration's figure is its mean gap to the tuning units' own retrained models,
with V_tune in place of test rows (S16). A stopped search goes on as if it had not stopped.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from amu_fast.errors import BackendError, DataError
from amu_fast.experiments.compare.spaces import Axis, Parameters, Space
from amu_fast.experiments.records import Search, Trial, check_fingerprint, read, save, search_path
from amu_fast.experiments.runs import run_method
from amu_fast.experiments.units import Unit
from amu_fast.report.provenance import config_hash

SPREAD = 0.5
"""Share of the configurations that do not look at the others' figures."""


def tune(folder: Path, space: Space, share: float, units: Sequence[Unit], trials: int) -> Search:
    """Run, or finish, one search; each trial is on disk before the next starts.

    Args:
        folder: Of the forget set.
        space: What is searched.
        share: Budget, as a share of retraining's gradient samples.
        units: Tuning units.
        trials: Configurations.

    Raises:
        DataError: The record is of another search.
        BackendError: optuna is not installed.
    """
    if trials < 1:
        raise DataError(f"a search needs at least 1 configuration, got {trials}")
    path = search_path(folder, share, space.name)
    found = Search(space.name, share, tuple(unit.seed for unit in units), _fingerprint(space, share, units))
    if path.is_file():
        started = read(path, Search)
        check_fingerprint(path, started.fingerprint, found.fingerprint)
        found = started
    for number in range(len(found.trials), trials):
        parameters = propose(space, found.trials, number, trials)
        found = replace(found, trials=(*found.trials, _try(space, parameters, share, units, number)))
        save(path, found)
    return found


def propose(space: Space, done: Sequence[Trial], number: int, trials: int) -> Parameters:
    """The configuration of trial `number`, which depends on the trials before it only."""
    if number == 0:
        return dict(space.start)
    spread = max(1, math.ceil(SPREAD * trials))
    if number < spread:
        return _spread(space.axes, number)
    return _estimated(space, done[:number], number)


def _spread(axes: dict[str, Axis] | Any, number: int) -> Parameters:
    from scipy.stats import qmc

    points = qmc.Sobol(len(axes), scramble=True, seed=0).random_base2(7)
    return {
        name: _at(axis, float(u)) for (name, axis), u in zip(axes.items(), points[number % len(points)], strict=True)
    }


def _at(axis: Axis, u: float) -> float:
    """The value at share u of the axis, to three digits."""
    value = axis.low * (axis.high / axis.low) ** u
    return float(round(value)) if axis.whole else float(f"{value:.3g}")


def _estimated(space: Space, done: Sequence[Trial], number: int) -> Parameters:
    try:
        import optuna
    except ImportError as error:
        raise BackendError("the search proposes configurations by optuna; pip install 'amu-fast[compare]'") from error
    ranges = {name: _distribution(optuna, axis) for name, axis in space.axes.items()}
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        sampler = optuna.samplers.TPESampler(seed=number, n_startup_trials=0, multivariate=True)
        study = optuna.create_study(sampler=sampler)
        for trial in done:
            given = {n: int(v) if space.axes[n].whole else v for n, v in trial.parameters.items()}
            study.add_trial(optuna.trial.create_trial(params=given, distributions=ranges, value=trial.gap))
        asked = study.ask(ranges)
    return {n: float(v) if space.axes[n].whole else float(f"{v:.3g}") for n, v in asked.params.items()}


def _distribution(optuna: Any, axis: Axis) -> Any:
    kind = optuna.distributions
    if axis.whole:
        return kind.IntDistribution(round(axis.low), round(axis.high), log=True)
    return kind.FloatDistribution(axis.low, axis.high, log=True)


def _try(space: Space, parameters: Parameters, share: float, units: Sequence[Unit], number: int) -> Trial:
    records = []
    for unit in units:
        method = space.build(parameters, share * unit.task.epochs, unit.task)
        records.append(run_method(unit, method, parameters=parameters, full=False, tuning=True).record)
    return Trial(
        parameters=dict(parameters),
        round=number,
        gaps=tuple(record.gap for record in records),
        differences=tuple(record.differences for record in records),
        collapses=sum(record.collapsed or bool(record.diverged) for record in records),
        seconds=sum(record.seconds for record in records),
    )


def _fingerprint(space: Space, share: float, units: Sequence[Unit]) -> str:
    """Of everything that decides the trials, the method's fixed settings included; not of how many there are."""
    unit = units[0]
    first = space.build(space.start, share * unit.task.epochs, unit.task)
    axes = {name: asdict(axis) for name, axis in space.axes.items()}
    numbers = [u.seed for u in units]
    return config_hash([asdict(unit.task), unit.data_digest, numbers, share, axes, space.start, first])
