"""Scores, failures and attention.

Needs: episodes/<benchmark>/<agent>.jsonl and the tasks. Gives: scores/<benchmark>/<agent>.parquet, failures/<benchmark>/<agent>.parquet,
attention/<benchmark>/<agent>.parquet.
"""


rule score:
    """Score an agent's episodes with the benchmark's own checker."""
    input:
        episodes=RESULTS.episodes("{benchmark}", "{agent}"),
        tasks=RESULTS.tasks("{benchmark}"),
    output:
        RESULTS.scores("{benchmark}", "{agent}"),
    log:
        RESULTS.log("score", "{agent}.{benchmark}"),
    group:
        "score"
    conda:
        "../../envs/main.yaml"
    resources:
        mem_mb=memory("score"),
        runtime=minutes("score"),
    params:
        settings=lambda wildcards: dependencies.of_scores(CONFIG, wildcards.benchmark),
    shell:
        "dllm-agents score --config {FROZEN:q} --episodes {input.episodes:q} --tasks {input.tasks:q}"
        " --output {output:q} 2>&1 | tee {log:q}"


rule classify_failures:
    """Name the failures in an agent's episodes, each with its evidence."""
    input:
        episodes=RESULTS.episodes("{benchmark}", "{agent}"),
        scores=RESULTS.scores("{benchmark}", "{agent}"),
        tasks=RESULTS.tasks("{benchmark}"),
    output:
        RESULTS.failures("{benchmark}", "{agent}"),
    log:
        RESULTS.log("classify_failures", "{agent}.{benchmark}"),
    group:
        "score"
    conda:
        "../../envs/main.yaml"
    resources:
        mem_mb=memory("score"),
        runtime=minutes("score"),
    params:
        settings=dependencies.of_failures(CONFIG),
    shell:
        "dllm-agents classify-failures --config {FROZEN:q} --episodes {input.episodes:q} --scores {input.scores:q}"
        " --tasks {input.tasks:q} --output {output:q} 2>&1 | tee {log:q}"


rule attention:
    """Play a planning agent's stored episodes again with its checkpoints, and read where every reply looked."""
    input:
        tasks=RESULTS.tasks("{benchmark}"),
        episodes=RESULTS.episodes("{benchmark}", "{agent}"),
        models=lambda wildcards: FILES.agent_models(
            wildcards.agent, wildcards.benchmark
        ),
    output:
        RESULTS.attention("{benchmark}", "{agent}"),
    log:
        RESULTS.log("attention", "{agent}.{benchmark}"),
    conda:
        "../../envs/main.yaml"
    resources:
        mem_mb=memory("rollout"),
        runtime=minutes("rollout"),
        gpu=lambda wildcards: demand.rollout_gpus(
            CONFIG, wildcards.agent, wildcards.benchmark
        ),
    params:
        models=lambda wildcards, input: model_arguments(input.models),
    shell:
        "dllm-agents attention --config {FROZEN:q} --agent {wildcards.agent} --tasks {input.tasks:q} --episodes {input.episodes:q}"
        " {params.models} --output {output:q} 2>&1 | tee {log:q}"
