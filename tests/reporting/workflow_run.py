"""A run of the workflows beside the plain ones: search, P-ReAct, planner, modules, verifiers, preference training. A dozen tasks each."""

from pathlib import Path

from dllm_agents.config import BFCL_SINGLE_TURN, Config
from dllm_agents.files import write_json, write_jsonl
from dllm_agents.frames import write_frame
from dllm_agents.records import EpisodeStep, Exit, Failure, Score, SearchMeasures, Task, TracedCall, TracedEpisode
from dllm_agents.stage_records import Probe

QUESTIONS = 12
TOKENS = ["<think>", "I", " need", " it", "</think>", "\n", "<tool_call>", '{"name": "search"}', "</tool_call>"]
THINK_FIRST, CALL_FIRST = [0, 1, 2, 3, 4, 5, 6, 7, 8], [0, 40, 41, 42, 43, 44, 0, 3, 0]


def configuration(**report) -> Config:
    tiny = {"paradigm": "diffusion", "training": {"objective": "block_diffusion"}}
    vrpo = {"paradigm": "diffusion", "training": {"objective": "block_diffusion", "base": "block"}}
    return Config.model_validate(
        {
            "scale": "test",
            "backbones": {
                "ar": {"training": {"objective": "ar"}},
                "block": tiny,
                "vrpo": vrpo,
                "ready": {"model": "m", "paradigm": "diffusion"},
            },
            "agents": {
                "ar": {"policy": "ar"},
                "block": {"policy": "block"},
                "vrpo": {"policy": "vrpo", "benchmarks": ["babyai"]},
                "ready": {"policy": "ready", "benchmarks": ["multihop_qa"]},
                "first": {"policy": "ar", "acting": "tool_first", "benchmarks": ["multihop_qa"]},
                "parallel": {"policy": "block", "acting": "p_react", "benchmarks": ["multihop_qa"]},
                "team": {"policy": "block", "workflow": "planner", "benchmarks": ["multihop_qa"]},
                "remembers": {"policy": "ar", "memory": {"backbone": "block"}, "benchmarks": ["babyai"]},
                "selects": {"policy": "ar", "selector": {"backbone": "block"}, "benchmarks": ["bfcl"]},
            },
            "benchmarks": {"bfcl": {"categories": BFCL_SINGLE_TURN}},
            "run": {
                "benchmarks": ["babyai", "bfcl", "multihop_qa"],
                "agents": ["teacher", "ar", "block", "vrpo", "ready", "first", "parallel", "team", "remembers", "selects"],
            },
            "report": report,
        }
    )


def outcome(agent: str, benchmark: str, number: int) -> bool:
    skill = {"teacher": 12, "vrpo": 9, "block": 6, "ready": 0, "first": 3, "parallel": 6, "team": 4}.get(agent, 6)
    return number % 12 < skill


def episode(agent: str, benchmark: str, category: str, number: int, config: Config) -> TracedEpisode:
    success = outcome(agent, benchmark, number)
    steps = [
        EpisodeStep(index=i, thought=f"thought {i}", action=f"{agent} {i}", observation=f"seen {i} | <b>", progress=min(1, i / 3))
        for i in range(4)
    ]
    calls = tuple(TracedCall(role="policy", seed=seed, completion_tokens=4 + seed, nfe=2 + seed, seconds=0.25) for seed in (0, 1))
    search = None
    if benchmark == "bfcl":
        steps = [EpisodeStep(index=0, action="[f(x=1)]")]
    if benchmark == "multihop_qa":
        traced = {"reveal_step": CALL_FIRST if agent == "parallel" else THINK_FIRST, "tokens": TOKENS, "confidence": [0.9] * len(TOKENS)}
        calls = (calls[0].model_copy(update=traced | {"text": "".join(TOKENS)}), calls[1])
        steps = [steps[0].model_copy(update={"call": calls[0].key}), steps[1]]
        if agent != "team":
            names = ("turns_seconds", "overlap_seconds", "decoding_seconds", "tool_seconds")
            seconds = dict(zip(names, {"parallel": (2.0, 0.8, 1.0, 1.0)}.get(agent, (3.0, 0.0, 1.5, 1.5)), strict=True))
            search = SearchMeasures(format_failure="no tool_call" if agent == "ready" else None, **seconds)
    return TracedEpisode(
        task_id=f"{benchmark}/{category}/{number}",
        benchmark=benchmark,
        category=category,
        goal=f"question {number} <script>",
        agent=agent,
        backbones=config.agent_backbones(agent, benchmark),
        seed=42,
        max_steps=8,
        steps=steps,
        ended="success" if success else "answered",
        success=success,
        answer="[f(x=1)]" if benchmark == "bfcl" else None,
        calls=calls,
        versions={"dllm-agents": "0.1.0", benchmark: "1"},
        seconds=1.0,
        search=search,
    )


def planned(row: Score, number: int) -> Score:
    """The score of a planner's episode: every other question is planned and found at once."""
    metrics = {
        "planner_hit": number % 2 == 0,
        "hop_recall": 0.5 if number % 2 else 1.0,
        "rounds": 2,
        "backtracks": number % 3,
        "tool_calls": 3,
    }
    return row.model_copy(update={"measures": row.measures | metrics | ({} if number % 2 else {"first_full_round": 1})})


def cells(benchmark: str) -> list[tuple[str, int]]:
    if benchmark == "bfcl":
        return [(category, number) for category in BFCL_SINGLE_TURN for number in range(3)]
    return [({"babyai": "GoToObj", "multihop_qa": "generated"}[benchmark], number) for number in range(QUESTIONS)]


def write_run(results: Path) -> Path:
    from dllm_agents.analysis.metrics import score

    config = configuration()
    for benchmark in config.run.benchmarks:
        tasks = [
            Task(
                id=f"{benchmark}/{category}/{number}",
                benchmark=benchmark,
                split="test",
                category=category,
                seed=1,
                version="1",
                goal=f"question {number} <script>",
                data={
                    "functions": [{"name": "f", "parameters": {"type": "dict", "properties": {"x": {"type": "integer"}}}}, {"name": "g"}]
                },
            )
            for category, number in cells(benchmark)
        ]
        write_jsonl(results / "tasks" / f"{benchmark}.jsonl", tasks)
        for agent in config.run.agents:
            if benchmark in config.agent_benchmarks(agent):
                played = [episode(agent, benchmark, category, number, config) for category, number in cells(benchmark)]
                write_jsonl(results / "episodes" / benchmark / f"{agent}.jsonl", played)
                scores = [planned(row, number) if agent == "team" else row for number, row in enumerate(score(played))]
                write_frame(results / "scores" / benchmark / f"{agent}.parquet", scores, Score)
                write_frame(results / "failures" / benchmark / f"{agent}.parquet", [], Failure)
    write_frame(results / "exits/babyai.parquet", [row for prompt in ("strict", "modest") for row in exits(prompt)], Exit)
    for name, parameters in (("ar", 1_000_000), ("block", 1_000_000), ("ready", 135_000_000)):
        levels = [
            {"tokens": n, "seconds": 0.001 * n**0.5 * parameters / 1e6, "bytes": 4.0 * parameters, "flops": 2.0 * n * parameters}
            for n in (1.0, 8.0, 32.0, 128.0)
        ]
        roof = {"bytes_per_second": 2e10, "flops_per_second": 1e11}
        probe = Probe(
            backbone=name, model="m", engine="native", healthy=True, parameters=parameters, forwards=levels, roof=roof, hardware="CPU x2"
        )
        write_json(results / "serving" / f"{name}.json", probe)
    return results


def exits(prompt: str) -> list[Exit]:
    """Two verifiers on the episodes of one agent: the strict prompt leaves every other episode at step 5 of 8."""
    base = {"benchmark": "babyai", "category": "GoToObj", "agent": "remembers", "prompt": prompt, "every": 5, "steps": 8, "calls": 1}
    base |= {"success": True, "success_at_exit": False, "progress": 1.0, "redundant_steps": 4}
    rows = []
    for verifier in ("ar", "block"):
        for number in range(QUESTIONS):
            leaves = prompt == "strict" and number % 2 == 0
            left = (
                {"exit_step": 5, "progress_lost": 0.5, "redundant_steps_saved": 3}
                if leaves
                else {"progress_lost": 0.0, "redundant_steps_saved": 0}
            )
            rows.append(Exit(task_id=f"babyai/GoToObj/{number}", verifier=verifier, **(base | {"success_at_exit": not leaves} | left)))
    return rows
