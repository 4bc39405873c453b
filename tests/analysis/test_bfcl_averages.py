"""Table 2's averages, held against the six published rows (DiffuAgent, Table 2)."""

import csv
from pathlib import Path

import numpy as np
import pytest

from dllm_agents.analysis.bfcl_averages import PARTS, averages
from dllm_agents.config import BFCL_MULTI_TURN, BFCL_SINGLE_TURN

CATEGORIES = [*BFCL_SINGLE_TURN, *BFCL_MULTI_TURN]
SIZES = dict.fromkeys(CATEGORIES, 50) | {"live_parallel": 16, "live_parallel_multiple": 24, "live_relevance": 18}
ROUNDING = 0.05 + 1e-9


def published() -> dict[str, dict[str, float]]:
    rows: dict[str, dict[str, float]] = {}
    with (Path(__file__).parents[2] / "paper/published/diffuagent_table2.csv").open() as handle:
        for row in csv.DictReader(handle):
            rows.setdefault(row["agent"], {})[row["category"]] = float(row["value"])
    return rows


def rates_of(row: dict[str, float], irrelevance: float) -> dict[str, float]:
    """Category rates that give the published columns, with a given split of Irrel. over its two sets."""
    return {
        **dict.fromkeys(PARTS["non_live"], row["non_live"]),
        **{name: row[name] for name in PARTS["live"]},
        "multi_turn_base": row["multi_turn_standard"],
        **dict.fromkeys(PARTS["multi_turn_challenge"], row["multi_turn_challenge"]),
        "live_relevance": row["relevance"],
        "irrelevance": irrelevance,
        "live_irrelevance": 2 * row["irrelevance"] - irrelevance,
    }


def test_there_are_six_rows():
    assert len(published()) == 6


@pytest.mark.parametrize("agent", list(published()))
def test_averages_that_follow_from_published_columns(agent):
    row = published()[agent]
    found = averages(rates_of(row, row["irrelevance"]), SIZES)
    assert found["live"] == pytest.approx(row["live"], abs=2 * ROUNDING)
    assert found["multi_turn"] == pytest.approx(row["multi_turn"], abs=2 * ROUNDING)
    assert found["irrelevance"] == row["irrelevance"]


@pytest.mark.parametrize("agent", list(published()))
def test_overall_fits_for_a_possible_split_of_irrelevance(agent):
    """The two irrelevance sets have 50 entries each, and only their mean is published."""
    row = published()[agent]
    splits = [rate for rate in range(0, 101, 2) if 0 <= 2 * row["irrelevance"] - rate <= 100]
    found = [averages(rates_of(row, split), SIZES)["overall"] for split in splits]
    # Non-Live enters by four fifths of a third with its own rounding, Multi-Turn's two columns by a third.
    assert min(abs(value - row["overall"]) for value in found) < 0.1


def test_a_silent_agent_scores_14_7():
    silent = dict.fromkeys(CATEGORIES, 0.0) | {"irrelevance": 100.0, "live_irrelevance": 100.0}
    found = averages(silent, SIZES)
    assert round(found["overall"], 1) == 14.7
    assert found["irrelevance"] == 100
    assert found["non_live"] == found["live"] == found["multi_turn"] == 0


def test_simple_java_and_javascript_count_as_one_of_four():
    rates = dict.fromkeys(CATEGORIES, 0.0) | {"simple": 30.0, "java": 60.0, "javascript": 90.0, "parallel": 20.0}
    assert averages(rates, SIZES)["non_live"] == (60 + 20) / 4


def test_an_average_without_all_its_categories_is_none():
    found = averages(dict.fromkeys(["live_simple", *BFCL_MULTI_TURN], 0.5), SIZES)
    assert {name for name, value in found.items() if value is not None} == {"multi_turn", "multi_turn_challenge"}


def test_arrays_are_averaged_element_by_element():
    rates = {name: np.array([0.0, 1.0]) for name in CATEGORIES}
    assert averages(rates, SIZES)["overall"] == pytest.approx([0.0, 1.0])
