"""ranks.py is run by a test in processes of its own; without transformers there is nothing to test."""

from __future__ import annotations

from importlib.util import find_spec

collect_ignore = ["ranks.py"]
if any(find_spec(name) is None for name in ("transformers", "accelerate", "peft")):
    collect_ignore_glob = ["*.py"]
