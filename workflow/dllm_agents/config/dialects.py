"""The tags in which search agents were trained to search and to answer, as data/dialects.yaml lists them."""

from __future__ import annotations

import yaml
from pydantic import BaseModel, ConfigDict

from dllm_agents import layout

OURS = "ours"


class Dialect(BaseModel):
    """How a checkpoint searches and answers: its tags, where it stops, how results come back to it."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    call: tuple[str, str]
    """Tags around a call."""
    query: bool = False
    """Whether a query stands between them as it is, not a JSON call of `search`."""
    answer: tuple[str, str]
    """Tags around the answer."""
    stop: tuple[str, ...]
    """Where decoding stops; of a closing tag the server's answer may lack it."""
    results: str
    """The block in which results come back, with `{results}`."""
    passage: str = "{rank}. {title}: {text}"
    """One passage of it."""
    growing: bool = False
    """Whether all is one growing reply, into which results are written; else each reply and each block of results is a message."""
    passages: int = 10
    """Results of a query."""
    source: str = ""


DIALECTS: dict[str, Dialect] = {
    name: Dialect.model_validate(entry) for name, entry in yaml.safe_load(layout.DIALECTS.read_text(encoding="utf-8")).items()
}
