"""`amu-fast`: one typer application; a command's work is in the module of its name.

Exit codes: 0 done, 1 the doctor found something broken, 2 unusable input (the message names the value and the fix), 130
interrupted; `verify` has its own, given in its module.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from amu_fast import __version__
from amu_fast.cli.data_app import data_app
from amu_fast.cli.options import DataDir, Json, Out, Seed
from amu_fast.errors import AmuFastError

app = typer.Typer(
    name="amu-fast",
    help="Adversarial machine unlearning: delete training data from a model, and measure how well it worked.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

app.add_typer(data_app, name="data")


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
def compare(
    data: Annotated[str | None, typer.Option(help="Data set, see `amu-fast data list`; default fashion-mnist.")] = None,
    data_dir: DataDir = None,
    resnet_on: Annotated[
        str | None, typer.Option(help="Device, such as cuda: a ResNet-18 there, on cifar-10 by default.")
    ] = None,
    methods: Annotated[list[str] | None, typer.Option("--method", help="Row, again for more; default all.")] = None,
    forget: Annotated[
        list[str] | None,
        typer.Option(help="random:.02, class:6:.5, memorised:.02 or mislabelled:.02, again for more."),
    ] = None,
    budget: Annotated[
        list[float] | None, typer.Option(help="Share of retraining's gradient samples, again for more.")
    ] = None,
    units: Annotated[int | None, typer.Option(min=2, help="Judged units.")] = None,
    trials: Annotated[int | None, typer.Option(min=1, help="Configurations of each search.")] = None,
    quick: Annotated[bool, typer.Option("--quick", help="Ten minutes: fewer rows, units and configurations.")] = False,
    sensitivity: Annotated[bool, typer.Option(help="Also at half and double each method's weight, at 5 %.")] = True,
    summarise: Annotated[bool, typer.Option("--summarise", help="Only aggregate the records in --out.")] = False,
    jobs: Annotated[int, typer.Option(help="Worker processes, one thread each.")] = 2,
    out: Out = Path("out/compare"),
    json: Json = False,
) -> None:
    """Compare methods with retraining at equal budgets and equal tuning; stop and start again at will."""
    from amu_fast.cli.compare import run_compare

    run_compare(
        data=data,
        data_dir=data_dir,
        device=resnet_on,
        methods=methods or [],
        forget_sets=forget or [],
        shares=budget or [],
        units=units,
        trials=trials,
        small=quick,
        sensitivity=sensitivity,
        summarise_only=summarise,
        jobs=jobs,
        out=out,
        as_json=json,
    )


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


@app.command()
def keygen(
    out: Annotated[Path, typer.Argument(help="Where the private key goes; its public half goes beside it as .pub.")],
    json: Json = False,
) -> None:
    """Make an Ed25519 key that signs erasure certificates."""
    from amu_fast.cli.certify import run_keygen

    run_keygen(out, as_json=json)


@app.command()
def certify(
    folder: Annotated[Path, typer.Argument(help="Folder of a result: model.safetensors, report.json, figures.")],
    key: Annotated[Path | None, typer.Option(help="Private key that signs; `amu-fast keygen` makes one.")] = None,
    unsigned: Annotated[bool, typer.Option("--unsigned", help="No signature: finds accidents, not forgers.")] = False,
    policy: Annotated[Path | None, typer.Option(help="Policy, sealed before the audit.")] = None,
    verdict: Annotated[Path | None, typer.Option(help="JSON of the verdict by that policy; else inconclusive.")] = None,
    forget_ids: Annotated[Path | None, typer.Option(help="Ids of the records to be forgotten, one a line.")] = None,
    facts: Annotated[Path | None, typer.Option(help="YAML file: request, copies, reference, residual risk.")] = None,
    original: Annotated[Path | None, typer.Option(help="The model before: safetensors file or folder.")] = None,
    previous: Annotated[Path | None, typer.Option(help="The last certificate of the chain.")] = None,
    private: Annotated[
        Path | None, typer.Option(help="Where keys and ids go; default: beside the folder, as FOLDER.private.json.")
    ] = None,
    json: Json = False,
) -> None:
    """Issue an erasure certificate: what was done, how it was tested, and what risk remains."""
    from amu_fast.cli.certify import CertifyOptions, run_certify

    options = CertifyOptions(
        folder=folder,
        key=key,
        unsigned=unsigned,
        policy=policy,
        verdict=verdict,
        forget_ids=forget_ids,
        facts=facts,
        original=original,
        previous=previous,
        private=private,
        as_json=json,
    )
    run_certify(options)


@app.command()
def verify(
    certificate: Annotated[Path, typer.Argument(help="certificate.json, or its folder.")],
    trust: Annotated[list[Path] | None, typer.Option(help="Public keys of signers, PEM; may be repeated.")] = None,
    previous: Annotated[list[Path] | None, typer.Option(help="Certificates before it; may be repeated.")] = None,
    proof: Annotated[Path | None, typer.Option(help="Proof that a record is among those of the request.")] = None,
    model: Annotated[Path | None, typer.Option(help="Compare these weights instead of the folder's.")] = None,
    allow_missing: Annotated[bool, typer.Option("--allow-missing", help="Accept that files are missing.")] = False,
    verdict: Annotated[bool, typer.Option("--verdict", help="If trusted, exit with the verdict's own code.")] = False,
    json: Json = False,
) -> None:
    """Verify an erasure certificate: 0 trusted, 2 damaged, 4 unknown key, 5 unsigned, 6 a file is missing."""
    from amu_fast.cli.verify import VerifyOptions, run_verify

    options = VerifyOptions(
        certificate=certificate,
        trust=tuple(trust or ()),
        previous=tuple(previous or ()),
        proof=proof,
        model=model,
        allow_missing=allow_missing,
        verdict=verdict,
        as_json=json,
    )
    raise typer.Exit(run_verify(options))
