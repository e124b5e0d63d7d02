"""The methods of the comparison: this package's, and those of third parties.

Every method has two searched numbers (one where it has no more) and starts from its authors' constants as far as they
fit; momentum, decay and schedules are those of its class. Third parties add a space by an entry point of the group
`amu_fast.spaces` whose object is a `Space`.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import entry_points

from amu_fast.errors import DataError
from amu_fast.experiments.compare.our_spaces import OURS
from amu_fast.experiments.compare.space import Axis, Parameters, Space
from amu_fast.unlearn.plugins import loaded

__all__ = ["OURS", "Axis", "Parameters", "Space", "spaces"]

SPACES = "amu_fast.spaces"


def spaces() -> Mapping[str, Space]:
    """By name: this package's in the order of the table, then third parties'.

    Raises:
        BackendError: An entry point that cannot be imported.
        DataError: One that is no `Space`, or takes a name that is taken.
    """
    found = {space.name: space for space in OURS}
    for point in entry_points(group=SPACES):
        space = loaded(point)
        if not isinstance(space, Space) or space.name in found:
            raise DataError(f"the entry point {SPACES}: {point.name} = {point.value} must be a Space with a new name")
        found[space.name] = space
    return found
