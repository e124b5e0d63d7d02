"""What runs in processes of its own is not imported here: transformers alone takes seconds."""

from __future__ import annotations

collect_ignore = ["collecting.py", "ranks.py", "training.py", "zero.py"]
