"""ranks.py is run by a test in processes of its own."""

from __future__ import annotations

collect_ignore = ["ranks.py"]
