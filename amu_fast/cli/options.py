"""Options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Json = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout, everything else on stderr.")]
Seed = Annotated[int, typer.Option(help="Seed of every random choice; the same seed gives the same bits on the CPU.")]
Out = Annotated[Path, typer.Option(help="Folder for the results.")]
DataDir = Annotated[Path | None, typer.Option(help="Where data files lie; also read from AMU_FAST_DATA.")]
