from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional

from amu_fast.errors import DataError
from amu_fast.experiments.dangers import FedAvg, Federation, average_states, dirichlet_clients
from amu_fast.experiments.models import SmallCnn
from amu_fast.unlearn.optimise import Sgd

INPUTS = torch.randn(40, 3, generator=torch.Generator().manual_seed(1))
LABELS = torch.arange(40) % 4


def linear() -> nn.Module:
    torch.manual_seed(3)
    return nn.Linear(3, 4)


def test_average_of_states_is_weighted_and_keeps_buffers():
    first, second = (SmallCnn(8, width=2, hidden=4, seed=seed).state_dict() for seed in (0, 1))
    first["layers.1.running_var"] = torch.tensor([1.0, 2.0])
    second["layers.1.running_var"] = torch.tensor([5.0, 6.0])
    first["layers.1.num_batches_tracked"] = torch.tensor(3)
    second["layers.1.num_batches_tracked"] = torch.tensor(8)
    mean = average_states([first, second], [30, 10])
    assert mean["layers.1.running_var"].tolist() == [2.0, 3.0]
    assert mean["layers.1.num_batches_tracked"] == 4  # 4.25 rounded down
    assert mean["layers.1.num_batches_tracked"].dtype == torch.int64
    expected = (0.75 * first["layers.0.weight"].double() + 0.25 * second["layers.0.weight"].double()).float()
    torch.testing.assert_close(mean["layers.0.weight"], expected, rtol=0, atol=0)
    assert average_states([first] * 3, [1, 1, 1])["layers.1.num_batches_tracked"] == 3
    with pytest.raises(DataError, match="one weight >= 0 per state"):
        average_states([first, second], [1.0, -1.0])


def test_dealing_is_a_partition_and_concentration_makes_clients_unlike():
    numbers = torch.arange(1000.0).unsqueeze(1)
    labels = torch.arange(1000) % 10
    unlike, alike = (dirichlet_clients(numbers, labels, 4, concentration=c, seed=2) for c in (0.1, 1000.0))
    for federation in (unlike, alike):
        rows, joined = federation.joined()
        assert rows.flatten().sort().values.tolist() == list(range(1000))
        assert torch.equal(joined, labels[rows.flatten().long()])

    def largest_share(federation):
        return sum(int(torch.bincount(y, minlength=10).max()) / len(y) for _, y in federation.clients) / 4

    assert largest_share(alike) < 0.15 < 0.2 < largest_share(unlike)
    again = dirichlet_clients(numbers, labels, 4, concentration=0.1, seed=2)
    assert [torch.equal(a[0], b[0]) for a, b in zip(unlike.clients, again.clients, strict=True)] == [True] * 4
    with pytest.raises(DataError, match="left a client with fewer than 300 of 1000 rows"):
        dirichlet_clients(numbers, labels, 4, least=300)


def test_one_local_step_is_the_gradient_step_on_all_rows():
    """One full-batch step per client without momentum: FedAvg is gradient descent on the union."""
    federation = Federation(((INPUTS[:10], LABELS[:10]), (INPUTS[10:], LABELS[10:])))
    model = linear()
    fed = FedAvg(1, 1.0, 100, Sgd(lr=0.5, momentum=0.0, weight_decay=0.0, schedule="constant"))
    trained = fed.train(model, federation, fresh=False)
    reference = linear()
    functional.cross_entropy(reference(INPUTS), LABELS).backward()
    torch.testing.assert_close(trained.weight, reference.weight - 0.5 * reference.weight.grad, rtol=1e-5, atol=1e-6)
    assert torch.equal(model.weight, linear().weight)


def test_retraining_reads_no_forgotten_row_and_repeats_bitwise():
    """NaN in the forgotten rows reaches nothing."""
    poison = INPUTS[:5].clone().fill_(float("nan"))
    federation = Federation(((INPUTS[:20], LABELS[:20]), (INPUTS[20:], LABELS[20:])))
    extended = federation.extended(1, poison, LABELS[:5])
    assert extended.sizes == (20, 25)
    fed = FedAvg(2, 1.0, 8)
    without = fed.retrain_without(linear(), extended, 1, torch.arange(20, 25), seed=4)
    clean = fed.train(linear(), federation, seed=4)
    assert torch.equal(without.weight, clean.weight)
    with pytest.raises(DataError, match="client 1 has 25 rows; got the row number 25"):
        extended.without(1, torch.tensor([25]))
    with pytest.raises(DataError, match="client 0 has 0 inputs"):
        federation.without(0, torch.arange(20))


def test_labels_outside_the_model_are_refused():
    with pytest.raises(DataError, match=r"client 1 label 7"):
        FedAvg(1).train(linear(), Federation(((INPUTS, LABELS), (INPUTS[:2], torch.tensor([0, 7])))))
