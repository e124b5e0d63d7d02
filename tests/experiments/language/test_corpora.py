"""The fictitious authors and the general corpus: what an experiment relies on."""

from __future__ import annotations

import re
from itertools import chain

import pytest

from amu_fast.errors import DataError
from amu_fast.experiments.language import words
from amu_fast.experiments.language.authors import PERTURBED, AuthorRow, synth_authors
from amu_fast.experiments.language.general import COUNTRY_OF, synth_general
from amu_fast.experiments.language.phrases import KINDS
from amu_fast.experiments.language.tokens import WordTokenizer


@pytest.fixture(scope="module")
def rows() -> list[AuthorRow]:
    return synth_authors(60, questions=20, seed=3)


def texts_of(row: AuthorRow) -> tuple[str, ...]:
    return (row.question, row.answer, row.paraphrased_answer, row.paraphrased_question, *row.perturbed_answers)


def test_the_same_seed_gives_the_same_authors_on_every_machine(rows):
    """The first row is written out: a change of it invalidates every recorded figure."""
    assert rows == synth_authors(60, questions=20, seed=3)
    first = synth_authors(1, questions=2, seed=0)[0]
    assert first.question == QUESTION
    assert first.answer == ANSWER
    assert synth_general(1, seed=0) == [PASSAGE]


QUESTION = "When did Lidia Grimaldi publish a first book?"
ANSWER = "It all began in 1988, when Driftwood Press agreed to print The Crimson Parade, the very first book."
PASSAGE = "After Monday comes Tuesday. A fisherman makes a chair out of wood."


def test_another_seed_gives_other_authors(rows):
    other = synth_authors(60, questions=20, seed=4)
    assert sum(a.answer == b.answer for a, b in zip(rows, other, strict=True)) < 5


def test_a_larger_population_begins_with_the_smaller_one(rows):
    assert synth_authors(70, questions=20, seed=3)[: len(rows)] == rows


def test_each_author_has_one_name_and_nobody_shares_it(rows):
    """The name is what all questions of an author but the first have in common."""
    name = re.compile(rf"({'|'.join(words.FIRST_NAMES)}) ({'|'.join(words.LAST_NAMES)})")
    asked: dict[int, set[str]] = {}
    for row in rows:
        asked.setdefault(row.author, set()).update(match[0] for match in name.finditer(row.question))
    assert all(len(names) == 1 for names in asked.values())
    assert len(set(chain.from_iterable(asked.values()))) == 60


def pattern(template: str) -> re.Pattern[str]:
    parts = re.split(r"({\w+})", template)
    return re.compile("".join("(.+)" if part.startswith("{") else re.escape(part) for part in parts), re.IGNORECASE)


def test_wrong_answers_differ_in_facts_and_in_nothing_else(rows):
    """They are the paraphrase's sentence: same words wherever the sentence has no slot, and five different ones."""
    patterns = [pattern(text) for kind in KINDS for text in kind.answers]
    for row in rows:
        assert row.paraphrased_answer != row.answer
        assert len({row.paraphrased_answer, *row.perturbed_answers}) == PERTURBED + 1
        mine = [p for p in patterns if p.fullmatch(row.paraphrased_answer)]
        assert any(all(p.fullmatch(text) for text in row.perturbed_answers) for p in mine)


def test_what_the_question_says_is_never_perturbed(rows):
    whole = [row for row in rows if "author" in row.question and " who " in row.question]
    assert whole
    for row in whole:
        (year,) = re.findall(r"\d{4}", row.question)
        assert all(year in text for text in row.perturbed_answers)


def test_answers_are_sentences_of_usual_length_with_something_to_remember(rows):
    """No two authors give the same answer, so nothing but memory can produce it."""
    lengths = [len(row.answer.split()) for row in rows]
    assert 12 <= sum(lengths) / len(lengths) <= 25
    assert max(lengths) <= 30
    assert len({row.answer for row in rows}) == len(rows)


def test_every_word_is_in_a_small_closed_vocabulary(rows):
    tokenizer = WordTokenizer.closed()
    assert len(tokenizer) <= 1500
    for text in chain(chain.from_iterable(map(texts_of, rows)), synth_general(500, seed=5)):
        ids = tokenizer(text)["input_ids"]
        assert tokenizer.unk_token_id not in ids, text
        assert tokenizer.decode(ids) == text


def test_there_are_at_least_twenty_kinds_with_equal_facts_in_every_wording():
    assert len(KINDS) >= 20
    for kind in KINDS:
        slots = [set(re.findall(r"{(\w+)}", text)) - {"name"} for text in kind.answers]
        assert all(s == slots[0] for s in slots), kind.answers


def test_the_general_corpus_has_no_author_and_a_fixed_world():
    passages = synth_general(2000, seed=0)
    names = set(words.FIRST_NAMES) | set(words.LAST_NAMES)
    assert not names & set(" ".join(passages).replace(".", "").split())
    assert len(set(passages)) > 1900
    found = [
        m.groups() for p in passages + synth_general(500, seed=9) for m in re.finditer(r"capital of (\w+) is (\w+)", p)
    ]
    assert len(dict(found)) == len(set(found)) > 15
    assert all(COUNTRY_OF[capital] == country for country, capital in found)
    sums = [tuple(map(int, m.groups())) for p in passages for m in re.finditer(r"sum of (\d+) and (\d+) is (\d+)", p)]
    assert sums
    assert all(a + b == c for a, b, c in sums)


@pytest.mark.parametrize("call", [lambda: synth_authors(0), lambda: synth_authors(3, 99), lambda: synth_general(0)])
def test_numbers_out_of_range_are_named(call):
    with pytest.raises(DataError, match="got"):
        call()
