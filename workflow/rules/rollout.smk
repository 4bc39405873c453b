"""Rollouts.

Needs: tasks/<benchmark>.jsonl and the checkpoints of backbones that are trained here. Gives: episodes/<benchmark>/<agent>.jsonl.
One job plays an agent, or one of its parts (`run.shards`), over all its benchmarks and owns the servers it starts. Agents that play
the same benchmarks share a rule.
"""

for played, agents, parts in PLAN.rollouts():
    benchmarks, among = "_".join(played), "|".join(map(re.escape, agents))
    job = "{agent}.{part}" if parts > 1 else "{agent}"
    folder = "parts/" if parts > 1 else ""

    rule:
        name:
            f"rollout_{benchmarks}{'_parts' if parts > 1 else ''}"
        input:
            tasks=expand(f"{RESULTS}/tasks/{{benchmark}}.jsonl", benchmark=played),
            models=lambda wildcards, played=played: PLAN.agent_models(
                wildcards.agent, played
            ),
            trajectories=lambda wildcards: PLAN.agent_trajectories(wildcards.agent),
        output:
            [f"{RESULTS}/episodes/{name}/{folder}{job}.jsonl" for name in played],
        log:
            f"{RESULTS}/logs/rollout/{job}.{benchmarks}.log",
        benchmark:
            f"{RESULTS}/benchmarks/rollout/{job}.{benchmarks}.tsv"
        wildcard_constraints:
            agent=among,
            part=r"\d+-of-\d+",
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
            part=lambda wildcards: (
                f"--part {wildcards.part}" if hasattr(wildcards, "part") else ""
            ),
        shell:
            "dllm-agents rollout --config $DLLM_AGENTS_CONFIG --agent {wildcards.agent} --tasks {input.tasks:q} {params.models} {params.part}"
            " {params.trajectories} --output {output:q} 2>&1 | tee {log:q}"

    if parts > 1:

        rule:
            name:
                f"merge_{benchmarks}"
            input:
                tasks=expand(f"{RESULTS}/tasks/{{benchmark}}.jsonl", benchmark=played),
                parts=[
                    f"{RESULTS}/episodes/{name}/parts/{{agent}}.{index}-of-{parts}.jsonl"
                    for name in played
                    for index in range(1, parts + 1)
                ],
            output:
                [f"{RESULTS}/episodes/{name}/{{agent}}.jsonl" for name in played],
            log:
                f"{RESULTS}/logs/merge/{{agent}}.{benchmarks}.log",
            wildcard_constraints:
                agent=among,
            localrule: True
            conda:
                "../../envs/main.yaml"
            shell:
                "dllm-agents merge-episodes --config $DLLM_AGENTS_CONFIG --tasks {input.tasks:q} --parts {input.parts:q}"
                " --output {output:q} 2>&1 | tee {log:q}"


rule replay_verifiers:
    """Early-exit verifiers look at stored episodes; one job for all verifiers, prompts and agents of a benchmark."""
    input:
        episodes=lambda wildcards: expand(
            f"{RESULTS}/episodes/{wildcards.benchmark}/{{agent}}.jsonl",
            agent=PLAN.verified_agents(wildcards.benchmark),
        ),
        models=lambda wildcards: PLAN.verifier_models(wildcards.benchmark),
    output:
        f"{RESULTS}/exits/{{benchmark}}.parquet",
    log:
        f"{RESULTS}/logs/replay_verifiers/{{benchmark}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/replay_verifiers/{{benchmark}}.tsv"
    conda:
        "../../envs/main.yaml"
    threads: processors("rollout")
    resources:
        mem_mb=lambda wildcards, attempt: PLAN.memory("rollout", attempt),
        runtime=lambda wildcards, attempt: PLAN.minutes("rollout", attempt),
        gpu=lambda wildcards: PLAN.verification_gpus(),
    params:
        settings=lambda wildcards: PLAN.verification_settings(wildcards.benchmark),
        models=lambda wildcards: PLAN.verifier_arguments(wildcards.benchmark),
    shell:
        "dllm-agents replay-verifiers --config $DLLM_AGENTS_CONFIG --episodes {input.episodes:q} {params.models}"
        " --output {output:q} 2>&1 | tee {log:q}"
