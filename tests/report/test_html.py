"""The page: ten sections in order, reasons for what is missing, every string escaped, tables and figures for all."""

from __future__ import annotations

import base64
import re
import sys
from html.parser import HTMLParser

import pytest

from amu_fast.errors import BackendError
from amu_fast.report.document import PARTS
from amu_fast.report.html import render, save_html
from amu_fast.report.words import OUTCOMES, TITLES

VOID = {"meta", "img", "br", "link", "input", "hr"}


class Page(HTMLParser):
    """The elements of a page with their attributes and text, checked to be nested well."""

    def __init__(self, text):
        super().__init__()
        self.elements, self._open = [], []
        self.feed(text)
        assert self._open == [], f"never closed: {[name for name, _ in self._open]}"

    def handle_starttag(self, tag, attrs):
        element = {"tag": tag, "text": "", **dict(attrs)}
        self.elements.append(element)
        if tag not in VOID:
            self._open.append((tag, element))

    def handle_endtag(self, tag):
        opened, _ = self._open.pop()
        assert opened == tag, f"<{opened}> closed by </{tag}>"

    def handle_data(self, data):
        for _, element in self._open:
            element["text"] += data

    def all(self, tag):
        return [element for element in self.elements if element["tag"] == tag]

    def section(self, part):
        return re.sub(r"\s+", " ", next(s["text"] for s in self.all("section") if s["id"] == part))


@pytest.fixture(scope="module")
def text(case):
    return render(case.document)


@pytest.fixture(scope="module")
def page(text):
    return Page(text)


@pytest.fixture(scope="module")
def empty_page(empty):
    return Page(render(empty))


@pytest.mark.parametrize("which", ["page", "empty_page"])
def test_ten_sections_in_the_order_of_the_report(which, request):
    sections = request.getfixturevalue(which).all("section")
    assert tuple(section["id"] for section in sections) == PARTS
    headings = [h["text"] for h in request.getfixturevalue(which).all("h2")]
    assert headings == [f"{number} {TITLES[part]}" for number, part in enumerate(PARTS, 1)]


def test_each_missing_part_says_why(empty_page):
    for part in PARTS:
        assert f"no {part} in this <test>" in empty_page.section(part)
    assert "Not judged" in empty_page.section("verdict")
    assert empty_page.all("img") == []


def test_parts_that_are_there_are_not_called_missing(page):
    assert all("Not available" not in page.section(part) for part in PARTS)


def test_user_strings_are_escaped(hostile_case):
    """In text, in attributes, in the title, and never run as a template."""
    text = render(hostile_case.document, hostile_case.private)
    hostile = Page(text)
    assert not [e for e in hostile.elements if e["tag"] == "script" or "onerror" in e]
    assert "{{ 7 * 7 }}" in hostile.all("h1")[0]["text"]
    assert "<script>alert(1)</script>" in hostile.all("title")[0]["text"]
    assert all(image["src"].startswith("data:image/png;base64,") for image in hostile.all("img"))


def test_nothing_is_loaded_and_nothing_runs(text, page):
    assert [e for e in page.elements if e["tag"] in ("script", "link", "iframe", "object", "base")] == []
    assert not re.search(r"url\(|@import|https?://|javascript:", text)
    policy = next(m["content"] for m in page.all("meta") if m.get("http-equiv") == "Content-Security-Policy")
    assert policy.startswith("default-src 'none'; img-src data:")
    assert {a["href"][0] for a in page.all("a")} == {"#"}
    ids = {e["id"] for e in page.elements if "id" in e}
    assert {a["href"][1:] for a in page.all("a")} <= ids


def test_every_figure_has_words(page):
    images = page.all("img")
    assert len(images) == 1 + 3 + 1 + 4 + 1  # differences, losses, one attack, four recorded quantities, changes
    for image in images:
        assert base64.b64decode(image["src"].partition(",")[2])[:4] == b"\x89PNG"
        assert re.search(r"\d", image["alt"])
        assert len(image["alt"]) > 40


def test_tables_have_captions_and_scopes(page):
    tables = page.all("table")
    assert len(tables) == len(page.all("caption")) == 9
    assert all(caption["text"].strip() for caption in page.all("caption"))
    assert {th.get("scope") for th in page.all("th")} == {"row", "col"}
    labelled = [td for td in page.all("td") if td.get("data-label")]
    assert len(labelled) == len(page.all("td"))


def test_the_verdict_is_said_in_words(page, case):
    section = page.section("verdict")
    for words in (
        "Inconclusive",
        "Exit code 3",
        "interval_crosses_margin",
        "undecided",
        "not evaluable",
        "within ±5.0",
    ):
        assert words in section
    assert case.document.verdict.outcome in OUTCOMES


@pytest.mark.parametrize("part", ["verdict", "comparison", "attacks", "robustness"])
def test_intervals_say_their_level_and_scope(page, part):
    assert re.search(r"Brackets are 9[05] % intervals for this model only \(rows resampled", page.section(part))


def test_every_attack_says_whether_it_was_in_the_game(page, case):
    section = page.section("attacks")
    for row in case.document.attacks:
        mark = "in the game" if row.record.in_game else "not in the game"
        assert re.search(rf"{row.record.name} {mark}", section)
    assert "loss not in the game" in section


def test_numbers_carry_a_real_minus_and_points(page, case):
    comparison = case.document.comparison
    value = 100 * comparison.methods[0].differences["test_accuracy"][0]
    assert f"{value:+.1f}".replace("-", "−") in page.section("comparison")
    assert f"{comparison.mean_gap(comparison.floor):.1f}" in page.section("comparison")
    assert f"{comparison.methods[0].attained_margin(comparison.metrics):.1f}" in page.section("comparison")


def test_reasons_of_undefined_numbers_are_shown(page):
    assert "peak memory was not measured" in page.section("cost")


def test_rows_appear_in_the_private_page_alone(case, empty, text):
    private = case.private
    marked = render(empty, private)
    assert private.worst[0].id in marked
    assert "Private copy" in marked
    assert not any(row.id in text for row in private.forget)
    assert "Private copy" not in text


def test_files_are_written_under_names_of_their_own(case, empty, tmp_path):
    assert save_html(tmp_path, empty).name == "report.html"
    assert save_html(tmp_path, empty, case.private).name == "report-private.html"


def test_a_missing_jinja_is_named(empty, monkeypatch):
    monkeypatch.setitem(sys.modules, "jinja2", None)
    with pytest.raises(BackendError, match="HTML reports need jinja2; pip install"):
        render(empty)
