"""The published values agree with each other as the papers say they are made from one another."""

import csv
from collections import defaultdict

import pytest

from dllm_agents.layout import PUBLISHED
from dllm_agents.reporting import published

COLUMNS = ["source", "table", "agent", "benchmark", "category", "metric", "n", "value", "note"]
# A printed mean of printed parts may be off by half a last digit of its own and of its parts.
ROUNDING = 0.1


def grouped(name, part):
    by_key = defaultdict(dict)
    for item in published.values(name):
        by_key[(item.agent, item.metric, *part(item)[:-1])][part(item)[-1]] = item.value
    return by_key


@pytest.mark.parametrize(
    "name", sorted(path.stem for path in PUBLISHED.glob("*.csv") if path.stem not in ("models", "oddities", "settings", "absent"))
)
def test_every_row_names_source_and_table(name):
    with open(PUBLISHED / f"{name}.csv", newline="") as handle:
        reader = csv.DictReader(handle)
        rows = list(reader)
    assert reader.fieldnames == COLUMNS
    assert all(row["source"] and row["table"] and row["agent"] and row["metric"] for row in rows)
    keys = [(row["agent"], row["benchmark"], row["category"], row["metric"]) for row in rows]
    assert len(keys) == len(set(keys))
    if "figure" in name:
        sources = ("read off", "text gives them", "from the vector picture", "printed in the figure's text")
        assert all(any(source in row["note"] for source in sources) for row in rows)


@pytest.mark.parametrize("name", ["diffuagent_table1", "diffuagent_table3"])
def test_embodied_averages_are_the_mean_of_three(name):
    for key, parts in grouped(name, lambda item: (item.category, item.benchmark)).items():
        assert sum(parts[b] for b in ("alfworld", "scienceworld", "babyai")) / 3 == pytest.approx(parts["average"], abs=ROUNDING), key


@pytest.mark.parametrize("name", ["diffuagent_table1", "diffuagent_table3"])
def test_success_rates_are_counts_of_tasks(name):
    for item in published.values(name):
        if item.metric == "success_rate" and item.benchmark != "average":
            assert round(100 * round(item.value * item.n / 100) / item.n, 1) == pytest.approx(item.value, abs=0.051), item


@pytest.mark.parametrize("name", ["diffuagent_table2", "diffuagent_table6"])
def test_multi_turn_average_weights_the_150_challenge_ids(name):
    for key, parts in grouped(name, lambda item: tuple(item.category.rpartition(";")[::2])).items():
        expected = (50 * parts["multi_turn_standard"] + 150 * parts["multi_turn_challenge"]) / 200
        assert expected == pytest.approx(parts["multi_turn"], abs=ROUNDING), key


def test_live_average_is_the_unweighted_mean_of_four():
    for key, parts in grouped("diffuagent_table2", lambda item: (item.category,)).items():
        four = [parts[f"live_{kind}"] for kind in ("simple", "multiple", "parallel", "parallel_multiple")]
        assert sum(four) / 4 == pytest.approx(parts["live"], abs=ROUNDING), key


def test_overall_follows_from_its_parts_for_some_split_of_irrelevance():
    """Table 2 prints the mean of irrelevance and live_irrelevance (50 ids each) only; one split of it must give the printed overall."""
    for key, parts in grouped("diffuagent_table2", lambda item: (item.category,)).items():

        def overall(first, parts=parts):
            second = 2 * parts["irrelevance"] - first
            live = (
                50 * parts["live_simple"] + 50 * parts["live_multiple"] + 16 * parts["live_parallel"] + 24 * parts["live_parallel_multiple"]
            )
            live = (live + 18 * parts["relevance"] + 50 * second) / 208
            return ((4 * parts["non_live"] + first) / 5 + live + parts["multi_turn"]) / 3

        splits = [first for first in range(0, 101, 2) if 0 <= 2 * parts["irrelevance"] - first <= 100]
        assert min(abs(overall(first) - parts["overall"]) for first in splits) < ROUNDING, key


def test_searcher_averages_are_the_mean_of_four():
    sets = ("hotpotqa", "2wiki", "bamboogle", "musique")
    for key, parts in grouped("searcher_table1", lambda item: (item.category,)).items():
        if parts["average"] is None:
            assert key[0] == "SDAR"
            continue
        assert sum(parts[name] for name in sets) / 4 == pytest.approx(parts["average"], abs=0.051), key


def test_searcher_gains_are_vrpo_minus_sft_and_vrpo_is_table_1():
    values = {(item.agent, item.category, item.metric): item.value for item in published.values("searcher_table2")}
    for (agent, category, metric), value in values.items():
        if metric.endswith("_gain"):
            plain = metric.removesuffix("_gain")
            assert values["VRPO", category, plain] - values["SFT", category, plain] == pytest.approx(value, abs=1e-9), (agent, category)
    final = {(item.category, item.metric): item.value for item in published.values("searcher_table1") if item.agent == "DLLM-Searcher"}
    assert all(
        final[category, metric] == value for (agent, category, metric), value in values.items() if agent == "VRPO" and "gain" not in metric
    )


def test_searcher_error_shares_are_counts_of_500():
    rows = published.values("searcher_table3")
    counts = {item.category: item.value for item in rows if item.metric == "count"}
    assert all(item.value == pytest.approx(counts[item.category] / 5, abs=0.01) for item in rows if item.metric == "share")
    assert sum(counts.values()) == 422


def test_loop_counts_never_exceed_the_tasks_and_error_sums_fit_340():
    assert all(item.value <= item.n for item in published.values("diffuagent_figure3"))
    sums = defaultdict(float)
    for item in published.values("diffuagent_figure4"):
        sums[item.agent] += item.value
    assert list(sums.values()) == [46, 132, 274, 329, 338, 212]


def test_seekers_of_dllm_agent_sum_to_the_printed_means():
    counts, printed = defaultdict(dict), {}
    for item in published.values("dllm_agent_figure2"):
        if item.metric == "seekers_mean":
            printed[item.agent] = (item.n, item.value)
        elif item.value:
            counts[item.agent][int(item.category)] = item.value
    for agent, (n, mean) in printed.items():
        assert sum(counts[agent].values()) == n
        assert sum(seekers * episodes for seekers, episodes in counts[agent].items()) / n == pytest.approx(mean, abs=0.051)
    assert {agent: n for agent, (n, _) in printed.items()} == {"DLLM Agent": 78, "AR Agent": 84}


@pytest.mark.parametrize(("figure", "forwards", "settled", "shown"), [("Figure 4", 100, 186, 1655), ("Figure 6", 60, 310, 858)])
def test_masks_and_acceptance_of_dllm_agent_belong_to_each_other(figure, forwards, settled, shown):
    """A block begins one short of its length; what each forward settles is the masks before it less those before the next."""
    values = [item for item in published.values("dllm_agent_figures4_6") if item.table == figure]
    blocks = defaultdict(list)
    for item in values:
        if item.metric == "masks_remaining":
            blocks[item.category.split()[2]].append(int(item.value))
    assert all(masks[0] == 31 for masks in blocks.values())
    assert sum(map(len, blocks.values())) == forwards
    steps = [before - after for masks in blocks.values() for before, after in zip(masks, [*masks[1:], 0], strict=True)]
    assert min(steps) >= 1 and (sum(steps), sum(map(sum, blocks.values()))) == (settled, shown)
    rates = [item.value for item in values if item.metric == "acceptance_rate"]
    assert len(rates) == 10 and rates[-1] == 100 and settled / shown < rates[-1] / 100


def test_the_listed_oddities_are_there():
    text = " ".join(f"{row['statement']} {row['finding']}" for row in published.oddities())
    for words in ("25.0", "64.6", "2.03", "17.6", "exactly 3.0", "16.0", "78 episodes", "no k/110", "17 against 16", "6.4 against 1.9"):
        assert words in text
    assert all(all(row.values()) for row in published.oddities())


def test_impossible_accuracies_at_125_are_exactly_the_two_listed():
    odd = {
        (item.agent, item.metric, item.value)
        for name in ("searcher_table1", "searcher_table2")
        for item in published.values(name)
        if item.category == "bamboogle" and item.value is not None and "gain" not in item.metric and (item.value * 1.25) % 1 > 1e-6
        if abs(item.value * 1.25 - round(item.value * 1.25)) > 1e-6
    }
    assert odd == {("Adaptive-RAG", "acc_l", 25.0), ("SFT", "acc_r", 64.6)}


def test_six_models_two_of_them_autoregressive():
    assert [model.paradigm for model in published.models()] == ["ar", "ar", "diffusion", "diffusion", "diffusion", "diffusion"]
