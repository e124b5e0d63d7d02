"""`python docs/site/run_page.py PAGE...`: run a page's Python from top to bottom and compare what it prints.

All ```python blocks of a page share one namespace. A ```text block right after one shows what it prints; after a
```bash block it shows what its `amu-fast` commands print (others are not run). `--write` renews these. Words must be
equal, numbers within two in the last digit shown: processors round differently.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import re
import shlex
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

_BLOCK = re.compile(r"```(python|bash)\n(.*?)```(?:\n\n```text\n(.*?)```)?", re.S)
_NUMBER = re.compile(r"\d+\.\d+|\d+")


@dataclass(frozen=True)
class Block:
    """A block of code, what the page says that it prints (None: nothing is said), and what it prints."""

    code: str
    stated: str | None
    printed: str


def run(page: Path, scene: dict[str, Any] | None = None) -> Iterator[Block]:
    """Run a page's blocks in the current folder.

    Args:
        page: The page.
        scene: Names that its code takes for granted.
    """
    module = ModuleType(page.stem.replace("-", "_") + "_page")
    module.__dict__.update(scene or {})
    sys.modules[module.__name__] = module  # dataclasses look their module up
    for language, code, stated in _BLOCK.findall(page.read_text(encoding="utf-8")):
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            if language == "python":
                exec(compile(code, page.name, "exec", dont_inherit=True), module.__dict__)
            elif stated:
                _commands(code)
        yield Block(code, stated or None, printed.getvalue())


def _commands(lines: str) -> None:
    from typer.testing import CliRunner

    from amu_fast.cli.app import app

    for line in lines.splitlines():
        done = CliRunner().invoke(app, shlex.split(line, comments=True)[1:])
        if not line.startswith("amu-fast ") or done.exit_code:
            raise SystemExit(f"{line}: {done.output}")
        print(done.output, end="")


def agree(stated: str, printed: str) -> bool:
    """Whether two outputs are the same up to rounding."""
    if _NUMBER.sub("#", stated).split() != _NUMBER.sub("#", printed).split():
        return False
    pairs = zip(_NUMBER.findall(stated), _NUMBER.findall(printed), strict=True)
    return all(abs(float(a) - float(b)) <= 2.5 * 10.0 ** -len(a.partition(".")[2]) for a, b in pairs)


def renewed(page: Path) -> str:
    """The page with its outputs as they are here and now."""
    found = iter(list(run(page)))

    def replaced(match: re.Match[str]) -> str:
        block = next(found)
        if not block.printed:
            return f"```{match[1]}\n{match[2]}```"
        return f"```{match[1]}\n{match[2]}```\n\n```text\n{block.printed}```"

    return _BLOCK.sub(replaced, page.read_text(encoding="utf-8"))


def main() -> int:
    """Run pages in a folder of their own; exit status 1 if one prints something else than it says."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("pages", nargs="+", type=Path)
    parser.add_argument("--write", action="store_true", help="renew the outputs")
    options = parser.parse_args()
    pages = [page.resolve() for page in options.pages]
    status = 0
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        for page in pages:
            if options.write:
                page.write_text(renewed(page), encoding="utf-8")
                continue
            for block in run(page):
                if not agree(block.stated or "", block.printed):
                    print(f"{page.name}: says\n{block.stated}prints\n{block.printed}")
                    status = 1
    return status


if __name__ == "__main__":
    sys.exit(main())
