"""`amu-fast report FOLDER`: the page of a result folder, written again from its documents."""

from __future__ import annotations

import json
import webbrowser
from pathlib import Path

from amu_fast.errors import DataError
from amu_fast.report.document import AuditDocument
from amu_fast.report.html import save_html
from amu_fast.report.plain_report import document_of
from amu_fast.report.private import PrivateTable
from amu_fast.report.report import Report

AUDIT, REPORT, PRIVATE = "audit.json", "report.json", "private.json"


def run_report(folder: Path, *, private: bool, show: bool, as_json: bool) -> None:
    """Write report.html from audit.json, or from report.json where there is none, and say where it is.

    Args:
        folder: Of a result.
        private: Write report-private.html instead, with the single rows of private.json.
        show: Open it in the browser.
        as_json: Print where it is and what the verdict was as JSON.

    Raises:
        DataError: No such documents, or damaged ones.
        BackendError: jinja2 or matplotlib is not installed.
    """
    document = read_document(folder)
    table = PrivateTable.from_json(_read(folder / PRIVATE)) if private else None
    page = save_html(folder, document, table)
    if as_json:
        verdict = document.verdict
        outcome = {"outcome": None, "exit_code": None} if verdict is None else vars(verdict)
        print(json.dumps({"html": str(page), "outcome": outcome["outcome"], "exit_code": outcome["exit_code"]}))
    else:
        print(f"wrote {page}")
    if show:
        webbrowser.open(page.resolve().as_uri())


def read_document(folder: Path) -> AuditDocument:
    """The folder's audit, or what its report tells without one."""
    if (folder / AUDIT).is_file():
        return AuditDocument.from_json(_read(folder / AUDIT))
    if (folder / REPORT).is_file():
        return document_of(Report.load(folder / REPORT))
    raise DataError(f"{folder} holds neither {AUDIT} nor {REPORT}; give a folder that `amu-fast unlearn` wrote")


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise DataError(
            f"cannot read {path}: {error.strerror}; leave out --private, or make the audit again"
        ) from error
