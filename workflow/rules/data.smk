"""Tasks and teacher trajectories.

Needs: the benchmarks' packages. Gives: tasks/<benchmark>.jsonl (evaluated), tasks/train/<benchmark>.jsonl,
trajectories/<benchmark>/{teacher,accepted,rejected}.jsonl. What trainings wait for goes first: trainings take longest.
"""


rule sample_tasks:
    """Freeze the evaluation tasks of a benchmark."""
    output:
        RESULTS.tasks("{benchmark}"),
    log:
        RESULTS.log("sample_tasks", "{benchmark}"),
    conda:
        "../../envs/main.yaml"
    resources:
        mem_mb=memory("sample_tasks"),
        runtime=minutes("sample_tasks"),
    params:
        settings=lambda wildcards: dependencies.of_tasks(
            CONFIG, wildcards.benchmark, "test"
        ),
    shell:
        "dllm-agents sample-tasks --config {FROZEN:q} --benchmark {wildcards.benchmark} --output {output:q} 2>&1 | tee {log:q}"


rule sample_training_tasks:
    """Freeze the tasks a teacher plays, or preferences are learnt on; never one that is evaluated."""
    output:
        RESULTS.tasks("{benchmark}", "{split}"),
    log:
        RESULTS.log("sample_training_tasks", "{benchmark}.{split}"),
    wildcard_constraints:
        split="train|pairs",
    priority: 1
    conda:
        "../../envs/main.yaml"
    resources:
        mem_mb=memory("sample_tasks"),
        runtime=minutes("sample_tasks"),
    params:
        settings=lambda wildcards: dependencies.of_tasks(
            CONFIG, wildcards.benchmark, wildcards.split
        ),
    shell:
        "dllm-agents sample-tasks --config {FROZEN:q} --benchmark {wildcards.benchmark} --split {wildcards.split}"
        " --output {output:q} 2>&1 | tee {log:q}"


rule collect_trajectories:
    """Let the teacher play the training tasks through the agents' environments."""
    input:
        tasks=RESULTS.tasks("{benchmark}", "train"),
    output:
        RESULTS.trajectories("{benchmark}", "teacher"),
    log:
        RESULTS.log("collect_trajectories", "{benchmark}"),
    benchmark:
        RESULTS.timing("collect_trajectories", "{benchmark}")
    priority: 1
    conda:
        "../../envs/main.yaml"
    threads: processors("collect_trajectories")
    resources:
        mem_mb=memory("collect_trajectories"),
        runtime=minutes("collect_trajectories"),
    params:
        settings=lambda wildcards: dependencies.of_trajectories(
            CONFIG, wildcards.benchmark
        ),
    shell:
        "dllm-agents collect-trajectories --config {FROZEN:q} --benchmark {wildcards.benchmark} --tasks {input.tasks:q}"
        " --output {output:q} --workers {threads} 2>&1 | tee {log:q}"


rule filter_trajectories:
    """Keep what is worth training on; each rejection has one named reason."""
    input:
        teacher=RESULTS.trajectories("{benchmark}", "teacher"),
    output:
        accepted=RESULTS.trajectories("{benchmark}", "accepted"),
        rejected=RESULTS.trajectories("{benchmark}", "rejected"),
    log:
        RESULTS.log("filter_trajectories", "{benchmark}"),
    priority: 1
    conda:
        "../../envs/main.yaml"
    resources:
        mem_mb=memory("collect_trajectories"),
        runtime=minutes("collect_trajectories"),
    params:
        settings=lambda wildcards: dependencies.of_filter(CONFIG, wildcards.benchmark),
    shell:
        "dllm-agents filter-trajectories --config {FROZEN:q} --benchmark {wildcards.benchmark} --trajectories {input.teacher:q}"
        " --accepted {output.accepted:q} --rejected {output.rejected:q} 2>&1 | tee {log:q}"
