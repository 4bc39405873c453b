"""Every error type that the official checkers, or our isolation, can give has a class."""

import importlib.resources
import re

import pytest
import yaml

from dllm_agents.analysis.bfcl_errors import MAPPING, PAPER_NAMES, error_class
from dllm_agents.analysis.failures import TAXONOMY
from dllm_agents.errors import StageError

SOURCES = ["eval_runner.py", "ast_eval/ast_checker.py", "multi_turn_eval/multi_turn_checker.py"]


def emitted() -> set[str]:
    folder = importlib.resources.files("bfcl_eval") / "eval_checker"
    text = "\n".join(folder.joinpath(*source.split("/")).read_text() for source in SOURCES)
    return set(re.findall(r'"error_type"\]?\s*[:=]\s*"([a-z_]+:[a-z_:/]+)"', text))


def test_the_source_shows_its_error_types():
    assert len(emitted()) >= 30
    assert {"ast_decoder:decoder_failed", "value_error:list/tuple", "multi_turn:instance_state_mismatch"} <= emitted()


@pytest.mark.parametrize("error_type", sorted(emitted()))
def test_every_official_error_type_is_mapped(error_type):
    single_turn_call = not error_type.startswith(("multi_turn", "relevance", "irrelevance"))
    assert (error_class(error_type) in PAPER_NAMES) == single_turn_call


@pytest.mark.parametrize("error_type", ["isolation:refused", "isolation:timeout", "isolation:crashed", "checker_exception:TypeError"])
def test_our_own_error_types_are_mapped(error_type):
    assert error_class(error_type) in PAPER_NAMES


def test_the_mapping_names_no_type_that_does_not_exist():
    mapping = yaml.safe_load(MAPPING.read_text())
    assert {name for name in mapping if not name.endswith("*")} <= emitted()


def test_every_line_has_a_class_of_the_taxonomy_and_a_reason():
    for entry in yaml.safe_load(MAPPING.read_text()).values():
        assert set(entry) == {"class", "why"}
        assert entry["class"] is None or entry["class"] in TAXONOMY
        assert len(entry["why"]) > 10
    assert set(PAPER_NAMES) <= set(TAXONOMY)


def test_an_unknown_type_says_where_to_add_it():
    with pytest.raises(StageError, match="bfcl_error_classes.yaml: no class for the error type 'new:kind'"):
        error_class("new:kind")
