"""Planner and seekers played turn by turn by scripted backbones, against DeepDiver-V2's published loop."""

import json
import random
import threading
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dllm_agents import benchmarks
from dllm_agents.agents.deepdiver import team, tools
from dllm_agents.agents.deepdiver.teacher import Teacher, taught_replies
from dllm_agents.agents.deepdiver.workspace import Workspace, WorkspaceError
from dllm_agents.agents.policy import EpisodeLimit
from dllm_agents.benchmarks.search import Passage
from dllm_agents.client.client import PromptTooLong
from dllm_agents.config import TeamBudget
from dllm_agents.records import Call
from dllm_agents.tool_calls import call_text

ASSIGN, DONE, REPORT = tools.ASSIGN, tools.PLANNER_DONE, tools.SEEKER_DONE


def call(name, **arguments):
    return call_text({"name": name, "arguments": arguments})


def assign(*tasks):
    return call(ASSIGN, tasks=[{"task_content": task} for task in tasks])


def done(answer):
    return call(DONE, task_summary="s", task_name="n", key_files=[], completion_status="completed", final_answer=answer)


def report(summary):
    return call(REPORT, task_summary=summary, task_name="n", key_files=[], completion_status="completed")


class Library:
    """A local stand-in for web search and crawler."""

    progress = 0.0
    pages = {"doc:a": "Alpha is in Beta.", "doc:long": "x" * 5_000_000}

    def search(self, query, count):
        return [Passage(f"{query} {number}", "text", f"doc:{number}") for number in range(count)]

    def document(self, url):
        return self.pages.get(url)


class Script:
    """A backbone that gives its replies in order, for each agent apart: a seeker is known by its task."""

    def __init__(self, replies, **by_task):
        self.replies, self.by_task, self.prompts, self.seeds = replies, by_task, [], []

    def __call__(self, messages, *, seed, constraint=None):
        self.prompts.append(messages)
        self.seeds.append(seed)
        task = next((name for name in self.by_task if messages[0]["content"].endswith(f"Task: {name}")), None)
        replies = self.by_task[task] if task else self.replies
        turn = sum(message["role"] == "assistant" for message in messages)
        reply = replies[min(turn, len(replies) - 1)] if isinstance(replies, list) else replies(messages)
        if isinstance(reply, Exception):
            raise reply
        return Call(role="r", seed=seed, text=reply)


def run(planner, seeker=None, budget=None, library=None, style="react"):
    return team.play(
        "Where is Alpha?",
        planner if callable(planner) else Script(planner),
        seeker or Script([report("r")]),
        library or Library(),
        style=style,
        budget=budget or TeamBudget(),
    )


def results(outcome, agent="planner"):
    return [result for turn in outcome.turns if turn.agent == agent for result in turn.results]


def test_a_question_is_planned_sought_and_answered():
    planner = Script([f"<think>split</think>{assign('find a', 'find b')}", done("Beta")])
    seeker = Script([], **{"find a": [call("batch_web_search", queries=["a"]), report("A!")], "find b": [report("B!")]})
    outcome = run(planner, seeker)
    assert (outcome.answer, outcome.fallback, len(sum(outcome.rounds, []))) == ("Beta", False, 2)
    assert [turn.agent for turn in outcome.turns] == ["planner", "seeker 1", "seeker 1", "seeker 2", "planner"]
    told = planner.prompts[1][-1]["content"]
    assert told.startswith("<tool_response>") and "A!" in told and "B!" in told
    assert outcome.turns[0].thought == "split"
    assert not any("find a" in message["content"] for message in planner.prompts[0])
    assert {prompt[0]["content"].rpartition("Task: ")[2] for prompt in seeker.prompts if len(prompt) == 1} == {"find a", "find b"}


def test_seekers_have_contexts_of_their_own_and_see_no_others_task():
    seeker = Script([], one=[report("1")], two=[report("2")])
    run([assign("one", "two"), done("x")], seeker)
    assert not any(
        "one" in p[0]["content"].rpartition("Task:")[2] and "two" in p[0]["content"].rpartition("Task:")[2] for p in seeker.prompts
    )


def test_every_call_of_a_role_has_a_seed_of_its_own():
    planner = Script([assign("a", "b"), assign("a", "b"), done("x")])
    seeker = Script([call("think", thought="t"), report("r")])
    run(planner, seeker)
    assert len(set(planner.seeds)) == 3 and len(set(seeker.seeds)) == len(seeker.seeds) == 8


@pytest.mark.parametrize(
    ("reply", "problem", "answer"),
    [
        ("", "empty", team.FORMAT),
        ("   \n", "empty", team.FORMAT),
        ("<tool_call>{broken", "unreadable call", team.FORMAT),
        ("I think that I should search.", "no call", team.NUDGE.format(done=DONE)),
    ],
)
def test_a_reply_without_a_call_is_answered_and_the_agent_goes_on(reply, problem, answer):
    planner = Script([reply, done("x")])
    outcome = run(planner)
    assert outcome.answer == "x" and outcome.turns[0].problem == problem
    assert answer in planner.prompts[1][-1]["content"]


WRONG = [
    (call(ASSIGN, tasks=[]), "tasks"),
    (assign(*"abcdef"), "tasks"),
    (call(ASSIGN, tasks="a"), "tasks"),
    (call(ASSIGN, tasks=[{"task": "a"}]), "tasks.0"),
    (call("batch_web_search", queries=["a"]), "no such tool"),
    (call("rm", path="/"), "no such tool"),
    (call(DONE, final_answer="x"), "task_summary"),
    (call(DONE, task_summary="", task_name="", key_files=[], completion_status="ok", final_answer="x"), "completion_status"),
    (call("file_read", file_path="gone.md"), "no such file"),
    (call("file_read", file_path="../x"), "relative to the workspace"),
    (call("file_read", file_path="/etc/passwd"), "relative to the workspace"),
    (call("file_write", file_path="a\x00b", content=""), "relative to the workspace"),
    (call("file_write", file_path="a.md", content="x" * 10_000_000), "at most 200000 characters"),
    (call("document_qa", tasks=[{"file_path": "a"}]), "question"),
]
"""Wrong calls of a planner, and what is said of each."""


@pytest.mark.parametrize(("text", "error"), WRONG)
def test_a_wrong_call_is_an_error_result_and_the_agent_goes_on(text, error):
    outcome = run([text, done("x")])
    assert outcome.answer == "x" and len(sum(outcome.rounds, [])) == 0
    result = results(outcome)[0]
    assert not result["success"] and error in result["error"] and len(result["error"]) <= 500


SEEKERS_WRONG = [
    (assign("a"), "no such tool"),
    (call(DONE, task_summary="", task_name="", key_files=[], completion_status="completed", final_answer="x"), "no such tool"),
    (call("batch_web_search", queries=list("abcdefghi")), "queries"),
    (call("batch_web_search", queries=[]), "queries"),
    (call("batch_web_search", queries=["a"], max_results_per_query=11), "max_results_per_query"),
    (call("url_crawler", documents=[{"url": "doc:a", "file_path": "a"}] * 11), "documents"),
    (call("url_crawler", documents=[{"url": "doc:a"}]), "file_path"),
    (call("url_crawler", documents=[{"url": "doc:a", "file_path": "a"}], max_tokens_per_url=0), "max_tokens_per_url"),
    (call("url_crawler", documents=[{"url": "doc:a", "file_path": "../a"}]), "relative to the workspace"),
    (call("url_crawler", documents=[{"url": "doc:none", "file_path": "a"}]), "no such document"),
    (call("document_qa", tasks=[{"file_path": "gone", "question": "?"}]), "no such file"),
    (call("str_replace_based_edit_tool", action="view", file_path="a" * 201), "file_path"),
    (call("str_replace_based_edit_tool", action="chmod", file_path="a"), "action"),
    (call(REPORT, task_summary="s", task_name="n", key_files="a", completion_status="completed"), "key_files"),
]


@pytest.mark.parametrize(("text", "error"), SEEKERS_WRONG)
def test_a_seekers_wrong_call_is_an_error_result_and_it_goes_on(text, error):
    outcome = run([assign("a"), done("x")], Script([text, report("r")]))
    first = json.dumps(results(outcome, "seeker 1")[0])
    assert '"success": false' in first and error in first and results(outcome)[0]["success"]


def in_turn(*replies):
    """A backbone that gives its replies one after the other, whatever it reads."""
    left = iter(replies)
    return lambda messages, *, seed, constraint=None: Call(role="r", seed=seed, text=next(left))


@pytest.mark.parametrize("style", ["compact", "turns"])
def test_prompts_for_small_models_tell_whatever_a_call_gave(style):
    class Empty(Library):
        def search(self, query, count):
            return []

    for text in ("", "no call", "<tool_call>{", call("file_write", file_path="a", content="b"), *(text for text, _ in WRONG)):
        assert run(in_turn(text, done("x")), style=style).answer == "x"
    right = [
        *(call("think", thought="t"), call("list_workspace"), call("batch_web_search", queries=["a", "b"])),
        *(call("url_crawler", documents=[{"url": "doc:a", "file_path": "a"}]), call("file_find_by_name", name_pattern="*")),
        call("document_qa", tasks=[{"file_path": "a", "question": "?"}]),
    ]
    for text in ("", "no call", *right, *(text for text, _ in SEEKERS_WRONG)):
        for library in (Library(), Empty()):
            outcome = run(in_turn(assign("a"), done("x")), in_turn(text, text, report("r")), library=library, style=style)
            assert outcome.answer == "x" and results(outcome)[0]["success"]


def test_a_seeker_that_never_ends_is_stopped_and_the_others_reports_are_told():
    seeker = Script([], ends=[report("R1")], never=[call("batch_web_search", queries=["again"])], silent=[""])
    outcome = run([assign("ends", "never", "silent"), done("x")], seeker, TeamBudget(seeker_turns=30, tool_calls=1000))
    turns = {name: sum(turn.agent == name for turn in outcome.turns) for name in ("seeker 1", "seeker 2", "seeker 3")}
    assert turns == {"seeker 1": 1, "seeker 2": 30, "seeker 3": 30}
    told = results(outcome)[0]
    assert not told["success"] and [each["success"] for each in told["data"]] == [True, False, False]
    assert told["data"][1]["error"] == told["data"][2]["error"] == "not completed within 30 turns"
    assert outcome.answer == "x" and not outcome.fallback


def test_calls_of_openpangu_and_lists_of_calls_are_read():
    calls = [{"name": "think", "arguments": {"thought": "a"}}, {"name": "reflect", "arguments": {"reflect": "b"}}]
    outcome = run([f"[unused16]t[unused17][unused11]{json.dumps(calls)}[unused12]", done("x")])
    assert [c["name"] for c in outcome.turns[0].calls] == ["think", "reflect"] and outcome.answer == "x"


def test_the_done_tool_ends_at_once_and_what_follows_is_not_run():
    outcome = run([done("x") + call("file_write", file_path="late.md", content="y")])
    assert outcome.answer == "x" and outcome.workspace == {} and len(results(outcome)) == 1


def test_rounds_used_up_fall_back_to_the_latest_completed_task():
    outcome = run([assign("a"), call("think", thought="hm")], Script([report("Beta, I read")]), TeamBudget(planner_turns=4))
    assert (outcome.answer, outcome.fallback, len([t for t in outcome.turns if t.role == "planner"])) == ("Beta, I read", True, 4)
    assert run([call("think", thought="hm")], budget=TeamBudget(planner_turns=2)).answer is None


def test_an_agent_is_warned_before_its_last_turns():
    seeker = Script([call("think", thought="hm")])
    outcome = run([assign("a"), done("x")], seeker, TeamBudget(seeker_turns=6))
    warned = [team.LAST_CALLS.format(done=REPORT) in prompt[-1]["content"] for prompt in seeker.prompts]
    assert warned == [False, False, False, True, True, True]
    assert "not completed within 6 turns" in json.dumps(results(outcome)[0]) and results(outcome)[0]["success"] is False


def test_the_cap_on_tool_calls_asks_for_an_end_and_then_ends():
    planner = Script([call("think", thought="hm") * 3])
    outcome = run(planner, budget=TeamBudget(tool_calls=2))
    assert [result["success"] for result in results(outcome)] == [True, True, False, False, False, False]
    assert "the budget of tool calls is used up" in results(outcome)[2]["error"]
    assert len(planner.prompts) == 2 and team.LAST_CALLS.format(done=DONE) in planner.prompts[1][-1]["content"]


def test_seekers_share_the_cap_evenly():
    seeker = Script([call("think", thought="hm")])
    outcome = run([assign("a", "b"), done("x")], seeker, TeamBudget(tool_calls=7, seeker_turns=30))
    made = {name: len(results(outcome, name)) for name in ("seeker 1", "seeker 2")}
    assert made == {"seeker 1": 4, "seeker 2": 4}  # three each, and the one that is refused


@pytest.mark.parametrize(("error", "limit"), [(PromptTooLong("x"), "context"), (EpisodeLimit(), "token_limit")])
def test_a_context_or_token_limit_falls_back(error, limit):
    outcome = run([assign("a"), error], Script([report("known")]))
    assert (outcome.answer, outcome.fallback, outcome.limit) == ("known", True, limit)
    ended = run([assign("a"), done("x")], Script([error]))
    assert ended.answer == "x" and limit in results(ended)[0]["data"][0]["error"]


def test_a_fault_of_the_server_is_not_swallowed():
    with pytest.raises(ConnectionError):
        run([assign("a")], Script([ConnectionError("gone")]))


def test_pages_are_put_into_files_and_asked_about():
    steps = [
        call("url_crawler", documents=[{"url": "doc:a", "file_path": "research/a.md"}, {"url": "doc:no", "file_path": "b.md"}]),
        call("document_qa", tasks=[{"file_path": "research/a.md", "question": "Where?"}, {"file_path": "b.md", "question": "?"}]),
        report("In Beta."),
    ]

    def seek(messages, *, seed):
        if "Alpha is in Beta." in messages[0]["content"]:
            return Call(role="r", seed=seed, text="It says Beta.")
        return Call(role="r", seed=seed, text=steps[sum(m["role"] == "assistant" for m in messages)])

    outcome = run([assign("a"), call("file_read", file_path="research/a.md"), done("x")], seek)
    crawled, asked = results(outcome, "seeker 1")[:2]
    assert [item["success"] for item in crawled["data"]] == [True, False]
    assert asked["data"][0]["answer"] == "It says Beta." and asked["data"][1]["success"] is False
    assert results(outcome)[1]["data"] == "Alpha is in Beta."


def test_a_page_of_five_megabytes_is_cut():
    steps = [call("url_crawler", documents=[{"url": "doc:long", "file_path": "l.md"}], max_tokens_per_url=100), report("x")]
    outcome = run([assign("a"), call("file_read", file_path="l.md"), done("x")], Script(steps))
    assert results(outcome, "seeker 1")[0]["data"][0] == {
        "url": "doc:long", "success": True, "file_path": "l.md", "characters": 400, "truncated": True,
    }  # fmt: skip


def test_two_seekers_who_write_one_file_both_keep_their_text_whoever_is_faster():
    def seek(messages, *, seed):
        time.sleep(random.random() / 50)
        task = messages[0]["content"].rpartition("Task: ")[2]
        turn = sum(message["role"] == "assistant" for message in messages)
        text = [call("file_write", file_path="notes.md", content=f"{task}\n"), report(task)][turn]
        return Call(role="r", seed=seed, text=text)

    outcomes = [run([assign("one", "two", "three"), done("x")], seek) for _ in range(5)]
    assert {outcome.workspace["notes.md"] for outcome in outcomes} == {"one\ntwo\nthree\n"}
    assert len({json.dumps([(t.agent, t.results) for t in outcome.turns]) for outcome in outcomes}) == 1


def test_seekers_run_side_by_side():
    together = threading.Barrier(5)

    def seek(messages, *, seed):
        together.wait(timeout=20)  # breaks when they come one after another
        return Call(role="r", seed=seed, text=report("x"))

    assert run([assign(*"abcde"), done("x")], seek).answer == "x"


def test_what_a_file_tool_does():
    desk = tools.Desk(Workspace(), Library(), lambda document, question: "")

    def edit(action, **arguments):
        return tools.run("str_replace_based_edit_tool", {"action": action, "file_path": "d/a.md", **arguments}, desk)

    assert edit("create", content="one two")["success"] and edit("append", content=" two")["success"]
    assert "stands 2 times" in edit("str_replace", old_str="two", new_str="x")["error"]
    assert edit("str_replace", old_str="one", new_str="1")["success"] and edit("view")["data"] == "1 two two"
    assert tools.run("list_workspace", {"path": "d"}, desk)["data"] == ["d/a.md"]
    assert tools.run("file_find_by_name", {"name_pattern": "*.md"}, desk)["data"] == ["d/a.md"]
    assert edit("delete")["success"] and tools.run("list_workspace", {}, desk)["data"] == []
    desk.workspace.write("long", "x" * 20_000)
    assert "ask document_qa" in tools.run("file_read", {"file_path": "long"}, desk)["data"]


def test_a_workspace_is_bounded():
    space = Workspace()
    for number in range(200):
        space.write(f"{number}", "x")
    with pytest.raises(WorkspaceError, match="at most 200 files"):
        space.write("more", "")
    space = Workspace()
    with pytest.raises(WorkspaceError, match="at most 2000000 characters"):
        for number in range(200):
            space.write(f"{number}", "x" * 200_000)


@given(st.text(max_size=30))
def test_no_path_leaves_the_workspace(path):
    space = Workspace()
    try:
        space.write(path, "x")
    except WorkspaceError:
        return
    (name,) = space.files
    assert not name.startswith("/") and ".." not in name.split("/") and "\x00" not in name


@given(st.text(max_size=200))
def test_no_reply_breaks_the_loop(text):
    outcome = run([text, done("x")])
    assert outcome.answer is not None or outcome.turns


@pytest.mark.parametrize("style", ["react", "compact", "turns"])
def test_the_teacher_solves_every_question_through_the_workflow(style):
    qa = benchmarks.load("multihop_qa", {"tasks": 30, "train_tasks": 0})
    for task in qa.tasks("test"):
        environment, teacher = qa.environment(task), Teacher(task)
        environment.reset()
        outcome = team.play(task.goal, teacher.planner, teacher.seeker, environment, style=style, budget=TeamBudget())
        assert outcome.answer == task.data["answers"][0] and environment.progress == 1
        hops = len(task.data["hops"])
        assert [role for role, _, _ in teacher.taught] == ["planner", "seeker", "seeker"] * hops + ["planner"]
        assert len(sum(outcome.rounds, [])) == hops and not any(turn.problem for turn in outcome.turns)


def test_a_compact_prompt_tells_the_state():
    qa = benchmarks.load("multihop_qa", {"tasks": 1, "train_tasks": 0, "hops": [2]})
    (task,) = qa.tasks("test")
    taught = taught_replies(task, qa.environment(task), "compact")
    first, second = (hop["query"] for hop in task.data["hops"])
    shown = [messages[0]["content"] for _, messages, _ in taught]
    assert shown[0] == f"Question: {task.goal}\nFound: nothing;\nReply with think and tool_call."
    assert f"{first} is {task.data['hops'][1]['title']};" in shown[1] and first in shown[3]
    assert f"Before: {second};" in shown[6] and task.data["hops"][1]["text"] in shown[6]
    assert all(len(text) < 400 for text in shown)
