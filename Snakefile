"""Diffusion language models as agent backbones: three papers as one workflow.

Run it with `make demo`, or a part of it with `snakemake <target>`, where a target is one of those below or any file under results/.
The configuration is checked before any rule exists; its default is config/demo.yaml, another one is `--configfile FILE`.
"""


report: "workflow/report/run.rst"


include: "workflow/rules/common.smk"
include: "workflow/rules/data.smk"
include: "workflow/rules/train.smk"
include: "workflow/rules/serve.smk"
include: "workflow/rules/rollout.smk"
include: "workflow/rules/analyse.smk"
include: "workflow/rules/report.smk"


# What the whole run asks of GPUs, before a dry run or a run.
if workflow.is_main_process and PLAN.estimate():
    print(PLAN.estimate(), file=sys.stderr)


localrules:
    report,
    tasks,
    trajectories,
    models,
    serving,
    episodes,
    scores,
    failures,
    tables,
    figures,
    paper,


rule report:
    default_target: True
    input:
        table_files(),
        figure_files(),
        f"{RESULTS}/episodes.html",


rule tasks:
    input:
        expand(f"{RESULTS}/tasks/{{benchmark}}.jsonl", benchmark=CONFIG.run.benchmarks),


rule trajectories:
    input:
        accepted_files(),


rule models:
    input:
        model_files(),


rule serving:
    input:
        expand(f"{RESULTS}/serving/{{backbone}}.json", backbone=CONFIG.used_backbones()),


rule episodes:
    input:
        per_agent("episodes", "jsonl"),
        exit_files(),


rule scores:
    input:
        per_agent("scores", "parquet"),


rule failures:
    input:
        per_agent("failures", "parquet"),


rule tables:
    input:
        table_files(),


rule figures:
    input:
        figure_files(),


rule paper:
    input:
        f"{RESULTS}/paper/paper.pdf",
