"""Preference pairs: which rollouts make one, why others do not, and what is learnt from them."""

import json
from pathlib import Path

import pytest

from dllm_agents import benchmarks, pairs
from dllm_agents.config import Config
from dllm_agents.errors import StageError
from dllm_agents.files import read_jsonl, write_jsonl
from dllm_agents.records import Episode, EpisodeStep, Pair, Task
from dllm_agents.training import data
from dllm_agents.training.stage import train

SMALL = {"hidden_size": 16, "layers": 1, "heads": 2}
BASE = {"objective": "block_diffusion", **SMALL}
VRPO = {"objective": "agentic_vrpo", "base": "sft", "learning_rate": 1e-2, "muon_learning_rate": None}


def configuration(objective: str = "agentic_vrpo", **preference: object) -> Config:
    learner = {"paradigm": "diffusion", "prompt": "compact", "training": {**VRPO, "objective": objective, "preference": preference}}
    return Config.model_validate(
        {
            "benchmarks": {
                "babyai": {
                    "levels": ["GoToRedBallNoDists", "GoToObj"],
                    "max_steps": 3,
                    "train_tasks": 24,
                    "training": {"supervised_tokens": 400, "batch_size": 4},
                }
            },
            "backbones": {
                "sft": {
                    "paradigm": "diffusion",
                    "prompt": "compact",
                    "training": BASE,
                    "decoding": {"strategy": "sdar", "block_length": 8, "max_new_tokens": 24},
                },
                "vrpo": learner,
            },
            "agents": {"vrpo": {"policy": "vrpo"}},
            "run": {"benchmarks": ["babyai"], "agents": ["vrpo"]},
        }
    )


def task(number: int) -> Task:
    goal = f"go to the {['red', 'blue'][number % 2]} ball"
    return Task(id=f"babyai/GoToObj/{number}", benchmark="babyai", split="train", category="GoToObj", seed=number, version="x", goal=goal)


def episode(number: int, *actions: str | None, success: bool = False, ended: str = "step_limit") -> Episode:
    steps = [
        EpisodeStep(index=index, thought="I go." if action else None, action=action, observation="A wall.", environment_seconds=index + 1.5)
        for index, action in enumerate(actions)
    ]
    common = {"benchmark": "babyai", "category": "GoToObj", "goal": task(number).goal, "agent": "sft", "seed": 1, "max_steps": 3}
    ended = "success" if success else ended
    return Episode(task_id=task(number).id, steps=steps, success=success, ended=ended, initial_observation="A wall.", **common)


def made(first: Episode, second: Episode) -> Pair:
    (pair,) = pairs.make_pairs(benchmarks.load("babyai", configuration()), [task(0)], [[first], [second]], "sft", (1, 2))
    return pair


def test_a_pair_has_exactly_one_right_rollout_and_no_clock_in_it() -> None:
    won, lost = episode(0, "turn left", "move forward", success=True), episode(0, "turn left", "turn right")
    for first, second in ((won, lost), (lost, won)):
        pair = made(first, second)
        assert pair.rejected is None and pair.winner is not None and pair.loser is not None
        assert [step.action for step in pair.winner.steps] == ["turn left", "move forward"] and pair.winner.success
        assert not pair.loser.success and not any(step.environment_seconds or step.call for step in (*pair.winner.steps, *pair.loser.steps))


@pytest.mark.parametrize(
    ("reason", "first", "second"),
    [
        ("both right", episode(0, "a", success=True), episode(0, "b", success=True)),
        ("both wrong", episode(0, "a"), episode(0, "b")),
        ("malformed", episode(0, "a", success=True), episode(0, "b", None)),
        ("error", episode(0, "a", success=True), episode(0, ended="error")),
    ],
)
def test_every_other_query_is_kept_with_its_reason(reason: str, first: Episode, second: Episode) -> None:
    pair = made(first, second)
    assert pair.rejected == reason and reason in pairs.REJECTIONS and pair.winner is None and pair.loser is None


def test_steps_that_both_begin_with_are_left_out() -> None:
    pair = made(episode(0, "turn left", "move forward", success=True), episode(0, "turn left", "turn right", "turn right"))
    winner, loser = data.differing(benchmarks.load("babyai", configuration()), pair, "compact")
    assert [exchange.reply.rpartition(" ")[2] for exchange in winner] == ["forward"]
    assert [exchange.reply.rpartition(" ")[2] for exchange in loser] == ["right", "right"]


def some_pairs(path: Path, count: int) -> Path:
    winners = [episode(number, f"go to {number % 3}", success=True) for number in range(count)]
    losers = [episode(number, "turn left", "turn left") for number in range(count)]
    tasks = [task(number) for number in range(count)]
    write_jsonl(path, pairs.make_pairs(benchmarks.load("babyai", configuration()), tasks, [winners, losers], "sft", (1, 2)))
    return path


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from dllm_agents.trajectories import collect

    folder = tmp_path_factory.mktemp("base")
    config = configuration()
    write_jsonl(folder / "tasks.jsonl", benchmarks.load("babyai", config).tasks("train"))
    write_jsonl(folder / "accepted.jsonl", collect(config, "babyai", read_jsonl(folder / "tasks.jsonl", Task)))
    train(config, "sft", "babyai", folder / "accepted.jsonl", folder / "model")
    return folder


def test_training_on_pairs_lowers_the_loss_and_repeats_to_the_byte(base: Path, tmp_path: Path) -> None:
    source = some_pairs(tmp_path / "pairs.jsonl", 12)
    config = configuration(epochs=4, batch_size=4)
    reports = [train(config, "vrpo", "babyai", source, tmp_path / name, base / "model") for name in "ab"]
    weights = [(tmp_path / name / "model.safetensors").read_bytes() for name in "ab"]
    assert weights[0] == weights[1] != (base / "model/model.safetensors").read_bytes()
    curve = [loss for _, loss in reports[0].loss_curve]
    assert curve[0] == pytest.approx(0.693147, abs=1e-5) and curve[-1] < 0.6, "it begins at log 2, where policy and reference agree"
    assert reports[0].steps == 12 and reports[0].examples == 12
    assert json.loads((tmp_path / "a/config.json").read_text())["dllm"]["block_length"] == 8


def test_rollouts_are_hot_and_may_be_p_react() -> None:
    config = configuration(temperature=0.7, acting="p_react", queries=5)
    rolled = pairs.rolled_out(config, "sft", config.backbones["vrpo"].training, 9)
    decoding = rolled.decoding("sft", "policy", "babyai")
    assert decoding.temperature == 0.7 and decoding.tool_prefill is not None and decoding.tool_prefill.rule == "predicted"
    assert (rolled.agents["sft"].acting, rolled.agents["sft"].seed, rolled.backbones["sft"].tasks["babyai"]) == ("p_react", 9, 5)
    assert config.backbones["sft"].tasks == {}, "the run's own configuration stays"


def test_just_grpo_learns_from_groups_that_were_rolled_out_from_left_to_right(base: Path, tmp_path: Path) -> None:
    config = configuration("just_grpo", epochs=4, batch_size=4)
    decoding = pairs.rolled_out(config, "sft", config.backbones["vrpo"].training, 9).decoding("sft", "policy", "babyai")
    assert decoding.remasking == "sequential" and decoding.threshold is None
    report = train(config, "vrpo", "babyai", some_pairs(tmp_path / "pairs.jsonl", 12), tmp_path / "model", base / "model")
    curve = [loss for _, loss in report.loss_curve]
    assert curve[0] == pytest.approx(0, abs=1e-5) and curve[-1] < -0.01, "it begins where policy and old policy agree"
    assert json.loads((tmp_path / "model/config.json").read_text())["dllm"]["attention"] == "block_causal"


def test_too_few_pairs_leave_a_reason_that_later_stages_read_as_not_run(base: Path, tmp_path: Path) -> None:
    from dllm_agents.agents.rollout import Shard, rollout
    from dllm_agents.analysis.stage import classify_file, score_file
    from dllm_agents.serving.probe import probe

    config, model = configuration(min_pairs=5), tmp_path / "model"
    assert train(config, "vrpo", "babyai", some_pairs(tmp_path / "pairs.jsonl", 4), model, base / "model") is None
    assert [path.name for path in model.iterdir()] == ["not_run.json"]
    found = probe(config, "vrpo", model)
    assert not found.healthy and found.error == "4 preference pairs on babyai, 5 are needed"
    write_jsonl(tmp_path / "tasks.jsonl", benchmarks.load("babyai", config).tasks("test"))
    rollout(config, "vrpo", Shard(tmp_path / "tasks.jsonl", tmp_path / "episodes.jsonl", {"vrpo": model}))
    assert (tmp_path / "episodes.jsonl").read_bytes() == b""
    assert score_file(config, tmp_path / "episodes.jsonl", tmp_path / "tasks.jsonl", tmp_path / "scores.parquet") == 0
    files = [tmp_path / name for name in ("episodes.jsonl", "scores.parquet", "tasks.jsonl", "failures.parquet")]
    assert classify_file(config, *files) == 0


def test_pairs_are_sampled_through_the_runner_and_every_query_is_accounted_for(base: Path, tmp_path: Path) -> None:
    config = configuration(queries=4)
    counts = pairs.sample_pairs(config, "vrpo", [base / "tasks.jsonl"], [base / "model"], tmp_path / "pairs.jsonl")
    found = read_jsonl(tmp_path / "pairs.jsonl", Pair)
    assert counts.total() == len(found) == 4 and {pair.backbone for pair in found} == {"sft"}
    assert counts["kept"] == sum(pair.rejected is None for pair in found)
    assert [path.name for path in tmp_path.iterdir()] == ["pairs.jsonl"], "the journals are gone"


def test_bad_input_is_one_clear_line(base: Path, tmp_path: Path) -> None:
    config = configuration()
    with pytest.raises(StageError, match="'sft': learns from no pairs"):
        pairs.sample_pairs(config, "sft", [], [], tmp_path / "pairs.jsonl")
    with pytest.raises(StageError, match="pass its checkpoint with --base"):
        train(config, "vrpo", "babyai", some_pairs(tmp_path / "pairs.jsonl", 12), tmp_path / "m")
    with pytest.raises(StageError, match="holds no checkpoint: why"):
        (tmp_path / "m").mkdir()
        (tmp_path / "m/not_run.json").write_text('{"reason": "why"}')
        train(config, "vrpo", "babyai", tmp_path / "pairs.jsonl", tmp_path / "n", tmp_path / "m")
    for wrong, message in (({"base": None}, "needs `base`"), ({"base": "other"}, "unknown block-diffusion backbone")):
        broken = config.model_dump(exclude={"backbones": {"vrpo": {"training": {"preference"}}}})
        broken["backbones"]["vrpo"]["training"] |= wrong
        with pytest.raises(ValueError, match=message):
            Config.model_validate(broken)
