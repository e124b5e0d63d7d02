"""What module operators refuse, with the remedy in the message, and that the remedy helps."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F  # noqa: N812 (its usual name)
from linalg import networks as nets
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from amu_fast.errors import BackendError, DataError
from amu_fast.linalg import EmpiricalFisherOperator, GaussNewtonOperator, HessianOperator, MeanSquaredError


def square(model, x):
    return model(x).square().mean()


class Attention(nn.Module):
    """Two heads over four tokens through torch's own choice of kernel."""

    def __init__(self):
        super().__init__()
        self.mix = nn.Linear(4, 12)

    def forward(self, x):
        q, k, v = self.mix(x).unflatten(-1, (6, 2)).transpose(1, 2).chunk(3, 1)
        return F.scaled_dot_product_attention(q, k, v, is_causal=True)


class Noisy(nn.Module):
    """Dropout that no module of its own shows."""

    def __init__(self):
        super().__init__()
        self.inner = nn.Linear(3, 3)

    def forward(self, x):
        return F.dropout(self.inner(x), 0.5, self.training)


def test_batch_statistics_are_refused():
    model = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3)).double()
    x = nets.normal(5, 3)
    with pytest.raises(DataError, match=r"1 \(BatchNorm1d\).*model\.eval\(\)"):
        HessianOperator(model, square, [x])
    operator = HessianOperator(model.eval(), square, [x])
    expected = nets.dense_hessian(model, x, function=square)
    v = nets.normal(len(expected))
    assert (operator.matvec(v) - expected @ v).norm() <= 1e-12 * (expected @ v).norm()
    stateless = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3, track_running_stats=False)).eval()
    with pytest.raises(DataError, match="statistics"):
        HessianOperator(stateless, square, [x.float()])


def test_dropout_is_refused_wherever_it_hides():
    x = nets.normal(5, 3)
    seen = nn.Sequential(nn.Linear(3, 3), nn.Dropout(0.1)).double()
    with pytest.raises(DataError, match=r"1 drops at random.*model\.eval\(\)"):
        HessianOperator(seen, square, [x])
    for mode in ("double_backward", "jvp", "finite_difference"):
        hidden = Noisy().double()
        with pytest.raises(DataError, match="random numbers"):
            HessianOperator(hidden, square, [x], mode=mode)
        HessianOperator(hidden.eval(), square, [x], mode=mode).matvec(torch.ones(12).double())
    HessianOperator(nn.Sequential(nn.Linear(3, 3), nn.Dropout(0.0)).double(), square, [x])


def test_fused_attention_is_refused_where_it_is_differentiated_twice():
    model, x = nets.filled(Attention()), nets.normal(2, 4, 4)
    with sdpa_kernel(SDPBackend.MATH):
        expected = nets.dense_hessian(model, x, function=square)
    v = nets.normal(len(expected))
    targets = MeanSquaredError(targets=lambda x: torch.zeros(2, 2, 4, 2).double())
    for mode in ("double_backward", "jvp"):
        for build in (
            lambda mode=mode: HessianOperator(model, square, [x], mode=mode),
            lambda mode=mode: GaussNewtonOperator(model, lambda m, x: m(x), targets, [x], mode=mode),
            lambda mode=mode: EmpiricalFisherOperator(model, lambda m, x: m(x).mean((1, 2, 3)), [x], mode=mode),
        ):
            with pytest.raises(BackendError, match=r'sdpa_kernel.*MATH.*"eager".*finite_difference'):
                build()
    with sdpa_kernel(SDPBackend.MATH):
        kept = HessianOperator(model, square, [x])
        assert (kept.matvec(v) - expected @ v).norm() <= 1e-12 * (expected @ v).norm()
    shifted = HessianOperator(model, square, [x], mode="finite_difference")
    assert (shifted.matvec(v) - expected @ v).norm() <= 1e-7 * (expected @ v).norm()


def test_missing_derivatives_are_explained():
    class Once(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x * x

        @staticmethod
        def backward(ctx, g):
            raise NotImplementedError("derivative for amu::once is not implemented")

    model, x = nets.filled(nn.Linear(3, 1)), nets.normal(4, 3)
    with pytest.raises(BackendError, match="amu::once"):
        HessianOperator(model, lambda m, x: Once.apply(m(x)).mean(), [x])
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        HessianOperator(model, lambda m, x: (m(x) @ x).mean(), [x])


def test_half_precision_that_is_noise_warns():
    x, model = nets.normal(16, 3).bfloat16(), nets.mlp().bfloat16()

    def sharp(model, x):
        return torch.sin(3000 * model(x)).mean()

    def plain(model, x):
        return model(x).float().square().mean()

    for mode in ("double_backward", "jvp"):
        with pytest.warns(UserWarning, match=r"half precision has cosine .*float32"):
            operator = HessianOperator(model, sharp, [x], mode=mode)
    assert operator.dtype == torch.float32
    assert operator.matvec(torch.ones(operator.shape[0])).dtype == torch.float32
    # Products that are right to a few digits pass in silence.
    quiet = HessianOperator(model, plain, [x])
    wide = HessianOperator(nets.mlp().bfloat16().float(), plain, [x.float()])
    v = nets.normal(quiet.shape[0], dtype=torch.float32)
    assert float(F.cosine_similarity(quiet.matvec(v), wide.matvec(v), dim=0)) >= 0.99


def test_autocast_inside_the_loss_is_measured_too():
    model, x = nets.mlp(torch.float32), nets.normal(16, 3, dtype=torch.float32)

    def sharp(model, x):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            z = model(x)
        return torch.sin(300 * z.to(model[0].weight.dtype)).mean()

    with pytest.warns(UserWarning, match="half precision"):
        HessianOperator(model, sharp, [x])
    # Autocast around the operator does not reach its products.
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = HessianOperator(model, square, [x])
    outside = HessianOperator(model, square, [x])
    v = torch.ones(inside.shape[0])
    assert torch.equal(inside.matvec(v), outside.matvec(v))


def test_arguments():
    model, x = nets.mlp(), nets.normal(4, 3)
    for build, match in (
        (lambda: HessianOperator(model, square, iter([x])), "used up once"),
        (lambda: HessianOperator(model, square, []), "at least one batch"),
        (lambda: HessianOperator(model, square, [x], mode="forward"), "mode must be one of"),
        (lambda: HessianOperator(model, square, [x], reduction="none"), "reduction must be"),
        (lambda: HessianOperator(model, lambda m, x: m(x), [x]), "must be a scalar"),
        (lambda: HessianOperator(model, lambda m, x: m(x), [x], mode="jvp"), "must be a scalar"),
        (lambda: HessianOperator(model, square, [object()]), "pass rows="),
        (lambda: EmpiricalFisherOperator(model, square, [x]), "one floating-point tensor"),
    ):
        with pytest.raises(DataError, match=match):
            build()
    operator = HessianOperator(model, square, [x])
    with pytest.raises(DataError, match="one flat vector"):
        operator.matvec(torch.ones(3).double())


def test_batches_must_stay():
    model, batches = nets.mlp(), [nets.normal(4, 3), nets.normal(4, 3)]
    operator = HessianOperator(model, square, batches, mode="jvp")
    batches.pop()
    with pytest.raises(DataError, match="keep them fixed"):
        operator.matvec(torch.ones(operator.shape[0]).double())


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_a_llama(attention):
    transformers = pytest.importorskip("transformers")
    config = transformers.LlamaConfig(
        vocab_size=11, hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=1, tie_word_embeddings=True, attn_implementation=attention,
    )  # fmt: skip
    model = nets.filled(transformers.LlamaForCausalLM(config), scale=0.3)
    tokens = torch.randint(11, (4, 5), generator=torch.Generator().manual_seed(1))
    batches = [{"input_ids": part, "labels": part} for part in tokens.split([3, 1])]

    def loss(model, batch):
        return model(**batch, use_cache=False).loss

    chosen = ["model.layers.0", "lm_head.weight"]
    if attention == "sdpa":
        with pytest.raises(BackendError, match="attn_implementation"):
            HessianOperator(model, loss, batches, parameters=chosen)
    with sdpa_kernel(SDPBackend.MATH):
        exact = HessianOperator(model, loss, batches, parameters=chosen)
        v = nets.normal(exact.shape[0])
        product = exact.matvec(v)
        names = list(exact.parameters.names)
        f, flat = nets.flat_function(model, lambda m: loss(m, {"input_ids": tokens, "labels": tokens}), names)
        # Two gradients of the whole batch, by hand; RoPE and norms work in float32 whatever they are given.
        h = 1e-3 / float(v.norm())
        ahead, behind = (torch.func.grad(f)(flat + s * v) for s in (h, -h))
        expected = (ahead - behind) / (2 * h)
        assert (product - expected).norm() <= 2e-3 * expected.norm()
        forward = HessianOperator(model, loss, batches, parameters=chosen, mode="jvp")
        assert (forward.matvec(v) - product).norm() <= 1e-6 * product.norm()
    shifted = HessianOperator(model, loss, batches, parameters=chosen, mode="finite_difference")
    assert (shifted.matvec(v) - product).norm() <= 1e-2 * product.norm()
