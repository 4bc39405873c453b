"""The serving probe.

Needs: the checkpoint of a backbone that is trained here, else nothing. Gives: serving/<backbone>.json.
"""


rule probe:
    """Start a backbone's server, compare a greedy canary with the plain decoder, measure its speed."""
    input:
        model=lambda wildcards: PLAN.probed_models(wildcards.backbone),
    output:
        f"{RESULTS}/serving/{{backbone}}.json",
    log:
        f"{RESULTS}/logs/probe/{{backbone}}.log",
    conda:
        "../../envs/main.yaml"
    # A probe measures speed, so nothing else runs beside it.
    threads: processors("probe", gpus=1)
    resources:
        mem_mb=lambda wildcards, attempt: PLAN.memory("probe", attempt),
        runtime=lambda wildcards, attempt: PLAN.minutes("probe", attempt),
        gpu=lambda wildcards: PLAN.serving_gpus(wildcards.backbone),
    params:
        settings=lambda wildcards: PLAN.probe_settings(wildcards.backbone),
        model=lambda wildcards, input: " ".join(
            f"--model {shlex.quote(path)}" for path in input
        ),
    shell:
        "dllm-agents probe --config $DLLM_AGENTS_CONFIG --backbone {wildcards.backbone} {params.model} --output {output:q} 2>&1 | tee {log:q}"
