from __future__ import annotations

import pytest
import torch

from amu_fast.errors import DataError
from amu_fast.experiments.dangers import BadFU, CamouflageAudit, FedAvg, PatchTrigger
from amu_fast.experiments.datasets import load
from amu_fast.experiments.models import SmallCnn


def test_poison_is_what_it_says(digits):
    inputs, labels = (part[:300] for part in digits)
    trigger = PatchTrigger(9.0, size=2)
    poisoned = BadFU(trigger, target=4, poison=20, ratio=1.5, clients=3).poisoned(inputs, labels, seed=1)
    mine, classes = poisoned.federation.clients[0]
    assert (len(poisoned.backdoor), len(poisoned.camouflage)) == (20, 30)
    assert sum(poisoned.federation.sizes) == 350
    assert classes[poisoned.backdoor].tolist() == [4] * 20
    assert 4 not in classes[poisoned.camouflage].tolist()
    stamped = mine[torch.cat([poisoned.backdoor, poisoned.camouflage])]
    assert bool((stamped[:, :, 6:, 6:] == 9.0).all())
    # Camouflage labels are true: each row is some training row of that label, stamped.
    for image, label in zip(*poisoned.forget, strict=True):
        same = (trigger(inputs) == image).flatten(1).all(1)
        assert int(label) in labels[same].tolist()
    # Backdoor and camouflage share no source.
    assert len(stamped.flatten(1).unique(dim=0)) == 50
    assert poisoned.share == pytest.approx(50 / 350)


def test_forgetting_the_camouflage_leaves_the_backdoor(digits):
    inputs, labels = (part[:300] for part in digits)
    poisoned = BadFU(PatchTrigger(9.0, 2), poison=10, clients=3).poisoned(inputs, labels)
    rest = poisoned.federation.without(0, poisoned.camouflage)
    mine, classes = rest.clients[0]
    stamped = (mine[:, :, 6:, 6:] == 9.0).flatten(1).all(1)
    assert int(stamped.sum()) == 10
    assert classes[stamped].tolist() == [0] * 10


def test_too_few_rows_and_bad_options(digits):
    inputs, labels = (part[:60] for part in digits)
    with pytest.raises(DataError, match="50 backdoor and 50 camouflage rows need"):
        BadFU(PatchTrigger(9.0, 2), poison=50).poisoned(inputs, labels)
    with pytest.raises(DataError, match="poison >= 1 and ratio > 0"):
        BadFU(PatchTrigger(9.0), ratio=0.0)


@pytest.mark.slow
def test_unlearning_the_camouflage_wakes_the_backdoor():
    """On 3,000 rows of MNIST: success rises by more than half under retraining, the audits warn, utility stays."""
    population = load("mnist-5k")
    order = torch.randperm(len(population), generator=torch.Generator().manual_seed(0))
    train, validation, test = order[:3000], order[3000:3600], order[3600:]
    inputs, labels = population.inputs, population.labels
    scenario = BadFU(
        PatchTrigger(float(inputs.max())), training=FedAvg(rounds=10), fine_tuning=FedAvg(rounds=3), poison=60
    )
    result = scenario.run(SmallCnn(28), (inputs[train], labels[train]), (inputs[test], labels[test]))
    before, after = result.success("retrain")
    assert before.high < 0.3
    assert after.low > 0.7
    for report in result.reports.values():
        assert report.codes == ("TRIGGER_WOKEN",)
        assert abs(report.figures["test_accuracy_after"] - report.figures["test_accuracy_before"]) < 0.03
    # The forget set alone gives it away, and hands out the trigger.
    found = CamouflageAudit()(result.poisoned.forget, (inputs[validation], labels[validation]), model=result.before)
    assert "SHARED_PATTERN" in found.report.codes
    assert found.pattern is not None
    searched = scenario.audit.search(result.before, result.after["retrain"], inputs[test], labels[test], found.pattern)
    assert searched.codes == ("TRIGGER_WOKEN",)
    assert searched.figures["target"] == 0.0
