"""The same class on LoRA, checkpointed and bf16 models, encoders and image classifiers."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from digits import noisy_digits
from integrations.tiny import VOCABULARY, arguments, game, llama, rows, splits, trainer, weights
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    ResNetConfig,
    ResNetForImageClassification,
    ViTConfig,
    ViTForImageClassification,
)

from amu_fast.audit import Auditor, confidence, log_likelihood
from amu_fast.errors import DataError
from amu_fast.integrations import AuditCallback, UnlearnDatasets, UnlearnTrainer
from amu_fast.unlearn.batch_norm import tracking_layers
from amu_fast.unlearn.objectives import GameObjective


def lora():
    config = LoraConfig(r=2, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM", init_lora_weights=False)
    torch.manual_seed(1)
    return get_peft_model(llama(), config)


def test_only_adapters_train_and_the_adapter_is_what_is_saved(tmp_path):
    model = lora()
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    options = {"save_strategy": "steps", "save_steps": 2, "activation_checkpointing": True}
    taught = trainer(tmp_path, model, options=options, callbacks=[AuditCallback(2)])
    taught.train()
    moved = {name for name, p in model.named_parameters() if not torch.equal(p, before[name])}
    assert moved == {name for name in before if "lora_" in name}
    folder = tmp_path / "checkpoint-2"
    assert (folder / "adapter_model.safetensors").exists()
    assert not (folder / "model.safetensors").exists()
    assert "LORA" in taught.report().method.config["model"]
    on = trainer(tmp_path, lora(), options=options, callbacks=[AuditCallback(2)])
    on.train(resume_from_checkpoint=str(folder))
    assert torch.equal(weights(on.model), weights(taught.model))
    loaded = PeftModel.from_pretrained(llama(), str(tmp_path / "checkpoint-4"))
    ids = rows(1, 7)[0]["input_ids"][None]
    with torch.no_grad():
        torch.testing.assert_close(loaded.eval()(ids).logits, model.eval()(ids).logits)


@pytest.mark.parametrize("make", [llama, lora])
def test_checkpointing_activations_changes_no_gradient(tmp_path, make):
    """Reentrant checkpointing of a LoRA model has gradients only if the input of its first block has one."""
    found = []
    for on in (False, True):
        model, forwards = make(), []
        block = next(module for name, module in model.named_modules() if name.endswith("layers.0.mlp"))
        # a checkpointed block is run a second time in its backward
        block.register_forward_pre_hook(lambda *_, forwards=forwards: forwards.append(torch.is_grad_enabled()))
        options = {"activation_checkpointing": on, "gradient_accumulation_steps": 2, "max_grad_norm": 0.0}
        options["activation_checkpointing_kwargs"] = {"use_reentrant": make is lora}
        taught = trainer(tmp_path, model, options={**options, "max_steps": 2}, exact_accumulation=True)
        taught.train()
        found.append((weights(model), len(forwards)))
    torch.testing.assert_close(found[1][0], found[0][0], rtol=1e-5, atol=1e-6)
    # per step 2 retain forwards; at the auditing step also 2 of members with gradient and 6 without
    assert (found[0][1], found[1][1]) == (12, 18)


def test_bf16_autocast_leaves_scores_and_follower_alone(tmp_path):
    seen = []

    class Listening(Auditor):
        def payoff(self, members, nonmembers, *rest, **named):
            seen.append((members.dtype, nonmembers.dtype, bool(members.requires_grad)))
            return super().payoff(members, nonmembers, *rest, **named)

    model, inner = llama(), []
    model.model.layers[0].mlp.register_forward_hook(lambda module, given, output: inner.append(output.dtype))
    objective = GameObjective(Listening(scores=game().auditor.scores), weight=3.0, every=2, cap=None)
    taught = trainer(tmp_path, model, objective=objective, options={"bf16": True})
    taught.train()
    assert set(inner) == {torch.bfloat16}
    assert set(seen) == {(torch.float32, torch.float32, True)}
    assert next(model.parameters()).dtype == torch.float32
    exact = trainer(tmp_path, llama())
    exact.train()
    columns = [t.recorder.columns()["retain_loss"] for t in (taught, exact)]
    np.testing.assert_allclose(columns[0], columns[1], rtol=2e-2)


def bert():
    config = BertConfig(
        vocab_size=VOCABULARY, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=24,
        max_position_embeddings=16, num_labels=2, pad_token_id=0,
    )  # fmt: skip
    return BertForSequenceClassification(config)


def vit():
    config = ViTConfig(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32, image_size=8, patch_size=4,
        num_channels=1, num_labels=10,
    )  # fmt: skip
    return ViTForImageClassification(config)


def resnet():
    config = ResNetConfig(
        num_channels=1, embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic", num_labels=10
    )
    return ResNetForImageClassification(config)


def sentences():
    """Whether the even tokens outnumber the odd ones, every fifth answer wrong."""

    def labelled(count, seed):
        return [
            {
                "input_ids": row["input_ids"],
                "label": int((row["input_ids"] % 2).sum() * 2 > len(row["input_ids"])) ^ (k % 5 == 0),
            }
            for k, row in enumerate(rows(count, seed))
        ]

    return UnlearnDatasets(*(labelled(40, seed) for seed in (1, 2, 3)), tune=labelled(40, 5))


def images():
    pixels, labels = noisy_digits()
    cut = [
        [{"pixel_values": x, "labels": int(y)} for x, y in zip(pixels[a:b], labels[a:b], strict=True)]
        for a, b in ((0, 120), (120, 200), (200, 300), (300, 380))
    ]
    return UnlearnDatasets(*cut[:3], tune=cut[3])


@pytest.mark.parametrize(("make", "data"), [(bert, sentences), (vit, images), (resnet, images)])
def test_classifiers(tmp_path, make, data):
    """Eight steps: the retain loss falls, the game plays, the attack is judged, all in one class."""
    torch.manual_seed(0)
    model, parts = make(), data()
    objective = GameObjective(Auditor(scores=confidence), weight=1.0, every=2, cap=None)
    args = arguments(tmp_path, max_steps=8, per_device_train_batch_size=32, learning_rate=2e-2)
    taught = UnlearnTrainer(
        model, args, splits=parts, objective=objective, audit_batch_size=40, callbacks=[AuditCallback(4)]
    )
    taught.train()
    losses = taught.recorder.columns()["retain_loss"]
    assert losses[-1] < losses[0]
    assert sum(value is not None for value in taught.recorder.columns()["payoff"]) == 4
    assert [audit.step for audit in taught.audits] == [0, 4, 8]
    assert all(math.isfinite(audit.gap) for audit in taught.audits)
    assert all(module.training for module in model.modules())


def test_batch_norm_is_audited_under_the_latest_statistics_and_refreshed(tmp_path):
    """The auditor sees the statistics of the retain batch just trained on; the moving average takes that batch once."""
    torch.manual_seed(0)
    model, parts = resnet(), images()
    layer = tracking_layers(model)[0]
    start, seen, batch = layer.running_mean.clone(), [], []

    def scores(outputs):
        seen.append((layer.running_mean.clone(), layer.training))
        return log_likelihood(outputs)

    layer.register_forward_pre_hook(
        lambda module, given: batch.append(given[0].mean((0, 2, 3))) if module.training else None
    )
    objective = GameObjective(Auditor(scores=scores), weight=1.0, every=1, cap=None)
    args = arguments(tmp_path, max_steps=1, per_device_train_batch_size=32)
    taught = UnlearnTrainer(model, args, splits=parts, objective=objective, audit_batch_size=40)
    taught._finalize_training = super(UnlearnTrainer, taught)._finalize_training  # without the refresh
    taught.train()
    for mean, training in seen:
        torch.testing.assert_close(mean, batch[0])
        assert not training
    torch.testing.assert_close(layer.running_mean, torch.lerp(start, batch[0], 0.1))
    batch.clear()
    again = UnlearnTrainer(model, args, splits=parts, objective=objective, audit_batch_size=40)
    again.train()
    # one training batch, then the refresh: 120 rows in batches of 32, charged as forwards
    assert len(batch) == 1 + 4
    assert again.recorder.read - taught.recorder.read == pytest.approx(4 * 32 / 3)
    torch.testing.assert_close(layer.running_mean, torch.stack(batch[1:]).mean(0))


def test_batch_norm_and_exact_accumulation_do_not_go_together(tmp_path):
    with pytest.raises(DataError, match="batch-norm statistics move"):
        UnlearnTrainer(
            resnet(), arguments(tmp_path), splits=images(), objective=GameObjective(Auditor(scores=confidence)),
            exact_accumulation=True,
        )  # fmt: skip


def test_tokens_and_operations_of_all_parts_are_counted(tmp_path):
    taught = trainer(tmp_path, options={"include_num_input_tokens_seen": "all", "max_steps": 1}, splits=splits())
    taught.train()
    batch = next(iter(taught.get_train_dataloader()))
    tokens = sum(part["input_ids"].numel() for part in batch.values())
    assert taught.state.num_input_tokens_seen == tokens
    assert taught.state.total_flos == 6 * tokens * taught.model.num_parameters(exclude_embeddings=True)
