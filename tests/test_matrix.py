"""Agents by matrix."""

import pytest
import yaml

from dllm_agents.config import load
from dllm_agents.errors import StageError

BASE = {
    "benchmarks": {"babyai": {}},
    "backbones": {name: {"url": "http://127.0.0.1:1/v1"} for name in ("a", "b", "m")},
    "run": {"benchmarks": ["babyai"]},
}


def config(tmp_path, agents, played, verified=()):
    data = BASE | {"agents": agents, "run": {"benchmarks": ["babyai"], "agents": played, "verification": {"agents": list(verified)}}}
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(data, sort_keys=False))
    return load([tmp_path / "mine.yaml"])


MATRIX = {"matrix": {"policy": ["a", "b"], "memory": ["m", "a"]}, "policy": "{policy}", "memory": {"backbone": "{memory}"}}


def test_every_combination_is_an_agent_and_its_name_stands_for_all(tmp_path):
    name = "{policy}-memory-{memory}"
    loaded = config(tmp_path, {name: MATRIX, "b": {"policy": "b"}}, ["b", name], [name])
    names = ["a-memory-m", "a-memory-a", "b-memory-m", "b-memory-a"]
    assert loaded.run.agents == ["b", *names] and loaded.run.verification.agents == names
    assert [(loaded.agents[agent].policy, loaded.agents[agent].memory.backbone) for agent in names] == [
        ("a", "m"), ("a", "a"), ("b", "m"), ("b", "a"),
    ]  # fmt: skip


def test_a_combination_can_be_changed_under_its_own_name(tmp_path):
    name = "{policy}-memory-{memory}"
    loaded = config(tmp_path, {name: MATRIX, "a-memory-m": {"memory": {"every": 3}}}, [name])
    assert (loaded.agents["a-memory-m"].memory.every, loaded.agents["a-memory-m"].memory.backbone) == (3, "m")
    assert loaded.agents["b-memory-m"].memory.every == 5


@pytest.mark.parametrize(
    ("name", "matrix", "reason"),
    [
        ("x-{policy}", {"policy": []}, "each with a list of values"),
        ("x-{policy}", {}, "needs one or more variables"),
        ("x-{policy}", {"policy": ["a"], "memory": ["m"]}, "must hold {memory}, {policy}"),
        ("x", {"policy": ["a"]}, "must hold {policy}"),
        ("x-{policy", {"policy": ["a"]}, "must hold {policy}"),
        ("x-{policy}", {"policy": ["a", "a"]}, "makes 'x-a' twice"),
        ("x-{policy}", {"policy": [1]}, "its values are names"),
        ("x-{policy}", ["policy"], "needs one or more variables"),
    ],
)
def test_a_matrix_that_makes_no_sense_is_one_line(tmp_path, name, matrix, reason):
    with pytest.raises(StageError) as error:
        config(tmp_path, {name: {"matrix": matrix, "policy": "{policy}"}}, [])
    assert "mine.yaml: agents." in str(error.value) and reason in str(error.value)


def test_an_unknown_backbone_of_a_combination_names_it_and_its_file(tmp_path):
    with pytest.raises(StageError, match=r"mine.yaml: agents.x-nobody.policy: unknown backbone"):
        config(tmp_path, {"x-{policy}": {"matrix": {"policy": ["nobody"]}, "policy": "{policy}"}}, [])
