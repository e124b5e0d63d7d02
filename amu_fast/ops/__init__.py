"""Operators: schemas, references, gradients; compiled kernels come in through `amu_fast.backends`."""
