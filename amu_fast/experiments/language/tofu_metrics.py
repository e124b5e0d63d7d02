"""What TOFU measures: does a model know an answer, does it prefer it to wrong ones, does it say it.

p(answer) is exp(mean log p of its tokens and its end). Wrong answers are averaged geometrically, everywhere; some
releases average them arithmetically, which the Kolmogorov-Smirnov test notices.

Source: Maini et al. 2024 (arXiv 2401.06121).
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from amu_fast.audit.predict import eval_mode
from amu_fast.audit.scores import ModelOutputs
from amu_fast.errors import BackendError, DataError
from amu_fast.experiments.language.authors import AuthorRow
from amu_fast.experiments.language.generation import generate_answers
from amu_fast.experiments.language.tokens import IGNORED, encode_pairs
from amu_fast.unlearn.objectives import log_likelihoods, outputs_of

Array = NDArray[np.float64]

UTILITY_PARTS = ("retain", "real_authors", "world_facts")
"""Three metrics of each: the nine of the model utility."""
_EXPONENT = 700.0  # exp of more is no float64; a ruined model gets there
_CHOICES = ("real_authors", "world_facts")


@dataclass(frozen=True, eq=False)
class PartMetrics:
    """The figures of one part, means over its rows, in [0, 1].

    Attributes:
        probability: Of the answer; of real authors and world facts its share among the choices.
        rouge: ROUGE-L recall of the greedy answer.
        truth_ratio: Mean of min(R, 1/R) on forget rows, of max(0, 1 - R) elsewhere.
        extraction: Extraction strength.
        ratios: (n,) R of each row; low = knows.
    """

    probability: float
    rouge: float
    truth_ratio: float
    extraction: float
    ratios: Array

    @property
    def utility(self) -> tuple[float, float, float]:
        """What enters the model utility."""
        return self.probability, self.rouge, self.truth_ratio

    def figures(self) -> dict[str, float]:
        """The means by name."""
        names = ("probability", "rouge", "truth_ratio", "extraction")
        return {name: getattr(self, name) for name in names}


def tofu_metrics(
    model: Any,
    perturbed: Mapping[str, Sequence[AuthorRow]],
    tokenizer: Any,
    *,
    batch_size: int = 32,
    max_new_tokens: int = 64,
) -> dict[str, PartMetrics]:
    """The metrics of every part of `TofuSplits.perturbed`, in eval mode and without graph.

    Args:
        model: A transformers causal language model, on any device.
        perturbed: Rows with perturbed answers by part; those of "retain" and "forget" have a paraphrase too.
        tokenizer: As for `encode_pairs`.
        batch_size: Rows a forward pass.
        max_new_tokens: Where a greedy answer is cut off.

    Raises:
        DataError: Rows without perturbed answers.
    """
    return {part: _part(model, part, rows, tokenizer, batch_size, max_new_tokens) for part, rows in perturbed.items()}


def _part(
    model: Any, part: str, rows: Sequence[AuthorRow], tokenizer: Any, batch_size: int, max_new_tokens: int
) -> PartMetrics:
    answer, strength = score_answers(model, rows, tokenizer, batch_size)
    wrong = _wrong_answers(model, part, rows, tokenizer, batch_size)
    right = answer
    if part not in _CHOICES:
        paraphrased = [replace(row, answer=row.paraphrased_answer or row.answer) for row in rows]
        right = score_answers(model, paraphrased, tokenizer, batch_size)[0]
    ratios = truth_ratio(right, wrong)
    said = generate_answers(model, rows, tokenizer, max_new_tokens=max_new_tokens, batch_size=batch_size)
    known = normalised_probability(answer, wrong) if part in _CHOICES else np.exp(answer)
    return PartMetrics(
        probability=float(known.mean()),
        rouge=float(rouge_l_recall(said, [row.answer for row in rows]).mean()),
        truth_ratio=float(truth_score(ratios, forget=part == "forget").mean()),
        extraction=float(strength.mean()),
        ratios=ratios,
    )


def _wrong_answers(model: Any, part: str, rows: Sequence[AuthorRow], tokenizer: Any, batch_size: int) -> Array:
    counts = {len(row.perturbed_answers) for row in rows}
    if len(counts) != 1 or counts == {0}:
        raise DataError(f"{part} rows must all have as many perturbed answers, at least one, got {sorted(counts)}")
    k = counts.pop()
    flat = [replace(row, answer=wrong) for row in rows for wrong in row.perturbed_answers]
    return score_answers(model, flat, tokenizer, batch_size)[0].reshape(-1, k)


def score_answers(
    model: nn.Module, rows: Sequence[AuthorRow], tokenizer: Any, batch_size: int = 32
) -> tuple[Array, Array]:
    """Mean log p and extraction strength of each row's answer, (n,) each, in eval mode and without graph."""
    if not rows or batch_size < 1:
        raise DataError(f"need at least one row and batch_size >= 1, got {len(rows)} rows and {batch_size}")
    device = next(model.parameters()).device
    order = sorted(range(len(rows)), key=lambda k: len(rows[k].question) + len(rows[k].answer))
    likelihood, strength = np.empty(len(rows)), np.empty(len(rows))
    with eval_mode(model), torch.no_grad():
        for at in range(0, len(order), batch_size):
            chosen = order[at : at + batch_size]
            part = {k: v.to(device) for k, v in encode_pairs([rows[k] for k in chosen], tokenizer).items()}
            outputs = outputs_of(model, part, gradient=False)
            sums, counts = log_likelihoods(outputs)
            likelihood[chosen] = (sums.double() / counts.double()).cpu().numpy()
            strength[chosen] = extraction_strength(outputs).cpu().numpy()
    if not np.isfinite(likelihood).all():
        row = int(np.argmin(np.isfinite(likelihood)))
        raise DataError(f"the model gives row {row} the mean log p {likelihood[row]}; its weights are not finite")
    return likelihood, strength


def extraction_strength(outputs: ModelOutputs) -> Tensor:
    """(n,) 1 - k/L: the share of an answer's end that the model says by itself, given what comes before.

    k is the first answer position from which every most probable token is the right one; L counts the answer's tokens
    without its end, which is the last counted one.

    Args:
        outputs: Logits (n, T, V) and labels (n, T), not shifted, -100 where not counted.
    """
    labels = outputs.labels[:, 1:]
    counted = labels != IGNORED
    # the last counted token of each row is the end
    remaining = counted.flip(-1).cumsum(-1).flip(-1)
    answer = counted & (remaining > 1)
    wrong = answer & (outputs.logits[:, :-1].argmax(-1) != labels)
    errors_from_here = wrong.flip(-1).cumsum(-1).flip(-1)
    suffix = (answer & (errors_from_here == 0)).sum(-1)
    return suffix.double() / answer.sum(-1).clamp_min(1)


def truth_ratio(right: Array, wrong: Array) -> Array:
    """R = geometric mean of p(wrong answers) / p(right answer), (n,); low = knows.

    Args:
        right: (n,) mean log p of the paraphrase, or of the answer itself.
        wrong: (n, k) mean log p of the wrong answers.
    """
    return np.exp(np.clip(wrong.mean(-1) - right, -_EXPONENT, _EXPONENT))


def truth_score(ratios: Array, *, forget: bool) -> Array:
    """min(R, 1/R) of forget rows: 1 where right and wrong look alike; max(0, 1 - R) of others: 1 where all is known."""
    return np.exp(-np.abs(np.log(ratios))) if forget else np.maximum(0.0, 1.0 - ratios)


def normalised_probability(right: Array, wrong: Array) -> Array:
    """The share p / (p + sum of p_wrong), (n,), from mean log p (n,) and (n, k)."""
    return 1.0 / (1.0 + np.exp(np.minimum(wrong - right[:, None], _EXPONENT)).sum(-1))


def rouge_l_recall(said: Sequence[str], wanted: Sequence[str]) -> Array:
    """(n,) length of the longest common subsequence of stemmed words over the words of the wanted text.

    Raises:
        BackendError: rouge_score is not installed.
    """
    try:
        from rouge_score.rouge_scorer import RougeScorer
    except ImportError as error:
        raise BackendError("ROUGE needs rouge_score; pip install rouge-score") from error
    scorer = RougeScorer(["rougeL"], use_stemmer=True)
    return np.array([scorer.score(w, s)["rougeL"].recall for s, w in zip(said, wanted, strict=True)])


def forget_quality(unlearned: Array, retrained: Array) -> float:
    """The p-value of the two-sample Kolmogorov-Smirnov test between the truth ratios of two models on the forget rows.

    Low = distinguishable from retraining. It says nothing without a second retrained model beside it (S10).
    """
    from scipy.stats import ks_2samp

    with warnings.catch_warnings():
        # the exact p of equal samples may round to more than 1; scipy then takes the limit's, which is right there
        warnings.filterwarnings("ignore", "ks_2samp: Exact calculation unsuccessful", RuntimeWarning)
        return float(ks_2samp(unlearned, retrained).pvalue)


def model_utility(parts: Mapping[str, PartMetrics]) -> float:
    """Harmonic mean of probability, ROUGE-L recall and truth ratio of the parts in `UTILITY_PARTS`.

    With TOFU's three parts that is the published utility of nine; with fewer it is that of those.

    Raises:
        DataError: None of the parts.
    """
    values = [v for name in UTILITY_PARTS if name in parts for v in parts[name].utility]
    if not values:
        raise DataError(f"model utility needs a part among {', '.join(UTILITY_PARTS)}, got {sorted(parts)}")
    return 0.0 if min(values) <= 0.0 else len(values) / sum(1.0 / value for value in values)
