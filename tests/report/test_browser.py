"""The page of a real audit in a real browser: it loads nothing, its figures decode, and it fits a phone and a desktop.

The page forbids scripts to itself, so it is measured from outside: a wrapper shows it in two frames and writes down
what it finds there.
"""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess

import pytest
from tiny import TASK

from amu_fast.experiments.audit_report import make_audit
from amu_fast.experiments.runs import run_method
from amu_fast.experiments.units import prepare_unit
from amu_fast.report.document import PARTS
from amu_fast.report.html import render
from amu_fast.unlearn.methods import Stackelberg

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
WIDTHS = {"desktop": 1280, "phone": 390}
WRAPPER = """<!doctype html><meta charset="utf-8"><title>measure</title>
<style>body {{ margin: 0 }} iframe {{ border: 0; height: 12000px; display: block }}</style>
{frames}
<pre id="found"></pre>
<script>
addEventListener("load", () => {{
  const found = {{}};
  for (const frame of document.querySelectorAll("iframe")) {{
    const page = frame.contentDocument, root = page.documentElement;
    found[frame.id] = {{
      images: [...page.images].map(i => [i.complete, i.naturalWidth, i.naturalHeight, i.alt.length, i.width]),
      tables: [...page.querySelectorAll("table")].map(t => [t.caption.textContent.trim().length, t.rows.length]),
      sections: [...page.querySelectorAll("section")].map(s => s.id),
      headings: [...page.querySelectorAll("h2")].map(h => h.getBoundingClientRect().top),
      overflow: root.scrollWidth - root.clientWidth,
      requests: frame.contentWindow.performance.getEntriesByType("resource").map(r => r.name),
      banner: page.querySelector(".banner .word").textContent,
      accent: frame.contentWindow.getComputedStyle(page.querySelector("h2 .number")).color,
    }};
  }}
  document.getElementById("found").textContent = JSON.stringify(found);
}});
</script>
"""

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium; apt install chromium"),
]


@pytest.fixture(scope="module")
def document(tmp_path_factory):
    unit = prepare_unit(TASK, 0, tmp_path_factory.mktemp("units"))
    method = Stackelberg(epochs=3.0, weight=1.0, batch_size=20, rows_per_side=20)
    return make_audit(unit, run_method(unit, method, full=False))[0]


@pytest.fixture(scope="module")
def page(document, tmp_path_factory):
    path = tmp_path_factory.mktemp("page") / "report.html"
    path.write_text(render(document))
    return path


def browse(path, *options):
    """Standard output of headless Chromium on a file, which reaches no host."""
    command = [CHROMIUM, "--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--no-first-run"]
    closed = ["--host-resolver-rules=MAP * ~NOTFOUND", f"--user-data-dir={path.parent / 'profile'}"]
    done = subprocess.run(
        [*command, *closed, *options, path.as_uri()], capture_output=True, text=True, timeout=300, check=True
    )
    return done.stdout


@pytest.fixture(scope="module")
def found(page):
    text = html.escape(page.read_text())
    frames = "\n".join(
        f'<iframe id="{name}" style="width:{width}px" srcdoc="{text}"></iframe>' for name, width in WIDTHS.items()
    )
    wrapper = page.with_name("wrapper.html")
    wrapper.write_text(WRAPPER.format(frames=frames))
    dom = browse(wrapper, "--dump-dom", "--virtual-time-budget=20000", "--window-size=1400,1200")
    return json.loads(html.unescape(re.search(r'<pre id="found">(.*?)</pre>', dom, re.DOTALL)[1]))


@pytest.mark.parametrize("name", WIDTHS)
def test_all_figures_decode_and_have_words(found, name):
    images = found[name]["images"]
    assert len(images) == 1 + 3 + 3 + 6 + 1  # differences, losses, three attacks, both players, changes
    for complete, width, height, words, shown in images:
        assert complete
        assert min(width, height) > 300
        assert words > 40
        assert 200 < shown <= WIDTHS[name]


@pytest.mark.parametrize("name", WIDTHS)
def test_all_sections_and_tables_are_shown_in_order(found, name):
    assert found[name]["sections"] == list(PARTS)
    tops = found[name]["headings"]
    assert tops == sorted(tops)
    tables = found[name]["tables"]
    assert len(tables) == 8  # claims, differences, values, damage, attacks, controls, provenance, backends
    assert all(caption > 10 and rows >= 3 for caption, rows in tables)


@pytest.mark.parametrize("name", WIDTHS)
def test_nothing_is_requested_and_nothing_sticks_out(found, name):
    assert found[name]["requests"] == []
    assert found[name]["overflow"] <= 0


def test_the_verdict_is_in_words_and_the_style_is_applied(found, document):
    words = {"meets_policy": "Meets the policy", "fails": "Fails", "inconclusive": "Inconclusive"}
    assert found["desktop"]["banner"] == words[document.verdict.outcome]
    assert found["desktop"]["accent"] == "rgb(0, 90, 156)"


def test_the_files_name_no_address(page):
    assert not re.search(r"(?:src|href)=\"(?!data:image/png;base64,|#)", page.read_text())


def test_screenshot(page):
    picture = page.with_name("report.png")
    browse(page, f"--screenshot={picture}", "--window-size=1280,1600")
    data = picture.read_bytes()
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    assert (int.from_bytes(data[16:20], "big"), int.from_bytes(data[20:24], "big")) == (1280, 1600)
    assert len(data) > 50_000  # a blank page has 10
