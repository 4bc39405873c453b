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


onstart:
    prepare.start(CONFIG, workflow)


# A plan ends with what it asks of GPUs.
if workflow.is_main_process:
    atexit.register(prepare.end_of_plan, CONFIG, workflow)


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
    """Tables, figures and the episode browser; what they are made from and is gone is made again."""
    default_target: True
    input:
        FILES.tables(),
        FILES.figures(),
        RESULTS.browser,
        FILES.between(),


rule tasks:
    input:
        [RESULTS.tasks(benchmark) for benchmark in CONFIG.run.benchmarks],


rule trajectories:
    input:
        [
            RESULTS.trajectories(benchmark, "accepted")
            for benchmark in FILES.taught_benchmarks()
        ],


rule models:
    input:
        [RESULTS.model(*pair) for pair in FILES.trained()],


rule serving:
    input:
        [RESULTS.serving(backbone) for backbone in CONFIG.used_backbones()],


rule episodes:
    input:
        [RESULTS.episodes(benchmark, agent) for agent, benchmark in FILES.plays()],
        [RESULTS.exits(benchmark) for benchmark in FILES.verified_benchmarks()],


rule scores:
    input:
        [RESULTS.scores(benchmark, agent) for agent, benchmark in FILES.plays()],


rule failures:
    input:
        [RESULTS.failures(benchmark, agent) for agent, benchmark in FILES.plays()],


rule tables:
    input:
        FILES.tables(),


rule figures:
    input:
        FILES.figures(),


rule paper:
    input:
        RESULTS.paper,
