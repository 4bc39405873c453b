"""Planner, seekers, writer (DLLM Agent, after DeepDiver): a planner decomposes the question, seekers search for its steps side by side, and
a writer answers from what they found.

Of the paper only the abstract is public, so the protocol and the definitions below are this project's own: a plan is a list of
sub-questions in which `#k` stands for the answer of step k; after each round the planner sees the findings and plans again, until
its plan is empty or the rounds are used up.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import NamedTuple

from dllm_agents import prompts
from dllm_agents.agents.policy import Complete, CompletionLike, EpisodeLimit, Message, add_usage, ending_of, step_cost
from dllm_agents.agents.react import MAX_COMPLETION_CHARACTERS, Played, call_seed
from dllm_agents.agents.search import whole_text
from dllm_agents.benchmarks.base import Environment
from dllm_agents.benchmarks.qa_accuracy import answer_words, contains_words, normalise
from dllm_agents.benchmarks.search_reply import Reply, answer_text, parse_reply, reply_text, tool_call
from dllm_agents.client.client import Completion, PromptTooLong
from dllm_agents.records import Ending, EpisodeStep, Task

MAX_PLAN_STEPS = 6
MAX_PLAN_CHARACTERS = 4_096
MAX_STEP_CHARACTERS = 300
NO_PLAN, PLAN_FORMAT_ERROR, PLAN_REFERENCE_ERROR = "no plan", "plan format error", "plan reference error"
_REFERENCE = re.compile(r"#(\d{1,2})")
_SMALL_WORDS = frozenset(["of", "in", "at", "by", "is", "was", "who", "what", "where", "when", "which", "whose", "for", "to"])


@dataclass(frozen=True)
class Roles:
    """The backbones of the workflow; one may play several roles."""

    planner: Complete
    seeker: Complete
    writer: Complete


class Finding(NamedTuple):
    """What a seeker found out: its sub-question, references filled in, and the answer, or None."""

    question: str
    answer: str | None


@dataclass
class _Search:
    """One seeker's work on one step of a plan."""

    question: str
    steps: list[EpisodeStep] = field(default_factory=list)
    completions: list[CompletionLike] = field(default_factory=list)
    answer: str | None = None


def play(
    environment: Environment,
    task: Task,
    roles: Roles,
    *,
    style: str,
    max_rounds: int = 3,
    seeker_turns: int = 3,
    seekers: int = 4,
    seed: int = 42,
) -> Played:
    """Play a question. `environment` must bear searches from several threads at once. Every step is labelled with its stage: plan,
    search or write. A first reply without a readable plan ends the episode; a later one ends the planning."""
    played = Played(initial_observation=environment.reset())
    plans: list[list[str]] = []
    asked: list[list[str]] = []
    findings: list[Finding] = []
    coverage: list[float] = []
    failure = None
    ended: Ending | None = None
    try:
        for number in range(max_rounds):
            plan = _plan(task, roles.planner, style, findings, played, call_seed(seed, task, number, 0))
            if isinstance(plan, str) or not plan:
                failure = plan if isinstance(plan, str) and not plans else None
                break
            plans.append(plan)
            found = _carry_out(environment, task, plan, roles.seeker, style, seeker_turns, seekers, played, seed + 1000 * (number + 1))
            asked.append([finding.question for finding in found])
            findings += found
            coverage.append(played.steps[-1].progress)
        if failure is None:
            _write(environment, task, roles.writer, style, findings, played, call_seed(seed, task, max_rounds, 0))
    except (EpisodeLimit, PromptTooLong) as stop:
        ended = ending_of(stop)
    _finish(environment, task, played, plans, asked, coverage, failure)
    played.ended = ended or played.ended
    return played


def parse_plan(text: str) -> tuple[str, list[str]] | str:
    """(thought, steps) of a planner's reply, or the name of its failure. An empty list says that nothing is missing.
    Bounded: at most 6 steps of 300 characters; a step refers to earlier ones only."""
    if not text.strip():
        return "empty output"
    _, opened, rest = text[: 4 * MAX_COMPLETION_CHARACTERS].partition("<plan>")
    if not opened:
        return NO_PLAN
    body, closed, _ = rest.partition("</plan>")
    if not closed or len(body) > MAX_PLAN_CHARACTERS:
        return PLAN_FORMAT_ERROR
    try:
        steps = json.loads(body)
    except (ValueError, RecursionError):
        return PLAN_FORMAT_ERROR
    if not isinstance(steps, list) or len(steps) > MAX_PLAN_STEPS:
        return PLAN_FORMAT_ERROR
    if not all(isinstance(step, str) and step.strip() and len(step) <= MAX_STEP_CHARACTERS for step in steps):
        return PLAN_FORMAT_ERROR
    if any(not 1 <= reference <= index for index, step in enumerate(steps) for reference in references(step)):
        return PLAN_REFERENCE_ERROR
    thought = text.partition("<think>")[2].partition("</think>")[0].strip()
    return thought, [step.encode("utf-8", "ignore").decode().strip() for step in steps]


def references(step: str) -> list[int]:
    """The numbers of the steps, from 1, whose answers a step needs."""
    return [int(number) for number in _REFERENCE.findall(step)]


def levels(plan: Sequence[str]) -> list[list[int]]:
    """Indices of the plan's steps in the order they can be carried out: those of one level wait for no other of it."""
    depth: list[int] = []
    for step in plan:
        depth.append(1 + max((depth[reference - 1] for reference in references(step)), default=-1))
    return [[index for index, own in enumerate(depth) if own == level] for level in range(max(depth, default=-1) + 1)]


def fill(step: str, answers: Sequence[str | None]) -> str | None:
    """A step with the answers in place of its references; None when one of them was not found."""
    if any(answers[reference - 1] is None for reference in references(step)):
        return None
    return _REFERENCE.sub(lambda match: answers[int(match[1]) - 1] or "", step)


def reference_plan(task: Task) -> list[str]:
    """The gold plan of a question whose gold hops are known: one step per hop, bridges as references."""
    hops = task.data["hops"]
    steps = [hops[0]["query"]] if hops else []
    for number, hop in enumerate(hops[1:], 1):
        # In a generated chain each hop's subject is the answer of the hop before; published sets give titles only.
        steps.append(hop["query"].replace(hop["title"], f"#{number}") if hop["text"] else hop["query"])
    return steps


def covered_hops(plan: Sequence[str], task: Task) -> list[int | None]:
    """For each step of a plan, the gold hop it asks for: the first that is still free and all of whose content words the step
    has, once its references stand for what the steps they name would truly find."""
    hops = task.data["hops"]
    objects = [hop["title"] for hop in hops[1:]] + task.data["answers"][:1]
    covered: list[int | None] = []
    for step in plan:
        told = [objects[hop] if hop is not None else "" for hop in covered]
        words = _content_words(_REFERENCE.sub(lambda match, told=told: told[int(match[1]) - 1], step))  # type: ignore[misc]
        free = (hop for hop in range(len(hops)) if hop not in covered and _content_words(hops[hop]["query"]) <= words)
        covered.append(next(free, None))
    return covered


def planner_hit(plan: Sequence[str], task: Task) -> bool:
    """Whether a plan covers every gold hop with one step per hop: the planner hit rate is the share of first plans that do."""
    hops = len(task.data["hops"])
    return hops > 0 and len(plan) == hops and None not in covered_hops(plan, task)


def backtracks(asked: Sequence[Sequence[str]], task: Task) -> int:
    """Sub-questions of later rounds that go back: they ask again what an earlier round has asked, or for a gold hop it has covered."""
    count, known, hops = 0, set[str](), set[int]()
    for questions in asked:
        covered = covered_hops(questions, task)
        count += sum(normalise(question) in known or hop in hops for question, hop in zip(questions, covered, strict=True))
        known |= set(map(normalise, questions))
        hops |= {hop for hop in covered if hop is not None}
    return count


def _content_words(text: str) -> set[str]:
    return set(normalise(text).split()) - _SMALL_WORDS


def _plan(task: Task, planner: Complete, style: str, findings: Sequence[Finding], played: Played, seed: int) -> list[str] | str:
    """The next plan, or the name of the reply's failure."""
    completion = planner(_asks(style, "planner.j2", task, findings), seed=seed)
    add_usage(played.usage, "planner", completion)
    read = parse_plan(completion.text)
    step = _step("plan", completion, progress=_progress(played))
    if isinstance(read, str):
        played.steps.append(_numbered(played, step, valid=False, error=read))
        return read
    thought, plan = read
    played.steps.append(_numbered(played, step, thought=thought, action=plan_text(plan)))
    return plan


def _asks(style: str, template: str, task: Task, findings: Sequence[Finding]) -> list[Message]:
    return [{"role": "user", "content": prompts.render(style, template, goal=task.goal, findings=findings)}]


def plan_text(plan: Sequence[str]) -> str:
    """A plan in the format of the prompt."""
    return f"<plan>{json.dumps(list(plan), ensure_ascii=False)}</plan>"


def _carry_out(
    environment: Environment,
    task: Task,
    plan: Sequence[str],
    seeker: Complete,
    style: str,
    turns: int,
    seekers: int,
    played: Played,
    seed: int,
) -> list[Finding]:
    """Search for every step of a plan, level by level, the steps of a level side by side; findings in the plan's order.

    Steps are recorded in the plan's order with the progress reached at the end of their level, so that the record does not
    depend on which seeker was faster.
    """
    findings: list[Finding | None] = [None] * len(plan)
    answers: list[str | None] = [None] * len(plan)
    with ThreadPoolExecutor(seekers) as pool:
        for level in levels(plan):
            filled = {index: fill(plan[index], answers) for index in level}
            running = {
                index: pool.submit(_seek, environment, task, question, seeker, style, turns, seed + 10 * index)
                for index, question in filled.items()
                if question is not None
            }
            searches = {index: future.result() for index, future in running.items()}
            progress = max((step.progress for search in searches.values() for step in search.steps), default=0.0)
            for index in level:
                answers[index] = searches[index].answer if index in searches else None
                findings[index] = Finding(filled[index] or plan[index], answers[index])
                _record_search(played, searches.get(index), progress)
    return [finding for finding in findings if finding is not None]


def _seek(environment: Environment, task: Task, question: str, seeker: Complete, style: str, turns: int, seed: int) -> _Search:
    """One seeker: a search agent on a sub-question. Its answer is a finding and does not end the episode."""
    search = _Search(question)
    for turn in range(turns):
        messages = prompts.search_messages(style, question, search.steps, turns)
        completion = seeker(messages, seed=call_seed(seed, task, turn, 0))
        search.completions.append(completion)
        text = whole_text(completion)
        reply = parse_reply(text)
        step = _step("search", completion, text)
        if not isinstance(reply, Reply):
            search.steps.append(step.model_copy(update={"valid": False, "error": reply}))
            break
        update: dict[str, object] = {"thought": reply.thought, "action": reply.action}
        if reply.answer is None:
            started = time.perf_counter()
            observation, progress, _, valid = environment.step(reply.action)
            update |= {"observation": observation, "progress": progress, "valid": valid}
            update["environment_seconds"] = time.perf_counter() - started
        search.steps.append(step.model_copy(update=update))
        if reply.answer is not None:
            search.answer = reply.answer
            break
    return search


def _record_search(played: Played, search: _Search | None, progress: float) -> None:
    progress = max(progress, _progress(played))
    if search is None:
        skipped = EpisodeStep(index=0, stage="search", progress=progress, valid=False, error="a step it needs found nothing")
        played.steps.append(_numbered(played, skipped))
        return
    for step, completion in zip(search.steps, search.completions, strict=True):
        add_usage(played.usage, "seeker", completion)
        played.steps.append(_numbered(played, step, progress=progress))


def _write(
    environment: Environment, task: Task, writer: Complete, style: str, findings: Sequence[Finding], played: Played, seed: int
) -> None:
    """The answer from the findings, given to the environment."""
    completion = writer(_asks(style, "writer.j2", task, findings), seed=seed)
    add_usage(played.usage, "writer", completion)
    reply = parse_reply(completion.text)
    step = _step("write", completion, progress=_progress(played))
    if not isinstance(reply, Reply) or reply.answer is None:
        played.steps.append(_numbered(played, step, valid=False, error=reply if isinstance(reply, str) else "no answer"))
        return
    observation, progress, done, valid = environment.step(reply.action)
    played.answer = reply.answer
    outcome = {"observation": observation, "progress": max(progress, step.progress), "done": done, "valid": valid}
    played.steps.append(_numbered(played, step, thought=reply.thought, action=reply.action, **outcome))


def _step(stage: str, completion: CompletionLike, text: str | None = None, progress: float = 0.0) -> EpisodeStep:
    return EpisodeStep(
        index=0,
        stage=stage,
        completion=(completion.text if text is None else text)[:MAX_COMPLETION_CHARACTERS],
        progress=progress,
        **step_cost(completion),
    )


def _numbered(played: Played, step: EpisodeStep, **update: object) -> EpisodeStep:
    return step.model_copy(update={"index": len(played.steps), **update})


def _progress(played: Played) -> float:
    return played.steps[-1].progress if played.steps else 0.0


def _finish(
    environment: Environment,
    task: Task,
    played: Played,
    plans: Sequence[Sequence[str]],
    asked: Sequence[Sequence[str]],
    coverage: Sequence[float],
    failure: str | None,
) -> None:
    """Read the outcome off the environment; `extra` holds what the planning tables need."""
    played.success, played.native_score = environment.success, environment.native_score
    answered = played.answer is not None
    played.ended = "success" if environment.success else "answered" if answered else "no_action"
    searches = [step for step in played.steps if step.stage == "search" and step.observation]
    played.extra = {
        "plans": [list(plan) for plan in plans],
        "plan_failure": failure,
        "planner_hit": planner_hit(plans[0], task) if plans else False,
        "hops": len(task.data["hops"]),
        "hop_recall": _progress(played) if task.data["hops"] else None,
        "rounds": len(plans),
        "first_full_round": next((number for number, reached in enumerate(coverage, 1) if reached >= 1), None),
        "backtracks": backtracks(asked, task),
        "tool_calls": len(searches),
        "answer_words": answer_words(played.answer or ""),
        "acc_r_words": contains_words(played.answer or "", task.data["answers"]),
    }


def taught_replies(task: Task, style: str) -> list[tuple[list[Message], str]]:
    """(messages, reply) of the oracle as planner, before and after the search, and as writer, for a question with known gold hops: what
    a backbone is trained on beside the search agent's own turns, which teach it to seek."""
    hops = task.data["hops"]
    objects = [hop["title"] for hop in hops[1:]] + task.data["answers"][:1]
    findings = [Finding(hop["query"], found) for hop, found in zip(hops, objects, strict=True)]
    plan = reply_text(f"The question has {len(hops)} hops.", plan_text(reference_plan(task)))
    return [
        (_asks(style, "planner.j2", task, ()), plan),
        (_asks(style, "planner.j2", task, findings), reply_text("Nothing is missing.", plan_text([]))),
        (_asks(style, "writer.j2", task, findings), answer_text(task.data["answers"][0])),
    ]


def teacher_roles(task: Task) -> Roles:
    """The oracle in every role, for questions with known gold hops: the gold plan, one search per hop, the gold answers."""
    hops = task.data["hops"]
    objects = dict(zip((hop["query"] for hop in hops), [hop["title"] for hop in hops[1:]] + task.data["answers"][:1], strict=True))
    plans = iter([reference_plan(task), []])
    asked: set[str] = set()

    def planner(messages: Sequence[dict[str, str]], *, seed: int) -> Completion:
        plan = next(plans, [])
        thought = f"The question has {len(plan)} hops." if plan else "Nothing is missing."
        return _said(reply_text(thought, plan_text(plan)))

    def seeker(messages: Sequence[dict[str, str]], *, seed: int) -> Completion:
        told = "\n".join(message["content"] for message in messages)
        query = next(query for query in objects if f"Question: {query}\n" in f"{told}\n")
        hop = next(hop for hop in hops if hop["query"] == query)
        if query in asked:
            return _said(reply_text(hop["text"] or "The passages tell it.", answer_text(objects[query])))
        asked.add(query)
        return _said(reply_text(f"I need the {query}.", tool_call([query])))

    def writer(messages: Sequence[dict[str, str]], *, seed: int) -> Completion:
        return _said(answer_text(task.data["answers"][0]))

    return Roles(planner, seeker, writer)


def _said(text: str) -> Completion:
    return Completion(text, 0, 0, 0, 0.0, "stop")
