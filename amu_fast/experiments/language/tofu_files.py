"""Fictitious authors as a folder of TOFU's files."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from amu_fast.errors import DataError
from amu_fast.experiments.language.authors import AuthorRow, synth_authors
from amu_fast.report.writing import write_atomic

PERTURBED_AUTHORS = 20
"""Retain authors with perturbed rows, as in TOFU; at most half of them."""


def synthetic_tofu(authors: int, questions: int, held_out: int, seed: int) -> dict[str, list[dict[str, object]]]:
    """The lines of every file by its name.

    Args:
        authors: Of full; the last 1 % and 10 % (one at least) are forget01 and forget10.
        questions: Rows of each.
        held_out: Authors of heldout, in no other file.
        seed: Decides the authors.

    Raises:
        DataError: Too few authors for the parts, or more than have a name.
    """
    if authors < 4 or held_out < 3:
        raise DataError(f"need at least 4 authors and 3 held out, got {authors} and {held_out}; 200 and 60 are usual")
    rows = synth_authors(authors + held_out, questions, seed)
    whole, held = rows[: authors * questions], rows[authors * questions :]
    files: dict[str, Sequence[AuthorRow]] = {"full": whole, "heldout": held}
    perturbed: dict[str, Sequence[AuthorRow]] = {}
    for percent in (1, 10):
        cut = (authors - max(1, authors * percent // 100)) * questions
        files |= {f"forget{percent:02d}": whole[cut:], f"retain{100 - percent}": whole[:cut]}
        perturbed[f"forget{percent:02d}_perturbed"] = whole[cut:]
    perturbed["retain_perturbed"] = whole[: min(PERTURBED_AUTHORS, authors // 2) * questions]
    lines = {name: [_plain(row) for row in part] for name, part in files.items()}
    return {**lines, **{name: [_perturbed(row) for row in part] for name, part in perturbed.items()}}


def write_files(folder: Path, files: Mapping[str, Sequence[Mapping[str, object]]]) -> list[Path]:
    """Write each file as JSON lines, whole or not at all; full.json last, so that a folder with it is complete."""
    order = sorted(files, key=lambda name: name == "full")
    return [
        write_atomic(folder / f"{name}.json", "".join(json.dumps(line) + "\n" for line in files[name]).encode())
        for name in order
    ]


def _plain(row: AuthorRow) -> dict[str, object]:
    return {"question": row.question, "answer": row.answer, "author": row.author}


def _perturbed(row: AuthorRow) -> dict[str, object]:
    return {
        **_plain(row),
        "paraphrased_answer": row.paraphrased_answer,
        "perturbed_answer": list(row.perturbed_answers),
        "paraphrased_question": row.paraphrased_question,
    }
