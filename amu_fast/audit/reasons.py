"""Reason codes of claims and verdicts, each with the sentence that explains it."""

from __future__ import annotations

from enum import Enum


class Reason(str, Enum):
    """Why a claim is in its state, or a verdict what it is: the value is the code, its upper case the name."""

    sentence: str

    def __new__(cls, code: str, sentence: str) -> Reason:
        """A string that carries its sentence."""
        reason = str.__new__(cls, code)
        reason._value_ = code
        reason.sentence = sentence
        return reason

    # No certificate.
    SPLITS_OVERLAP = "splits_overlap", "Two of the parts retain, forget, validation and test share rows."
    REFERENCE_SAW_FORGET_ROWS = (
        "reference_saw_forget_rows",
        "A model that the judgement compares with, or calibrates on, was trained on forget rows.",
    )
    POLICY_AFTER_AUDIT = "policy_after_audit", "The margins were written, or changed, after the audit (S8)."
    FILE_DAMAGED = "file_damaged", "A file of the audit is damaged or missing."

    # A claim is violated.
    LEAKS = "leaks", "The attack separates forget rows from non-members by more than the margin."
    OVER_UNLEARNED = (
        "over_unlearned",
        "Forget rows look less like members than under retraining, by more than the margin (S12).",
    )
    ACCURACY_BELOW = "accuracy_below", "Accuracy lies below the reference's by more than the margin."
    ACCURACY_ABOVE = "accuracy_above", "Accuracy lies above the reference's by more than the margin."

    # A claim is undecided.
    INTERVAL_CROSSES_MARGIN = "interval_crosses_margin", "The 90 % interval reaches beyond the margin."
    BELOW_REFERENCE = (
        "below_reference",
        "A trained attack does worse than under retraining: shift or over-matching, never over-unlearning (S12).",
    )

    # A claim cannot be evaluated.
    TOO_FEW_ROWS_FOR_FPR = (
        "too_few_rows_for_fpr",
        "A claim at this false-positive rate needs 10/FPR non-members and 5/FPR members (S5).",
    )
    TOO_SMALL_FOR_MARGIN = (
        "too_small_for_margin",
        "With so few rows or units even a perfect model would attain this margin less than four times in five (S7).",
    )
    TOO_FEW_UNITS = "too_few_units", "A claim about the algorithm needs at least 5 units (S2)."
    CLUSTERS_IGNORED = "clusters_ignored", "Several rows belong to one person, and the interval counts rows (S4)."
    REFERENCE_UNPROVEN = (
        "reference_unproven",
        "Comparison with .5, where neither a random draw nor both controls of shift allow it (S6).",
    )
    POSITIVE_CONTROL_MISSING = "positive_control_missing", "The attack was not run on a model known to leak (S11)."
    POSITIVE_CONTROL_FAILED = (
        "positive_control_failed",
        "The attack does not see, beyond the margin, the membership that is known to be there (S11).",
    )
    NEGATIVE_CONTROL_MISSING = "negative_control_missing", "The attack was not run on another retrained model (S11)."
    NEGATIVE_CONTROL_FAILED = (
        "negative_control_failed",
        "Another retrained model, or fresh rows of no member, do not pass the same test: shift, or too few rows (S11).",
    )
    NOT_A_NUMBER = "not_a_number", "The figure or its interval is no number."
    SKIPPED = "skipped", "It was not measured."

    # The verdict.
    CLAIM_VIOLATED = "claim_violated", "A required claim is violated, all required claims considered together (S9)."
    NO_REQUIRED_CLAIM = "no_required_claim", "Nothing was required, so nothing was shown."
    NO_OVER_UNLEARNING_CLAIM = (
        "no_over_unlearning_claim",
        "No required claim excludes over-unlearning by a score of fixed direction (S12).",
    )
    NO_OUTSIDE_ATTACK = (
        "no_outside_attack",
        "No required attack from outside the game has a passed positive control.",
    )
    CLAIM_NOT_EVALUABLE = "claim_not_evaluable", "A required claim cannot be evaluated."
    CLAIM_UNDECIDED = "claim_undecided", "A required claim is undecided."
    REFERENCE_NOT_ALLOWED = "reference_not_allowed", "The policy does not allow this kind of reference."
    ALL_CLAIMS_HOLD = "all_claims_hold", "All required claims hold."
