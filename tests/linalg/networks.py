"""Small networks in float64, and their dense second-derivative matrices by torch.func: what operators must equal."""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812 (its usual name)
from torch import nn


def normal(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def filled(module, seed=0, scale=0.4, dtype=torch.float64):
    """The module in `dtype` with drawn parameters, in eval mode."""
    module = module.to(dtype).eval()
    with torch.no_grad():
        for number, parameter in enumerate(module.parameters()):
            parameter.copy_(scale * normal(*parameter.shape, seed=seed + number))
    return module


def mlp(dtype=torch.float64):
    return filled(
        nn.Sequential(nn.Linear(3, 2), nn.Tanh(), nn.Linear(2, 2), nn.Softplus(), nn.Linear(2, 3)), dtype=dtype
    )


def convnet():
    net = nn.Sequential(
        nn.Conv2d(1, 2, 2), nn.BatchNorm2d(2), nn.GELU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(2, 3)
    )
    net = filled(net)
    net[1].running_mean.copy_(normal(2))
    net[1].running_var.copy_(normal(2).abs() + 0.5)
    return net


class Tied(nn.Module):
    """The same matrix embeds and reads out, as in language models; a third parameter is never used."""

    def __init__(self):
        super().__init__()
        self.embed, self.middle = nn.Embedding(6, 3), nn.Linear(3, 3)
        self.head, self.unused = nn.Linear(3, 6, bias=False), nn.Linear(1, 1)
        self.head.weight = self.embed.weight

    def forward(self, tokens):
        return self.head(torch.tanh(self.middle(self.embed(tokens).mean(1))))


def rows(n=11, features=3, classes=3, dtype=torch.float64):
    generator = torch.Generator().manual_seed(7)
    return normal(n, features, seed=5, dtype=dtype), torch.randint(classes, (n,), generator=generator)


def micro(batch, *sizes):
    """A batch cut into pieces of these sizes."""
    return list(zip(*(part.split(list(sizes)) for part in batch), strict=True))


def loss(model, batch):
    return F.cross_entropy(model(batch[0]), batch[1])


def losses(model, batch):
    return F.cross_entropy(model(batch[0]), batch[1], reduction="none")


def flat_function(model, function, names=None):
    """(f(flat), flat): a function of the model as a function of one vector."""
    everything = dict(model.named_parameters(remove_duplicate=False))
    names = [name for name, _ in model.named_parameters()] if names is None else list(names)
    shapes = [everything[name].shape for name in names]
    flat = torch.cat([everything[name].detach().reshape(-1) for name in names])

    class Holder(nn.Module):
        def __init__(self):
            super().__init__()
            self.model = model

        def forward(self):
            return function(self.model)

    holder = Holder()

    def f(vector):
        parts = vector.split([shape.numel() for shape in shapes])
        chosen = {f"model.{n}": p.reshape(s) for n, p, s in zip(names, parts, shapes, strict=True)}
        return torch.func.functional_call(holder, chosen, ())

    return f, flat


def dense_hessian(model, batch, names=None, function=loss):
    """jacrev of jacrev: two reverse modes over the whole batch at once."""
    f, flat = flat_function(model, lambda m: function(m, batch), names)
    return torch.func.jacrev(torch.func.jacrev(f))(flat)


def dense_fisher(model, batch, names=None):
    f, flat = flat_function(model, lambda m: losses(m, batch), names)
    jacobian = torch.func.jacrev(f)(flat)
    return jacobian.T @ jacobian / len(jacobian)


def dense_gauss_newton(model, batch, output_loss, names=None):
    """J^T B J with B by torch.func at the outputs."""
    f, flat = flat_function(model, lambda m: m(batch[0]).reshape(-1), names)
    jacobian, z = torch.func.jacrev(f)(flat), f(flat)
    shape = model(batch[0]).shape
    b = torch.func.hessian(lambda z: output_loss(z.reshape(shape), batch))(z)
    return jacobian.T @ b @ jacobian
