"""Who is compared in a test of a claim: the agents of its groups that play a benchmark."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from dllm_agents.config import PREFERENCE
from dllm_agents.reporting import published
from dllm_agents.reporting.claims import Group, Test
from dllm_agents.reporting.comparison import ORIGINS, families, masking_pairs, origin, variants
from dllm_agents.reporting.inputs import Inputs


@dataclass(frozen=True)
class Sides:
    """Agents of both groups of a test that play a benchmark, by training seed where both were trained at the same two or more."""

    of: list[list[str]]
    against: list[list[str]]

    @property
    def agents(self) -> list[str]:
        return list(dict.fromkeys(agent for side in (*self.of, *self.against) for agent in side))


def sides_of(test: Test, inputs: Inputs, benchmark: str) -> Sides | None:
    """Groups of backbones of several origins are not mixed, unless a stage is asked for: those trained alike are compared first."""
    staged = any(group is not None and group.stage for group in (test.of, test.against))
    config = inputs.config
    for kind in (None,) if staged else ORIGINS:
        of, against = (
            [
                agent
                for agent in _members(test.of if group is None or group.metric is not None else group, inputs, benchmark)
                if (kind is None or origin(config.backbones.get(config.agents[agent].policy)) == kind)
                and inputs.errors(agent, benchmark, test.categories).episodes
            ]
            for group in (test.of, test.against)
        )
        if test.of.role != "policy" and test.against is not None:
            # A module is held against another, or none, beside the same policies.
            beside = {agent: (config.agents[agent].policy, config.agents[agent].max_steps) for agent in (*of, *against)}
            of, against = (
                [agent for agent in side if beside[agent] in {beside[one] for one in other}]
                for side, other in ((of, against), (against, of))
            )
        if of and against:
            return Sides(*_by_seed(of, against, inputs))
    return None


def _members(group: Group, inputs: Inputs, benchmark: str) -> list[str]:
    """The agents of a group on a benchmark."""
    return [agent for agent in group.agents or inputs.agents if group.agents is not None or _belongs(agent, group, inputs, benchmark)]


def _belongs(agent: str, group: Group, inputs: Inputs, benchmark: str) -> bool:
    config = inputs.config
    entry = config.agents[agent]
    backbone = config.backbones.get(entry.backbones.get(group.role, ""))
    if [role for role in entry.backbones if role not in ("policy", "planner", "seeker", "writer")] != [group.role] * (
        group.role != "policy"
    ):
        return False
    if (entry.acting, inputs.kind(agent), entry.history == "recent") != (group.acting, group.workflow, group.history == "recent"):
        return False
    if entry.constrain != group.constrain or agent not in _by_parallelism(group.parallel, inputs, benchmark):
        return False
    if backbone is None or group.paradigm not in (None, backbone.paradigm):
        return False
    if group.models is not None and published.published_name(config, agent) not in group.models:
        return False
    return _stage(entry.policy, group, inputs) and (group.mask is None or agent in _masked(group.mask, inputs))


def _stage(policy: str, group: Group, inputs: Inputs) -> bool:
    training = inputs.config.backbones[policy].training
    if group.stage == "base":
        learners = map(inputs.training, inputs.agents)
        return any(other is not None and other.objective in PREFERENCE and other.base == policy for other in learners)
    if group.stage == "ready":
        return training is None
    # What was trained further by preferences is the same model twice, and is asked for by its stage.
    return (group.stage == "preference") == (training is not None and training.objective in PREFERENCE)


def _by_parallelism(parallel: str | None, inputs: Inputs, benchmark: str) -> set[str]:
    """Of agents that differ in their decoding settings alone those that decide the most, or the fewest, tokens a forward; without a wish
    those that decode as their backbone does."""
    if parallel is None:
        return set(inputs.agents) - variants(inputs)

    def tokens_per_forward(agent: str) -> float:
        scores = inputs.rows(agent, benchmark)
        return float(scores["completion_tokens"].sum() / max(scores["nfe"].sum(), 1))

    choose = max if parallel == "most" else min
    played = [[agent for agent in family if len(inputs.rows(agent, benchmark))] for family in families(inputs, "decoding")]
    return {choose(agents, key=tokens_per_forward) for agents in played if len(agents) > 1}


def _masked(mask: str, inputs: Inputs) -> set[str]:
    pairs = masking_pairs(inputs)
    return {aligned if mask == "aligned" else naive for aligned, naive in pairs}


def _by_seed(of: list[str], against: list[str], inputs: Inputs) -> tuple[list[list[str]], list[list[str]]]:
    """Both groups apart by training seed, where they hold the same two or more; else each as it is."""
    own, theirs = ({inputs.training_seed(agent) for agent in agents} for agents in (of, against))
    seeds = sorted(seed for seed in own if seed is not None)
    if len(seeds) < 2 or own != theirs or None in own:
        return [of], [against]
    first, second = ([[agent for agent in side if inputs.training_seed(agent) == seed] for seed in seeds] for side in (of, against))
    return first, second


def groups(test: Test, sides: Sides) -> list[tuple[Group, list[list[str]]]]:
    if test.against is None or test.against.metric is not None:
        return [(test.of, sides.of)] * (1 if test.against is None else 2)
    return [(test.of, sides.of), (test.against, sides.against)]


def label(group: Group, agents: Sequence[str]) -> str:
    """What a reader calls a group, with the names of its agents."""
    kind = {None: "agents", "ar": "AR agents", "diffusion": "dLLM agents"}[group.paradigm]
    kind = {"p_react": "P-ReAct agents", "tool_first": "call-first agents"}.get(group.acting, kind)
    kind = f"constrained {kind}" if group.constrain else kind
    if group.role != "policy":
        kind = f"{'AR ' if group.paradigm == 'ar' else 'dLLM ' if group.paradigm else ''}{group.role} agents"
    return f"{kind} ({', '.join(dict.fromkeys(agents))})"
