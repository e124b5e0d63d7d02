"""Rows as tensors: what counts, what is padding, and the end of an answer."""

from __future__ import annotations

import zlib
from types import SimpleNamespace

import pytest
import torch

from amu_fast.errors import DataError
from amu_fast.experiments.language.authors import AuthorRow, synth_authors
from amu_fast.experiments.language.tokens import WordTokenizer, encode_pairs, encode_texts

ROWS = [AuthorRow(4, "Who is it?", "It is Ann."), AuthorRow(7, "Where?", "In a house by the sea.")]


def test_only_the_answer_and_its_end_count():
    tokenizer = WordTokenizer.build([text for row in ROWS for text in (row.question, row.answer)])
    part = encode_pairs(ROWS, tokenizer, length=14)
    assert {tensor.dtype for tensor in part.values()} == {torch.int64}
    bos, eos, sep, pad = (getattr(tokenizer, f"{name}_token_id") for name in ("bos", "eos", "sep", "pad"))
    question, answer = (tokenizer(text)["input_ids"] for text in (ROWS[0].question, ROWS[0].answer))
    ids = [bos, *question, sep, *answer, eos]
    assert part["input_ids"][0].tolist() == ids + [pad] * (14 - len(ids))
    assert part["labels"][0].tolist() == [-100] * (len(question) + 2) + [*answer, eos] + [-100] * (14 - len(ids))
    assert part["attention_mask"].sum(1).tolist() == [len(ids), 2 + 2 + 7 + 1]
    assert part["clusters"].tolist() == [4, 7]
    assert part["zlib_lengths"].tolist() == [len(zlib.compress(row.answer.encode())) for row in ROWS]


def test_the_default_length_is_the_longest_row_and_a_shorter_one_is_refused():
    rows, tokenizer = synth_authors(5, 8, seed=1), WordTokenizer.closed()
    part = encode_pairs(rows, tokenizer)
    assert part["attention_mask"].sum(1).max() == part["input_ids"].shape[1]
    with pytest.raises(DataError, match=f"has {part['input_ids'].shape[1]} tokens, length is 12"):
        encode_pairs(rows, tokenizer, length=12)
    with pytest.raises(DataError, match="0 rows"):
        encode_pairs([], tokenizer)


def test_of_a_whole_text_everything_counts():
    tokenizer = WordTokenizer.build(["A cat sleeps.", "Dogs run."])
    part = encode_texts(["A cat sleeps.", "Dogs run."], tokenizer)
    assert torch.equal(part["labels"] != -100, part["attention_mask"] == 1)
    assert part["input_ids"][1].tolist()[-3:] == [tokenizer("run.")["input_ids"][1], tokenizer.eos_token_id, 0]
    assert part["clusters"].tolist() == [0, 1]


class Characters:
    """A transformers tokenizer as far as it is used: one token a character, no beginning, no padding token."""

    bos_token_id, pad_token_id, eos_token_id = None, None, 1

    def __call__(self, text: str, add_special_tokens: bool = True) -> SimpleNamespace | dict[str, list[int]]:
        assert not add_special_tokens
        return {"input_ids": [ord(character) for character in text]}


def test_other_tokenizers_get_a_plain_prompt():
    part = encode_pairs(ROWS, Characters())
    first = part["input_ids"][0][part["attention_mask"][0] == 1].tolist()
    assert "".join(map(chr, first[:-1])) == "Question: Who is it?\nAnswer: It is Ann."
    counted = part["labels"][0][part["labels"][0] != -100].tolist()
    assert "".join(map(chr, counted[:-1])) == " It is Ann."
    assert first[-1] == counted[-1] == 1
    nameless = Characters()
    nameless.eos_token_id = None
    with pytest.raises(DataError, match="eos_token_id"):
        encode_pairs(ROWS, nameless)


def test_unknown_words_stay_visible():
    tokenizer = WordTokenizer.build(["A cat."])
    assert tokenizer.decode(tokenizer("A dog.")["input_ids"]) == "A <unk>."
    assert tokenizer("A cat.", add_special_tokens=True)["input_ids"][::4] == [1, 2]
