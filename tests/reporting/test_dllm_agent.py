"""Table 1 and Figures 2 to 6 of DLLM Agent, filled from episodes that teams played through the workflow itself."""

import csv
from pathlib import Path

import pytest
from drawn import draw, text_inside_and_apart

from dllm_agents import benchmarks
from dllm_agents.agents.deepdiver.teacher import Teacher
from dllm_agents.agents.play import Player
from dllm_agents.agents.rollout import episode_of
from dllm_agents.analysis.metrics import score
from dllm_agents.client.client import Completion
from dllm_agents.config import Config
from dllm_agents.decoding.settings import Decoding
from dllm_agents.files import write_jsonl
from dllm_agents.frames import write_frame
from dllm_agents.records import Dynamics, Score, TracedCall
from dllm_agents.reporting import published
from dllm_agents.reporting.claims import Group
from dllm_agents.reporting.comparison import masking_pairs
from dllm_agents.reporting.dllm_agent import teams
from dllm_agents.reporting.dllm_agent_decoding import ALIGNED, acceptance, order, published_dynamics
from dllm_agents.reporting.figures import plot
from dllm_agents.reporting.groups import _belongs
from dllm_agents.reporting.inputs import Inputs
from dllm_agents.reporting.layout import shown
from dllm_agents.reporting.tables import make, tabulate

BLOCK = 8
FIGURES = [f"dllm_agent_figure{number}" for number in (2, 3, 4, 5, 6)]
OPTIONS = {"tasks": 4, "train_tasks": 0, "hops": [2]}
PANGU = "openpangu/openPangu-R-7B-Diffusion"


def configuration(**report):
    trained = {"objective": "block_diffusion", "base": PANGU, "logit_shift": True}
    backbones = {
        "ar": {"paradigm": "ar", "training": {"objective": "ar", "base": "openpangu/openPangu-Embedded-7B-model"}},
        "dllm": {"paradigm": "diffusion", "training": trained},
        "naive": {"paradigm": "diffusion", "training": trained | {"context_mask": "naive"}},
        "noisy": {"paradigm": "diffusion", "training": trained | {"context_noise": "noisy"}},
        "both": {"paradigm": "diffusion", "training": trained | {"context_mask": "naive", "context_noise": "noisy"}},
    }
    return Config.model_validate(
        {
            "scale": "test",
            "backbones": backbones,
            "benchmarks": {"multihop_qa": OPTIONS},
            "agents": {name: {"policy": name, "workflow": "deepdiver"} for name in backbones},
            "run": {"benchmarks": ["multihop_qa"], "agents": list(backbones)},
            "report": report,
        }
    )


def decoded(text):
    """A text as if decoded in blocks of 8: a token by the pass before, then two a forward, left to right, at falling entropy."""
    tokens = [text[start : start + 3] for start in range(0, len(text), 3)]
    tokens += [" "] * (-len(tokens) % BLOCK)
    steps, noted, forward = [], {"block": [], "masks": [], "entropy": [], "shown": [0] * 10, "accepted": [0] * 10}, 0
    for block in range(len(tokens) // BLOCK):
        steps.append(forward)
        for masks in range(BLOCK - 1, 0, -2):
            forward += 1
            taken = min(2, masks)
            steps += [forward] * taken
            for name, value in (("block", block), ("masks", masks), ("entropy", masks / 2)):
                noted[name].append(value)
            noted["shown"][4] += masks - taken
            noted["shown"][9] += taken
            noted["accepted"][9] += taken
        forward += 1
    return {"reveal_step": steps, "tokens": tokens, "confidence": [0.95] * len(tokens), "dynamics": Dynamics(**noted)}


class Team:
    """The teacher in both roles, whose planner may `slip`: its first reply is no action."""

    def __init__(self, task, slip, traced):
        self.teacher, self.slip, self.traced = Teacher(task), slip, traced

    def complete(self, role):
        def ask(messages, *, seed, constraint=None):
            if self.slip:
                text, self.slip = self.slip, ""
            else:
                text = getattr(self.teacher, role)(messages, seed=seed).text
            settings = Decoding(strategy="context_causal" if self.traced else "ar", block_length=BLOCK if self.traced else None)
            trace = decoded(text) if self.traced else {}
            return Completion(text, 5, len(text) // 3, 4, 0.01, "stop", decoding=settings, **trace)

        return ask


@pytest.fixture(scope="module")
def played(tmp_path_factory):
    config, folder = configuration(), tmp_path_factory.mktemp("teams")
    benchmark = benchmarks.load("multihop_qa", OPTIONS)
    for agent in config.run.agents:
        player = Player(config, agent, benchmark)
        episodes = []
        for number, task in enumerate(benchmark.tasks("test")):
            slips = {"naive": "<tool_call>{</tool_call>", "noisy": "I go on without a call."}
            team = Team(task, slips.get(agent, "") if number == 0 else "", agent != "ar")
            episodes.append(episode_of(player, task, player.play(task, team), 1.0, ""))
        write_jsonl(folder / f"episodes/multihop_qa/{agent}.jsonl", episodes)
        write_frame(folder / f"scores/multihop_qa/{agent}.parquet", list(score(episodes)), Score)
    return folder


def test_table_1_counts_seekers_turns_calls_and_invalid_actions(played, tmp_path):
    """By hand, two hops: three turns of the planner, two of which hand out a task; two seekers with a search and a report each."""
    tabulate("dllm_agent_table1", configuration(), played, tmp_path / "t")
    with open(tmp_path / "t.csv", newline="") as handle:
        rows = list(csv.DictReader(handle))
    ours = {
        row["agent"]: {r["metric"]: float(r["value"]) for r in rows if r["agent"] == row["agent"]}
        for row in rows
        if row["value"] != "not run"
    }
    plain = {"accuracy": 100.0, "tool_calls": 1.0, "turns": 2.0, "tool_calls_per_episode": 4.0, "turns_per_episode": 7.0}
    assert ours["ar"] == ours["dllm"] == ours["both"] == plain | {"invalid_action_rate": 0.0}
    assert ours["naive"] == ours["noisy"] == plain | {"turns_per_episode": 7.25, "invalid_action_rate": 25.0}
    printed = {(row["agent"], row["metric"]): row["published"] for row in rows if row["published"]}
    assert len(printed) == 16 and float(printed["DLLM Agent", "invalid_action_rate"]) == 6.4
    text = (tmp_path / "t.md").read_text()
    assert "clean, naive" in text and "noisy, naive" in text and "BrowseComp" in text and "| AR Agent |" in text


def test_a_row_of_the_paper_is_known_by_base_and_switches():
    config = configuration()
    names = [published.team_name(config, agent) for agent in config.run.agents]
    without = [f"DLLM Agent without {switch}" for switch in ("span-aware attention alignment", "context-clean corruption")]
    assert names == ["AR Agent", "DLLM Agent", *without, None]
    config.agents["dllm"] = config.agents["dllm"].model_copy(update={"workflow": "planner"})
    assert published.team_name(config, "dllm") is None


def test_a_run_without_teams_says_not_run(tmp_path):
    from matplotlib.text import Text

    config = configuration()
    tabulate("dllm_agent_table1", config, tmp_path / "none", tmp_path / "t")
    assert "| dllm | multi-hop QA | clean, aligned | 0 | not run |" in (tmp_path / "t.md").read_text()
    for name in FIGURES:
        assert any("not run" in text.get_text() for text in draw(name, Inputs(config, tmp_path)).findobj(Text))


@pytest.mark.parametrize("name", FIGURES)
def test_figures_are_the_same_bytes_twice_and_hold_their_text(played, tmp_path, name, monkeypatch):
    config = configuration(style={name: {"dpi": 100}})
    first = [path.read_bytes() for path in plot(name, config, played, tmp_path / "a")]
    assert first == [path.read_bytes() for path in plot(name, config, played, tmp_path / "b")]
    assert text_inside_and_apart(draw(name, Inputs(configuration(), played)), monkeypatch) > 8


def test_the_order_counts_steps_from_the_pass_before_a_block():
    """Section 1.6 of the paper's figures: the first token 0, one accepted in the s-th denoising forward s + 1, in every block anew."""
    trace = decoded("x" * 48)
    cells = order(TracedCall(role="planner", seed=1, **trace), {"strategy": "context_causal", "block_length": BLOCK})
    assert [cell.block for cell in cells] == [0] * 8 + [1] * 8
    assert [cell.step for cell in cells] == [0, 1, 1, 2, 2, 3, 3, 4] * 2
    shifted = TracedCall(role="planner", seed=1, prompt_tokens=5, reveal_step=[0, 1, 2, 2], tokens=list("abcd"))
    assert [cell[1:] for cell in order(shifted, {"strategy": "sdar", "block_length": 4})] == [(0, 0), (0, 1), (0, 2), (1, 0)]
    filled = order(shifted, {"strategy": "sdar", "block_length": 4, "fill_prompt": True})
    assert [cell[1:] for cell in filled] == [(0, 0), (0, 1), (0, 2), (0, 2)]  # the prompt ended with a block


def test_agents_of_other_workflows_are_no_team():
    config = configuration()
    others = {name: config.agents["dllm"].model_copy(update={"workflow": name}) for name in ("ircot", "llm_compiler", "threats")}
    config.agents.update(others)
    run = config.run.model_copy(update={"agents": [*others, *config.run.agents]})
    inputs = Inputs(config.model_copy(update={"run": run}), Path("none"))
    assert teams(inputs) == config.run.agents and "threats" not in inputs.agents
    assert [agent for agent in inputs.agents if _belongs(agent, Group(workflow="team"), inputs, "multihop_qa")] == config.run.agents


def test_the_strategies_whose_blocks_begin_with_the_prompt_are_known():
    from dllm_agents.decoding.settings import Decoding
    from dllm_agents.decoding.strategies import strategy_of

    names = Decoding.model_json_schema()["properties"]["strategy"]["anyOf"][0]["enum"]
    assert tuple(sorted(name for name in names if strategy_of(name).aligned)) == tuple(sorted(ALIGNED))


@pytest.mark.parametrize(("name", "settled", "shown"), [("Figure 4", 186, 1655), ("Figure 6", 310, 858)])
def test_the_papers_curves_are_read_as_ours(name, settled, shown):
    noted, rates = published_dynamics(name)
    following = zip(noted.masks[1:] + [0], noted.block[1:] + [-1], strict=True)
    ends = [masks if after == block else 0 for block, (masks, after) in zip(noted.block, following, strict=True)]
    assert sum(before - after for before, after in zip(noted.masks, ends, strict=True)) == settled and sum(noted.masks) == shown
    assert rates[-1] == 100 and noted.block[-1] + 1 == {"Figure 4": 6, "Figure 6": 10}[name]


def test_acceptance_is_recomputed_from_a_trace():
    noted = decoded("x" * 48)["dynamics"]
    rates = acceptance(noted)
    assert sum(rate / 100 * size for rate, size in zip(rates, noted.shown, strict=True)) == sum(noted.accepted) == 14
    assert [masks for masks in noted.masks if masks == BLOCK - 1] == [7, 7] and rates[9] == 100 and rates[4] == 0


def test_masks_are_compared_between_agents_that_act_alike():
    config = configuration()
    for name in ("dllm", "naive"):
        config.agents[f"{name}-alone"] = config.agents[name].model_copy(update={"workflow": None})
    config.run.agents[:] = list(config.agents)
    assert masking_pairs(Inputs(config, Path("none"))) == [("dllm", "naive"), ("noisy", "both"), ("dllm-alone", "naive-alone")]


def test_an_answer_whose_verdict_cannot_be_read_is_not_judged_and_no_wrong_one(tmp_path):
    agents = {"team": {"policy": "m", "workflow": "deepdiver"}, "unread": {"policy": "m", "workflow": "deepdiver"}}
    section = {"backbones": {"m": {"url": "http://127.0.0.1:9/v1"}}, "benchmarks": {"browsecomp_zh": {"data": "x.xlsx"}}}
    run = {"benchmarks": ["browsecomp_zh"], "agents": list(agents)}
    config = Config.model_validate({"scale": "test", "agents": agents, "run": run, **section})
    for agent, verdicts in {"team": ["correct", "incorrect", "unparsable", "correct"], "unread": ["unparsable"] * 4}.items():
        fields = {"benchmark": "browsecomp_zh", "category": "zh", "agent": agent, "seed": 42, "ended": "answered", "steps": 1}
        fields |= {"invalid_steps": 0, "prompt_tokens": 1, "completion_tokens": 1, "nfe": 1}
        graded = [(f"q{n}", verdict, verdict == "correct") for n, verdict in enumerate(verdicts)]
        rows = [Score(task_id=name, judge=word, success=right, progress=float(right), **fields) for name, word, right in graded]
        write_frame(tmp_path / f"scores/browsecomp_zh/{agent}.parquet", rows, Score)
    table = make("dllm_agent_table1", Inputs(config, tmp_path))
    (accuracy,) = [row for row in table.rows if (row.agent, row.metric) == ("team", "accuracy")]
    assert (accuracy.n, accuracy.value) == (3, pytest.approx(200 / 3))
    assert [(row.agent, row.n, row.value) for row in table.rows if row.metric == "not_judged"] == [("team", 4, 1), ("unread", 4, 4)]
    cells = {line.label: [shown(cell) for cell in line.cells] for block in table.layout.blocks for line in block.lines}
    assert "3 (+ 1 not judged)" in cells["team"] and "4 of 4 not judged" in cells["unread"]
