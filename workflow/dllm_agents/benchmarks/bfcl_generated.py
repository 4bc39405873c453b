"""Generated tool-calling tasks to train on: signatures, requests that name the values, distractors, parallel calls, refusals.

None of their functions bears the name of one of BFCL's, so that what is learnt of them says nothing about the functions that are
evaluated. Judged by BFCL's own checker, with the truth that each task carries.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from random import Random
from typing import Any, NamedTuple

from dllm_agents.benchmarks.bfcl_words import SLOTS, TOPICS, Slot, Topic

CATEGORIES = {"simple": 0.3, "multiple": 0.25, "parallel": 0.13, "parallel_multiple": 0.12, "irrelevance": 0.2}
OPENINGS = ("{}", "Please {}", "Can you {}", "I want to {}", "I need you to {}", "Could you {} for me", "Help me {}", "I'd like to {}")
PREFIX = "generated_"
MENTIONED = 0.35  # share of the optional parameters that a request speaks of


class Wish(NamedTuple):
    """What a person asks of a function, in words, and its arguments."""

    words: str
    arguments: dict[str, Any]


class Tool:
    """A generated function of a topic: its published form, and wishes for it."""

    def __init__(self, topic: Topic, random: Random) -> None:
        verbs, nouns, always, maybe = topic
        self.verb, self.noun = random.choice(verbs.split()), random.choice(nouns.split(";"))
        extra = maybe.split()
        optional = random.sample(extra, random.randrange(len(extra) + 1))
        self.slots: dict[str, Slot] = {}
        self.required: list[str] = []
        for key in [*always.split(), *optional]:
            slot = SLOTS[key]
            name = random.choice(slot.names)
            if name not in self.slots:
                self.slots[name] = slot
                self.required += [name] * (key not in optional or random.random() < 0.25)
        self.name = _name(self.verb, self.noun, random)
        self.declared = self._declaration(random)

    def _declaration(self, random: Random) -> dict[str, Any]:
        properties: dict[str, Any] = {}
        for name, slot in self.slots.items():
            value: dict[str, Any] = {
                "type": slot.type,
                "description": random.choice(slot.descriptions).format(example=slot.draw(random)[0]),
            }
            if slot.items:
                value["items"] = {"type": slot.items}
            if slot.options:
                value["enum"] = list(slot.options)
            if name not in self.required and random.random() < 0.5:
                value["description"] += " Optional."
            properties[name] = value
        verb = self.verb.replace("_", " ")
        description = random.choice(["{} the {}.", "{} the {} for the given parameters.", "{} {} by the given criteria."])
        parameters = {"type": "dict", "properties": properties, "required": self.required}
        return {"name": self.name, "description": description.format(verb.capitalize(), self.noun), "parameters": parameters}

    def wish(self, random: Random) -> Wish:
        """Values for the required parameters and some of the others, and the words that ask for them."""
        arguments: dict[str, Any] = {}
        phrases = []
        for name, slot in self.slots.items():
            if name in self.required or random.random() < MENTIONED:
                arguments[name], spoken = slot.draw(random)
                phrases.append(random.choice(slot.phrases).format(spoken, name=name.replace("_", " ")))
        if random.random() < 0.3:
            random.shuffle(phrases)
        return Wish(" ".join(phrases), arguments)

    def request(self, random: Random) -> str:
        """What to do, without the values."""
        article = random.choice(["the ", "a ", ""]) if not self.noun.endswith("s") else random.choice(["", "some ", "the "])
        return f"{self.verb.replace('_', ' ')} {article}{self.noun}"


def _name(verb: str, noun: str, random: Random) -> str:
    words = re.findall(r"[a-z]+", noun)
    plain = "_".join(words)
    group = words[-1]
    camel = verb.split("_")[0] + "".join(word.capitalize() for word in words)
    forms = (
        f"{verb}_{plain}",
        f"{group}_tools.{verb}_{plain}",
        camel,
        f"{plain}.{verb}",
        f"{plain}_{verb}",
        f"{verb}_{plain}_info",
        f"{group}_api.{verb}",
    )
    return random.choice(forms)


def _tool(random: Random, taken: Collection[str], topics: list[Topic]) -> Tool:
    while True:
        tool = Tool(random.choice(topics), random)
        if tool.name not in taken:
            return tool


def _sentence(text: str, random: Random) -> str:
    text = random.choice(OPENINGS).format(text)
    question = text.startswith(("Can", "Could"))
    return text[0].upper() + text[1:] + ("?" if question else random.choice([".", ".", ""]))


def _entry(kind: str, random: Random, taken: Collection[str]) -> dict[str, Any]:
    right = [_tool(random, taken, TOPICS)]
    if kind == "parallel_multiple":
        for _ in range(random.choice([1, 1, 2])):
            right.append(_tool(random, [*taken, *(tool.name for tool in right)], TOPICS))
    if kind == "parallel":
        wishes = [right[0].wish(random) for _ in range(random.choice([2, 2, 2, 3]))]
        joint = random.choice([" and also ", ", and ", " as well as "]).join(wish.words for wish in wishes)
        question = _sentence(f"{right[0].request(random)} {joint}", random)
        truth = [(right[0].name, wish.arguments) for wish in wishes]
    else:
        wishes = [tool.wish(random) for tool in right]
        pairs = list(zip(right, wishes, strict=True))
        question = " ".join(_sentence(f"{tool.request(random)} {wish.words}".strip(), random) for tool, wish in pairs)
        truth = [(tool.name, wish.arguments) for tool, wish in pairs]
    offered = [] if kind == "irrelevance" else list(right)
    foreign = [topic for topic in TOPICS if not set(topic[1].split(";")) & {tool.noun for tool in right}]
    distractors = {"simple": [0], "parallel": [0, 0, 1]}.get(kind, [1, 1, 2, 3])
    for _ in range(random.choice(distractors)):
        offered.append(_tool(random, [*taken, *(tool.name for tool in offered)], foreign))
    random.shuffle(offered)
    return {
        "question": question,
        "functions": [tool.declared for tool in offered],
        "truth": [] if kind == "irrelevance" else [{name: {key: [value] for key, value in arguments.items()}} for name, arguments in truth],
    }


def entries(count: int, seed: int, taken: Collection[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    """(category, {question, functions, truth}) of `count` tasks, the same for the same seed; no function is named as one `taken`.
    `truth` is BFCL's form of the right calls, [{name: {parameter: [value]}}], empty where nothing offered fits."""
    kinds, shares = list(CATEGORIES), list(CATEGORIES.values())
    for number in range(count):
        random = Random(f"{seed}:generated:{number}")
        kind = random.choices(kinds, shares)[0]
        yield PREFIX + kind, _entry(kind, random, taken)
