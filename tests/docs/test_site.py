"""The site: every public name is on it, it builds without a warning, and it needs no network."""

from __future__ import annotations

import html.parser
import importlib
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from urllib.parse import unquote

import pytest

ROOT = Path(__file__).parents[2]
if not (ROOT / "docs").is_dir():
    pytest.skip("needs the repository's docs folder", allow_module_level=True)

import plain_markdown
import rooms

PACKAGES = [
    ".".join(path.parent.relative_to(ROOT).parts)
    for path in sorted((ROOT / "amu_fast").rglob("__init__.py"))
    if re.search(r"^__all__ = ", path.read_text(), re.M) and not {"bench", "kernels"} & set(path.parts)
]


def shown():
    """Module -> names on its page's table."""
    return {module: set(rooms.read(module).public) for room in rooms.ROOMS for module in room.modules}


@pytest.mark.parametrize("package", PACKAGES)
def test_every_public_name_of_a_package_is_on_its_page(package):
    pytest.importorskip("transformers" if package == "amu_fast.integrations" else "torch")
    public = {name for name in importlib.import_module(package).__all__ if not name.startswith("__")}
    assert public
    assert shown()[package] == public


def test_the_packages_are_those_that_we_think_of():
    assert len(PACKAGES) >= 14
    assert {"amu_fast", "amu_fast.unlearn", "amu_fast.audit", "amu_fast.linalg", "amu_fast.fleet"} <= set(PACKAGES)


def test_every_name_is_documented_once_and_where_it_is_defined():
    directives = [line for room in rooms.ROOMS for line in rooms.page(room).splitlines() if line.startswith("::: ")]
    assert len(directives) == len(set(directives)) == len(rooms.homes())
    assert rooms.anchor("amu_fast.audit.attacks.lira.Lira") == "amu_fast.audit.attacks.Lira"
    assert rooms.anchor("amu_fast.audit.auditor.Auditor") == "amu_fast.audit.Auditor"
    assert rooms.anchor("amu_fast.certificate.verify.verify") == "amu_fast.certificate.verify.verify"
    for whole in rooms.homes():
        if rooms.source(whole) is None:
            module, name = whole.rsplit(".", 1)
            assert f"{name}" in (rooms.source(module)).read_text()


def test_every_page_of_the_reference_is_in_the_navigation():
    navigation = (ROOT / "mkdocs.yml").read_text()
    for room in rooms.ROOMS:
        assert f"api/{room.slug}.md" in navigation
    for page in (ROOT / "docs").glob("*.md"):
        assert re.search(rf"[ :]{page.name}$", navigation, re.M), page.name


@pytest.mark.parametrize(
    ("docstring", "markdown"),
    [
        ("(*b, n) and (*b, p).", r"(\*b, n) and (\*b, p)."),
        ("d<dg(w), u>/dz", "d&lt;dg(w), u>/dz"),
        ("`a*b*c` stays", "`a*b*c` stays"),
        ("Text.\n\n>>> 1 + 1\n2\n\nMore.", "Text.\n\n```pycon\n>>> 1 + 1\n2\n```\n\nMore."),
        ("    g(w) = a*b  formula", "    g(w) = a*b  formula"),
        ("See docs/game.md.", 'See <a href="../game.html">docs/game.md</a>.'),
        ("Returns:\n    Loss; see: there.", "Returns:\n    Loss; see&#58; there."),
    ],
)
def test_docstrings_become_markdown(docstring, markdown):
    assert plain_markdown.sections_escaped(docstring) == markdown


class Page(html.parser.HTMLParser):
    """Anchors, links, and what a browser fetches when it opens the page."""

    def __init__(self, text):
        super().__init__()
        self.anchors, self.links, self.fetched = set(), set(), set()
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        given = dict(attributes)
        self.anchors |= {given[key] for key in ("id", "name") if given.get(key)}
        if tag == "a" and given.get("href"):
            self.links.add(given["href"])
        elif tag == "link" and {"canonical", "next", "prev"} & set((given.get("rel") or "").split()):
            return
        elif tag in ("link", "script", "img", "iframe", "source", "video", "audio", "object", "embed"):
            self.fetched |= {given[key] for key in ("src", "href", "data", "srcset") if given.get(key)}


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    pytest.importorskip("mkdocstrings")
    pytest.importorskip("material")
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "-f", str(ROOT / "mkdocs.yml")]
    # without a network, as far as Python can tell
    environment = os.environ | {
        "NO_MKDOCS_2_WARNING": "1",
        "https_proxy": "http://0.0.0.0:9",
        "http_proxy": "http://0.0.0.0:9",
    }
    done = subprocess.run([*command, "-d", str(folder)], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


@pytest.fixture(scope="module")
def pages(site):
    return {path: Page(path.read_text()) for path in site.rglob("*.html")}


@pytest.mark.slow
def test_nothing_is_fetched_from_elsewhere(site, pages):
    assert len(pages) > 35
    for path, page in pages.items():
        for target in page.fetched:
            assert not re.match(r"(https?:)?//", target), (path.name, target)
            # a server answers with 404.html from anywhere, so its targets begin at the root
            parent, name = (site, target.lstrip("/")) if path.name == "404.html" else (path.parent, target)
            file = (parent / unquote(name.split("?")[0].split("#")[0])).resolve()
            assert target.startswith("data:") or file.is_file(), (path.name, target)
    for sheet in site.rglob("*.css"):
        assert not re.search(r"(@import|url\()\s*['\"]?(https?:)?//", sheet.read_text()), sheet


@pytest.mark.slow
def test_every_link_and_anchor_inside_is_there(site, pages):
    checked = 0
    for path, page in pages.items():
        if path.name == "404.html":
            continue
        for link in page.links:
            if re.match(r"(https?|mailto|javascript):", link):
                continue
            target, _, anchor = unquote(link).partition("#")
            file = (path.parent / target.split("?")[0]).resolve() if target not in ("", ".") else path
            file = file / "index.html" if file.is_dir() else file
            assert file.is_file(), (path.relative_to(site), link)
            if anchor and file.suffix == ".html":
                assert anchor in pages[file].anchors, (path.relative_to(site), link)
            checked += 1
    assert checked > 1000


@pytest.mark.slow
def test_every_public_name_has_its_place(pages):
    anchors = set().union(*(page.anchors for path, page in pages.items() if path.parent.name == "api"))
    missing = [rooms.anchor(whole) for whole in rooms.homes() if rooms.anchor(whole) not in anchors]
    assert missing == []


@pytest.mark.slow
def test_a_browser_finds_words_from_the_file_system(site):
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    if browser is None:
        pytest.skip("needs chromium")
    command = [browser, "--headless", "--no-sandbox", "--disable-gpu", "--virtual-time-budget=15000", "--dump-dom",
               "--host-resolver-rules=MAP * ~NOTFOUND", f"{(site / 'index.html').as_uri()}?q=Huberised"]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert re.search(r"\d+ matching documents", done.stdout), done.stdout[-500:]
