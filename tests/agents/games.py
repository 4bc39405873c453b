"""Workflows of modules of their own, played by scripted backbones in a world that the test lays out."""

import threading
from collections import defaultdict

from dllm_agents.agents import workflows
from dllm_agents.agents.game import Game
from dllm_agents.agents.recording import Recording
from dllm_agents.benchmarks.multihop_qa import SearchEnvironment
from dllm_agents.benchmarks.search import Passage
from dllm_agents.client.client import Completion
from dllm_agents.config import Agent
from dllm_agents.config.roles import WORKFLOWS
from dllm_agents.records import Task


class Scripted:
    """Backbones that give the listed replies of their role in turn, the last one for ever; what they were asked is kept, role by role. A
    reply is text, a Completion, or a function of the prompt."""

    def __init__(self, **replies):
        self.replies = {role: list(said) for role, said in replies.items()}
        self.prompts, self.messages, self.lock = defaultdict(list), defaultdict(list), threading.Lock()

    def complete(self, role):
        if role not in self.replies:
            return None

        def ask(messages, *, seed, constraint=None):
            with self.lock:
                said = self.replies[role]
                reply = said[min(len(self.prompts[role]), len(said) - 1)]
                prompt = "\n".join(message["content"] for message in messages)
                self.prompts[role].append(prompt)
                self.messages[role].append(messages)
            reply = reply(prompt) if callable(reply) else reply
            return reply if isinstance(reply, Completion) else answer(reply)

        return ask

    def stream(self, role):
        def ask(messages, *, seed, turn, constraint=None):
            yield self.complete(role)(messages, seed=seed)

        return ask


def answer(text, finish_reason="stop", confidence=None, tokens=2):
    return Completion(text, 3, tokens, tokens, 0.0, finish_reason, confidence=confidence)


class World:
    """A search engine of given passages: query -> passages; an exception is raised, a function is called."""

    def __init__(self, **known):
        self.known, self.asked = known, []

    def search(self, query, k):
        self.asked.append(query)
        for words, result in self.known.items():
            if all(word in query for word in words.split("_")):
                result = result() if callable(result) else result
                if isinstance(result, Exception):
                    raise result
                return [Passage(f"T{number}", text) for number, text in enumerate([result] if isinstance(result, str) else result, 1)][:k]
        return []

    def document(self, link):
        return None


def question(goal="Where was the mother of Ann born?", answers=("Oslo",), hops=()):
    data = {"set": "x", "answers": list(answers), "hops": [{"title": title, "text": text, "query": title} for title, text in hops]}
    return Task(id="t", benchmark="multihop_qa", split="test", category="x", seed=0, version="v", goal=goal, data=data)


def game(workflow, backbones, world=None, task=None, *, learnt=None, dialect=None, options=None, style="react", max_tokens=None, **keys):
    """A game of a search workflow."""
    task = task or question()
    return Game(
        workflow,
        task,
        None,
        SearchEnvironment(task, world or World(), 10),
        Recording(backbones, max_tokens),
        Agent(policy="m", **keys),
        style,
        1,
        WORKFLOWS[workflow].options | (options or {}),
        learnt,
        dialect,
    )


def play(workflow, backbones, world=None, task=None, **settings):
    """(outcome, calls) of a search workflow."""
    played = game(workflow, backbones, world, task, **settings)
    return played.play(workflows.load(workflow).play), played.roles.in_order()


def stages(outcome):
    return [step.stage for step in outcome.steps]
