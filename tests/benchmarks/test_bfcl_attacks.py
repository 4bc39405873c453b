"""Hostile tool calls, a fast part of benchmarks/attacks.py: refused or contained, nothing changed, the run goes on."""

import importlib.util
from pathlib import Path

import pytest

from dllm_agents.benchmarks.bfcl_checker import Checker

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "attacks.py"
# Each of these runs into the time limit; the whole list is for the script.
SLOW = {"simulator, endless precision", "simulator, huge power", "JavaScript, exponential regular expression"}


@pytest.fixture(scope="module")
def attacks():
    specification = importlib.util.spec_from_file_location("attacks", SCRIPT)
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def outcomes(attacks, tmp_path_factory):
    checker = Checker()
    chosen = [attack for attack in attacks.ATTACKS if attack.name not in SLOW]
    yield {outcome.attack.name: outcome for outcome in attacks.run(checker, tmp_path_factory.mktemp("watched"), chosen)}
    checker.close()


def test_there_are_forty_and_more(attacks):
    assert len({attack.text for attack in attacks.ATTACKS}) >= 40


def test_nothing_changes_outside_the_scratch_folder(outcomes):
    assert {name: outcome.changed for name, outcome in outcomes.items() if outcome.changed} == {}


def test_a_good_answer_passes_after_every_attack(outcomes):
    assert [name for name, outcome in outcomes.items() if not outcome.goes_on] == []


def test_no_attack_is_a_valid_answer(outcomes):
    assert [name for name, outcome in outcomes.items() if outcome.result == "valid"] == []


def test_code_in_arguments_never_reaches_eval(attacks, outcomes):
    assert {outcomes[name].result for name in attacks.ARGUMENTS} == {"isolation:refused"}


def test_the_simulators_run_no_code_of_the_model(outcomes):
    for name in ("code as a dictionary's key", "code in a quoted key", "built-in open", "built-in exec", "a module of the executor"):
        assert "Error during execution" in outcomes[f"simulator, {name}"].result
