"""docs/certificates.md does what it says, from top to bottom."""

from __future__ import annotations

import re
import shlex
import subprocess
from pathlib import Path

from typer.testing import CliRunner

from amu_fast.cli.app import app

PAGE = (Path(__file__).parent.parent.parent / "docs" / "certificates.md").read_text()
BLOCKS = re.findall(r"```(python|bash)\n(.*?)```", PAGE, re.S)
EXIT = re.compile(r"# exit (\d)$")


def run_line(line: str) -> None:
    if line.startswith("amu-fast "):
        done = CliRunner().invoke(app, shlex.split(line, comments=True)[1:])
        stated = EXIT.search(line)
        assert done.exit_code == (int(stated[1]) if stated else 0), (line, done.output, done.exception)
    elif not line.startswith("pip "):
        subprocess.run(line, shell=True, check=True)


def test_the_page_runs_from_top_to_bottom(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for language, block in BLOCKS:
        if language == "python":
            exec(compile(block, "docs/certificates.md", "exec"), {})
        else:
            for line in block.splitlines():
                run_line(line)
    assert (tmp_path / "out" / "next" / "certificate.json").is_file()
    assert len(BLOCKS) == 8
