"""`amu-fast`: one typer application; a command's work is in the module of its name.

Exit codes: 0 done, 1 the doctor found something broken, 2 unusable input (the message names the value and the fix), 130
interrupted.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from amu_fast import __version__
from amu_fast.errors import AmuFastError

app = typer.Typer(
    name="amu-fast",
    help="Adversarial machine unlearning: delete training data from a model, and measure how well it worked.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

data_app = typer.Typer(help="Data sets: what there is, and fictitious authors to make.", no_args_is_help=True)
app.add_typer(data_app, name="data")

Json = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout, everything else on stderr.")]
Seed = Annotated[int, typer.Option(help="Seed of every random choice; the same seed gives the same bits on the CPU.")]
Out = Annotated[Path, typer.Option(help="Folder for the results.")]
DataDir = Annotated[Path | None, typer.Option(help="Where data files lie; also read from AMU_FAST_DATA.")]


def run() -> None:
    """Run the application; an error of this library becomes one line on stderr and exit code 2."""
    try:
        app()
    except AmuFastError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from error
    except KeyboardInterrupt as error:
        print("interrupted; finished results are kept, nothing is half-written", file=sys.stderr)
        raise SystemExit(130) from error


def _version(value: bool) -> None:
    if value:
        print(__version__)
        raise typer.Exit


@app.callback()
def _main(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print it and leave.")
    ] = False,
) -> None:
    pass


@app.command()
def demo(
    data: Annotated[str, typer.Option(help="mnist-5k (ships in a package) or fashion-mnist (IDX files).")] = "mnist-5k",
    data_dir: DataDir = None,
    units: Annotated[int, typer.Option(min=1, help="Independent units: split, forget draw, training seed.")] = 1,
    seed: Seed = 0,
    out: Out = Path("out/demo"),
    json: Json = False,
) -> None:
    """Train, forget 500 images by every method, and compare each with retraining, on real data."""
    from amu_fast.cli.demo import run_demo

    run_demo(data=data, data_dir=data_dir, units=units, seed=seed, out=out, as_json=json)


@app.command()
def unlearn(
    config: Annotated[
        Path, typer.Argument(help="YAML file; `amu-fast unlearn --example` prints one.", exists=False)
    ] = Path("-"),
    example: Annotated[bool, typer.Option("--example", help="Print an example configuration and leave.")] = False,
    data_dir: DataDir = None,
    seed: Annotated[int | None, typer.Option(help="Overrides the configuration's seed.")] = None,
    out: Annotated[Path | None, typer.Option(help="Overrides the configuration's folder.")] = None,
    json: Json = False,
) -> None:
    """Unlearn as a YAML file says: your model and data by import path, or a built-in task."""
    from amu_fast.cli import unlearn as command

    if example:
        print(command.EXAMPLE, end="")
        return
    command.run_unlearn(config, data_dir=data_dir, seed=seed, out=out, as_json=json)


@app.command()
def audit(
    members: Annotated[Path, typer.Option(help="Scores (n,) or logits (n, C) of member rows, .npy or .csv.")],
    nonmembers: Annotated[Path, typer.Option(help="The same of rows that the model never saw.")],
    member_labels: Annotated[Path | None, typer.Option(help="Classes (n,), needed for logits.")] = None,
    nonmember_labels: Annotated[Path | None, typer.Option(help="Classes (m,), needed for logits.")] = None,
    seed: Seed = 0,
    json: Json = False,
) -> None:
    """Measure how well scores tell members from non-members (higher = member), with intervals."""
    from amu_fast.cli.audit import run_audit

    run_audit(members, nonmembers, member_labels, nonmember_labels, seed=seed, as_json=json)


@app.command()
def report(
    folder: Annotated[Path, typer.Argument(help="A folder with audit.json or report.json, as `unlearn` leaves it.")],
    private: Annotated[
        bool, typer.Option("--private", help="Write report-private.html, with the single rows of private.json.")
    ] = False,
    show: Annotated[bool, typer.Option("--open/--no-open", help="Open the page in the browser.")] = False,
    json: Json = False,
) -> None:
    """Write a result's page, report.html: one file, no network, for screen, phone and paper."""
    from amu_fast.cli.report import run_report

    run_report(folder, private=private, show=show, as_json=json)


@app.command()
def doctor(json: Json = False) -> None:
    """Show what is built, which backend serves which operator, and run a self-test."""
    from amu_fast.cli.doctor import run_doctor

    raise typer.Exit(run_doctor(as_json=json))


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
