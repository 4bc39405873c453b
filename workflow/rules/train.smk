"""Training.

Needs: trajectories/<benchmark>/accepted.jsonl. Gives: models/<backbone>/<benchmark>/, a Hugging Face checkpoint directory with
its training log; and, for backbones that learn preferences, pairs/<backbone>.jsonl from rollouts of their base.
"""


rule sample_pairs:
    """Roll a base out twice a query; keep the pairs of which exactly one is right."""
    input:
        unpack(lambda wildcards: PLAN.pair_inputs(wildcards.backbone)),
    output:
        f"{RESULTS}/pairs/{{backbone}}.jsonl",
    log:
        f"{RESULTS}/logs/sample_pairs/{{backbone}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/sample_pairs/{{backbone}}.tsv"
    conda:
        "../../envs/main.yaml"
    threads: lambda wildcards: processors("rollout", PLAN.pair_gpus(wildcards.backbone))
    resources:
        mem_mb=lambda wildcards, attempt: PLAN.memory("rollout", attempt),
        runtime=lambda wildcards, attempt: PLAN.minutes("rollout", attempt),
        gpu=lambda wildcards: PLAN.pair_gpus(wildcards.backbone),
    params:
        settings=lambda wildcards: PLAN.pair_settings(wildcards.backbone),
    shell:
        "dllm-agents sample-pairs --config $DLLM_AGENTS_CONFIG --backbone {wildcards.backbone} --tasks {input.tasks:q}"
        " --model {input.models:q} --output {output:q} 2>&1 | tee {log:q}"


rule train:
    """Train a backbone on the accepted trajectories of a benchmark, or on pairs. With too few pairs there is a reason, no weights."""
    input:
        unpack(
            lambda wildcards: PLAN.training_inputs(
                wildcards.backbone, wildcards.benchmark
            )
        ),
    output:
        directory(f"{RESULTS}/models/{{backbone}}/{{benchmark}}"),
    log:
        f"{RESULTS}/logs/train/{{backbone}}.{{benchmark}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/train/{{backbone}}.{{benchmark}}.tsv"
    priority: 1
    conda:
        "../../envs/main.yaml"
    # On more threads than one, a training beside another busy process takes many times as long: it has the machine, or one thread.
    threads:
        lambda wildcards: processors(
            "train", CONFIG.backbones[wildcards.backbone].training_gpus
        )
    resources:
        mem_mb=lambda wildcards, attempt: PLAN.memory("train", attempt),
        runtime=lambda wildcards, attempt: PLAN.minutes("train", attempt),
        gpu=lambda wildcards: CONFIG.backbones[wildcards.backbone].training_gpus,
        nodes=lambda wildcards: CONFIG.backbones[wildcards.backbone].training.nodes,
    params:
        settings=lambda wildcards: PLAN.training_settings(
            wildcards.backbone, wildcards.benchmark
        ),
        sources=lambda wildcards, input: " ".join(
            f"--{kind} {shlex.quote(path)}" for kind, path in input.items()
        ),
        command=lambda wildcards: PLAN.launcher(wildcards.backbone),
        scalars=f"{RESULTS}/logs/tensorboard/{{backbone}}.{{benchmark}}",
    shell:
        "{params.command} train --config $DLLM_AGENTS_CONFIG --backbone {wildcards.backbone} --benchmark {wildcards.benchmark}"
        " {params.sources} --tensorboard {params.scalars:q} --output {output:q} 2>&1 | tee {log:q}"
