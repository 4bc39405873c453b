"""What a finding says, as a sentence with names and numbers."""

from __future__ import annotations

from dllm_agents.config import Config
from dllm_agents.reporting.captions import display_name
from dllm_agents.reporting.cells import number
from dllm_agents.reporting.claims import METRICS
from dllm_agents.reporting.judging import Finding


def sentence(finding: Finding, config: Config) -> str:
    """Where and on how many tasks, who has what, how far that is apart, what was expected, what the paper says, and why it does not tell
    where it does not."""
    where = f"{display_name(finding.benchmark)} (n {finding.n})" if finding.benchmark else "nowhere"
    if finding.value is None:
        return f"{where}: {finding.why}" if finding.benchmark else finding.why
    paper = "" if finding.test.published is None else f"; paper {_signed(finding, finding.test.published)}"
    delay = _delay(finding, config)
    text = f"{where}, {_numbers(finding)}, expected {_expected(finding)}{paper}{delay}"
    if finding.tasks_to_tell:
        return f"{text}; about {finding.tasks_to_tell:,} tasks would tell"
    return f"{text}; {finding.why}" if finding.why else text


def _numbers(finding: Finding) -> str:
    test = finding.test
    unit = METRICS[test.metric][2]
    names = [METRICS[metric][0] for metric in (test.metrics * 2)[: len(finding.sides)]]
    if len(set(names)) == 1:
        parts = [f"{label} {_amount(value, unit)}" for label, value in finding.sides]
        text = f"{names[0]}: {', '.join(parts)}"
    else:
        text = ", ".join(f"{name}: {label} {_amount(value, unit)}" for name, (label, value) in zip(names, finding.sides, strict=True))
    interval = "" if finding.low is None or finding.high is None else f" [{number(finding.low)}, {number(finding.high)}]"
    if test.expect == "mostly_at_most":
        return (
            f"{names[0]}: {_amount(finding.value or 0.0, '%')} of {finding.sides[0][0]} keep at or below {number(test.bound or 0.0)} {unit}"
        )
    if test.against is None:
        return f"{text}{interval}"
    if test.expect == "ratio_at_most":
        return f"{text}: x {finding.value:.2f} [{finding.low:.2f}, {finding.high:.2f}]"
    return f"{text}: {_signed(finding, finding.value or 0.0)}{interval}"


def _expected(finding: Finding) -> str:
    margin, bound = number(finding.margin), number(finding.test.bound or 0.0)
    return {
        "more": f"above 0 (margin {margin})",
        "less": f"below 0 (margin {margin})",
        "not_less": f"above -{margin}",
        "same": f"within \u00b1{margin}",
        "at_most": f"at most {bound}",
        "at_least": f"at least {bound}",
        "mostly_at_most": "most",
        "ratio_at_most": f"at most x {finding.test.bound or 0.0:.2f}",
    }[finding.test.expect]


def _signed(finding: Finding, value: float) -> str:
    unit = METRICS[finding.test.metric][2]
    if finding.test.expect == "ratio_at_most":
        return f"x {value:.2f}"
    if finding.test.against is None:
        return _amount(value, unit)
    return f"{'+' if value > 0 else ''}{number(value)} {'points' if unit == '%' else unit}"


def _amount(value: float, unit: str) -> str:
    return f"{number(value)} {unit}"


def _delay(finding: Finding, config: Config) -> str:
    """The artificial wait of the search tool under which times were measured."""
    if not finding.test.timed or finding.benchmark != "multihop_qa":
        return ""
    return f"; tool delay {' or '.join(f'{delay:g}' for delay in config.benchmarks.multihop_qa.tool_delays)} s"
