"""LiRA, U-LiRA and RMIA against closed forms, against their ideal, and against the faults of released code."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import norm

from amu_fast.audit.attacks import Lira, Outputs, Rmia, Shadows, ShadowScores, SplitOutputs, ULira
from amu_fast.audit.metrics import auc
from amu_fast.errors import DataError
from amu_fast.protocols import Attack


def outputs_of(phi):
    """Two-class outputs whose phi is exactly the given one."""
    return Outputs.from_logits(np.stack([phi, 0 * phi], 1), np.zeros(len(phi), int))


def pair(centre, deviation):
    """Two models' phi with median `centre` and sample deviation `deviation`, per row."""
    half = np.asarray(deviation) / np.sqrt(2)
    return np.stack([centre - half, centre + half])


def exact_shadows(mu_in, sd_in, mu_out, sd_out):
    """Two IN and two OUT models per row with exactly these moments."""
    phi = np.concatenate([pair(mu_in, sd_in), pair(mu_out, sd_out)])
    inside = np.zeros(phi.shape, bool)
    inside[:2] = True
    return ShadowScores(phi, inside)


def gaussian_world(rng, rows, models, shift, noise=1.0, spread=3.0):
    """phi of `models` shadow models, IN for a random half of the rows, and each row's own easiness."""
    easiness = rng.normal(0, spread, rows)
    inside = rng.permuted(np.arange(models)[:, None] < np.full(rows, models // 2), axis=0)
    return ShadowScores(easiness + shift * inside + noise * rng.normal(size=(models, rows)), inside), easiness


MU_IN, MU_OUT = np.array([3.0, 1.0, 0.0]), np.array([1.0, 0.5, -2.0])
SD_IN, SD_OUT = np.array([0.5, 1.0, 2.0]), np.array([1.0, 2.0, 0.5])
PHI = np.array([2.0, -1.0, 4.0])


def run(attack, members, nonmembers):
    return attack.run(SplitOutputs(outputs_of(members), outputs_of(nonmembers)))


def same_shadows(scores):
    return Shadows(scores, scores)


def test_online_score_is_the_closed_form_log_ratio():
    shadows = same_shadows(exact_shadows(MU_IN, SD_IN, MU_OUT, SD_OUT))
    result = run(Lira(shadows, variance="row", fprs=(0.1,)), PHI, PHI)
    expected = norm.logpdf(PHI, MU_IN, SD_IN) - norm.logpdf(PHI, MU_OUT, SD_OUT)
    np.testing.assert_allclose(result.member_scores, expected, rtol=1e-12)
    assert isinstance(Lira(shadows), Attack)


def test_pooled_and_global_variances_are_the_closed_forms():
    shadows = same_shadows(exact_shadows(MU_IN, SD_IN, MU_OUT, SD_OUT))
    pooled = np.sqrt((SD_IN**2 + SD_OUT**2) / 2)
    expected = norm.logpdf(PHI, MU_IN, pooled) - norm.logpdf(PHI, MU_OUT, pooled)
    for variance in ("pooled", "auto"):  # 2 models are few
        np.testing.assert_allclose(run(Lira(shadows, variance=variance), PHI, PHI).member_scores, expected, rtol=1e-12)
    one_in, one_out = np.sqrt((SD_IN**2).mean()), np.sqrt((SD_OUT**2).mean())
    expected = norm.logpdf(PHI, MU_IN, one_in) - norm.logpdf(PHI, MU_OUT, one_out)
    np.testing.assert_allclose(run(Lira(shadows, variance="global"), PHI, PHI).member_scores, expected, rtol=1e-12)


def test_auto_uses_each_rows_own_variance_from_64_models_on():
    shadows, _ = gaussian_world(np.random.default_rng(0), 5, 128, 1.0)
    phi = np.linspace(-2, 2, 5)
    auto, row = (run(Lira(same_shadows(shadows), variance=v), phi, phi).member_scores for v in ("auto", "row"))
    np.testing.assert_array_equal(auto, row)


def test_location_is_the_median_not_the_mean():
    phi = np.tile([[0.0], [0.0], [30.0], [10.0], [10.0], [10.0]], 2)
    inside = np.tile([[False]] * 3 + [[True]] * 3, 2)
    result = run(Lira(same_shadows(ShadowScores(phi, inside)), online=False), np.zeros(2), np.zeros(2))
    assert result.member_scores.tolist() == [0.0, 0.0]


def test_offline_score_is_one_sided_and_uses_out_models_only():
    """Far below mu_out is the opposite of a member; the two-sided OUT density would rank it first."""
    shadows = same_shadows(exact_shadows(MU_IN + 50, SD_IN, MU_OUT, SD_OUT))
    low, high = MU_OUT - 6 * SD_OUT, MU_OUT + 2 * SD_OUT
    result = run(Lira(shadows, online=False, variance="row"), high, low)
    np.testing.assert_allclose(norm.cdf(result.member_scores), norm.cdf(2.0), rtol=1e-12)
    assert result.auc.value == 1.0
    assert auc(-norm.logpdf(high, MU_OUT, SD_OUT), -norm.logpdf(low, MU_OUT, SD_OUT)) == 0.0


def test_offline_global_deviation_is_the_out_models():
    """The reference code takes the IN deviation."""
    shadows = same_shadows(exact_shadows(MU_IN, 100 * SD_IN, MU_OUT, SD_OUT))
    for variance in ("global", "auto"):
        result = run(Lira(shadows, online=False, variance=variance), PHI, PHI)
        expected = (PHI - MU_OUT) / np.sqrt((SD_OUT**2).mean())
        np.testing.assert_allclose(result.member_scores, expected, rtol=1e-12)


@pytest.mark.parametrize("online", [True, False])
def test_auc_and_tpr_are_those_of_two_gaussians(online):
    """phi = easiness + noise (+ delta for members), known to the attack: AUC = Phi(delta/(s sqrt 2))."""
    rng, rows, delta = np.random.default_rng(1), 1500, 1.2
    shadows, easiness = gaussian_world(rng, 2 * rows, 128, delta)
    parts = [ShadowScores(shadows.phi[:, s], shadows.inside[:, s]) for s in (slice(rows), slice(rows, None))]
    phi = easiness + rng.normal(size=2 * rows)
    phi[:rows] += delta
    result = run(Lira(Shadows(*parts), online=online, variance="global", fprs=(0.01,)), phi[:rows], phi[rows:])
    assert result.auc.low < norm.cdf(delta / np.sqrt(2)) < result.auc.high
    assert result.tpr[0.01].contains(norm.cdf(delta - norm.ppf(0.99)))
    assert auc(phi[:rows], phi[rows:]) < 0.65, "the raw phi does not see this"


def test_a_model_that_memorises_is_caught_and_a_coin_is_not():
    rng, rows = np.random.default_rng(2), 200
    inside = rng.permuted(np.arange(32)[:, None] < np.full(rows, 16), axis=0)
    memorising = same_shadows(ShadowScores(np.where(inside, 30.0, -30.0), inside))
    caught = run(ULira(memorising), np.full(rows, 30.0), np.full(rows, -30.0))
    assert (caught.auc.value, caught.auc.low > 0.97) == (1.0, True)
    coin = same_shadows(ShadowScores(rng.normal(size=(32, rows)), inside))
    fair = run(ULira(coin), rng.normal(size=rows), rng.normal(size=rows))
    assert fair.auc.contains(0.5)


def test_pooling_beats_the_others_at_16_pairs():
    """S14's order of the TPR at small FPR: pooled per row, then per world, then one variance for all rows."""
    rng, rows = np.random.default_rng(3), 4000
    noise = np.exp(rng.normal(0, 0.7, 2 * rows))
    easiness = rng.normal(0, 3, 2 * rows)
    inside = rng.permuted(np.arange(32)[:, None] < np.full(2 * rows, 16), axis=0)
    phi = easiness + noise * (1.5 * inside + rng.normal(size=(32, 2 * rows)))
    target = easiness + noise * (rng.normal(size=2 * rows) + 1.5 * (np.arange(2 * rows) < rows))
    parts = [ShadowScores(phi[:, s], inside[:, s]) for s in (slice(rows), slice(rows, None))]
    rates = {}
    for variance in ("pooled", "row", "global"):
        result = run(ULira(Shadows(*parts), variance=variance), target[:rows], target[rows:])
        rates[variance] = result.tpr[0.01].value
    assert rates["pooled"] > 1.1 * rates["row"] > 1.1 * rates["global"], rates
    assert run(ULira(Shadows(*parts)), target[:rows], target[rows:]).tpr[0.01].value == rates["pooled"]


def test_ulira_uses_phi_not_correctness():
    """All answers are right everywhere, so Gaussians fitted to correctness are blind; phi is not."""
    rng, rows = np.random.default_rng(4), 150
    inside = rng.permuted(np.arange(32)[:, None] < np.full(rows, 16), axis=0)
    shadows = same_shadows(ShadowScores(5 + 2.0 * inside + 0.3 * rng.normal(size=(32, rows)), inside))
    members, nonmembers = 7 + 0.3 * rng.normal(size=rows), 5 + 0.3 * rng.normal(size=rows)
    assert outputs_of(members).correct.all()
    assert outputs_of(nonmembers).correct.all()
    assert run(ULira(shadows), members, nonmembers).auc.low > 0.95


def test_models_that_kept_a_row_say_nothing():
    """A third world, trained on the row and never asked to forget it, changes no score."""
    rng, rows = np.random.default_rng(5), 40
    inside = rng.permuted(np.arange(32)[:, None] < np.full(rows, 16), axis=0)
    phi = rng.normal(size=(32, rows)) + inside
    kept = np.full((8, rows), 90.0)
    none = np.zeros((8, rows), bool)
    wider = ShadowScores(np.concatenate([phi, kept]), np.concatenate([inside, none]), np.concatenate([~inside, none]))
    target = rng.normal(size=rows)
    scores = [run(ULira(same_shadows(s)), target, target).member_scores for s in (ShadowScores(phi, inside), wider)]
    np.testing.assert_array_equal(*scores)


def p_of(phi):
    return 1 / (1 + np.exp(-phi))


def rmia_world(seed=6, rows=400, population=2000, models=4):
    rng = np.random.default_rng(seed)
    easiness = rng.normal(1, 2, 2 * rows + population)
    references = easiness + 0.5 * rng.normal(size=(models, len(easiness)))
    target = easiness + 0.5 * rng.normal(size=len(easiness))
    target[:rows] += 0.7
    cuts = slice(rows), slice(rows, 2 * rows), slice(2 * rows, None)
    shadows = Shadows(*(ShadowScores(references[:, c], np.zeros_like(references[:, c], bool)) for c in cuts))
    forget, test, z = (outputs_of(target[c]) for c in cuts)
    return shadows, SplitOutputs(forget, test, validation=z), references, target, cuts


@pytest.mark.parametrize("gamma", [1.0, 2.0])
def test_rmia_has_the_auc_of_the_log_ratio(gamma):
    """With one query the score is monotone in log p(x|theta) - log p(x); gamma and Z act through ties only."""
    shadows, target, references, phi, (forget, test, _) = rmia_world()
    result = Rmia(shadows, gamma=gamma, offline_a=1.0).run(target)
    log_ratio = np.log(p_of(phi)) - np.log(p_of(references).mean(axis=0))
    assert result.auc.value == pytest.approx(auc(log_ratio[forget], log_ratio[test]), abs=0.01)
    assert result.auc.low > 0.55


def test_rmia_is_the_brute_force_definition():
    shadows, target, references, phi, (forget, _, z) = rmia_world(rows=20, population=50)
    a = 0.3
    prior = ((1 + a) * p_of(references).mean(axis=0) + (1 - a)) / 2
    ratio = p_of(phi) / prior
    expected = (ratio[forget][:, None] / ratio[z][None, :] > 2.0).mean(axis=1)
    np.testing.assert_array_equal(Rmia(shadows, offline_a=a).run(target).member_scores, expected)


def test_rmia_online_averages_both_worlds_alike():
    """3 OUT models and 1 IN model: each world has half the weight, not a quarter."""
    phi = np.array([[0.0], [0.0], [0.0], [4.0]])
    inside = np.array([[False], [False], [False], [True]])
    z = ShadowScores(np.zeros((4, 3)), np.zeros((4, 3), bool))
    prior = (p_of(0.0) + p_of(4.0)) / 2
    # ratio(z) = 1, 1.5, 1.8 and the row's own .993/.741 = 1.34; with a quarter of the weight it would be 1.6
    log_odds = [np.log(p / (1 - p)) for p in (0.5, 0.75, 0.9)]
    target = 5.0
    expected = np.mean([p_of(target) / prior / (p_of(o) / 0.5) > 1.0 for o in log_odds])
    quarter = (3 * p_of(0.0) + p_of(4.0)) / 4
    assert expected == 1 / 3 != np.mean([p_of(target) / quarter / (p_of(o) / 0.5) > 1.0 for o in log_odds])
    side = outputs_of(np.array([target, target]))
    twice = Shadows(*(ShadowScores(np.tile(phi, 2), np.tile(inside, 2)),) * 2, z)
    split = SplitOutputs(side, side, validation=outputs_of(np.array(log_odds)))
    assert Rmia(twice, online=True, gamma=1.0).run(split).member_scores.tolist() == [expected, expected]


def test_rmia_strict_at_ties():
    """A row like the whole population has ratio(x)/ratio(z) = 1, which is not above gamma = 1."""
    flat = ShadowScores(np.zeros((2, 4)), np.zeros((2, 4), bool))
    same = outputs_of(np.zeros(4))
    result = Rmia(Shadows(flat, flat, flat), gamma=1.0).run(SplitOutputs(same, same, validation=same))
    assert result.member_scores.tolist() == [0.0] * 4
    assert result.auc.value == 0.5


def test_offline_rmia_refuses_rows_that_every_reference_saw():
    """An OUT reference excludes x; one that was trained on it is no stand-in."""
    seen = ShadowScores(np.zeros((2, 4)), np.ones((2, 4), bool))
    unseen = ShadowScores(np.zeros((2, 4)), np.zeros((2, 4), bool))
    neither = ShadowScores(np.zeros((2, 4)), unseen.inside, unseen.inside)
    same = outputs_of(np.zeros(4))
    split = SplitOutputs(same, same, validation=same)
    with pytest.raises(DataError, match="needs a reference that excludes it for every row"):
        Rmia(Shadows(seen, unseen, unseen)).run(split)
    with pytest.raises(DataError, match="a reference that is inside or outside"):
        Rmia(Shadows(neither, unseen, unseen), online=True).run(split)
    with pytest.raises(DataError, match="have 4 population rows and the target 3"):
        Rmia(Shadows(unseen, unseen, unseen)).run(SplitOutputs(same, same, validation=outputs_of(np.zeros(3))))


def test_shadows_from_outputs_keep_rows_and_masks():
    rng = np.random.default_rng(7)
    models = [SplitOutputs(*(outputs_of(rng.normal(size=n)) for n in (3, 5, 7))) for _ in range(4)]
    inside = rng.random((4, 3)) < 0.5, rng.random((4, 5)) < 0.5
    shadows = Shadows.of(models, inside, population=True)
    np.testing.assert_allclose(shadows.test.phi[2], models[2].test.phi)
    np.testing.assert_array_equal(shadows.forget.inside, inside[0])
    assert shadows.population.counts() == (0, 4)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda s: ShadowScores(s.phi, s.inside.astype(int)), "inside must be bool"),
        (lambda s: ShadowScores(s.phi, s.inside, s.inside | True), "inside and outside for row"),
        (lambda s: Lira(same_shadows(s), variance="fixed"), "must be one of .* got 'fixed'"),
        (lambda s: Lira(same_shadows(s), online=False, variance="pooled"), "offline LiRA has no IN"),
        (lambda s: ULira(same_shadows(s)), "needs 16 forgotten and 16 never models for every row, got 2 and 2"),
        (lambda s: Rmia(same_shadows(s)), "needs references on population rows"),
        (lambda s: run(Lira(same_shadows(s)), PHI[:2], PHI), "have 3 forget rows and the target 2"),
        (
            lambda s: run(Lira(same_shadows(ShadowScores(s.phi, s.inside & False)), online=True), PHI, PHI),
            r"at least 2 IN and 2 OUT .* got \(0, 4\)",
        ),
        (
            lambda s: run(Lira(same_shadows(ShadowScores(s.phi, s.inside | True)), online=False), PHI, PHI),
            "at least 2 OUT models for every row, got 0",
        ),
        (lambda s: s.beside(ShadowScores(s.phi[:2], s.inside[:2])), "same shadow models, got 4 for one and 2"),
    ],
)
def test_refusals(call, message):
    with pytest.raises(DataError, match=message):
        call(exact_shadows(MU_IN, SD_IN, MU_OUT, SD_OUT))
