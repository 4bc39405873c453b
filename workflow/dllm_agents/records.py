"""The types that cross rooms: what one stage writes and the next reads.

Every record is a line of JSON Lines (or a row of Parquet) with a JSON Schema under `workflow/schemas/`, generated from these
classes; `files` reads and writes them.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from dllm_agents.tool_calls import call_text

SpanKind = Literal["context", "thought", "action", "observation"]
FailureSource = Literal["rules", "checker", "beside checker"]
Ending = Literal["success", "done", "step_limit", "token_limit", "prompt_too_long", "no_action", "early_exit", "answered", "error"]
"""How an episode ended. `error` is one of the server, the client or the environment, and says nothing of the agent; all else is its own."""


Whole = Annotated[int, Field(ge=-(2**63), lt=2**63)]
"""A number that has a place in a Parquet column."""
Count = Annotated[int, Field(ge=0, lt=2**31)]


class Record(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Task(Record):
    """One instance of a benchmark, frozen by the `sample-tasks` stage."""

    id: str = Field(description="unique over all benchmarks: <benchmark>/<category>/<instance>")
    benchmark: str
    split: Literal["train", "pairs", "test"]
    category: str = Field(description="BabyAI level, BFCL category, household task type, question set")
    seed: Whole
    version: str = Field(description="package and version, or checksum, of the task's source")
    goal: str = Field(description="the instruction the agent is given")
    data: dict[str, Any] = Field(default_factory=dict, description="what the environment needs to rebuild the instance")


CallKey = tuple[str, int]
"""(role, seed) of a call."""


class EpisodeStep(Record):
    """One interaction: what was read from the policy's answer, what the environment said to it. The answer itself is one of the
    episode's calls."""

    index: Count
    stage: str = Field(default="act", description="workflow stage: act, plan, search, write, ...")
    call: CallKey | None = Field(default=None, description="role and seed of the answer acted on; None where none was asked")
    thought: str | None = None
    action: str | None = Field(default=None, description="parsed action or tool call; None when nothing parsed")
    executed: str | None = Field(default=None, description="what reached the environment, when it differs from the action")
    observation: str = ""
    progress: float = Field(default=0.0, ge=0.0, le=1.0, description="best progress so far")
    valid: bool = Field(default=True, description="the environment accepted the action")
    done: bool = False
    attempts: Count = Field(default=1, ge=1, description="completions asked for until an action parsed")
    environment_seconds: float = Field(default=0.0, description="wall seconds in the environment; not deterministic")
    error: str | None = None


class RoleUsage(Record):
    """What one role of the agent (policy, memory, verifier, ...) cost over an episode; None where a server does not say."""

    calls: int = Field(default=0, description="answers asked for")
    prompt_tokens: int | None = 0
    completion_tokens: int | None = 0
    nfe: int | None = 0
    repaired: int = 0
    seconds: float = Field(default=0.0, description="wall seconds; not deterministic")


class Call(Record):
    """One answer of a backbone, as it came. With all of an episode's calls it can be played again without any model. Read so, traces are
    skipped; see TracedCall."""

    model_config = ConfigDict(extra="ignore")

    role: str
    seed: Whole = Field(description="seed of this call; no other call of the role in the episode has it, but for repeats of a refused one")
    text: str = ""
    tool_calls: tuple[dict[str, Any], ...] = Field(default=(), description="calls that the server took out of the text")
    early: dict[str, Any] | None = Field(default=None, description="content and tool_calls of the stream when its first call was complete")
    refused: str | None = Field(default=None, description="why there was no answer: prompt_too_long, token_limit")
    finish_reason: str | None = None
    prompt_tokens: Count | None = Field(default=None, description="None where the server does not say")
    completion_tokens: Count | None = None
    nfe: Count | None = Field(default=None, description="number of forward evaluations (NFE)")
    repaired: Count = Field(default=0, description="tokens that a constraint put in place of the model's own")
    seconds: float = Field(default=0.0, description="wall seconds; not deterministic")

    @property
    def key(self) -> CallKey:
        return self.role, self.seed

    @property
    def whole_text(self) -> str:
        """The text with the calls that the server took out of it put behind it, in the format of the prompts."""
        return "\n".join(part for part in (self.text.strip(), *map(call_text, self.tool_calls)) if part) if self.tool_calls else self.text


class Dynamics(Record):
    """How a reply was unmasked, forward by forward (DLLM Agent, Figures 4 and 6; `dllm_agents.decoding.dynamics`)."""

    block: list[int] = Field(description="of every denoising forward, the block it worked on")
    masks: list[int] = Field(description="of every denoising forward, the masks of its block before it")
    entropy: list[float] = Field(description="of every denoising forward, the mean entropy at the masks it may take, in nats")
    shown: list[int] = Field(
        min_length=10, max_length=10, description="predictions in each of ten bins of confidence on [0, 1], over all denoising forwards"
    )
    accepted: list[int] = Field(min_length=10, max_length=10, description="those of them that were taken")

    @model_validator(mode="after")
    def _lengths(self) -> Dynamics:
        if not len(self.block) == len(self.masks) == len(self.entropy):
            raise ValueError("block, masks and entropy have a value for every forward")
        return self


class TracedCall(Call):
    """A call with the trace of its tokens, which is most of an episode file."""

    model_config = ConfigDict(extra="forbid")

    reveal_step: list[Count] | None = Field(default=None, description="0-based forward that unmasked every completion token")
    tokens: list[str] | None = Field(default=None, description="text of every completion token")
    confidence: list[float] | None = Field(default=None, description="probability with which every completion token was unmasked")
    dynamics: Dynamics | None = Field(default=None, description="what happened forward by forward, where the decoding settings ask for it")


class Turn(NamedTuple):
    """A step of an episode and the answer it acts on; None for scripted agents."""

    step: EpisodeStep
    call: Call | None

    @property
    def text(self) -> str:
        """What was written; the action of an agent that writes nothing."""
        return self.step.action or "" if self.call is None else self.call.whole_text


class Span(Record):
    """A piece of a trajectory's text; only thoughts and actions are supervised."""

    kind: SpanKind
    text: str
    step: int = Field(default=-1, description="index of the step the span belongs to; -1 before the first")


class Trajectory(Record):
    """A teacher's attempt at a task. With `exploration` > 0 some executed actions are random valid ones
    (`step.executed`), while `step.action` stays the teacher's label for that state."""

    task: Task
    teacher: str
    seed: Whole
    exploration: float = Field(default=0.0, ge=0.0, le=1.0)
    initial_observation: str = ""
    steps: list[EpisodeStep]
    success: bool
    progress: float = Field(ge=0.0, le=1.0)
    rejected: str | None = Field(default=None, description="named reason; set by filter-trajectories")
    versions: dict[str, str] = Field(default_factory=dict)

    def spans(self) -> list[Span]:
        """The trajectory cut into spans, in reading order."""
        spans = [Span(kind="context", text=self.task.goal)]
        if self.initial_observation:
            spans.append(Span(kind="observation", text=self.initial_observation))
        for step in self.steps:
            if step.thought:
                spans.append(Span(kind="thought", text=step.thought, step=step.index))
            if step.action is not None:
                spans.append(Span(kind="action", text=step.action, step=step.index))
            if step.observation:
                spans.append(Span(kind="observation", text=step.observation, step=step.index))
        return spans


class SearchMeasures(Record):
    """What the search tables need of an episode beside its steps."""

    format_failure: str | None = Field(default=None, description="why the last reply could not be read, a name of FORMAT_FAILURES")
    tool_calls: int = 0
    calls_before_thought: int = Field(default=0, description="of tool_calls those made before the thought was closed")
    decoding_seconds: float = Field(default=0.0, description="until each reply was whole, over all turns")
    tool_seconds: float = Field(default=0.0, description="in the environment, over all turns")
    overlap_seconds: float = Field(default=0.0, description="of tool_seconds hidden behind decoding")
    turns_seconds: float = Field(default=0.0, description="wall time of all turns")


class PlannerMeasures(Record):
    """What a planner's team did, round by round."""

    plans: list[list[str]] = Field(default_factory=list, description="the sub-questions of each round, `#k` for the answer of step k")
    asked: list[list[str]] = Field(default_factory=list, description="the same with the answers filled in, as they were searched for")
    coverage: list[float] = Field(default_factory=list, description="progress at the end of each round")
    failure: str | None = Field(default=None, description="why the first plan could not be read")


class ToolMeasures(Record):
    """What the modules of tool calling did, and what the official checker said of a conversation."""

    error_type: str | None = Field(default=None, description="the checker's verdict on a conversation; None where it accepts it")
    selected_tools: list[list[str]] | None = Field(default=None, description="what a selector kept, reply by reply")
    selector_saved_calls: int | None = Field(default=None, description="choices that a tool graph made without asking a backbone")


class TeamMeasures(Record):
    """What a planner and its seekers did (DLLM Agent, Table 1 and Figure 2). A tool call is one that does something: thinking and being
    done are none."""

    seeker_turns: list[int] = Field(default_factory=list, description="of each seeker, in the order of their tasks")
    seeker_tool_calls: list[int] = Field(default_factory=list, description="of each seeker")
    planner_turns: int = 0
    planner_tool_calls: int = 0
    invalid_turns: int = Field(default=0, description="replies without a call, or with one that is unreadable or does not fit its schema")
    fallback: bool = Field(default=False, description="a budget ended the episode; its answer is the latest completed task's")
    limit: str | None = Field(default=None, description="the budget that ended the planner before its done tool")
    files: dict[str, str] = Field(default_factory=dict, description="the shared workspace at the end: path -> text")


class Outcome(Record):
    """What playing a task gave."""

    initial_observation: str = ""
    steps: list[EpisodeStep] = Field(default_factory=list)
    success: bool = False
    progress: float = Field(default=0.0, ge=0.0, le=1.0)
    native_score: float | None = Field(default=None, description="the simulator's own score, where it has one")
    answer: str | None = Field(default=None, description="final answer of single-answer benchmarks")
    ended: Ending = "step_limit"
    error: str | None = Field(default=None, description="reason, when ended is 'error'")
    search: SearchMeasures | None = None
    planner: PlannerMeasures | None = None
    team: TeamMeasures | None = None
    tools: ToolMeasures | None = None
    counts: dict[str, float] = Field(default_factory=dict, description="what a workflow of a module of its own counted")
    decoding: dict[str, dict[str, Any]] = Field(
        default_factory=dict, description="role -> decoding settings, every default filled in where the server tells them"
    )
    calls: tuple[Call, ...] = Field(default=(), description="every answer of every role, by role and seed: each is stored here alone")

    @property
    def usage(self) -> dict[str, RoleUsage]:
        """Role -> what its answers cost."""
        return usage_of(self.calls)

    def turns(self) -> list[Turn]:
        """Every step with the answer it acts on."""
        answers = {call.key: call for call in self.calls if call.refused is None}
        return [Turn(step, answers.get(step.call) if step.call is not None else None) for step in self.steps]


def usage_of(calls: Iterable[Call]) -> dict[str, RoleUsage]:
    """Role -> what its answers cost; a call that was refused cost nothing."""
    answered: dict[str, list[Call]] = {}
    for call in calls:
        if call.refused is None:
            answered.setdefault(call.role, []).append(call)
    return {
        role: RoleUsage(
            calls=len(own),
            prompt_tokens=total(call.prompt_tokens for call in own),
            completion_tokens=total(call.completion_tokens for call in own),
            nfe=total(call.nfe for call in own),
            repaired=sum(call.repaired for call in own),
            seconds=sum(call.seconds for call in own),
        )
        for role, own in answered.items()
    }


def total(counts: Iterable[int | None]) -> int | None:
    """The sum of counts; None, which is unknown, where one of them is."""
    parts = list(counts)
    return None if None in parts else sum(part for part in parts if part is not None)


class OfEpisode(Record):
    """Of which task an episode is, and which agent played it."""

    task_id: str
    benchmark: str
    category: str
    agent: str


class Header(OfEpisode):
    """Of which task an episode is, who played it, and with what."""

    goal: str
    backbones: dict[str, str] = Field(default_factory=dict, description="role -> backbone")
    seed: Whole
    max_steps: Count
    prompt_sha256: str = ""
    versions: dict[str, str] = Field(default_factory=dict, description="package -> version, benchmark -> source version")
    git_revision: str = ""
    hardware: str = ""
    started: str = Field(default="", description="UTC, ISO 8601; not deterministic")
    seconds: float = Field(default=0.0, description="wall seconds; not deterministic")

    @field_validator("started")
    @classmethod
    def _is_a_time(cls, text: str) -> str:
        """Files are named after it."""
        if text:
            datetime.strptime(text, "%Y-%m-%dT%H:%M:%S%z")
        return text


class Episode(Outcome, Header):
    """What an agent did on a task, with everything needed to explain it. Most readers need no traces: these are skipped while it is read
    so, and are read as TracedEpisode."""


class TracedEpisode(Episode):
    """An episode as it is stored, with everything needed to repeat it."""

    model_config = ConfigDict(title="Episode")

    calls: tuple[TracedCall, ...] = Field(default=(), description="every answer of every role, by role and seed")


class Score(OfEpisode):
    """The outcome of one episode, one row of scores/<benchmark>/<agent>.parquet."""

    seed: Whole
    success: bool
    progress: float = Field(ge=0.0, le=1.0)
    error_type: str | None = Field(default=None, description="the official checker's error type, single-answer benchmarks")
    judge: str | None = Field(
        default=None, description="the LLM judge's verdict (ACC_L): correct, incorrect or unparsable; None without a judge"
    )
    second_judge: str | None = Field(default=None, description="the second judge's verdict")
    ended: Ending
    steps: int
    invalid_steps: int
    prompt_tokens: int | None = Field(description="None where a server does not say")
    completion_tokens: int | None
    nfe: int | None
    version: str = Field(default="", description="version of the benchmark's source; rows of different versions do not mix")
    package: str = Field(default="", description="version of this package")
    seconds: float = 0.0
    model_seconds: float = 0.0
    started_seconds: float = Field(default=0.0, description="when the episode began, UTC seconds since 1970; 0 where it is not known")
    measures: dict[str, float] = Field(
        default_factory=dict,
        description="metrics of the workflow, and <role>.calls|prompt_tokens|completion_tokens|nfe|repaired|seconds of every role; names "
        "that end in `seconds` are wall-clock values",
    )


class Exit(RoleUsage, OfEpisode):
    """What an early-exit verifier, replayed on a stored episode, would have done; one row of exits/<benchmark>.parquet. The calls and
    their costs are the verifier's, the agent is that of the episode."""

    verifier: str = Field(description="backbone of the verifier")
    prompt: str = Field(description="strict or modest")
    every: int = Field(description="steps between two verifications")
    steps: int = Field(description="T: steps of the stored episode")
    exit_step: int | None = Field(default=None, description="e: the step after which it would have left; None when it never would")
    success: bool = Field(description="the stored episode succeeds")
    success_at_exit: bool = Field(description="and still does when it ends at e")
    progress: float = Field(description="progress(T)")
    progress_lost: float = Field(description="PD(e) = progress(T) - progress(e); 0 without an exit")
    redundant_steps: int = Field(description="RS(T): steps since progress last rose before T")
    redundant_steps_saved: int = Field(description="RS(T) - RS(e); 0 without an exit")


class Attention(Record):
    """Where the tokens of one reply looked while they were decoded; one row of attention/<benchmark>/<agent>.parquet. Masses are means
    over tokens, layers and heads, and sum to 1."""

    task_id: str
    agent: str
    backbone: str
    stage: str = Field(description="plan, search or write")
    rows: int = Field(description="tokens whose attention was read")
    prompt_tokens: int
    entropy: float = Field(description="entropy of the attention on the prompt, as a share of the greatest possible")
    question: float = Field(description="mass on the question")
    plan: float = Field(description="mass on the plan: sub-questions and queries")
    results: float = Field(description="mass on tool results and findings")
    format: float = Field(description="mass on the rest of the prompt")
    own: float = Field(description="mass on the reply itself")


class Failure(OfEpisode):
    """One failure found in an episode, with its evidence; one row of failures/<benchmark>/<agent>.parquet."""

    kind: str = Field(description="class of dllm_agents.analysis.failures.TAXONOMY")
    detail: str = Field(default="", description="sub-class, e.g. the checker's error type")
    source: FailureSource = Field(
        default="rules",
        description="who found it: the rules, the official checker, or the rules' own reading of an answer that the checker judges, "
        "which is not counted",
    )
    first_step: int
    last_step: int
    count: int = 1
    evidence: str = Field(default="", description="the text that shows it, cut to 200 characters")


class Pair(Record):
    """Two rollouts of one query by the model that is to be taught, for preference optimisation. One line per query: a pair that is
    kept has its winner and loser, one that is not has its reason."""

    task_id: str
    benchmark: str
    backbone: str = Field(description="backbone whose rollouts these are")
    seeds: tuple[int, int]
    winner: Trajectory | None = None
    loser: Trajectory | None = None
    rejected: str | None = Field(default=None, description="named reason, a key of dllm_agents.pairs.REJECTIONS")


class TableRow(Record):
    """One row of a tidy table CSV."""

    agent: str
    benchmark: str
    category: str = ""
    metric: str
    n: int | None = None
    value: float | None = Field(default=None, description="None prints as 'not run'; rates are percentages")
    low: float | None = None
    high: float | None = None
    published: float | None = None
    missing: str = Field(
        default="not run",
        description="what stands in the column `value` where there is none: not run, not learnt, or how many episodes ended in an error",
    )
