"""The record of a run, its figures, and tables of methods beside retraining."""

from amu_fast.report.comparison import Comparison, MethodRuns
from amu_fast.report.provenance import Provenance
from amu_fast.report.report import AttackRecord, Cost, MethodRecord, Metric, Report
from amu_fast.report.writing import write_atomic

__all__ = [
    "AttackRecord",
    "Comparison",
    "Cost",
    "MethodRecord",
    "MethodRuns",
    "Metric",
    "Provenance",
    "Report",
    "write_atomic",
]
