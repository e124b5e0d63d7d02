"""The words of the synthetic corpora, and draws of them that are the same on every machine.

Every noun that may follow "a" begins with a consonant, so no template has to choose between "a" and "an".
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Sequence
from typing import TypeVar

T = TypeVar("T")


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


def _listed(text: str) -> tuple[str, ...]:
    return tuple(text.split(", "))


FIRST_NAMES = _words(
    "Adela Anselm Basia Bertil Calla Cosmo Dagny Dario Edda Emeric Fenna Florin Greta Gustav Hana Hector Ilse Ivo "
    "Jorun Jasper Kaia Kester Lidia Lorenz Maren Milo Nadia Nestor Odile Orson Petra Pascal Quilla Quentin Runa "
    "Rufus Sanna Silas Tamsin Tobias Ursa Ulric Vera Valdis Wanda Wendel Xenia Xander Yrsa Yannick Zelda Zoran"
)
LAST_NAMES = _words(
    "Abelard Almgren Barrow Bexley Birkin Castell Corvin Dalgard Delacour Dunmore Eastlake Ekstrom Falk Farrow "
    "Fontaine Galloway Grimaldi Hallam Hartwig Holloway Ingram Iversen Jansson Jarrow Keswick Kovar Lambert "
    "Lindqvist Lockwood Marchetti Merrow Moravec Nakata Norling Oakden Okoro Osgood Pellegrin Pryce Quarles Ravn "
    "Redfern Rossiter Sandoval Selwyn Storm Tallis Thorne Tremaine Underhill Vasko Verhoef Vogler Wainwright "
    "Whitlock Winslow Yardley Yusupov Zabala Zeller"
)
COUNTRIES = _words(
    "Arvania Belmora Cordesia Dravina Estoria Fenland Galdor Hestria Istmark Jorvia Keldonia Lumera Morvania "
    "Nordesk Ostrava Pellaria Quorin Rusvenia Solmark Tarvia"
)
CITIES = _words(
    "Alder Anrath Bramford Brisk Calden Corrin Dunvale Dorsk Elmstad Eskar Fairhaven Ferrol Garmund Grens Halden "
    "Hovik Imber Irva Jasmund Jorn Kestrel Kalmar Lanmoor Lisk Marbeck Montfar Nareth Nivern Olden Orsk Penwick "
    "Porth Quell Quint Ravenna Rosk Selby Stannis Talmire Turov"
)
"""Two of each country, its capital first; see `general.COUNTRY_OF`."""
MONTHS = _words("January February March April May June July August September October November December")
WEEKDAYS = _words("Monday Tuesday Wednesday Thursday Friday Saturday Sunday")
JOBS = _words(
    "baker barber brewer builder butcher carpenter clerk cobbler cook dentist diver doctor farmer fisherman florist "
    "gardener glazier hunter jeweller judge librarian locksmith mason mechanic midwife miner miller nurse painter "
    "pharmacist pilot plumber potter printer sailor shepherd surgeon tailor teacher watchmaker weaver welder"
)
GENRES = _listed(
    "adventure, biography, comedy, crime, drama, fables, fantasy, folklore, ghost stories, history, horror, "
    "legends, memoir, mystery, mythology, poetry, romance, satire, science fiction, travel"
)
TITLE_ADJECTIVES = _words(
    "Amber Ancient Bitter Blind Borrowed Broken Burning Crimson Distant Drowned Empty Fading Forgotten Frozen "
    "Gentle Golden Hidden Hollow Iron Last Lonely Lost Midnight Narrow Painted Pale Quiet Restless Scarlet Secret "
    "Seventh Silent Silver Sleeping Stolen Tangled Velvet Wandering Wild Winter"
)
TITLE_NOUNS = _words(
    "Anchor Arrow Ashes Balcony Bell Bridge Candle Castle Cathedral Clock Compass Crown Desert Echo Ember Feather "
    "Ferry Forest Garden Gate Glacier Harbour Hourglass Island Key Kingdom Ladder Lantern Letter Lighthouse Map "
    "Mask Meadow Mirror Moon Mountain Orchard Palace Parade Promise Rain Raven River Rope Rose Sail Shadow Shore "
    "Song Sparrow Stair Station Stone Storm Thread Tower Valley Violin Window Wolf"
)
AWARDS = _words(
    "Acorn Beacon Chalice Falcon Laurel Marble Meridian Nightingale Opal Pegasus Quill Sapphire Topaz Zenith"
)
THEMES = _words(
    "ambition betrayal courage desire duty exile faith family fear forgiveness freedom friendship greed grief guilt "
    "honour hope identity jealousy justice loneliness love loyalty memory migration poverty pride rebellion "
    "sacrifice silence solitude survival time trust truth vengeance war wonder youth"
)
HOBBIES = _listed(
    "archery, baking bread, bird watching, chess, climbing, cycling, dancing, fencing, fishing, juggling, knitting, "
    "mountain walking, photography, pottery, rowing, sailing, skating, star gazing, swimming, wood carving"
)
INSTRUMENTS = _words("banjo cello clarinet drum fiddle flute guitar harp piano trumpet")
LANGUAGES = _words("Arvanic Bessic Cordian Drav Estish Fenic Galdic Hestish Jorvic Keldic Lumeran Morvan Nordic Tarvic")
ANIMALS = _words(
    "badger bear beaver camel cat cow crow dog dolphin duck fox frog goat goose hare hawk hen horse lizard mole"
)
HOMES = _words("barn burrow cave desert field forest garden hill lake marsh meadow pond river sea stable village")
FOODS = _words(
    "apples bread carrots cheese cherries dumplings figs fish grass honey insects lentils mice mushrooms noodles "
    "nuts pancakes pears plums porridge rice seeds soup worms"
)
COLOURS = _words("black blue brown green grey orange pink purple red white yellow")
MATERIALS = _words(
    "bronze clay cloth copper cotton flour glass gold leather linen paper silk steel stone wax wood wool"
)
THINGS = _words(
    "basket blanket boat book bottle bowl box button chair coat cup door hat jar kettle key knife lamp letter plate "
    "ring rope shirt shoe spoon table tool wheel"
)
PLACES = _listed(
    "attic, back garden, bakery, boathouse, cellar, city library, corner cafe, hotel lobby, kitchen, night train, "
    "old mill, railway station, small cabin, town square, tower room, university hall"
)
LANDMARKS = _words("bridge castle cathedral harbour library lighthouse market museum palace park school theatre tower")
COUNTS = _words("two three four five six seven eight")
SUBJECTS = _words(
    "architecture astronomy botany chemistry economics engineering geography geology law linguistics mathematics "
    "medicine music philosophy physics theology"
)
PUBLISHERS = _words(
    "Aurora Bluebird Cedar Driftwood Evergreen Foxglove Granite Harvest Juniper Kingfisher Larkspur Willow"
)
SEASONS = _words("spring summer autumn winter")
HOURS = _listed(
    "at dawn, before breakfast, after lunch, at dusk, late at night, on Sundays, during long winters, in early "
    "spring, on rainy days, between two trains"
)
DAYS = tuple(str(day) for day in range(1, 29))
YEARS = tuple(str(year) for year in range(1920, 2020))
POOLS: tuple[Sequence[str], ...] = (
    (FIRST_NAMES, LAST_NAMES, COUNTRIES, CITIES, MONTHS, WEEKDAYS, JOBS, GENRES, TITLE_ADJECTIVES, TITLE_NOUNS, AWARDS)
    + (THEMES, HOBBIES, INSTRUMENTS, LANGUAGES, ANIMALS, HOMES, FOODS, COLOURS, MATERIALS, THINGS, PLACES, LANDMARKS)
    + (COUNTS, SUBJECTS, PUBLISHERS, SEASONS, HOURS, DAYS, YEARS)
)
"""All of them: with the words of the sentences, the closed vocabulary."""


def stream(*key: object) -> random.Random:
    """Random numbers that only the key decides, on every machine and in every version of Python.

    >>> draw(10, stream(0, "city")) == draw(10, stream(0, "city"))
    True
    """
    text = "\x1f".join(str(part) for part in key).encode()
    return random.Random(int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "big"))


def draw(count: int, rng: random.Random) -> int:
    """A number in [0, count); from `random()` alone, the one method whose values Python promises to keep."""
    return int(rng.random() * count)


def choose(values: Sequence[T], rng: random.Random) -> T:
    """One of `values`."""
    return values[draw(len(values), rng)]


def sample(values: Sequence[T], count: int, rng: random.Random) -> list[T]:
    """`count` different ones of `values` in random order."""
    rest = list(values)
    return [rest.pop(draw(len(rest), rng)) for _ in range(count)]
