"""One door to everything that `docs/statistics.md` rules; nothing is defined here.

| rule | what | functions |
|---|---|---|
| S1 | scope of an interval | `Interval.scope` |
| S2 | units, seeds, collapsed runs | `t_interval`, `paired_t`, `sign_flip_test`, `collapsed` |
| | its sizes | `t_power`, `effect_for`, `units_for` |
| S3 | interval of an AUC | `auc_interval`, `widened` (cross-fitted), `permutation_test`; `auc_deviation` for planning |
| S4 | several rows of one person | `auc_interval(clusters=)`, `auc_difference(clusters=)`, `clustered_mean` |
| S5 | TPR at an FPR | `threshold_at_fpr`, `tpr_interval`, `tpr_difference`, `roc_curve`; `members_for_rate` |
| S6 | the reference's value | `auc_difference`, `ChanceProof` |
| S7 | equivalence | `equivalent` |
| | its sizes | `rows_for_equivalence`, `smallest_margin`, `equivalence_power`, `units_for_equivalence` |
| S8 | margins | `Margins`, `auc_margin`, `accuracy_difference` |
| S9 | several claims | `holm`, `holm_intervals`, `intersection_union`, `resolve` |
| S10 | statistics biased at the null | `ks_statistic`, `wasserstein_1`: never without their null |
| S11 | controls | `Control`, `shortfalls` |
| S12 | over-unlearning | `over_unlearning_claim` |
| S13 | the headline | `attained_margin`, `average_gap`, `paired_t` |
| S14 | epsilon | `epsilon_lower_bound`, `epsilon_ceiling` |
| S15 | the cap | `ChanceCap` |
| S16 | tuning without retrain | `Splits.split_validation`, `fresh_rows` |
| verdict | its claims | `Claim`, `State`, `Evidence`, `Reason` |
| | its table | `judge`, `decide`, `Conditions`, `Verdict` |
"""

from amu_fast.audit.attacks.result import AttackResult, widened
from amu_fast.audit.cap import ChanceCap
from amu_fast.audit.claims import (
    Claim,
    State,
    accuracy_claim,
    auc_claim,
    over_unlearning_claim,
    resolve,
    tpr_claim,
)
from amu_fast.audit.controls import Control, shortfalls
from amu_fast.audit.delong import auc_difference, auc_interval
from amu_fast.audit.epsilon import EpsilonLowerBound, epsilon_ceiling, epsilon_lower_bound
from amu_fast.audit.evidence import Evidence
from amu_fast.audit.intervals import (
    MIN_UNITS,
    TOST_LEVEL,
    Interval,
    accuracy_difference,
    accuracy_interval,
    attained_margin,
    average_gap,
    clopper_pearson,
    clustered_mean,
    equivalent,
    paired_t,
    sign_flip_test,
    t_interval,
)
from amu_fast.audit.judging import accuracy_claims, collect, fresh_rows, judge
from amu_fast.audit.margins import Margins, auc_margin
from amu_fast.audit.metrics import collapsed, ks_statistic, threshold_at_fpr, tpr_at_fpr, wasserstein_1
from amu_fast.audit.multiplicity import IntervalTest, holm, holm_intervals, intersection_union
from amu_fast.audit.permutation import permutation_test
from amu_fast.audit.planning import (
    auc_deviation,
    effect_for,
    equivalence_power,
    members_for_rate,
    rows_for_equivalence,
    smallest_margin,
    t_power,
    units_for,
    units_for_equivalence,
)
from amu_fast.audit.reasons import Reason
from amu_fast.audit.roc import RocCurve, roc_curve, tpr_difference, tpr_interval
from amu_fast.audit.verdict import ChanceProof, Conditions, Verdict, decide

__all__ = [
    "MIN_UNITS",
    "TOST_LEVEL",
    "AttackResult",
    "ChanceCap",
    "ChanceProof",
    "Claim",
    "Conditions",
    "Control",
    "EpsilonLowerBound",
    "Evidence",
    "Interval",
    "IntervalTest",
    "Margins",
    "Reason",
    "RocCurve",
    "State",
    "Verdict",
    "accuracy_claim",
    "accuracy_claims",
    "accuracy_difference",
    "accuracy_interval",
    "attained_margin",
    "auc_claim",
    "auc_deviation",
    "auc_difference",
    "auc_interval",
    "auc_margin",
    "average_gap",
    "clopper_pearson",
    "clustered_mean",
    "collapsed",
    "collect",
    "decide",
    "effect_for",
    "epsilon_ceiling",
    "epsilon_lower_bound",
    "equivalence_power",
    "equivalent",
    "fresh_rows",
    "holm",
    "holm_intervals",
    "intersection_union",
    "judge",
    "ks_statistic",
    "members_for_rate",
    "over_unlearning_claim",
    "paired_t",
    "permutation_test",
    "resolve",
    "roc_curve",
    "rows_for_equivalence",
    "shortfalls",
    "sign_flip_test",
    "smallest_margin",
    "t_interval",
    "t_power",
    "threshold_at_fpr",
    "tpr_at_fpr",
    "tpr_claim",
    "tpr_difference",
    "tpr_interval",
    "units_for",
    "units_for_equivalence",
    "wasserstein_1",
    "widened",
]
