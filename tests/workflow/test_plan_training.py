"""What the workflow asks of trainings: their inputs, and the program that starts them."""

from dllm_agents.config import Config
from dllm_agents.workflow import Plan


def plan(**training: object) -> Plan:
    backbones = {
        "sft": {"paradigm": "diffusion", "dtype": "bfloat16", "training_gpus": 4, "training": {"objective": "block_diffusion", **training}},
        "vrpo": {"paradigm": "diffusion", "training": {"objective": "vrpo", "base": "sft"}},
    }
    agents = {"vrpo": {"policy": "vrpo"}}
    run = {"benchmarks": ["babyai"], "agents": ["vrpo"]}
    return Plan(Config.model_validate({"scale": "s", "backbones": backbones, "agents": agents, "run": run}))


def test_preferences_are_learnt_from_pairs_and_a_base_trained_here() -> None:
    assert plan().training_inputs("sft", "babyai") == {"trajectories": "results/s/trajectories/babyai/accepted.jsonl"}
    inputs = {"pairs": "results/s/pairs/vrpo.jsonl", "base": "results/s/models/sft/babyai"}
    assert plan().training_inputs("vrpo", "babyai") == inputs
    assert plan().pair_inputs("vrpo") == {"tasks": ["results/s/tasks/train/babyai.jsonl"], "models": ["results/s/models/sft/babyai"]}


def test_one_process_needs_no_launcher() -> None:
    assert plan().launcher("sft") == "dllm-agents"


def test_a_node_of_gpus_is_launched_by_accelerate() -> None:
    command = plan(launch="fsdp2").launcher("sft")
    assert command.startswith("accelerate launch --config_file ") and "config/accelerate/fsdp2.yaml" in command
    assert command.endswith("--num_machines 1 --num_processes 4 --mixed_precision bf16 --module dllm_agents")


def test_every_node_of_many_learns_its_rank_from_slurm() -> None:
    command = plan(launch="ddp", nodes=2).launcher("sft")
    assert command.startswith("srun --nodes 2 --ntasks-per-node 1 bash -c ")
    for part in ("--num_machines 2 --num_processes 8", "--machine_rank $SLURM_NODEID", "scontrol show hostnames $SLURM_JOB_NODELIST"):
        assert part in command
