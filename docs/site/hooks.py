"""MkDocs hooks: pages that are made, from records, from the root's documents and from docstrings."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

sys.path.insert(0, str(Path(__file__).parent))
import rooms

ROOT = rooms.ROOT
RECORDS = ROOT / "bench" / "results"
#: Folders of records whose Markdown is a page.
SHOWN = ("table", "compare", "language", "ulira", "dangers", "demo", "deletions", "pictures")
_COMMENT = re.compile(r"^<!--.*?-->$", re.M)
_IMAGE = re.compile(r"!\[[^]]*\]\(([\w./-]+\.(?:png|svg))\)")
#: Where the pages' links out of docs/ lead on the site.
_MOVED = (
    ("](../bench/results/", "](records/"),
    ("](../CONTRIBUTING.md", "](contributing.md"),
    ("](../CHANGELOG.md", "](changelog.md"),
)


def on_files(files: Files, config: Any) -> Files:
    """Add what does not lie below docs/."""
    for room in rooms.ROOMS:
        files.append(File.generated(config, f"api/{room.slug}.md", content=rooms.page(room)))
    files.append(File.generated(config, "api/index.md", content=rooms.index()))
    for name in ("CONTRIBUTING", "CHANGELOG"):
        files.append(File.generated(config, f"{name.lower()}.md", abs_src_path=str(ROOT / f"{name}.md")))
    for folder in SHOWN:
        for path in sorted((RECORDS / folder).glob("*.md")):
            _add_record(files, config, path)
    for page in list(files.documentation_pages()):
        for target in _outside_images(page):
            _add(files, config, ROOT / target)
    return files


def _add_record(files: Files, config: Any, path: Path) -> None:
    _add(files, config, path)
    for image in _IMAGE.findall(path.read_text(encoding="utf-8")):
        _add(files, config, path.parent / image)


def _outside_images(page: File) -> list[str]:
    return re.findall(r"\]\(\.\./(bench/results/[\w./-]+\.(?:png|svg))\)", page.content_string)


def _add(files: Files, config: Any, path: Path) -> None:
    uri = f"records/{path.relative_to(RECORDS).as_posix()}"
    if files.get_file_from_path(uri) is None:
        files.append(File.generated(config, uri, abs_src_path=str(path)))


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Drop the marks of generated blocks, and lead links to where the site has their targets."""
    markdown = _COMMENT.sub("", markdown)
    for old, new in _MOVED:
        markdown = markdown.replace(old, new)
    return markdown
