"""Tool calling with modules: selector and editor in conversations (equations 6 and 7), and the tool graph in front of a selector."""

import pytest

from dllm_agents.agents.modules.editor import Editor
from dllm_agents.agents.modules.selector import Seen, Selector
from dllm_agents.agents.modules.tool_graph import GraphSelector, ToolGraph
from dllm_agents.agents.policy import EpisodeLimit
from dllm_agents.agents.tool_calling import converse
from dllm_agents.benchmarks.bfcl import BFCL
from dllm_agents.benchmarks.bfcl_language import called_names
from dllm_agents.config import BFCLOptions
from dllm_agents.records import Call, EpisodeStep, Task, Trajectory


class Backend:
    """Gives the listed answers in turn, the last one for ever; keeps what it was asked."""

    def __init__(self, *answers):
        self.answers, self.asked = list(answers), []

    def __call__(self, messages, *, seed, constraint=None):
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


def test_the_selector_is_asked_before_every_reply_with_what_was_done_so_far(bfcl, tasks):
    task = tasks["multi_turn_base_0"]
    choosing = Backend('["cd", "mkdir"]', '["cd"]', '["ls"]', "none of them")
    policy = Backend("[cd(folder='document')]", "Done.", "[ls()]", "Done.", "Done.")
    with bfcl.environment(task) as environment:
        played = converse(environment, task, policy, seed=1, selector=Selector(choosing, "react"))
    turns = [message[0]["content"] for message in task.data["turns"]]
    asked = [messages[0]["content"] for messages in choosing.asked]
    assert len(asked) == len(policy.asked) == len(played.steps)
    assert all(turns[0] in text for text in asked[:2]) and "cd(folder='document')" not in asked[0]
    assert "assistant: [cd(folder='document')]" in asked[1] and "current_working_directory" in asked[1]
    shown = [messages[0]["content"] for messages in policy.asked]
    kept = [("'mkdir'" in text, "'cd'" in text, "'ls'" in text, "'grep'" in text) for text in shown[:3]]
    assert kept == [(True, True, False, False), (False, True, False, False), (False, False, True, False)]
    assert all(item["name"] in shown[3] for item in task.data["functions"]), "a reply that names no tool keeps them all"
    assert played.tools is not None and played.tools.selected_tools[:3] == [["cd", "mkdir"], ["cd"], ["ls"]]
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
    assert [tool["name"] for tool in selector.select(Seen("what will the weather be"), TOOLS, 0)] == ["weather.now"]
    assert (selector.saved_calls, backend.asked) == (1, [])


def test_an_unclear_request_and_an_unknown_tool_are_left_to_the_backbone(graph):
    backend = Backend('["mail.send"]')
    selector = GraphSelector(graph, 0.7, Selector(backend, "react"))
    unknown = [*TOOLS[:3], {"name": "new.tool", "description": ""}]
    assert [tool["name"] for tool in selector.select(Seen("what will the weather be"), unknown, 0)] == ["mail.send"]
    assert [tool["name"] for tool in selector.select(Seen("xyzzy"), TOOLS, 0)] == ["mail.send"]
    assert (selector.saved_calls, len(backend.asked)) == (0, 2)
    assert GraphSelector(graph, 0.9999, Selector(backend, "react")).select(Seen("what will the weather be"), TOOLS, 0) == [TOOLS[2]]


def test_which_tool_follows_which(graph):
    after_reading, at_first = (graph.probability("mail.send", "", before) for before in ("mail.read", ""))
    assert after_reading > 0.9 and at_first < 0.1
    assert graph.probability("new.tool", "weather") is None


def test_three_tools_or_fewer_are_all_kept(graph):
    assert GraphSelector(graph, 0.7, Selector(Backend("x"), "react")).select(Seen("weather"), TOOLS[:3], 0) == TOOLS[:3]


def test_called_names_are_those_offered():
    assert called_names("[a.b(x=f(1)), c(y=2)] and d", {"a.b", "c", "d"}) == ["a.b", "c"]
    assert called_names("<think>c(y=2)</think>[a.b(x='c(y=2)')] and I'll call \"c(\"", {"a.b", "c"}) == ["a.b"]
    assert called_names("((" * 10_000 + "a" * 100_000 + "'\\'" * 20_000, {"a"}) == []
