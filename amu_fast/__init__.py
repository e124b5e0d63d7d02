"""amu_fast: adversarial machine unlearning, fast and with a bound on its error.

The names below are the short public list; each is imported on first use, so `import amu_fast` costs nothing. The
packages `amu_fast.unlearn` and `amu_fast.audit` hold everything else.
"""

from __future__ import annotations

import importlib
from typing import Any

__version__ = "0.1.0"

# Name -> the module that defines or re-exports it. Never `unlearn` or `audit`: they would shadow the packages.
_PUBLIC = {
    "AmuFastError": "errors",
    "Auditor": "audit",
    "BackendError": "errors",
    "DataError": "errors",
    "HuberisedHinge": "followers",
    "Logistic": "followers",
    "SolveError": "errors",
    "Splits": "splits",
    "SquaredHinge": "followers",
    "Stackelberg": "unlearn",
    "Status": "status",
    "best_response": "implicit",
}

__all__ = ["__version__", *_PUBLIC]


def __getattr__(name: str) -> Any:
    """Import a public name on first use (PEP 562)."""
    if name not in _PUBLIC:
        raise AttributeError(f"module 'amu_fast' has no attribute {name!r}; the public names are {', '.join(__all__)}")
    value = getattr(importlib.import_module(f"amu_fast.{_PUBLIC[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
