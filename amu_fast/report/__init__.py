"""The record of a run, its figures and page, and tables of methods beside retraining."""

from amu_fast.report.comparison import Comparison, MethodRuns
from amu_fast.report.document import AuditDocument
from amu_fast.report.private import PrivateTable
from amu_fast.report.provenance import Provenance
from amu_fast.report.report import AttackRecord, Cost, MethodRecord, Metric, Report
from amu_fast.report.verdict_record import VerdictRecord
from amu_fast.report.writing import write_atomic

__all__ = [
    "AttackRecord",
    "AuditDocument",
    "Comparison",
    "Cost",
    "MethodRecord",
    "MethodRuns",
    "Metric",
    "PrivateTable",
    "Provenance",
    "Report",
    "VerdictRecord",
    "write_atomic",
]
