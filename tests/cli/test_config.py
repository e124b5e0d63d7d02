"""YAML configurations: what they build, and errors that name the key."""

from __future__ import annotations

import pytest

from amu_fast.audit import ChanceCap, LogisticPayoff, logits_and_loss
from amu_fast.cli import config as config_module
from amu_fast.cli.config import build_method, read_config
from amu_fast.cli.unlearn import EXAMPLE
from amu_fast.errors import DataError
from amu_fast.followers import HuberisedHinge
from amu_fast.unlearn.methods import FineTune, Stackelberg

VALID = """
model: {factory: "torch.nn:Linear", kwargs: {in_features: 3, out_features: 2}}
data: {factory: "tests.data:splits"}
method: {name: fine_tune}
"""


def write(path, text):
    path.write_text(text)
    return path


def test_a_method_takes_every_field_of_its_dataclass():
    method = build_method(
        {
            "name": "stackelberg",
            "epochs": 2,
            "weight": 3.5,
            "schedule": "alternating",
            "optimiser": {"lr": 0.07, "momentum": 0.5},
            "auditor": {
                "scores": "logits_and_loss",
                "payoff_kind": "logistic",
                "follower": {"name": "huberised_hinge", "l2": 0.1, "width": 0.25},
                "folds": 5,
            },
            "cap": {"decay": 0.9},
        }
    )
    assert method.epochs == 2
    assert method.weight == 3.5
    assert method.optimiser.lr == 0.07
    assert method.auditor.follower == HuberisedHinge(l2=0.1, width=0.25)
    assert method.auditor.scores is logits_and_loss
    assert method.auditor.payoff_kind == LogisticPayoff()
    assert method.auditor.folds == 5
    assert method.cap == ChanceCap(decay=0.9)


def test_defaults_are_the_methods_own():
    assert build_method({"name": "fine_tune"}) == FineTune()
    assert build_method({"name": "stackelberg", "cap": None}).cap is None
    assert build_method({"name": "stackelberg", "auditor": {"follower": "logistic"}}).auditor.follower.l2 == 1e-2


@pytest.mark.parametrize("name", list(config_module.named_methods()))
def test_every_method_can_be_configured(name):
    method = build_method({"name": name, "epochs": 3, "batch_size": 32})
    assert method.epochs == 3
    assert method.batch_size == 32


def test_a_preset_can_be_changed():
    method = build_method({"name": "stackelberg", "preset": "as_published", "auditor": {"folds": 2}})
    published = Stackelberg.as_published()
    assert method.auditor.groups == "class"
    assert method.auditor.folds == 2
    assert method.schedule == published.schedule


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, r"method\.name must be one of .*stackelberg.*got None"),
        ({"name": "forget_me"}, r"method\.name .*got 'forget_me'"),
        ({"name": "fine_tune", "wieght": 1}, r"method\.wieght is not an option; the options are epochs"),
        ({"name": "fine_tune", "epochs": "many"}, r"method\.epochs: .*number.*got 'many'"),
        ({"name": "fine_tune", "optimiser": {"lrr": 1}}, r"method\.optimiser\.lrr is not an option"),
        ({"name": "fine_tune", "optimiser": 3}, r"method\.optimiser must be a mapping, got 3"),
        ({"name": "stackelberg", "auditor": {"follower": {"name": "svm"}}}, r"method\.auditor\.follower\.name .*'svm'"),
        (
            {"name": "stackelberg", "auditor": {"follower": {"name": "logistic", "l2": 0}}},
            "follower: l2 must be > 0, got 0",
        ),
        ({"name": "stackelberg", "auditor": {"scores": "logits"}}, r"method\.auditor\.scores must be one of"),
        (
            {"name": "stackelberg", "schedule": "sometimes"},
            r"method\.schedule: .*'joint' or 'alternating'.*'sometimes'",
        ),
        (
            {"name": "fine_tune", "preset": "as_published"},
            r"method\.preset must be 'as_published' with name 'stackelberg'",
        ),
    ],
)
def test_errors_name_the_key_and_the_value(options, message):
    with pytest.raises(DataError, match=message):
        build_method(options)


def test_a_valid_file_is_read(tmp_path):
    config = read_config(write(tmp_path / "run.yaml", VALID))
    assert config.seed == 0
    assert config.model.kwargs == {"in_features": 3, "out_features": 2}
    assert config.model.build("model").in_features == 3


def test_the_example_is_valid(tmp_path):
    config = read_config(write(tmp_path / "run.yaml", EXAMPLE))
    assert isinstance(build_method(config.method), Stackelberg)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("model: [", "is not YAML"),
        ("- a list", "must hold a mapping with model, data and method, got list"),
        (VALID + "sead: 3\n", "sead: Extra inputs are not permitted, got 3"),
        (VALID + "seed: soon\n", "seed: .*integer.*got 'soon'"),
        ("model: {factory: 'a:b'}\nmethod: {name: fine_tune}\n", "data: Field required"),
        ("model: {kwargs: {}}\ndata: {factory: 'a:b'}\nmethod: {}\n", r"model\.factory: Field required"),
    ],
)
def test_a_wrong_file_is_refused_with_its_key(tmp_path, text, message):
    with pytest.raises(DataError, match=message):
        read_config(write(tmp_path / "run.yaml", text))


@pytest.mark.parametrize(
    ("factory", "kwargs", "message"),
    [
        ("torch.nn.Linear", {}, r"model\.factory must be 'module:function', got 'torch\.nn\.Linear'"),
        ("no_such_module:f", {}, r"model\.factory .*cannot be imported.*PYTHONPATH"),
        ("torch.nn:NoSuchLayer", {}, r"model\.factory .*cannot be imported"),
        ("torch.nn:Linear", {"width": 3}, r"model\.kwargs do not fit torch\.nn:Linear.*width"),
    ],
)
def test_a_factory_that_does_not_work_names_its_key(tmp_path, factory, kwargs, message):
    config = read_config(write(tmp_path / "run.yaml", VALID))
    source = config.model.model_copy(update={"factory": factory, "kwargs": kwargs})
    with pytest.raises(DataError, match=message):
        source.build("model")


def test_a_missing_file_says_how_to_get_one(tmp_path):
    with pytest.raises(DataError, match=r"nothing\.yaml does not exist; .*--example"):
        read_config(tmp_path / "nothing.yaml")
