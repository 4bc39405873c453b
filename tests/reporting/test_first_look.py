"""The first look: a scoreboard whose cells say what they cannot tell, sentences, one plot, and what `show` prints."""

import pytest
from drawn import draw
from synthetic_run import configuration, write_run

from dllm_agents.errors import StageError
from dllm_agents.reporting.first_look import sentences, unbeaten
from dllm_agents.reporting.inputs import Inputs
from dllm_agents.reporting.show import show
from dllm_agents.reporting.tables import make, tabulate


@pytest.fixture(scope="module")
def inputs(finished):
    return Inputs(configuration(), finished)


def lines(table):
    return {line.label: line.cells for block in table.layout.blocks for line in block.lines}


def test_every_agent_has_its_success_and_n_on_every_benchmark(inputs):
    table = make("scoreboard", inputs)
    cells = lines(table)
    assert list(cells) == [*inputs.baselines, *inputs.agents]
    scores = inputs.rows("tiny-ar", "babyai")
    assert cells["tiny-ar"][0].text.startswith(f"{100 * scores['success'].mean():.1f} [") and "(n 96)" in cells["tiny-ar"][0].text
    assert cells["smollm2-135m"][0] == "", "it does not play BabyAI"


def test_cells_that_chance_explains_are_marked(inputs):
    cells = lines(make("scoreboard", inputs))
    assert cells["smollm2-135m"][1].text.endswith("≤ random") and "≤" not in cells["tiny-ar"][0].text
    assert unbeaten(inputs, "smollm2-135m", "bfcl") == ["random"] and unbeaten(inputs, "tiny-ar", "babyai") == []


def test_findings_are_sentences_of_the_data(inputs, tmp_path):
    babyai, bfcl = sentences(inputs)
    rate = 100 * inputs.rows("tiny-block", "babyai")["success"].mean()
    assert f"tiny-block (diffusion) solves {rate:.1f} %" in babyai and "1.00 times the forward evaluations" in babyai
    assert bfcl.startswith("BFCL-v3: ")
    assert sentences(Inputs(inputs.config, tmp_path)) == ["BabyAI: no model played it.", "BFCL-v3: no model played it."]


def test_a_benchmark_that_no_model_has_learnt_says_so(tmp_path):
    config = configuration()
    config.run.agents = ["random", "empty", "smollm2-135m"]
    config.run.benchmarks = ["bfcl"]
    (text,) = sentences(Inputs(config, write_run(tmp_path)))
    assert text.startswith(
        "BFCL-v3 cannot tell the models apart: none is better than the random and the empty agent (the best, smollm2-135m"
    )


def test_the_plot_has_a_panel_for_every_benchmark_and_names_its_agents(inputs):
    figure = draw("success_over_nfe", inputs)
    assert [axis.get_title() for axis in figure.axes] == ["BabyAI", "BFCL-v3"]
    assert {text.get_text() for text in figure.axes[0].texts} == {"tiny-ar", "tiny-block", "tiny-full"}


def test_show_opens_on_the_scoreboard_and_names_the_other_tables(finished, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    config = configuration(tables=["scoreboard", "claims", "failures"])
    with pytest.raises(StageError, match="scoreboard.md: not there yet"):
        show(config)
    for name in config.report.tables:
        tabulate(name, config, finished, tmp_path / config.results / "tables" / name)
    capsys.readouterr()
    show(config)
    text = capsys.readouterr().out
    assert text.index("| tiny-ar |") < text.index("holds          As embodied agents, dLLMs succeed less often") < text.index("  failures ")
    assert "claims are not decided by this run" in text and "premature exit" not in text
    show(config, every=True)
    assert "premature exit" in capsys.readouterr().out


def test_the_reference_run_is_kept_and_shown_beside_a_run(inputs, tmp_path, monkeypatch):
    from dllm_agents.reporting import reference

    monkeypatch.setattr(reference, "REFERENCE", tmp_path)
    with pytest.raises(StageError, match="has no tables"):
        reference.keep(tmp_path / "nothing", "mine.yaml", tmp_path / "x")
    tabulate("scoreboard", inputs.config, inputs.results, tmp_path / "run/tables/scoreboard")
    tabulate("serving", inputs.config, inputs.results, tmp_path / "run/tables/serving")
    kept = reference.keep(tmp_path / "run", "mine.yaml", tmp_path / inputs.config.scale)
    assert [path.name for path in kept] == ["scoreboard.csv", "README.md"] and "hardware" in kept[-1].read_text()
    table = make("scoreboard", inputs)
    block = table.layout.blocks[-1]
    assert block.title.startswith("Reference") and [line.label for line in block.lines] == inputs.agents
    rows = {(row.agent, row.benchmark): row for row in table.rows if row.category == "reference"}
    ours = {(row.agent, row.benchmark): row for row in table.rows if row.metric == "success_rate" and not row.category}
    assert rows.keys() == ours.keys() and all(rows[key].n == ours[key].n for key in rows)
    assert [rows[key].value for key in rows] == pytest.approx([ours[key].value for key in rows])
    before = kept[0].read_text()
    tabulate("scoreboard", inputs.config, inputs.results, tmp_path / "run/tables/scoreboard")
    assert "reference" in (tmp_path / "run/tables/scoreboard.csv").read_text()
    assert reference.keep(tmp_path / "run", "mine.yaml", tmp_path / inputs.config.scale)[0].read_text() == before, "of this run alone"


def test_a_tuned_twin_is_compared_with_the_tuned_model(tmp_path):
    """The demo's pretrained pair: the model as it is has not had the twin's training."""
    from dllm_agents.config import load
    from dllm_agents.reporting.comparison import matched_pairs

    pairs = {pair[:2] for pair in matched_pairs(Inputs(load(["config/demo.yaml"]), tmp_path)) if pair[2] == "bfcl"}
    assert {other for first, other in pairs if first == "smollm2-twin"} == {"smollm2-ar"}
