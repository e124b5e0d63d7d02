"""Street View House Numbers, cropped digits, from its two MATLAB files.

Source: Netzer et al. 2011, http://ufldl.stanford.edu/housenumbers; the label 10 is the digit 0.
"""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np

from amu_fast.errors import DataError
from amu_fast.experiments.archives import Place, find
from amu_fast.experiments.cifar import Arrays
from amu_fast.experiments.population import Population

_FILES = ("train_32x32.mat", "test_32x32.mat")
_ADVICE = "download train_32x32.mat and test_32x32.mat from http://ufldl.stanford.edu/housenumbers"


def svhn(data_dir: Path | None = None) -> Population:
    """SVHN: 73,257 + 26,032 rows of (3, 32, 32), training rows first.

    Raises:
        DataError: No files, or damaged ones.
    """
    _, source = find(data_dir, (Place("svhn", "svhn.tar.gz", _FILES[0]),), _ADVICE)
    contents = source.read(_FILES)
    parts = [_read(contents[file], f"{source.path}, {file}") for file in _FILES]
    images, labels = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
    return Population.of("svhn", images, labels)


def _read(data: bytes, name: str) -> Arrays:
    """X, uint8 (32, 32, 3, n), and y, (n, 1) in 1 … 10."""
    from scipy.io import loadmat
    from scipy.io.matlab import MatReadError

    try:
        found = loadmat(io.BytesIO(data), variable_names=("X", "y"))
    except (MatReadError, ValueError, TypeError, OSError, NotImplementedError, IndexError) as error:
        raise DataError(f"{name} is no MATLAB file or a damaged one ({error}); download it again") from error
    images, labels = np.asarray(found.get("X")), np.asarray(found.get("y"))
    if images.ndim != 4 or images.shape[:3] != (32, 32, 3) or images.dtype != np.uint8:
        raise DataError(f"{name} has X of {images.dtype} {images.shape}, expected uint8 (32, 32, 3, n)")
    if labels.size != images.shape[3] or not np.isin(labels, range(1, 11)).all():
        raise DataError(f"{name} has {labels.size} labels y for {images.shape[3]} images; need one of 1 … 10 for each")
    return np.ascontiguousarray(images.transpose(3, 2, 0, 1)), labels.ravel().astype(np.int64) % 10
