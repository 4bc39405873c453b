"""A built wheel, installed elsewhere, runs every command from any directory."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from pipeline import ROOT, snakemake_command

STAGES = """
from dllm_agents.cli import parser
import dllm_agents
print(dllm_agents.__file__)
from dllm_agents.cli import COMMANDS
for stage in COMMANDS:
    try:
        parser(stage).parse_args([stage, "--help"])
    except SystemExit as end:
        print("stage", stage, end.code)
"""


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that a wheel of this checkout was installed into."""
    folder = tmp_path_factory.mktemp("wheel")
    source, target = folder / "source", folder / "installed"
    source.mkdir()  # a copy, since a build leaves files beside its source
    for name in ("pyproject.toml", "README.md", "LICENSE", "Snakefile", "paper"):
        shutil.copy2(ROOT / name, source / name, follow_symlinks=False)
    for name in ("workflow", "config", "profiles", "envs"):
        shutil.copytree(ROOT / name, source / name, symlinks=True, ignore=shutil.ignore_patterns("*.egg-info", "__pycache__"))
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    for command in (
        ["wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", str(folder), str(source)],
        ["install", "--no-deps", "--target", str(target), str(folder / "dllm_agents-0.1.0-py3-none-any.whl")],
    ):
        done = subprocess.run([*pip, *command], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr[-2000:]
    shutil.rmtree(source)
    return target


@pytest.fixture
def run(installed: Path, tmp_path: Path):
    """Run Python with the installed package, in an empty directory."""

    def python(*arguments: str) -> str:
        environment = {**os.environ, "PYTHONPATH": str(installed)}
        done = subprocess.run([sys.executable, *arguments], cwd=tmp_path, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, (done.stdout + done.stderr)[-3000:]
        return done.stdout + done.stderr

    return python


def test_every_command_knows_its_arguments(run, installed: Path) -> None:
    said = run("-c", STAGES)
    assert said.startswith(str(installed))
    stages = dict(line.split()[1:] for line in said.splitlines() if line.startswith("stage "))
    assert set(stages.values()) == {"0"} and {"rollout", "tabulate", "status", "export"} <= set(stages)


def test_tables_prompts_and_the_plan_come_with_it(run, finished_run: Path, tmp_path: Path) -> None:
    results = str(finished_run / "results/test")
    config = str(finished_run / "results/test/config.yaml")
    run("-m", "dllm_agents", "tabulate", "diffuagent_table1", "--config", config, "--results", results, "--output", "mine")
    assert (tmp_path / "mine.csv").read_bytes() == (finished_run / "results/test/tables/diffuagent_table1.csv").read_bytes()
    run("-m", "dllm_agents", "tabulate", "claims", "--config", config, "--results", results, "--output", "claims")
    run("-m", "dllm_agents", "paper", "--config", config, "--results", results, "--output", "paper.pdf")
    assert (tmp_path / "paper.pdf").read_bytes().startswith(b"%PDF")
    assert "compact" in run("-c", "from dllm_agents.prompts import style_folder; print(style_folder('compact'))")
    assert "sample_tasks" in run("-m", "dllm_agents", "status")


def test_it_brings_what_the_checkout_has(installed: Path) -> None:
    """Nothing that a command reads stays behind; the checkout's old places are the same files."""
    data = ROOT / "workflow/dllm_agents/data"
    assert (ROOT / "paper/published/models.csv").samefile(data / "paper/published/models.csv")
    for path in data.glob("[!w]*/**/*"):
        if path.is_file():
            assert (installed / "dllm_agents/data" / path.relative_to(data)).read_bytes() == path.read_bytes()
    for name in ("Snakefile", "config/demo.yaml", "config/accelerate/ddp.yaml", "workflow/rules/train.smk", "envs/main.yaml"):
        assert (installed / "dllm_agents/data/workflow" / name).read_bytes() == (ROOT / name).read_bytes()


def test_it_runs_the_workflow(run, installed: Path) -> None:
    command = snakemake_command(Path(), "--dry-run", "--cores", "1", "tasks")[1:]
    command[command.index("--snakefile") + 1] = str(installed / "dllm_agents/data/workflow/Snakefile")
    assert "sample_tasks" in run(*command[: command.index("--directory")], *command[command.index("--directory") + 2 :])
