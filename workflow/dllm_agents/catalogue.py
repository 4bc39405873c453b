"""What each table and figure is made from: (kind of result, benchmarks). Imports nothing, since the workflow reads it on every start."""

TABLE_NEEDS: dict[str, tuple[tuple[str, str], ...]] = {
    "diffuagent_table1": (("scores", "embodied"),),
    "diffuagent_table2": (("scores", "bfcl"),),
    "comparisons": (("scores", "all"),),
    "claims": (("failures", "all"), ("scores", "all"), ("exits", "embodied")),
    "failures": (("failures", "all"), ("scores", "all")),
    "trajectory_filter": (("trajectories", "all"),),
    "serving": (("serving", "all"),),
    "diffuagent_table3": (("scores", "embodied"),),
    "diffuagent_table6": (("scores", "bfcl"),),
    "searcher_table1": (("scores", "multihop_qa"),),
    "dllm_agent_efficiency": (("scores", "all"),),
    "dllm_agent_tool_errors": (("failures", "bfcl"), ("scores", "bfcl")),
    "diffuagent_table4": (("episodes", "embodied"), ("tasks", "embodied")),
    "diffuagent_table5": (("episodes", "bfcl"), ("scores", "bfcl"), ("tasks", "bfcl")),
    "searcher_table2": (("scores", "all"),),
    "searcher_table3": (("episodes", "multihop_qa"),),
    "searcher_case_study": (("episodes", "multihop_qa"),),
    "dllm_agent_planning": (("scores", "multihop_qa"),),
    "dllm_agent_attention": (("attention", "multihop_qa"),),
    "dllm_agent_masking": (("failures", "all"), ("models", "all"), ("scores", "all")),
}
FIGURE_NEEDS: dict[str, tuple[tuple[str, str], ...]] = {
    "diffuagent_figure1": (("scores", "all"), ("serving", "all")),
    "diffuagent_figure3": (("failures", "embodied"), ("scores", "embodied")),
    "diffuagent_figure4": (("failures", "bfcl"), ("scores", "bfcl")),
    "diffuagent_figure6": (("exits", "embodied"),),
    "diffuagent_figure7": (("scores", "bfcl"),),
    "searcher_figure3": (("scores", "multihop_qa"),),
    "searcher_figure4": (("scores", "multihop_qa"),),
    "efficiency_roofline": (("serving", "all"),),
    "dllm_agent_attention": (("attention", "multihop_qa"),),
    "training_curves": (("models", "all"),),
}
NEEDS = TABLE_NEEDS | FIGURE_NEEDS
TABLES, FIGURES = frozenset(TABLE_NEEDS), frozenset(FIGURE_NEEDS)
