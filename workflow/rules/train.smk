"""Training.

Needs: trajectories/<benchmark>/accepted.jsonl. Gives: models/<backbone>/<benchmark>/, a Hugging Face checkpoint directory with
its training log; and, for backbones that learn preferences, pairs/<backbone>.jsonl from rollouts of their base.
"""


rule sample_pairs:
    """Roll a base out twice a query; keep the pairs of which exactly one is right."""
    input:
        unpack(lambda wildcards: FILES.pair_inputs(wildcards.backbone)),
    output:
        RESULTS.pairs("{backbone}"),
    log:
        RESULTS.log("sample_pairs", "{backbone}"),
    benchmark:
        RESULTS.timing("sample_pairs", "{backbone}")
    conda:
        "../../envs/main.yaml"
    threads: lambda wildcards: processors("rollout", demand.pair_gpus(CONFIG, wildcards.backbone))
    resources:
        mem_mb=memory("rollout"),
        runtime=minutes("rollout"),
        gpu=lambda wildcards: demand.pair_gpus(CONFIG, wildcards.backbone),
    params:
        settings=lambda wildcards: dependencies.of_pairs(
            CONFIG, wildcards.backbone, FILES.paired_benchmarks(wildcards.backbone)
        ),
    shell:
        "dllm-agents sample-pairs --config {FROZEN:q} --backbone {wildcards.backbone} --tasks {input.tasks:q}"
        " --model {input.models:q} --output {output:q} 2>&1 | tee {log:q}"


rule train:
    """Train a backbone on the accepted trajectories of a benchmark, or on pairs. With too few pairs there is a reason, no weights."""
    input:
        unpack(
            lambda wildcards: FILES.training_inputs(
                wildcards.backbone, wildcards.benchmark
            )
        ),
    output:
        directory(RESULTS.model("{backbone}", "{benchmark}")),
    log:
        RESULTS.log("train", "{backbone}.{benchmark}"),
    benchmark:
        RESULTS.timing("train", "{backbone}.{benchmark}")
    priority: 1
    conda:
        "../../envs/main.yaml"
    # On more threads than one, a training beside another busy process takes many times as long: it has the machine, or one thread.
    threads:
        lambda wildcards: processors(
            "train", CONFIG.backbones[wildcards.backbone].training_gpus
        )
    resources:
        mem_mb=memory("train"),
        runtime=minutes("train"),
        gpu=lambda wildcards: CONFIG.backbones[wildcards.backbone].training_gpus,
        nodes=lambda wildcards: CONFIG.backbones[wildcards.backbone].training.nodes,
    params:
        settings=lambda wildcards: dependencies.of_checkpoint(
            CONFIG, wildcards.backbone, wildcards.benchmark
        ),
        sources=lambda wildcards, input: " ".join(
            f"--{kind} {shlex.join([path] if isinstance(path, str) else path)}"
            for kind, path in input.items()
        ),
        command=lambda wildcards: demand.launcher(CONFIG, wildcards.backbone),
        scalars=str(RESULTS.tensorboard("{backbone}", "{benchmark}")),
    shell:
        "{params.command} train --config {FROZEN:q} --backbone {wildcards.backbone} --benchmark {wildcards.benchmark}"
        " {params.sources} --tensorboard {params.scalars:q} --output {output:q} 2>&1 | tee {log:q}"
