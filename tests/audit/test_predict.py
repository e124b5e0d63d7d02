"""predict: the rows' order, the modes and every refusal."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, Subset, SubsetRandomSampler, TensorDataset, WeightedRandomSampler

from amu_fast.audit.predict import logits_of, predict
from amu_fast.errors import DataError


@pytest.fixture
def rows():
    generator = torch.Generator().manual_seed(0)
    return torch.randn(23, 4, generator=generator), torch.arange(23)


class Wrapped(nn.Module):
    """A linear model whose output is put into another container."""

    def __init__(self, wrap):
        super().__init__()
        self.linear = nn.Linear(4, 3)
        self.wrap = wrap

    def forward(self, inputs):
        return self.wrap(self.linear(inputs))


def sources(rows):
    data = TensorDataset(*rows)
    return {
        "tuple": rows,
        "dataset": data,
        "loader": DataLoader(data, batch_size=5),
        "shuffled": DataLoader(data, batch_size=5, shuffle=True),
        "dropping": DataLoader(data, batch_size=5, shuffle=True, drop_last=True),
    }


@pytest.mark.parametrize("kind", ["tuple", "dataset", "loader", "shuffled", "dropping"])
def test_every_source_gives_all_rows_in_order(rows, kind):
    model = nn.Linear(4, 3)
    logits, labels = predict(model, sources(rows)[kind], batch_size=7)
    assert torch.equal(labels, rows[1])
    torch.testing.assert_close(logits, model(rows[0]).detach())
    assert not logits.requires_grad


def test_subset_sampler_keeps_its_selection(rows):
    chosen = [4, 2, 9]
    loader = DataLoader(TensorDataset(*rows), batch_size=2, sampler=SubsetRandomSampler(chosen))
    assert predict(nn.Linear(4, 3), loader)[1].tolist() == chosen
    assert predict(nn.Linear(4, 3), Subset(TensorDataset(*rows), chosen))[1].tolist() == chosen


def test_unknown_order_is_refused(rows):
    loader = DataLoader(TensorDataset(*rows), sampler=WeightedRandomSampler([1.0] * 23, 10))
    with pytest.raises(DataError, match="sampler WeightedRandomSampler, which hides the rows"):
        predict(nn.Linear(4, 3), loader)
    batched = DataLoader(TensorDataset(*rows), batch_sampler=[[0, 1], [5]])
    with pytest.raises(DataError, match="its rows have no numbers"):
        predict(nn.Linear(4, 3), batched)


def test_each_submodule_keeps_its_own_mode(rows):
    model = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Dropout(0.5), nn.Linear(4, 3))
    model.train()
    model[1].eval()
    before = [module.training for module in model.modules()]
    statistics = model[1].running_mean.clone()
    first, _ = predict(model, rows)
    second, _ = predict(model, rows)
    assert torch.equal(first, second), "dropout was active"
    assert [module.training for module in model.modules()] == before
    assert torch.equal(model[1].running_mean, statistics)


def test_modes_are_restored_after_an_error(rows):
    model = Wrapped(lambda out: (out, out)).train()
    with pytest.raises(DataError):
        predict(model, rows)
    assert model.training
    assert model.linear.training


def test_outputs_with_logits_are_unwrapped(rows):
    plain = Wrapped(lambda out: out)
    for wrap in (lambda out: SimpleNamespace(logits=out), lambda out: {"logits": out, "loss": None}):
        model = Wrapped(wrap)
        model.load_state_dict(plain.state_dict())
        torch.testing.assert_close(predict(model, rows)[0], predict(plain, rows)[0])


@pytest.mark.parametrize(
    ("output", "name"),
    [
        ((torch.zeros(1), torch.zeros(1)), "tuple of"),
        ({"scores": torch.zeros(1)}, r"dict with keys \['scores'\]"),
        (None, "NoneType"),
    ],
)
def test_other_outputs_name_their_type_and_the_fix(output, name):
    with pytest.raises(DataError, match=f"{name}.*return the logits tensor"):
        logits_of(output)


def test_bad_rows(rows):
    model = nn.Linear(4, 3)
    with pytest.raises(DataError, match="0 rows"):
        predict(model, TensorDataset(rows[0][:0], rows[1][:0]))
    with pytest.raises(DataError, match="0 rows"):
        predict(model, (rows[0][:0], rows[1][:0]))
    with pytest.raises(DataError, match="23 inputs and 20 labels"):
        predict(model, (rows[0], rows[1][:20]))
    with pytest.raises(DataError, match="rows is a int"):
        predict(model, 3)
    with pytest.raises(DataError, match="batch_size must be >= 1, got 0"):
        predict(model, rows, batch_size=0)
    with pytest.raises(DataError, match=r"pair of tensors \(inputs, labels\)"):
        predict(model, TensorDataset(rows[0]))
