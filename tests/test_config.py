"""The configuration is checked before any rule exists; every mistake is one line that names file, key and what is allowed."""

import re
from pathlib import Path

import jsonschema
import pytest
import yaml

from dllm_agents import schemas
from dllm_agents.config import Config, load
from dllm_agents.errors import StageError

ROOT = Path(__file__).parents[1]


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    return path


def mistake(tmp_path: Path, text: str) -> str:
    with pytest.raises(StageError) as caught:
        load([write(tmp_path, text)])
    line = str(caught.value)
    assert "\n" not in line
    assert line.startswith(str(tmp_path / "mine.yaml"))
    return line


@pytest.mark.parametrize("scale", ["test", "demo", "paper"])
def test_shipped_scales_are_valid(scale: str) -> None:
    config = load([ROOT / "config" / f"{scale}.yaml"])
    assert config.scale == scale
    assert config.run.agents[:3] == ["random", "empty", "teacher"]


def test_wrong_key_names_file_key_and_allowed_keys(tmp_path: Path) -> None:
    line = mistake(tmp_path, "backbones: {b: {url: 'http://x', decoding: {stratgy: ar}}}")
    assert "backbones.b.decoding.stratgy" in line
    assert "did you mean 'strategy'" in line and "max_new_tokens" in line


def test_wrong_type_names_key_and_value(tmp_path: Path) -> None:
    line = mistake(tmp_path, "benchmarks: {babyai: {max_steps: many}}")
    assert "benchmarks.babyai.max_steps" in line and "integer" in line and "'many'" in line


def test_unknown_backbone_names_the_known_ones(tmp_path: Path) -> None:
    line = mistake(tmp_path, f"extends: {ROOT}/config/demo.yaml\nagents: {{a: {{policy: nobody}}}}")
    assert "agents.a.policy" in line and "'nobody'" in line and "tiny-ar" in line


def test_unknown_agent_and_benchmark(tmp_path: Path) -> None:
    assert "unknown agent 'x'" in mistake(tmp_path, "run: {agents: [x], benchmarks: []}")
    assert "unknown benchmark 'x'" in mistake(tmp_path, "run: {agents: [], benchmarks: [x]}")
    assert "benchmarks.x: unknown key; allowed: alfworld" in mistake(tmp_path, "benchmarks: {x: {}}\nrun: {agents: []}")


def test_a_backbone_has_one_source(tmp_path: Path) -> None:
    line = mistake(tmp_path, "backbones: {b: {training: {objective: ar}, model: dir}}\nrun: {agents: []}")
    assert "backbones.b" in line and "exactly one of model, url, training" in line


@pytest.mark.parametrize("text", ["a: [", "seed: 1\nseed: 2", "- 1", "1: x"])
def test_broken_yaml_is_one_line(tmp_path: Path, text: str) -> None:
    mistake(tmp_path, text)


def test_a_file_that_extends_itself_is_refused(tmp_path: Path) -> None:
    assert "extends itself" in mistake(tmp_path, "extends: mine.yaml")


def test_a_mistake_in_a_parent_names_the_parent(tmp_path: Path) -> None:
    (tmp_path / "parent.yaml").write_text("sead: 1")
    with pytest.raises(StageError, match=r"parent\.yaml: sead: unknown key \(did you mean 'seed'\?\)"):
        load([write(tmp_path, "extends: parent.yaml\nscale: mine")])


def test_own_backbone_gains_an_agent_in_the_run(tmp_path: Path) -> None:
    config = load([write(tmp_path, f"extends: {ROOT}/config/demo.yaml\nadd: {{mine: {{url: 'http://127.0.0.1:1/v1'}}}}")])
    assert config.run.agents[-1] == "mine"
    assert config.agent_backbones("mine", "babyai") == {"policy": "mine"}
    assert config.results == "results/demo"
    assert load([write(tmp_path, yaml.safe_dump(config.model_dump(mode="json")))]) == config


def test_generated_documents_do_not_drift() -> None:
    for path, text in schemas.documents(ROOT).items():
        assert path.read_text() == text, f"{path.relative_to(ROOT)} differs from the typed classes; run `make schema`"


def test_schema_accepts_what_is_shipped_and_refuses_a_wrong_key() -> None:
    validator = jsonschema.Draft202012Validator(schemas.config_schema())
    validator.check_schema(schemas.config_schema())
    for path in sorted((ROOT / "config").glob("*.yaml")):
        errors = list(validator.iter_errors(yaml.safe_load(path.read_text())))
        assert not errors, f"{path.name}: {errors[:1]}"
    assert list(validator.iter_errors({"benchmarks": {"babyai": {"levls": []}}}))
    assert Config().model_dump(mode="json").keys() <= schemas.config_schema()["properties"].keys()


def test_a_yaml_anchor_does_not_tie_two_backbones_together(tmp_path: Path) -> None:
    shared = "backbones:\n  a: {url: 'http://x', decoding: &d {strategy: llada}}\n  b: {url: 'http://x', decoding: *d}\n"
    (tmp_path / "parent.yaml").write_text(shared)
    config = load([write(tmp_path, "extends: parent.yaml\nbackbones: {b: {decoding: {threshold: 0.5}}}")])
    assert config.backbones["b"].decoding.threshold == 0.5
    assert config.backbones["a"].decoding.threshold is None


def test_names_of_tables_figures_and_benchmarks_are_checked(tmp_path: Path) -> None:
    assert "unknown table 'nope'" in mistake(tmp_path, "report: {tables: [nope]}")
    assert "unknown figure 'nope'" in mistake(tmp_path, "report: {style: {nope: {dpi: 1}}}")
    assert "backbones.b.tasks: unknown benchmark 'blcf'" in mistake(tmp_path, "backbones: {b: {url: 'http://x', tasks: {blcf: 1}}}")


TWO = "backbones: {m: {url: 'http://x'}, n: {url: 'http://y'}}\n"


@pytest.mark.parametrize(
    "agent, said",
    [
        ("selector: {backbone: n}", "agents.a.selector: babyai has no tool selector (workflow react: memory, verifier); leave it out"),
        ("writer: n", "agents.a.writer: babyai has no writer (workflow react: memory, verifier); leave it out"),
        ("constrain: true, workflow: planner, benchmarks: [multihop_qa]", "agents.a.constrain: multihop_qa cannot use it"),
        ("acting: p_react", "agents.a.acting: babyai cannot use it (workflow react: history, attempts, max_steps, constrain)"),
        (
            "memory: {backbone: n}, benchmarks: [bfcl, multihop_qa]",
            "bfcl, multihop_qa have no memory (workflow tool_calling: selector, editor; workflow search: none); leave it out",
        ),
        (
            "writer: n, benchmarks: [multihop_qa]",
            "has no writer (workflow search: none); set workflow: deepdiver or planner, or leave it out",
        ),
        ("memory: n", "agents.a.memory: is a section; write memory: {backbone: n}"),
        ("memory_every: 3", "agents.a.memory_every: is now written memory: {every: ...}"),
        ("memory_keep: 3", "agents.a.memory_keep: is now written memory: {keep: ...}"),
        ("verifier_prompt: strict", "agents.a.verifier_prompt: is now written verifier: {prompt: ...}"),
        ("verifier_every: 3", "agents.a.verifier_every: is now written verifier: {every: ...}"),
        ("history: last10", "agents.a.history: input should be 'full' or 'recent'"),
        ("selector_confidence: 0.9", "agents.a.selector_confidence: is now written selector: {confidence: ...}"),
        ("verifier: {backbone: o}", "agents.a.verifier.backbone: unknown backbone 'o'"),
        ("verifier: {prompt: strict}", "agents.a.verifier.backbone: field required"),
    ],
)
def test_a_role_belongs_to_a_workflow(tmp_path: Path, agent: str, said: str) -> None:
    line = mistake(tmp_path, f"{TWO}agents: {{a: {{policy: m, {agent}}}}}\nrun: {{benchmarks: [babyai], agents: [a]}}")
    assert said in line


def test_backbones_play_where_their_role_is(tmp_path: Path) -> None:
    agents = "agents: {a: {policy: m, memory: {backbone: n}}, team: {policy: m, workflow: planner, writer: n}}\n"
    config = load([write(tmp_path, f"{TWO}{agents}run: {{benchmarks: [babyai, bfcl, multihop_qa], agents: [random, a, team]}}")])
    assert config.agent_backbones("a", "babyai") == {"policy": "m", "memory": "n"}
    assert config.agent_backbones("a", "bfcl") == config.agent_backbones("team", "babyai") == {"policy": "m"}
    assert config.agent_backbones("team", "multihop_qa") == {"planner": "m", "seeker": "m", "writer": "n"}
    assert config.agent_backbones("random", "babyai") == {}
    assert config.played_backbones("a") == {"m": ["babyai", "bfcl", "multihop_qa"], "n": ["babyai"]}
    assert config.agents["team"].backbones == {"policy": "m", "writer": "n"}


def test_an_agents_decoding_is_merged_as_deeply_as_files_are(tmp_path: Path) -> None:
    decoding = "{strategy: llada, max_new_tokens: 256, steps: 128, tool_prefill: {open: 5, close: 15, bias: 1}}"
    agents = "agents: {a: {policy: m, decoding: {tool_prefill: {bias: 2}}, memory: {backbone: m}, verifier: {backbone: m}}}"
    config = load([write(tmp_path, f"backbones: {{m: {{url: 'http://x', decoding: {decoding}}}}}\n{agents}\n")])
    prefill = config.decoding("a", "policy", "babyai").tool_prefill
    assert prefill is not None and (prefill.open, prefill.close, prefill.bias) == (5, 15, 2)
    assert config.decoding("a", "memory", "babyai") == config.backbones["m"].decoding
    # A verifier says YES or NO, online and replayed: and why, in 128 tokens at most, and as many a step as before.
    verifying = config.decoding("a", "verifier", "babyai")
    assert (verifying.max_new_tokens, verifying.steps) == (128, 64) and verifying == config.role_decoding("m", "verifier", "babyai")


@pytest.mark.parametrize(
    "text, said",
    [
        (
            "agents: {a: {policy: random, tasks: {babyai: -3}}}",
            "agents.a.tasks.babyai: input should be greater than or equal to 1 (got -3)",
        ),
        ("add: {m: {url: 'localhost:8000'}}", "add.m.url: localhost:8000 has no scheme; write http://localhost:8000, or https://"),
        ("backbones: {m: {model: a}}\nendpoints: {m: 'gpu7:8000'}", "endpoints.m: gpu7:8000 has no scheme"),
        ("benchmarks: {multihop_qa: {judge_url: there}}", "benchmarks.multihop_qa.judge_url: there has no scheme"),
        ("extends: parent.yaml\nadd: {my model: {model: x}}", "add.my model: files and rules are named after it"),
        ("benchmarks: {babyai: {train_seed_start: 5}}", "benchmarks.babyai.train_seed_start: is gone: training seeds count up from 100000"),
        ("benchmarks: {scienceworld: {simplifications: easy}}", "benchmarks.scienceworld.simplifications: is gone: those of AgentBoard"),
        ("run: {agents_per_job: 4}", "run.agents_per_job: is gone: a job plays one agent"),
        ("run: {verification: {prompts: [strict]}}", "run.verification.prompts: is gone: both are always replayed"),
        ("run: {probe_concurrency: [0]}", "run.probe_concurrency.0: input should be greater than or equal to 1"),
        ("run: {verification: {agents: [nobody]}}", "run.verification.agents: unknown agent 'nobody'"),
    ],
)
def test_mistakes_are_found_with_their_own_file_and_key(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "parent.yaml").write_text("seed: 1")
    assert said in mistake(tmp_path, text)


def test_verification_of_agents_that_do_not_play_is_dropped_with_a_note(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    verification = "{agents: [tiny-ar, ar-memory-ar, ar-memory-block]}"
    own = f"extends: {ROOT}/config/demo.yaml\nrun: {{benchmarks: [babyai], agents: [random, tiny-ar], verification: {verification}}}"
    config = load([write(tmp_path, own)])
    assert config.run.verification.agents == ["tiny-ar"]
    assert "run.verification.agents: ar-memory-ar, ar-memory-block do not play in this run" in capsys.readouterr().err
    # What stages read is written down from this, and says nothing again.
    load([write(tmp_path, yaml.safe_dump(config.model_dump(mode="json")))])
    assert capsys.readouterr().err == ""


def test_a_backbone_of_ones_own_that_replaces_one_of_the_catalogue_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = load([write(tmp_path, f"extends: {ROOT}/config/demo.yaml\nadd: {{tiny-ar: {{url: 'http://x'}}}}")])
    assert config.backbones["tiny-ar"].url == "http://x"
    assert f"{tmp_path}/mine.yaml: add.tiny-ar: replaces the backbone of that name" in capsys.readouterr().err


@pytest.mark.parametrize(
    "fields, said",
    [
        (
            "paradigm: ar, decoding: {strategy: sdar}, url: 'http://x'",
            "m.paradigm: ar, and decoding.strategy sdar says diffusion; leave it out",
        ),
        ("paradigm: ar, training: {objective: block_diffusion}", "m.paradigm: ar, and training.objective block_diffusion says diffusion"),
        (
            "decoding: {strategy: llada}, training: {objective: ar}",
            "m.decoding.strategy: llada is for diffusion models, and training.objective ar",
        ),
        (
            "benchmark_decoding: {bfcl: {strategy: ar}}, training: {objective: vrpo, base: m}",
            "m.benchmark_decoding.bfcl.strategy: ar is for",
        ),
        ("paradigm: ar, model: DIR", "m.paradigm: ar, and model DIR (full attention) says diffusion; leave it out"),
        ("decoding: {strategy: ar}, model: DIR", "m.decoding.strategy: ar is for autoregressive models, and model DIR (full attention)"),
    ],
)
def test_what_contradicts_the_paradigm_is_one_line(tmp_path: Path, fields: str, said: str) -> None:
    (tmp_path / "llada").mkdir()
    (tmp_path / "llada" / "config.json").write_text('{"model_type": "llada"}')
    directory = str(tmp_path / "llada")
    assert said.replace("DIR", directory) in mistake(tmp_path, f"backbones: {{m: {{{fields.replace('DIR', directory)}}}}}")


@pytest.mark.parametrize(
    "model_type, paradigm, strategy",
    [("llada", "diffusion", "llada"), ("dream", "diffusion", "dream"), ("fast_dllm_qwen", "diffusion", "fast_dllm_v2")]
    + [("sdar", "diffusion", "sdar"), ("qwen3", "ar", "ar")],
)
def test_a_checkpoint_says_what_it_is(tmp_path: Path, model_type: str, paradigm: str, strategy: str) -> None:
    (tmp_path / "config.json").write_text(f'{{"model_type": "{model_type}"}}')
    config = load([write(tmp_path, f"add: {{m: {{model: {tmp_path}}}}}\nrun: {{benchmarks: [babyai]}}")])
    assert config.backbones["m"].paradigm == paradigm and config.decoding("m", "policy", "babyai").strategy == strategy


def test_a_url_hides_what_it_serves(tmp_path: Path) -> None:
    config = load([write(tmp_path, "add: {m: {url: 'http://x'}, n: {url: 'http://x', paradigm: diffusion}}\nrun: {benchmarks: [babyai]}")])
    assert [config.backbones[name].paradigm for name in "mn"] == [None, "diffusion"]
    assert config.decoding("m", "policy", "babyai").strategy is None


def test_p_react_without_settings_is_the_published_one(tmp_path: Path) -> None:
    agents = (
        "agents: {a: {policy: m, acting: p_react}, b: {policy: m, acting: p_react, decoding: {tool_prefill: {bias: 1}}}, c: {policy: m}}"
    )
    run = "run: {benchmarks: [multihop_qa], agents: [a, b, c]}"
    config = load([write(tmp_path, f"backbones: {{m: {{url: 'http://x', paradigm: diffusion}}}}\n{agents}\n{run}")])
    prefills = [config.decoding(name, "policy", "multihop_qa").tool_prefill for name in "abc"]
    assert [(item.open, item.close, item.bias) for item in prefills if item] == [(63, 126, 0.5), (63, 126, 1.0)] and prefills[2] is None
    line = mistake(tmp_path, f"backbones: {{m: {{url: 'http://x', paradigm: ar}}}}\n{agents}\n{run}")
    assert "agents.a.acting: p_react decodes the call first, and m from left to right; use tool_first" in line


def test_every_option_has_a_user_or_a_test() -> None:
    shipped = "\n".join(path.read_text() for path in (ROOT / "config").glob("*.yaml"))
    tests = "\n".join(path.read_text() for path in (ROOT / "tests").rglob("*.py"))
    for title, section in schemas.sections():
        for key in section.model_fields:
            used = re.search(rf"\b{key}:", shipped) or re.search(rf"\b{key}\b[\"']?\s*[:=]", tests)
            assert used, f"{title}: {key} is set by no shipped file and by no test; delete it, or test what it does"
