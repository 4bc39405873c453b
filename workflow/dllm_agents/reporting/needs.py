"""What each table and figure is made from: (kind of result, benchmarks). Imports nothing, since the workflow reads it on every start."""

TABLE_NEEDS: dict[str, tuple[tuple[str, str], ...]] = {
    "diffuagent_table1": (("scores", "embodied"),),
    "diffuagent_table2": (("scores", "bfcl"),),
    "comparisons": (("scores", "all"),),
    "claims": (("failures", "all"), ("scores", "all")),
    "failures": (("failures", "all"), ("scores", "all")),
    "trajectory_filter": (("trajectories", "all"),),
    "serving": (("serving", "all"),),
    "diffuagent_table3": (("scores", "embodied"),),
    "diffuagent_table6": (("scores", "bfcl"),),
    "searcher_table1": (("scores", "multihop_qa"),),
    "dllm_agent_efficiency": (("scores", "all"),),
    "dllm_agent_tool_errors": (("failures", "bfcl"), ("scores", "bfcl")),
}
FIGURE_NEEDS: dict[str, tuple[tuple[str, str], ...]] = {
    "diffuagent_figure1": (("scores", "all"), ("serving", "all")),
    "diffuagent_figure3": (("failures", "embodied"), ("scores", "embodied")),
    "diffuagent_figure4": (("failures", "bfcl"), ("scores", "bfcl")),
}
NEEDS = TABLE_NEEDS | FIGURE_NEEDS
TABLES, FIGURES = frozenset(TABLE_NEEDS), frozenset(FIGURE_NEEDS)
