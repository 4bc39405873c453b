"""The papers' claims (data/claims.yaml) as statements that a run can test: groups of agents, metrics, what is expected."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import yaml
from pydantic import Field, model_validator

from dllm_agents.analysis.failures import MALFORMED, TAXONOMY
from dllm_agents.config import Section
from dllm_agents.errors import StageError
from dllm_agents.layout import CLAIMS

COLUMNS = {
    "success": ("success", 100.0, "%"),
    "progress": ("progress", 100.0, "%"),
    "steps": ("steps", 1.0, "steps"),
    "seconds": ("seconds", 1.0, "s"),
    "completion_tokens": ("completion tokens", 1.0, "tokens"),
    "nfe": ("forward evaluations", 1.0, "forwards"),
}
"""Metric -> what a reader calls it, the factor to the unit it is reported in, that unit. These are columns of the scores."""
MEASURES = {
    "tool_calls": ("tool calls", 1.0, "calls"),
    "planner_hit": ("first plans that hit", 100.0, "%"),
    "hop_recall": ("recall of gold hops", 100.0, "%"),
    "first_full_round": ("first round that covers all hops", 1.0, "rounds"),
    "backtracks": ("backtracks", 1.0, "sub-questions"),
    "seekers": ("seekers", 1.0, "seekers"),
    "seeker_turns": ("turns of a seeker", 1.0, "turns"),
    "seeker_tool_calls": ("tool calls of a seeker", 1.0, "calls"),
    "invalid_action": ("episodes with an invalid action", 100.0, "%"),
}
"""The same of what a workflow notes of its episodes (`Score.measures`)."""
RATIOS = {
    "tokens_per_second": ("decoding speed", 1.0, "tokens/s"),
    "calls_first": ("calls decoded before the thought", 100.0, "%"),
    "planner_tokens_per_forward": ("planner's tokens a forward", 1.0, "tokens"),
    "seeker_tokens_per_forward": ("seekers' tokens a forward", 1.0, "tokens"),
    "acc_l": ("ACC_L", 100.0, "%"),
    "early_exit": ("episodes left early", 100.0, "%"),
}
"""The same of what is computed from several columns."""
REPLAYED = {
    "exit.steps": ("step of the exit", 1.0, "steps"),
    "exit.progress_lost": ("progress lost", 100.0, "points"),
    "exit.redundant_steps_saved": ("redundant steps saved", 1.0, "steps"),
}
"""The same of verifiers that are replayed on stored episodes."""
FAILURES = {
    "loop": "episodes with a retry loop",
    "unclosed_thought": "episodes with a thought that is not closed",
    "format": "episodes with an unreadable reply",
    "schema": "malformed calls",
    "parameter_value": "calls with wrong arguments",
    "wrong_function": "calls of a wrong function",
    "malformed": "replies that cannot be read",
}
KINDS = {**{kind: frozenset({kind}) for kind in TAXONOMY}, "malformed": MALFORMED}
"""Class of failures, or of several together -> those classes."""
METRICS = COLUMNS | MEASURES | RATIOS | REPLAYED | {f"failure.{kind}": (FAILURES.get(kind, kind), 100.0, "%") for kind in KINDS}
TIMED = ("seconds", "tokens_per_second")
BOUNDED = ("at_most", "at_least", "ratio_at_most", "mostly_at_most")
LEVELS = ("at_most", "at_least", "mostly_at_most")


class Group(Section):
    """Some of the run's agents. Without `agents`, those that act alone (`role: policy`), or whose only module is the role."""

    role: Literal["policy", "memory", "verifier", "selector", "editor"] = "policy"
    paradigm: Literal["ar", "diffusion"] | None = None
    acting: Literal["react", "p_react", "tool_first"] = "react"
    workflow: Literal["team"] | None = Field(default=None, description="agents with a planner and seekers, in either workflow")
    history: Literal["recent"] | None = Field(default=None, description="agents that see recent steps alone; they are in no other group")
    stage: Literal["ready", "base", "preference"] | None = Field(
        default=None, description="backbones that come ready, that are trained by preferences, or that such a one starts from"
    )
    mask: Literal["aligned", "naive"] | None = Field(default=None, description="trainings that differ in their context mask alone")
    constrain: bool = Field(default=False, description="agents that can write only what can be read; they are in no other group")
    parallel: Literal["most", "least"] | None = Field(
        default=None, description="of agents that differ in their decoding alone those with most, or fewest, tokens a forward"
    )
    models: list[str] | None = Field(default=None, description="published models, by their names in the papers' tables")
    agents: list[str] | None = None
    metric: str | None = Field(default=None, description="for `against`: the same agents under another metric")


class Test(Section):
    """One comparison; see data/claims.yaml for its keys."""

    metric: str
    benchmarks: Literal["embodied", "all"] | list[str]
    categories: list[str] | None = None
    of: Group
    against: Group | None = None
    tasks: Literal["all", "both_solve"] = "all"
    expect: Literal["more", "less", "not_less", "same", "at_most", "at_least", "mostly_at_most", "ratio_at_most"]
    bound: float | None = None
    published: float | None = None

    @model_validator(mode="after")
    def _complete(self) -> Test:
        if (self.bound is None) == (self.expect in BOUNDED):
            raise ValueError(f"expect {self.expect}: {'needs a' if self.bound is None else 'takes no'} bound")
        if (self.against is None) != (self.expect in LEVELS):
            raise ValueError(f"expect {self.expect}: {'needs a' if self.against is None else 'takes no'} group to compare against")
        for metric in self.metrics:
            if metric not in METRICS:
                raise ValueError(f"unknown metric {metric!r}; allowed: {', '.join(METRICS)}")
        sides = [side for side in (self.of, self.against) if side is not None]
        plain = all(side == Group(role="verifier", paradigm=side.paradigm) for side in sides)
        compared = len(sides) == 2 and self.expect in ("more", "less", "not_less") and self.categories is None
        if any(metric in REPLAYED for metric in self.metrics) and not (plain and compared):
            raise ValueError("metrics exit.*: take two groups of role verifier, by paradigm; expect more, less, not_less; no categories")
        return self

    @property
    def metrics(self) -> list[str]:
        """The metric of each side that has one of its own."""
        return [self.metric] + ([self.against.metric] if self.against is not None and self.against.metric else [])

    @property
    def timed(self) -> bool:
        """Whether the test reads the clock."""
        return any(metric in TIMED for metric in self.metrics)


class Claim(Section):
    """A statement of a paper, and the tests that together decide it, where what it presumes (`premise`) holds."""

    source: str
    recipe: str | None = Field(default=None, description="configuration that tells it, where that is not the one of its paper")
    statement: str
    premise: list[Test] = []
    tests: list[Test] = Field(min_length=1)

    def every(self) -> Iterator[Test]:
        """The tests and those of the premise."""
        yield from (*self.premise, *self.tests)

    @property
    def told_by(self) -> str:
        """The configuration that has the claim's agents, at the scale of its paper where that is."""
        return f"config/{self.recipe or self.source.split(',')[0].lower().replace('-', '_').replace(' ', '_')}.yaml"


class Untested(Section):
    """A statement of a paper that no run tests, and why."""

    source: str
    statement: str
    why: str


class ClaimsFile(Section):
    """The whole file."""

    claims: dict[str, Claim]
    untested: list[Untested] = []


def load_claims(path: str | Path = CLAIMS) -> dict[str, Claim]:
    """The claims by name. Raises StageError naming file, claim and key of the first mistake."""
    return _read(path).claims


def load_untested(path: str | Path = CLAIMS) -> list[Untested]:
    """The statements that are not tested."""
    return _read(path).untested


def _read(path: str | Path) -> ClaimsFile:
    try:
        data = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise StageError(f"{path}: {error.strerror}; claims come with the package: install it again") from None
    except (yaml.YAMLError, UnicodeDecodeError):
        data = None
    if not isinstance(data, dict) or not isinstance(data.get("claims"), dict):
        raise StageError(f"{path}: not a YAML mapping with a mapping `claims`")
    claims: ClaimsFile = ClaimsFile.from_mapping(data, "", str(path))
    return claims
