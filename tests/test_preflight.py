"""What a run is told before its first job."""

from pathlib import Path

import pytest

from dllm_agents import preflight, prompts
from dllm_agents.config import Config, load
from dllm_agents.errors import StageError


@pytest.mark.parametrize(
    "text, said",
    [
        ("add: {m: {model: nowhere/at/all}}", "add.m.model: nowhere/at/all: no such checkpoint directory"),
        ("add: {m: {model: ./here}}", "add.m.model: here: holds no config.json"),
        (
            "backbones: {m: {training: {objective: ar, base: ./nowhere}}}\nagents: {a: {policy: m}}\nrun: {agents: [a]}",
            "backbones.m.training.base: nowhere: no such checkpoint directory",
        ),
        ("benchmarks: {babyai: {task_list: lost.jsonl}}", "benchmarks.babyai.task_list: lost.jsonl: no such file or folder"),
        (
            "benchmarks: {multihop_qa: {sets: {musique: lost.jsonl}}}\nrun: {benchmarks: [multihop_qa]}",
            "benchmarks.multihop_qa.sets.musique: lost.jsonl: no such file or folder",
        ),
    ],
)
def test_what_is_not_there_is_named_before_the_first_job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, said: str) -> None:
    monkeypatch.chdir(tmp_path)
    Path("here").mkdir()
    Path("mine.yaml").write_text(text)
    load(["mine.yaml"])  # a job reads its configuration wherever it runs
    with pytest.raises(StageError) as caught:
        load(["mine.yaml"], None, (preflight.check,))
    assert str(caught.value).startswith(f"mine.yaml: {said}")


@pytest.mark.parametrize(
    "files, context, said",
    [
        ({"embodied.j2": "Do it."}, 100, r"style/embodied.j2: has no slot {{ goal }}; write it where the text is to stand"),
        ({"embodied.j2": "{{ goal }}"}, 100, r"style/embodied.j2: has no slot {{ observation }} or {{ steps }}"),
        ({"embodied.j2": "{{ goal }} {{ steps }}", "examples/babyai.txt": "x"}, 100, r"style/embodied.j2: has no slot {{ example }}"),
        ({"embodied.j2": "{{ goal }} {{ steps }}", "instructions/babyai.txt": "x"}, 100, r"has no slot {{ instruction }}"),
        ({"embodied.j2": "{{ goal }} {{ steps"}, 100, r"style/embodied.j2: TemplateSyntaxError"),
        (
            {"embodied.j2": "{{ goal }} {{ steps }} {{ example }}", "examples/babyai.txt": "go " * 101},
            100,
            r"style/examples/babyai.txt: 101 words do not fit a context of 100 tokens; shorten it",
        ),
    ],
)
def test_prompt_files_without_their_slots_or_room_are_named(tmp_path: Path, files: dict[str, str], context: int, said: str) -> None:
    for name, text in files.items():
        (tmp_path / "style" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "style" / name).write_text(text)
    backbones = {"m": {"url": "http://x", "prompt": str(tmp_path / "style"), "context": context}}
    config = Config.model_validate(
        {"backbones": backbones, "agents": {"a": {"policy": "m"}}, "run": {"agents": ["a"], "benchmarks": ["babyai"]}}
    )
    with pytest.raises(ValueError) as caught:
        preflight.check(config)
    assert said in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(("module", "template"), [("memory", "memory.j2"), ("selector", "selector.j2"), ("editor", "editor.j2")])
def test_a_module_s_own_prompt_without_its_slots_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, module: str, template: str
) -> None:
    (tmp_path / template).write_text("Help the agent.")
    monkeypatch.setattr(prompts, "MODULE_STYLE", str(tmp_path))
    agent = {"policy": "m", module: {"backbone": "m"}}
    run = {"agents": ["a"], "benchmarks": ["babyai" if module == "memory" else "bfcl"]}
    config = Config.model_validate({"backbones": {"m": {"url": "http://x"}}, "agents": {"a": agent}, "run": run})
    with pytest.raises(ValueError, match=rf"agents.a.{module}.*{template}: has no slot "):
        preflight._check_prompts(config)


@pytest.mark.parametrize("recipe", ["demo", "test", "small", "paper"])
def test_the_shipped_prompts_have_their_slots(recipe: str) -> None:
    config = load([Path(__file__).parents[1] / "config" / f"{recipe}.yaml"])
    preflight._check_prompts(config)


def test_backbones_that_do_not_play_and_hub_names_are_left_alone() -> None:
    backbones = {"m": {"model": "./nowhere"}, "h": {"model": "owner/name"}, "u": {"url": "http://x", "model": "./nowhere"}}
    agents = {name: {"policy": name} for name in backbones}
    preflight.check(Config.model_validate({"backbones": backbones, "agents": agents, "run": {"agents": ["h", "u"]}}))


def test_stand_ins_and_counts_above_what_exists_are_noted() -> None:
    fields = {
        "benchmarks": {"babyai": {"levels": ["GoToObj"], "seeds": [1, 2]}, "scienceworld": {"tasks": 8}},
        "agents": {"many": {"policy": "random", "tasks": {"babyai": 5000, "bfcl": 1}}},
        "run": {"benchmarks": ["babyai", "alfworld", "scienceworld", "bfcl", "multihop_qa"], "agents": ["many"]},
    }
    assert list(preflight.notes(Config.model_validate(fields))) == [
        "alfworld: GENERATED games, not the published ones (set benchmarks.alfworld.data)",
        "scienceworld: tasks drawn from every test variation, not AgentBoard's 90 tasks (set benchmarks.scienceworld.task_list)",
        "multihop_qa: GENERATED questions, not the published sets (set benchmarks.multihop_qa.sets)",
        "agents.many.tasks.babyai: 5000, of at most 2 tasks; all are played",
    ]
    there = {"alfworld": {"data": "a"}, "scienceworld": {"task_list": "b"}, "multihop_qa": {"sets": {"musique": "c"}}}
    assert not list(preflight.notes(Config.model_validate({"benchmarks": there, "run": {"benchmarks": list(there)}})))


@pytest.mark.parametrize(
    "text, said",
    [
        (
            "decoding: {strategy: sdar}, training: {objective: full_diffusion}",
            "backbones.m.decoding.strategy: sdar needs a block-causal model",
        ),
        ("training: {objective: full_diffusion}", "agents.a.decoding.strategy: fast_dllm_v2 needs a block-causal model"),
        ("training: {objective: block_diffusion}", "agents.a.decoding.strategy: fast_dllm_v2 needs a model with logit shift"),
    ],
)
def test_a_strategy_that_cannot_decode_its_weights_is_found_before_the_first_job(tmp_path: Path, text: str, said: str) -> None:
    agent = "{policy: m}" if said.startswith("backbones") else "{policy: m, decoding: {strategy: fast_dllm_v2}}"
    (tmp_path / "mine.yaml").write_text(f"backbones: {{m: {{{text}}}}}\nagents: {{a: {agent}}}\nrun: {{agents: [a]}}")
    with pytest.raises(StageError) as caught:
        load([tmp_path / "mine.yaml"], None, (preflight.check,))
    assert said in str(caught.value) and "mine.yaml: " in str(caught.value)
