"""CIFAR and SVHN files of the original formats, made here with a few rows each."""

from __future__ import annotations

import gzip
import io
import os
import pickle
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.io import savemat

from amu_fast.errors import DataError
from amu_fast.experiments.archives import DATA_VARIABLE
from amu_fast.experiments.datasets import load
from amu_fast.experiments.jpeg_tree import CLASSES, cifar_10_jpeg
from amu_fast.experiments.population import Population

RNG = np.random.default_rng(0)
PIXELS = RNG.integers(0, 256, (12, 3072), dtype=np.uint8)
LABELS = [int(label) for label in RNG.integers(0, 10, 12)]
FILES = (*(f"data_batch_{b}" for b in range(1, 6)), "test_batch")


def python_2_pickle(dictionary: dict) -> bytes:
    """As Python 2 wrote it: text keys as byte strings, NumPy's old module name."""
    data = pickle.dumps(dictionary, protocol=2)
    data = data.replace(b"numpy._core.multiarray", b"numpy.core.multiarray")
    for token, older in TOKENS.items():
        data = data.replace(token, older)
    return data


# BINUNICODE of the keys to SHORT_BINSTRING.
TOKENS = {
    b"X" + len(key).to_bytes(4, "little") + key: b"U" + bytes([len(key)]) + key
    for key in (b"data", b"labels", b"fine_labels", b"coarse_labels", b"batch_label")
}


def two_rows(index: int, key: str = "labels") -> dict:
    rows = slice(2 * index, 2 * index + 2)
    return {"batch_label": "made", key: LABELS[rows], "data": PIXELS[rows]}


def write(folder: Path, contents: dict[str, bytes]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, data in contents.items():
        (folder / name).write_bytes(data)
    return folder


def archive(path: Path, folder: str, contents: dict[str, bytes], mode: str = "w:gz") -> Path:
    with tarfile.open(path, mode) as file:
        for name, data in contents.items():
            member = tarfile.TarInfo(f"{folder}/{name}" if folder else name)
            member.size = len(data)
            file.addfile(member, io.BytesIO(data))
    return path


def python_version() -> dict[str, bytes]:
    return {name: python_2_pickle(two_rows(index)) for index, name in enumerate(FILES)}


def binary_version() -> dict[str, bytes]:
    rows = [bytes([label]) + row.tobytes() for label, row in zip(LABELS, PIXELS, strict=True)]
    return {f"{name}.bin": rows[2 * i] + rows[2 * i + 1] for i, name in enumerate(FILES)}


def check(population: Population) -> None:
    """The rows in order, standardised per channel over all of them."""
    images = PIXELS.reshape(-1, 3, 32, 32).astype(np.float64)
    expected = (images - images.mean((0, 2, 3), keepdims=True)) / images.std((0, 2, 3), keepdims=True)
    np.testing.assert_allclose(population.inputs.numpy(), expected, atol=1e-5)
    assert population.labels.tolist() == LABELS


def test_the_made_pickles_are_python_2s():
    data = python_version()["data_batch_1"]
    assert b"cnumpy.core.multiarray\n_reconstruct" in data
    assert set(pickle.loads(data, encoding="bytes")) == {b"batch_label", b"labels", b"data"}


@pytest.mark.parametrize("version", [python_version, binary_version], ids=["python", "binary"])
@pytest.mark.parametrize("layout", ["the folder", "above it", "archive", "variable"])
def test_cifar_10_from_every_place(tmp_path, monkeypatch, version, layout):
    monkeypatch.delenv(DATA_VARIABLE, raising=False)
    kind = "py" if version is python_version else "bin"
    name = f"cifar-10-batches-{kind}"
    if layout == "archive":
        archive(tmp_path / f"cifar-10-{'python' if kind == 'py' else 'binary'}.tar.gz", name, version())
    else:
        write(tmp_path / name, version())
    if layout == "variable":
        monkeypatch.setenv(DATA_VARIABLE, str(tmp_path))
    given = {"the folder": tmp_path / name, "variable": None}.get(layout, tmp_path)
    population = load("cifar-10", given)
    assert population.inputs.shape == (12, 3, 32, 32)
    assert population.classes == 10
    check(population)


@pytest.mark.parametrize("kind", ["python", "binary"])
def test_cifar_100_reads_fine_labels(tmp_path, kind):
    if kind == "python":
        parts = [{**two_rows(i, "fine_labels"), "coarse_labels": [0, 0]} for i in range(2)]
        contents = dict(zip(("train", "test"), map(python_2_pickle, parts), strict=True))
    else:
        rows = [bytes([7, LABELS[i]]) + PIXELS[i].tobytes() for i in range(4)]
        contents = {"train.bin": rows[0] + rows[1], "test.bin": rows[2] + rows[3]}
    population = load("cifar-100", write(tmp_path / f"cifar-100-{kind}", contents).parent)
    assert population.labels.tolist() == LABELS[:4]
    assert population.classes == 100


class Attack:
    def __init__(self, call) -> None:
        self.call = call

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize(
    ("call", "message"),
    [
        ((os.system, ("touch was-here",)), r"asks for (posix|nt)\.system"),
        ((eval, ("1+1",)), r"asks for (builtins|__builtin__)\.eval"),
        ((np.frombuffer, (b"ab", "u1")), r"asks for numpy\.frombuffer"),
        ((np.dtype, ("O",)), "values of type 'O'"),
        ((np.ndarray, ((2**40,),)), "damaged pickle"),
        ((np.zeros(1).__reduce__()[0], (np.ndarray, (2**40,), b"b")), r"array of shape \(1099511627776,\)"),
    ],
    ids=["os.system", "eval", "frombuffer", "object array", "ndarray called", "huge array"],
)
def test_a_malicious_pickle_is_refused_and_nothing_runs(tmp_path, monkeypatch, call, message):
    monkeypatch.chdir(tmp_path)
    contents = python_version()
    contents["data_batch_3"] = pickle.dumps({"data": Attack(call), "labels": [0]}, protocol=2)
    with pytest.raises(DataError, match=message) as error:
        load("cifar-10", write(tmp_path, contents))
    assert "data_batch_3" in str(error.value)
    assert not Path("was-here").exists()


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (python_2_pickle(two_rows(0))[:-9], "damaged pickle"),
        (b"", "damaged pickle"),
        (python_2_pickle([1, 2]), "holds a list, expected a dictionary"),
        (python_2_pickle({**two_rows(0), "data": PIXELS[:2, :100]}), r"uint8 \(2, 100\) as data"),
        (python_2_pickle({**two_rows(0), "data": PIXELS[:2].astype(np.float32)}), "float32"),
        (python_2_pickle({**two_rows(0), "data": PIXELS[0]}), r"uint8 \(3072,\) as data"),
        (python_2_pickle({**two_rows(0), "labels": [1]}), "no list of 2 whole numbers"),
        (python_2_pickle({**two_rows(0), "labels": [1, "2"]}), "no list of 2 whole numbers"),
        (python_2_pickle({**two_rows(0), "labels": [1, 11]}), r"the label 11, outside \[0, 10\)"),
    ],
    ids=["cut off", "empty", "list", "width", "floats", "one row", "labels", "text label", "large label"],
)
def test_damaged_python_files(tmp_path, data, message):
    with pytest.raises(DataError, match=message):
        load("cifar-10", write(tmp_path, {**python_version(), "data_batch_2": data}))


def test_damaged_binary_files_and_archives(tmp_path, monkeypatch):
    monkeypatch.delenv(DATA_VARIABLE, raising=False)
    contents = binary_version()
    contents["test_batch.bin"] = contents["test_batch.bin"][:-1]
    with pytest.raises(DataError, match=r"test_batch\.bin has 6145 bytes, no multiple of 3073"):
        load("cifar-10", write(tmp_path / "a", contents))
    del contents["test_batch.bin"]
    with pytest.raises(DataError, match=r"has no file test_batch\.bin"):
        load("cifar-10", archive(write(tmp_path / "b", {}) / "cifar-10-binary.tar.gz", "x", contents).parent)
    whole = archive(write(tmp_path / "c", {}) / "cifar-10-python.tar.gz", "x", python_version())
    whole.write_bytes(whole.read_bytes()[:6000])
    with pytest.raises(DataError, match="is a damaged archive"):
        load("cifar-10", whole.parent)
    with pytest.raises(DataError, match=r"no cifar-10-python\.tar\.gz or .* in any folder, as none was named"):
        load("cifar-10")


def mat(labels: list[int], images: np.ndarray | None = None) -> bytes:
    images = PIXELS[: len(labels)].reshape(-1, 3, 32, 32) if images is None else images
    buffer = io.BytesIO()
    savemat(buffer, {"X": images.transpose(2, 3, 1, 0), "y": np.array(labels, np.uint8)[:, None]})
    return buffer.getvalue()


def test_svhn_calls_label_10_the_digit_0(tmp_path):
    second = PIXELS[3:5].reshape(-1, 3, 32, 32)
    folder = write(tmp_path / "svhn", {"train_32x32.mat": mat([10, 1, 9]), "test_32x32.mat": mat([10, 3], second)})
    population = load("svhn", folder.parent)
    assert population.labels.tolist() == [0, 1, 9, 0, 3]
    raw = torch.from_numpy(PIXELS[:5].reshape(-1, 3, 32, 32)).double()
    deviation, mean = torch.std_mean(raw, (0, 2, 3), correction=0, keepdim=True)
    torch.testing.assert_close(population.inputs.double(), (raw - mean) / deviation, atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (mat([1, 2])[:-40], "no MATLAB file or a damaged one"),
        (b"not a mat file", "no MATLAB file or a damaged one"),
        (mat([1, 0]), "need one of 1 … 10"),
        (mat([1, 2, 3], PIXELS[:2].reshape(-1, 3, 32, 32)), "3 labels y for 2 images"),
        (mat([1], np.zeros((1, 1, 32, 32), np.uint8)), "expected uint8"),
    ],
    ids=["cut off", "text", "label 0", "labels", "grey"],
)
def test_damaged_svhn_files(tmp_path, data, message):
    with pytest.raises(DataError, match=message):
        load("svhn", write(tmp_path, {"train_32x32.mat": data, "test_32x32.mat": mat([1])}))


def jpeg(value: int, size: tuple[int, int] = (32, 32)) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", size, (value, value // 2, 255 - value)).save(buffer, "JPEG", quality=95)
    return buffer.getvalue()


@pytest.fixture
def tree(tmp_path):
    contents = {
        "test/dog/0000.jpg": jpeg(60),
        "train/truck/0001.jpg": jpeg(90),
        "train/airplane/0002.jpg": jpeg(10),
        "train/airplane/0001.jpg": jpeg(120),
        "train/README": b"no picture",
    }
    return archive(tmp_path / "cifar10-jpeg.tar.xz", "", contents, "w:xz")


def test_jpeg_tree_is_decoded_once_in_a_fixed_order(tree, tmp_path):
    cache = tmp_path / "cache"
    population = cifar_10_jpeg(tree.parent, cache)
    assert population.labels.tolist() == [CLASSES.index(c) for c in ("airplane", "airplane", "truck", "dog")]
    red = population.inputs[:, 0].mean((1, 2))
    assert red.argsort().tolist() == [1, 3, 2, 0]  # 10 < 60 < 90 < 120
    (kept,) = cache.iterdir()
    stamp = kept.stat().st_mtime_ns
    assert cifar_10_jpeg(tree.parent, cache).digest == population.digest
    assert kept.stat().st_mtime_ns == stamp
    kept.write_bytes(kept.read_bytes()[:-1])
    with pytest.raises(DataError, match="is damaged"):
        cifar_10_jpeg(tree.parent, cache)


def test_jpeg_cache_folder_by_variable(tree, tmp_path, monkeypatch):
    monkeypatch.setenv("AMU_FAST_CACHE", str(tmp_path / "elsewhere"))
    load("cifar-10-jpeg", tree.parent)
    assert len(list((tmp_path / "elsewhere").iterdir())) == 1


@pytest.mark.parametrize(
    ("contents", "message"),
    [
        ({"train/cat/1.jpg": jpeg(1)[:200], "test/cat/1.jpg": jpeg(2)}, "damaged JPEG"),
        ({"train/cat/1.jpg": jpeg(1, (16, 32)), "test/cat/1.jpg": jpeg(2)}, "16 × 32 pixels"),
        ({"train/wolf/1.jpg": jpeg(1)}, "has the file train/wolf/1.jpg"),
        ({"train/cat/1.jpg": jpeg(1)}, "need some below train/ and some below test/"),
        ({"train/cat/1.jpg": gzip.compress(b"text")}, "damaged JPEG"),
    ],
    ids=["cut off", "size", "class", "no test", "no image"],
)
def test_damaged_jpeg_trees(tmp_path, contents, message):
    path = archive(tmp_path / "cifar10-jpeg.tar.xz", "", contents, "w:xz")
    with pytest.raises(DataError, match=message):
        cifar_10_jpeg(path.parent, tmp_path / "cache")
    assert not (tmp_path / "cache").exists()


@pytest.mark.slow
def test_the_real_jpeg_archive(tmp_path):
    """50,000 + 10,000 rows whose channel means are .491 .482 .447."""
    folder = os.environ.get(DATA_VARIABLE)
    if folder is None or not (Path(folder) / "cifar10-jpeg.tar.xz").is_file():
        pytest.skip(f"needs {DATA_VARIABLE} to name a folder with cifar10-jpeg.tar.xz")
    from safetensors.torch import load_file

    population = cifar_10_jpeg(Path(folder), tmp_path)
    assert torch.bincount(population.labels[:50_000]).tolist() == [5000] * 10
    assert torch.bincount(population.labels[50_000:]).tolist() == [1000] * 10
    (kept,) = tmp_path.iterdir()
    pixels = load_file(kept)["pixels"]
    means = [float(pixels[:50_000, channel].double().mean()) / 255 for channel in range(3)]
    assert means == pytest.approx([0.491, 0.482, 0.447], abs=0.001)
