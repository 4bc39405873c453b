"""Rollouts.

Needs: tasks/<benchmark>.jsonl and the checkpoints of backbones that are trained here. Gives: episodes/<benchmark>/<agent>.jsonl.
One job plays an agent over all its benchmarks, together with the agents that have the same backbones (`run.agents_per_job`), or a part
of their tasks (`run.shards`), and owns the servers it starts.
"""

for job in PLAN.rollouts():
    place = f"{RESULTS}/episodes/{{benchmark}}/{{agent}}.jsonl"
    name, part = job.name, ""
    if job.parts > 1:
        place = f"{RESULTS}/episodes/{{benchmark}}/parts/{{agent}}.{{part}}.jsonl"
        name, part = f"{job.name}.{{part}}", "--part {part}"

    rule:
        name:
            f"rollout_{'parts_' if part else ''}{job.name}"
        input:
            tasks=PLAN.played(job, f"{RESULTS}/tasks/{{benchmark}}.jsonl"),
            models=PLAN.rollout_models(job),
            trajectories=PLAN.rollout_trajectories(job),
        output:
            PLAN.played(job, place),
        log:
            f"{RESULTS}/logs/rollout/{name}.log",
        benchmark:
            f"{RESULTS}/benchmarks/rollout/{name}.tsv"
        wildcard_constraints:
            part=r"\d+-of-\d+",
        conda:
            "../../envs/main.yaml"
        # A model gets the machine; scripted agents share it.
        threads:
            processors("rollout", PLAN.rollout_gpus(job.name))
            if CONFIG.played_backbones(job.name)
            else 1
        resources:
            mem_mb=lambda wildcards, attempt: PLAN.memory("rollout", attempt),
            runtime=lambda wildcards, attempt, job=job: PLAN.minutes(
                "rollout", attempt
            )
            * len(job.agents),
            gpu=PLAN.rollout_gpus(job.name),
        params:
            settings={agent: PLAN.agent_settings(agent) for agent in job.agents},
            arguments=lambda wildcards, input, output, job=job: PLAN.rollout_arguments(
                job, input.tasks, input.models, input.trajectories, output
            ),
            part=part,
        shell:
            "dllm-agents rollout --config $DLLM_AGENTS_CONFIG {params.arguments} {params.part} 2>&1 | tee {log:q}"

    if job.parts > 1:

        rule:
            name:
                f"merge_{job.name}"
            input:
                tasks=PLAN.played(job, f"{RESULTS}/tasks/{{benchmark}}.jsonl"),
                parts=[
                    whole.replace("{part}", f"{index}-of-{job.parts}")
                    for whole in PLAN.played(job, place)
                    for index in range(1, job.parts + 1)
                ],
            output:
                PLAN.played(job, f"{RESULTS}/episodes/{{benchmark}}/{{agent}}.jsonl"),
            log:
                f"{RESULTS}/logs/merge/{job.name}.log",
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
    threads: processors("rollout", PLAN.verification_gpus())
    resources:
        mem_mb=lambda wildcards, attempt: PLAN.memory("rollout", attempt),
        runtime=lambda wildcards, attempt: PLAN.minutes("rollout", attempt),
        gpu=lambda wildcards: PLAN.verification_gpus(),
    params:
        settings=lambda wildcards: PLAN.verification_settings(wildcards.benchmark),
        models=lambda wildcards, input: model_arguments(input.models),
    shell:
        "dllm-agents replay-verifiers --config $DLLM_AGENTS_CONFIG --episodes {input.episodes:q} {params.models}"
        " --output {output:q} 2>&1 | tee {log:q}"
