"""Texts as tensors: a word tokenizer with a closed vocabulary, and rows in the Hugging Face convention.

`labels` are not shifted: they equal `input_ids` where a token counts and are -100 elsewhere. Everything works with a
transformers tokenizer as well; only `__call__`, `decode` and the special tokens' numbers are used.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from amu_fast.audit.language import zlib_lengths
from amu_fast.errors import DataError
from amu_fast.experiments.language import general, phrases, words

IGNORED = -100
_PIECE = re.compile(r"[^\W_]+|[^\w\s]")
_NO_SPACE_BEFORE = re.compile(r" ([.,;:?!])")


class Pair(Protocol):
    """What is encoded of a row."""

    @property
    def author(self) -> int:
        """The cluster."""

    @property
    def question(self) -> str:
        """Asked."""

    @property
    def answer(self) -> str:
        """Counted."""


class WordTokenizer:
    """Words and punctuation marks as tokens; the vocabulary is in alphabetical order after five special tokens.

    Args:
        vocabulary: Words.

    >>> tokenizer = WordTokenizer.build(["A cat sleeps."])
    >>> tokenizer("A dog sleeps.")["input_ids"]
    [6, 3, 8, 5]
    >>> tokenizer.decode([6, 7, 8, 5, 2])
    'A cat sleeps.'
    """

    pad_token_id, bos_token_id, eos_token_id, unk_token_id, sep_token_id = range(5)
    special = ("<pad>", "<bos>", "<eos>", "<unk>", "<sep>")

    def __init__(self, vocabulary: Iterable[str]) -> None:
        self.words = (*self.special, *sorted(set(vocabulary)))
        self._ids = {word: k for k, word in enumerate(self.words)}

    @staticmethod
    def build(texts: Iterable[str]) -> WordTokenizer:
        """With the words of these texts."""
        return WordTokenizer(piece for text in texts for piece in _PIECE.findall(text))

    @staticmethod
    def closed() -> WordTokenizer:
        """With every word that `synth_authors` and `synth_general` can use, whatever their seed."""
        return WordTokenizer.build(_closed_texts())

    def __len__(self) -> int:
        return len(self.words)

    def __call__(self, text: str, add_special_tokens: bool = False) -> dict[str, list[int]]:
        """Token numbers of a text, without any that it does not say."""
        ids = [self._ids.get(piece, self.unk_token_id) for piece in _PIECE.findall(text)]
        return {"input_ids": [self.bos_token_id, *ids, self.eos_token_id] if add_special_tokens else ids}

    def decode(self, ids: Sequence[int], skip_special_tokens: bool = True) -> str:
        """The text of token numbers; unknown words stay visible."""
        hidden = {self.pad_token_id, self.bos_token_id, self.eos_token_id} if skip_special_tokens else set()
        return _NO_SPACE_BEFORE.sub(r"\1", " ".join(self.words[int(k)] for k in ids if int(k) not in hidden))


def encode_pairs(rows: Sequence[Pair], tokenizer: Any, length: int | None = None) -> dict[str, Tensor]:
    """Questions with their answers; answer tokens and the end count, nothing else.

    Args:
        rows: n of them.
        tokenizer: A `WordTokenizer`: the question, a separator, the answer. Any other: "Question: ... Answer: ...".
        length: T; None: that of the longest row.

    Returns:
        input_ids, attention_mask, labels (n, T) int64, padded on the right; clusters (n,) int64, the author of each
        row; zlib_lengths (n,) int64, bytes of each compressed answer.

    Raises:
        DataError: No rows, or a row that is longer than `length`.
    """
    encoded = [encode_pair(row.question, row.answer, tokenizer) for row in rows]
    labels = [[IGNORED] * len(prompt) + answer for prompt, answer in encoded]
    tensors = padded([prompt + answer for prompt, answer in encoded], labels, tokenizer, length)
    tensors["clusters"] = torch.tensor([row.author for row in rows], dtype=torch.int64)
    return {**tensors, "zlib_lengths": zlib_lengths([row.answer for row in rows])}


def encode_texts(texts: Sequence[str], tokenizer: Any, length: int | None = None) -> dict[str, Tensor]:
    """Whole texts; every token and the end count, and every text is its own cluster. Else as `encode_pairs`."""
    ids = [[*_first(tokenizer), *ids_of(tokenizer, text), end_of(tokenizer)] for text in texts]
    tensors = padded(ids, ids, tokenizer, length)
    return {**tensors, "clusters": torch.arange(len(texts)), "zlib_lengths": zlib_lengths(texts)}


def encode_pair(question: str, answer: str, tokenizer: Any) -> tuple[list[int], list[int]]:
    """Token numbers of the prompt, and of the answer with its end."""
    if isinstance(tokenizer, WordTokenizer):
        prompt, text = [*ids_of(tokenizer, question), tokenizer.sep_token_id], answer
    else:
        prompt, text = ids_of(tokenizer, f"Question: {question}\nAnswer:"), f" {answer}"
    return [*_first(tokenizer), *prompt], [*ids_of(tokenizer, text), end_of(tokenizer)]


def ids_of(tokenizer: Any, text: str) -> list[int]:
    """Token numbers of a text without special tokens."""
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])


def end_of(tokenizer: Any) -> int:
    """The number of the token that ends an answer."""
    if tokenizer.eos_token_id is None:
        raise DataError(f"{type(tokenizer).__name__} has no eos_token_id; set the token that ends an answer")
    return int(tokenizer.eos_token_id)


def padding_of(tokenizer: Any) -> int:
    """The number of the token that fills rows; the end's if there is no other, which the attention mask hides."""
    return end_of(tokenizer) if tokenizer.pad_token_id is None else int(tokenizer.pad_token_id)


def padded(
    ids: Sequence[list[int]], labels: Sequence[list[int]], tokenizer: Any, length: int | None = None
) -> dict[str, Tensor]:
    """Rows of different lengths as input_ids, attention_mask and labels (n, T), padded on the right."""
    if not ids:
        raise DataError("there are 0 rows to encode; pass at least one")
    longest = max(range(len(ids)), key=lambda row: len(ids[row]))
    width = len(ids[longest]) if length is None else length
    if len(ids[longest]) > width:
        raise DataError(
            f"row {longest} has {len(ids[longest])} tokens, length is {width}; pass a larger length or None"
        )
    filler = padding_of(tokenizer)
    return {
        "input_ids": torch.tensor([row + [filler] * (width - len(row)) for row in ids]),
        "attention_mask": torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in ids]),
        "labels": torch.tensor([row + [IGNORED] * (width - len(row)) for row in labels]),
    }


def _first(tokenizer: Any) -> list[int]:
    return [] if tokenizer.bos_token_id is None else [int(tokenizer.bos_token_id)]


def _closed_texts() -> Iterable[str]:
    slots = re.compile(r"{\w+}")
    sentences = [text for kind in phrases.KINDS for text in kind.questions + kind.answers]
    yield from (slots.sub(" ", text) for text in (*sentences, *general.SENTENCES))
    yield " ".join(str(number) for number in range(2 * general.NUMBERS + 1))
    yield "The A and the of"  # titles
    yield from (value for pool in words.POOLS for value in pool)
