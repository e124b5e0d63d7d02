"""What a store keeps, what it reads back, and what it refuses."""

from __future__ import annotations

import io
import json
import pickle
import shutil

import pytest
import safetensors.torch
import torch
from torch import nn

from amu_fast.errors import DataError
from amu_fast.unlearn import checkpoint_files
from amu_fast.unlearn.checkpoint import CheckpointStore, model_state, optimizer_state, restore

FILES = ["model.safetensors", "optimizer.safetensors", "state.safetensors", "unlearn_state.json"]


def trained(seed: int = 0) -> tuple[nn.Module, torch.optim.Optimizer]:
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1, betas=(0.8, 0.99))
    for _ in range(2):
        optimizer.zero_grad()
        model(torch.randn(5, 3)).square().sum().backward()
        optimizer.step()
    return model, optimizer


@pytest.fixture
def store(tmp_path):
    """Steps 3 and 7 of a run."""
    store = CheckpointStore(tmp_path / "run", config_hash="c0ffee")
    model, optimizer = trained()
    for step in (3, 7):
        states = {"model": model_state(model), "optimizer": optimizer_state(model, optimizer)}
        store.save(step, **states, state={"at": step, "bank": torch.arange(4)})
    return store


def test_layout_and_round_trip(store):
    path = store.latest()
    assert path == store.folder / "step-00000007"
    assert sorted(p.name for p in path.iterdir()) == FILES
    model, optimizer = trained()
    checkpoint = store.load()
    assert (checkpoint.step, checkpoint.state["at"], checkpoint.config_hash) == (7, 7, "c0ffee")
    assert torch.equal(checkpoint.state["bank"], torch.arange(4))
    assert checkpoint.rank_states == ()
    other, other_optimizer = trained(seed=1)
    restore(checkpoint, other, other_optimizer)
    for a, b in zip(model.state_dict().values(), other.state_dict().values(), strict=True):
        assert torch.equal(a, b)
    torch.testing.assert_close(optimizer.state_dict(), other_optimizer.state_dict(), rtol=0.0, atol=0.0)
    assert store.load(store.folder / "step-00000003").step == 3


def test_a_restored_run_does_not_change_the_checkpoint(store):
    checkpoint = store.load()
    before = checkpoint.optimizer["state"][0]["exp_avg"].clone(), checkpoint.model["0.weight"].clone()
    model, optimizer = trained(seed=1)
    restore(checkpoint, model, optimizer)
    model(torch.randn(5, 3)).sum().backward()
    optimizer.step()
    assert torch.equal(checkpoint.optimizer["state"][0]["exp_avg"], before[0])
    assert torch.equal(checkpoint.model["0.weight"], before[1])


def test_the_weights_are_a_file_that_others_read(store):
    weights = safetensors.torch.load_file(store.latest() / "model.safetensors")
    trained(seed=1)[0].load_state_dict(weights)


def test_keeps_the_latest_and_needs_later_steps(store):
    for step in (8, 9):
        store.save(step, model={"w": torch.ones(1)})
    assert sorted(p.name for p in store.folder.iterdir()) == ["step-00000008", "step-00000009"]
    for step in (9, 4, -1):
        with pytest.raises(DataError, match=r"step-00000009.*empty folder"):
            store.save(step, model={})
    with pytest.raises(DataError, match="keep"):
        CheckpointStore(store.folder, keep=0)


def test_leftovers_are_ignored_then_removed(store):
    half = store.folder / ".step-00000009.0123456789ab.staging"
    shutil.copytree(store.latest(), half)
    shutil.copytree(store.latest(), store.folder / ".step-00000001.0123456789ab.discarded")
    (store.folder / "notes.txt").write_text("mine")
    assert store.load().step == 7
    store.save(8, model={})
    assert sorted(p.name for p in store.folder.iterdir()) == ["notes.txt", "step-00000007", "step-00000008"]


def test_an_empty_store(tmp_path):
    store = CheckpointStore(tmp_path / "none")
    assert store.latest() is None
    with pytest.raises(DataError, match="without resuming"):
        store.load()


def flip(path):
    data = bytearray(path.read_bytes())
    data[-3] ^= 1
    path.write_bytes(data)


def cut(path):
    path.write_bytes(path.read_bytes()[:-7])


def lengthen(path):
    path.write_bytes(path.read_bytes() + b"\0")


DAMAGES = {flip: "sha256|not JSON", cut: "truncated|not JSON", lengthen: "too long|not JSON", lambda p: p.unlink(): "cannot|no read"}  # fmt: skip  # noqa: E501


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("damage", DAMAGES, ids=["flip", "cut", "lengthen", "unlink"])
def test_damage_is_refused_and_the_way_out_named(store, name, damage):
    damage(store.latest() / name)
    with pytest.raises(DataError, match=DAMAGES[damage]) as refusal:
        store.load()
    text = str(refusal.value)
    assert name in text
    assert f"before it is {store.folder / 'step-00000003'}" in text
    assert store.latest().name == "step-00000007"
    cut(store.folder / "step-00000003" / "model.safetensors")
    with pytest.raises(DataError, match="no intact one is before it"):
        store.load()


def edit(path, sign=True, **changes):
    """Change the document; with `sign` as its writer would have signed it."""
    document = json.loads(path.read_text()) | changes
    del document["sha256"]
    document["sha256"] = checkpoint_files.digest_of(document) if sign else "0" * 64
    path.write_text(json.dumps(document))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format": "somebody/else"}, "no checkpoint of this library.*somebody/else"),
        ({"version": 2}, "version 2.*reads version 1"),
        ({"config_hash": "beef"}, "configuration beef and this run of c0ffee"),
        ({"config_hash": ""}, r"\(unnamed\) and this run"),
        ({"files": {}}, "does not fit its files.*model.safetensors"),
        ({"files": None}, "does not fit its files"),
        ({"model": {"w": "nowhere"}}, "does not fit its files.*nowhere"),
        ({"state": {"$": "tensor", "name": "nowhere"}}, "does not fit its files.*nowhere"),
        ({"optimizer": {"$": "os.system", "value": "false"}}, r"unknown tag 'os.system'"),
        ({"rank_states": 3}, "does not fit its files"),
    ],
)
def test_foreign_documents_are_refused(store, changes, message):
    edit(store.latest() / FILES[-1], **changes)
    with pytest.raises(DataError, match=message):
        store.load()


def test_an_edited_document_is_refused(store):
    path = store.latest() / FILES[-1]
    edit(path, sign=False, step=8)
    with pytest.raises(DataError, match="does not match its sha256"):
        store.load()
    for text in ("", "[]", "{", '{"step": NaN}', "[" * 100_000):
        path.write_text(text)
        with pytest.raises(DataError, match=r"not JSON|no checkpoint of this library"):
            store.load()


def test_any_configuration_without_a_hash(store):
    assert CheckpointStore(store.folder).load().config_hash == "c0ffee"


class Bomb:
    def __reduce__(self):
        return pytest.fail, ("a checkpoint ran code",)


def test_nothing_is_unpickled(store, monkeypatch):
    """Pickles in place of files are refused, signed or not; and reading never asks for pickle."""
    for module, name in ((pickle, "load"), (pickle, "loads"), (pickle, "Unpickler"), (torch, "load")):
        monkeypatch.setattr(module, name, lambda *_, **__: pytest.fail("unpickled"))
    assert store.load().step == 7
    path = store.latest()
    buffer = io.BytesIO()
    torch.save({"w": torch.ones(2)}, buffer)
    for content in (pickle.dumps(Bomb()), buffer.getvalue()):
        (path / FILES[0]).write_bytes(content)
        with pytest.raises(DataError, match=r"truncated|too long"):
            store.load()
        manifest = json.loads((path / FILES[-1]).read_text())["files"]
        edit(path / FILES[-1], files=manifest | {FILES[0]: checkpoint_files.force_and_hash(path / FILES[0])})
        with pytest.raises(DataError, match="does not hold tensors"):
            store.load()


def test_what_does_not_fit_the_model_changes_nothing(store):
    checkpoint = store.load()
    small = nn.Sequential(nn.Linear(3, 5), nn.BatchNorm1d(5), nn.Linear(5, 2))
    before = [p.clone() for p in small.parameters()]
    with pytest.raises(DataError, match=r"0.weight is torch.float32 \(4, 3\) and the model's torch.float32 \(5, 3\)"):
        restore(checkpoint, small)
    with pytest.raises(DataError, match=r"missing.*and \d+ more"):
        restore(checkpoint, nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 4), nn.Linear(4, 2), nn.Linear(2, 2)))
    with pytest.raises(DataError, match=r"2.weight is unknown to the model"):
        restore(checkpoint, nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4)))
    with pytest.raises(DataError, match="float64"):
        restore(checkpoint, trained()[0].double())
    assert all(torch.equal(a, b) for a, b in zip(before, small.parameters(), strict=True))


def test_what_does_not_fit_the_optimizer_changes_nothing(store):
    checkpoint = store.load()
    model, _ = trained(seed=1)
    before = [p.clone() for p in model.parameters()]
    parameters = list(model.parameters())
    for given, message in (
        (parameters[:3], r"groups of \[6\] and this one of \[3\]"),
        (parameters[::-1], "exp_avg of parameter .* same order"),
        ([*parameters[:5], nn.Parameter(torch.zeros(2))], "the model has not"),
    ):
        with pytest.raises(DataError, match=message):
            restore(checkpoint, model, torch.optim.AdamW(given))
    store.save(9, model=model_state(model))
    with pytest.raises(DataError, match="no optimizer state"):
        restore(store.load(), trained()[0], torch.optim.AdamW(parameters))
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))
