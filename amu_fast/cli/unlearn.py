"""`amu-fast unlearn CONFIG`: one method on the user's own model and data, or on a built-in task."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from torch import nn

from amu_fast.cli.config import Config, build_method, read_config
from amu_fast.errors import DataError
from amu_fast.splits import Splits
from amu_fast.unlearn import unlearn
from amu_fast.unlearn.progress import Progress

EXAMPLE = """\
# amu-fast unlearn run.yaml
# `factory` is module:function, called with `kwargs`. Put your own here: the model's returns a torch.nn.Module, the
# data's an amu_fast.unlearn.Splits. `weights`, a safetensors file, is loaded into the model if given.
model:
  factory: amu_fast.experiments.models:SmallCnn
  kwargs: {side: 28, classes: 10}
  weights: model.safetensors
data:
  factory: amu_fast.experiments.datasets:splits
  kwargs: {name: mnist-5k, train: 2500, forget: 500, validation: 800, test: 1700, seed: 0}
method:
  name: stackelberg          # retrain, fine_tune, gradient_ascent, neg_grad_plus, score_moment_matching
  epochs: 1.0                # budget in retain-set sizes, auditing rows included
  weight: 5.0
  optimiser: {lr: 0.15, momentum: 0.0}
  auditor: {follower: {name: squared_hinge, l2: 0.01}, folds: 3}
seed: 0
out: out/unlearn
"""


def run_unlearn(path: Path, *, data_dir: Path | None, seed: int | None, out: Path | None, as_json: bool) -> None:
    """Read the configuration, unlearn, and write report.json and model.safetensors.

    Raises:
        DataError: The configuration, the model or the data are unusable.
    """
    config = read_config(path)
    method = replace(build_method(config.method), callbacks=(Progress(),))
    figures = find_spec("matplotlib") is not None
    if not figures:
        print("matplotlib is not installed: no figures; pip install 'amu-fast[report]' to have them", file=sys.stderr)
    splits = _splits(config, data_dir)
    model = _model(config)
    result = unlearn(
        model,
        retain=splits.retain,
        forget=splits.forget,
        validation=splits.validation,
        test=splits.test,
        method=method,
        seed=config.seed if seed is None else seed,
    )
    folder = config.out if out is None else out
    result.save(folder, figures=figures)
    if as_json:
        print(json.dumps({"out": str(folder), "report": json.loads((folder / "report.json").read_text())}, indent=2))
    else:
        print(f"wrote {folder / 'report.json'} and {folder / 'model.safetensors'}")


def _splits(config: Config, data_dir: Path | None) -> Splits:
    source = config.data
    if data_dir is not None:
        source = source.model_copy(update={"kwargs": {**source.kwargs, "data_dir": data_dir}})
    splits = source.build("data")
    if not isinstance(splits, Splits):
        raise DataError(f"data.factory must return amu_fast.unlearn.Splits, got {type(splits).__name__}")
    return splits


def _model(config: Config) -> nn.Module:
    model: Any = config.model.build("model")
    if not isinstance(model, nn.Module):
        raise DataError(f"model.factory must return a torch.nn.Module, got {type(model).__name__}")
    weights = config.model.weights
    if weights is None:
        return model
    if not weights.is_file():
        raise DataError(f"model.weights {weights} does not exist; give a safetensors file or leave the key out")
    from safetensors import SafetensorError
    from safetensors.torch import load_model

    try:
        load_model(model, weights)
    except (SafetensorError, RuntimeError) as error:
        raise DataError(f"model.weights {weights} does not fit the model: {error}") from error
    return model
