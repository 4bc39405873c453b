"""A figure of the catalogue as it is drawn, and what a reader sees of its text."""

from dllm_agents.catalogue import FIGURES
from dllm_agents.reporting import style
from dllm_agents.reporting.tables import function


def draw(name, inputs):
    from matplotlib.figure import Figure

    style.theme()
    figure = Figure(figsize=FIGURES[name].size)
    function(FIGURES[name])(inputs, figure)
    return figure


def text_inside_and_apart(figure, monkeypatch):
    """Draw a figure and assert that no text leaves the page or covers another; returns how many texts were drawn."""
    from matplotlib.text import Text

    drawn = {}
    plain = Text.draw
    # What is drawn, not what exists: matplotlib keeps ticks outside an axis' limits and never draws them.
    monkeypatch.setattr(Text, "draw", lambda self, renderer, *rest: (drawn.setdefault(self), plain(self, renderer, *rest)))
    figure.draw_without_rendering()
    boxes = []
    for text in drawn:
        if text.get_visible() and text.get_text().strip():
            box = text.get_window_extent()
            assert box.x0 >= -1 and box.y0 >= -1 and box.x1 <= figure.bbox.x1 + 1 and box.y1 <= figure.bbox.y1 + 1, text.get_text()
            boxes.append((text.get_text(), box.padded(-1.5)))
    assert [(a, b) for i, (a, one) in enumerate(boxes) for b, other in boxes[:i] if one.overlaps(other)] == []
    return len(boxes)
