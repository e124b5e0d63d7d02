"""A Griffe extension: what it reads of this library's docstrings is Markdown."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import griffe

sys.path.insert(0, str(Path(__file__).parent))
from plain_markdown import sections_escaped


class Docstrings(griffe.Extension):
    """Escapes every docstring, the text of its sections included."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Called for every object when it is loaded."""
        if obj.docstring is not None and not obj.is_alias:
            obj.docstring.value = sections_escaped(obj.docstring.value)
