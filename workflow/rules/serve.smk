"""The serving probe.

Needs: the checkpoint of a backbone that is trained here, else nothing. Gives: serving/<backbone>.json.
"""


rule probe:
    """Start a backbone's server, compare a greedy canary with the plain decoder, measure its speed."""
    input:
        models=lambda wildcards: FILES.probed_model(wildcards.backbone),
    output:
        RESULTS.serving("{backbone}"),
    log:
        RESULTS.log("probe", "{backbone}"),
    conda:
        "../../envs/main.yaml"
    # A probe measures speed, so nothing else runs beside it.
    threads: processors("probe", gpus=1)
    resources:
        mem_mb=memory("probe"),
        runtime=minutes("probe"),
        gpu=lambda wildcards: demand.serving_gpus(CONFIG, wildcards.backbone),
    params:
        settings=lambda wildcards: dependencies.of_probe(CONFIG, wildcards.backbone),
        model=lambda wildcards, input: " ".join(
            f"--model {shlex.quote(path)}" for path in input.models
        ),
    shell:
        "dllm-agents probe --config {FROZEN:q} --backbone {wildcards.backbone} {params.model} --output {output:q} 2>&1 | tee {log:q}"
