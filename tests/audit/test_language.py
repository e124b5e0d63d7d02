"""Scores of sequences against a loop over sequences that knows only of lists of tokens."""

from __future__ import annotations

import copy
import pickle
import zlib

import pytest
import torch

from amu_fast.audit import Auditor, ModelOutputs, log_likelihood, token_score
from amu_fast.audit import token_statistics as module
from amu_fast.audit.language import (
    EIGHT,
    Concatenate,
    HiddenState,
    MinK,
    MinKPlusPlus,
    eight_scores,
    lowest_token,
    reference_log_ratio,
    sequence_log_likelihood,
    sequence_statistics,
    sequence_sums,
    token_entropy,
    token_margin,
    zlib_lengths,
    zlib_ratio,
)
from amu_fast.errors import DataError

V, H = 23, 6
LENGTHS = [12, 2, 7, 5]
PROMPTS = [3, 0, 2, 3]  # tokens of each that do not count; the first never does
TEXTS = ["one two three " * 9, "x", "Ünïcode", "four " * 3]


def sequences(seed=0, dtype=torch.float64):
    """Per sequence: logits (T, V), hidden (T, H), tokens (T,) and the label positions that count."""
    g = torch.Generator().manual_seed(seed)
    made = []
    for length, prompt in zip(LENGTHS, PROMPTS, strict=True):
        logits = (2 * torch.randn(length, V, dtype=torch.float64, generator=g)).to(dtype)
        hidden = torch.randn(length, H, dtype=torch.float64, generator=g).to(dtype)
        tokens = torch.randint(V, (length,), generator=g)
        made.append((logits, hidden, tokens, range(max(prompt, 1), length)))
    return made


REFERENCE = torch.tensor([-1.0, -2.0, -3.0, -4.0], dtype=torch.float64)


def padded(made, side="right", junk=float("nan")):
    """One sequence a row; what lies at padding must not matter."""
    width = max(LENGTHS) + 1
    dtype = made[0][0].dtype
    logits = torch.full((len(made), width, V), junk, dtype=dtype)
    hidden = torch.full((len(made), width, H), junk, dtype=dtype)
    labels = torch.full((len(made), width), -100)
    mask = torch.zeros(len(made), width, dtype=torch.int64)
    for i, (z, h, tokens, counted) in enumerate(made):
        start = 0 if side == "right" else width - len(tokens)
        logits[i, start : start + len(tokens)] = z
        hidden[i, start : start + len(tokens)] = h
        mask[i, start : start + len(tokens)] = 1
        labels[i, start + counted[0] : start + len(tokens)] = tokens[counted[0] :]
    return ModelOutputs(logits, labels, mask, hidden, REFERENCE, {"zlib_lengths": zlib_lengths(TEXTS)})


def packed(made, order=((2, 0), (1, 3)), junk=float("nan")):
    """Several sequences a row, labelled from their first token on where there is no prompt."""
    width = max(sum(LENGTHS[k] for k in row) for row in order) + 2
    dtype = made[0][0].dtype
    logits = torch.full((len(order), width, V), junk, dtype=dtype)
    hidden = torch.full((len(order), width, H), junk, dtype=dtype)
    labels, segments = torch.full((len(order), width), -100), torch.full((len(order), width), -1)
    for i, row in enumerate(order):
        start = 0
        for k in row:
            z, h, tokens, _ = made[k]
            end = start + len(tokens)
            logits[i, start:end], hidden[i, start:end], segments[i, start:end] = z, h, k
            labels[i, start + PROMPTS[k] : end] = tokens[PROMPTS[k] :]
            start = end
    extra = {"segments": segments, "zlib_lengths": zlib_lengths(TEXTS)}
    return ModelOutputs(logits, labels, None, hidden, REFERENCE, extra)


def by_loop(made):
    """name -> (S,) float64."""
    rows = []
    for i, (z, _, tokens, counted) in enumerate(made):
        log_ps, zs, margins, entropies = [], [], [], []
        for t in counted:
            p = torch.softmax(z[t - 1].double(), -1)
            y = int(tokens[t])
            log_p = p.log()
            mean = float((p * log_p).sum())
            deviation = (float((p * (log_p - mean) ** 2).sum()) + 1e-6) ** 0.5
            log_ps.append(float(log_p[y]))
            zs.append((log_ps[-1] - mean) / deviation)
            margins.append(float(z[t - 1, y]) - max(float(v) for k, v in enumerate(z[t - 1]) if k != y))
            entropies.append(mean)
        n = len(log_ps)

        def lowest(values, ratio, n=n):
            k = max(1, int(ratio * n))
            return sum(sorted(values)[:k]) / k

        rows.append(
            {
                "log_p": sum(log_ps) / n,
                "min_k_20": lowest(log_ps, 0.2),
                "min_k_40": lowest(log_ps, 0.4),
                "min_k_plus_plus_20": lowest(zs, 0.2),
                "zlib": sum(log_ps) / n / len(zlib.compress(TEXTS[i].encode())),
                "margin": sum(margins) / n,
                "entropy": sum(entropies) / n,
                "lowest": min(log_ps),
                "reference": sum(log_ps) / n - float(REFERENCE[i]),
            }
        )
    return {name: torch.tensor([row[name] for row in rows], dtype=torch.float64) for name in rows[0]}


LAYOUTS = [padded, lambda made: padded(made, "left"), packed, lambda made: packed(made, ((3, 1, 0, 2),))]
MAPS = {**EIGHT, "reference": reference_log_ratio}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_every_score_in_every_layout(layout, dtype):
    made = sequences(dtype=dtype)
    outputs, expected = layout(made), by_loop(made)
    for name, score in MAPS.items():
        found = score(outputs)
        assert found.shape == (4, 1)
        assert found.dtype == dtype
        tolerance = 1e-12 if dtype == torch.float64 else 2e-5
        torch.testing.assert_close(found[:, 0].double(), expected[name], rtol=tolerance, atol=tolerance, msg=name)
    torch.testing.assert_close(
        eight_scores(outputs).double(), torch.stack([expected[name] for name in EIGHT], -1), rtol=2e-5, atol=2e-5
    )


def test_statistics_by_name():
    made = sequences()
    found, expected = sequence_statistics(padded(made)), by_loop(made)
    assert found.keys() == expected.keys()
    for name, values in found.items():
        torch.testing.assert_close(values, expected[name])
    whole = padded(made)
    bare = ModelOutputs(whole.logits.requires_grad_(), whole.labels, whole.mask)
    assert sequence_statistics(bare).keys() == expected.keys() - {"zlib", "reference"}
    assert not sequence_statistics(bare)["log_p"].requires_grad


@pytest.mark.parametrize("layout", [padded, packed])
@pytest.mark.parametrize("score", [*MAPS.values(), MinKPlusPlus(0.5), MinK(1.0)], ids=repr)
def test_gradients(layout, score):
    outputs = layout(sequences())
    logits = torch.nan_to_num(outputs.logits, nan=0.0).requires_grad_()
    copied = outputs.labels, outputs.mask, outputs.hidden, outputs.reference, outputs.extra
    assert torch.autograd.gradcheck(lambda z: score(ModelOutputs(z, *copied)), (logits,), fast_mode=True)


def test_the_token_after_a_border_is_not_predicted_across_it():
    outputs = packed(sequences())
    sums, counts = sequence_sums(outputs)
    assert counts.tolist() == [9, 1, 5, 2]
    changed = outputs.logits.clone()
    changed[0, LENGTHS[2] - 1] += torch.arange(V)  # the last position of the first sequence of row 0
    again, _ = sequence_sums(ModelOutputs(changed, outputs.labels, extra=outputs.extra))
    assert torch.equal(sums, again)


def test_a_label_at_padding_does_not_count_even_if_it_is_not_masked_out():
    made = sequences()
    outputs = padded(made, "left", junk=0.0)
    labels = outputs.labels.clone()
    labels[labels == -100] = 3
    expected = padded(made, "left")
    full = [(z, h, t, range(1, len(t))) for z, h, t, _ in made]
    for i, (_, _, tokens, _) in enumerate(full):
        labels[i, -len(tokens) :] = tokens
    found = sequence_log_likelihood(ModelOutputs(outputs.logits, labels, outputs.mask))
    torch.testing.assert_close(found[:, 0], by_loop(full)["log_p"])
    assert expected.mask is not None


def test_sums_and_their_gradient_are_cross_entropys():
    outputs = padded(sequences(), junk=0.0)
    logits = outputs.logits.requires_grad_()
    sums, counts = sequence_sums(outputs)
    loss = torch.nn.functional.cross_entropy(
        logits[:, :-1].transpose(1, 2), outputs.labels[:, 1:], reduction="none", ignore_index=-100
    )
    torch.testing.assert_close(sums, -loss.sum(-1))
    assert counts.tolist() == [9.0, 1.0, 5.0, 2.0]
    ours = torch.autograd.grad(sums.sum(), logits)[0]
    torch.testing.assert_close(ours, torch.autograd.grad(-loss.sum(), logits)[0])


def test_ties_in_min_k_go_to_the_earlier_token():
    logits = torch.zeros(1, 6, 5, requires_grad=True)
    score = MinK(0.4)(ModelOutputs(logits, torch.ones(1, 6, dtype=torch.int64)))
    gradient = torch.autograd.grad(score.sum(), logits)[0].abs().sum(-1)
    assert (gradient[0] > 0).tolist() == [True, True, False, False, False, False]


def test_a_nan_is_never_left_out_of_the_lowest():
    outputs = padded(sequences())
    outputs.logits[0, 5, 0] = torch.nan
    for score in (MinK(0.2), MinKPlusPlus(0.2), lowest_token):
        assert score(outputs)[:, 0].isnan().tolist() == [True, False, False, False]


def test_concatenate_passes_over_the_logits_once(monkeypatch):
    calls = []
    normalise = module._normalise
    monkeypatch.setattr(module, "_normalise", lambda z: calls.append(len(z)) or normalise(z))
    outputs = padded(sequences())
    nested = Concatenate(HiddenState(), Concatenate(token_margin, MinK()), MinKPlusPlus())
    assert nested(outputs).shape == (4, H + 3)
    assert calls == [17]
    assert nested.needs_hidden
    assert not eight_scores.needs_hidden
    assert set(eight_scores.needs) == {"log_p", "mean", "deviation", "margin"}
    torch.testing.assert_close(nested(outputs)[:, -1:], MinKPlusPlus()(outputs))


def test_concatenate_takes_other_maps_and_rules():
    outputs = padded(sequences())
    own = token_score.token_score("log_p")(lambda tokens, outputs: tokens.sum(tokens.log_p))
    rows = Concatenate(own, lambda outputs: outputs.reference.unsqueeze(-1), token_entropy)(outputs)
    torch.testing.assert_close(rows[:, 0], sequence_sums(outputs)[0])
    torch.testing.assert_close(rows[:, 1], REFERENCE)
    careless = token_score.token_score("log_p")(lambda tokens, outputs: tokens.mean(tokens.margin))
    with pytest.raises(DataError, match="reads 'margin'; put it into its `needs`"):
        careless(outputs)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_hidden_state_is_the_mean_over_predicting_positions(layout):
    made = sequences()
    expected = torch.stack([h[[t - 1 for t in counted]].mean(0) for _, h, _, counted in made])
    torch.testing.assert_close(HiddenState()(layout(made)), expected)


def test_hidden_state_is_projected_alike_in_every_process():
    outputs = padded(sequences(dtype=torch.float32))
    rows = HiddenState(dimensions=4, seed=3)(outputs)
    assert rows.shape == (4, 4)
    assert rows.dtype == torch.float32
    matrix = torch.randn(H, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(3)) / 2.0
    torch.testing.assert_close(rows, HiddenState()(outputs) @ matrix.float())
    assert not torch.equal(rows, HiddenState(4, seed=4)(outputs))
    hidden = torch.nan_to_num(outputs.hidden.double()).requires_grad_()
    copied = outputs.logits, outputs.labels, outputs.mask
    assert torch.autograd.gradcheck(lambda h: HiddenState(4)(ModelOutputs(*copied, h)), (hidden,))


def test_maps_are_pickled_copied_and_named_like_functions():
    assert pickle.loads(pickle.dumps(sequence_log_likelihood)) is sequence_log_likelihood
    assert copy.deepcopy(Auditor(scores=zlib_ratio)).scores is zlib_ratio
    again = pickle.loads(pickle.dumps(eight_scores))
    assert again == eight_scores
    assert hash(again) == hash(eight_scores)
    assert repr(token_margin) == "token_margin"
    assert sequence_log_likelihood.__doc__.startswith("(S, 1): mean log p")


def test_half_precision_and_autocast_do_not_reach_the_scores():
    made = sequences(dtype=torch.bfloat16)
    outputs, expected = padded(made), by_loop(made)
    with torch.autocast("cpu", torch.bfloat16):
        rows = eight_scores(outputs)
        hidden = HiddenState(4)(outputs)
    assert rows.dtype == hidden.dtype == torch.float32
    torch.testing.assert_close(rows[:, 0].double(), expected["log_p"], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(rows[:, 3].double(), expected["min_k_plus_plus_20"], rtol=1e-5, atol=1e-5)


def test_no_rows_at_all():
    outputs = ModelOutputs(torch.zeros(0, 4, V), torch.zeros(0, 4).long(), extra={"zlib_lengths": zlib_lengths([])})
    assert eight_scores(outputs).shape == (0, 8)


def test_a_sequence_without_a_counted_token_is_an_error_but_its_sum_is_zero():
    outputs = padded(sequences())
    outputs.labels[1] = -100
    outputs.labels[3] = -100
    with pytest.raises(DataError, match=r"sequence 1 has no counted token \(2 of 4 have none\)"):
        MinK()(outputs)
    sums, counts = sequence_sums(outputs)
    assert sums[1] == counts[1] == 0
    outputs.labels[:] = -100
    with pytest.raises(DataError, match=r"sequence 0 has no counted token \(4 of 4"):
        HiddenState()(outputs)
    logits = torch.randn(2, 3, V, requires_grad=True)
    sums, _ = sequence_sums(ModelOutputs(logits, torch.full((2, 3), -100)))
    assert torch.equal(torch.autograd.grad(sums.sum(), logits)[0], torch.zeros(2, 3, V))


def replaced(outputs, **changes):
    fields = {name: getattr(outputs, name) for name in ("logits", "labels", "mask", "hidden", "reference", "extra")}
    return ModelOutputs(**{**fields, **changes})


def test_bad_input():
    outputs = padded(sequences())
    with pytest.raises(DataError, match=r"need logits \(n, T, V\), got \(2, 3\); for classifiers"):
        sequence_log_likelihood(ModelOutputs(torch.zeros(2, 3), torch.zeros(2).long()))
    with pytest.raises(DataError, match=r"zlib_ratio needs outputs.extra\['zlib_lengths'\].*zlib_lengths\(texts\)"):
        zlib_ratio(replaced(outputs, extra={}))
    with pytest.raises(DataError, match=r"zlib_lengths'\] must be \(4,\).*got \(3,\)"):
        zlib_ratio(replaced(outputs, extra={"zlib_lengths": zlib_lengths(TEXTS[:3])}))
    with pytest.raises(DataError, match="reference_log_ratio needs outputs"):
        reference_log_ratio(replaced(outputs, reference=None))
    with pytest.raises(DataError, match=r"reference must be \(4,\), one per sequence, got \(4, 1\)"):
        reference_log_ratio(replaced(outputs, reference=REFERENCE.unsqueeze(-1)))
    with pytest.raises(DataError, match="HiddenState needs outputs"):
        HiddenState()(replaced(outputs, hidden=None))
    with pytest.raises(DataError, match=r"hidden must be \(n, T, h\)"):
        HiddenState()(replaced(outputs, hidden=outputs.hidden[0]))
    with pytest.raises(DataError, match=r"mask must be \(4, 13\) like labels, got \(4, 1, 13, 13\)"):
        MinK()(replaced(outputs, mask=torch.ones(4, 1, 13, 13)))
    with pytest.raises(DataError, match=r"segments must be int64 \(4, 13\)"):
        MinK()(replaced(outputs, extra={"segments": torch.zeros(4, 12).long()}))
    for wrong in (V, -1):
        labels = outputs.labels.clone()
        labels[0, 6] = wrong
        with pytest.raises(DataError, match=rf"labels must be -100 or in \[0, 23\), got {wrong}"):
            MinK()(replaced(outputs, labels=labels))
    for build in (lambda: MinK(0.0), lambda: MinKPlusPlus(1.5)):
        with pytest.raises(DataError, match=r"ratio must be in \(0, 1\]"):
            build()
    with pytest.raises(DataError, match="dimensions must be >= 1, got 0"):
        HiddenState(0)
    with pytest.raises(DataError, match="at least one score map"):
        Concatenate()


def test_classifier_maps_can_be_concatenated_too():
    outputs = ModelOutputs(torch.randn(3, 4), torch.tensor([0, 1, 2]))
    assert torch.equal(Concatenate(log_likelihood, log_likelihood)(outputs)[:, :1], log_likelihood(outputs))
