"""`amu-fast unlearn` from a YAML file to its results, and again with the same seed."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file, save_model

from amu_fast.cli.unlearn import run_unlearn
from amu_fast.errors import DataError
from amu_fast.experiments.models import SmallCnn

CONFIG = """
model:
  factory: amu_fast.experiments.models:SmallCnn
  kwargs: {{side: 8, classes: 10, width: 4, hidden: 16}}
  weights: {weights}
data:
  factory: amu_fast.experiments.datasets:splits
  kwargs: {{name: digits, train: 400, forget: 100, validation: 300, test: 400}}
method: {{name: stackelberg, epochs: 1.0, rows_per_side: 32}}
"""


@pytest.fixture
def config(tmp_path):
    weights = tmp_path / "model.safetensors"
    save_model(SmallCnn(side=8, width=4, hidden=16, seed=1), str(weights))
    path = tmp_path / "run.yaml"
    path.write_text(CONFIG.format(weights=weights))
    return path


def run(config, out, capsys=None, **options):
    run_unlearn(config, **({"data_dir": None, "seed": 0, "out": out, "as_json": True} | options))


def test_it_writes_a_report_and_a_model_and_the_seed_fixes_the_bits(config, tmp_path, capsys):
    run(config, tmp_path / "a")
    document = json.loads(capsys.readouterr().out)
    assert document["report"]["method"]["name"] == "stackelberg"
    assert {"forget_accuracy", "test_accuracy"} <= set(document["report"]["metrics"])
    run(config, tmp_path / "b")
    run(config, tmp_path / "c", seed=1)
    first, again, other = (load_file(tmp_path / name / "model.safetensors") for name in "abc")
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not all(torch.equal(first[name], other[name]) for name in first)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("model.safetensors", "absent.safetensors", r"model\.weights .*absent\.safetensors does not exist"),
        ("hidden: 16", "hidden: 17", r"model\.weights .* does not fit the model"),
        ("models:SmallCnn", "datasets:load", r"model\.kwargs do not fit"),
        ("train: 400", "train: 4000", "exceed the 1797 rows"),
        ("forget: 100", "forget: 0", "0 < forget < train"),
    ],
)
def test_what_does_not_fit_is_named(config, tmp_path, old, new, message):
    config.write_text(config.read_text().replace(old, new))
    with pytest.raises(DataError, match=message):
        run(config, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_factories_must_return_what_their_keys_say(config, tmp_path):
    text = config.read_text()
    config.write_text(
        text.replace("datasets:splits", "models:SmallCnn").replace(
            "{name: digits, train: 400, forget: 100, validation: 300, test: 400}", "{}"
        )
    )
    with pytest.raises(DataError, match=r"data\.factory must return amu_fast\.unlearn\.Splits, got SmallCnn"):
        run(config, tmp_path / "out")
