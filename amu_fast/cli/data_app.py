"""`amu-fast data`: what there is, and fictitious authors to make."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from amu_fast.cli.options import Json, Seed

data_app = typer.Typer(help="Data sets: what there is, and fictitious authors to make.", no_args_is_help=True)


@data_app.command("list")
def data_list(json: Json = False) -> None:
    """Show the data sets by name, and where each comes from."""
    from amu_fast.cli.data import list_data

    list_data(as_json=json)


@data_app.command("synth-authors")
def data_synth_authors(
    out: Annotated[Path, typer.Option(help="Folder for the files, in TOFU's format.")],
    authors: Annotated[int, typer.Option(help="Authors of full.json.")] = 200,
    questions: Annotated[int, typer.Option(help="Questions about each.")] = 20,
    held_out: Annotated[int, typer.Option(help="Further authors, for heldout.json: non-members.")] = 60,
    seed: Seed = 0,
    json: Json = False,
) -> None:
    """Write a folder of questions and answers about people who do not exist, as TOFU's files."""
    from amu_fast.cli.data import make_authors

    make_authors(authors, questions, held_out, seed, out, as_json=json)
