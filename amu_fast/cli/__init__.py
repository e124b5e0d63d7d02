"""The command line, `amu-fast`."""

from __future__ import annotations

__all__ = ["main"]


def main() -> None:
    """Run `amu-fast`; the console script."""
    from amu_fast.cli.app import run

    run()
