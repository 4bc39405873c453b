"""Scores and failures.

Needs: episodes/<benchmark>/<agent>.jsonl and the tasks. Gives: scores/<benchmark>/<agent>.parquet, failures/<benchmark>/<agent>.parquet.
One job takes what one rollout job played, since starting a process takes longer than scoring a file.
"""

for job in PLAN.rollouts():
    episodes, tasks, scores, failures = (
        PLAN.played(job, f"{RESULTS}/{place}")
        for place in (
            "episodes/{benchmark}/{agent}.jsonl",
            "tasks/{benchmark}.jsonl",
            "scores/{benchmark}/{agent}.parquet",
            "failures/{benchmark}/{agent}.parquet",
        )
    )

    rule:
        name:
            f"score_{job.name}"
        input:
            episodes=episodes,
            tasks=tasks,
        output:
            scores,
        log:
            f"{RESULTS}/logs/score/{job.name}.log",
        group:
            "score"
        conda:
            "../../envs/main.yaml"
        resources:
            mem_mb=lambda wildcards, attempt: PLAN.memory("score", attempt),
            runtime=lambda wildcards, attempt, job=job: PLAN.minutes("score", attempt)
            * len(job.agents),
        shell:
            "dllm-agents score --config $DLLM_AGENTS_CONFIG --episodes {input.episodes:q} --tasks {input.tasks:q}"
            " --output {output:q} 2>&1 | tee {log:q}"

    rule:
        name:
            f"classify_failures_{job.name}"
        input:
            episodes=episodes,
            scores=scores,
            tasks=tasks,
        output:
            failures,
        log:
            f"{RESULTS}/logs/classify_failures/{job.name}.log",
        group:
            "score"
        conda:
            "../../envs/main.yaml"
        resources:
            mem_mb=lambda wildcards, attempt: PLAN.memory("score", attempt),
            runtime=lambda wildcards, attempt, job=job: PLAN.minutes("score", attempt)
            * len(job.agents),
        params:
            loop_length=CONFIG.report.loop_length,
        shell:
            "dllm-agents classify-failures --config $DLLM_AGENTS_CONFIG --episodes {input.episodes:q} --scores {input.scores:q}"
            " --tasks {input.tasks:q} --output {output:q} 2>&1 | tee {log:q}"


rule attention:
    """Play a planning agent's stored episodes again with its checkpoints, and read where every reply looked."""
    input:
        tasks=f"{RESULTS}/tasks/{{benchmark}}.jsonl",
        episodes=f"{RESULTS}/episodes/{{benchmark}}/{{agent}}.jsonl",
        models=lambda wildcards: PLAN.agent_models(
            wildcards.agent, [wildcards.benchmark]
        ),
    output:
        f"{RESULTS}/attention/{{benchmark}}/{{agent}}.parquet",
    log:
        f"{RESULTS}/logs/attention/{{benchmark}}.{{agent}}.log",
    conda:
        "../../envs/main.yaml"
    resources:
        mem_mb=lambda wildcards, attempt: PLAN.memory("score", attempt),
        runtime=lambda wildcards, attempt: PLAN.minutes("score", attempt),
    params:
        models=lambda wildcards, input: model_arguments(input.models),
    shell:
        "dllm-agents attention --config $DLLM_AGENTS_CONFIG --agent {wildcards.agent} --tasks {input.tasks:q} --episodes {input.episodes:q}"
        " {params.models} --output {output:q} 2>&1 | tee {log:q}"
