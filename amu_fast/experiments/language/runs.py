"""One run of one method on one unit, judged against the unit's retrained model."""

from __future__ import annotations

import time
from copy import deepcopy
from dataclasses import asdict

from amu_fast.audit.intervals import average_gap
from amu_fast.audit.metrics import collapsed
from amu_fast.errors import SolveError
from amu_fast.experiments.language.families import Recipe
from amu_fast.experiments.language.judge import HEADLINE, headline, panel
from amu_fast.experiments.language.loops import descend
from amu_fast.experiments.language.units import LanguageUnit
from amu_fast.experiments.runs import RunRecord
from amu_fast.report.provenance import config_hash
from amu_fast.report.report import MethodRecord
from amu_fast.unlearn.objectives import summed_log_likelihoods

UNLEARNING_ROLE = 100


def run_recipe(unit: LanguageUnit, recipe: Recipe, share: float) -> RunRecord:
    """Unlearn the unit's forget authors within `share` of a fine-tuning, and judge what that left.

    A run that diverges counts as one that did nothing: it is never dropped (S2).
    """
    model, budget = deepcopy(unit.original), share * unit.task.fine_tuning_samples
    forget = dict(unit.parts["forget"])
    if recipe.name == "npo":
        forget["original"] = summed_log_likelihoods(unit.original, forget)
    parts = {"retain": unit.parts["kept"], "forget": forget, "validation": unit.parts["game"]}
    diverged, used, steps, seed = "", 0.0, 0, unit.training_seed(UNLEARNING_ROLE)
    began = time.perf_counter()
    try:
        done = descend(
            model,
            recipe.objective(),
            parts,
            recipe.optimiser,
            budget,
            seed=seed,
            audit_batch=recipe.audit_batch,
        )
        used, steps = done.gradient_samples, done.steps
    except SolveError as error:
        diverged = str(error)
    seconds = time.perf_counter() - began
    outputs = unit.outputs["original"] if diverged else unit.outputs_of(model)
    figures, retrain = (headline(o, unit.references) for o in (outputs, unit.outputs["retrain"]))
    differences = {name: figures[name] - retrain[name] for name in HEADLINE}
    return RunRecord(
        unit=unit.seed,
        seed=seed,
        method=MethodRecord.of(recipe),
        parameters=dict(recipe.parameters),
        headline=figures,
        panel={**panel(outputs), "steps": float(steps)},
        differences=differences,
        gap=average_gap(differences),
        collapsed=collapsed(figures["general_accuracy"], retrain["general_accuracy"]),
        diverged=diverged,
        seconds=seconds,
        gradient_samples=used,
        budget=budget,
        fingerprint=fingerprint(unit, recipe, share),
    )


def fingerprint(unit: LanguageUnit, recipe: Recipe, share: float) -> str:
    """Equal for equal runs only; a hash of rows stands for the rows."""
    return config_hash([asdict(unit.task), unit.data_digest, unit.seed, asdict(recipe), share])
