"""Methods by name: those of this package, and those that other installed packages offer by an entry point.

A third party's pyproject.toml, for a dataclass `MyMethod` with `name` and `unlearn(model, splits, *, seed)`:

    [project.entry-points."amu_fast.methods"]
    my_method = "my_package.methods:MyMethod"
"""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Mapping
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from amu_fast.errors import BackendError, DataError
from amu_fast.unlearn import methods

METHODS = "amu_fast.methods"
"""The group of entry points."""


def named_methods() -> Mapping[str, type]:
    """Method classes by their own `name`: this package's, then third parties' by the name of their entry point.

    Raises:
        BackendError: An entry point that cannot be imported.
        DataError: One that is no method class, or takes a name that is taken.
    """
    own = {_name(cls): cls for cls in (getattr(methods, name) for name in methods.__all__)}
    found = dict(own)
    for point in entry_points(group=METHODS):
        if point.name in found:
            raise DataError(f"the entry point {point.value} takes the method name {point.name!r}, which is taken")
        found[point.name] = _checked(point, loaded(point))
    return found


def loaded(point: EntryPoint) -> Any:
    """What an entry point names.

    Raises:
        BackendError: It cannot be imported.
    """
    try:
        return point.load()
    except (ImportError, AttributeError) as error:
        raise BackendError(
            f"the entry point {point.group}: {point.name} = {point.value} cannot be imported ({error}); update or "
            "uninstall its package"
        ) from error


def _checked(point: EntryPoint, cls: Any) -> type:
    if not inspect.isclass(cls) or not callable(getattr(cls, "unlearn", None)) or not dataclasses.is_dataclass(cls):
        raise DataError(
            f"the entry point {point.group}: {point.name} = {point.value} is no method: it must be a dataclass with "
            "unlearn(model, splits, *, seed)"
        )
    return cls


def _name(cls: Any) -> str:
    return str(next(field.default for field in dataclasses.fields(cls) if field.name == "name"))
