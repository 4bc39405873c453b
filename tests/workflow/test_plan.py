"""The plan of the paper's scale on clusters, and what endpoints, parts and resources change in it."""

import os
import re
import shlex
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path

import pytest
from pipeline import ROOT, snakemake_command

from dllm_agents.cli import _shards, parser
from dllm_agents.config import Config, load
from dllm_agents.errors import StageError
from dllm_agents.workflow import Plan

PAPER = ROOT / "config" / "paper.yaml"
PUBLISHED = {"qwen3-8b", "ministral-8b", "llada-8b", "dream-7b", "fdllm-7b", "dvar-8b"}


@pytest.fixture(scope="module")
def paper() -> Config:
    return load([PAPER])


@pytest.mark.workflow
def test_the_papers_scale_is_planned(tmp_path: Path) -> None:
    if find_spec("snakemake_executor_plugin_slurm") is None:
        pytest.skip("snakemake-executor-plugin-slurm is not installed (envs/cluster.txt)")
    command = snakemake_command(tmp_path, "--dry-run", "--workflow-profile", str(ROOT / "profiles/slurm"), config=[PAPER])
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    assert int(re.findall(r"^total +(\d+)$", done.stdout, re.MULTILINE)[0]) >= 300
    assert re.search(r"rollout +\d+ jobs +[\d,.]+ GPU-hours", done.stderr)


@pytest.mark.workflow
@pytest.mark.parametrize("scale", ["demo", "paper"])
def test_every_stage_understands_what_its_rule_tells_it(scale: str, tmp_path: Path) -> None:
    command = snakemake_command(tmp_path, "--dry-run", "-p", "report", "episodes", config=[PAPER.with_name(f"{scale}.yaml")])
    done = subprocess.run([*command, "--cores", "2"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    told = {line.partition(" 2>&1")[0] for line in re.findall(r"dllm-agents (.*)", done.stdout) if "--config $" in line}
    stages = {parser().parse_args(shlex.split(line)).run.__name__ for line in told}
    expected = {"sample_tasks", "rollout", "score", "classify_failures", "replay_verifiers", "attention", "tabulate", "plot", "browse"}
    assert stages >= (expected if scale == "demo" else expected - {"attention"})


@pytest.mark.workflow
def test_the_kubernetes_profile_is_planned_over_a_shared_volume(tmp_path: Path) -> None:
    for plugin in ("snakemake_executor_plugin_kubernetes", "snakemake_storage_plugin_fs"):
        if find_spec(plugin) is None:
            pytest.skip(f"{plugin} is not installed (envs/kubernetes.txt)")
    volume = ["--default-storage-prefix", str(tmp_path / "volume"), "--kubernetes-persistent-volumes", f"claim:{tmp_path / 'volume'}"]
    command = snakemake_command(tmp_path, "--dry-run", "-p", "--workflow-profile", str(ROOT / "profiles/kubernetes"), *volume)
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    assert f"{tmp_path}/volume/results/test/tables/diffuagent_table1.csv (send to storage)" in done.stdout
    assert "gpu_manufacturer=nvidia" in done.stdout
    # Every file goes by the name that the storage plugin gives it; what TensorBoard reads stays on the node.
    commands = re.findall(r"dllm-agents .*", done.stdout)
    assert commands and not [found for line in commands for found in re.findall(r"(?<!\S)results/test/(?!logs/tensorboard)\S*", line)]


def test_every_published_backbone_and_module_plays(paper: Config) -> None:
    agents = {name: paper.agents[name].backbones for name in paper.run.agents}
    assert {backbones.get("policy") for backbones in agents.values()} >= PUBLISHED | {"sdar-8b"}
    for role, benchmark in {"memory": "babyai", "selector": "bfcl", "editor": "bfcl"}.items():
        playing = {backbones["policy"]: set() for backbones in agents.values() if role in backbones}
        for name, backbones in agents.items():
            if role in backbones:
                playing[backbones["policy"]].add(backbones[role])
                assert benchmark in paper.agent_benchmarks(name)
        diffusion = PUBLISHED - {"qwen3-8b", "ministral-8b"}
        assert playing == {name: diffusion | {name} for name in ("qwen3-8b", "ministral-8b")}
    assert set(paper.run.verification.backbones) == PUBLISHED


def test_one_gpu_for_each_server_and_two_where_two_models_collaborate(paper: Config) -> None:
    plan = Plan(paper)
    assert plan.rollout_gpus("llada-8b") == 1 and plan.rollout_gpus("qwen3-8b-memory-qwen3-8b") == 1
    assert plan.rollout_gpus("qwen3-8b-memory-llada-8b") == 2
    wider = load([PAPER], {"backbones": {"llada-8b": {"gpus": 4}}})
    assert Plan(wider).rollout_gpus("qwen3-8b-memory-llada-8b") == 5


def test_agents_with_the_same_backbones_share_jobs() -> None:
    demo = load([PAPER.with_name("demo.yaml")], {})
    jobs = {tuple(job.agents) for job in Plan(demo).rollouts()}
    assert ("tiny-full", "full-react", "full-p-react", "full-p-react-bias1") in jobs and ("tiny-block", "block-memory-block") in jobs
    assert {("random",), ("empty",), ("teacher",)} <= jobs
    assert sorted(agent for job in jobs for agent in job) == sorted(demo.run.agents)
    alone = load([PAPER.with_name("demo.yaml")], {"run": {"agents_per_job": 1}})
    assert all(len(job.agents) == 1 for job in Plan(alone).rollouts())
    shared, each = (Plan(load([PAPER], {"run": {"agents_per_job": count}})).gpu_hours()["rollout"] for count in (4, 1))
    assert shared[0] < each[0] and shared[1] == each[1]  # fewer jobs that ask for more time


def test_the_estimate_counts_the_gpus_that_pairs_are_sampled_on() -> None:
    gpus = {"backbones": {name: {"gpus": 2, "training_gpus": 1} for name in ("tiny-ar", "tiny-block", "tiny-block-vrpo")}}
    hours = Plan(load([ROOT / "config" / "test.yaml"], gpus | {"resources": {"rollout": {"minutes": 90}}})).gpu_hours()
    assert hours["pairs"] == (1, 3.0) and hours["train"] == (5, 5.0)


def test_an_endpoint_takes_no_gpu_and_replays_nothing(paper: Config) -> None:
    served = load([PAPER], {"endpoints": {"llada-8b": "http://gpu7:8000/v1"}})
    assert served.backbones["llada-8b"].url == "http://gpu7:8000/v1" and served.backbones["llada-8b"].model
    assert Plan(served).rollout_gpus("llada-8b") == 0 and Plan(served).rollout_gpus("qwen3-8b-memory-llada-8b") == 1
    assert Plan(served).gpu_hours()["probe"][1] == Plan(paper).gpu_hours()["probe"][1] - 1  # an hour on one GPU less
    for agent in ("llada-8b", "qwen3-8b-memory-llada-8b"):
        assert Plan(served).agent_settings(agent) == Plan(paper).agent_settings(agent)
    # What stages are given is this configuration, written down and read again.
    assert Config.model_validate(served.model_dump(mode="json")) == served
    with pytest.raises(StageError, match="endpoints: unknown backbone 'llama'"):
        load([PAPER], {"endpoints": {"llama": "http://gpu7:8000/v1"}})


def test_retries_ask_for_more(paper: Config) -> None:
    plan = Plan(paper)
    assert [plan.memory("rollout", attempt) for attempt in (1, 2, 3)] == [64000, 128000, 192000]
    assert plan.minutes("train", 2) == 2 * plan.minutes("train", 1)
    assert plan.minutes("rollout", 1) == 240 and plan.memory("report", 1) == 1000


@pytest.mark.parametrize(
    "arguments, said",
    [
        (["--agent", "random", "--agent", "empty", "--tasks", "t", "--output", "o"], "give --tasks once for each --agent"),
        (["--agent", "random", "--tasks", "t", "--output", "o", "p"], "as many --output as --tasks"),
        (["--agent", "random", "--tasks", "t", "--output", "o", "--replay", "r", "s"], "as many --replay as --tasks"),
        (["--agent", "random", "--tasks", "t", "--output", "o"] * 2, "name every --agent once"),
    ],
)
def test_a_rollout_of_several_agents_is_told_apart(arguments: list[str], said: str) -> None:
    ended = subprocess.run([sys.executable, "-m", "dllm_agents", "rollout", *arguments], capture_output=True, text=True)
    assert ended.returncode == 1 and said in ended.stderr and len(ended.stderr.strip().splitlines()) == 1


def test_a_job_of_several_agents_in_parts_is_told_everything_once() -> None:
    plan = Plan(load([PAPER.with_name("demo.yaml")], {"run": {"shards": 2}}))
    job = next(job for job in plan.rollouts() if "ar-selector-block" in job.agents)
    assert job.agents[0] == "ar-memory-block" and job.parts == 2
    place = "results/demo/episodes/{benchmark}/parts/{agent}.1-of-2.jsonl"
    tasks = plan.played(job, "results/demo/tasks/{benchmark}.jsonl")
    files = tasks, plan.rollout_models(job), plan.rollout_trajectories(job), plan.played(job, place)
    arguments = shlex.split(plan.rollout_arguments(job, *files) + " --part 1-of-2")
    args = parser().parse_args(["rollout", "--config", str(PAPER), *arguments])
    assert args.agent == job.agents and args.part == (1, 2)
    shards = {agent: _shards(args, position, "tiny-ar") for position, agent in enumerate(args.agent)}
    assert [str(shard.output) for agent in job.agents for shard in shards[agent]] == plan.played(job, place)
    (bfcl,) = shards["ar-selector-block"]
    models = {name: Path(f"results/demo/models/{name}/bfcl") for name in ("tiny-ar", "tiny-block")}
    assert bfcl.tasks == Path("results/demo/tasks/bfcl.jsonl") and dict(bfcl.models) == models and bfcl.part == (1, 2)


def test_nothing_stays_in_the_future_when_a_clock_has_jumped_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(os, "environ", dict(os.environ))
    made, later, earlier = (tmp_path / "results/demo" / name for name in ("models/made.json", "trajectories/later.jsonl", "earlier.jsonl"))
    for path, ahead in ((made, 3600), (later, 7200), (earlier, -3600)):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
        os.utime(path, (time.time() + ahead,) * 2)
    link, elsewhere = tmp_path / "results/demo/link", tmp_path / "elsewhere"
    elsewhere.touch()
    os.utime(elsewhere, (time.time() + 3600,) * 2)
    link.symlink_to(elsewhere)
    kept, untouched = earlier.stat().st_mtime, elsewhere.stat().st_mtime
    Plan.configure([str(PAPER.with_name("demo.yaml"))], {})
    assert abs(made.stat().st_mtime - time.time()) < 60 and made.stat().st_mtime == later.stat().st_mtime
    assert (earlier.stat().st_mtime, elsewhere.stat().st_mtime) == (kept, untouched)


def test_names_that_files_and_rules_are_named_after_are_plain() -> None:
    for key in ("agents", "backbones", "add"):
        with pytest.raises(StageError, match=rf"{key}\.a/b: files and rules are named after it"):
            load([PAPER], {key: {"a/b": {"policy": "qwen3-8b"} if key == "agents" else {"model": "x"}}})


def test_a_part_is_named_in_full() -> None:
    for wrong in ("0-of-4", "5-of-4", "one"):
        command = [sys.executable, "-m", "dllm_agents", "rollout", "--agent", "random", "--tasks", "t", "--output", "o", "--part", wrong]
        ended = subprocess.run(command, capture_output=True, text=True)
        assert ended.returncode == 2 and "is no part such as 2-of-8" in ended.stderr
