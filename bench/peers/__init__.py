"""One file per peer; each imports its package only when it is prepared, so that a missing one is a record."""
