"""Generated multi-hop questions: small seeded worlds of facts, one fact a paragraph, and questions that chain 2 to 4 facts.

All worlds share one closed list of names and relations, so that a vocabulary learnt on one world reads every other. They share
no fact with the world that is evaluated: world 0 is the test world, and in every training world each (subject, relation) leads
to another object than in world 0. What was memorised in training is therefore wrong at evaluation; only searching helps.

The module knows nothing of search engines, prompts or agents.
"""

from __future__ import annotations

import itertools
import random
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from typing import NamedTuple

GENERATOR_VERSION = "generated-3"
WORLDS = "generated-2"
"""What worlds and questions are drawn by; version 3 differs in the order of several numbers of hops alone."""
HOPS = (2, 3, 4)
TEST_WORLD = 0


def _names(text: str) -> tuple[str, ...]:
    return tuple(text.split())


def _compounds(heads: str, tails: str) -> tuple[str, ...]:
    return tuple(head + tail for head, tail in itertools.product(heads.split(), tails.split()))


PEOPLE = _names(
    """Adela Agnes Alaric Albin Alma Amir Anders Anouk Anton Ariel Arvid Astrid Basil Beatrix Bela Boris Bruno Camila Cecil Clara Cosmo
    Cyril Dagmar Darius Delia Dmitri Dora Edgar Edith Egon Elias Elsa Emeric Enzo Esther Fabian Farid Felix Fergus Fiona Freya
    Gideon Gilda Greta Gustav Hamid Hannah Hector Helga Henrik Hilda Hugo Ida Igor Imogen Ingrid Irma Isolde Ivan Jarek Jasper Joana
    Jonas Judith Kamil Karin Katya Kenji Klaus Lara Leif Lena Leon Linus Lotte Lucian Magda Marek Mathis Mila Milan Mira Nadia Nils
    Noemi Olaf Olga Oskar Otto Pavel Petra Quentin Ramona Rosa Rufus Sabine Selma Sigrid Stefan Tamar Tilda Tobias Ulrich Vera Viggo
    Wanda Xenia Yusuf Zelda Zora"""
)
CITIES = _compounds("Ash Bram Cor Dun Elm Fen Gar Hol", "brook dale gate haven mouth stead")
COMPANIES = _compounds("Acor Beli Cinta Dexi Eno Fluo Gala Huxo", "corp dyne labs soft tex works")
FILMS = _names(
    """Afterglow Avalanche Backwater Blackbird Bonfire Cascade Crossroad Daybreak Driftwood Echoes Eclipse Embers Farewell Firefly
    Foghorn Frostbite Gaslight Glasshouse Harvest Headwind Hideaway Homecoming Icebreaker Ironwood Jackdaw Kingfisher Landslide
    Lighthouse Masquerade Midwinter Moonrise Nightfall Northstar Outpost Overture Pinwheel Quicksand Rainmaker Riverbend Sandstorm
    Skylark Solstice Starling Thunder Tidewater Undertow Wildfire Windmill"""
)
COUNTRIES = _names(
    """Abrenia Balvaria Cordova Dravonia Estalia Florania Grenovia Helvania Istria Jorvania Kaldavia Lorania Marovia Norvania Ostrania
    Pelagia Quillia Ravonia Sylvania Tolmeria Urbania Valdoria Westalia Zembria"""
)
ENTITIES = {"person": PEOPLE, "city": CITIES, "company": COMPANIES, "film": FILMS, "country": COUNTRIES}
# relation -> (type of the subject, type of the object)
RELATIONS = {
    "mother": ("person", "person"),
    "teacher": ("person", "person"),
    "birthplace": ("person", "city"),
    "employer": ("person", "company"),
    "mayor": ("city", "person"),
    "country": ("city", "country"),
    "founder": ("company", "person"),
    "headquarters": ("company", "city"),
    "director": ("film", "person"),
    "composer": ("film", "person"),
}


class Fact(NamedTuple):
    """One hop: the `relation` of `subject` is `object`."""

    subject: str
    relation: str
    object: str

    @property
    def text(self) -> str:
        return f"The {self.relation} of {self.subject} is {self.object}."

    @property
    def query(self) -> str:
        return f"{self.relation} of {self.subject}"


class Question(NamedTuple):
    """A chain of facts: each hop's object is the next one's subject; the last object is the answer."""

    hops: tuple[Fact, ...]

    @property
    def text(self) -> str:
        chain = " of the ".join(hop.relation for hop in reversed(self.hops))
        return f"What is the {chain} of {self.hops[0].subject}?"

    @property
    def answer(self) -> str:
        return self.hops[-1].object


@cache
def facts(seed: int, world: int, names: int | None = None) -> dict[tuple[str, str], Fact]:
    """All facts of a world by (subject, relation), over the first `names` names of each kind (None: all); a relation leads to its objects
    about equally often. Same seed and world, same facts; no fact of a world > 0 is in world 0."""
    generator = random.Random(f"{WORLDS}/{seed}/{world}")
    evaluated = facts(seed, TEST_WORLD, names) if world != TEST_WORLD else {}
    by_key: dict[tuple[str, str], Fact] = {}
    for relation, (subject_type, object_type) in RELATIONS.items():
        used: Counter[str] = Counter()
        for subject in ENTITIES[subject_type][:names]:
            barred = {subject, evaluated[subject, relation].object} if evaluated else {subject}
            open_names = [name for name in ENTITIES[object_type][:names] if name not in barred]
            chosen = min(open_names, key=lambda name: (used[name], generator.random()))
            used[chosen] += 1
            by_key[subject, relation] = Fact(subject, relation, chosen)
    return by_key


def paragraphs(seed: int, world: int, names: int | None = None) -> list[tuple[str, str]]:
    """The world's corpus as (title, text), one fact a paragraph, in an order that says nothing."""
    corpus = [(fact.subject, fact.text) for fact in facts(seed, world, names).values()]
    random.Random(f"{WORLDS}/order/{seed}/{world}").shuffle(corpus)
    return corpus


def questions(
    seed: int,
    world: int,
    count: int,
    search: Callable[[str], list[str]],
    names: int | None = None,
    hops: Sequence[int] = HOPS,
    answers: Counter[str] | None = None,
) -> list[Question]:
    """`count` distinct questions of a world, as many of each number of `hops`. These come in another order every time, so that what takes
    turns over questions (ways to teach them, delays, parts of a run) meets every number. The name that was least often the answer is the
    next one, so that none is rare; `answers` counts them over several worlds.

    `search` gives the texts that a query finds. A question is kept only if no set of searches written from its own words finds
    every hop, so that the bridges have to be found one after the other. Raises ValueError when the world holds fewer questions.
    """
    generator = random.Random(f"{WORLDS}/questions/{seed}/{world}")
    order = random.Random(f"{WORLDS}/hops/{seed}/{world}")
    lengths = [length for _ in range(0, count, len(hops)) for length in order.sample(hops, len(hops))]
    leading: dict[str, list[Fact]] = {}
    for fact in facts(seed, world, names).values():
        leading.setdefault(fact.object, []).append(fact)
    waiting = {length: list(leading) for length in hops}
    chains: dict[tuple[int, str], list[tuple[Fact, ...]]] = {}
    drawn: list[Question] = []
    answers = Counter() if answers is None else answers
    while len(drawn) < count:
        length = lengths[len(drawn)]
        if not waiting[length]:
            raise ValueError(f"a world holds only {len(drawn)} questions of the {count} asked for")
        name = min(waiting[length], key=lambda name: (answers[name], generator.random()))
        if (length, name) not in chains:
            every = list(_chains(leading, name, length))
            chains[length, name] = generator.sample(every, len(every))
        if not chains[length, name]:
            waiting[length].remove(name)
        elif not found_at_once(question := Question(chains[length, name].pop()), search):
            drawn.append(question)
            answers[name] += 1
    return drawn


def queries_from_question(question: Question) -> list[str]:
    """Every search that can be written from the question's own content words: all their non-empty subsets."""
    words = [hop.relation for hop in question.hops] + [question.hops[0].subject]
    return [" ".join(subset) for size in range(1, len(words) + 1) for subset in itertools.combinations(words, size)]


def found_at_once(question: Question, search: Callable[[str], list[str]]) -> bool:
    """Whether searches from the question's own words, taken together, find every hop."""
    missing = {hop.text for hop in question.hops}
    for query in queries_from_question(question):
        missing.difference_update(search(query))
    return not missing


def _chains(leading: dict[str, list[Fact]], entity: str, length: int, end: tuple[Fact, ...] = ()) -> Iterator[tuple[Fact, ...]]:
    """Every chain of `length` facts that leads to an entity, before what follows it, in which no entity and no relation comes twice."""
    if not length:
        yield end
        return
    relations, met = {fact.relation for fact in end}, {fact.object for fact in end} | {entity}
    for fact in leading.get(entity, ()):
        if fact.relation not in relations and fact.subject not in met:
            yield from _chains(leading, fact.subject, length - 1, (fact, *end))
