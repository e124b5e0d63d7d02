"""TOFU's metrics against numbers worked out by hand and against one row at a time."""

from __future__ import annotations

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from amu_fast.audit.scores import ModelOutputs
from amu_fast.errors import DataError
from amu_fast.experiments.language.authors import AuthorRow, synth_authors
from amu_fast.experiments.language.generation import generate_answers
from amu_fast.experiments.language.models import tiny_llama
from amu_fast.experiments.language.tofu_metrics import (
    PartMetrics,
    extraction_strength,
    forget_quality,
    model_utility,
    normalised_probability,
    rouge_l_recall,
    score_answers,
    tofu_metrics,
    truth_ratio,
    truth_score,
)
from amu_fast.experiments.language.tokens import WordTokenizer, encode_pair


class Bigrams(nn.Module):
    """A model whose next word depends on the last one alone, by a table that is given; greedy by hand."""

    def __init__(self, log_p: torch.Tensor) -> None:
        super().__init__()
        self.log_p = nn.Parameter(log_p)
        self.calls: list[tuple[int, ...]] = []

    def forward(self, input_ids, attention_mask):
        assert not self.training
        return SimpleNamespace(logits=self.log_p[input_ids] + 3.0)

    def generate(self, input_ids, attention_mask, max_new_tokens, **options):
        assert not self.training
        assert options["do_sample"] is False
        self.calls.append(tuple(input_ids.shape))
        assert bool((attention_mask[:, -1] == 1).all())
        for _ in range(max_new_tokens):
            input_ids = torch.cat([input_ids, self.log_p[input_ids[:, -1:]].argmax(-1)], 1)
        return input_ids


@pytest.fixture
def toy() -> tuple[Bigrams, WordTokenizer]:
    """After <sep> comes "yes" with .6 or "no" with .4; after either the end with .5, "yes" with .3, "no" with .2."""
    tokenizer = WordTokenizer(["no", "yes", "who"])
    no, who, yes = (tokenizer(word)["input_ids"][0] for word in ("no", "who", "yes"))
    p = torch.full((len(tokenizer), len(tokenizer)), 1e-12, dtype=torch.float64)
    p[tokenizer.sep_token_id, [yes, no]] = torch.tensor([0.6, 0.4], dtype=torch.float64)
    for word in (yes, no, who):
        p[word, [tokenizer.eos_token_id, yes, no]] = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)
    return Bigrams((p / p.sum(-1, keepdim=True)).log()), tokenizer


ROWS = [
    AuthorRow(0, "who", "yes", "no", ("yes yes", "no no")),
    AuthorRow(1, "who who", "no yes", "yes", ("no", "yes no")),
]


def test_the_toy_by_hand(toy):
    """p(yes, end) = .6 · .5, p(no, yes, end) = .4 · .3 · .5, ...; each to the power 1/tokens."""
    model, tokenizer = toy
    got = tofu_metrics(model, {"retain": ROWS, "forget": ROWS, "world_facts": ROWS}, tokenizer, max_new_tokens=4)
    answers = [(0.6 * 0.5) ** (1 / 2), (0.4 * 0.3 * 0.5) ** (1 / 3)]
    paraphrases = [(0.4 * 0.5) ** (1 / 2), (0.6 * 0.5) ** (1 / 2)]
    wrong = [
        [(0.6 * 0.3 * 0.5) ** (1 / 3), (0.4 * 0.2 * 0.5) ** (1 / 3)],
        [(0.4 * 0.5) ** (1 / 2), (0.6 * 0.2 * 0.5) ** (1 / 3)],
    ]
    ratios = [math.sqrt(w[0] * w[1]) / p for w, p in zip(wrong, paraphrases, strict=True)]
    own = [math.sqrt(w[0] * w[1]) / p for w, p in zip(wrong, answers, strict=True)]
    assert got["retain"].probability == pytest.approx(sum(answers) / 2)
    np.testing.assert_allclose(got["retain"].ratios, ratios, rtol=1e-9)
    assert got["retain"].truth_ratio == pytest.approx(sum(max(0.0, 1 - r) for r in ratios) / 2)
    assert got["forget"].truth_ratio == pytest.approx(sum(min(r, 1 / r) for r in ratios) / 2)
    np.testing.assert_allclose(got["world_facts"].ratios, own, rtol=1e-9)
    assert got["world_facts"].truth_ratio == pytest.approx(sum(max(0.0, 1 - r) for r in own) / 2)
    shares = [p / (p + sum(w)) for p, w in zip(answers, wrong, strict=True)]
    assert got["world_facts"].probability == pytest.approx(sum(shares) / 2)
    # greedy says "yes" and ends: recall 1 of "yes", 1/2 of "no yes"
    assert got["retain"].rouge == pytest.approx((1 + 1 / 2) / 2)
    # "yes" is the first guess after <sep>, "no yes" has no right suffix: after "no" the end is likeliest
    assert got["retain"].extraction == pytest.approx((1 + 0) / 2)
    assert model.training


def test_extraction_strength_is_the_share_of_the_right_suffix():
    """Five answer tokens and the end; wrong at some, padding behind, and what the model says of the end is nothing."""
    labels = torch.full((5, 9), -100)
    labels[:, 2:8] = torch.tensor([4, 5, 6, 5, 4, 2])
    said = labels.clamp_min(0).clone()
    said[1, 2:5] = 7  # right from the fourth of five
    said[2, 6] = 7  # the last is wrong
    said[3, 7] = 7  # only the end is wrong
    labels[4, 2:8] = torch.tensor([4, 2, -100, -100, -100, -100])  # one token
    logits = torch.zeros(5, 9, 8)
    logits[:, :-1].scatter_(-1, said[:, 1:, None], 1.0)
    strength = extraction_strength(ModelOutputs(logits, labels))
    assert strength.tolist() == [1.0, 2 / 5, 0.0, 1.0, 1.0]


def test_the_parts_of_the_formulas():
    right, wrong = np.log([0.5, 0.1]), np.log([[0.25, 0.25], [0.2, 0.8]])
    np.testing.assert_allclose(truth_ratio(right, wrong), [0.5, 4.0])
    np.testing.assert_allclose(truth_score(np.array([0.5, 4.0]), forget=True), [0.5, 0.25])
    np.testing.assert_allclose(truth_score(np.array([0.5, 4.0]), forget=False), [0.5, 0.0])
    np.testing.assert_allclose(normalised_probability(right, wrong), [0.5, 0.1 / 1.1])
    ruined = np.array([-2000.0])
    assert truth_score(truth_ratio(ruined, np.zeros((1, 2))), forget=True) < 1e-300
    assert normalised_probability(ruined, np.zeros((1, 2))) < 1e-300
    np.testing.assert_allclose(
        rouge_l_recall(["the cats sat", "", "c a"], ["a cat sat", "a b", "a b c"]), [2 / 3, 0, 1 / 3]
    )


def test_utility_is_the_harmonic_mean_of_nine():
    def part(*values: float) -> PartMetrics:
        return PartMetrics(*values, extraction=0.0, ratios=np.zeros(1))

    parts = {"retain": part(0.9, 0.5, 0.4), "real_authors": part(0.3, 0.8, 0.6), "world_facts": part(0.2, 0.7, 1.0)}
    nine = [0.9, 0.5, 0.4, 0.3, 0.8, 0.6, 0.2, 0.7, 1.0]
    assert model_utility({**parts, "forget": part(0.01, 0.01, 0.01)}) == pytest.approx(9 / sum(1 / v for v in nine))
    assert model_utility({**parts, "retain": part(0.9, 0.0, 0.4)}) == 0.0
    assert model_utility({"retain": parts["retain"]}) == pytest.approx(3 / (1 / 0.9 + 1 / 0.5 + 1 / 0.4))
    with pytest.raises(DataError, match="forget"):
        model_utility({"forget": part(1, 1, 1)})


def test_forget_quality_is_one_for_equal_and_small_for_shifted_ratios():
    """Exact two-sample p: of n = 3 and 3 fully apart, 2 of the 20 orders are as extreme."""
    same = np.linspace(0.1, 0.9, 40)
    assert forget_quality(same, same) == 1.0
    assert forget_quality(np.array([1.0, 2.0, 3.0]), np.array([4.0, 5.0, 6.0])) == pytest.approx(2 / 20)


@pytest.fixture(scope="module")
def llama():
    """Weights of the blocks so large that what is said depends on every word before it."""
    torch.manual_seed(3)
    tokenizer = WordTokenizer.closed()
    model = tiny_llama(len(tokenizer), hidden=16, layers=2, heads=2).double()
    with torch.no_grad():
        for weight in model.model.layers.parameters():
            weight.mul_(20.0 if weight.dim() == 2 else 1.0)
    return model, tokenizer, synth_authors(3, 2, seed=1)


def test_batches_change_nothing(llama):
    model, tokenizer, rows = llama
    together, alone = score_answers(model, rows, tokenizer, batch_size=5), score_answers(model, rows, tokenizer, 1)
    np.testing.assert_allclose(together[0], alone[0], rtol=1e-12)
    np.testing.assert_array_equal(together[1], alone[1])
    prompt, answer = encode_pair(rows[2].question, rows[2].answer, tokenizer)
    ids = torch.tensor([prompt + answer])
    with torch.no_grad():
        log_p = model.eval()(ids).logits[0].log_softmax(-1)
    mean = sum(float(log_p[len(prompt) - 1 + k, token]) for k, token in enumerate(answer)) / len(answer)
    assert together[0][2] == pytest.approx(mean, rel=1e-12)


def test_left_padding_changes_no_greedy_answer(llama):
    """Against a plain loop over one unpadded question at a time; questions have different lengths."""
    model, tokenizer, rows = llama
    assert len({len(encode_pair(row.question, "", tokenizer)[0]) for row in rows}) > 2
    said = generate_answers(model, rows, tokenizer, max_new_tokens=5, batch_size=4)
    for row, text in zip(rows, said, strict=True):
        ids = encode_pair(row.question, "", tokenizer)[0]
        start = len(ids)
        while len(ids) < start + 5 and ids[-1] != tokenizer.eos_token_id:
            with torch.no_grad():
                ids = [*ids, int(model.eval()(torch.tensor([ids])).logits[0, -1].argmax())]
        assert text == tokenizer.decode(ids[start:])
    assert len(set(said)) > 1


def test_bad_input_is_named(llama):
    model, tokenizer, rows = llama
    with pytest.raises(DataError, match="perturbed answers"):
        tofu_metrics(model, {"retain": [rows[0], AuthorRow(0, "Who?", "It is.")]}, tokenizer)
    with pytest.raises(DataError, match="max_new_tokens"):
        generate_answers(model, rows, tokenizer, max_new_tokens=0)
    with pytest.raises(DataError, match="0 rows"):
        score_answers(model, [], tokenizer)
    broken = tiny_llama(len(tokenizer), hidden=16, layers=1, heads=2)
    with torch.no_grad():
        broken.model.norm.weight.fill_(float("nan"))
    with pytest.raises(DataError, match="not finite"):
        score_answers(broken, rows, tokenizer)
