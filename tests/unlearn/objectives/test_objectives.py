"""Objectives against their formulas, written out by hand, and the game against one big batch."""

from __future__ import annotations

import math
from copy import deepcopy

import pytest
import torch
from torch import nn

from amu_fast.audit import Auditor, ChanceCap, MemoryBank, ModelOutputs, confidence, log_likelihood
from amu_fast.audit.language import Concatenate, sequence_log_likelihood, zlib_ratio
from amu_fast.errors import DataError
from amu_fast.unlearn.methods.moments import moment_gap
from amu_fast.unlearn.objectives import (
    FineTune,
    GameObjective,
    GradientAscent,
    GradientDifference,
    Npo,
    ScoreMoments,
    Terms,
    UnlearningBatch,
    audit_mode,
    mean_log_likelihoods,
    mean_nll,
    outputs_of,
    summed_log_likelihoods,
)

VOCABULARY, LENGTH = 17, 9


class Tokens(nn.Module):
    """A causal model that answers like one of transformers: keyword inputs, an object with `logits`."""

    def __init__(self, dropout: float = 0.0) -> None:
        super().__init__()
        self.embed = nn.Embedding(VOCABULARY, 8)
        self.mix = nn.GRU(8, 8, batch_first=True)
        self.drop = nn.Dropout(dropout)
        self.head = nn.Linear(8, VOCABULARY)

    def forward(self, input_ids, attention_mask=None):
        assert attention_mask is None or attention_mask.shape == input_ids.shape
        return {"logits": self.head(self.drop(self.mix(self.embed(input_ids))[0]))}


class Silent(nn.Module):
    """Keeps its hidden states to itself."""

    def forward(self, input_ids, attention_mask=None, output_hidden_states=False):
        return {"logits": torch.zeros(*input_ids.shape, VOCABULARY)}


@pytest.fixture
def model():
    torch.manual_seed(0)
    return Tokens().double()


def part(rows, seed, **extra):
    rng = torch.Generator().manual_seed(seed)
    ids = torch.randint(VOCABULARY, (rows, LENGTH), generator=rng)
    labels = ids.clone()
    labels[:, :3] = -100
    lengths = torch.randint(5, LENGTH + 1, (rows,), generator=rng)
    padding = torch.arange(LENGTH) >= lengths[:, None]
    labels[padding] = -100
    return {"input_ids": ids, "attention_mask": (~padding).long(), "labels": labels, **extra}


def batch(step=0, rows=40):
    return UnlearningBatch(part(6, 1), part(rows, 2), part(rows + 3, 3), step)


def nll(model, part):
    """Sum over counted tokens, one at a time."""
    logits = model(part["input_ids"])["logits"].log_softmax(-1)
    rows = []
    for i, labels in enumerate(part["labels"]):
        picked = [logits[i, t - 1, y] for t, y in enumerate(labels.tolist()) if y != -100 and t > 0]
        rows.append((-torch.stack(picked).sum(), len(picked)))
    return torch.stack([s for s, _ in rows]), torch.tensor([float(n) for _, n in rows])


def gradient(model, loss):
    return torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(model.parameters()), retain_graph=True)])


def close(a, b):
    torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12)


def test_supervised_objectives_are_token_means(model):
    b = batch()
    retain, forget = (s.sum() / n.sum() for s, n in (nll(model, b.retain), nll(model, b.forget)))
    close(gradient(model, FineTune()(model, b).loss), gradient(model, retain))
    close(gradient(model, GradientAscent()(model, b).loss), gradient(model, -forget))
    terms = GradientDifference(forget_weight=0.3, retain_weight=2.0)(model, b)
    close(gradient(model, terms.loss), gradient(model, 2.0 * retain - 0.3 * forget))
    assert terms.gradient_samples == 46
    assert set(terms.values) == {"retain_loss", "forget_loss"}


def test_npo_is_its_formula_and_the_original_may_be_cached(model):
    b = batch()
    original = deepcopy(model)
    with torch.no_grad():
        for p in model.parameters():
            p += 0.05 * torch.randn_like(p)
    beta = 0.2
    ratio = (-nll(model, b.forget)[0] + nll(original, b.forget)[0].detach()).exp()
    retain_sum, retain_count = nll(model, b.retain)
    expected = (2 / beta) * torch.log1p(ratio**beta).mean() + 0.5 * retain_sum.sum() / retain_count.sum()
    asked = Npo(beta, retain_weight=0.5, reference=original)(model, b)
    close(asked.loss, expected)
    close(gradient(model, asked.loss), gradient(model, expected))
    cached = UnlearningBatch(b.retain, {**b.forget, "original": summed_log_likelihoods(original, b.forget)})
    told = Npo(beta, retain_weight=0.5)(model, cached)
    close(told.loss, asked.loss)
    assert (asked.gradient_samples, told.gradient_samples) == pytest.approx((46 + 40 / 3, 46))
    with pytest.raises(DataError, match="summed_log_likelihoods"):
        Npo()(model, b)


def test_score_moments_match_the_gap(model):
    b = batch()
    scores = [sequence_log_likelihood(outputs_of(model, p)) for p in (b.forget, b.validation)]
    gap = moment_gap(scores[0], scores[1].detach())
    terms = list(ScoreMoments(weight=3.0).terms(model, b))
    close(terms[1].loss, 3.0 * gap)
    close(gradient(model, terms[1].loss), gradient(model, 3.0 * gap))
    assert len(list(ScoreMoments().terms(model, batch(step=1)))) == 1


def game(**options):
    return GameObjective(Auditor(scores=sequence_log_likelihood), **{"weight": 2.0, "cap": None, **options})


def test_the_game_adds_the_auditors_payoff(model):
    b = batch()
    scores = [sequence_log_likelihood(outputs_of(model, p)) for p in (b.forget, b.validation)]
    payoff = Auditor().payoff(*scores, step=0)
    retain, played = game().terms(model, b)
    close(played.loss, 2.0 * payoff.value)
    close(gradient(model, played.loss), gradient(model, 2.0 * payoff.value))
    assert played.gradient_samples == pytest.approx(40 + 43 / 3)
    close(played.values["score_gap"], (scores[0].mean() - scores[1].mean()).detach())
    whole = game()(model, b)
    close(whole.loss, retain.loss + played.loss)
    assert {"retain_loss", "payoff", "auditor_accuracy", "gradient_bound", "game_on"} <= set(whole.values)


def test_the_loop_may_compute_the_retain_loss_itself(model):
    seen = []

    def mine(model, part):
        seen.append(part)
        return 7.0 * mean_nll(outputs_of(model, part))

    b = batch()
    terms = next(iter(game().terms(model, b, mine)))
    close(terms.loss, 7.0 * FineTune()(model, b).loss)
    assert seen == [b.retain]


@pytest.mark.parametrize("hold", [True, False])
def test_exact_accumulation_equals_one_big_batch(model, hold):
    auditor = Auditor(scores=sequence_log_likelihood, hold_nonmembers=hold)
    whole = UnlearningBatch(part(6, 1), part(40, 2), part(40, 3))
    one = GameObjective(auditor, weight=2.0, cap=None)
    expected = one.play(one.score(model, whole, gradient=True))

    def cut(p, i):
        return {k: v[i * 10 : (i + 1) * 10] for k, v in p.items()}

    micro = [UnlearningBatch(None, cut(whole.forget, i), cut(whole.validation, i)) for i in range(4)]
    four = GameObjective(auditor, weight=2.0, cap=None)
    told, cotangents = four.solve([four.score(model, m, gradient=False) for m in micro])
    loss = sum(four.replay(model, m, c).loss for m, c in zip(micro, cotangents, strict=True))
    close(told.loss, expected.loss.detach())
    close(gradient(model, loss), gradient(model, expected.loss))
    assert (cotangents[0].nonmembers is None) == hold


def test_clusters_reach_the_folds_and_are_for_both_sides_or_none(model):
    people = torch.arange(40) // 10
    sides = part(40, 2, clusters=people), part(40, 3, clusters=people + 100)
    played = game().play(game().score(model, UnlearningBatch(None, *sides), gradient=True))
    scores = [sequence_log_likelihood(outputs_of(model, p)) for p in sides]
    expected = Auditor().payoff(*scores, clusters=(people, people + 100)).value
    close(played.loss, 2.0 * expected)
    with pytest.raises(DataError, match="only the forget rows have 'clusters'"):
        game()(model, UnlearningBatch(part(4, 1), sides[0], part(40, 3)))


def test_classifiers_play_too_and_by_class(model):
    torch.manual_seed(1)

    class Classifier(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = nn.Sequential(nn.Linear(5, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 3))

        def forward(self, pixel_values):
            return self.body(pixel_values)

    net = Classifier().double().train()

    def rows(n):
        return {"pixel_values": torch.randn(n, 5).double(), "labels": torch.randint(3, (n,))}

    b = UnlearningBatch(rows(8), rows(200), rows(200))
    before = {k: v.clone() for k, v in net.named_buffers()}
    objective = GameObjective(Auditor(scores=confidence, groups="class"), weight=1.0, cap=None)
    scores = objective.score(net, b, gradient=True)
    assert all(torch.equal(v, before[k]) for k, v in net.named_buffers())
    assert all(m.training for m in net.modules())
    net.eval()
    expected = [
        log_likelihood(ModelOutputs(net(p["pixel_values"]), p["labels"])).exp() for p in (b.forget, b.validation)
    ]
    close(scores.members, expected[0])
    close(objective.play(scores).values["payoff"], objective.auditor.payoff(
        *expected, groups=(b.forget["labels"], b.validation["labels"])).value.detach())  # fmt: skip


def test_auditing_forwards_drop_nothing(model):
    dropping = Tokens(dropout=0.5).double().train()
    b = batch()
    first, second = (game().score(dropping, b, gradient=False).members for _ in range(2))
    assert torch.equal(first, second)
    assert dropping.drop.training
    assert not torch.equal(*(dropping(b.retain["input_ids"])["logits"] for _ in range(2)))


def test_checkpointing_layers_stay_in_train_mode_unless_they_drop():
    class Layer(nn.Module):
        gradient_checkpointing = True

        def __init__(self, dropout):
            super().__init__()
            self.dropout, self.inner = dropout, nn.Dropout(0.1)

    net = nn.ModuleList([Layer(0.0), Layer(0.1), Layer(0.0).eval()])
    with audit_mode(net):
        assert [layer.training for layer in net] == [True, False, False]
        assert not any(layer.inner.training for layer in net)
    assert [layer.training for layer in net] == [True, True, False]


def test_weight_zero_and_a_closed_cap_take_no_gradient(model):
    for objective in (game(weight=0.0), game(cap=ChanceCap(warmup=1, count=500, mean=-9.0, square=81.0))):
        _, played = objective.terms(model, batch())
        assert not played.loss.requires_grad
        assert float(played.values["game_on"]) == 0.0
        assert played.gradient_samples == pytest.approx(83 / 3)
        loss = objective(model, batch(step=2)).loss
        close(gradient(model, loss), gradient(model, FineTune()(model, batch()).loss))


def test_state_goes_on_where_it_was(model):
    def fresh():
        return game(cap=ChanceCap(), bank=MemoryBank(50), every=1)

    one = fresh()
    for step in range(3):
        one(model, batch(step))
    two = fresh()
    two.load_state_dict(one.state_dict())
    a, b = (objective(model, batch(3)) for objective in (one, two))
    assert float(a.loss.detach()) == float(b.loss.detach())
    assert one.leader.cap == two.leader.cap
    with pytest.raises(DataError, match="bank"):
        game(cap=ChanceCap()).load_state_dict(one.state_dict())


def test_a_side_without_rows_keeps_the_graph(model):
    none = {key: value[:0] for key, value in part(4, 2).items()}
    objective = GameObjective(Auditor(scores=Concatenate(sequence_log_likelihood, zlib_ratio)))
    scores = objective.score(model, UnlearningBatch(part(3, 1), none, none), gradient=True)
    assert scores.members.shape == (0, 2)
    scores.members.sum().backward()
    assert all(p.grad is not None and not p.grad.any() for p in model.parameters())


def test_references_are_means_and_sums(model):
    sums, counts = nll(model, part(5, 9))
    close(summed_log_likelihoods(model, part(5, 9)), -sums.detach())
    close(mean_log_likelihoods(model, part(5, 9)), (-sums / counts).detach())


@pytest.mark.parametrize(
    ("make", "named"),
    [
        (lambda: GameObjective(weight=-1.0), "weight must be >= 0"),
        (lambda: GameObjective(every=0), "every must be >= 1"),
        (lambda: Npo(beta=0.0), "beta must be > 0"),
        (lambda: Npo(retain_weight=math.inf), "retain_weight"),
        (lambda: ScoreMoments(weight=math.nan), "weight must be >= 0"),
        (lambda: GradientDifference(forget_weight=-1.0), "forget_weight must be >= 0"),
    ],
)
def test_options_out_of_range(make, named):
    with pytest.raises(DataError, match=named):
        make()


def test_missing_parts_and_labels(model):
    with pytest.raises(DataError, match="needs forget rows"):
        GradientAscent()(model, UnlearningBatch(part(3, 1)))
    with pytest.raises(DataError, match="needs 'labels'"):
        FineTune()(model, UnlearningBatch({"input_ids": torch.zeros(1, 3, dtype=torch.int64)}))
    with pytest.raises(DataError, match="hidden_states"):
        outputs_of(Silent(), part(2, 1), hidden=True)
    assert isinstance(FineTune()(model, batch()), Terms)
