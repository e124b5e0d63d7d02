"""Third parties' methods come in by entry points and through the same door."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from importlib.metadata import EntryPoint
from types import ModuleType

import pytest

from amu_fast.cli.config import build_method
from amu_fast.errors import BackendError, DataError
from amu_fast.unlearn import plugins
from amu_fast.unlearn.methods import FineTune


@dataclass(frozen=True)
class Nothing:
    """Returns the model as it is."""

    strength: float = 1.0
    name: str = "nothing"

    def unlearn(self, model, splits, *, seed=0):
        return FineTune(epochs=0.1).unlearn(model, splits, seed=seed)


@pytest.fixture
def offered(monkeypatch):
    module = ModuleType("somebody_elses")
    module.Nothing, module.number = Nothing, 3
    monkeypatch.setitem(sys.modules, "somebody_elses", module)
    points = []
    monkeypatch.setattr(plugins, "entry_points", lambda group: [p for p in points if p.group == group])

    def offer(name, value):
        points.append(EntryPoint(name, value, plugins.METHODS))

    return offer


def test_a_third_partys_method_is_found_and_configured(offered):
    offered("nothing", "somebody_elses:Nothing")
    assert plugins.named_methods()["nothing"] is Nothing
    assert build_method({"name": "nothing", "strength": 2}) == Nothing(strength=2.0)


@pytest.mark.parametrize(
    ("name", "value", "error", "message"),
    [
        ("lost", "somebody_elses:Lost", BackendError, r"lost = somebody_elses:Lost cannot be imported"),
        ("gone", "no_such_package:Gone", BackendError, r"gone = no_such_package:Gone cannot be imported"),
        ("number", "somebody_elses:number", DataError, r"number = somebody_elses:number is no method"),
        ("scrub", "somebody_elses:Nothing", DataError, r"takes the method name 'scrub', which is taken"),
    ],
)
def test_what_is_broken_is_named(offered, name, value, error, message):
    offered(name, value)
    with pytest.raises(error, match=message):
        plugins.named_methods()


def test_every_method_of_the_package_has_a_name_of_its_own():
    from amu_fast.unlearn import methods

    assert len(plugins.named_methods()) >= len(methods.__all__) == 19
