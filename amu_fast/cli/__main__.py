"""`python -m amu_fast.cli`, the same as `amu-fast`."""

from amu_fast.cli import main

main()
