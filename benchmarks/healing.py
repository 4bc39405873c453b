"""What the Self-Healing Router recovers on BFCL's conversations with tools that fail, for a backbone whose calls are the published ones.

python benchmarks/healing.py [tasks, default 20] [share of functions that fail, default 0.3]

prints for the benchmark's own protocol and for the router how many tasks are solved, calls of the backbone, and reroutes. The backbone
never reacts to an error, so that what is recovered is the router's doing.
"""

from __future__ import annotations

import sys

from dllm_agents.agents import tool_calling
from dllm_agents.agents.game import Game
from dllm_agents.agents.recording import Recording
from dllm_agents.agents.workflows import self_healing
from dllm_agents.benchmarks.base import Dialogue
from dllm_agents.benchmarks.bfcl import BFCL
from dllm_agents.client.client import Completion
from dllm_agents.config import Agent, BFCLOptions
from dllm_agents.config.roles import WORKFLOWS
from dllm_agents.provenance import hardware
from dllm_agents.records import Outcome


class Published:
    """A backbone that answers with the published calls of the turn, whatever the tools reply."""

    def __init__(self, dialogue: Dialogue) -> None:
        self.dialogue, self.calls = dialogue, 0

    def complete(self, role: str):
        def ask(messages, *, seed, constraint=None) -> Completion:
            self.calls += 1
            return Completion(self.dialogue.expert_action()[1], 1, 1, 1, 0.0, "stop")

        return ask

    def stream(self, role: str):
        raise NotImplementedError(f"{role}: conversations stream nothing")


def main() -> None:
    count, share = int((sys.argv[1:] or ["20"])[0]), float((sys.argv[2:] or ["0.3"])[0])
    bfcl = BFCL(BFCLOptions(per_category=count, categories=["multi_turn_base"], faults=share))
    tasks = bfcl.tasks("test")
    print(f"{hardware()}; {len(tasks)} tasks of multi_turn_base, {share:.0%} of each task's functions fail in every call")
    for name in ("tool_calling", "self_healing"):
        outcomes: list[Outcome] = []
        calls = 0
        for task in tasks:
            with bfcl.environment(task) as dialogue:
                backbone = Published(dialogue)
                roles = Recording(backbone)
                if name == "tool_calling":
                    outcomes.append(tool_calling.converse(dialogue, task, roles.required("policy"), seed=1))
                else:
                    game = Game(name, task, bfcl, dialogue, roles, Agent(policy="m"), "react", 1, WORKFLOWS[name].options)
                    outcomes.append(game.play(self_healing.play))
                calls += backbone.calls
        solved = sum(outcome.success for outcome in outcomes)
        reroutes, escalations = (int(sum(outcome.counts.get(key, 0) for outcome in outcomes)) for key in ("reroutes", "escalations"))
        print(f"{name}: {solved} of {len(tasks)} solved, {calls} calls of the backbone, {reroutes} reroutes, {escalations} escalations")
    bfcl.checker.close()


if __name__ == "__main__":
    main()
