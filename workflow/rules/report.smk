"""Tables and figures, annotated for the HTML report.

Needs: scores, failures, serving probes and trajectory counts. Gives: tables/<name>.{csv,md,tex,html} and figures/<name>.{png,pdf}.
"""

from dllm_agents.catalogue import FIGURES, TABLES


rule table:
    """One table, from what it reads and nothing more."""
    input:
        lambda wildcards: FILES.result_inputs(wildcards.name),
    output:
        csv=RESULTS.table("{name}", "csv"),
        md=RESULTS.table("{name}", "md"),
        tex=RESULTS.table("{name}", "tex"),
        html=report(
            RESULTS.table("{name}", "html"),
            caption="../report/table.rst",
            category="Tables",
            subcategory=lambda wildcards: TABLES[wildcards.name].paper or "This run",
            labels=lambda wildcards: {"table": TABLES[wildcards.name].title},
        ),
    log:
        RESULTS.log("table", "{name}"),
    conda:
        "../../envs/main.yaml"
    resources:
        mem_mb=memory("report"),
        runtime=minutes("report"),
    params:
        results=lambda wildcards, output: str(Path(output[0]).parents[1]),
        settings=lambda wildcards: dependencies.of_result(CONFIG, wildcards.name),
        code=lambda wildcards: FILES.code(wildcards.name),
        own_files=lambda wildcards: FILES.own_files(wildcards.name),
        caption=lambda wildcards: FILES.caption(wildcards.name),
        base=lambda wildcards, output: str(Path(output[0]).with_suffix("")),
    shell:
        "dllm-agents tabulate {wildcards.name} --config {FROZEN:q} --results {params.results:q} --output {params.base:q} 2>&1 | tee {log:q}"


rule figure:
    """One figure, from what it reads and nothing more."""
    input:
        lambda wildcards: FILES.result_inputs(wildcards.name),
    output:
        png=report(
            RESULTS.figure("{name}", "png"),
            caption="../report/figure.rst",
            category="Figures",
            subcategory=lambda wildcards: FIGURES[wildcards.name].paper or "This run",
            labels=lambda wildcards: {
                "figure": wildcards.name,
                "shows": FIGURES[wildcards.name].title,
            },
        ),
        pdf=RESULTS.figure("{name}", "pdf"),
    log:
        RESULTS.log("figure", "{name}"),
    conda:
        "../../envs/main.yaml"
    resources:
        mem_mb=memory("report"),
        runtime=minutes("report"),
    params:
        results=lambda wildcards, output: str(Path(output[0]).parents[1]),
        settings=lambda wildcards: dependencies.of_result(CONFIG, wildcards.name),
        code=lambda wildcards: FILES.code(wildcards.name),
        own_files=lambda wildcards: FILES.own_files(wildcards.name),
        caption=lambda wildcards: FILES.caption(wildcards.name),
        base=lambda wildcards, output: str(Path(output[0]).with_suffix("")),
    shell:
        "dllm-agents plot {wildcards.name} --config {FROZEN:q} --results {params.results:q} --output {params.base:q} 2>&1 | tee {log:q}"


rule browser:
    """Every episode, step by step, in one self-contained page."""
    input:
        FILES.played(),
    output:
        report(
            RESULTS.browser,
            caption="../report/browser.rst",
            category="Episodes",
            labels={"page": "episode browser"},
        ),
    log:
        RESULTS.log("browser", "browser"),
    conda:
        "../../envs/main.yaml"
    resources:
        mem_mb=memory("report"),
        runtime=minutes("report"),
    params:
        results=lambda wildcards, output: str(Path(output[0]).parent),
    shell:
        "dllm-agents browse --config {FROZEN:q} --results {params.results:q} --output {output:q} 2>&1 | tee {log:q}"


rule manuscript:
    """The paper of this run: its tables, figures, and the numbers in its sentences."""
    input:
        FILES.tables(),
        FILES.figures(),
    output:
        RESULTS.paper,
    log:
        RESULTS.log("manuscript", "manuscript"),
    conda:
        "../../envs/main.yaml"
    resources:
        mem_mb=memory("report"),
        runtime=minutes("report"),
    params:
        results=lambda wildcards, output: str(Path(output[0]).parents[1]),
        source=FILES.own_files("paper"),
    shell:
        "dllm-agents paper --config {FROZEN:q} --results {params.results:q} --output {output:q} 2>&1 | tee {log:q}"
