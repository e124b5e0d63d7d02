"""A small result's folder, and certificates of it."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from certified import IDS, Keys, attacks
from safetensors.torch import save_file

from amu_fast.audit.intervals import t_interval
from amu_fast.certificate import (
    Facts,
    Issued,
    Policy,
    Sidecar,
    SigningKey,
    Sources,
    collect,
    generate_key,
    issue,
    save_scores,
)
from amu_fast.report import AttackRecord, Cost, MethodRecord, Metric, Provenance, Report


@pytest.fixture(scope="session")
def template(tmp_path_factory) -> Path:
    """model.safetensors, report.json, scores.safetensors and a picture in a folder of its own."""
    folder = tmp_path_factory.mktemp("result") / "run"
    folder.mkdir()
    generator = torch.Generator().manual_seed(0)
    state = {"0.weight": torch.randn(3, 4, generator=generator), "0.bias": torch.zeros(3)}
    save_file(state, folder / "model.safetensors")
    report = Report(
        method=MethodRecord("toy", {}),
        seed=2**60,
        history={"step": (1.0,)},
        cost=Cost(1234.0, 2000.0, 1.5, 3),
        provenance=replace(
            Provenance.collect({}), commit=None, backends=(), data_hashes={"retain": "0" * 64, "forget": "1" * 64}
        ),
        metrics={
            "test_accuracy": Metric.of(t_interval([0.9, 0.91, 0.92])),
            "ks": None,
            "svm": Metric(None, reason="no validation rows"),
            "undefined": Metric.of(replace(t_interval([0.1, 0.2]), value=float("nan"))),
        },
        attacks=tuple(AttackRecord.of(one) for one in attacks()),
    )
    report.save(folder / "report.json")
    save_scores(folder, attacks())
    (folder / "figures").mkdir()
    (folder / "figures" / "roc.png").write_bytes(b"\x89PNG picture")
    return folder


@pytest.fixture(scope="session")
def keys(tmp_path_factory) -> Keys:
    path = tmp_path_factory.mktemp("keys") / "key.pem"
    key, public = generate_key(path)
    return Keys(key, path, public)


@pytest.fixture(scope="session")
def stranger(tmp_path_factory) -> Keys:
    path = tmp_path_factory.mktemp("others") / "key.pem"
    key, public = generate_key(path)
    return Keys(key, path, public)


@pytest.fixture(scope="session")
def sidecar() -> Sidecar:
    return Sidecar.new(IDS)


Certifier = Callable[..., Issued]


@pytest.fixture
def certify(template, sidecar, keys, tmp_path) -> Certifier:
    """Copies the folder to `name` and certifies it; `key=None` leaves it unsigned."""

    def certified(name: str = "run", *, previous=None, key: SigningKey | None = keys.key, **sources) -> Issued:
        folder = tmp_path / name
        shutil.copytree(template, folder)
        content = collect(Sources(folder=folder, sidecar=sidecar, **sources))
        return issue(folder, content, key=key, previous=previous)

    return certified


@pytest.fixture
def policy() -> Policy:
    return Policy.create("house rules", {"attack_auc": 0.05, "test_accuracy": 0.05}, references=("none",))


@pytest.fixture
def later() -> Facts:
    """An audit that was made after any policy of today."""
    return Facts(audited_at="2999-01-01T00:00:00Z")
