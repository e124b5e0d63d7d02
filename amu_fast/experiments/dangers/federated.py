"""Federated averaging in one process, small enough to be a test bed: clients, rounds, and retraining without rows.

Each round every client trains a copy of the server's model on its own rows, and the server averages the copies,

    θ ← Σ_k (n_k / n) θ_k,

floating-point buffers (batch-norm's running mean and variance) included. Source: McMahan et al., "Communication-
Efficient Learning of Deep Networks from Decentralized Data", AISTATS 2017. All clients take part in every round.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from amu_fast.errors import DataError
from amu_fast.rows import Rows
from amu_fast.unlearn.door import check_model, check_result, device_of, kept_modes, own_randomness
from amu_fast.unlearn.methods.retrain import reinitialise
from amu_fast.unlearn.optimise import Optimiser, Sgd
from amu_fast.unlearn.streams import BatchStream, generator

_TRIES = 100


@dataclass(frozen=True, eq=False)
class Federation:
    """The clients' rows.

    Args:
        clients: Per client (inputs (n_k, ...), labels (n_k,)), none of them empty.
    """

    clients: tuple[tuple[Tensor, Tensor], ...]

    def __post_init__(self) -> None:
        if not self.clients:
            raise DataError("a federation needs at least 1 client, got 0")
        for index, (inputs, labels) in enumerate(self.clients):
            if len(inputs) != len(labels) or len(labels) == 0:
                raise DataError(
                    f"client {index} has {len(inputs)} inputs and {len(labels)} labels; give both, >= 1 row"
                )

    def __len__(self) -> int:
        return len(self.clients)

    @property
    def sizes(self) -> tuple[int, ...]:
        """Rows of each client."""
        return tuple(len(labels) for _, labels in self.clients)

    def extended(self, client: int, inputs: Tensor, labels: Tensor) -> Federation:
        """The same with further rows at the end of one client's."""
        mine = self.clients[client]
        return self._with(client, (torch.cat([mine[0], inputs]), torch.cat([mine[1], labels])))

    def without(self, client: int, rows: Tensor) -> Federation:
        """The same without some of one client's rows.

        Args:
            client: Whose.
            rows: Their numbers (k,) in that client's data.

        Raises:
            DataError: A number outside the client's rows, or no row left.
        """
        inputs, labels = self.clients[client]
        if len(rows) and (int(rows.min()) < 0 or int(rows.max()) >= len(labels)):
            raise DataError(f"client {client} has {len(labels)} rows; got the row number {int(rows.max())}")
        kept = torch.ones(len(labels), dtype=torch.bool)
        kept[rows] = False
        return self._with(client, (inputs[kept], labels[kept]))

    def joined(self) -> tuple[Tensor, Tensor]:
        """All rows, client after client."""
        inputs, labels = zip(*self.clients, strict=True)
        return torch.cat(inputs), torch.cat(labels)

    def _with(self, client: int, rows: tuple[Tensor, Tensor]) -> Federation:
        return replace(self, clients=(*self.clients[:client], rows, *self.clients[client + 1 :]))


def dirichlet_clients(
    inputs: Tensor, labels: Tensor, clients: int, *, concentration: float = 0.5, least: int = 1, seed: int = 0
) -> Federation:
    """Deal rows to clients class by class, in shares drawn from a symmetric Dirichlet distribution.

    Args:
        inputs: (n, ...).
        labels: (n,) classes.
        clients: K ≥ 1.
        concentration: > 0; small: each client has few classes; large: all are alike.
        least: Rows that every client must have; shares are drawn again until it holds.
        seed: Of the shares and of the dealing.

    Raises:
        DataError: Options out of range, or 100 draws left a client with fewer than `least` rows.

    Source: Hsu, Qi, Brown (arXiv 1909.06335).
    """
    if clients < 1 or not concentration > 0.0 or least < 1:
        raise DataError(f"need clients >= 1, concentration > 0 and least >= 1, got {clients}, {concentration}, {least}")
    rng = generator(seed, "clients")
    shares, alpha = np.random.default_rng((seed, clients)), np.full(clients, concentration)
    for _ in range(_TRIES):
        dealt: list[list[Tensor]] = [[] for _ in range(clients)]
        for label in labels.unique():
            rows = (labels == label).nonzero().flatten()
            rows = rows[torch.randperm(len(rows), generator=rng)]
            cuts = torch.from_numpy((shares.dirichlet(alpha).cumsum()[:-1] * len(rows)).round()).long()
            for client, part in enumerate(rows.tensor_split(cuts)):
                dealt[client].append(part)
        parts = [torch.cat(rows).sort().values for rows in dealt]
        if min(map(len, parts)) >= least:
            return Federation(tuple((inputs[part], labels[part]) for part in parts))
    raise DataError(
        f"{_TRIES} draws left a client with fewer than {least} of {len(labels)} rows; raise concentration "
        f"({concentration}) or lower clients ({clients})"
    )


def average_states(states: Sequence[Mapping[str, Tensor]], weights: Sequence[float]) -> dict[str, Tensor]:
    """Weighted mean of state dicts, summed in float64; whole numbers (batch counters) are rounded down.

    Between-client differences of the batch means are not added to batch-norm's variance, as in plain FedAvg.

    Args:
        states: Same names and shapes.
        weights: ≥ 0, not all 0; they are normalised.
    """
    total = float(sum(weights))
    if len(states) != len(weights) or not total > 0.0 or min(weights) < 0.0:
        raise DataError(f"need one weight >= 0 per state and a positive sum, got {len(states)} and {list(weights)}")
    mean = {}
    for name, first in states[0].items():
        parts = (state[name].double() * (weight / total) for state, weight in zip(states, weights, strict=True))
        value = torch.stack(list(parts)).sum(0)
        # 2 · (1/2) summed in shares may fall just short of a whole number.
        mean[name] = value.to(first.dtype) if first.is_floating_point() else (value + 1e-9).floor().to(first.dtype)
    return mean


@dataclass(frozen=True)
class FedAvg:
    """Federated averaging.

    Args:
        rounds: Of averaging, ≥ 1.
        epochs: Local passes a round.
        batch_size: Rows a local batch.
        optimiser: Of the clients, begun anew each round, as the round's share of the budget runs from 0 to 1; a
            schedule therefore restarts each round.
    """

    rounds: int = 20
    epochs: float = 2.0
    batch_size: int = 32
    optimiser: Sgd = field(default_factory=lambda: Sgd(lr=0.02, schedule="constant"))

    def __post_init__(self) -> None:
        if self.rounds < 1 or not self.epochs > 0.0:
            raise DataError(f"need rounds >= 1 and epochs > 0, got {self.rounds} and {self.epochs}")

    def train(self, model: nn.Module, federation: Federation, *, seed: int = 0, fresh: bool = True) -> nn.Module:
        """A trained copy of `model`; `model` is left unchanged.

        Args:
            model: A classifier.
            federation: The clients.
            seed: Of weights and batches.
            fresh: Start from new weights; False: from the model's own, which is federated fine-tuning.

        Raises:
            DataError: Rows that the model cannot take.
            SolveError: Training diverged.
        """
        classes = check_model(model, Rows.of(federation.clients[0], "client 0"))
        rows = [Rows.of(c, f"client {k}").with_classes(classes) for k, c in enumerate(federation.clients)]
        server = deepcopy(model)
        with own_randomness(device_of(server), seed), kept_modes(server):
            if fresh:
                reinitialise(server)
            rng = [generator(seed, f"client {client}") for client in range(len(rows))]
            for _ in range(self.rounds):
                states = [self._local(server, part, rng[client]) for client, part in enumerate(rows)]
                server.load_state_dict(average_states(states, federation.sizes))
        check_result(server, "FedAvg", self.rounds)
        return server

    def retrain_without(
        self, model: nn.Module, federation: Federation, client: int, rows: Tensor, *, seed: int = 0
    ) -> nn.Module:
        """Exact federated unlearning: all clients train anew, one of them without the given rows."""
        return self.train(model, federation.without(client, rows), seed=seed)

    def _local(self, server: nn.Module, rows: Rows, rng: torch.Generator) -> dict[str, Tensor]:
        """One client's weights after its passes."""
        model = deepcopy(server).train()
        stream = BatchStream(rows, self.batch_size, rng, device_of(model))
        steps = max(1, round(self.epochs * len(rows) / stream.batch_size))
        optimiser = Optimiser(self.optimiser, model.parameters())
        for step in range(steps):
            inputs, labels = stream.next()
            optimiser.zero_grad()
            functional.cross_entropy(model(inputs), labels).backward()
            optimiser.step(step / steps, 1.0 / steps)
        return model.state_dict()
