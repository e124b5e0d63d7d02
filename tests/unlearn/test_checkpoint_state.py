"""Nested state is kept exactly, tied weights stay tied, and generators go on with the same numbers."""

from __future__ import annotations

import json
import math
import random

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from amu_fast.errors import DataError
from amu_fast.unlearn.checkpoint import CheckpointStore, capture_rng, model_state, restore, restore_rng
from amu_fast.unlearn.checkpoint_tensors import Packer, unpack


def through(value):
    """Packed, written as JSON, read and unpacked."""
    packer = Packer()
    structure = json.loads(json.dumps(packer.pack(value), allow_nan=False))
    return unpack(structure, packer.tensors)


scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text()
states = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner)
        | st.lists(inner).map(tuple)
        | st.dictionaries(st.text() | st.integers() | st.just("$") | st.tuples(st.integers()), inner)
    ),
    max_leaves=8,
)


@settings(max_examples=30)
@given(states)
def test_plain_state_is_exact(state):
    """repr tells 1 from True and 1.0, -0.0 from 0.0, a tuple from a list; NaN from itself it does not."""
    assert repr(through(state)) == repr(state)


@pytest.mark.parametrize(
    "dtype",
    [torch.float64, torch.float32, torch.bfloat16, torch.float16, torch.int64, torch.int32, torch.uint8, torch.bool]
    + [torch.float8_e4m3fn, torch.uint32, torch.complex64],
)
@pytest.mark.parametrize("shape", [(), (3,), (0, 4), (2, 3)])
def test_tensors_are_exact_through_a_file(tmp_path, dtype, shape):
    raw = torch.randint(256, (*shape, dtype.itemsize), dtype=torch.uint8)
    if dtype == torch.bool:
        raw %= 2
    tensor = raw.view(dtype).reshape(shape)
    store = CheckpointStore(tmp_path)
    store.save(1, model={"t": tensor}, state={"t": [tensor]})
    checkpoint = store.load()
    for found in (checkpoint.model["t"], checkpoint.state["t"][0]):
        assert (found.dtype, found.shape) == (dtype, tensor.shape)
        assert found.reshape(-1).view(torch.uint8).tolist() == raw.flatten().tolist()


def test_views_are_kept_by_value():
    base = torch.arange(24.0).reshape(4, 6)
    value = {"t": base.T, "slice": base[1:3, ::2], "row": base[0], "all": base.view(-1), "wide": base[0].expand(3, 6)}
    value |= {"conj": torch.view_as_complex(base.reshape(12, 2).clone()).conj(), "base": base}
    packer = Packer()
    found = unpack(packer.pack(value), packer.tensors)
    assert all(torch.equal(found[key], tensor) for key, tensor in value.items())
    addresses = {t.untyped_storage().data_ptr() for t in packer.tensors.values()}
    assert len(addresses) == len(value)
    assert all(t.is_contiguous() and t.untyped_storage().nbytes() == t.nbytes for t in packer.tensors.values())


def test_numpy_state():
    generator = np.random.default_rng(3)
    generator.random(5)
    state = {"rng": generator.bit_generator.state, "a": np.arange(6, dtype=">i2").reshape(2, 3), "s": np.float32(0.1)}
    found = through(state)
    assert found["rng"] == state["rng"]
    assert found["a"].tolist() == state["a"].tolist()
    assert found["s"] == float(np.float32(0.1))
    other = np.random.default_rng()
    other.bit_generator.state = found["rng"]
    assert other.random() == generator.random()


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"a": [1, {2}]}, r"set at \.a\.1"),
        (object(), "object at its top"),
        (torch.ones(2).to_sparse(), "sparse"),
        (torch.ones(2, device="meta"), "meta device"),
        (np.array(["x"]), "ndarray"),
        (np.longdouble(1), "longdouble"),
    ],
)
def test_what_cannot_be_exact_is_refused(value, message):
    with pytest.raises(DataError, match=message):
        Packer().pack(value)


def test_what_cannot_be_exact_leaves_no_checkpoint(tmp_path):
    store = CheckpointStore(tmp_path / "run")
    with pytest.raises(DataError, match=r"at \.a"):
        store.save(1, model={}, state={"a": object()})
    with pytest.raises(DataError, match="w is a int"):
        store.save(1, model={"w": 3})
    assert store.latest() is None
    with pytest.raises(DataError, match=r"cannot hold torch.complex128"):
        store.save(1, model={"w": torch.ones(1, dtype=torch.complex128)})
    assert list(store.folder.iterdir()) == []


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed, self.head = nn.Embedding(7, 4), nn.Linear(4, 7, bias=False)
        self.head.weight = self.embed.weight


def test_tied_weights_are_stored_once_and_stay_tied(tmp_path):
    store, model, other = CheckpointStore(tmp_path), Tied(), Tied()
    store.save(1, model=model_state(model))
    assert (store.latest() / "model.safetensors").stat().st_size < 7 * 4 * 4 + 200
    checkpoint = store.load()
    assert set(checkpoint.model) == {"embed.weight", "head.weight"}
    assert checkpoint.model["embed.weight"] is checkpoint.model["head.weight"]
    restore(checkpoint, other)
    assert other.head.weight is other.embed.weight
    assert torch.equal(other.head.weight, model.head.weight)


def test_compiled_and_wrapped_models_have_their_own_names():
    model = nn.Sequential(nn.Linear(2, 2))
    wrapped = torch.nn.DataParallel(torch.compile(model, backend="eager"))
    assert list(model_state(wrapped)) == ["0.weight", "0.bias"]


@pytest.mark.parametrize(
    "make",
    [
        lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9),
        lambda p: torch.optim.AdamW([{"params": p[:1], "lr": 0.3}, {"params": p[1:]}], betas=(0.7, 0.9), amsgrad=True),
        lambda p: torch.optim.Adam(p, lr=torch.tensor(0.1), capturable=False, foreach=False),
        lambda p: torch.optim.Adagrad(p, lr=1 / 3),
        lambda p: torch.optim.Adafactor(p),
    ],
)
def test_optimizers_go_on_bit_for_bit(tmp_path, make):
    def built(seed):
        torch.manual_seed(seed)
        model = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
        return model, make(list(model.parameters()))

    def step(model, optimizer, number):
        optimizer.zero_grad()
        x = torch.randn(5, 3, generator=torch.Generator().manual_seed(number))
        model(x).square().sum().backward()
        optimizer.step()

    (model, optimizer), (other, other_optimizer) = built(0), built(1)
    for number in range(3):
        step(model, optimizer, number)
    store = CheckpointStore(tmp_path)
    store.save(3, model=model_state(model), optimizer=optimizer.state_dict())
    checkpoint = store.load()
    assert repr(checkpoint.optimizer) == repr(optimizer.state_dict())
    restore(checkpoint, other, other_optimizer)
    for number in range(3, 6):
        step(model, optimizer, number)
        step(other, other_optimizer, number)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), other.parameters(), strict=True))


def numbers():
    legacy = np.random.standard_normal(), np.random.random()  # noqa: NPY002
    return random.gauss(0, 1), random.random(), *legacy, *torch.randn(3).tolist(), int(torch.randint(100, ()))


def test_generators_go_on_with_the_same_numbers(tmp_path):
    numbers()  # both Gaussian caches are half used
    store = CheckpointStore(tmp_path)
    store.save(1, model={}, state={"rng": capture_rng()}, rank_state=capture_rng())
    expected = numbers()
    numbers()
    checkpoint = store.load()
    restore_rng(checkpoint.state["rng"])
    assert numbers() == expected
    restore_rng(checkpoint.of_rank())
    assert numbers() == expected
    assert not any(math.isnan(number) for number in expected)


def test_generators_refuse_other_states(tmp_path):
    state = capture_rng()
    for bad in ({}, {**state, "python": (1,)}, {**state, "torch": torch.zeros(3, dtype=torch.uint8)}):
        with pytest.raises(DataError, match="not a state of capture_rng"):
            restore_rng(bad)
    with pytest.raises(DataError, match="9 CUDA devices"):
        restore_rng({**state, "cuda": [state["torch"]] * 9})
    store = CheckpointStore(tmp_path)
    store.save(1, model={})
    with pytest.raises(DataError, match="of 0 ranks and this run has 1"):
        store.load().of_rank()


@pytest.mark.gpu
def test_generators_of_the_device():
    torch.rand(2, device="cuda")
    state = through(capture_rng())
    expected = torch.rand(3, device="cuda")
    restore_rng(state)
    assert torch.equal(torch.rand(3, device="cuda"), expected)
