"""`amu-fast report`: the page of a folder, from whichever document is there."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from amu_fast.cli.app import app
from amu_fast.errors import DataError
from amu_fast.report import Cost, MethodRecord, Provenance, Report
from amu_fast.report.document import PARTS, AuditDocument, Subject
from amu_fast.report.private import PrivateRow, PrivateTable
from amu_fast.report.verdict_record import ReasonRecord, VerdictRecord


def invoke(*arguments):
    return CliRunner().invoke(app, ["report", *map(str, arguments)])


@pytest.fixture(scope="module")
def report():
    return Report(MethodRecord("toy", {}), 3, {}, Cost(1.0, 2.0, 3.0, 4), Provenance.collect({}))


@pytest.fixture(scope="module")
def document():
    verdict = VerdictRecord("fails", 1, (ReasonRecord("leaks", "It leaks."),), {}, ())
    missing = {part: "not in this test" for part in PARTS if part != "verdict"}
    return AuditDocument("Toy", Subject(MethodRecord("toy", {}), 3, "toy", {}, "none"), verdict, missing=missing)


def test_page_of_a_report(report, tmp_path):
    report.save(tmp_path / "report.json")
    done = invoke(tmp_path)
    assert done.exit_code == 0, done.output
    assert done.stdout.strip() == f"wrote {tmp_path / 'report.html'}"
    page = (tmp_path / "report.html").read_text()
    assert "There is no retrained model to compare with" in page
    assert "Unlearning by toy" in page


def test_an_audit_is_preferred_and_json_tells_the_verdict(report, document, tmp_path):
    report.save(tmp_path / "report.json")
    document.save(tmp_path / "audit.json")
    done = invoke(tmp_path, "--json")
    expected = {"html": str(tmp_path / "report.html"), "outcome": "fails", "exit_code": 1}
    assert json.loads(done.stdout) == expected
    assert done.exit_code == 0  # the page was written; gating is another command's work
    assert "It leaks." in (tmp_path / "report.html").read_text()


def test_the_private_page_is_a_file_of_its_own(document, tmp_path):
    document.save(tmp_path / "audit.json")
    PrivateTable("Toy", "loss", "phi", (PrivateRow("abcdef", 1.0, 2.0, None, worst=True),), ()).save(
        tmp_path / "private.json"
    )
    assert invoke(tmp_path, "--private").exit_code == 0
    assert not (tmp_path / "report.html").exists()
    assert "abcdef" in (tmp_path / "report-private.html").read_text()


def test_open_shows_the_page(document, tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr("webbrowser.open", seen.append)
    document.save(tmp_path / "audit.json")
    assert invoke(tmp_path).exit_code == 0
    assert seen == []
    assert invoke(tmp_path, "--open").exit_code == 0
    assert seen == [(tmp_path / "report.html").as_uri()]


@pytest.mark.parametrize(
    ("files", "options", "message"),
    [
        ({}, (), "holds neither audit.json nor report.json"),
        ({"audit.json": "{"}, (), "not a amu-fast-audit/1 document"),
        ({"report.json": '{"schema": "amu-fast-demo/1"}'}, (), "got 'amu-fast-demo/1'"),
        ({"audit.json": None}, ("--private",), "cannot read .*private.json"),
    ],
)
def test_unusable_folders(document, tmp_path, files, options, message):
    for name, text in files.items():
        (tmp_path / name).write_text(document.to_json() if text is None else text)
    done = invoke(tmp_path, *options)
    assert isinstance(done.exception, DataError)
    with pytest.raises(DataError, match=message):
        raise done.exception
    assert not list(tmp_path.glob("*.html"))
