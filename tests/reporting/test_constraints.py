"""Free agents beside constrained twins: the table's numbers against counts by hand, the figure, and the claims that rest on them."""

import pytest
from synthetic_run import configuration, failure, score

from dllm_agents.config import Config
from dllm_agents.files import write_jsonl
from dllm_agents.frames import write_frame
from dllm_agents.records import Episode, EpisodeStep, Failure, Score, Task
from dllm_agents.reporting.claims import load_claims
from dllm_agents.reporting.figures import plot
from dllm_agents.reporting.inputs import Inputs
from dllm_agents.reporting.judging import evaluate
from dllm_agents.reporting.tables import make

FUNCTION = {"name": "f", "parameters": {"type": "dict", "properties": {"x": {"type": "integer"}}, "required": ["x"]}}
TASKS = 40


def play(inputs: Inputs, agent: str, *, solved: int, malformed: int, answer: str, repaired: float = 0.0, nfe: int = 10) -> None:
    """The first `solved` tasks succeed, the last `malformed` cannot be read, the others have a wrong argument; half of Java beside."""
    scores, failures, episodes, tasks = [], [], [], []
    for index in range(TASKS):
        spent = {"policy.completion_tokens": 20.0, "policy.repaired": repaired}
        row = score(agent, "bfcl", "simple", index, success=index < solved, nfe=nfe, measures=spent)
        scores += [row, score(agent, "bfcl", "java", index, success=True)]
        if index >= solved:
            kind = "schema" if index >= TASKS - malformed else "parameter_value"
            failures.append(failure(row, kind, source="checker"))
        base = {"benchmark": "bfcl", "category": "simple", "goal": "g", "seed": 42}
        steps = [EpisodeStep(index=0, action=answer)]
        episodes.append(Episode(task_id=row.task_id, agent=agent, max_steps=1, steps=steps, answer=answer, ended="answered", **base))
        data = {"functions": [FUNCTION], "language": "Python"}
        tasks.append(Task(id=row.task_id, split="test", version="1", data=data, **base))
    write_frame(inputs.files.scores("bfcl", agent), scores, Score)
    write_frame(inputs.files.failures("bfcl", agent), failures, Failure)
    write_jsonl(inputs.files.episodes("bfcl", agent), episodes)
    write_jsonl(inputs.files.tasks("bfcl"), tasks)


@pytest.fixture
def inputs(tmp_path) -> Inputs:
    data = configuration().model_dump(exclude_unset=True)
    policies = {"ar": "tiny-ar", "full": "tiny-full", "block": "tiny-block"}
    data["agents"] = {name: {"policy": policy} for name, policy in policies.items()}
    data["agents"] |= {f"{name}-held": {"policy": policies[name], "constrain": True} for name in ("ar", "full")}
    fast = {"policy": "tiny-full", "decoding": {"steps": 4}}
    data["agents"] |= {"full-fast": fast, "full-fast-held": fast | {"constrain": True}}
    data["run"] = {"benchmarks": ["bfcl"], "agents": list(data["agents"])}
    inputs = Inputs(Config.model_validate(data), tmp_path)
    play(inputs, "ar", solved=20, malformed=0, answer="[f(x=1)]")
    play(inputs, "ar-held", solved=20, malformed=0, answer="[f(x=1)]")
    play(inputs, "full", solved=4, malformed=30, answer="[f(x=1 + 1)]")
    play(inputs, "full-held", solved=22, malformed=0, answer="[f(x=1)]", repaired=5.0, nfe=8)
    play(inputs, "full-fast", solved=0, malformed=40, answer="f(", nfe=2)
    play(inputs, "full-fast-held", solved=10, malformed=0, answer="[f(x=1)]", repaired=10.0, nfe=2)
    return inputs


def test_the_table_counts_what_both_played(inputs):
    table = make("constraints", inputs)
    rows = {(row.agent, row.metric): row for row in table.rows}
    assert {(row.n, row.benchmark) for row in table.rows if row.metric == "success_rate"} == {(TASKS, "bfcl")}  # Java binds nobody
    for (agent, metric), value in {
        ("full", "success_rate"): 10.0,
        ("full", "malformed"): 75.0,
        ("full", "choice"): 15.0,
        ("full-held", "malformed"): 0.0,
        ("full-held", "choice"): 45.0,
        ("full-held", "parameter_value"): 45.0,
        ("full-held", "nfe"): 8.0,
        ("full-held", "repaired_tokens"): 25.0,
        ("full-held", "success_difference"): 45.0,
        ("full-held", "only_constrained_solves"): 18.0,
        ("full-held", "mcnemar_p"): 2 / 2**18,
        ("ar-held", "mcnemar_p"): 1.0,
        ("full", "valid_outside_language"): 100.0,  # a sum is no integer as a call writes it
        ("ar", "valid_outside_language"): 0.0,
    }.items():
        assert rows[agent, metric].value == pytest.approx(value), (agent, metric)
    assert not {row.agent for row in table.rows} & {"block"}
    assert {row.metric for row in table.timing} == {"seconds_per_episode"}
    assert all(len(line.cells) == len(table.layout.columns) for block in table.layout.blocks for line in block.lines)


def test_the_figure_is_drawn_with_and_without_agents(inputs, tmp_path):
    assert all(path.stat().st_size for path in plot("constraints", inputs.config, inputs.results, tmp_path / "figure"))
    assert plot("constraints", configuration(), tmp_path / "nothing", tmp_path / "empty")
    assert "no agent beside a constrained one" in str(make("constraints", Inputs(configuration(), tmp_path / "nothing")).layout)


def test_the_claims_read_constrained_and_parallel_agents_apart(inputs):
    claims = load_claims()
    verdict, findings = evaluate(claims["malformed_calls_explain_the_gap"], inputs)
    names = [name for finding in findings for name, _ in finding.sides]
    assert verdict == "holds" and names[2:] == [
        *("constrained dLLM agents (full-held)", "dLLM agents (full)"),
        *("constrained dLLM agents (full-held)", "constrained AR agents (ar-held)"),
    ]
    verdict, findings = evaluate(claims["parallel_decoding_breaks_format"], inputs)
    assert verdict == "holds" and [round(finding.value) for finding in findings] == [12, -15]  # Java beside
    assert findings[0].sides[0][0] == "dLLM agents (full-fast)"
