"""What the language table calls its rows and columns."""

from __future__ import annotations

from amu_fast.audit.language import EIGHT
from amu_fast.experiments.language.families import FAMILIES
from amu_fast.experiments.render import REFERENCE_TITLES, Words
from amu_fast.experiments.summary import Summary

HEADS = {
    "retain_accuracy": "retain",
    "forget_accuracy": "forget",
    "test_accuracy": "test",
    "general_accuracy": "general",
    "calibrated_auc": "calibrated AUC",
    "svm_auc": "SVM AUC",
}


_EIGHT_TITLES = ("mean log p", "min-k 20 %", "min-k 40 %", "min-k++ 20 %", "zlib", "margin", "entropy", "lowest log p")


def _header(summary: Summary) -> str:
    t = summary.task
    margins = ", ".join(f"{HEADS[k]} {v:.1f}" for k, v in summary.margins.items())
    return (
        f"# Language models at equal budgets: {t['forget']} of {t['retain'] + t['forget']} fictitious authors "
        f"forgotten, {t['questions']} questions each\n\n"
        f"A Llama of {t['layers']} layers and width {t['hidden']}, trained on {t['general']:,} general passages, then "
        f"fine-tuned for {t['epochs']:g} epochs on the authors and {t['mixed']} of the passages. "
        f"{len(summary.units)} judged units (authors, forget draw, training seeds, base included), "
        f"{len(summary.tuning_units)} other units for tuning. Cells: signed difference to retrain in points "
        f"(AUC × 100), mean and 95 % t-interval over units; ✓: equivalent within its margin ({margins}; test and "
        f"general one-sided; 90 % interval). Accuracies: share of counted tokens that are the first guess; test: "
        f"authors that no model saw; general: passages that no model saw. Attacks, neither of them the game's: mean "
        f"log p calibrated by {t['references']} reference models; a linear SVM on eight scores, two of them "
        f"the game's, fitted on half of the "
        f"forget authors against {t['held_out']} held-out authors that the game never saw and judged on the other half "
        f"against {t['held_out']} others. Attained margin: the smallest at which all are equivalent, a point value. "
        f"Gap: mean absolute difference, biased upward; read it beside the floor. Collapses (general accuracy > 10 "
        f"points under retrain's) are counted and stay in. Used: share of a fine-tuning's gradient samples. Seconds: "
        f"median, one thread."
    )


WORDS = Words(
    titles={**REFERENCE_TITLES, **{family.name: family.title for family in FAMILIES.values()}},
    heads=HEADS,
    panel={
        "hidden_auc": "hidden-state probe",
        **{f"{name}_auc": title for name, title in zip(EIGHT, _EIGHT_TITLES, strict=True)},
        "loss_gap": "loss gap, forget − test",
        "steps": "steps",
    },
    lines=tuple(FAMILIES),
    header=_header,
    panel_note=(
        "AUC of a linear probe of mean hidden states, fitted like the SVM, and of each of the SVM's scores alone, "
        "forget against test; the loss gap in nats. Means. The probe is no part of the gap: on small models it sees "
        "members weakly if at all, so read the original's figure, its control, first (S11)."
    ),
    search_note=(
        "Schedule, batch sizes, score and auditor were fixed before, by hand, after an earlier search of every row, in "
        "about 140 trials of the game and 25 of the other rows on the tuning units."
    ),
    control="calibrated AUC",
    controls_note=lambda s: f"intervals are by author, of which {s.task['forget']} are forgotten.",
    command="python -m amu_fast.bench.language",
)
