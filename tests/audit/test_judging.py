"""From outputs to the verdict: controls run by default, with and without a retrained model."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pytest

from amu_fast.audit.attacks import CalibratedLoss, LinearSvmAttack, LossThreshold, Outputs, PaperAttack, SplitOutputs
from amu_fast.audit.claims import State
from amu_fast.audit.evidence import Evidence
from amu_fast.audit.intervals import clustered_mean
from amu_fast.audit.judging import fresh_rows, judge
from amu_fast.audit.margins import Margins
from amu_fast.audit.reasons import Reason
from amu_fast.audit.verdict import ChanceProof, Conditions
from amu_fast.errors import DataError

ROWS = 2000
MARGINS = Margins(test_accuracy=0.02, retain_accuracy=0.02)


class World:
    """Rows of known difficulty; models answer them with noise, and better on forget rows where they leak."""

    def __init__(self, seed=0, rows=ROWS, shift=0.0):
        self.rng = np.random.default_rng(seed)
        self.ease = {part: self.rng.normal(2, 1, rows) for part in ("forget", "test", "validation", "retain")}
        self.ease["forget"] += shift

    def model(self, leak=0.0):
        return SplitOutputs(**{part: self.outputs(part, leak) for part in self.ease})

    def outputs(self, part, leak):
        rows = len(self.ease[part])
        logits = np.zeros((rows, 2))
        logits[:, 0] = self.ease[part] + self.rng.normal(0, 0.3, rows) + (leak if part == "forget" else 0.0)
        return Outputs.from_logits(logits, np.zeros(rows, int))

    def models(self, leak=0.0):
        leaks = {"unlearned": leak, "retrain": 0.0, "original": 1.5, "floor": 0.0}
        return {name: self.model(value) for name, value in leaks.items()}


def states(verdict):
    return {claim.name: claim.state for claim in verdict.claims}


def test_a_model_like_retrain_meets_the_policy_with_its_controls():
    verdict = judge(World().models(), [LossThreshold(), LinearSvmAttack()], margins=MARGINS)
    assert (verdict.outcome, verdict.reasons) == ("meets_policy", ("all_claims_hold",))
    assert list(states(verdict)) == [
        "loss: AUC",
        "loss: over-unlearning",
        "loss: TPR at FPR 0.01",
        "linear SVM on all scores: AUC",
        "test accuracy",
        "retain accuracy",
        "forget accuracy",
    ]
    for claim in verdict.claims[:4]:
        assert [(c.kind, c.passed) for c in claim.controls] == [("positive", True), ("negative", True)]


def test_a_leak_fails_and_over_unlearning_fails_as_such():
    leaking = judge(World().models(0.5), [LossThreshold()], margins=MARGINS)
    assert (leaking.outcome, leaking.reasons[:2]) == ("fails", ("claim_violated", "leaks"))
    over = judge(World().models(-0.5), [LossThreshold()], margins=MARGINS)
    assert (over.outcome, over.reasons[:2]) == ("fails", ("claim_violated", "over_unlearned"))
    assert states(over)["loss: over-unlearning"] is State.VIOLATED
    assert states(leaking)["loss: over-unlearning"] is State.HOLDS


def test_a_shift_that_retrain_shares_is_no_violation():
    """Forget rows are harder for every model: retrain's own AUC is far from .5, the difference is not."""
    verdict = judge(World(shift=-1.0).models(), [LossThreshold()], margins=MARGINS)
    claim = verdict.claims[0]
    assert claim.state is State.HOLDS
    assert verdict.claims[2].controls[1].passed


def test_a_shift_in_the_negative_control_is_not_evaluable_never_violated():
    models = World().models(0.5)
    models["floor"] = models["original"]
    verdict = judge(models, [LossThreshold()], margins=MARGINS)
    assert states(verdict)["loss: AUC"] is State.NOT_EVALUABLE
    assert (verdict.outcome, verdict.claims[0].reasons) == ("inconclusive", (Reason.NEGATIVE_CONTROL_FAILED,))


def test_without_controls_nothing_is_evaluable():
    models = World().models(0.5)
    for name, reason in (
        ("original", Reason.POSITIVE_CONTROL_MISSING),
        ("floor", Reason.NEGATIVE_CONTROL_MISSING),
    ):
        rest = {key: value for key, value in models.items() if key != name}
        claim = judge(rest, [LossThreshold()], margins=MARGINS).claims[0]
        assert (claim.state, claim.reasons) == (State.NOT_EVALUABLE, (reason,))


def test_trained_attacks_bring_the_loss_along():
    verdict = judge(World().models(), [LinearSvmAttack()], margins=MARGINS)
    assert "loss: over-unlearning" in states(verdict)
    assert "linear SVM on all scores: over-unlearning" not in states(verdict)
    in_game = judge(World().models(), [LinearSvmAttack(in_game=True)], margins=MARGINS)
    assert in_game.reasons[0] == "no_outside_attack", "the loss that was added may be the game's score"


def test_attacks_beyond_the_required_are_reported_only():
    attacks = [LossThreshold(), LinearSvmAttack(), PaperAttack()]
    verdict = judge(World().models(), attacks, margins=MARGINS, required=1)
    required = {claim.name for claim in verdict.claims if claim.required}
    assert required == {
        "loss: AUC",
        "loss: over-unlearning",
        "loss: TPR at FPR 0.01",
        "test accuracy",
        "retain accuracy",
        "forget accuracy",
    }
    with pytest.raises(DataError, match=r"required must be 0 \.\.\. 3 attacks"):
        judge(World().models(), attacks, required=4)


def test_small_parts_cannot_carry_a_rate():
    claim = judge(World(rows=400).models(), [LossThreshold()], margins=MARGINS).claims[2]
    assert (claim.kind, claim.reasons) == ("tpr", (Reason.TOO_FEW_ROWS_FOR_FPR,))
    exact = Evidence((LossThreshold().run(World(rows=1000).model()),))
    assert Reason.TOO_FEW_ROWS_FOR_FPR not in exact.tpr(0.03, 0.01).reasons


def test_margins_of_none_leave_claims_out():
    margins = Margins(tpr=None, retain_accuracy=None, forget_accuracy=None, test_accuracy=None)
    assert list(states(judge(World().models(), [LossThreshold()], margins=margins))) == [
        "loss: AUC",
        "loss: over-unlearning",
    ]


def test_parts_that_were_not_measured_are_skipped():
    models = {name: replace(outputs, retain=None) for name, outputs in World().models().items()}
    verdict = judge(models, [LossThreshold()], margins=MARGINS)
    assert (verdict.outcome, verdict.reasons) == ("inconclusive", ("claim_not_evaluable", "skipped"))


ALLOWED = Conditions(allowed=("none",))


def without_retrain(**options):
    models = World(**options).models()
    return {"unlearned": models["unlearned"], "original": models["original"]}


@pytest.mark.parametrize("attack", [LossThreshold(), LinearSvmAttack()])
def test_without_retrain_v_tune_is_the_negative_control(attack):
    verdict = judge(
        without_retrain(rows=4000), [attack], margins=MARGINS,
        chance=ChanceProof(random_draw=True), conditions=ALLOWED,
    )  # fmt: skip
    assert (verdict.outcome, verdict.reasons) == ("meets_policy", ("all_claims_hold",))
    assert "validation accuracy" in states(verdict)
    assert "forget accuracy" not in states(verdict)


def test_without_retrain_chance_must_be_proven_and_allowed():
    models = without_retrain()
    unproven = judge(models, [LossThreshold()], margins=MARGINS, conditions=ALLOWED)
    assert unproven.outcome == "inconclusive"
    assert unproven.claims[0].reasons == (Reason.REFERENCE_UNPROVEN,)
    refused = judge(models, [LossThreshold()], margins=MARGINS, chance=ChanceProof(random_draw=True))
    assert refused.reasons[0] == "reference_not_allowed"


def test_calibration_moves_to_v_tune_with_the_rows():
    world = World(rows=3000)
    reference = world.model()
    models = {"unlearned": world.model(), "original": world.model(1.5)}
    verdict = judge(
        models, [CalibratedLoss((reference,))], margins=MARGINS,
        chance=ChanceProof(random_draw=True), conditions=ALLOWED,
    )  # fmt: skip
    assert verdict.outcome == "meets_policy"
    assert verdict.claims[0].controls[1].interval.sizes == (3000, 3000)


def test_fresh_rows_are_halved_for_a_trained_attack():
    outputs = World(rows=101).model()
    halves = fresh_rows(outputs, trained=True)
    assert (len(halves.forget), len(halves.validation), len(halves.test)) == (50, 51, 101)
    assert np.array_equal(np.concatenate([halves.forget.loss, halves.validation.loss]), outputs.validation.loss)
    assert len(fresh_rows(outputs, trained=False).forget) == 101


def test_several_units_speak_for_the_algorithm():
    worlds = [World(seed, rows=600) for seed in range(6)]
    results = [{name: LossThreshold().run(m) for name, m in world.models().items()} for world in worlds]
    columns = {name: tuple(unit[name] for unit in results) for name in results[0]}
    evidence = Evidence(columns["unlearned"], columns["retrain"], columns["original"], columns["floor"])
    claims = evidence.claims(Margins())
    assert [claim.interval.scope for claim in claims] == ["the algorithm"] * 3
    assert claims[0].interval.sizes == (6,)
    differences = [u["unlearned"].auc.value - u["retrain"].auc.value for u in results]
    assert claims[0].interval.value == pytest.approx(np.mean(differences), abs=1e-12)
    few = Evidence(columns["unlearned"][:4], columns["retrain"][:4], columns["original"][:4], columns["floor"][:4])
    assert few.auc(0.05).reasons[0] is Reason.TOO_FEW_UNITS
    with pytest.raises(DataError, match="retrain has 4 units and unlearned 6"):
        Evidence(columns["unlearned"], columns["retrain"][:4])


def test_persons_widen_the_accuracy_interval():
    """Eight copies of each row are one eighth of the rows they seem to be."""
    rng = np.random.default_rng(0)
    values = rng.choice([-1.0, 0.0, 1.0], p=[0.1, 0.8, 0.1], size=200)
    repeated, persons = np.repeat(values, 8), np.repeat(np.arange(200), 8)
    by_person = clustered_mean(repeated, persons)
    single = clustered_mean(values, np.arange(200))
    assert (by_person.low, by_person.high) == pytest.approx((single.low, single.high), abs=1e-12)
    from scipy import stats

    expected = stats.t.interval(0.95, 199, loc=values.mean(), scale=stats.sem(values))
    assert (single.low, single.high) == pytest.approx(expected, abs=1e-12)
    with pytest.raises(DataError, match="at least 2 persons"):
        clustered_mean(values, np.zeros(200))
    with pytest.raises(DataError, match="one person per row"):
        clustered_mean(values, np.zeros(3))


def test_intervals_over_rows_are_refused_where_persons_repeat():
    """A result that knows no persons, and any bootstrap over rows, is not evaluable; accuracy is judged by person."""
    models, persons = World().models(), np.repeat(np.arange(ROWS // 8), 8)
    for outputs in models.values():
        for part in ("forget", "test", "retain"):
            object.__setattr__(getattr(outputs, part), "clusters", persons)
    claims = {claim.name: claim for claim in judge(models, [LinearSvmAttack()], margins=MARGINS).claims}
    assert Reason.CLUSTERS_IGNORED in claims["linear SVM on all scores: TPR at FPR 0.01"].reasons
    accuracy = claims["test accuracy"].interval
    assert (accuracy.method, accuracy.sizes) == ("cluster t", (ROWS // 8,))
    by_rows = Evidence((LossThreshold().run(World().model()),), (LossThreshold().run(World().model()),), clustered=True)
    assert Reason.CLUSTERS_IGNORED in by_rows.auc(0.05).reasons
    single = Evidence(by_rows.unlearned, by_rows.retrain)
    assert Reason.CLUSTERS_IGNORED not in single.auc(0.05).reasons


def test_wrong_input_is_refused():
    models = World(rows=50).models()
    with pytest.raises(DataError, match=r"must hold \"unlearned\", got \['retrain'\]"):
        judge({"retrain": models["retrain"]}, [LossThreshold()])
    with pytest.raises(DataError, match="models may hold"):
        judge({**models, "shadow": models["floor"]}, [LossThreshold()])
    with pytest.raises(DataError, match="attacks must have different names"):
        judge(models, [LossThreshold(), LossThreshold()])
    with pytest.raises(DataError, match="at least 1 result of the unlearned model"):
        Evidence(())

    @dataclass(frozen=True)
    class Distance:
        name: str = "distance"

        def run(self, target, splits=None):
            return 0.5

    with pytest.raises(DataError, match="'distance' returned a float; a claim needs an AttackResult"):
        judge(models, [Distance()])
    with pytest.raises(DataError, match="is trained; over-unlearning needs"):
        Evidence((LinearSvmAttack().run(models["unlearned"]),)).over_unlearning(0.05)
