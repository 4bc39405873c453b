"""One agent plays one task: the workflow of its benchmark, with its modules, and what came of it."""

from __future__ import annotations

import random
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

from dllm_agents.agents import MODULE_STYLE, planner, react, search, tool_calling, workflows
from dllm_agents.agents.deepdiver import episode as deepdiver
from dllm_agents.agents.game import Game
from dllm_agents.agents.modules.early_exit import Verifier
from dllm_agents.agents.modules.editor import Editor
from dllm_agents.agents.modules.memory import Memory
from dllm_agents.agents.modules.selector import Selecting, Selector
from dllm_agents.agents.modules.tool_graph import GraphSelector, ToolGraph
from dllm_agents.agents.policy import EpisodeLimit, ending_of
from dllm_agents.agents.recording import Backbones, Recording
from dllm_agents.benchmarks import dialects
from dllm_agents.benchmarks.base import Benchmark, Environment
from dllm_agents.benchmarks.multihop_qa import SearchEnvironment
from dllm_agents.client.client import PromptTooLong
from dllm_agents.config import SCRIPTED, Agent, Config
from dllm_agents.config.dialects import DIALECTS
from dllm_agents.records import Outcome, Task


@dataclass(frozen=True)
class Player:
    """An agent of the configuration on a benchmark. `graph` is what a selector with a tool graph has learnt, `learnt` what a workflow
    has."""

    config: Config
    name: str
    benchmark: Benchmark
    graph: ToolGraph | None = None
    learnt: Any = None

    @property
    def agent(self) -> Agent:
        """Its entry in the configuration."""
        return self.config.agents[self.name]

    @property
    def seed(self) -> int:
        """The seed of its calls."""
        return self.config.seed if self.agent.seed is None else self.agent.seed

    @property
    def scripted(self) -> bool:
        """Whether it plays without backbones."""
        return self.agent.policy in SCRIPTED

    @property
    def style(self) -> str:
        """The prompt style of its policy; none for a scripted one."""
        return "" if self.scripted else self.config.backbones[self.agent.policy].prompt

    def play(self, task: Task, backbones: Backbones | None = None) -> Outcome:
        """Play a task with the agent's backbones; a scripted agent has none. What a server or the environment raises is raised."""
        if self.scripted:
            outcome = self._scripted(task)
        else:
            assert backbones is not None, "an agent that is not scripted has backbones"
            recording = Recording(backbones, self.agent.max_tokens)
            try:
                outcome = self._workflow(task, recording)
            except (EpisodeLimit, PromptTooLong) as stop:
                outcome = Outcome(ended=ending_of(stop))
            outcome.calls = recording.in_order()
            outcome.decoding = {role: settings.model_dump(mode="json", exclude_none=True) for role, settings in recording.decoding.items()}
        outcome.progress = outcome.steps[-1].progress if outcome.steps else 0.0
        return outcome

    def _workflow(self, task: Task, roles: Recording) -> Outcome:
        """The workflow that the benchmark and the agent call for."""
        workflow = self.config.workflow(self.name, self.benchmark.name)
        if workflow not in ("react", "tool_calling", "search", "planner", "deepdiver"):
            return self._play_game(workflow, task, roles)
        if workflow == "tool_calling":
            return self._call_tools(task, roles)
        with self.benchmark.environment(task) as environment:
            if workflow == "react":
                return self._act(task, roles, environment)
            assert isinstance(environment, SearchEnvironment)
            if workflow == "deepdiver":
                planning, seeking = map(roles.required, ("planner", "seeker"))
                budget = self.agent.budget
                return deepdiver.play(environment, task, planning, seeking, style=self.style, budget=budget, seed=self.seed)
            if workflow == "planner":
                team = planner.Roles(*map(roles.required, ("planner", "seeker", "writer")))
                return planner.play(environment, task, team, style=self.style, seed=self.seed)
            return self._search(task, roles, environment)

    def _search(self, task: Task, roles: Recording, environment: SearchEnvironment) -> Outcome:
        backbone, dialect = roles.stream("policy"), self.config.dialect(self.name, self.benchmark.name)
        if dialect is not None:
            tags = DIALECTS[dialect]
            environment.top_k, environment.present = tags.passages, lambda queries, hits: dialects.block(tags, hits)
            backbone = search.whole(roles.required("policy"))
        return search.play(
            environment,
            task,
            backbone,
            style=self.style,
            acting=self.agent.acting,
            max_steps=self.benchmark.max_steps,
            seed=self.seed,
            constrain=self.agent.constrain,
            dialect=dialect,
        )

    def _play_game(self, workflow: str, task: Task, roles: Recording) -> Outcome:
        """A workflow of a module of its own; a task that is answered once has no environment."""
        whole = self.benchmark.interactive(task)
        with self.benchmark.environment(task) if whole else nullcontext() as environment:
            game = Game(
                workflow,
                task,
                self.benchmark,
                environment,
                roles,
                self.agent,
                self.style,
                self.seed,
                self.config.workflow_options(self.name, self.benchmark.name),
                self.learnt,
                self.config.dialect(self.name, self.benchmark.name),
            )
            return game.play(workflows.load(workflow).play)

    def _call_tools(self, task: Task, roles: Recording) -> Outcome:
        choosing, editing = roles.complete("selector"), roles.complete("editor")
        selector: Selecting | None = Selector(choosing, MODULE_STYLE) if choosing else None
        confidence = self.agent.selector.confidence if self.agent.selector is not None else None
        if selector is not None and self.graph is not None and confidence is not None:
            selector = GraphSelector(self.graph, confidence, selector)
        editor, policy = Editor(editing, MODULE_STYLE) if editing else None, roles.required("policy")
        if not self.benchmark.interactive(task):
            return tool_calling.answer(
                self.benchmark,
                task,
                policy,
                style=self.style,
                seed=self.seed,
                selector=selector,
                editor=editor,
                constrain=self.agent.constrain,
            )
        with self.benchmark.dialogue(task) as dialogue:
            return tool_calling.converse(dialogue, task, policy, seed=self.seed, selector=selector, editor=editor)

    def _act(self, task: Task, roles: Recording, environment: Environment) -> Outcome:
        memory, verifier = self.agent.memory, self.agent.verifier
        remembering, verifying = roles.complete("memory"), roles.complete("verifier")
        return react.play(
            environment,
            task,
            roles.required("policy"),
            style=self.style,
            history=self.agent.history,
            attempts=self.agent.attempts,
            max_steps=self.max_steps,
            seed=self.seed,
            list_actions=self.benchmark.lists_actions,
            constrain=self.agent.constrain,
            memory=Memory(remembering, MODULE_STYLE, memory.every, memory.keep) if memory and remembering else None,
            verifier=Verifier(verifying, MODULE_STYLE, verifier.prompt, verifier.every) if verifier and verifying else None,
        )

    @property
    def max_steps(self) -> int:
        """The most steps of an episode."""
        own = self.agent.max_steps if self.benchmark.workflow == "react" else None
        return own or self.benchmark.max_steps

    def _scripted(self, task: Task) -> Outcome:
        generator = random.Random(f"{self.seed}:{task.id}:{self.agent.policy}")
        if not self.benchmark.interactive(task):
            answers = {
                "random": lambda: self.benchmark.random_answer(task, generator),
                "empty": lambda: "",
                "teacher": lambda: self.benchmark.reference_answer(task),
            }
            return tool_calling.answered(answers[self.agent.policy]())
        choosers: dict[str, react.Scripted] = {
            "random": lambda environment: (None, generator.choice(environment.valid_actions() or [""])),
            "empty": lambda environment: None,
            "teacher": lambda environment: environment.expert_action(),
        }
        with self.benchmark.environment(task) as environment:
            return react.play_scripted(environment, choosers[self.agent.policy], max_steps=self.max_steps)
