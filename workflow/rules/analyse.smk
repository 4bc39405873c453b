"""Scores and failures.

Needs: episodes/<benchmark>/<agent>.jsonl and the tasks. Gives: scores/<benchmark>/<agent>.parquet, failures/<benchmark>/<agent>.parquet.
As with rollouts, one job takes all the benchmarks of an agent, since starting a process takes longer than scoring a file.
"""

for played, agents in PLAN.agents_by_benchmarks():

    rule:
        name:
            f"score_{'_'.join(played)}"
        input:
            episodes=expand(
                f"{RESULTS}/episodes/{{benchmark}}/{{{{agent}}}}.jsonl",
                benchmark=played,
            ),
            tasks=expand(f"{RESULTS}/tasks/{{benchmark}}.jsonl", benchmark=played),
        output:
            expand(
                f"{RESULTS}/scores/{{benchmark}}/{{{{agent}}}}.parquet",
                benchmark=played,
            ),
        log:
            f"{RESULTS}/logs/score/{{agent}}.{'_'.join(played)}.log",
        wildcard_constraints:
            agent="|".join(map(re.escape, agents)),
        group:
            "score"
        conda:
            "../../envs/main.yaml"
        resources:
            mem_mb=lambda wildcards, attempt: PLAN.memory("score", attempt),
            runtime=lambda wildcards, attempt: PLAN.minutes("score", attempt),
        shell:
            "dllm-agents score --config $DLLM_AGENTS_CONFIG --episodes {input.episodes:q} --tasks {input.tasks:q}"
            " --output {output:q} 2>&1 | tee {log:q}"

    rule:
        name:
            f"classify_failures_{'_'.join(played)}"
        input:
            episodes=expand(
                f"{RESULTS}/episodes/{{benchmark}}/{{{{agent}}}}.jsonl",
                benchmark=played,
            ),
            scores=expand(
                f"{RESULTS}/scores/{{benchmark}}/{{{{agent}}}}.parquet",
                benchmark=played,
            ),
        output:
            expand(
                f"{RESULTS}/failures/{{benchmark}}/{{{{agent}}}}.parquet",
                benchmark=played,
            ),
        log:
            f"{RESULTS}/logs/classify_failures/{{agent}}.{'_'.join(played)}.log",
        wildcard_constraints:
            agent="|".join(map(re.escape, agents)),
        group:
            "score"
        conda:
            "../../envs/main.yaml"
        resources:
            mem_mb=lambda wildcards, attempt: PLAN.memory("score", attempt),
            runtime=lambda wildcards, attempt: PLAN.minutes("score", attempt),
        params:
            loop_length=CONFIG.report.loop_length,
        shell:
            "dllm-agents classify-failures --config $DLLM_AGENTS_CONFIG --episodes {input.episodes:q} --scores {input.scores:q}"
            " --output {output:q} 2>&1 | tee {log:q}"


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
        models=lambda wildcards: PLAN.model_arguments(
            wildcards.agent, [wildcards.benchmark]
        ),
    shell:
        "dllm-agents attention --config $DLLM_AGENTS_CONFIG --agent {wildcards.agent} --tasks {input.tasks:q} --episodes {input.episodes:q}"
        " {params.models} --output {output:q} 2>&1 | tee {log:q}"
