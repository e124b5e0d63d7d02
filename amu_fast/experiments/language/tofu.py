"""TOFU: fictitious authors in JSON lines, and its forget tasks with authors held out.

TOFU has no held-out split: `full` is retain and forget. Non-members are made by taking authors out of `full` and out
of retain alike before anything is fine-tuned. A folder with a file heldout.json brings its own instead, as the
folders of `amu-fast data synth-authors` do.

Source: Maini et al. 2024 (arXiv 2401.06121); files as in locuslab/TOFU.
"""

from __future__ import annotations

import json
import os
import re
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from amu_fast.errors import DataError
from amu_fast.experiments.datasets import DATA_VARIABLE
from amu_fast.experiments.language.authors import AuthorRow
from amu_fast.experiments.language.words import sample, stream

QUESTIONS = 20
"""Rows of each author where a file does not say whose row it is."""
MIN_CLUSTERS = 10
"""Fewer forget authors than this carry no claim about authors (S4)."""
_LAYOUTS = (".", "tofu", "TOFU")
_OUTSIDE = ("real_authors", "world_facts")

Rows = tuple[AuthorRow, ...]


@dataclass(frozen=True)
class TofuSplits:
    """The rows of one task.

    Attributes:
        retain: Stay; retrain is fine-tuned on them, the original on them and `forget`.
        forget: To be forgotten: members.
        game: Held-out authors for the game.
        tune: Others for selection.
        test: Others for the final figures.
        perturbed: Rows with paraphrased or perturbed answers of "retain", "forget", "real_authors", "world_facts", as
            far as the folder has them.
        cluster_claims: Whether there are forget authors enough for claims about authors.
    """

    retain: Rows
    forget: Rows
    game: Rows
    tune: Rows
    test: Rows
    perturbed: dict[str, Rows] = field(repr=False)
    cluster_claims: bool

    @property
    def train(self) -> Rows:
        """What the original is fine-tuned on."""
        return self.retain + self.forget


@dataclass(frozen=True)
class TofuTask:
    """Which authors are forgotten, and which are held out.

    Args:
        forget: "forget01", "forget10", ...: the name of the file; retain is then retain99, retain90, ...
        held_out: Authors taken out of retain, a third each for game, tuning and test; not used if the folder has
            heldout.json. None of them has perturbed rows, which measure what the model shall still know.
        seed: Which authors those are.
    """

    forget: str = "forget10"
    held_out: int = 60
    seed: int = 0

    def __post_init__(self) -> None:
        if not re.fullmatch(r"forget\d\d", self.forget):
            raise DataError(f"forget must be like forget10, got {self.forget!r}")
        if self.held_out < 3:
            raise DataError(f"held_out must be >= 3, one author each for game, tuning and test, got {self.held_out}")

    @property
    def retain(self) -> str:
        """Name of the retain file."""
        return f"retain{100 - int(self.forget.removeprefix('forget')):02d}"

    def splits(self, data_dir: str | Path | None = None) -> TofuSplits:
        """Read and check the files.

        Raises:
            DataError: A file is missing or damaged, or files do not fit each other.
        """
        folder = tofu_folder(data_dir)
        full, forget, retain = (load_tofu(folder, name) for name in ("full", self.forget, self.retain))
        _check_partition(folder, self, full, forget, retain)
        perturbed = self._perturbed(folder, forget, retain)
        if (folder / "heldout.json").is_file():
            held = load_tofu(folder, "heldout")
            _check_new(folder, held, full)
            authors = sorted({row.author for row in held})
        else:
            authors = self._choice(folder, retain, perturbed.get("retain", ()))
            held = retain
        order = sample(authors, len(authors), stream("tofu", self.forget, self.seed))
        third = len(order) // 3
        cuts = (order[:third], order[third : 2 * third], order[2 * third :])
        game, tune, test = (_of(held, set(cut)) for cut in cuts)
        return TofuSplits(
            retain=_of(retain, {row.author for row in retain} - set(authors)),
            forget=forget,
            game=game,
            tune=tune,
            test=test,
            perturbed=perturbed,
            cluster_claims=len({row.author for row in forget}) >= MIN_CLUSTERS,
        )

    def _choice(self, folder: Path, retain: Rows, perturbed: Rows) -> list[int]:
        free = sorted({row.author for row in retain} - {row.author for row in perturbed})
        if self.held_out >= len(free):
            raise DataError(
                f"held_out must be below the {len(free)} authors of {folder / self.retain}.json without perturbed "
                f"rows, got {self.held_out}"
            )
        return sample(free, self.held_out, stream("tofu held out", self.seed))

    def _perturbed(self, folder: Path, forget: Rows, retain: Rows) -> dict[str, Rows]:
        names = {"retain": "retain_perturbed", "forget": f"{self.forget}_perturbed"}
        names |= {name: f"{name}_perturbed" for name in _OUTSIDE}
        found = {part: load_tofu(folder, n) for part, n in names.items() if (folder / f"{n}.json").is_file()}
        for part, rows in (("retain", retain), ("forget", forget)):
            _check_within(folder / f"{names[part]}.json", found.get(part, ()), folder / f"{part} rows", rows)
        return found


def tofu_folder(data_dir: str | Path | None = None) -> Path:
    """The folder of full.json: in `data_dir`, else where AMU_FAST_DATA says; itself, or its tofu/ or TOFU/.

    Raises:
        DataError: It is in neither.
    """
    variable = os.environ.get(DATA_VARIABLE)
    roots = [Path(root) for root in (data_dir, variable) if root]
    for root in roots:
        for folder in (root / layout for layout in _LAYOUTS):
            if (folder / "full.json").is_file():
                return folder
    raise DataError(
        f"no TOFU files (full.json) in {', '.join(map(str, roots)) or 'any folder that was named'}; pass the folder by "
        f"--data-dir or {DATA_VARIABLE}, or make one with `amu-fast data synth-authors --out FOLDER`"
    )


def load_tofu(folder: str | Path, name: str) -> Rows:
    """The rows of one file.

    The author of a row is its line's "author" if it has one; else, as in TOFU, every 20 rows of full.json are one
    author. Rows of other files are found in full.json; real authors and world facts are a cluster each.

    Args:
        folder: With the files.
        name: Of the file, without .json.

    Raises:
        DataError: A missing file, a line that is no row, or a row that full.json does not have.
    """
    path = Path(folder) / f"{name}.json"
    rows = [_row(path, number, line) for number, line in enumerate(_lines(path), 1)]
    if not rows:
        raise DataError(f"{path} has no rows; fetch it again")
    if name.startswith(_OUTSIDE):
        return tuple(replace(row, author=k) for k, row in enumerate(rows))
    if all(row.author >= 0 for row in rows):
        return tuple(rows)
    if name in ("full", "heldout"):
        if len(rows) % QUESTIONS:
            raise DataError(f"{path} has {len(rows)} rows, not {QUESTIONS} an author, and no 'author' in its lines")
        first = 0 if name == "full" else 1 + max(row.author for row in load_tofu(folder, "full"))
        return tuple(replace(row, author=first + k // QUESTIONS) for k, row in enumerate(rows))
    authors = {(row.question, row.answer): row.author for row in load_tofu(folder, "full")}
    for number, row in enumerate(rows, 1):
        if (row.question, row.answer) not in authors:
            raise DataError(f"{path} line {number} is not in full.json: {row.question!r}; are they of one release?")
    return tuple(replace(row, author=authors[row.question, row.answer]) for row in rows)


def _lines(path: Path) -> list[str]:
    try:
        return [line for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"cannot read {path}: {error}; TOFU's files are JSON lines in UTF-8") from error


def _row(path: Path, number: int, line: str) -> AuthorRow:
    try:
        value: Any = json.loads(line)
        row = AuthorRow(
            value.get("author", -1),
            value["question"],
            value["answer"],
            value.get("paraphrased_answer", ""),
            tuple(value.get("perturbed_answer", ())),
            value.get("paraphrased_question", ""),
        )
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{path} line {number} is no row of TOFU ({error!r}): {line[:80]!r}") from error
    texts = (row.question, row.answer, row.paraphrased_answer, row.paraphrased_question, *row.perturbed_answers)
    if not isinstance(row.author, int) or not all(isinstance(text, str) for text in texts):
        raise DataError(f"{path} line {number} has an author or a text of the wrong type: {line[:80]!r}")
    return row


def _of(rows: Rows, authors: set[int]) -> Rows:
    return tuple(row for row in rows if row.author in authors)


def _keys(rows: Rows) -> set[tuple[str, str]]:
    return {(row.question, row.answer) for row in rows}


def _check_partition(folder: Path, task: TofuTask, full: Rows, forget: Rows, retain: Rows) -> None:
    _check_within(folder / f"{task.forget}.json", forget, folder / "full.json", full)
    _check_within(folder / f"{task.retain}.json", retain, folder / "full.json", full)
    both = {row.author for row in forget} & {row.author for row in retain}
    if both:
        raise DataError(f"author {min(both)} is in {task.forget} and in {task.retain}; authors must be whole")
    if len(forget) + len(retain) != len(full):
        raise DataError(
            f"{task.forget} has {len(forget)} rows and {task.retain} {len(retain)}, full has {len(full)}: not their sum"
        )


def _check_within(path: Path, rows: Rows, where: Path, whole: Rows) -> None:
    missing = _keys(rows) - _keys(whole)
    if missing:
        raise DataError(f"{path} has {len(missing)} rows that {where} lacks, such as {min(missing)[0]!r}")


def _check_new(folder: Path, held: Rows, full: Rows) -> None:
    both = {row.author for row in held} & {row.author for row in full}
    if both or _keys(held) & _keys(full):
        raise DataError(f"{folder / 'heldout.json'} shares authors with full.json ({sorted(both)[:3]}); make it anew")
    if len({row.author for row in held}) < 3:
        raise DataError(f"{folder / 'heldout.json'} needs at least 3 authors, one each for game, tuning and test")
