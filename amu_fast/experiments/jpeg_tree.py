"""CIFAR-10 from an archive of JPEG files, `train/<class>/NNNN.jpg` and `test/<class>/NNNN.jpg`.

A re-encoding, slightly lossy: say "CIFAR-10 (JPEG re-encode)" beside every figure made with it. Its files are decoded
once; the pixels are kept in a safetensors file of the cache folder, whose name holds the archive's hash.
"""

from __future__ import annotations

import hashlib
import io
import os
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import torch
from torch import Tensor

from amu_fast.errors import BackendError, DataError
from amu_fast.experiments.archives import Place, find, members
from amu_fast.experiments.population import Population
from amu_fast.experiments.trained import read_trained, write_trained

CACHE_VARIABLE = "AMU_FAST_CACHE"
CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
PARTS = ("train", "test")
_ARCHIVE = "cifar10-jpeg.tar.xz"
_SIZE = (32, 32)


def cifar_10_jpeg(data_dir: Path | None = None, cache_dir: str | Path | None = None) -> Population:
    """CIFAR-10 (JPEG re-encode): rows of (3, 32, 32), training rows first, each part by class and file name.

    Args:
        data_dir: Folder of the archive.
        cache_dir: Where decoded pixels are kept; None: the folder named by AMU_FAST_CACHE, else ~/.cache/amu_fast.

    Raises:
        DataError: No archive, or a damaged one.
        BackendError: Pillow or safetensors is not installed.
    """
    place = Place("cifar10-jpeg", _ARCHIVE, _ARCHIVE)
    _, source = find(data_dir, (place,), f"pack the folders train/ and test/ of JPEG files as {_ARCHIVE}")
    path = source.path / _ARCHIVE if source.path.is_dir() else source.path
    pixels, labels = _decoded(path, _cache(cache_dir))
    return Population.of("cifar-10-jpeg", pixels.numpy(), labels.numpy())


def _cache(cache_dir: str | Path | None) -> Path:
    if cache_dir is not None:
        return Path(cache_dir)
    variable = os.environ.get(CACHE_VARIABLE)
    return Path(variable) if variable else Path.home() / ".cache" / "amu_fast"


def _decoded(path: Path, cache: Path) -> tuple[Tensor, Tensor]:
    """Pixels uint8 (n, 3, 32, 32) and labels (n,), from the cache or into it."""
    digest = _digest(path)
    kept = cache / f"cifar-10-jpeg-{digest[:16]}.safetensors"
    if not kept.is_file():
        pixels, labels = _read(path)
        write_trained(kept, {"pixels": pixels, "labels": labels}, {"archive": digest})
    tensors, facts = read_trained(kept)
    if facts.get("archive") != digest or not {"pixels", "labels"} <= tensors.keys():
        raise DataError(f"{kept} was made from another archive; delete it and run again")
    return tensors["pixels"], tensors["labels"]


def _digest(path: Path) -> str:
    digest = hashlib.sha256()
    try:
        with path.open("rb") as file:
            while chunk := file.read(2**20):
                digest.update(chunk)
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}; mind its permissions") from error
    return digest.hexdigest()


def _read(path: Path) -> tuple[Tensor, Tensor]:
    decode = _decoder()
    images: dict[tuple[int, int, str], np.ndarray] = {}
    for name, data in members(path, lambda member: member.suffix == ".jpg"):
        images[_key(name, path)] = decode(data, f"{name} in {path}")
    order = sorted(images)
    if {part for part, _, _ in order} != {0, 1}:
        raise DataError(f"{path} holds {len(order)} JPEG files, need some below train/ and some below test/")
    pixels = np.stack([images[key] for key in order]).transpose(0, 3, 1, 2)
    return torch.from_numpy(np.ascontiguousarray(pixels)), torch.tensor([label for _, label, _ in order])


def _key(name: PurePosixPath, path: Path) -> tuple[int, int, str]:
    """Part, class and file name: the order of the rows."""
    part, label = (*name.parts[-3:-1], "", "")[:2]
    if part not in PARTS or label not in CLASSES:
        raise DataError(f"{path} has the file {name}; expected train/<class>/*.jpg, the classes being {CLASSES}")
    return PARTS.index(part), CLASSES.index(label), name.name


def _decoder() -> Any:
    try:
        from PIL import Image, UnidentifiedImageError
    except ImportError as error:
        raise BackendError("JPEG files are decoded by Pillow; pip install 'amu-fast[demo]'") from error

    def decode(data: bytes, name: str) -> np.ndarray:
        try:
            with Image.open(io.BytesIO(data), formats=("JPEG",)) as image:
                if image.size != _SIZE:
                    raise DataError(f"{name} is {image.size[0]} × {image.size[1]} pixels, expected 32 × 32")
                return np.asarray(image.convert("RGB"))
        except (UnidentifiedImageError, OSError, SyntaxError) as error:
            raise DataError(f"{name} is a damaged JPEG file ({error}); copy the archive again") from error

    return decode
