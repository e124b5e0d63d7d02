"""Configurations from YAML: checked key by key, with errors that name the key.

The envelope (seed, out, model, data, method) is a pydantic model. A method is built from its own dataclass: the keys
are its fields, so every constant of every method can be set and none needs to be written here again.
"""

from __future__ import annotations

import dataclasses
import inspect
import sys
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any, get_type_hints

import yaml
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from amu_fast import audit, followers
from amu_fast.audit import Auditor, ChanceCap
from amu_fast.errors import DataError
from amu_fast.unlearn import methods
from amu_fast.unlearn.adversarial import Perturbation
from amu_fast.unlearn.optimise import Sgd
from amu_fast.unlearn.plugins import named_methods

_SCORES: dict[str, Any] = {
    "log_likelihood": audit.log_likelihood,
    "logits_and_loss": audit.logits_and_loss,
    "confidence": audit.confidence,
    "margin": audit.margin,
    "modified_entropy": audit.modified_entropy,
}
_FOLLOWERS: dict[str, type] = {
    "logistic": followers.Logistic,
    "squared_hinge": followers.SquaredHinge,
    "huberised_hinge": followers.HuberisedHinge,
}
_PAYOFFS: dict[str, Any] = {"hinge": audit.HingePayoff(), "logistic": audit.LogisticPayoff()}
_NESTED: dict[str, type] = {
    "optimiser": Sgd,
    "game_optimiser": Sgd,
    "auditor": Auditor,
    "cap": ChanceCap,
    "perturbation": Perturbation,
}
_NAMED: dict[str, dict[str, Any]] = {"scores": _SCORES, "score": _SCORES, "payoff_kind": _PAYOFFS}
# Fields that take objects of code, which a YAML file cannot hold.
_CODE = ("callbacks", "augment", "init", "name")


class Source(BaseModel):
    """Where the model or the data come from: `module:function` called with keyword arguments."""

    model_config = ConfigDict(extra="forbid")

    factory: str
    kwargs: dict[str, Any] = Field(default_factory=dict)
    weights: Path | None = None

    def build(self, key: str) -> Any:
        """Import the function and call it.

        Raises:
            DataError: It cannot be imported, or refuses its arguments.
        """
        module, _, name = self.factory.partition(":")
        if not name:
            raise DataError(f"{key}.factory must be 'module:function', got {self.factory!r}")
        try:
            function = getattr(import_module(module), name)
        except (ImportError, AttributeError) as error:
            raise DataError(f"{key}.factory {self.factory!r} cannot be imported ({error}); check PYTHONPATH") from error
        try:
            return function(**self.kwargs)
        except TypeError as error:
            raise DataError(f"{key}.kwargs do not fit {self.factory}: {error}") from error


class Config(BaseModel):
    """One unlearning run."""

    model_config = ConfigDict(extra="forbid")

    model: Source
    data: Source
    method: dict[str, Any]
    seed: int = 0
    out: Path = Path("out/unlearn")


def read_config(path: Path) -> Config:
    """Read and check a YAML file.

    Raises:
        DataError: No such file, not YAML, or a key that is unknown, missing or of the wrong type.
    """
    if not path.is_file():
        raise DataError(f"{path} does not exist; `amu-fast unlearn --example > run.yaml` writes a first one")
    try:
        document = yaml.safe_load(path.read_text())
    except yaml.YAMLError as error:
        raise DataError(f"{path} is not YAML: {error}") from error
    if not isinstance(document, dict):
        raise DataError(f"{path} must hold a mapping with model, data and method, got {type(document).__name__}")
    try:
        return Config.model_validate(document)
    except ValidationError as error:
        raise DataError(f"{path}: {_first(error, '')}") from error


def build_method(options: Mapping[str, Any]) -> Any:
    """The method that a mapping describes: `name`, optionally `preset: as_published`, and fields of its dataclass.

    Raises:
        DataError: An unknown name, key or value, named by its path.

    >>> build_method({"name": "stackelberg", "weight": 2.0, "optimiser": {"lr": 0.05}}).optimiser.lr
    0.05
    """
    rest = dict(options)
    name, preset = rest.pop("name", None), rest.pop("preset", None)
    cls = _pick("method.name", name, named_methods())
    if preset is None:
        return _build(cls, rest, "method")
    if cls is not methods.Stackelberg or preset != "as_published":
        raise DataError(f"method.preset must be 'as_published' with name 'stackelberg', got {preset!r} with {name!r}")
    return _build(cls, rest, "method", methods.Stackelberg.as_published())


def _build(cls: type, options: Any, path: str, base: Any = None) -> Any:
    """An instance of a dataclass from a mapping, or `base` with the mapping's changes."""
    if not isinstance(options, Mapping):
        raise DataError(f"{path} must be a mapping, got {options!r}")
    known = [f.name for f in dataclasses.fields(cls) if f.init and f.name not in _CODE]
    values = {}
    for key, value in options.items():
        if key not in known:
            raise DataError(f"{path}.{key} is not an option; the options are {', '.join(known)}")
        values[key] = _value(cls, key, value, f"{path}.{key}", getattr(base, key, None))
    try:
        return cls(**values) if base is None else dataclasses.replace(base, **values)
    except DataError as error:
        raise DataError(f"{path}: {error}") from error


def _value(cls: type, key: str, value: Any, path: str, base: Any) -> Any:
    if key in _NAMED:
        return _pick(path, value, _NAMED[key])
    if key == "follower":
        options = dict(value) if isinstance(value, Mapping) else {"name": value}
        return _build(_pick(f"{path}.name", options.pop("name", None), _FOLLOWERS), options, path)
    if key in _NESTED and value is not None:
        return _build(_NESTED[key], value, path, base)
    try:
        adapter: TypeAdapter[Any] = TypeAdapter(_hint(cls, key))
        return adapter.validate_python(value)
    except ValidationError as error:
        raise DataError(_first(error, path)) from error


def _hint(cls: type, key: str) -> Any:
    """The type of one field; of one alone, as others may be known to the type checker only."""
    owner = next(base for base in cls.__mro__ if key in inspect.get_annotations(base))
    alone = type(owner.__name__, (), {"__annotations__": {key: inspect.get_annotations(owner)[key]}})
    return get_type_hints(alone, vars(sys.modules[owner.__module__]))[key]


def _pick(path: str, name: Any, table: Mapping[str, Any]) -> Any:
    if name not in table:
        raise DataError(f"{path} must be one of {', '.join(table)}, got {name!r}")
    return table[name]


def _first(error: ValidationError, path: str) -> str:
    """The first fault as `key: message, got value`."""
    fault = error.errors()[0]
    key = ".".join(str(part) for part in (*([path] if path else []), *fault["loc"]))
    return f"{key}: {fault['msg']}, got {fault['input']!r}"
