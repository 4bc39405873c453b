"""Training.

Needs: trajectories/<benchmark>/accepted.jsonl. Gives: models/<backbone>/<benchmark>/, a Hugging Face checkpoint directory with
its training log.
"""


rule train:
    """Train a backbone on the accepted trajectories of a benchmark."""
    input:
        accepted=f"{RESULTS}/trajectories/{{benchmark}}/accepted.jsonl",
    output:
        directory(f"{RESULTS}/models/{{backbone}}/{{benchmark}}"),
    log:
        f"{RESULTS}/logs/train/{{backbone}}.{{benchmark}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/train/{{backbone}}.{{benchmark}}.tsv"
    conda:
        "../../envs/main.yaml"
    # A training beside another busy process takes many times as long, so it gets the machine.
    threads: processors("train")
    resources:
        mem_mb=lambda wildcards, attempt: PLAN.memory("train", attempt),
        runtime=lambda wildcards, attempt: PLAN.minutes("train", attempt),
        gpu=lambda wildcards: CONFIG.backbones[wildcards.backbone].training_gpus,
    params:
        settings=lambda wildcards: PLAN.training_settings(
            wildcards.backbone, wildcards.benchmark
        ),
    shell:
        "dllm-agents train --config $DLLM_AGENTS_CONFIG --backbone {wildcards.backbone} --benchmark {wildcards.benchmark}"
        " --trajectories {input.accepted:q} --output {output:q} 2>&1 | tee {log:q}"
