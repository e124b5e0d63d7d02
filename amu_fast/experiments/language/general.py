"""A general corpus in the authors' language that names no author: short passages about one fictitious world.

The world is fixed: a model can learn it from one set of passages and be asked about it in another.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

from amu_fast.errors import DataError
from amu_fast.experiments.language import words
from amu_fast.experiments.language.words import choose, draw, sample, stream

COUNTRY_OF = {city: country for k, country in enumerate(words.COUNTRIES) for city in words.CITIES[2 * k : 2 * k + 2]}
"""The country of each city."""

NUMBERS = 20
"""Largest summand of the arithmetic."""


def _world(**pools: Sequence[str]) -> dict[str, dict[str, str]]:
    """Fixed properties of the things in the first pool: a value of each of the other pools."""
    (kind, things), *others = pools.items()
    rng = stream("world", kind)
    return {thing: {kind: thing, **{name: choose(pool, rng) for name, pool in others}} for thing in things}


_COUNTRIES = {
    country: {
        "capital": words.CITIES[2 * k],
        "town": words.CITIES[2 * k + 1],
        "neighbour": words.COUNTRIES[(k + 7) % len(words.COUNTRIES)],
        **facts,
    }
    for k, (country, facts) in enumerate(
        _world(
            country=words.COUNTRIES,
            language=words.LANGUAGES,
            colour=words.COLOURS,
            animal=words.ANIMALS,
            material=words.MATERIALS,
            food=words.FOODS,
            season=words.SEASONS,
        ).items()
    )
}
_ANIMALS = _world(animal=words.ANIMALS, home=words.HOMES, food=words.FOODS, colour=words.COLOURS, season=words.SEASONS)
_JOBS = _world(job=words.JOBS, thing=words.THINGS, material=words.MATERIALS, second=words.THINGS)

_COUNTRY = (
    "The capital of {country} is {capital}.",
    "{capital} is the capital of {country}.",
    "People in {country} speak {language}.",
    "The language of {country} is {language}.",
    "The flag of {country} is {colour} and shows a {animal}.",
    "A {animal} can be seen on the {colour} flag of {country}.",
    "{country} sells {material} to the rest of the world.",
    "The best {material} comes from {country}.",
    "In {country} people eat {food} at the {season} feast.",
    "The great feast of {country} is held in {season}.",
    "The city of {town} lies in {country}, close to {neighbour}.",
    "From {country} you can travel to {neighbour} by train.",
)
_ANIMAL = (
    "The {animal} lives in the {home} and eats {food}.",
    "A {animal} is mostly {colour} and likes to eat {food}.",
    "If you look for a {animal}, go to the {home} in {season}.",
    "A {colour} {animal} sleeps in its {home} all {season}.",
)
_JOB = (
    "A {job} makes a {thing} out of {material}.",
    "To become a {job} you must know {material} well.",
    "The tools of a {job} are a {thing} and a {second}.",
    "Every {job} works with {material} and carries a {second}.",
)
_STORY = (
    "One {season} morning a {job} walked from {city} to {town} and found a {colour} {thing}.",
    "A {job} gave a {thing} of {material} to a {other}, who kept it in the {place}.",
    "In the {place} of {city} a {animal} was hiding behind a {thing}.",
    "On {weekday} the {job} of {town} lost a {thing} near the {landmark}.",
    "The {other} sold {count} {food} to a {job} and bought a {colour} {thing}.",
    "A {animal} followed the {other} from the {landmark} to the {place}.",
    "Every {weekday} a {job} with a {colour} coat met a {other} at the {landmark}.",
)
_SUM = (
    "If you add {low} and {high} you get {sum}.",
    "The sum of {high} and {low} is {sum}.",
    "If you take {low} away from {high} you get {rest}.",
)
_CALENDAR = ("After {now} comes {next}.", "{now} is followed by {next}.")
_FRUIT = ("apples", "carrots", "cherries", "pears", "plums")
_SCENERY: dict[str, Sequence[str]] = {
    "season": words.SEASONS,
    "colour": words.COLOURS,
    "thing": words.THINGS,
    "material": words.MATERIALS,
    "animal": words.ANIMALS,
    "weekday": words.WEEKDAYS,
    "landmark": words.LANDMARKS,
    "place": words.PLACES,
    "count": words.COUNTS,
}


def synth_general(rows: int, seed: int = 0) -> list[str]:
    """Passages of two sentences: facts of the fixed world in about five of six, otherwise small stories.

    Args:
        rows: Passages; those of a smaller number come first in a larger one.
        seed: Which facts are told, in which words, and how the stories go; the facts are the same for every seed.

    Raises:
        DataError: rows < 1.

    >>> synth_general(2, seed=0) == synth_general(3, seed=0)[:2]
    True
    """
    if rows < 1:
        raise DataError(f"rows must be >= 1, got {rows}; 3000 is usual")
    streams = (stream("general", seed, row) for row in range(rows))
    return [f"{_sentence(rng)} {_sentence(rng)}" for rng in streams]


def _sentence(rng: random.Random) -> str:
    topic = draw(12, rng)
    if topic < 4:
        return choose(_COUNTRY, rng).format_map(_COUNTRIES[choose(words.COUNTRIES, rng)])
    if topic < 6:
        return choose(_ANIMAL, rng).format_map(_ANIMALS[choose(words.ANIMALS, rng)])
    if topic < 8:
        return choose(_JOB, rng).format_map(_JOBS[choose(words.JOBS, rng)])
    if topic < 9:
        return choose(_SUM, rng).format_map(_numbers(rng))
    if topic < 10:
        return choose(_CALENDAR, rng).format_map(_days(rng))
    return choose(_STORY, rng).format_map(_scene(rng))


def _numbers(rng: random.Random) -> dict[str, int]:
    low, high = sorted((1 + draw(NUMBERS, rng), 1 + draw(NUMBERS, rng)))
    return {"low": low, "high": high, "sum": low + high, "rest": high - low}


def _days(rng: random.Random) -> dict[str, str]:
    names = choose((words.WEEKDAYS, words.MONTHS), rng)
    at = draw(len(names), rng)
    return {"now": names[at], "next": names[(at + 1) % len(names)]}


def _scene(rng: random.Random) -> dict[str, str]:
    city, town = sample(words.CITIES, 2, rng)
    job, other = sample(words.JOBS, 2, rng)
    scene = {"city": city, "town": town, "job": job, "other": other, "food": choose(_FRUIT, rng)}
    return {**scene, **{name: choose(pool, rng) for name, pool in _SCENERY.items()}}


SENTENCES = _COUNTRY + _ANIMAL + _JOB + _SUM + _CALENDAR + _STORY
"""All of them, with slots: for the closed vocabulary."""
