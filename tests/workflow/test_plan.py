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

from dllm_agents import dependencies
from dllm_agents.cli import parser
from dllm_agents.config import Config, load
from dllm_agents.dag import prepare, resources
from dllm_agents.dag.files import Files
from dllm_agents.errors import StageError

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
    told = {line.partition(" 2>&1")[0] for line in re.findall(r"dllm-agents (.*)", done.stdout) if "/.config/" in line}
    stages = {line.split()[0] for line in told}
    for line in told:
        parser(line.split()[0]).parse_args(shlex.split(line))
    expected = {"sample-tasks", "rollout", "score", "classify-failures", "replay-verifiers", "attention", "tabulate", "plot", "browse"}
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
    def gpus(agent: str, benchmark: str, config: Config = paper) -> int:
        return resources.rollout_gpus(config, agent, benchmark)

    assert gpus("llada-8b", "bfcl") == 1 and gpus("qwen3-8b-memory-qwen3-8b", "babyai") == 1
    assert gpus("qwen3-8b-memory-llada-8b", "babyai") == 2
    assert gpus("qwen3-8b-memory-llada-8b", "babyai", load([PAPER], {"backbones": {"llada-8b": {"gpus": 4}}})) == 5


def test_modules_take_gpus_and_trainings_only_where_their_workflow_has_them() -> None:
    """The README's own agent `with-memory`: memory and verifier do nothing in tool calling and search, and ask for nothing there."""
    agent = {"policy": "qwen3-8b", "memory": {"backbone": "llada-8b"}, "verifier": {"backbone": "sdar-8b-sft"}}
    config = load([PAPER], {"agents": {"with-memory": agent}, "run": {"agents": ["with-memory"], "verification": {"agents": []}}})
    asked = {benchmark: resources.rollout_gpus(config, "with-memory", benchmark) for benchmark in config.run.benchmarks}
    assert asked == {"alfworld": 2, "scienceworld": 2, "babyai": 2, "bfcl": 1, "multihop_qa": 1, "browsecomp_zh": 1}
    trained = {benchmark for backbone, benchmark in Files(config).trained() if backbone == "sdar-8b-sft"}
    assert trained == {"alfworld", "scienceworld", "babyai"}


def test_the_estimate_counts_jobs_that_take_gpus() -> None:
    said = resources.estimate([("rollout", 2, 90), ("rollout", 0, 90), ("train", 1, 60), ("score", 0, 15)])
    lines = [line.split() for line in said.splitlines()[1:]]
    assert lines == [
        ["rollout", "1", "jobs", "3.0", "GPU-hours"],
        ["train", "1", "jobs", "1.0", "GPU-hours"],
        ["total", "4.0", "GPU-hours"],
    ]
    assert resources.estimate([("score", 0, 15)]) == ""


@pytest.mark.workflow
def test_the_estimate_is_that_of_the_target(tmp_path: Path) -> None:
    def total(target: str) -> float:
        done = subprocess.run(
            snakemake_command(tmp_path, "--dry-run", "--cores", "2", target, config=[PAPER]),
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr[-3000:]
        return float(re.findall(r"total +([\d,.]+) GPU-hours", done.stderr)[0].replace(",", ""))

    assert 0 < total("results/paper/tables/searcher_table1.csv") < total("report") / 2


def test_an_endpoint_takes_no_gpu_and_replays_nothing(paper: Config) -> None:
    served = load([PAPER], {"endpoints": {"llada-8b": "http://gpu7:8000/v1"}})
    assert served.backbones["llada-8b"].url == "http://gpu7:8000/v1" and served.backbones["llada-8b"].model
    assert (
        resources.rollout_gpus(served, "llada-8b", "bfcl") == 0
        and resources.rollout_gpus(served, "qwen3-8b-memory-llada-8b", "babyai") == 1
    )
    assert resources.serving_gpus(served, "llada-8b") == 0 and resources.serving_gpus(paper, "llada-8b") == 1
    for agent, benchmark in Files(paper).plays():
        assert dependencies.of_episodes(served, agent, benchmark) == dependencies.of_episodes(paper, agent, benchmark)
    # What stages are given is this configuration, written down and read again.
    assert Config.model_validate(served.model_dump(mode="json")) == served
    with pytest.raises(StageError, match="endpoints: unknown backbone 'llama'"):
        load([PAPER], {"endpoints": {"llama": "http://gpu7:8000/v1"}})


def test_retries_ask_for_more(paper: Config) -> None:
    assert [resources.memory(paper, "rollout", attempt) for attempt in (1, 2, 3)] == [64000, 128000, 192000]
    assert resources.minutes(paper, "train", 2) == 2 * resources.minutes(paper, "train", 1)
    assert resources.minutes(paper, "rollout", 1) == 120 and resources.memory(paper, "report", 1) == 1000


def test_a_part_of_a_rollout_is_named_for_every_agent_but_the_scripted(paper: Config) -> None:
    files = Files(load([PAPER], {"run": {"shards": 2}}))
    assert files.parts("llada-8b") == ["1-of-2", "2-of-2"] and files.parts("random") == ["1-of-1"]


def test_nothing_stays_in_the_future_when_a_clock_has_jumped_back(tmp_path: Path) -> None:
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
    prepare.clamp_future_times(tmp_path / "results/demo")
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
