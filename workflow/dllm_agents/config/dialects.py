"""Tag formats of published search agents (data/dialects.yaml)."""

from __future__ import annotations

import yaml
from pydantic import BaseModel, ConfigDict

from dllm_agents import layout

OURS = "ours"


class Dialect(BaseModel):
    """A checkpoint's tags for searches and answers, its stop strings, and the format of results."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    call: tuple[str, str]
    """Tags around a call."""
    query: bool = False
    """Whether they enclose a plain query instead of a JSON call of `search`."""
    answer: tuple[str, str]
    """Tags around the answer."""
    stop: tuple[str, ...]
    """Where decoding stops; a server may leave a closing tag out of its answer."""
    results: str
    """The block around results, with `{results}`."""
    passage: str = "{rank}. {title}: {text}"
    """One passage of it."""
    growing: bool = False
    """Whether the episode is one growing reply that includes the results; otherwise replies and results alternate as messages."""
    passages: int = 10
    """Results of a query."""
    source: str = ""


DIALECTS: dict[str, Dialect] = {
    name: Dialect.model_validate(entry) for name, entry in yaml.safe_load(layout.DIALECTS.read_text(encoding="utf-8")).items()
}
