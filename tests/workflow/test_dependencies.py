"""What is made again when an option changes: every option of the configuration is changed once, and each stage's settings are compared.

What is expected stands here, by where an option lies and by what its field says it `reruns`; a new option without a field of its own in
this table is found by the walk over the sections.
"""

from __future__ import annotations

import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import pytest
from annotated_types import Le
from pipeline import ROOT
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from dllm_agents import dependencies, prompts
from dllm_agents.config import Config, load
from dllm_agents.config.roles import WORKFLOWS
from dllm_agents.config.section import Section
from dllm_agents.dag.files import Files

DEMO = load([ROOT / "config" / "demo.yaml"])
# A benchmark whose questions do not come with the package: the scripted agents and three others would play it.
DEMO.run.benchmarks.append("browsecomp_zh")
Job = tuple[str, ...]
pytestmark = pytest.mark.filterwarnings("ignore:Pydantic serializer")
# Results of every group of benchmarks; all others are made in the same way.
RESULTS = ("comparisons", "serving", "diffuagent_table1", "diffuagent_table2", "diffuagent_figure6", "searcher_table1")


def jobs(config: Config) -> dict[Job, dict[str, Any]]:
    """(stage, what it is made for...) -> what the result depends on, for everything that the run makes."""
    files, made = Files(config), {}
    for benchmark in config.run.benchmarks:
        made["tasks", benchmark] = dependencies.of_tasks(config, benchmark, "test")
        made["training tasks", benchmark] = dependencies.of_tasks(config, benchmark, "train")
        made["trajectories", benchmark] = dependencies.of_trajectories(config, benchmark)
        made["filter", benchmark] = dependencies.of_filter(config, benchmark)
        made["scores", benchmark] = dependencies.of_scores(config, benchmark)
    for backbone, benchmark in files.trained():
        made["checkpoint", backbone, benchmark] = dependencies.of_checkpoint(config, backbone, benchmark)
    for backbone in files.paired():
        made["pairs", backbone] = dependencies.of_pairs(config, backbone, files.paired_benchmarks(backbone))
    for backbone in config.used_backbones():
        made["probe", backbone] = dependencies.of_probe(config, backbone)
    for agent, benchmark in files.plays():
        made["episodes", agent, benchmark] = dependencies.of_episodes(config, agent, benchmark)
    for benchmark in files.verified_benchmarks():
        made["exits", benchmark] = dependencies.of_exits(config, benchmark)
    made["failures",] = dependencies.of_failures(config)
    for name in RESULTS:
        made["result", name] = dependencies.of_result(config, name)
    return made


BEFORE = jobs(DEMO)


def rerun(config: Config) -> set[Job]:
    after = jobs(config)
    assert set(after) == set(BEFORE), "the change adds or removes jobs"
    return {job for job in BEFORE if BEFORE[job] != after[job]}


def changed(section: BaseModel, path: tuple[str, ...], value: Any) -> Any:
    """A copy of a section, unchecked, with one option deep inside changed."""
    name, *rest = path
    if isinstance(section, dict):
        return section | {name: changed(section[name], tuple(rest), value) if rest else value}
    return section.model_copy(update={name: changed(getattr(section, name), tuple(rest), value) if rest else value})


NAMED: dict[str, tuple[Any, Any]] = {  # options that name something that must be there
    "prompt": ("compact", "react"),
    "decoding": ({"temperature": 0.5}, {"temperature": 0.7}),
    "workflow": ("planner", "deepdiver"),
    "dialect": ("search_r1", "websailor"),
    "roles": ({"planner": "smollm2-135m"},),
} | dict.fromkeys(("teacher", "backbone", "planner", "seeker", "writer"), ("smollm2-135m", "tiny-block"))


def other(name: str, field: FieldInfo, value: Any) -> Any:
    """Another value of an option's type."""
    if name in NAMED:
        return next(item for item in NAMED[name] if item != value)
    kinds = [field.annotation, *typing.get_args(field.annotation)]
    for kind in kinds:
        if typing.get_origin(kind) is Literal:
            return next(item for item in typing.get_args(kind) if item != value)
    if isinstance(value, bool) or (value is None and bool in kinds):
        return not value
    if isinstance(value, (int, float)):
        return value - 1 if any(isinstance(item, Le) and value + 1 > item.le for item in field.metadata) else value + 1
    if isinstance(value, list):
        return value[:-1] if value else ["changed"]
    if isinstance(value, dict):
        return dict(list(value.items())[:-1]) if value else {"changed": 1}
    if isinstance(value, str):
        return value + "-changed"
    return next((kind(7) for kind in kinds if kind in (int, float)), "changed")


def options(section: BaseModel, *where: str) -> Iterator[tuple[tuple[str, ...], FieldInfo, Any]]:
    """(path, field, value) of every option in a section and in the sections inside it."""
    for name, field in type(section).model_fields.items():
        value = getattr(section, name)
        if isinstance(value, BaseModel):
            yield from options(value, *where, name)
        else:
            yield (*where, name), field, value


def chosen() -> Iterator[tuple[tuple[str, ...], FieldInfo, Any]]:
    """Every option once: of every benchmark, of a backbone of each kind, of an agent of each workflow."""
    yield from options(DEMO.run, "run")
    yield from options(DEMO.report, "report")
    for benchmark in DEMO.run.benchmarks:
        yield from options(DEMO.benchmark_options(benchmark), "benchmarks", benchmark)
    for backbone in ("tiny-ar", "tiny-block", "tiny-block-vrpo", "smollm2-135m"):
        yield from options(DEMO.backbones[backbone], "backbones", backbone)
    for agent in (
        "tiny-ar",
        "ar-memory-block",
        "ar-verifier-smollm2",
        "smollm2-selector-graph",
        "smollm2-editor",
        "full-p-react",
        "ar-team",
    ):
        yield from options(DEMO.agents[agent], "agents", agent)
    for name, field in Config.model_fields.items():
        if name not in ("run", "report", "benchmarks", "backbones", "agents", "add"):
            yield (name,), field, getattr(DEMO, name)


def of_benchmark(benchmark: str, reruns: str | None, name: str) -> set[Job]:
    played = {job for job in BEFORE if job[0] == "episodes" and job[2] == benchmark}
    shown = {("result", result) for result in RESULTS if benchmark in dependencies.shown_benchmarks(DEMO, result)}
    teaching = {("training tasks", benchmark), ("trajectories", benchmark)}
    trained = {job for job in BEFORE if job[0] == "checkpoint" and job[2] == benchmark}
    if reruns is None:
        return {("tasks", benchmark)} | played | shown | teaching | (trained if name == "max_steps" else set())
    judged = shown if name in ("judge_model", "second_judge_model") else set()
    return {"evaluation": {("tasks", benchmark)} | played | shown, "training": teaching, "checkpoints": trained, "judging": judged}.get(
        reruns, set()
    )


def of_backbone(backbone: str, name: str, part: str) -> set[Job]:
    """What depends on an option of a backbone; `part` is the section it lies in."""
    entry = DEMO.backbones[backbone]  # with what replaces its settings on single benchmarks
    own = entry.benchmark_decoding if part == "decoding" else entry.benchmark_context if name == "context" else {}
    played = {
        job for job in BEFORE if job[0] == "episodes" and job[2] not in own and backbone in DEMO.agent_backbones(job[1], job[2]).values()
    }
    of_policy = {job for job in played if DEMO.agents[job[1]].policy == backbone}
    paired = {("pairs", name) for kind, name in (job for job in BEFORE if job[0] == "pairs") if DEMO.trained_base(name) == backbone}
    own_pairs = {("pairs", backbone)} & set(BEFORE)
    checkpoints = {job for job in BEFORE if job[:2] == ("checkpoint", backbone)}
    rows = {
        ("result", result)
        for result in RESULTS
        for agent in DEMO.run.agents
        if backbone in DEMO.agents[agent].backbones.values()
        and set(DEMO.agent_benchmarks(agent)) & set(dependencies.shown_benchmarks(DEMO, result))
    }
    exits = {job for job in BEFORE if job[0] == "exits" and job[1] not in own and backbone in DEMO.run.verification.backbones}
    if part == "preference":
        return checkpoints | rows | (own_pairs if name in ("queries", "seeds", "temperature", "acting") else set())
    if part == "training":
        return checkpoints | rows
    if name == "prompt":
        return checkpoints | rows | of_policy | paired
    if name == "paradigm":
        return rows
    if name in ("benchmark_decoding", "benchmark_context", "tasks"):  # the last benchmark's entry is taken out
        gone = list(getattr(DEMO.backbones[backbone], name))[-1:]
        limited = {job for job in of_policy if job[2] not in DEMO.agents[job[1]].tasks}
        return rows | {job for job in (limited if name == "tasks" else played) if job[2] in gone}
    served = {("probe", backbone)} | played | paired | exits | rows
    return served | (checkpoints if name == "dtype" else set())


def expected(path: tuple[str, ...], field: FieldInfo) -> set[Job]:
    extra = field.json_schema_extra if isinstance(field.json_schema_extra, dict) else {}
    reruns = extra.get("reruns")
    head, name = path[0], path[-1]
    if head == "benchmarks":
        return of_benchmark(path[1], "checkpoints" if "training" in path[2:] else reruns, name)
    if head == "agents" and name == "concurrency":
        return {job for job in BEFORE if job[:2] == ("episodes", path[1]) and job[2] == "multihop_qa"}
    if reruns == "nothing":
        return set()
    if head == "backbones":
        return of_backbone(path[1], name, path[-2])
    if head == "agents":
        raise AssertionError(path)
    if head == "report":
        results = {job for job in BEFORE if job[0] == "result"}
        return {"loop_length": results | {("failures",)}, "margin": results, "allow_mixed_versions": results}.get(name, set())
    if head == "run":
        if "verification" in path:
            return {job for job in BEFORE if job[0] == "exits"}
        return {job for job in BEFORE if job[0] == "probe"} if name.startswith("probe_") else set()
    assert head == "seed"
    return {job for job in BEFORE if job[0] not in ("filter", "scores", "failures", "probe", "result")}


# Changing these adds or removes jobs, which the DAG's own tests look at.
JOBS = {("run", "agents"), ("run", "verification", "agents"), ("run", "verification", "backbones")}
OPTIONS = [option for option in chosen() if option[0] not in JOBS and option[0][-1] != "benchmarks" and option[1].annotation != Literal[0]]
OF_AGENTS = [option for option in OPTIONS if option[0][0] == "agents" and option[0][-1] != "concurrency"]


@pytest.mark.parametrize("option", [option for option in OPTIONS if option not in OF_AGENTS], ids=lambda option: ".".join(option[0]))
def test_an_option_reruns_what_depends_on_it_and_nothing_else(option: tuple[tuple[str, ...], FieldInfo, Any]) -> None:
    path, field, value = option
    if path[-1] in ("backbone", "base", "objective", "training", "mixture"):
        pytest.skip("names another backbone")
    again = rerun(changed(DEMO, path, other(path[-1], field, value)))
    if path[-1] == "max_new_tokens":  # modules take no more than their own limit
        assert again <= expected(path, field) and len(again) > 1
    else:
        assert again == expected(path, field)


@pytest.mark.parametrize("option", OF_AGENTS, ids=lambda option: ".".join(option[0]))
def test_an_agents_option_reruns_its_own_episodes_alone(option: tuple[tuple[str, ...], FieldInfo, Any]) -> None:
    """On benchmarks of other workflows too, an option says nothing."""
    path, field, value = option
    agent, name = path[1], path[-1]
    if name == "policy" or (name in ("workflow", "acting") and "multihop_qa" in DEMO.agent_benchmarks(agent)):
        pytest.skip("another agent altogether, for which its backbone is taught other things")
    if (new := other(name, field, value)) == "changed" and path[-1] in ("memory", "verifier", "selector", "editor"):
        pytest.skip("a module that the agent does not have")
    again = rerun(changed(DEMO, path, new))
    episodes = {job for job in again if job[0] == "episodes"}
    key = path[2]
    reading = {name for name, workflow in WORKFLOWS.items() if key in (*workflow.roles, *workflow.keys)} or set(WORKFLOWS)
    played = {("episodes", agent, b) for b in DEMO.agent_benchmarks(agent) if DEMO.workflow(agent, b) in reading}
    if name in ("benchmarks", "tasks") or key in ("planner", "seeker", "writer", "workflow", "roles", "options"):
        assert episodes <= played
    else:
        assert episodes == played
    assert {job[0] for job in again} <= {"episodes", "result"}


def test_every_option_is_changed() -> None:
    """The walk meets every field of every section that the configuration is made of."""
    met = {(path[-2] if len(path) > 1 else "", path[-1]) for path, _, _ in chosen()}
    names = {name for _, name in met}
    sections = [section for section in _sections(Section) if section.__module__.startswith("dllm_agents.config")]
    for section in sections:
        for name, field in section.model_fields.items():
            nested = [kind for kind in (field.annotation, *typing.get_args(field.annotation)) if isinstance(kind, type)]
            if not any(issubclass(kind, BaseModel) for kind in nested) and section.__name__ not in ("Resources", "Lora", "Config"):
                assert name in names, f"{section.__name__}.{name} is changed by no test"


def _sections(section: type) -> Iterator[type]:
    for sub in section.__subclasses__():
        yield sub
        yield from _sections(sub)


def test_every_mark_is_one_of_those_that_mean_something() -> None:
    allowed = {"nothing", "training", "checkpoints", "evaluation", "judging"}
    for section in _sections(Section):
        for name, field in section.model_fields.items():
            if isinstance(field.json_schema_extra, dict) and "reruns" in field.json_schema_extra:
                assert field.json_schema_extra["reruns"] in allowed, name


def test_a_prompt_is_read_by_its_own_workflow_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A blank in compact/embodied.j2 trains and plays BabyAI again, not tool calling or questions."""
    import shutil

    monkeypatch.chdir(tmp_path)
    shutil.copytree(prompts.PROMPTS / "compact", tmp_path / "config/prompts/compact")
    _forget_prompts()
    try:
        assert not {job for job, settings in jobs(DEMO).items() if settings != BEFORE[job]}
        template = tmp_path / "config/prompts/compact/embodied.j2"
        template.write_text(template.read_text() + " \n")
        _forget_prompts()
        again = {job for job, settings in jobs(DEMO).items() if settings != BEFORE[job]}
    finally:
        monkeypatch.undo()
        _forget_prompts()
    assert {job[0] for job in again} == {"checkpoint", "episodes", "pairs"}
    assert {job[2] for job in again if job[0] != "pairs"} == {"babyai"}


def _forget_prompts() -> None:
    prompts.style_folder.cache_clear()
    prompts.readers_sha256.cache_clear()


def test_a_judge_that_is_named_and_served_rescores(monkeypatch: pytest.MonkeyPatch) -> None:
    def judged(url: str | None, model: str | None) -> dict[str, Any]:
        section = DEMO.benchmarks.multihop_qa.model_copy(update={"judge_url": url, "judge_model": model})
        return dependencies.of_scores(changed(DEMO, ("benchmarks", "multihop_qa"), section), "multihop_qa")

    assert judged(None, None) == judged("http://a/v1", None) == judged(None, "m") == {}
    assert judged("http://a/v1", "m") == judged("http://b/v1", "m") != judged("http://a/v1", "n")


def test_every_setting_of_a_result_is_compared_with_what_lies_beside_it() -> None:
    """`differences` looks at every option that some stage depends on, whatever its mark."""
    from dllm_agents.dag.prepare import PARTS

    marks = {
        field.json_schema_extra["reruns"]
        for section in _sections(Section)
        for field in section.model_fields.values()
        if isinstance(field.json_schema_extra, dict) and "reruns" in field.json_schema_extra
    }
    assert set(PARTS) == marks - {"nothing"}
