"""Rollouts.

Needs: tasks/<benchmark>.jsonl and the checkpoints of backbones that are trained here. Gives: episodes/<benchmark>/<agent>.jsonl.
One job plays an agent over all its benchmarks and owns the servers it starts. Agents that play the same benchmarks share a rule.
"""

for played, agents in PLAN.agents_by_benchmarks():

    rule:
        name:
            f"rollout_{'_'.join(played)}"
        input:
            tasks=expand(f"{RESULTS}/tasks/{{benchmark}}.jsonl", benchmark=played),
            models=lambda wildcards, played=played: PLAN.agent_models(
                wildcards.agent, played
            ),
        output:
            expand(
                f"{RESULTS}/episodes/{{benchmark}}/{{{{agent}}}}.jsonl",
                benchmark=played,
            ),
        log:
            f"{RESULTS}/logs/rollout/{{agent}}.{'_'.join(played)}.log",
        benchmark:
            f"{RESULTS}/benchmarks/rollout/{{agent}}.{'_'.join(played)}.tsv"
        wildcard_constraints:
            agent="|".join(map(re.escape, agents)),
        conda:
            "../../envs/main.yaml"
        # A model gets the machine; scripted agents share it.
        threads:
            lambda wildcards: (
                (workflow.cores or 2) if CONFIG.agent_backbones(wildcards.agent) else 1
            )
        resources:
            mem_mb=lambda wildcards, attempt: PLAN.memory("rollout", attempt),
            runtime=lambda wildcards, attempt: PLAN.minutes("rollout", attempt),
            gpu=lambda wildcards: PLAN.rollout_gpus(wildcards.agent),
        params:
            settings=lambda wildcards: PLAN.agent_settings(wildcards.agent),
            models=lambda wildcards, played=played: PLAN.model_arguments(
                wildcards.agent, played
            ),
        shell:
            "dllm-agents rollout --config $DLLM_AGENTS_CONFIG --agent {wildcards.agent} --tasks {input.tasks:q} {params.models}"
            " --output {output:q} 2>&1 | tee {log:q}"
