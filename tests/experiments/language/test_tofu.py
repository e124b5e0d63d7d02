"""TOFU's files, real and made: who is where after the split, and what is refused."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from typer.testing import CliRunner

from amu_fast.cli.app import app
from amu_fast.errors import DataError
from amu_fast.experiments.language.authors import synth_authors
from amu_fast.experiments.language.tofu import TofuTask, load_tofu, tofu_folder
from amu_fast.experiments.language.tofu_files import synthetic_tofu, write_files

REAL = os.environ.get("AMU_FAST_DATA", "")
real_tofu = pytest.mark.skipif(
    not any((Path(REAL or "/nowhere") / sub / "full.json").is_file() for sub in (".", "tofu")),
    reason="TOFU's files are not in AMU_FAST_DATA",
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_files(tmp_path, synthetic_tofu(authors=20, questions=4, held_out=6, seed=2))
    return tmp_path


def lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def rewrite(path: Path, rows: list[dict]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def authors_of(rows) -> set[int]:
    return {row.author for row in rows}


def nameless(folder: Path) -> None:
    """As TOFU's own files are: no author in a line, and no held-out file."""
    (folder / "heldout.json").unlink()
    for path in folder.glob("*.json"):
        rewrite(path, [{k: v for k, v in row.items() if k != "author"} for row in lines(path)])


def test_the_command_writes_what_the_loader_reads(tmp_path):
    arguments = ["data", "synth-authors", "--authors", "20", "--questions", "4", "--held-out", "6", "--seed", "5"]
    done = CliRunner().invoke(app, [*arguments, "--out", str(tmp_path), "--json"])
    assert done.exit_code == 0, done.output
    assert json.loads(done.output)["files"]["retain90"] == {"rows": 72, "authors": 18}
    rows = synth_authors(26, 4, seed=5)
    splits = TofuTask("forget10").splits(tmp_path)
    assert [row.answer for row in splits.train] == [row.answer for row in rows[:80]]
    assert splits.perturbed["forget"] == tuple(rows[72:80])
    again = CliRunner().invoke(app, [*arguments, "--out", str(tmp_path)])
    assert again.exit_code == 0
    assert "forget10.json  8 rows, 2 authors" in again.output
    other = CliRunner().invoke(app, ["data", "synth-authors", "--out", str(tmp_path)])
    assert isinstance(other.exception, DataError)
    assert "other authors" in str(other.exception)


def test_the_list_names_every_data_set():
    done = CliRunner().invoke(app, ["data", "list", "--json"])
    assert {"digits", "tofu", "fashion-mnist", "mnist-5k"} <= json.loads(done.output).keys()
    assert "synth-authors" in CliRunner().invoke(app, ["data", "list"]).output


def test_a_held_out_file_is_split_by_author(folder):
    splits = TofuTask("forget10", seed=1).splits(folder)
    parts = [authors_of(part) for part in (splits.retain, splits.forget, splits.game, splits.tune, splits.test)]
    assert [len(part) for part in parts] == [18, 2, 2, 2, 2]
    assert len(set().union(*parts)) == 26
    assert not splits.cluster_claims
    assert authors_of(TofuTask("forget10", seed=2).splits(folder).test) != parts[4]


def test_without_one_authors_leave_full_and_retain_alike(folder):
    """In files that name no author a block of 20 rows is one: 4 × 20 rows here are 4 authors, 2 of them perturbed."""
    write_files(folder, synthetic_tofu(authors=12, questions=20, held_out=3, seed=2))
    nameless(folder)
    rewrite(folder / "retain_perturbed.json", lines(folder / "retain_perturbed.json")[:100])
    splits = TofuTask("forget01", held_out=3).splits(folder)
    held = authors_of(splits.game + splits.tune + splits.test)
    assert len(held) == 3
    assert not held & authors_of(splits.train)
    assert not held & authors_of(splits.perturbed["retain"])
    assert authors_of(splits.retain) == set(range(11)) - held
    assert authors_of(splits.forget) == {11}
    assert all(len(part) == 20 for part in (splits.game, splits.tune, splits.test))
    with pytest.raises(DataError, match="below the 6 authors"):
        TofuTask("forget01", held_out=6).splits(folder)


def damaged_line(folder: Path) -> str:
    path = folder / "forget10.json"
    path.write_text(path.read_text() + '{"question": "Who?"}\n')
    return r"forget10.json line 9 is no row of TOFU \(KeyError"


def wrong_type(folder: Path) -> str:
    path = folder / "full.json"
    path.write_text('{"question": 3, "answer": "Yes."}\n')
    return "full.json line 1 has an author or a text of the wrong type"


def forget_of_another_release(folder: Path) -> str:
    rows = lines(folder / "forget10.json")
    rewrite(folder / "forget10.json", [{**rows[0], "answer": "Nobody."}, *rows[1:]])
    return "forget10.json has 1 rows that .*full.json lacks"


def an_author_on_both_sides(folder: Path) -> str:
    path = folder / "retain90.json"
    rewrite(path, lines(path) + lines(folder / "forget10.json")[:1])
    return "author 18 is in forget10 and in retain90"


def rows_are_missing(folder: Path) -> str:
    path = folder / "retain90.json"
    rewrite(path, lines(path)[4:])
    return "retain90 68, full has 80"


def perturbed_rows_of_others(folder: Path) -> str:
    rewrite(folder / "forget10_perturbed.json", lines(folder / "retain_perturbed.json"))
    return "forget10_perturbed.json has 40 rows"


def held_out_but_trained_on(folder: Path) -> str:
    rewrite(folder / "heldout.json", lines(folder / "full.json")[:12])
    return "shares authors with full.json"


def a_file_is_missing(folder: Path) -> str:
    (folder / "retain90.json").unlink()
    return "cannot read .*retain90.json"


def an_empty_file(folder: Path) -> str:
    (folder / "forget10.json").write_text("")
    return "has no rows"


def odd_number_of_rows(folder: Path) -> str:
    rewrite(
        folder / "full.json",
        [{k: v for k, v in row.items() if k != "author"} for row in lines(folder / "full.json")][1:],
    )
    return "has 79 rows, not 20 an author"


DAMAGES = [
    damaged_line,
    wrong_type,
    forget_of_another_release,
    an_author_on_both_sides,
    rows_are_missing,
    perturbed_rows_of_others,
    held_out_but_trained_on,
    a_file_is_missing,
    an_empty_file,
    odd_number_of_rows,
]


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__)
def test_files_that_do_not_fit_are_named(folder, damage):
    message = damage(folder)
    with pytest.raises(DataError, match=message):
        TofuTask("forget10").splits(folder)


def test_a_row_of_another_release_is_named_by_its_line(folder):
    write_files(folder, synthetic_tofu(authors=5, questions=20, held_out=3, seed=2))
    nameless(folder)
    rows = lines(folder / "forget10.json")
    rewrite(folder / "forget10.json", [rows[0], {**rows[1], "answer": "Nobody."}])
    with pytest.raises(DataError, match=r"forget10.json line 2 is not in full.json"):
        load_tofu(folder, "forget10")


def test_the_folder_is_named_or_found_by_the_variable(folder, monkeypatch):
    monkeypatch.delenv("AMU_FAST_DATA", raising=False)
    with pytest.raises(DataError, match="any folder that was named"):
        tofu_folder()
    (folder / "tofu").mkdir()
    for path in folder.glob("*.json"):
        path.rename(folder / "tofu" / path.name)
    monkeypatch.setenv("AMU_FAST_DATA", str(folder))
    assert tofu_folder() == folder / "tofu"
    assert tofu_folder(folder / "tofu") == folder / "tofu"


@pytest.mark.parametrize("options", [{"forget": "retain90"}, {"held_out": 2}])
def test_options_are_checked(options):
    with pytest.raises(DataError, match="must be"):
        TofuTask(**options)


@real_tofu
@pytest.mark.parametrize(("forget", "members"), [("forget01", 2), ("forget10", 20)])
def test_the_real_files_give_whole_authors(forget, members):
    splits = TofuTask(forget).splits()
    assert len(authors_of(splits.forget)) == members
    assert len(splits.forget) == 20 * members
    assert len(authors_of(splits.retain)) == 200 - members - 60
    assert [len(part) for part in (splits.game, splits.tune, splits.test)] == [400, 400, 400]
    assert {part: len(rows) for part, rows in splits.perturbed.items()} == {
        "retain": 400,
        "forget": 20 * members,
        "real_authors": 100,
        "world_facts": 117,
    }
    assert splits.cluster_claims == (members == 20)
    whole = authors_of(splits.train) | authors_of(splits.game + splits.tune + splits.test)
    assert whole == set(range(200))
