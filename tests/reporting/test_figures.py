"""Figures: equal bytes, nothing outside the page, the style of the configuration, both paradigms told apart without colour."""

import numpy as np
import pytest
from drawn import draw, text_inside_and_apart
from synthetic_run import configuration

from dllm_agents.catalogue import FIGURES
from dllm_agents.errors import StageError
from dllm_agents.reporting import style
from dllm_agents.reporting.figures import plot
from dllm_agents.reporting.inputs import Inputs

# Those that show published values; the others are tested with the run they need, in test_workflow_results.
BASE = ("diffuagent_figure1", "diffuagent_figure3", "diffuagent_figure4")


@pytest.fixture(scope="module")
def figures(finished, tmp_path_factory):
    folder = tmp_path_factory.mktemp("figures")
    for name in BASE:
        plot(name, configuration(), finished, folder / name)
    return folder


@pytest.mark.parametrize("name", BASE)
def test_figures_are_300_dpi_png_and_vector_pdf_without_dates(figures, name):
    import matplotlib.image

    image = matplotlib.image.imread(figures / f"{name}.png")
    width, height = FIGURES[name].size
    assert image.shape[:2] == (round(height * 300), round(width * 300))
    pdf = (figures / f"{name}.pdf").read_bytes()
    assert pdf.startswith(b"%PDF") and b"CreationDate" not in pdf


@pytest.mark.parametrize("name", BASE)
def test_equal_inputs_give_equal_bytes(figures, finished, tmp_path, name):
    for path in plot(name, configuration(), finished, tmp_path / name):
        assert path.read_bytes() == (figures / path.name).read_bytes()


def test_figure_1_shows_ours_over_the_embodied_benchmarks_that_our_backbones_play(finished):
    from matplotlib.text import Text

    figure = draw("diffuagent_figure1", Inputs(configuration(), finished))
    texts = [text.get_text() for text in figure.axes[0].findobj(Text)]
    assert "Embodied agents (ours: BabyAI)" in texts and {"tiny-ar", "tiny-block", "tiny-full"} <= set(texts)
    assert not any("not run" in text for text in texts)  # smollm2-135m does not play them, and is not missed


@pytest.mark.parametrize("name", BASE)
def test_no_text_leaves_the_page_or_covers_another(finished, name, monkeypatch):

    figure = draw(name, Inputs(configuration(), finished))
    assert text_inside_and_apart(figure, monkeypatch) > 20


def test_figures_without_any_result_show_published_values_and_say_not_run(tmp_path):
    from matplotlib.text import Text

    for name in BASE:
        figure = draw(name, Inputs(configuration(), tmp_path))
        texts = [text.get_text() for text in figure.findobj(Text)]
        assert any("not run" in text for text in texts) and "Qwen-8B" in texts


def test_the_configuration_sets_size_resolution_and_title(finished, tmp_path):
    import matplotlib.image

    config = configuration(style={"diffuagent_figure4": {"width": 5, "height": 4, "dpi": 100, "title": "Ours"}})
    png, _ = plot("diffuagent_figure4", config, finished, tmp_path / "f")
    assert matplotlib.image.imread(png).shape[:2] == (400, 500)


def test_figures_of_many_agents_grow(tmp_path):
    import matplotlib.image

    config = configuration(style={"diffuagent_figure3": {"dpi": 50}})
    for number in range(20):
        config.agents[f"agent-{number}"] = config.agents["tiny-ar"]
        config.run.agents.append(f"agent-{number}")
    png, _ = plot("diffuagent_figure3", config, tmp_path, tmp_path / "f")
    assert matplotlib.image.imread(png).shape[0] > 50 * 6


def test_unknown_figures_and_style_keys_are_named(finished, tmp_path):
    with pytest.raises(StageError, match="unknown figure 'diffuagent_figure9'; did you mean diffuagent_figure"):
        plot("diffuagent_figure9", configuration(), finished, tmp_path / "f")
    with pytest.raises(StageError, match="report.style.diffuagent_figure4.colour: unknown key"):
        plot("diffuagent_figure4", configuration(style={"diffuagent_figure4": {"colour": "red"}}), finished, tmp_path / "f")


def test_a_backbone_has_one_colour_and_paradigms_differ_without_it():
    looks = style.looks(configuration())
    assert looks["tiny-block"].colour != looks["tiny-full"].colour
    assert (looks["tiny-ar"].hatch, looks["tiny-ar"].marker) != (looks["tiny-block"].hatch, looks["tiny-block"].marker)
    fewer = configuration()
    fewer.run.agents.remove("tiny-ar")
    assert style.looks(fewer)["tiny-block"] == looks["tiny-block"]


def test_published_and_own_tones_differ_in_greyscale():
    def luminance(colour):
        return float(np.dot([int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)], [0.299, 0.587, 0.114]))

    assert min(map(luminance, style.PALE)) > max(map(luminance, style.PALETTE[:5]))


def test_a_marker_on_another_one_leaves_it_visible():
    """One token a forward: a diffusion agent stands where the autoregressive one does."""
    from matplotlib.figure import Figure

    from dllm_agents.reporting import drawing
    from dllm_agents.reporting.style import Look

    looks = {name: Look("#0072B2", paradigm) for name, paradigm in (("ar", "ar"), ("sequential", "diffusion"), ("apart", "diffusion"))}
    points = [drawing.Point("ar", 240, 100, None, None, False), drawing.Point("sequential", 243, 100, None, None, False)]
    axis = Figure().subplots()
    drawing.scatter(axis, [*points, drawing.Point("apart", 120, 100, None, None, False)], looks)
    sizes = [line.get_markersize() for line in axis.get_lines()]
    assert sizes[0] == sizes[2] == 6 and 2 < sizes[1] < 4
