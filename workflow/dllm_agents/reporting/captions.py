"""Captions: what a table or figure shows, on which tasks, and where these differ from the paper's. From the configuration alone, since
the workflow reads them on every start; sample sizes stand in the tables themselves."""

from __future__ import annotations

from dllm_agents.catalogue import NEEDS
from dllm_agents.config import (
    BFCL_MULTI_TURN,
    BFCL_SINGLE_TURN,
    EMBODIED,
    ALFWorldOptions,
    BabyAIOptions,
    BFCLOptions,
    Config,
    ScienceWorldOptions,
)

TITLES = {
    "diffuagent_table1": "Embodied agents: success rate and progress rate (%), after Table 1 of DiffuAgent.",
    "diffuagent_table2": "Tool-calling agents on BFCL-v3: success rate (%), after Table 2 of DiffuAgent.",
    "comparisons": (
        "Paired comparisons on the same tasks: difference in success rate (points), exact McNemar test, Holm-corrected over the table."
    ),
    "claims": "The papers' claims, tested on this run: each holds, does not hold, or cannot be told from it.",
    "failures": "Failure modes: share of episodes (%) with at least one failure of a class.",
    "trajectory_filter": "Teacher trajectories accepted for training, and rejected with the reason.",
    "serving": "Serving probe: kept tokens per second, latency, forward evaluations (NFE) per token. Wall-clock values.",
    "diffuagent_table3": "Embodied agents with a memory module: success and progress rate (%), after Table 3 of DiffuAgent.",
    "diffuagent_table6": "BFCL-v3 with a tool selector and a tool-call editor: success rate (%), after Table 6 of DiffuAgent (multi-turn).",
    "searcher_table1": "Multi-hop questions: accuracy (%) by containment (ACC_R) and by LLM judge (ACC_L), after Table 1 of DLLM-Searcher.",
    "dllm_agent_efficiency": "What episodes cost: forward evaluations (NFE), tokens, rounds, time; matched pairs on the tasks both solve.",
    "dllm_agent_tool_errors": "Tool calls on BFCL-v3: share of entries (%) that are well formed, call the right functions, are correct.",
    "diffuagent_table4": "The embodied test sets, with an example trajectory of each from this run, after Table 4 of DiffuAgent.",
    "diffuagent_table5": "What BFCL-v3's test set is made of, with examples from this run, after Table 5 of DiffuAgent.",
    "searcher_table2": "A diffusion search agent before and after training: SFT and SFT + VRPO (%), after Table 2 of DLLM-Searcher.",
    "searcher_table3": "Replies of search agents that cannot be read, by class: share of questions (%), after Table 3 of DLLM-Searcher.",
    "searcher_case_study": "Which tokens of a search agent's first turn stand at a denoising step, after section 5.4 of DLLM-Searcher.",
    "dllm_agent_planning": "Planner, seekers and writer: what the plans were worth (%; counts per question where not a share).",
    "dllm_agent_attention": (
        "Where the tokens of a planning agent's replies look while they are decoded, by workflow stage: share of attention (%) on the "
        "question, the plan, tool results, the rest of the prompt and the reply itself, and entropy over the prompt (% of the greatest "
        "possible). Means over replies, layers and heads; this project's definition."
    ),
    "dllm_agent_masking": (
        "Training with and without masks aligned to context and action spans: success and unreadable replies (%), loss on held-out tasks."
    ),
    "training_curves": "Loss of every training of the run, by step: on the batches (thin) and on held-out tasks (thick).",
    "diffuagent_figure6": (
        "Early exit, after Figure 6 of DiffuAgent: redundant steps saved against progress lost by verifiers replayed on stored episodes, "
        "both means per episode. Filled: autoregressive verifier, hollow: diffusion. The paper prints no numbers."
    ),
    "diffuagent_figure7": (
        "Tool calling with a selector, an editor or both, by the backbone of the module, after Figure 7 of DiffuAgent (its numbers are "
        "those of Table 6: BFCL-v3 multi-turn)."
    ),
    "searcher_figure3": (
        "Time of P-ReAct against ReAct on the same questions, after Figure 3 of DLLM-Searcher, and where the difference comes from. "
        "Wall-clock values."
    ),
    "searcher_figure4": (
        "What it costs to call before thinking, after Figure 4 of DLLM-Searcher: by prompt for autoregressive backbones, by P-ReAct for "
        "diffusion ones; ACC_R. The paper prints no numbers."
    ),
    "efficiency_roofline": (
        "Roofline of one forward: arithmetic speed reached over arithmetic intensity, at growing numbers of tokens a forward, under the "
        "memory and compute ceilings measured on the same hardware. Wall-clock values."
    ),
    "diffuagent_figure1": (
        "Performance against efficiency, after Figure 1 of DiffuAgent. Published points are read off the figure (one A800); ours are the "
        "serving probe's kept tokens per second at the lowest concurrency, on this run's hardware."
    ),
    "diffuagent_figure3": (
        "Retry loops, after Figure 3 of DiffuAgent: share of episodes with at least one run of identical consecutive actions. Published "
        "counts are read off the figure (+-2)."
    ),
    "diffuagent_figure4": (
        "Tool-calling failures, after Figure 4 of DiffuAgent: share of single-turn entries (Live and Non-Live, without Java and "
        "JavaScript: the published sums fit those 340) in each class. Published counts are read off the figure (+-2)."
    ),
}
_NAMES = {"alfworld": "ALFWorld", "babyai": "BabyAI", "bfcl": "BFCL-v3", "multihop_qa": "multi-hop QA", "scienceworld": "ScienceWorld"}
_INTERVALS = "Brackets: 95 % intervals (Wilson for rates, percentile bootstrap for means)."
_PUBLISHED = "Published rows are the paper's numbers, not runs of ours."


def display_name(benchmark: str) -> str:
    """A benchmark's name as readers know it."""
    return _NAMES.get(benchmark, benchmark)


def caption(result: str, config: Config) -> str:
    """The caption of a table or figure: title, tasks and step cap of every benchmark it reads, deviations from the papers, seed."""
    groups = [group for _, group in NEEDS.get(result, ())]
    parts = [TITLES.get(result, result.replace("_", " ") + ".")]
    if result.startswith(("diffuagent", "searcher")):
        parts.append(_PUBLISHED)
    if result not in ("serving", "efficiency_roofline", "training_curves"):
        parts += [benchmark_note(name, config, levels=result == "diffuagent_table1") for name in _benchmarks(groups, config)]
        parts.append(f"{_INTERVALS} Seed {config.seed}, scale {config.scale}.")
    if any(group in ("embodied", "all", "bfcl") for group in groups) and config.report.allow_mixed_versions:
        parts.append("MIXED VERSIONS: rows of several package or benchmark versions are allowed in this run.")
    return " ".join(parts)


def benchmark_note(name: str, config: Config, *, levels: bool = True) -> str:
    """A benchmark's tasks and limits in this run, and how they differ from the published ones; BabyAI's levels by name with `levels`."""
    options = config.benchmark_options(name)
    cap = f"at most {options.max_steps} steps"
    sample = f", {options.tasks} tasks drawn" if options.tasks else ""
    if isinstance(options, BabyAIOptions):
        named = f" ({', '.join(options.levels)})" if options.levels and levels else ""
        played = f"{len(options.levels)} levels{named}" if options.levels else "the 28 levels of AgentBoard"
        published = options.levels is None and options.tasks is None and (len(options.seeds), options.max_steps) == (4, 30)
        note = "" if published else "; not the published 112 tasks at 30 steps"
        return f"BabyAI: {played}, {len(options.seeds)} seeds each{sample}, {cap}{note}."
    if isinstance(options, ALFWorldOptions):
        made = "" if options.data else "; generated games, whose scores are not comparable with published ones"
        return f"ALFWorld: {options.tasks or 'all'} tasks, {cap}{made}."
    if isinstance(options, ScienceWorldOptions):
        types = f"{len(options.task_types)} task types" if options.task_types else "30 task types"
        made = "" if options.task_list and not options.tasks else "; not the published 90 tasks"
        return f"ScienceWorld: {types}{sample}, {cap}{made}."
    if isinstance(options, BFCLOptions):
        absent = [item for item in BFCL_SINGLE_TURN + BFCL_MULTI_TURN if item not in options.categories]
        parts = f"BFCL-v3: {len(options.categories)} of 17 categories, at most {options.per_category} entries each{sample}"
        return parts + (
            "; not the published 758 entries." if absent or options.per_category != 50 or options.tasks else ", the published 758 entries."
        )
    sets = getattr(options, "sets", {})
    made = "; generated questions, not the published sets" if "generated" in sets else ""
    return f"{display_name(name)}: {', '.join(sets) or 'all'}{sample}, {cap}{made}."


def _benchmarks(groups: list[str], config: Config) -> list[str]:
    chosen: set[str] = set()
    for group in groups:
        chosen |= set(config.run.benchmarks) if group == "all" else set(EMBODIED) if group == "embodied" else {group}
    return [name for name in config.run.benchmarks if name in chosen]
