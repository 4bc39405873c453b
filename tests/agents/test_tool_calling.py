"""Tool calling with modules: selector and editor in conversations (equations 6 and 7), and the tool graph in front of a selector."""

import pytest

from dllm_agents.agents.modules.editor import Editor
from dllm_agents.agents.modules.selector import Selector
from dllm_agents.agents.modules.tool_graph import GraphSelector, ToolGraph, called_names
from dllm_agents.agents.policy import EpisodeLimit
from dllm_agents.agents.tool_calling import converse
from dllm_agents.benchmarks.bfcl import BFCL
from dllm_agents.config import BFCLOptions
from dllm_agents.records import Call, EpisodeStep, Task, Trajectory


class Backend:
    """Gives the listed answers in turn, the last one for ever; keeps what it was asked."""

    def __init__(self, *answers):
        self.answers, self.asked = list(answers), []

    def __call__(self, messages, *, seed):
        self.asked.append([dict(message) for message in messages])
        text = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(text, Exception):
            raise text
        return Call(role="policy", seed=seed, text=text)


@pytest.fixture(scope="module")
def bfcl():
    benchmark = BFCL(BFCLOptions(per_category=10_000, categories=["multi_turn_base", "multi_turn_miss_func"]))
    yield benchmark
    benchmark.checker.close()


@pytest.fixture(scope="module")
def tasks(bfcl):
    return {task.data["id"]: task for task in bfcl.tasks("test")}


def test_the_selector_is_asked_at_the_start_of_every_turn_and_its_tools_are_shown_until_the_next(bfcl, tasks):
    task = tasks["multi_turn_base_0"]
    choosing = Backend('["cd", "mkdir"]', '["ls"]', "none of them")
    policy = Backend("[cd(folder='document')]", "Done.", "[ls()]", "Done.", "Done.")
    selector = Selector(choosing, "react")
    with bfcl.environment(task) as environment:
        played = converse(environment, task, policy, seed=1, selector=selector)
    turns = [message[0]["content"] for message in task.data["turns"]]
    assert len(choosing.asked) == len(turns) and all(turn in asked[0]["content"] for turn, asked in zip(turns, choosing.asked, strict=True))
    shown = [asked[0]["content"] for asked in policy.asked]
    assert [("'mkdir'" in text, "'ls'" in text, "'grep'" in text) for text in shown[:4]] == [(True, False, False)] * 2 + [
        (False, True, False)
    ] * 2
    assert all(item["name"] in shown[4] for item in task.data["functions"]), "a reply that names no tool keeps them all"
    assert played.tools is not None and played.tools.selected_tools[:2] == [["cd", "mkdir"], ["ls"]]
    assert all(len(names) == len(task.data["functions"]) for names in played.tools.selected_tools[2:])
    # The chat behind the system prompt is the official one, whatever was shown of the tools.
    assert policy.asked[1][1:] == environment.conversation[1 : len(policy.asked[1])]


def test_a_tool_held_back_is_offered_to_the_selector_once_its_turn_has_come(bfcl, tasks):
    task = tasks["multi_turn_miss_func_0"]
    (turn, held), *_ = ((int(turn), functions[0]["name"]) for turn, functions in task.data["held_back"].items())
    choosing = Backend("none")
    with bfcl.environment(task) as environment:
        converse(environment, task, Backend("Done."), seed=1, selector=Selector(choosing, "react"))
    assert [f"- {held}:" in asked[0]["content"] for asked in choosing.asked] == [index >= turn for index in range(len(task.data["turns"]))]


def test_the_editor_mends_every_reply_before_it_is_run(bfcl, tasks):
    task = tasks["multi_turn_base_0"]
    editor = Editor(Backend("[cd(folder='document')]", "UNCHANGED"), "react")
    with bfcl.environment(task) as environment:
        played = converse(environment, task, Backend("I will cd(folder='document').", "Done."), seed=1, editor=editor)
    first, second = played.steps[:2]
    assert first.action == "[cd(folder='document')]"
    assert "current_working_directory" in first.observation and second.action == "Done."


def test_a_limit_ends_a_conversation_and_keeps_what_was_played(bfcl, tasks):
    task = tasks["multi_turn_base_0"]
    with bfcl.environment(task) as environment:
        played = converse(environment, task, Backend("[ls()]", EpisodeLimit()), seed=1)
    assert (played.ended, len(played.steps), played.success) == ("token_limit", 1, False)


# The tool graph

TOOLS = [{"name": name, "description": name} for name in ("weather.now", "stocks.buy", "mail.send", "mail.read")]


def taught(goal, *replies):
    task = Task(id=goal, benchmark="bfcl", split="train", category="c", seed=1, version="v", goal=goal, data={"functions": TOOLS})
    steps = [EpisodeStep(index=index, action=reply) for index, reply in enumerate(replies)]
    return Trajectory(task=task, teacher="t", seed=1, steps=steps, success=True, progress=1.0)


@pytest.fixture(scope="module")
def graph():
    weather = [taught(f"how will the weather be in city{n}", "[weather.now(city='x')]") for n in range(20)]
    mail = [taught(f"open the inbox {n} and reply", "[mail.read()]", "[mail.send(to='x')]") for n in range(20)]
    return ToolGraph.learn([*weather, *mail])


def test_a_clear_request_is_served_by_the_graph_and_the_call_is_saved(graph):
    backend = Backend("never asked")
    selector = GraphSelector(graph, 0.7, Selector(backend, "react"))
    assert [tool["name"] for tool in selector.select("what will the weather be", TOOLS, 0)] == ["weather.now"]
    assert (selector.saved_calls, backend.asked) == (1, [])


def test_an_unclear_request_and_an_unknown_tool_are_left_to_the_backbone(graph):
    backend = Backend('["mail.send"]')
    selector = GraphSelector(graph, 0.7, Selector(backend, "react"))
    unknown = [*TOOLS[:3], {"name": "new.tool", "description": ""}]
    assert [tool["name"] for tool in selector.select("what will the weather be", unknown, 0)] == ["mail.send"]
    assert [tool["name"] for tool in selector.select("xyzzy", TOOLS, 0)] == ["mail.send"]
    assert (selector.saved_calls, len(backend.asked)) == (0, 2)
    assert GraphSelector(graph, 0.9999, Selector(backend, "react")).select("what will the weather be", TOOLS, 0) == [TOOLS[2]]


def test_which_tool_follows_which(graph):
    after_reading, at_first = (graph.probability("mail.send", "", before) for before in ("mail.read", ""))
    assert after_reading > 0.9 and at_first < 0.1
    assert graph.probability("new.tool", "weather") is None


def test_three_tools_or_fewer_are_all_kept(graph):
    assert GraphSelector(graph, 0.7, Selector(Backend("x"), "react")).select("weather", TOOLS[:3], 0) == TOOLS[:3]


def test_called_names_are_those_offered():
    assert called_names("[a.b(x=f(1)), c(y=2)] and d", {"a.b", "c", "d"}) == ["a.b", "c"]
    assert called_names("((" * 10_000 + "a" * 100_000, {"a"}) == []
