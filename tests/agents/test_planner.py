"""Planner, seekers and writer, against scripted backbones: the plan format, the order of searches, and the planning measures."""

import json
import threading

import pytest

from dllm_agents import benchmarks
from dllm_agents.agents.planner import Roles, play
from dllm_agents.agents.planner_teacher import Teacher, reference_plan
from dllm_agents.analysis.planning import backtracks, covered_hops, planner_hit, planner_metrics, team_metrics
from dllm_agents.benchmarks.plan_reply import fill, levels, parse_plan, plan_text
from dllm_agents.benchmarks.search_reply import answer_text, reply_text, tool_call
from dllm_agents.records import Call, Outcome, Task


@pytest.fixture(scope="module")
def benchmark():
    return benchmarks.load("multihop_qa", {"tasks": 30, "train_tasks": 0})


@pytest.fixture(scope="module")
def tasks(benchmark):
    return benchmark.tasks("test")


class Scripted:
    """Gives the listed replies in turn, the last one for ever; a function is called with the prompt."""

    def __init__(self, *replies):
        self.replies, self.prompts, self.lock = list(replies), [], threading.Lock()

    def __call__(self, messages, *, seed, constraint=None):
        with self.lock:
            reply = self.replies[min(len(self.prompts), len(self.replies) - 1)]
            self.prompts.append("\n".join(message["content"] for message in messages))
        return Call(role="team", seed=seed, text=reply(self.prompts[-1]) if callable(reply) else reply)


def run(benchmark, task, roles, **settings) -> Outcome:
    with benchmark.environment(task) as environment:
        return play(environment, task, roles, style="react", **settings)


def chain(*hops, answer="Acorcorp"):
    """A question whose gold hops are (title, query) and a text each."""
    data = {"set": "x", "answers": [answer], "hops": [{"title": title, "text": "t", "query": query} for title, query in hops]}
    return Task(id="t", benchmark="b", split="test", category="c", seed=0, version="v", goal="g", data=data)


TWO_HOPS = chain(("Mira", "mother of Mira"), ("Tovah", "employer of Tovah"))


@pytest.mark.parametrize("style", ["react", "compact"])
def test_the_oracle_in_every_role_solves_every_question_in_one_round(benchmark, tasks, style):
    for task in tasks:
        with benchmark.environment(task) as environment:
            played = play(environment, task, Teacher(task).roles(), style=style)
        hops = len(task.data["hops"])
        assert played.success and played.ended == "success" and played.answer == task.data["answers"][0]
        perfect = {"planner_hit": 1, "hop_recall": 1.0, "first_full_round": 1, "rounds": 1, "backtracks": 0}
        assert planner_metrics(played, task) == perfect
        totals = {"seekers": hops, "turns": 2 * hops + 3, "tool_calls": hops, "invalid_action": 0}
        assert team_metrics(played) == totals | {"seeker_turns": 2.0, "seeker_tool_calls": 1.0}
        assert [step.stage for step in played.steps] == ["plan", *["search"] * 2 * hops, "plan", "write"]
        assert [step.index for step in played.steps] == list(range(2 * hops + 3))
        assert len({step.call for step in played.steps}) == len(played.steps)


def test_the_oracle_plays_published_questions_by_the_titles_of_their_gold_passages(tmp_path):
    path = tmp_path / "q.jsonl"
    context = [["Up", ["Ann directed Up."]], ["Ann", ["Ann was born in Oslo."]]]
    row = {
        "question": "Where was the director of Up born?",
        "answer": "Oslo",
        "context": context,
        "supporting_facts": [["Up", 0], ["Ann", 0]],
    }
    path.write_text(json.dumps(row), encoding="utf-8")
    benchmark = benchmarks.load("multihop_qa", {"sets": {"mini": str(path)}})
    (task,) = benchmark.tasks("test")
    played = run(benchmark, task, Teacher(task).roles())
    metrics = planner_metrics(played, task)
    assert played.success and metrics["planner_hit"] and team_metrics(played)["tool_calls"] == 2


@pytest.mark.parametrize(
    ("text", "read"),
    [
        ('<think>two</think><plan>["a", "b of #1"]</plan>', ("two", ["a", "b of #1"])),
        ("<plan>[]</plan>", ("", [])),
        ("", "empty output"),
        ("<think>hm</think>", "no plan"),
        ('<plan>["a"]', "plan format error"),
        ('<plan>["a"] and so on</plan>', "plan format error"),
        ('<plan>{"a": 1}</plan>', "plan format error"),
        ("<plan>[1]</plan>", "plan format error"),
        ('<plan>["a", " "]</plan>', "plan format error"),
        (plan_text(["a"] * 7), "plan format error"),
        (plan_text(["x" * 301]), "plan format error"),
        (f"<plan>{'[' * 10_000}</plan>", "plan format error"),
        ("x" * 1_000_000 + "<plan>[]</plan>", "no plan"),
        ('<plan>["a of #1"]</plan>', "plan reference error"),
        ('<plan>["a", "b of #3"]</plan>', "plan reference error"),
        ('<plan>["a of #0"]</plan>', "plan reference error"),
    ],
)
def test_plans_are_read_strictly_and_in_bounds(text, read):
    assert parse_plan(text) == read


def test_steps_that_wait_for_nothing_come_first():
    assert levels(["a", "b of #1", "c", "d of #2 and #3"]) == [[0, 2], [1], [3]]
    assert levels([]) == []
    assert fill("d of #2 and #1", ["x", "y"]) == "d of y and x"
    assert fill("d of #2", ["x", None]) is None


def test_planner_hit_means_every_gold_hop_with_one_step_each():
    assert reference_plan(TWO_HOPS) == ["mother of Mira", "employer of #1"]
    assert planner_hit(["mother of Mira", "employer of #1"], TWO_HOPS)
    assert planner_hit(["Who is the mother of Mira?", "What is the employer of #1?"], TWO_HOPS)
    assert not planner_hit(["mother of Mira"], TWO_HOPS)
    assert not planner_hit(["mother of Mira", "employer of #1", "country of #2"], TWO_HOPS)
    assert not planner_hit(["mother of Mira", "founder of #1"], TWO_HOPS)
    assert not planner_hit(["mother of Mira", "employer of Mira"], TWO_HOPS)
    assert not planner_hit([], chain())
    assert covered_hops(["employer of Mira", "mother of Mira", "employer of #2"], TWO_HOPS) == [None, 0, 1]


def test_backtracking_counts_later_questions_that_go_back():
    first = ["mother of Mira", "founder of Tovah"]
    assert backtracks([first], TWO_HOPS) == 0
    assert backtracks([first, ["employer of Tovah"]], TWO_HOPS) == 0
    assert backtracks([first, ["The founder of Tovah?"]], TWO_HOPS) == 1
    assert backtracks([first, ["who was Mira's mother, of Mira"], ["mother of Mira", "employer of Tovah"]], TWO_HOPS) == 2


def test_seekers_of_one_level_search_side_by_side(benchmark, tasks):
    barrier = threading.Barrier(3, timeout=20)

    def seek(prompt):
        barrier.wait()
        return answer_text("x")

    planner = Scripted(plan_text(["mother of Mira", "teacher of Mira", "employer of Mira"]), plan_text([]))
    played = run(benchmark, tasks[0], Roles(planner, Scripted(seek), Scripted(answer_text("x"))))
    assert [step.action for step in played.steps if step.stage == "search"] == [answer_text("x")] * 3


def test_answers_are_handed_to_the_steps_that_wait_and_to_planner_and_writer(benchmark, tasks):
    planner = Scripted(plan_text(["mother of Mira", "employer of #1"]), plan_text([]))
    seeker, writer = Scripted(answer_text("Tovah"), answer_text("Acorcorp")), Scripted(answer_text("Acorcorp"))
    run(benchmark, tasks[0], Roles(planner, seeker, writer))
    assert "Question: employer of Tovah" in seeker.prompts[1]
    for prompt in (planner.prompts[1], writer.prompts[0]):
        assert "mother of Mira -> Tovah" in prompt and "employer of Tovah -> Acorcorp" in prompt


def test_a_seekers_answer_does_not_end_the_episode(benchmark, tasks):
    gold = tasks[0].data["answers"][0]
    planner = Scripted(plan_text(["a"]), plan_text([]))
    played = run(benchmark, tasks[0], Roles(planner, Scripted(answer_text(gold)), Scripted(answer_text("Atlantis"))))
    assert not played.success and played.ended == "answered" and played.answer == "Atlantis"


def test_a_step_whose_bridge_was_not_found_is_skipped_and_named(benchmark, tasks):
    planner = Scripted(plan_text(["mother of Mira", "employer of #1"]), plan_text([]))
    writer = Scripted(answer_text("x"))
    played = run(benchmark, tasks[0], Roles(planner, Scripted("no idea"), writer))
    assert [step.error for step in played.steps if step.stage == "search"] == ["other", "a step it needs found nothing"]
    assert "employer of #1 -> nothing found" in writer.prompts[0]


def test_a_missed_hop_is_recovered_in_a_second_round(benchmark, tasks):
    task = next(task for task in tasks if len(task.data["hops"]) == 2)
    first, second = (hop["query"] for hop in task.data["hops"])

    def seek(prompt):
        if "<tool_response>\n1." in prompt:
            return answer_text("seen")
        return reply_text("look", tool_call([prompt.rpartition("Question: ")[2].splitlines()[0]]))

    planner = Scripted(plan_text([first]), plan_text([first, second]), plan_text([]))
    played = run(benchmark, task, Roles(planner, Scripted(seek), Scripted(answer_text(task.data["answers"][0]))))
    metrics = planner_metrics(played, task)
    assert played.success and not metrics["planner_hit"] and metrics["first_full_round"] == 2
    assert (metrics["rounds"], metrics["backtracks"], metrics["hop_recall"]) == (2, 1, 1.0)
    assert (team_metrics(played)["tool_calls"], team_metrics(played)["seekers"]) == (3, 3)


@pytest.mark.parametrize("reply", ["", "Je ne sais pas.", "<plan>{</plan>"])
def test_an_unreadable_first_plan_ends_the_episode_and_a_later_one_the_planning(benchmark, tasks, reply):
    writer = Scripted(answer_text("x"))
    played = run(benchmark, tasks[0], Roles(Scripted(reply), Scripted(answer_text("x")), writer))
    assert played.ended == "no_action" and played.planner.failure and not writer.prompts
    assert not planner_metrics(played, tasks[0])["planner_hit"] and not played.planner.plans
    assert team_metrics(played) == {"seekers": 0, "turns": 1, "tool_calls": 0, "invalid_action": 1}
    later = run(benchmark, tasks[0], Roles(Scripted(plan_text(["a"]), reply), Scripted(answer_text("x")), writer))
    assert later.ended == "answered" and len(later.planner.plans) == 1


def test_backbones_that_never_stop_are_bounded(benchmark, tasks):
    planner, seeker = Scripted(plan_text(["mother"] * 6)), Scripted(reply_text("again", tool_call(["mother"])))
    played = run(benchmark, tasks[0], Roles(planner, seeker, Scripted("x" * 1_000_000)), max_rounds=2, seeker_turns=2)
    assert len(planner.prompts) == 2 and len(seeker.prompts) == 2 * 6 * 2
    assert played.ended == "no_action" and played.steps[-1].error == "other"


def test_a_writer_that_searches_gives_no_answer(benchmark, tasks):
    played = run(benchmark, tasks[0], Roles(Scripted(plan_text([])), Scripted(""), Scripted(tool_call(["x"]))))
    assert played.ended == "no_action" and played.steps[-1].error == "no answer"


def test_same_replies_give_the_same_steps_whichever_seeker_is_faster(benchmark, tasks):
    task = tasks[1]

    def untimed():
        played = run(benchmark, task, Teacher(task).roles())
        return [step.model_copy(update={"environment_seconds": 0.0}) for step in played.steps], played.planner

    assert untimed() == untimed()
