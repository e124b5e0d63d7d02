"""Every exception that `amu_fast` raises on purpose.

One base class, three kinds. Each message names the offending value and the fix; `DataError` is also a
`ValueError` and the other two are `RuntimeError`, so code that knows nothing of this library still catches them.
"""

from __future__ import annotations


class AmuFastError(Exception):
    """Base class of all errors of this library."""


class DataError(AmuFastError, ValueError):
    """An argument, a configuration or a data set is unusable as given."""


class SolveError(AmuFastError, RuntimeError):
    """A solver ended in another state than CONVERGED and the caller asked for that to be an error."""


class BackendError(AmuFastError, RuntimeError):
    """A compiled backend is present but broken, or required but absent."""
