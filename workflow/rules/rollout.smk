"""Rollouts.

Needs: tasks/<benchmark>.jsonl and the checkpoints of backbones that are trained here. Gives: episodes/<benchmark>/<agent>.jsonl.
One job plays an agent over all its benchmarks and owns the servers it starts. Agents that play the same benchmarks share a rule.
"""

for played, agents in PLAN.agents_by_benchmarks():

    rule:
        name:
            f"rollout_{'_'.join(played)}"
        input:
            tasks=expand(f"{RESULTS}/tasks/{{benchmark}}.jsonl", benchmark=played),
            models=lambda wildcards, played=played: PLAN.agent_models(
                wildcards.agent, played
            ),
            trajectories=lambda wildcards: PLAN.agent_trajectories(wildcards.agent),
        output:
            expand(
                f"{RESULTS}/episodes/{{benchmark}}/{{{{agent}}}}.jsonl",
                benchmark=played,
            ),
        log:
            f"{RESULTS}/logs/rollout/{{agent}}.{'_'.join(played)}.log",
        benchmark:
            f"{RESULTS}/benchmarks/rollout/{{agent}}.{'_'.join(played)}.tsv"
        wildcard_constraints:
            agent="|".join(map(re.escape, agents)),
        conda:
            "../../envs/main.yaml"
        # A model gets the machine; scripted agents share it.
        threads:
            lambda wildcards: (
                processors("rollout") if CONFIG.agent_backbones(wildcards.agent) else 1
            )
        resources:
            mem_mb=lambda wildcards, attempt: PLAN.memory("rollout", attempt),
            runtime=lambda wildcards, attempt: PLAN.minutes("rollout", attempt),
            gpu=lambda wildcards: PLAN.rollout_gpus(wildcards.agent),
        params:
            settings=lambda wildcards: PLAN.agent_settings(wildcards.agent),
            models=lambda wildcards, played=played: PLAN.model_arguments(
                wildcards.agent, played
            ),
            trajectories=lambda wildcards, input: " ".join(
                f"--trajectories {shlex.quote(path)}" for path in input.trajectories
            ),
        shell:
            "dllm-agents rollout --config $DLLM_AGENTS_CONFIG --agent {wildcards.agent} --tasks {input.tasks:q} {params.models}"
            " {params.trajectories} --output {output:q} 2>&1 | tee {log:q}"


rule replay_verifiers:
    """Early-exit verifiers look at stored episodes; one job for all verifiers, prompts and agents of a benchmark."""
    input:
        episodes=lambda wildcards: expand(
            f"{RESULTS}/episodes/{wildcards.benchmark}/{{agent}}.jsonl",
            agent=PLAN.verified_agents(wildcards.benchmark),
        ),
        models=lambda wildcards: [
            path for _, path in PLAN.verifier_arguments(wildcards.benchmark)
        ],
    output:
        f"{RESULTS}/exits/{{benchmark}}.parquet",
    log:
        f"{RESULTS}/logs/replay_verifiers/{{benchmark}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/replay_verifiers/{{benchmark}}.tsv"
    conda:
        "../../envs/main.yaml"
    threads: workflow.cores or 2
    resources:
        mem_mb=lambda wildcards, attempt: PLAN.memory("rollout", attempt),
        runtime=lambda wildcards, attempt: PLAN.minutes("rollout", attempt),
        gpu=lambda wildcards: PLAN.verification_gpus(),
    params:
        settings=lambda wildcards: PLAN.verification_settings(wildcards.benchmark),
        models=lambda wildcards: " ".join(
            f"--model {shlex.quote(f'{backbone}={path}')}"
            for backbone, path in PLAN.verifier_arguments(wildcards.benchmark)
        ),
    shell:
        "dllm-agents replay-verifiers --config $DLLM_AGENTS_CONFIG --episodes {input.episodes:q} {params.models}"
        " --output {output:q} 2>&1 | tee {log:q}"
