"""Options of the benchmarks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, model_validator

from dllm_agents.config.section import CHECKPOINTS, EVALUATION, JUDGING, NOTHING, TRAINING, Mistake, Section

BFCL_SINGLE_TURN = [
    "simple",
    "java",
    "javascript",
    "multiple",
    "parallel",
    "parallel_multiple",
    "irrelevance",
    "live_simple",
    "live_multiple",
    "live_parallel",
    "live_parallel_multiple",
    "live_relevance",
    "live_irrelevance",
]
BFCL_MULTI_TURN = ["multi_turn_base", "multi_turn_miss_func", "multi_turn_miss_param", "multi_turn_long_context"]
BFCL_NOT_PLAYED = {
    "memory": "BFCL-v4's memory tasks need the stores of its own package",
    "web": "BFCL-v4's web search asks a paid search service",
    "format": "BFCL-v4's format sensitivity asks single-turn entries again in other prompt formats",
}
"""First word of a category of BFCL-v4 -> why it is not played."""
EMBODIED = ("alfworld", "scienceworld", "babyai")
QUESTIONS = ("multihop_qa", "browsecomp_zh")
"""Benchmarks that search agents and teams of them play."""


class TrainingBudget(Section):
    """What every trained backbone gets of a benchmark, whatever its paradigm; set beside the data so that paradigms stay matched."""

    supervised_tokens: int = Field(
        default=100_000, ge=1, description="tokens that carry loss; training stops at exactly this many, never by time"
    )
    batch_size: int = Field(default=32, ge=1, description="examples per optimiser step, before noised copies are made")
    max_vocabulary: int = Field(default=1024, ge=320, description="most tokens of the tokenizer made from the training texts")
    max_prompt_tokens: int = Field(default=192, ge=16, description="examples with longer prompts are left out, counted and named")
    response_tokens: int = Field(default=20, ge=4, description="longest response; full diffusion pads every response to it")
    start: Literal["random", "copying"] = Field(
        default="random", description="weights of a new model; copying: attention that finds equal tokens and hands them on from the start"
    )
    rate_factor: float = Field(default=1.0, gt=0, description="times the backbone's learning rates")
    rare_weight: float = Field(
        default=1.0,
        gt=0,
        description="weight in the loss of tokens that stand in under a fifth of the replies, such as names and relations",
    )
    learnt: float | None = Field(
        default=None,
        gt=0,
        le=1,
        description="share of rare tokens predicted right in held-out replies (of a held-out world, where there are worlds; of every "
        "role of a team) from which on a training has learnt; rows of one that ends below say `not learnt`",
    )
    early_end: list[str] = Field(
        default=["ar"],
        description="with `learnt`: objectives whose rates fall once it is reached, and whose trainings end before their budget. Diffusion "
        "decodes through states that the measure does not see, and gains from all of it",
    )


def at_most(steps: list[int]) -> str:
    """What a caption says of the limits of episodes."""
    return f"at most {' or '.join(map(str, steps))} steps"


class BenchmarkOptions(Section):
    """Options that every benchmark has."""

    workflow: ClassVar[str]
    title: ClassVar[str]
    """The benchmark's name as readers know it."""

    tasks: int | None = Field(
        default=None, ge=1, description="evaluation tasks, drawn by seed; null for the whole set", json_schema_extra=EVALUATION
    )
    train_tasks: int = Field(default=100, ge=0, description="teacher trajectories collected on training tasks", json_schema_extra=TRAINING)
    exploration: float = Field(
        default=0.0,
        ge=0,
        le=1,
        description="share of executed actions that are random valid ones while the teacher labels every state",
        json_schema_extra=TRAINING,
    )
    teacher: str | None = Field(
        default=None,
        description="backbone that teaches, a server by URL among them; null for the benchmark's own",
        json_schema_extra=TRAINING,
    )
    max_steps: int = Field(default=30, ge=1, description="steps per episode")
    training: TrainingBudget = Field(default_factory=TrainingBudget, json_schema_extra=CHECKPOINTS)

    @property
    def files(self) -> dict[str, str]:
        """Key -> path, or hf:// address, of the data files that are named."""
        return {key: path for key in ("data", "task_list", "corpus") if (path := getattr(self, key, None)) is not None}

    @property
    def pair_split(self) -> Literal["train", "pairs"]:
        """The tasks that preferences are learnt on: those of training, or a draw of their own."""
        return "train"

    @property
    def stand_in(self) -> str | None:
        """What is played where the published tasks are not given; None where they are."""
        return None

    @property
    def most_tasks(self) -> int | None:
        """How many evaluation tasks there can be, where the options tell."""
        return self.tasks

    @property
    def sample(self) -> str:
        """What a caption says of a draw of tasks."""
        return f", {self.tasks} tasks drawn" if self.tasks else ""

    def note(self, steps: list[int], levels: bool) -> str:
        """What is played and how it differs from the published tasks, for captions. `steps` are the longest episodes, `levels` names
        BabyAI's."""
        return f"{self.title}: {self.tasks or 'all'} tasks, {at_most(steps)}."


class BabyAIOptions(BenchmarkOptions):
    FORMER: ClassVar = {"train_seed_start": "is gone: training seeds count up from 100000"}

    workflow: ClassVar[str] = "react"
    title: ClassVar[str] = "BabyAI"

    levels: list[str] | None = Field(default=None, description="BabyAI levels without prefix and version; null for AgentBoard's 28")
    seeds: list[int] = Field(default=[1234, 1235, 1236, 1237], description="evaluated seeds of every level")
    task_list: str | None = Field(default=None, description="path of AgentBoard's babyai test.jsonl, for its published sub-goals")

    @property
    def most_tasks(self) -> int:
        every = (len(self.levels) if self.levels is not None else 28) * len(self.seeds)
        return min(every, self.tasks or every)

    def note(self, steps: list[int], levels: bool) -> str:
        named = f" ({', '.join(self.levels)})" if self.levels and levels else ""
        played = f"{len(self.levels)} levels{named}" if self.levels else "the 28 levels of AgentBoard"
        published = self.levels is None and self.tasks is None and (len(self.seeds), steps) == (4, [30])
        other = "" if published else "; not the published 112 tasks at 30 steps"
        return f"BabyAI: {played}, {len(self.seeds)} seeds each{self.sample}, {at_most(steps)}{other}."


class ScienceWorldOptions(BenchmarkOptions):
    FORMER: ClassVar = {"simplifications": "is gone: those of AgentBoard are always played"}

    workflow: ClassVar[str] = "react"
    title: ClassVar[str] = "ScienceWorld"

    task_types: list[str] | None = Field(default=None, description="ScienceWorld task names; null for all 30")
    task_list: str | None = Field(default=None, description="path of AgentBoard's scienceworld test.jsonl, for its sub-goals")
    gold_within_limit: bool = Field(default=False, description="draw only tasks whose gold path fits max_steps")
    jvm_memory_mb: int = Field(
        default=384, ge=128, le=448, description="Java heap of a simulator; it needs about 150 MB beside it", json_schema_extra=NOTHING
    )
    recycle_after: int = Field(
        default=20, ge=1, description="episodes after which a simulator process is replaced", json_schema_extra=NOTHING
    )

    @property
    def stand_in(self) -> str | None:
        played = "every test variation" if self.tasks is None else "tasks drawn from every test variation"
        return None if self.task_list else f"{played}, not AgentBoard's 90 tasks (set benchmarks.scienceworld.task_list)"

    def note(self, steps: list[int], levels: bool) -> str:
        types = f"{len(self.task_types)} task types" if self.task_types else "30 task types"
        other = "" if self.task_list and not self.tasks else "; not the published 90 tasks"
        return f"ScienceWorld: {types}{self.sample}, {at_most(steps)}{other}."


class ALFWorldOptions(BenchmarkOptions):
    workflow: ClassVar[str] = "react"
    title: ClassVar[str] = "ALFWorld"

    data: str | None = Field(default=None, description="folder made by alfworld-download; null generates games")
    task_list: str | None = Field(default=None, description="path of AgentBoard's alfworld test.jsonl, for its sub-goals")
    task_types: list[str] | None = Field(default=None, description="household task types; null for all six")
    nearest_action: bool = Field(default=False, description="map an action to the nearest admissible command (difflib ratio > 0.5)")

    @property
    def stand_in(self) -> str | None:
        return None if self.data else "GENERATED games, not the published ones (set benchmarks.alfworld.data)"

    def note(self, steps: list[int], levels: bool) -> str:
        other = "" if self.data else "; generated games, whose scores are not comparable with published ones"
        return f"ALFWorld: {self.tasks or 'all'} tasks, {at_most(steps)}{other}."


class BFCLOptions(BenchmarkOptions):
    workflow: ClassVar[str] = "tool_calling"
    title: ClassVar[str] = "BFCL-v3"

    data: str | None = Field(
        default=None, description="folder with BFCL-v4's files, whose single-turn categories are played; null for the installed BFCL-v3"
    )
    categories: list[str] = Field(default=BFCL_SINGLE_TURN + BFCL_MULTI_TURN)
    per_category: int = Field(default=50, ge=1, description="ids drawn per category by the published rule, seed 42")
    generated_calls: int = Field(default=0, ge=0, description="generated tool-calling tasks to train on beside BFCL's own entries")
    max_steps: int = Field(default=20, ge=1, description="model calls per turn (BFCL's own limit)")
    faults: float = Field(
        default=0.0,
        ge=0,
        le=1,
        description="share of the functions of a multi-turn task that fail in every call; each has a backup beside it",
        json_schema_extra=EVALUATION,
    )
    scratch: str | None = Field(
        default=None, description="folder the isolated checker may write to; null for a temporary one", json_schema_extra=NOTHING
    )

    @property
    def most_tasks(self) -> int:
        every = len(self.categories) * self.per_category
        return min(every, self.tasks or every)

    @model_validator(mode="after")
    def _known_categories(self) -> BFCLOptions:
        unknown = sorted(set(self.categories) - set(BFCL_SINGLE_TURN + BFCL_MULTI_TURN))
        if unknown:
            why = BFCL_NOT_PLAYED.get(unknown[0].partition("_")[0])
            said = f"{unknown[0]} is not played: {why}" if why else f"unknown category {unknown[0]!r}"
            raise Mistake("categories", f"{said}; allowed: {', '.join(BFCL_SINGLE_TURN + BFCL_MULTI_TURN)}")
        if self.data and (simulated := set(self.categories) & set(BFCL_MULTI_TURN)):
            raise Mistake("categories", f"{min(simulated)} of BFCL-v4 needs its simulators; with `data` name single-turn categories alone")
        return self

    def note(self, steps: list[int], levels: bool) -> str:
        absent = [item for item in BFCL_SINGLE_TURN + BFCL_MULTI_TURN if item not in self.categories]
        published = self.per_category == 50 and not (absent or self.data or self.tasks)
        version = f"BFCL-v4 in {self.data}" if self.data else self.title
        played = f"{len(self.categories)} of 17 categories, at most {self.per_category} entries each{self.sample}"
        return f"{version}: {played}{', the' if published else '; not the'} published 758 entries."


class MultiHopQAOptions(BenchmarkOptions):
    workflow: ClassVar[str] = "search"
    title: ClassVar[str] = "multi-hop QA"

    sets: dict[str, str | None] = Field(
        default={"generated": None},
        description="question set -> path of a question file, or hf://datasets/OWNER/NAME[@REVISION]/FILE (see `dllm-agents download`); "
        "`generated` makes a seeded corpus and 2-4-hop questions",
    )
    train_sets: dict[str, str] = Field(default={}, description="training question set -> path or hf:// address")
    pair_sets: dict[str, str] = Field(
        default={},
        description="question set that preferences are learnt on -> path or hf:// address; empty takes the training questions",
    )
    corpus: str | None = Field(
        default=None, description="JSON Lines of {title, text} (path or hf://); null uses the questions' own paragraphs"
    )
    search: Literal["bm25", "hybrid", "web"] = "bm25"
    web_search_url: str | None = Field(
        default=None, description="HTTP search API; the key is read from WEB_SEARCH_API_KEY", json_schema_extra=NOTHING
    )
    top_k: int = Field(default=10, ge=1)
    max_steps: int = Field(default=5, ge=1, description="turns per question")
    tool_delay: float | list[float] = Field(
        default=0.0,
        description="seconds a search of an evaluated task takes at least, to stand for a network; of a list, tasks take turns",
        json_schema_extra=EVALUATION,
    )
    judge_url: str | None = Field(
        default=None, description="OpenAI-compatible URL of the LLM judge (ACC_L); null leaves it out", json_schema_extra=NOTHING
    )
    judge_model: str | None = Field(default=None, json_schema_extra=JUDGING)
    second_judge_url: str | None = Field(
        default=None, description="a second judge, for agreement (Cohen's kappa) with the first", json_schema_extra=NOTHING
    )
    second_judge_model: str | None = Field(default=None, json_schema_extra=JUDGING)
    thoughts: Literal["short", "long"] = Field(
        default="short", description="the oracle's thoughts on generated questions: about 12 tokens, or 48 to 64 for P-ReAct"
    )
    names: int | None = Field(
        default=None, ge=12, description="names of each kind that generated worlds draw on; null for all. Fewer are learnt sooner"
    )
    hops: list[Annotated[int, Field(ge=2, le=4)]] = Field(
        default=[2, 3, 4], min_length=1, description="hops of generated questions, as many of each"
    )
    cache: str | None = Field(
        default=None,
        description="folder of the dense encoder's passage vectors; null for the user's cache folder",
        json_schema_extra=NOTHING,
    )

    @property
    def files(self) -> dict[str, str]:
        sets: dict[str, Mapping[str, str | None]] = {"sets": self.sets, "train_sets": self.train_sets, "pair_sets": self.pair_sets}
        return super().files | {f"{key}.{name}": path for key, named in sets.items() for name, path in named.items() if path is not None}

    @property
    def pair_split(self) -> Literal["train", "pairs"]:
        return "pairs" if self.pair_sets else "train"

    @property
    def stand_in(self) -> str | None:
        return "GENERATED questions, not the published sets (set benchmarks.multihop_qa.sets)" if "generated" in self.sets else None

    @property
    def tool_delays(self) -> list[float]:
        """The delays that evaluated tasks take in turn."""
        return self.tool_delay if isinstance(self.tool_delay, list) else [self.tool_delay]

    @model_validator(mode="after")
    def _delays(self) -> MultiHopQAOptions:
        if not self.tool_delays or not all(0 <= delay <= 600 for delay in self.tool_delays):
            raise Mistake("tool_delay", "needs one or more numbers of seconds from 0 to 600")
        return self

    def note(self, steps: list[int], levels: bool) -> str:
        other = "; generated questions, not the published sets" if "generated" in self.sets else ""
        return f"{self.title}: {', '.join(self.sets) or 'all'}{self.sample}, {at_most(steps)}{other}."


class BrowseCompOptions(BenchmarkOptions):
    workflow: ClassVar[str] = "search"
    title: ClassVar[str] = "BrowseComp-ZH"

    data: str | None = Field(
        default=None, description="browsecomp-zh-encrypted.xlsx: path, hf://datasets/OWNER/NAME/FILE, or address on the web"
    )
    revised: str | None = Field(
        default=None,
        description="corrected answers (BrowseComp-ZH-revised, JSON Lines of problem, answer), likewise; null takes none",
    )
    tasks: int | None = Field(
        default=110, ge=1, description="questions drawn uniformly by seed (DLLM Agent: 110); null for all 289", json_schema_extra=EVALUATION
    )
    train_tasks: Literal[0] = Field(default=0, description="there is nothing to train on")
    max_steps: int = Field(default=15, ge=1, description="turns per question")
    web_search_url: str | None = Field(
        default=None, description="HTTP search API; the key is read from WEB_SEARCH_API_KEY", json_schema_extra=NOTHING
    )
    top_k: int = Field(default=10, ge=1, description="search results a query")
    judge_url: str | None = Field(
        default=None, description="OpenAI-compatible URL of the LLM judge; null scores by a rule", json_schema_extra=NOTHING
    )
    judge_model: str | None = Field(default=None, description="published: gpt-4o", json_schema_extra=JUDGING)

    @property
    def files(self) -> dict[str, str]:
        every = {"data": self.data, "revised": self.revised}
        return {key: path for key, path in every.items() if path is not None and not path.startswith(("http://", "https://"))}

    @property
    def stand_in(self) -> str | None:
        if missing := [key for key in ("data", "web_search_url") if getattr(self, key) is None]:
            return f"NOT PLAYABLE without its {' and '.join(missing)} (set benchmarks.browsecomp_zh.{missing[0]})"
        return None if self.judge_url else "scored by a rule, not by the published judge (set benchmarks.browsecomp_zh.judge_url)"

    def note(self, steps: list[int], levels: bool) -> str:
        answers, judge = "revised" if self.revised else "published", self.judge_model or "a rule, not by a judge"
        return f"{self.title}: {self.tasks or 'all'} questions, drawn by seed, {answers} answers, scored by {judge}, {at_most(steps)}."


class Benchmarks(Section):
    """The options of every benchmark, defaults where the files say nothing."""

    alfworld: ALFWorldOptions = Field(default_factory=ALFWorldOptions)
    babyai: BabyAIOptions = Field(default_factory=BabyAIOptions)
    bfcl: BFCLOptions = Field(default_factory=BFCLOptions)
    browsecomp_zh: BrowseCompOptions = Field(default_factory=BrowseCompOptions)
    multihop_qa: MultiHopQAOptions = Field(default_factory=MultiHopQAOptions)
    scienceworld: ScienceWorldOptions = Field(default_factory=ScienceWorldOptions)

    @model_validator(mode="before")
    @classmethod
    def _nothing_said(cls, data: Any) -> Any:
        """A name with nothing after it takes the defaults."""
        return {name: section for name, section in data.items() if section is not None} if isinstance(data, dict) else data


BENCHMARKS = tuple(sorted(Benchmarks.model_fields))
TITLES: dict[str, str] = {name: getattr(Benchmarks(), name).title for name in BENCHMARKS}
"""Benchmark -> its name as readers know it."""
