"""Makes this library's docstrings Markdown.

They are written to be read in a terminal: doctests stand free, formulas use asterisks and angle brackets.
"""

from __future__ import annotations

import re

_CODE = re.compile(r"(``[^`]+``|`[^`]+`)")
_MARKS = re.compile(r"\\|\*|<(?=[A-Za-z/!])|(?<![\w`])_(?=\w)")
_PAGES = re.compile(r"\bdocs/([a-z-]+)\.md")


def escaped(text: str) -> str:
    """Text whose asterisks, brackets and underscores mean themselves; code, doctests and tables stay as they are."""
    lines, fenced = [], False
    for line in text.split("\n"):
        if line.startswith(">>> ") and not fenced:
            fenced = True
            lines += ["```pycon"]
        elif fenced and not line:
            fenced = False
            lines += ["```"]
        lines.append(line if fenced or line.startswith("    ") else _outside_code(line))
    return "\n".join([*lines, "```"] if fenced else lines)


def _outside_code(line: str) -> str:
    parts = _CODE.split(line)
    return "".join(part if i % 2 else _PAGES.sub(_link, _MARKS.sub(_escape, part)) for i, part in enumerate(parts))


def _escape(mark: re.Match[str]) -> str:
    return "&lt;" if mark[0] == "<" else f"\\{mark[0]}"


def _link(page: re.Match[str]) -> str:
    return f'<a href="../{page[1]}.html">docs/{page[1]}.md</a>'


def sections_escaped(text: str) -> str:
    """As `escaped`, and inside the sections of Google's style, whose indented lines are text."""
    lines, section = [], ""
    for line in text.split("\n"):
        if heading := re.match(r"(Args|Attributes|Returns|Raises|Yields):$", line):
            section = heading[1]
        elif line and not line.startswith(" "):
            section = ""
        if section and line.startswith("    "):
            line = _outside_code(line)
            if section in ("Returns", "Yields"):
                # the reader of docstrings would take what stands before a colon for a type
                line = re.sub(r":(?=\s|$)", "&#58;", line)
        lines.append(line)
    return escaped("\n".join(lines))
