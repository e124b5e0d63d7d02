"""amu_fast: adversarial machine unlearning, fast and with a bound on its error."""

__version__ = "0.1.0"
