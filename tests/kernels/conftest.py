"""Without Triton these helpers cannot be imported, not even to look for doctests."""

from __future__ import annotations

import importlib.util

collect_ignore = [] if importlib.util.find_spec("triton") else ["offline.py", "planted.py"]
