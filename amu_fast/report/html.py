"""An audit document as one HTML file: no network, no script, every figure inside, every string escaped."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from amu_fast.errors import BackendError
from amu_fast.report import audit_figures as draw
from amu_fast.report import words
from amu_fast.report.document import PARTS, SCHEMA
from amu_fast.report.writing import write_atomic

if TYPE_CHECKING:
    from amu_fast.audit.intervals import Interval
    from amu_fast.report.audit_figures import Picture
    from amu_fast.report.document import AuditDocument
    from amu_fast.report.private import PrivateTable

REPORT_HTML = "report.html"
PRIVATE_HTML = "report-private.html"
_FILTERS: Mapping[str, Callable[..., Any]] = {
    "number": words.number,
    "points": words.points,
    "percent": words.percent,
    "span_number": words.span_number,
    "span_points": words.span_points,
    "span_percent": words.span_percent,
    "duration": words.duration,
    "memory": words.memory,
    "threshold": words.threshold,
    "metric_title": words.metric_title,
    "scopes": words.scopes,
    "cautions": words.cautions,
    "data_uri": lambda picture: f"data:image/png;base64,{base64.b64encode(picture.png).decode()}",
    "pretty": lambda config: json.dumps(config, indent=2, ensure_ascii=False),
}


def render(document: AuditDocument, private: PrivateTable | None = None) -> str:
    """The whole page.

    Args:
        document: what may be shared.
        private: single rows; with them the page says on top that it may not be shared.

    Raises:
        BackendError: jinja2 or matplotlib is not installed.
    """
    return str(
        _environment()
        .get_template("audit.html")
        .render(
            doc=document,
            private=private,
            schema=SCHEMA,
            parts=[(number, part, words.TITLES[part]) for number, part in enumerate(PARTS, 1)],
            pictures=_pictures(document),
            outcome=_outcome(document),
            states=words.STATES,
            sides=words.SIDES,
            attack_intervals=_attack_intervals(document),
            control_intervals=_control_intervals(document),
            difference_intervals=_difference_intervals(document),
            value_intervals=[m.interval for v in document.values.values() for m in v.values() if m is not None],
            robustness_intervals=_robustness_intervals(document),
        )
    )


def save_html(directory: str | Path, document: AuditDocument, private: PrivateTable | None = None) -> Path:
    """Write `report.html`, or `report-private.html` where single rows are given, atomically."""
    name = REPORT_HTML if private is None else PRIVATE_HTML
    return write_atomic(Path(directory) / name, render(document, private).encode())


def _environment() -> Any:
    try:
        from jinja2 import Environment, PackageLoader, StrictUndefined
    except ImportError as error:
        raise BackendError("HTML reports need jinja2; pip install 'amu-fast[report]'") from error
    environment = Environment(
        loader=PackageLoader("amu_fast.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(_FILTERS)
    return environment


def _pictures(document: AuditDocument) -> dict[str, tuple[Picture, ...]]:
    """Part to its figures."""
    return {
        "comparison": () if document.comparison is None else (draw.differences(document.comparison),),
        "losses": () if document.losses is None else draw.loss_panels(document.losses),
        "roc": () if document.roc is None else draw.roc_panels(document.roc),
        "history": () if document.history is None else draw.player_panels(document.history),
        "examples": () if document.examples is None else (draw.changes(document.examples),),
    }


def _outcome(document: AuditDocument) -> tuple[str, str, str]:
    if document.verdict is None:
        sign, word, _ = words.NOT_JUDGED
        return sign, word, document.missing["verdict"]
    return words.OUTCOMES[document.verdict.outcome]


def _difference_intervals(document: AuditDocument) -> list[Interval | None]:
    table = document.comparison
    return [] if table is None else [runs.interval(metric) for runs in table.rows for metric in table.metrics]


def _attack_intervals(document: AuditDocument) -> list[Interval | None]:
    rows = document.attacks or ()
    own = [(row.record.auc, row.retrained, row.record.difference) for row in rows]
    return [i for triple in own for i in triple] + [i for row in rows for i in row.record.tpr.values()]


def _control_intervals(document: AuditDocument) -> list[Interval | None]:
    return [i for row in document.attacks or () for i in (row.positive, row.negative)]


def _robustness_intervals(document: AuditDocument) -> list[Interval | None]:
    rows = document.robustness or ()
    return [m.interval for row in rows for m in (row.before, row.after, row.retrained) if m is not None]
