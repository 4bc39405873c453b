"""Rollouts.

Needs: tasks/<benchmark>.jsonl and the checkpoints of backbones that are trained here. Gives: episodes/<benchmark>/<agent>.jsonl.
A job plays one agent on one benchmark, or a part of its tasks (`run.shards`), and owns the servers it starts.
"""

IN_PARTS = CONFIG.run.shards > 1


rule rollout:
    """Play an agent on a benchmark; a job that was interrupted goes on after its last finished episode."""
    input:
        tasks=RESULTS.tasks("{benchmark}"),
        models=lambda wildcards: FILES.agent_models(
            wildcards.agent, wildcards.benchmark
        ),
        trajectories=lambda wildcards: FILES.graph_trajectories(
            wildcards.agent, wildcards.benchmark
        ),
    output:
        (
            RESULTS.episodes_part("{benchmark}", "{agent}", "{part}")
            if IN_PARTS
            else RESULTS.episodes("{benchmark}", "{agent}")
        ),
    log:
        RESULTS.log("rollout", "{agent}.{benchmark}" + ".{part}" * IN_PARTS),
    benchmark:
        RESULTS.timing("rollout", "{agent}.{benchmark}" + ".{part}" * IN_PARTS)
    conda:
        "../../envs/main.yaml"
    # A model gets the machine, above all one that is timed, playing one task at a time; scripted agents share it.
    threads:
        lambda wildcards: (
            processors(
                "rollout",
                demand.rollout_gpus(CONFIG, wildcards.agent, wildcards.benchmark),
                alone=CONFIG.agents[wildcards.agent].concurrency == 1,
            )
            if CONFIG.agent_backbones(wildcards.agent, wildcards.benchmark)
            else 1
        )
    resources:
        mem_mb=memory("rollout"),
        runtime=minutes("rollout"),
        gpu=lambda wildcards: demand.rollout_gpus(
            CONFIG, wildcards.agent, wildcards.benchmark
        ),
    params:
        settings=lambda wildcards: dependencies.of_episodes(
            CONFIG, wildcards.agent, wildcards.benchmark
        ),
        models=lambda wildcards, input: model_arguments(input.models),
        trajectories=lambda wildcards, input: " ".join(
            f"--trajectories {shlex.quote(path)}" for path in input.trajectories
        ),
        part="--part {part}" if IN_PARTS else "",
    shell:
        "dllm-agents rollout --config {FROZEN:q} --agent {wildcards.agent} --tasks {input.tasks:q} {params.models}"
        " {params.trajectories} {params.part} --output {output:q} 2>&1 | tee {log:q}"


if IN_PARTS:

    rule merge:
        """Put the parts of an agent's episodes together, in task order."""
        input:
            tasks=RESULTS.tasks("{benchmark}"),
            parts=lambda wildcards: [
                RESULTS.episodes_part(wildcards.benchmark, wildcards.agent, part)
                for part in FILES.parts(wildcards.agent)
            ],
        output:
            RESULTS.episodes("{benchmark}", "{agent}"),
        log:
            RESULTS.log("merge", "{agent}.{benchmark}"),
        localrule: True
        conda:
            "../../envs/main.yaml"
        shell:
            "dllm-agents merge-episodes --config {FROZEN:q} --tasks {input.tasks:q} --parts {input.parts:q}"
            " --output {output:q} 2>&1 | tee {log:q}"


rule replay_verifiers:
    """Let early-exit verifiers look at stored episodes; one job for all verifiers, prompts and agents of a benchmark."""
    input:
        episodes=lambda wildcards: [
            RESULTS.episodes(wildcards.benchmark, agent)
            for agent in FILES.verified_agents(wildcards.benchmark)
        ],
        models=lambda wildcards: FILES.verifier_models(wildcards.benchmark),
    output:
        RESULTS.exits("{benchmark}"),
    log:
        RESULTS.log("replay_verifiers", "{benchmark}"),
    benchmark:
        RESULTS.timing("replay_verifiers", "{benchmark}")
    conda:
        "../../envs/main.yaml"
    threads: processors("rollout", demand.verification_gpus(CONFIG))
    resources:
        mem_mb=memory("rollout"),
        runtime=minutes("rollout"),
        gpu=demand.verification_gpus(CONFIG),
    params:
        settings=lambda wildcards: dependencies.of_exits(CONFIG, wildcards.benchmark),
        models=lambda wildcards, input: model_arguments(input.models),
    shell:
        "dllm-agents replay-verifiers --config {FROZEN:q} --episodes {input.episodes:q} {params.models}"
        " --output {output:q} 2>&1 | tee {log:q}"
