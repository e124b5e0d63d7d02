"""The digest of a model's tensors does not depend on where they lie, and depends on everything else."""

from __future__ import annotations

import hashlib
import json
import struct

import pytest
import torch
from safetensors.torch import save_file, save_model
from torch import nn

from amu_fast.certificate.models import file_sha256, hash_model, tensor_digest
from amu_fast.errors import DataError


class Tied(nn.Module):
    """An embedding whose weights are the output's too, and a buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(5, 3)
        self.norm = nn.BatchNorm1d(3)
        self.head = nn.Linear(3, 5, bias=False)
        self.head.weight = self.embed.weight


def state() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {
        "b": torch.randn(2, 3, generator=generator),
        "a.b": torch.randn(4, generator=generator).bfloat16(),
        "steps": torch.tensor(7),
        "none": torch.zeros(0, 2),
        "mask": torch.tensor([True, False]),
    }


def test_formula_by_hand():
    """The docstring's formula, written out with numpy for one float32 matrix and one scalar."""
    weight = torch.tensor([[1.0, -2.0]])
    prefixed = lambda data: struct.pack("<Q", len(data)) + data  # noqa: E731
    stream = b"amu-tensors/1\0" + struct.pack("<Q", 2)
    stream += prefixed(b"n") + prefixed(b"int64") + struct.pack("<Q", 0) + prefixed(struct.pack("<q", 300))
    stream += prefixed(b"w") + prefixed(b"float32") + struct.pack("<3Q", 2, 1, 2) + prefixed(struct.pack("<2f", 1, -2))
    assert tensor_digest({"w": weight, "n": torch.tensor(300)}) == hashlib.sha256(stream).hexdigest()


def test_order_strides_and_files_do_not_matter(tmp_path):
    tensors = state()
    expected = tensor_digest(tensors)
    assert tensor_digest(dict(reversed(tensors.items()))) == expected
    assert tensor_digest({**tensors, "b": tensors["b"].t().contiguous().t()}) == expected
    save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
    assert tensor_digest(tmp_path / "model.safetensors") == expected
    shards = tmp_path / "shards"
    shards.mkdir()
    names = list(tensors)
    save_file({n: tensors[n] for n in names[:2]}, shards / "model-2.safetensors")
    save_file({n: tensors[n] for n in names[2:]}, shards / "model-1.safetensors")
    hashes = hash_model(shards)
    assert hashes.tensor_digest == expected
    assert [file.name for file in hashes.files] == ["model-1.safetensors", "model-2.safetensors"]
    assert hashes.files[0].file_sha256 == hashlib.sha256((shards / "model-1.safetensors").read_bytes()).hexdigest()
    assert (hashes.tensors, hashes.elements) == (5, 6 + 4 + 1 + 2)


@pytest.mark.parametrize("change", ["name", "dtype", "shape", "bit", "boundary", "more", "less"])
def test_every_change_matters(change):
    tensors = state()
    expected = tensor_digest(tensors)
    if change == "name":
        tensors["c"] = tensors.pop("b")
    elif change == "dtype":
        tensors["b"] = tensors["b"].view(torch.int32)
    elif change == "shape":
        tensors["b"] = tensors["b"].reshape(3, 2)
    elif change == "bit":
        tensors["b"].view(torch.int32)[0, 0] ^= 1
    elif change == "boundary":
        tensors["a"] = tensors.pop("a.b")
    elif change == "more":
        tensors["empty"] = torch.zeros(0)
    else:
        del tensors["none"]
    assert tensor_digest(tensors) != expected


def test_ties_count_under_each_name_and_are_named(tmp_path):
    model = Tied()
    whole = hash_model(model)
    assert whole.ties == (("embed.weight", "head.weight"),)
    assert whole.files == ()
    assert whole.tensor_digest == tensor_digest({n: t.clone() for n, t in model.state_dict().items()})
    save_model(model, str(tmp_path / "model.safetensors"))
    stored = hash_model(tmp_path / "model.safetensors")
    assert (stored.tensor_digest, stored.ties) == (whole.tensor_digest, whole.ties)


def test_buffers_are_in():
    model = Tied()
    before = tensor_digest(model)
    model.norm.running_mean += 1
    assert tensor_digest(model) != before


def test_ties_that_a_file_does_not_know_can_be_given(tmp_path):
    tensors = {n: t.clone() for n, t in Tied().state_dict().items()}
    tensors["head.weight"] = tensors["embed.weight"]
    left_out = {n: t for n, t in tensors.items() if n != "head.weight"}
    save_file(left_out, tmp_path / "model.safetensors")
    assert tensor_digest(tmp_path / "model.safetensors") != tensor_digest(tensors)
    given = hash_model(tmp_path / "model.safetensors", ties={"head.weight": "embed.weight"})
    assert given.tensor_digest == tensor_digest(tensors)
    for model in (tmp_path / "model.safetensors", left_out):
        with pytest.raises(DataError, match="tensor of its own"):
            hash_model(model, ties={"norm.bias": "embed.weight"})
    with pytest.raises(DataError, match="no file holds"):
        hash_model(tmp_path / "model.safetensors", ties={"head.weight": "embedding"})


def test_complex_and_conjugate_tensors():
    value = torch.tensor([1 + 2j])
    assert tensor_digest({"z": value.conj()}) == tensor_digest({"z": torch.tensor([1 - 2j])})


def test_shards_that_overlap_or_are_missing(tmp_path):
    save_file({"a": torch.zeros(1)}, tmp_path / "1.safetensors")
    save_file({"a": torch.zeros(1)}, tmp_path / "2.safetensors")
    with pytest.raises(DataError, match="'a' occurs in two"):
        hash_model(tmp_path)
    (tmp_path / "2.safetensors").unlink()
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"a": "1.safetensors", "b": "2.safetensors"}}))
    with pytest.raises(DataError, match="shard is missing"):
        hash_model(tmp_path)
    index.write_text("[]")
    with pytest.raises(DataError, match="not an index"):
        hash_model(tmp_path)


def test_what_cannot_be_hashed(tmp_path):
    with pytest.raises(DataError, match="no safetensors file"):
        hash_model(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"no such thing")
    with pytest.raises(DataError, match="not a sound safetensors file"):
        hash_model(tmp_path / "model.safetensors")
    with pytest.raises(DataError, match="'extra' is a int"):
        tensor_digest({"extra": 3})
    with pytest.raises(DataError, match="meta"):
        tensor_digest({"a": torch.zeros(1, device="meta")})
    with pytest.raises(DataError, match="cannot read"):
        file_sha256(tmp_path / "absent")
