"""Gradients of a step against a plain loop, at 1 and 4 micro-batches on 1 and 2 ranks."""

from __future__ import annotations

import math
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from accelerate.utils import DistributedType
from integrations.tiny import game, llama, rows, splits, trainer, update, weights
from transformers import BertConfig, BertForSequenceClassification

from amu_fast.audit import Auditor, confidence
from amu_fast.audit.scores import ModelOutputs, log_likelihood
from amu_fast.errors import DataError, SolveError
from amu_fast.integrations import Order, UnlearnDatasets
from amu_fast.unlearn.objectives import FineTune, GameObjective, Terms

# transformers takes a causal model's loss in float32, whatever its weights are
CLOSE = {"rtol": 1e-4, "atol": 5e-8}


def token_sums(model, row):
    """Sum of log p and number of the counted tokens of one row, without padding."""
    logits = model(input_ids=row["input_ids"][None]).logits[0].log_softmax(-1)
    counted = [logits[t - 1, y] for t, y in enumerate(row["labels"].tolist()) if y != -100 and t > 0]
    return torch.stack(counted).sum(), len(counted)


def by_hand(accumulation, *, exact):
    """Minus the gradient: the mean over all counted tokens, and the payoff of each micro-batch or of all."""
    model, parts = llama().double(), splits()
    order = Order(
        {"retain": 21, "forget": 24, "validation": 26},
        game().needs,
        retain_batch=8 // accumulation,
        audit_batch=16 // accumulation,
        accumulation=accumulation,
        pooled=exact,
        seed=3,
    )
    micro = [order.batch(0, position) for position in range(accumulation)]
    total, count = 0.0, 0
    for batch in micro:
        for row in batch["retain"].tolist():
            value, tokens = token_sums(model, parts.retain[row])
            total, count = total - value, count + tokens
    sides = [
        [[token_sums(model, getattr(parts, name)[row]) for row in batch[name].tolist()] for batch in micro]
        for name in ("forget", "validation")
    ]
    scores = [[torch.stack([v / n for v, n in rows])[:, None] for rows in side] for side in sides]
    people = [[torch.tensor([getattr(parts, name)[row]["clusters"] for row in b[name].tolist()]) for b in micro]
              for name in ("forget", "validation")]  # fmt: skip
    if exact:
        scores, people = ([[torch.cat(side)] for side in both] for both in (scores, people))
    payoffs = [
        Auditor().payoff(m, n, clusters=(a, b), step=step).value
        for step, (m, n, a, b) in enumerate(zip(*scores, *people, strict=True))
    ]
    (total / count + 3.0 * torch.stack(payoffs).mean()).backward()
    return -torch.cat([p.grad.flatten() for p in model.parameters()])


@pytest.mark.parametrize(("accumulation", "exact"), [(1, False), (4, False), (4, True)])
def test_a_step_is_that_of_a_plain_loop(tmp_path, accumulation, exact):
    found, expected = update(tmp_path, accumulation, 1, exact=exact), by_hand(accumulation, exact=exact)
    torch.testing.assert_close(found, expected, **CLOSE)


@pytest.mark.parametrize("hold", [True, False])
def test_exact_accumulation_is_one_big_batch(tmp_path, hold):
    big, small = (update(tmp_path, k, 1, exact=True, hold=hold) for k in (1, 4))
    torch.testing.assert_close(small, big, **CLOSE)
    # each micro-batch a game of its own is another gradient
    assert not torch.allclose(update(tmp_path, 4, 1, exact=False, hold=hold), big, rtol=1e-3)


def test_two_ranks(tmp_path):
    """The same steps on 2 ranks, audits of uneven parts, and a resumed run with dropout; the library alone is light."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    script = Path(__file__).with_name("ranks.py")
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, str(script), str(tmp_path), port], env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr[-4000:]
    one, two = (torch.load(tmp_path / f"rank-{rank}.pt", weights_only=False) for rank in range(2))
    for case in [(1, False), (4, False), (4, True)]:
        assert torch.equal(one[str(case)], two[str(case)])
        torch.testing.assert_close(one[str(case)], by_hand(case[0], exact=case[1]), **CLOSE)
    for through, on in (one["uneven"], two["uneven"]):
        assert through == on == one["uneven"][0]
    for through, on in (one["weights"], two["weights"]):
        assert torch.equal(through, on)
    audits = one["uneven"][0]
    assert [audit.step for audit in audits] == [0, 2, 3]
    assert audits[0].auc.sizes == (9, 7)
    assert audits[0].auc.method == "cluster DeLong"


def test_classifiers_that_ignore_the_number_of_items(tmp_path):
    """BERT takes `num_items_in_batch` and returns a mean all the same: four micro-batches are one batch."""

    def step(accumulation):
        torch.manual_seed(0)
        config = BertConfig(
            vocab_size=40, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=24,
            max_position_embeddings=16, num_labels=3, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
        )  # fmt: skip
        model = BertForSequenceClassification(config).double()
        before = weights(model)
        optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1.0)

        def labelled(count, seed):
            return [{"input_ids": row["input_ids"], "label": k % 3} for k, row in enumerate(rows(count, seed))]

        taught = trainer(
            tmp_path,
            model,
            options={
                "max_steps": 1,
                "per_device_train_batch_size": 8 // accumulation,
                "gradient_accumulation_steps": accumulation,
                "max_grad_norm": 0.0,
            },
            splits=UnlearnDatasets(labelled(9, 1), labelled(24, 2), labelled(24, 3)),
            objective=GameObjective(Auditor(scores=confidence), weight=1.0, cap=None),
            audit_batch_size=24 // accumulation,
            exact_accumulation=True,
            optimizers=(optimizer, schedule),
        )
        assert taught.model_accepts_loss_kwargs
        taught.train()
        return weights(model) - before, taught

    whole, taught = step(1)
    torch.testing.assert_close(step(4)[0], whole, rtol=1e-8, atol=1e-11)
    logits = ModelOutputs(torch.zeros(2, 3), torch.tensor([0, 1]))
    assert float(log_likelihood(logits)[0]) == pytest.approx(-taught.recorder.columns()["retain_loss"][0], abs=0.5)


def test_the_whole_loss_has_the_gradient_of_its_terms(tmp_path):
    taught = trainer(tmp_path)
    batch = next(iter(taught.get_train_dataloader()))
    loss = taught.compute_loss(taught.model, batch)
    whole = torch.autograd.grad(loss, list(taught.model.parameters()))
    taught.objective = game()
    _, _ = taught.get_batch_samples(iter([batch]), 1, taught.args.device)
    taught.create_optimizer_and_scheduler(4)
    shown = taught.training_step(taught.model, batch)
    torch.testing.assert_close(shown, loss.detach())
    for p, g in zip(taught.model.parameters(), whole, strict=True):
        torch.testing.assert_close(p.grad, g, rtol=1e-4, atol=1e-7)


def test_an_engine_that_steps_in_its_backward_gets_one_backward(tmp_path, monkeypatch):
    """As DeepSpeed's does: the sum of all terms, not scaled once more."""
    gradients, calls = [], []
    for engine in (False, True):
        taught = trainer(tmp_path)
        taught.create_optimizer_and_scheduler(4)
        batches, _ = taught.get_batch_samples(iter(taught.get_train_dataloader()), 1, taught.args.device)
        if engine:
            monkeypatch.setattr(type(taught.accelerator), "distributed_type", DistributedType.DEEPSPEED)
            monkeypatch.setattr(
                taught.accelerator, "backward", lambda loss, **options: (calls.append(options), loss.backward())
            )
        taught.training_step(taught.model, batches[0])
        gradients.append(torch.cat([p.grad.flatten() for p in taught.model.parameters()]))
    assert calls == [{"scale_wrt_gas": False}]
    torch.testing.assert_close(gradients[1], gradients[0], rtol=1e-4, atol=1e-7)


def test_one_graph_at_a_time(tmp_path):
    """The next term is asked for after the backward of the one before."""
    seen = []

    class Watching(FineTune):
        def terms(self, model, batch, retain_loss=None):
            yield from super().terms(model, batch, retain_loss)
            seen.append([float(p.grad.norm()) for p in model.parameters()])
            penalty = sum((p**2).sum() for p in model.parameters())
            yield Terms(penalty, {}, 0.0)

    trainer(tmp_path, objective=Watching(), options={"max_steps": 1}).train()
    assert any(norm > 0 for norm in seen[0])


def test_what_is_not_finite_is_named_at_the_next_log(tmp_path):
    class Exploding(FineTune):
        def terms(self, model, batch, retain_loss=None):
            for term in super().terms(model, batch, retain_loss):
                factor = math.nan if batch.step == 2 else 1.0
                yield Terms(term.loss, {"retain_loss": factor * term.loss.detach()}, term.gradient_samples)

    with pytest.raises(SolveError, match="retain_loss is nan at step 3 of fine_tune"):
        trainer(tmp_path, objective=Exploding()).train()


def test_labels_that_do_not_count_are_refused(tmp_path):
    blank = [{**row, "labels": torch.full_like(row["labels"], -100)} for row in rows(8, 1)]
    with pytest.raises(DataError, match="no label of a retain micro-batch counts"):
        trainer(tmp_path, splits=splits(retain=blank)).train()
