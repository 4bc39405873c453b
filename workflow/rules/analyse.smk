"""Scores and failures.

Needs: episodes/<benchmark>/<agent>.jsonl and the tasks. Gives: scores/<benchmark>/<agent>.parquet, failures/<benchmark>/<agent>.parquet.
"""


rule score:
    """Score episodes; single answers are judged by the official checker in an isolated process."""
    input:
        episodes=f"{RESULTS}/episodes/{{benchmark}}/{{agent}}.jsonl",
        tasks=f"{RESULTS}/tasks/{{benchmark}}.jsonl",
    output:
        f"{RESULTS}/scores/{{benchmark}}/{{agent}}.parquet",
    log:
        f"{RESULTS}/logs/score/{{benchmark}}.{{agent}}.log",
    conda:
        "../../envs/main.yaml"
    resources:
        mem_mb=lambda wildcards, attempt: PLAN.memory("score", attempt),
        runtime=lambda wildcards, attempt: PLAN.minutes("score", attempt),
    params:
        config=CONFIG_FILE,
    shell:
        "dllm-agents score --config {params.config:q} --episodes {input.episodes:q} --tasks {input.tasks:q} --output {output:q} 2>&1 | tee {log:q}"


rule classify_failures:
    """Name the failures in episodes, each with its evidence."""
    input:
        episodes=f"{RESULTS}/episodes/{{benchmark}}/{{agent}}.jsonl",
        scores=f"{RESULTS}/scores/{{benchmark}}/{{agent}}.parquet",
    output:
        f"{RESULTS}/failures/{{benchmark}}/{{agent}}.parquet",
    log:
        f"{RESULTS}/logs/classify_failures/{{benchmark}}.{{agent}}.log",
    conda:
        "../../envs/main.yaml"
    resources:
        mem_mb=lambda wildcards, attempt: PLAN.memory("score", attempt),
        runtime=lambda wildcards, attempt: PLAN.minutes("score", attempt),
    params:
        config=CONFIG_FILE,
        loop_length=CONFIG.report.loop_length,
    shell:
        "dllm-agents classify-failures --config {params.config:q} --episodes {input.episodes:q} --scores {input.scores:q}"
        " --output {output:q} 2>&1 | tee {log:q}"
