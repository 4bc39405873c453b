"""What the workflow asks of trainings: their inputs, and the program that starts them."""

from pathlib import Path

from dllm_agents.config import Config
from dllm_agents.dag.files import Files
from dllm_agents.dag.resources import launcher


def config(**training: object) -> Config:
    backbones = {
        "sft": {"paradigm": "diffusion", "dtype": "bfloat16", "training_gpus": 4, "training": {"objective": "block_diffusion", **training}},
        "vrpo": {"paradigm": "diffusion", "training": {"objective": "vrpo", "base": "sft"}},
    }
    agents = {"vrpo": {"policy": "vrpo"}}
    run = {"benchmarks": ["babyai"], "agents": ["vrpo"]}
    return Config.model_validate({"scale": "s", "backbones": backbones, "agents": agents, "run": run})


def test_preferences_are_learnt_from_pairs_and_a_base_trained_here() -> None:
    files, results = Files(config()), Path("results/s")
    assert files.training_inputs("sft", "babyai") == {"trajectories": [results / "trajectories/babyai/accepted.jsonl"]}
    inputs = {"pairs": [results / "pairs/vrpo.jsonl"], "base": [results / "models/sft/babyai"]}
    assert files.training_inputs("vrpo", "babyai") == inputs
    assert files.pair_inputs("vrpo") == {"tasks": [results / "tasks/train/babyai.jsonl"], "models": [results / "models/sft/babyai"]}


def test_preferences_are_learnt_on_questions_of_their_own_where_they_are_named() -> None:
    settings = config().model_dump(exclude_unset=True) | {"benchmarks": {"multihop_qa": {"pair_sets": {"stage2": "stage2.jsonl"}}}}
    settings["run"]["benchmarks"] = ["multihop_qa"]
    files = Files(Config.model_validate(settings))
    assert files.pair_inputs("vrpo")["tasks"] == [Path("results/s/tasks/pairs/multihop_qa.jsonl")]
    assert Path("results/s/tasks/pairs/multihop_qa.jsonl") in files.between()


def test_one_process_needs_no_launcher() -> None:
    assert launcher(config(), "sft") == "dllm-agents"


def test_a_node_of_gpus_is_launched_by_accelerate() -> None:
    command = launcher(config(launch="fsdp2"), "sft")
    assert command.startswith("accelerate launch --config_file ") and "config/accelerate/fsdp2.yaml" in command
    assert command.endswith("--num_machines 1 --num_processes 4 --mixed_precision bf16 --module dllm_agents")


def test_every_node_of_many_learns_its_rank_from_slurm() -> None:
    command = launcher(config(launch="ddp", nodes=2), "sft")
    assert command.startswith("srun --nodes 2 --ntasks-per-node 1 bash -c ")
    for part in ("--num_machines 2 --num_processes 8", "--machine_rank $SLURM_NODEID", "scontrol show hostnames $SLURM_JOB_NODELIST"):
        assert part in command
