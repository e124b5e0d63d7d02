"""Score maps made of token statistics."""

from __future__ import annotations

import functools
from collections.abc import Callable

from torch import Tensor

from amu_fast.audit.scores import ModelOutputs
from amu_fast.audit.sequences import SequenceTokens

Formula = Callable[[SequenceTokens, ModelOutputs], Tensor]


class TokenScore:
    """A score map made of token statistics, which `Concatenate` computes once for all its maps.

    A subclass has `of_tokens`, and in `needs` the names of `token_statistics.STATISTICS` that it reads.
    """

    @property
    def needs(self) -> tuple[str, ...]:
        """Statistics that `of_tokens` reads; by default none."""
        return ()

    def of_tokens(self, tokens: SequenceTokens, outputs: ModelOutputs) -> Tensor:
        """(S, d) from the statistics named in `needs`; every sequence has a token."""
        raise NotImplementedError

    def __call__(self, outputs: ModelOutputs) -> Tensor:
        """Apply the map; waits for the device.

        Raises:
            DataError: Outputs of a classifier, labels out of range, or a sequence without a counted token.
        """
        return self.of_tokens(SequenceTokens.of(outputs, self.needs).each_counted(), outputs)


class _OfFormula(TokenScore):
    """A function of (tokens, outputs) as a score map; pickled by its name, like a function."""

    __name__: str

    def __init__(self, formula: Formula, needs: tuple[str, ...]) -> None:
        functools.update_wrapper(self, formula)
        del self.__wrapped__  # type: ignore[attr-defined]  # the map has another signature
        self._formula, self._needs = formula, needs

    @property
    def needs(self) -> tuple[str, ...]:
        return self._needs

    def of_tokens(self, tokens: SequenceTokens, outputs: ModelOutputs) -> Tensor:
        return self._formula(tokens, outputs).unsqueeze(-1)

    def __repr__(self) -> str:
        return self.__name__

    def __reduce__(self) -> str:
        return self.__name__


def token_score(*needs: str) -> Callable[[Formula], TokenScore]:
    """Make a score map with one column of a function of (tokens, outputs) that returns (S,).

    Args:
        needs: Names of the statistics that the function reads.

    >>> @token_score("log_p")
    ... def total(tokens, outputs):
    ...     return tokens.sum(tokens.log_p)
    >>> total.needs
    ('log_p',)
    """
    return lambda formula: _OfFormula(formula, needs)
