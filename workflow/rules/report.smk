"""Tables and figures, annotated for the HTML report.

Needs: scores, failures, serving probes and trajectory counts. Gives: tables/<name>.{csv,md,tex} and figures/<name>.{png,pdf}.
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
    params:
        settings=lambda wildcards: PLAN.report_settings(wildcards.name),
        code=lambda wildcards: PLAN.code(wildcards.name),
        caption=lambda wildcards: PLAN.caption(wildcards.name),
        base=lambda wildcards: f"{RESULTS}/tables/{wildcards.name}",
    log:
        f"{RESULTS}/logs/table/{{name}}.log",
    conda:
        "../../envs/main.yaml"
    shell:
        "{STAGE} tabulate {wildcards.name} {WITH_CONFIG} --results {RESULTS} --output {params.base:q} 2>&1 | tee {log:q}"


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
    params:
        settings=lambda wildcards: PLAN.report_settings(wildcards.name),
        code=lambda wildcards: PLAN.code(wildcards.name),
        caption=lambda wildcards: PLAN.caption(wildcards.name),
        base=lambda wildcards: f"{RESULTS}/figures/{wildcards.name}",
    log:
        f"{RESULTS}/logs/figure/{{name}}.log",
    conda:
        "../../envs/main.yaml"
    shell:
        "{STAGE} plot {wildcards.name} {WITH_CONFIG} --results {RESULTS} --output {params.base:q} 2>&1 | tee {log:q}"
