"""Tasks and teacher trajectories.

Needs: the benchmarks' packages. Gives: tasks/<benchmark>.jsonl (evaluated), tasks/train/<benchmark>.jsonl,
trajectories/<benchmark>/{teacher,accepted,rejected}.jsonl.
"""


rule sample_tasks:
    """Freeze the evaluation tasks of a benchmark."""
    output:
        f"{RESULTS}/tasks/{{benchmark}}.jsonl",
    log:
        f"{RESULTS}/logs/sample_tasks/{{benchmark}}.log",
    conda:
        "../../envs/main.yaml"
    resources:
        mem_mb=lambda wildcards, attempt: PLAN.memory("sample_tasks", attempt),
        runtime=lambda wildcards, attempt: PLAN.minutes("sample_tasks", attempt),
    params:
        settings=lambda wildcards: PLAN.task_settings(wildcards.benchmark, "test"),
    shell:
        "dllm-agents sample-tasks --config $DLLM_AGENTS_CONFIG --benchmark {wildcards.benchmark} --output {output:q} 2>&1 | tee {log:q}"


rule sample_training_tasks:
    """Freeze the tasks a teacher plays; never one that is evaluated."""
    output:
        f"{RESULTS}/tasks/train/{{benchmark}}.jsonl",
    log:
        f"{RESULTS}/logs/sample_training_tasks/{{benchmark}}.log",
    conda:
        "../../envs/main.yaml"
    resources:
        mem_mb=lambda wildcards, attempt: PLAN.memory("sample_tasks", attempt),
        runtime=lambda wildcards, attempt: PLAN.minutes("sample_tasks", attempt),
    params:
        settings=lambda wildcards: PLAN.task_settings(wildcards.benchmark, "train"),
    shell:
        "dllm-agents sample-tasks --config $DLLM_AGENTS_CONFIG --benchmark {wildcards.benchmark} --split train --output {output:q} 2>&1 | tee {log:q}"


rule collect_trajectories:
    """Let the teacher play the training tasks through the agents' environments."""
    input:
        tasks=f"{RESULTS}/tasks/train/{{benchmark}}.jsonl",
    output:
        f"{RESULTS}/trajectories/{{benchmark}}/teacher.jsonl",
    log:
        f"{RESULTS}/logs/collect_trajectories/{{benchmark}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/collect_trajectories/{{benchmark}}.tsv"
    conda:
        "../../envs/main.yaml"
    threads: processors("collect_trajectories")
    resources:
        mem_mb=lambda wildcards, attempt: PLAN.memory("collect_trajectories", attempt),
        runtime=lambda wildcards, attempt: PLAN.minutes("collect_trajectories", attempt),
    params:
        settings=lambda wildcards: PLAN.task_settings(wildcards.benchmark, "train"),
    shell:
        "dllm-agents collect-trajectories --config $DLLM_AGENTS_CONFIG --benchmark {wildcards.benchmark} --tasks {input.tasks:q}"
        " --output {output:q} --workers {threads} 2>&1 | tee {log:q}"


rule filter_trajectories:
    """Keep what is worth training on; each rejection has one named reason."""
    input:
        teacher=f"{RESULTS}/trajectories/{{benchmark}}/teacher.jsonl",
    output:
        accepted=f"{RESULTS}/trajectories/{{benchmark}}/accepted.jsonl",
        rejected=f"{RESULTS}/trajectories/{{benchmark}}/rejected.jsonl",
    log:
        f"{RESULTS}/logs/filter_trajectories/{{benchmark}}.log",
    conda:
        "../../envs/main.yaml"
    resources:
        mem_mb=lambda wildcards, attempt: PLAN.memory("collect_trajectories", attempt),
        runtime=lambda wildcards, attempt: PLAN.minutes("collect_trajectories", attempt),
    shell:
        "dllm-agents filter-trajectories --config $DLLM_AGENTS_CONFIG --benchmark {wildcards.benchmark} --trajectories {input.teacher:q}"
        " --accepted {output.accepted:q} --rejected {output.rejected:q} 2>&1 | tee {log:q}"
