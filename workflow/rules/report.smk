"""Tables and figures, annotated for the HTML report.

Needs: scores, failures, serving probes and trajectory counts. Gives: tables/<name>.{csv,md,tex,html} and figures/<name>.{png,pdf}.
"""


rule table:
    """One table, from what it reads and nothing more."""
    input:
        lambda wildcards: PLAN.reads(wildcards.name),
    output:
        csv=report(
            f"{RESULTS}/tables/{{name}}.csv",
            caption="../report/table.rst",
            category="Tables",
            labels={"table": "{name}", "form": "CSV"},
        ),
        md=f"{RESULTS}/tables/{{name}}.md",
        tex=f"{RESULTS}/tables/{{name}}.tex",
        html=f"{RESULTS}/tables/{{name}}.html",
    log:
        f"{RESULTS}/logs/table/{{name}}.log",
    conda:
        "../../envs/main.yaml"
    resources:
        mem_mb=lambda wildcards, attempt: PLAN.memory("report", attempt),
        runtime=lambda wildcards, attempt: PLAN.minutes("report", attempt),
    params:
        results=lambda wildcards, output: str(Path(output[0]).parents[1]),
        settings=lambda wildcards: PLAN.report_settings(wildcards.name),
        code=lambda wildcards: PLAN.code(wildcards.name),
        own_files=lambda wildcards: PLAN.own_files(wildcards.name),
        caption=lambda wildcards: PLAN.caption(wildcards.name),
        base=lambda wildcards, output: str(Path(output[0]).with_suffix("")),
    shell:
        "dllm-agents tabulate {wildcards.name} --config $DLLM_AGENTS_CONFIG --results {params.results:q} --output {params.base:q} 2>&1 | tee {log:q}"


rule figure:
    """One figure, from what it reads and nothing more."""
    input:
        lambda wildcards: PLAN.reads(wildcards.name),
    output:
        png=report(
            f"{RESULTS}/figures/{{name}}.png",
            caption="../report/figure.rst",
            category="Figures",
            labels={"figure": "{name}", "form": "PNG"},
        ),
        pdf=f"{RESULTS}/figures/{{name}}.pdf",
    log:
        f"{RESULTS}/logs/figure/{{name}}.log",
    conda:
        "../../envs/main.yaml"
    resources:
        mem_mb=lambda wildcards, attempt: PLAN.memory("report", attempt),
        runtime=lambda wildcards, attempt: PLAN.minutes("report", attempt),
    params:
        results=lambda wildcards, output: str(Path(output[0]).parents[1]),
        settings=lambda wildcards: PLAN.report_settings(wildcards.name),
        code=lambda wildcards: PLAN.code(wildcards.name),
        own_files=lambda wildcards: PLAN.own_files(wildcards.name),
        caption=lambda wildcards: PLAN.caption(wildcards.name),
        base=lambda wildcards, output: str(Path(output[0]).with_suffix("")),
    shell:
        "dllm-agents plot {wildcards.name} --config $DLLM_AGENTS_CONFIG --results {params.results:q} --output {params.base:q} 2>&1 | tee {log:q}"


rule browser:
    """Every episode, step by step, in one self-contained page."""
    input:
        per_agent("episodes", "jsonl"),
        per_agent("scores", "parquet"),
        per_agent("failures", "parquet"),
    output:
        report(
            f"{RESULTS}/episodes.html",
            caption="../report/browser.rst",
            category="Episodes",
            labels={"page": "episode browser"},
        ),
    log:
        f"{RESULTS}/logs/browser.log",
    conda:
        "../../envs/main.yaml"
    resources:
        mem_mb=lambda wildcards, attempt: PLAN.memory("report", attempt),
        runtime=lambda wildcards, attempt: PLAN.minutes("report", attempt),
    params:
        results=lambda wildcards, output: str(Path(output[0]).parent),
    shell:
        "dllm-agents browse --config $DLLM_AGENTS_CONFIG --results {params.results:q} --output {output:q} 2>&1 | tee {log:q}"


rule manuscript:
    """The paper of this run: its tables, figures, and the numbers in its sentences."""
    input:
        table_files(),
        figure_files(),
    output:
        f"{RESULTS}/paper/paper.pdf",
    log:
        f"{RESULTS}/logs/manuscript.log",
    conda:
        "../../envs/main.yaml"
    resources:
        mem_mb=lambda wildcards, attempt: PLAN.memory("report", attempt),
        runtime=lambda wildcards, attempt: PLAN.minutes("report", attempt),
    params:
        results=lambda wildcards, output: str(Path(output[0]).parents[1]),
        source=PLAN.own_files("paper"),
    shell:
        "dllm-agents paper --config $DLLM_AGENTS_CONFIG --results {params.results:q} --output {output:q} 2>&1 | tee {log:q}"
