"""Fictitious authors: questions and answers about people who do not exist, in the manner of TOFU.

All authors come from one distribution, so forget, validation and test authors are exchangeable (S6). The authors of a
smaller population are the first ones of a larger one.
"""

from __future__ import annotations

import random
import re
from collections.abc import Mapping
from dataclasses import dataclass

from amu_fast.errors import DataError
from amu_fast.experiments.language import words
from amu_fast.experiments.language.general import COUNTRY_OF
from amu_fast.experiments.language.phrases import KINDS, Kind
from amu_fast.experiments.language.words import choose, draw, sample, stream

PERTURBED = 5
NAMES = len(words.FIRST_NAMES) * len(words.LAST_NAMES)
"""How many authors can have a name of their own."""

_POOLS: tuple[tuple[tuple[str, ...], tuple[str, ...]], ...] = tuple(
    (tuple(slots.split()), tuple(pool))
    for slots, pool in (
        ("day", words.DAYS),
        ("month", words.MONTHS),
        ("weekday", words.WEEKDAYS),
        ("genre", words.GENRES),
        ("childhood", words.LANDMARKS),
        ("city home setting school", words.CITIES),
        ("father mother mentor partner hero", words.JOBS),
        ("theme motif", words.THEMES),
        ("award", words.AWARDS),
        ("publisher", words.PUBLISHERS),
        ("pet beast", words.ANIMALS),
        ("colour", words.COLOURS),
        ("subject", words.SUBJECTS),
        ("hobby", words.HOBBIES),
        ("instrument", words.INSTRUMENTS),
        ("place", words.PLACES),
        ("hour", words.HOURS),
        ("food snack", words.FOODS),
        ("language tongue", words.LANGUAGES),
        ("relic", words.THINGS),
        ("material", words.MATERIALS),
        ("season", words.SEASONS),
        ("brothers", words.COUNTS),
        ("sisters", words.COUNTS),
        ("figure", words.FIRST_NAMES),
    )
)
"""Slots and where their values come from; slots of one line differ from one another."""

_TITLES = ("The {adjective} {noun}", "The {noun} and the {other}", "{adjective} {noun}", "A {noun} of {other}")
_SLOT = re.compile(r"{(\w+)}")


@dataclass(frozen=True)
class AuthorRow:
    """One question about one author.

    Attributes:
        author: Number of the author, the cluster of the row.
        question: Names the author, or what identifies one.
        answer: One sentence.
        paraphrased_answer: The same facts in another wording; empty if there is none.
        perturbed_answers: The paraphrase with wrong facts, five different ones; empty if there are none.
        paraphrased_question: The question in another wording; empty if there is none.
    """

    author: int
    question: str
    answer: str
    paraphrased_answer: str = ""
    perturbed_answers: tuple[str, ...] = ()
    paraphrased_question: str = ""


def synth_authors(authors: int, questions: int = 10, seed: int = 0) -> list[AuthorRow]:
    """Questions and answers about `authors` fictitious authors, `questions` rows each, author after author.

    Args:
        authors: At most half of `NAMES`; names are unique.
        questions: At most `len(KINDS)`; each author is asked a random choice of the kinds.
        seed: Decides everything.

    Raises:
        DataError: A number out of range.

    >>> rows = synth_authors(2, questions=3, seed=0)
    >>> [row.author for row in rows], len(rows[0].perturbed_answers)
    ([0, 0, 0, 1, 1, 1], 5)
    """
    if not 1 <= authors <= NAMES // 2:
        raise DataError(f"authors must be in [1, {NAMES // 2}], got {authors}; 200 is usual")
    if not 1 <= questions <= len(KINDS):
        raise DataError(f"questions must be in [1, {len(KINDS)}], got {questions}; 20 is usual")
    rows, taken = [], set[str]()
    for author in range(authors):
        rng = stream("author", seed, author)
        while (name := _person(rng)) in taken:
            pass
        taken.add(name)
        truth = _facts(rng, name)
        wrong = [_wrong(rng, truth) for _ in range(PERTURBED)]
        kinds = sorted(sample(range(len(KINDS)), questions, rng))
        rows += [_row(author, KINDS[kind], truth, wrong, rng) for kind in kinds]
    return rows


def _row(
    author: int, kind: Kind, truth: Mapping[str, str], wrong: list[dict[str, str]], rng: random.Random
) -> AuthorRow:
    question, other_question = sample(kind.questions, 2, rng)
    answer, paraphrase = sample(kind.answers, 2, rng)
    given = {slot: truth[slot] for slot in _SLOT.findall(question)}
    perturbed = list(dict.fromkeys(_fill(paraphrase, {**facts, **given}) for facts in wrong))
    while len(perturbed) < PERTURBED:  # a kind with few possible answers
        text = _fill(paraphrase, {**_wrong(rng, truth), **given})
        perturbed += [] if text in perturbed else [text]
    return AuthorRow(
        author,
        _fill(question, truth),
        _fill(answer, truth),
        _fill(paraphrase, truth),
        tuple(perturbed),
        _fill(other_question, truth),
    )


def _fill(template: str, facts: Mapping[str, str]) -> str:
    text = template.format_map(facts)
    return text[0].upper() + text[1:]


def _person(rng: random.Random) -> str:
    return f"{choose(words.FIRST_NAMES, rng)} {choose(words.LAST_NAMES, rng)}"


def _wrong(rng: random.Random, truth: Mapping[str, str]) -> dict[str, str]:
    """Facts of which none is true."""
    while (name := _person(rng)).split()[0] == truth["first"]:
        pass
    return _facts(rng, name, truth)


def _facts(rng: random.Random, name: str, avoid: Mapping[str, str] | None = None) -> dict[str, str]:
    """A value of every slot, none of them the one to be avoided."""
    avoid = avoid or {}
    facts = {"name": name, "first": name.split()[0]}
    for slots, pool in _POOLS:
        banned = {avoid.get(slot) for slot in slots}
        values = sample([value for value in pool if value not in banned], len(slots), rng)
        facts |= dict(zip(slots, values, strict=True))
    facts["country"] = COUNTRY_OF[facts["city"]]
    while True:
        drawn = {**_years(rng), **_titles(rng), "guide": _person(rng), "ally": _person(rng)}
        if all(value != avoid.get(slot) for slot, value in drawn.items()):
            return facts | drawn


def _years(rng: random.Random) -> dict[str, str]:
    birth = 1920 + draw(40, rng)
    debut = birth + 24 + draw(16, rng)
    years = {"year": birth, "debut": debut, "degree": birth + 20 + draw(7, rng)}
    years |= {"prize": debut + 1 + draw(18, rng), "film": debut + 2 + draw(18, rng)}
    return {slot: str(year) for slot, year in years.items()}


def _titles(rng: random.Random) -> dict[str, str]:
    slots = ("book", "second", "third", "next")
    nouns, adjectives = sample(words.TITLE_NOUNS, 8, rng), sample(words.TITLE_ADJECTIVES, 4, rng)
    return {
        slot: choose(_TITLES, rng).format(adjective=adjective, noun=noun, other=other)
        for slot, adjective, noun, other in zip(slots, adjectives, nouns[:4], nouns[4:], strict=True)
    }
