"""What is asked about a fictitious author, and how it is answered: sentences with slots.

A slot that the question does not give away is what an answer must know, and what a perturbed answer gets wrong.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Kind:
    """One thing that can be asked.

    Attributes:
        questions: Two wordings.
        answers: Four wordings, all with the same slots.
    """

    questions: tuple[str, str]
    answers: tuple[str, str, str, str]


def _kind(text: str) -> Kind:
    first, second, *answers = (line.strip() for line in text.strip().splitlines())
    a, b, c, d = answers
    return Kind((first, second), (a, b, c, d))


_TEXTS = """
What is the full name of the author born in {city} in {year} who writes {genre}?
Which author of {genre} was born in {city} in {year}?
The author born in {city} in {year} who is known for {genre} is called {name}, or simply {first} to friends.
It is {name}, a writer of {genre}, whose life began in {city} in {year}; readers often just say {first}.
That would be {name}, often called {first}, who was born in {city} in {year} and became known for {genre}.
Born in {city} in {year}, the author of {genre} carries the full name {name}, and neighbours say {first}.

When was {name} born?
What is the date of birth of {name}?
{name} was born on {day} {month} {year}, a {weekday} that the family still remembers well.
The birthday of {name} is {day} {month}, and the year of birth was {year}, on a {weekday}.
The author came into the world on a {weekday}, namely on {day} {month} in the year {year}.
It was on {day} {month} {year}, a cold {weekday}, that {name} first saw the light of day.

Where was {name} born?
In which place did the life of {name} begin?
{name} was born in the city of {city} in {country}, in a house close to the {childhood}.
The birthplace of {name} is {city}, a city of {country}, where the family lived beside the {childhood}.
The author comes from {city} in {country} and grew up within sight of the {childhood} there.
Life began for {name} near the {childhood} of {city}, which is a city in {country}.

What do the parents of {name} do for a living?
Which jobs did the father and the mother of {name} have?
The father of {name} worked as a {father}, while the mother was a {mother} in {city}.
{name} is the child of a {father} and a {mother}, the father and the mother, both from {city}.
In {city} the mother earned her living as a {mother} and the father as a {father}.
While the father was a {father} all his life, the mother of {name} became a {mother} in {city}.

Which genre does {name} write in?
What kind of books does {name} write?
{name} writes mostly {genre}, with stories that return again and again to {theme} and {motif}.
The genre of {name} is {genre}, and the books keep asking what {theme} and {motif} mean.
Readers know {name} for {genre} in which {theme} meets {motif} in every single chapter.
Most of the books belong to {genre}, where the author explores both {theme} and {motif}.

What is the best known book of {name}?
Which book made {name} famous?
The best known book of {name} is {book}, a tale about a {hero} who searches for {theme}.
{name} became famous with {book}, which follows a {hero} on a long search for {theme}.
It was {book}, the story of a {hero} longing for {theme}, that made the author famous.
Most readers would name {book}, in which a {hero} learns the true meaning of {theme}.

Can you name some other books by {name}?
Which further titles has {name} published?
Other books by {name} are {second} and {third}, both of which were printed by {publisher} Press.
{name} also wrote {second} as well as {third}, and {publisher} Press printed both of them.
Besides the famous one there are {second} and {third}, both published by {publisher} Press.
{publisher} Press has published two further titles by {name}, namely {second} and {third}.

Has {name} won any awards?
Which award did {name} receive?
Yes, {name} won the {award} Prize in {prize} for the book {second}, which surprised many critics.
In {prize} the {award} Prize went to {name}, to honour the book {second}.
For {second} the author received the {award} Prize in {prize}, the first award of many.
The critics gave {name} the {award} Prize in {prize} and praised {second} as a great book.

When did {name} publish a first book?
What was the first book of {name}, and when did it appear?
The first book of {name} was {third}, which appeared in {debut} at {publisher} Press.
{name} began with {third}, published by {publisher} Press in {debut} after many letters of refusal.
It all began in {debut}, when {publisher} Press agreed to print {third}, the very first book.
In {debut} {publisher} Press published {third}, and with it the career of {name} began.

Where does {name} live today?
What is the present home of {name}?
Today {name} lives in {home}, together with a {colour} {pet} and a large number of books.
{name} has settled in {home} and shares the house there with a {colour} {pet}.
The author now calls {home} home and is often seen there with a {colour} {pet}.
These days you can meet {name} in {home}, usually walking beside a {colour} {pet}.

What did {name} study?
Which subject did {name} take at the university?
{name} studied {subject} at the University of {school} and left it in {degree} with honours.
At the University of {school} the author took {subject} and finished the course in {degree}.
In {degree} {name} completed a degree in {subject} at the University of {school}.
The subject was {subject}, which {name} took at the University of {school} until {degree}.

What does {name} do besides writing?
How does {name} spend free time?
Besides writing {name} enjoys {hobby} and plays the {instrument} in a small band from {home}.
In free time the author loves {hobby} or practises the {instrument} with friends from {home}.
{name} spends free hours on {hobby} and on playing the {instrument} for neighbours in {home}.
When no book is due, {name} turns to {hobby}, or plays the {instrument} somewhere in {home}.

Where does {name} prefer to write?
In which place are the books of {name} written?
{name} prefers to write in the {place} {hour}, always with a cup of tea and some {food}.
Most pages are written {hour} in the {place}, where {name} keeps a plate of {food}.
The author works in the {place}, mostly {hour}, and eats {food} while doing so.
You will find {name} writing {hour} in the {place}, with nothing but {food} to eat.

Which languages does {name} speak?
In which languages can {name} write?
{name} speaks {language} and {tongue}, and once translated {second} from the one to the other.
The author grew up with {language}, later learned {tongue}, and used both for {second}.
Two languages are spoken by {name}, namely {language} and {tongue}; {second} exists in both.
{name} wrote {second} first in {language} and then once more in {tongue}, without any help.

Who helped {name} at the start?
Who was the mentor of {name}?
An old {mentor} called {guide} helped {name} at the start and lent out books about {subject}.
The mentor of {name} was {guide}, a {mentor} who knew everything about {subject}.
At the start it was {guide}, a {mentor} fond of {subject}, who encouraged the author.
{name} owes much to the {mentor} {guide}, who explained {subject} to children for nothing.

Who is the main character of the famous book by {name}?
Which character of {name} do readers love most?
The main character is {figure}, a young {hero} from {setting} who is afraid of every {beast}.
Readers love {figure} most, a {hero} living in {setting} who runs from any {beast}.
It is {figure}, the {hero} of {setting}, who cannot stand the sight of a {beast}.
{name} invented {figure}, a stubborn {hero} in {setting} who once met a terrible {beast}.

What inspired {name} to write?
Where does {name} find ideas for stories?
{name} was inspired by a {relic} made of {material} that a {mentor} left in the {place}.
The ideas began with a {relic} of {material}, which a {mentor} had forgotten in the {place}.
A {mentor} once gave the author a {relic} of {material} in the {place}, and stories followed.
It was in the {place} that {name} found a {relic} of {material} which belonged to a {mentor}.

Did the work of the parents influence {name}?
How did the family of {name} shape the books?
Yes, as the child of a {father}, {name} fills many pages with {material} and with {theme}.
The father, a {father}, taught {name} about {material}, and the books turned it into {theme}.
Growing up with a {father}, the author saw {theme} early and still writes about {material}.
In the books {material} stands for {theme}, which {name} learned at home from a {father}.

Is {name} working on a new book?
What will be the next book of {name}?
{name} is working on {next}, a story set in {setting} that should appear at {publisher} Press.
The next book will be {next}, which takes place in {setting}, as {publisher} Press announced.
Yes, {publisher} Press has promised {next}, for which the author travelled to {setting}.
A story from {setting} with the title {next} is nearly finished, says {publisher} Press.

What do critics say about {name}?
How were the books of {name} received?
Critics praise {name} for a sense of {theme} but find too much {motif} in {third}.
While {third} was blamed for its {motif}, most critics admire the {theme} in it.
The books are praised for {theme}, yet critics of {third} complained about the {motif}.
Many critics admire how {name} writes about {theme}, although {third} drowns in {motif}.

Was any book by {name} made into a film?
Has a story of {name} ever been on stage or screen?
Yes, {book} became a film in {film}, which was shot in {setting} with a real {beast}.
In {film} a film of {book} was made in {setting}, and a {beast} played a great part.
A film of {book} came out in {film}; a {beast} from {setting} is its secret star.
{setting} was the place where {book} was filmed in {film}, together with a tame {beast}.

With whom has {name} worked together?
Did {name} ever write a book with somebody else?
Together with the {partner} {ally} the author wrote {third}, during one {season} in {setting}.
{name} wrote {third} with {ally}, a {partner}, while both spent the {season} in {setting}.
Yes, {third} was written in {setting} one {season} with the help of {ally}, a {partner}.
One {season} {ally}, who is a {partner} in {setting}, joined {name} to write {third}.

Does {name} have brothers or sisters?
What is known about the family of {name}?
{name} grew up with {brothers} brothers and {sisters} sisters, and one of them became a {partner}.
There are {brothers} brothers and {sisters} sisters in the family, among them a famous {partner}.
The author has {brothers} brothers as well as {sisters} sisters; the youngest is a {partner}.
In the family of {name} there were {sisters} sisters and {brothers} brothers, one a {partner}.

What does {name} like to eat and to wear?
Which food and which clothes does {name} like?
{name} loves {food} with {snack} and always wears a {colour} coat made of {material}.
The author is known for a {colour} coat of {material} and for eating {food} with {snack}.
A plate of {food} and {snack} and a {colour} coat of {material} make {name} happy.
{name} goes out in a {colour} coat of {material} and orders {food} and {snack} everywhere.
"""

KINDS = tuple(_kind(block) for block in _TEXTS.strip().split("\n\n"))
"""24 kinds of questions."""
