"""Claims: each verdict by an example, and one clear line for a bad file."""

import math

import pytest
from pydantic import ValidationError
from synthetic_run import LEVELS, configuration, failure, score

from dllm_agents import layout
from dllm_agents.config.agents import Memory
from dllm_agents.errors import StageError
from dllm_agents.frames import write_frame
from dllm_agents.records import Exit, Failure, Score
from dllm_agents.reporting.claims import Claim, load_claims, load_untested
from dllm_agents.reporting.inputs import Inputs
from dllm_agents.reporting.judging import evaluate
from dllm_agents.reporting.sentences import sentence
from dllm_agents.reporting.tables import make

AR, DIFFUSION = {"paradigm": "ar"}, {"paradigm": "diffusion"}


def run(tmp_path, solved, seconds=None, loops=None, started=None, **fields) -> Inputs:
    """Agents that solve the given share of 96 BabyAI tasks, at a given time, with a loop in a given share; `started` in seconds."""
    for agent, share in solved.items():
        rows = [
            score(
                agent,
                "babyai",
                level,
                seed,
                success=(index % 4) < 4 * share,
                seconds=(seconds or {}).get(agent, 1.0) + 0.01 * seed,
                started_seconds=(started or {}).get(agent, 0.0) + seed * bool(started),
                **fields,
            )
            for index, level in enumerate(LEVELS)
            for seed in range(24)
        ]
        write_frame(tmp_path / f"scores/babyai/{agent}.parquet", rows, Score)
        looped = [failure(row, "loop") for index, row in enumerate(rows) if index < (loops or {}).get(agent, 0.0) * len(rows)]
        write_frame(tmp_path / f"failures/babyai/{agent}.parquet", looped, Failure)
    return Inputs(configuration(), tmp_path)


def claim(**test) -> Claim:
    base = {"metric": "success", "benchmarks": "embodied", "of": DIFFUSION, "against": AR, "expect": "less"}
    return Claim.model_validate({"source": "s", "statement": "t", "tests": [{key: value for key, value in (base | test).items() if value}]})


def verdict(inputs, **test):
    return evaluate(claim(**test), inputs)[0]


def test_more_and_less_need_the_interval_beyond_zero(tmp_path):
    inputs = run(tmp_path, {"tiny-ar": 0.0, "tiny-block": 1.0})
    assert verdict(inputs, expect="more") == "holds"
    assert verdict(inputs, expect="less") == "does not hold"


def test_more_and_less_do_not_hold_where_a_difference_of_the_margin_is_excluded(tmp_path):
    same = run(tmp_path, {"tiny-ar": 0.5, "tiny-block": 0.5})
    assert verdict(same, expect="more") == verdict(same, expect="less") == "does not hold"
    # Half a round of seven is more than 5 % of them, a tenth is not; and few tasks exclude nothing.
    steps = {"metric": "steps", "expect": "less"}
    for other, n, expected in ((7, 96, "does not hold"), (7, 40, "cannot tell"), (6.5, 96, "holds"), (7.5, 96, "does not hold")):
        for agent, value in (("tiny-ar", 7), ("tiny-block", other)):
            # Of a half every second task takes a step more; and tasks are of three lengths.
            steps_of = [math.floor(value + (k % 2) / 2) + k % 3 for k in range(n)]
            rows = [score(agent, "babyai", "GoToObj", k, success=k % 2 == 0, steps=count) for k, count in enumerate(steps_of)]
            write_frame(tmp_path / f"scores/babyai/{agent}.parquet", rows, Score)
        assert verdict(Inputs(configuration(), tmp_path), **steps) == expected, (other, n)


def test_there_being_none_is_no_evidence_where_there_is_no_room_for_any(tmp_path):
    for share, expect in ((1.0, "more"), (0.96875, "more"), (0.0, "less")):
        inputs = run(tmp_path, {"tiny-ar": share, "tiny-block": share}, loops={"tiny-ar": share, "tiny-block": share})
        overall, (finding,) = evaluate(claim(metric="failure.loop", expect=expect), inputs)
        assert (overall, finding.why) == ("cannot tell", f"there is no room for {expect}")
    # Nothing takes less than one step.
    inputs = run(tmp_path, {"tiny-ar": 0.5, "tiny-block": 0.5}, steps=1)
    assert evaluate(claim(metric="steps", expect="less"), inputs)[1][0].why == "there is no room for less"


def test_same_and_not_less_use_the_margin(tmp_path):
    equal = run(tmp_path, {"tiny-ar": 0.5, "tiny-block": 0.5})
    assert verdict(equal, expect="same") == verdict(equal, expect="not_less") == "holds"
    worse = run(tmp_path, {"tiny-ar": 1.0, "tiny-block": 0.0})
    assert verdict(worse, expect="same") == verdict(worse, expect="not_less") == "does not hold"


def test_replayed_verifiers_are_compared_on_the_same_stored_episodes(tmp_path):
    tests = {"metric": "exit.steps", "of": {"role": "verifier", **DIFFUSION}, "against": {"role": "verifier", **AR}, "expect": "more"}
    inputs = Inputs(configuration(), tmp_path)
    assert evaluate(claim(**tests), inputs)[1][0].why == "the run has no such agents"
    rows = [
        Exit(
            **{"task_id": f"babyai/{seed}", "benchmark": "babyai", "category": "GoToObj", "agent": "tiny-ar", "verifier": verifier},
            **{"prompt": "strict", "every": 5, "steps": 30, "exit_step": left, "success": False, "success_at_exit": False, "progress": 0.5},
            **{"progress_lost": lost, "redundant_steps": 20, "redundant_steps_saved": 30 - (left or 30), "calls": 2},
        )
        for seed in range(24)
        # The diffusion verifier leaves at 20 or never, the other at 5, and gives progress away.
        for verifier, left, lost in (("tiny-block", 20 if seed % 2 else None, 0.0), ("tiny-ar", 5, 0.25))
    ]
    write_frame(tmp_path / "exits/babyai.parquet", rows, Exit)
    verdict, (finding,) = evaluate(claim(**tests), Inputs(configuration(), tmp_path))
    assert (verdict, finding.n, finding.value) == ("holds", 24, 20.0)
    lost = evaluate(claim(**tests | {"metric": "exit.progress_lost", "expect": "less"}), Inputs(configuration(), tmp_path))
    assert lost[0] == "holds" and lost[1][0].value == -25.0
    for wrong in ({"of": DIFFUSION}, {"expect": "ratio_at_most", "bound": 1}, {"metric": "steps", "against": {"metric": "exit.steps"}}):
        with pytest.raises(ValidationError, match="two groups of role verifier"):
            claim(**tests | wrong)
    # A ready-made verifier is not held against one that was trained in the run.
    mixed = configuration()
    mixed.backbones["tiny-ar"] = mixed.backbones["tiny-ar"].model_copy(update={"training": None, "model": "somewhere"})
    assert evaluate(claim(**tests), Inputs(mixed, tmp_path))[1][0].why == "the run has no such agents"


def test_a_team_is_no_match_for_an_agent_that_acts_in_a_named_way(tmp_path):
    inputs = run(tmp_path, {"tiny-ar": 1.0, "team": 0.0, "tiny-block": 1.0})
    inputs.config.agents["team"] = inputs.config.agents["tiny-ar"].model_copy(update={"workflow": "planner"})
    inputs.config.run.agents.append("team")
    assert evaluate(claim(expect="more"), inputs)[1][0].value == 0.0
    assert evaluate(claim(expect="more", against=AR | {"workflow": "team"}), inputs)[1][0].value == 100.0


def test_levels_are_held_against_their_bound(tmp_path):
    inputs = run(tmp_path, {"tiny-block": 0.0, "tiny-ar": 1.0})
    assert verdict(inputs, against=None, expect="at_most", bound=10) == "holds"
    assert verdict(inputs, against=None, expect="at_least", bound=50) == "does not hold"
    few = run(tmp_path, {"tiny-block": 0.25})
    assert verdict(few, against=None, expect="at_most", bound=25) == "cannot tell"


def test_times_are_compared_as_ratios_of_totals(tmp_path):
    both = {"tiny-ar": 100.0, "tiny-block": 100.0}
    inputs = run(tmp_path, {"tiny-ar": 1.0, "tiny-block": 1.0}, seconds={"tiny-ar": 2.0, "tiny-block": 1.0}, started=both)
    assert verdict(inputs, metric="seconds", expect="ratio_at_most", bound=0.7) == "holds"
    assert verdict(inputs, metric="seconds", expect="ratio_at_most", bound=0.3) == "does not hold"


def test_failures_are_metrics_and_may_be_compared_within_a_group(tmp_path):
    inputs = run(tmp_path, {"tiny-ar": 0.5, "tiny-block": 0.5}, loops={"tiny-block": 0.9})
    assert verdict(inputs, metric="failure.loop", expect="more") == "holds"
    assert verdict(inputs, metric="failure.loop", against={"metric": "failure.format"}, expect="more") == "holds"


def test_modules_are_compared_beside_the_same_policies(tmp_path):
    """What another policy does is no merit of its memory."""
    solved = {"tiny-ar": 1.0, "ar-memory-ar": 1.0, "ar-memory-block": 1.0, "block-memory-block": 0.0}
    inputs = run(tmp_path, solved, measures={"memory.calls": 1.0})
    for agent, policy, keeper in (
        ("ar-memory-ar", "ar", "ar"),
        ("ar-memory-block", "ar", "block"),
        ("block-memory-block", "block", "block"),
    ):
        entry = inputs.config.agents[f"tiny-{policy}"].model_copy(update={"memory": Memory(backbone=f"tiny-{keeper}")})
        inputs.config.agents[agent] = entry
        inputs.config.run.agents.append(agent)
    memory = {"of": {"role": "memory", **DIFFUSION}, "against": {"role": "memory", **AR}, "expect": "not_less"}
    _, (finding,) = evaluate(claim(**memory), inputs)
    assert (finding.value, [name for name, _ in finding.sides]) == (
        0.0,
        ["dLLM memory agents (ar-memory-block)", "AR memory agents (ar-memory-ar)"],
    )
    # A task that ended before either memory was asked compares the policy with itself.
    uncalled = Inputs(inputs.config, run(tmp_path, solved).results)
    assert evaluate(claim(**memory), uncalled)[1][0].why == "no two tasks in which the memory was called"


def test_a_tuned_model_is_not_compared_with_the_one_it_started_from(tmp_path):
    inputs = run(tmp_path, {"smollm2-135m": 0.0, "smollm2-ar": 0.5, "smollm2-twin": 1.0})
    config = inputs.config
    config.backbones["smollm2-135m"].benchmarks = None
    for name, paradigm in (("smollm2-ar", "ar"), ("smollm2-twin", "diffusion")):
        config.backbones[name] = config.backbones["smollm2-135m"].model_copy(update={"adapter": name, "paradigm": paradigm})
        config.agents[name] = config.agents["smollm2-135m"].model_copy(update={"policy": name})
        config.run.agents.append(name)
    _, (finding,) = evaluate(claim(expect="more"), inputs)
    assert finding.sides[1] == ("AR agents (smollm2-ar)", 50.0)


def test_every_claim_names_a_configuration_that_tells_it():
    for entry in load_claims().values():
        assert (layout.WORKFLOW / entry.told_by).is_file()


def test_the_diffusion_group_is_the_mean_of_its_agents_per_task(tmp_path):
    inputs = run(tmp_path, {"tiny-ar": 0.5, "tiny-block": 1.0, "tiny-full": 0.0})
    _, (finding,) = evaluate(claim(), inputs)
    assert (finding.n, finding.value) == (96, 0.0)


def test_groups_of_the_same_training_seeds_are_compared_seed_by_seed(tmp_path):
    inputs = run(tmp_path, {"tiny-ar": 0.0, "tiny-block": 1.0, "smollm2-135m": 1.0, "tiny-full": 1.0})
    backbones = inputs.config.backbones
    trained = backbones["tiny-ar"].training
    backbones["smollm2-135m"] = backbones["tiny-ar"].model_copy(update={"training": trained.model_copy(update={"seed": 7})})
    backbones["tiny-full"].training.seed = 7
    # At seed 42 diffusion solves all and AR none, at seed 7 both solve all: two seeds do not tell, however many tasks they have.
    overall, (finding,) = evaluate(claim(expect="more"), inputs)
    assert (overall, finding.n, finding.value, finding.low, finding.high) == ("cannot tell", 192, 50.0, 0.0, 100.0)
    backbones["smollm2-135m"].training.seed = 8  # other seeds: agents are averaged task by task
    overall, (mixed,) = evaluate(claim(expect="more"), inputs)
    assert (overall, mixed.n, mixed.value) == ("holds", 96, 50.0)


def test_trained_agents_are_not_compared_with_ready_made_ones(tmp_path):
    inputs = run(tmp_path, {"smollm2-135m": 0.0, "tiny-block": 1.0})
    inputs.config.backbones["smollm2-135m"].benchmarks = None
    assert verdict(inputs, expect="more") == "cannot tell"


def test_both_solve_keeps_the_tasks_that_all_solve(tmp_path):
    inputs = run(tmp_path, {"tiny-ar": 0.5, "tiny-block": 1.0})
    _, (finding,) = evaluate(claim(metric="steps", tasks="both_solve"), inputs)
    assert finding.n == 48


def test_agents_the_run_does_not_have_leave_it_open(tmp_path):
    inputs = run(tmp_path, {"tiny-ar": 1.0})
    overall, (finding,) = evaluate(claim(of={"role": "memory", "paradigm": "diffusion"}), inputs)
    assert (overall, finding.n, finding.why) == ("cannot tell", 0, "the run has no such agents")


def test_one_failing_test_decides_and_one_open_test_leaves_it_open(tmp_path):
    inputs = run(tmp_path, {"tiny-ar": 0.0, "tiny-block": 1.0})
    more, less = claim(expect="more").tests[0], claim(expect="less").tests[0]
    absent = claim(benchmarks=["alfworld"]).tests[0]
    assert evaluate(Claim(source="s", statement="t", tests=[more, less]), inputs)[0] == "does not hold"
    assert evaluate(Claim(source="s", statement="t", tests=[more, absent]), inputs)[0] == "cannot tell"


def test_a_claim_that_names_a_missing_agent_is_one_clear_line(tmp_path):
    inputs = run(tmp_path, {"tiny-ar": 1.0})
    with pytest.raises(StageError, match=r"claims.x: no agent 'gpt'; allowed: .*tiny-ar"):
        evaluate(claim(of={"agents": ["gpt"]}), inputs, "x")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("claims: [", "not a YAML mapping"),
        ("other: {}", "not a YAML mapping"),
        ("claims: {a: {source: s, statement: t, tests: []}}", "claims.a.tests"),
        (
            "claims: {a: {source: s, statement: t, tests: [{metric: joy, benchmarks: all, of: {}, expect: at_most, bound: 1}]}}",
            "unknown metric 'joy'",
        ),
        ("claims: {a: {source: s, statement: t, tests: [{metric: steps, benchmarks: all, of: {}, expect: at_most}]}}", "needs a bound"),
        ("claims: {a: {source: s, statement: t, tests: [{metric: steps, benchmarks: all, of: {}, expect: more}]}}", "to compare against"),
    ],
)
def test_a_bad_claims_file_is_one_line_naming_the_key(tmp_path, text, message):
    path = tmp_path / "claims.yaml"
    path.write_text(text)
    with pytest.raises(StageError, match=message) as caught:
        load_claims(path)
    assert "\n" not in str(caught.value) and str(path) in str(caught.value)


def test_the_papers_claims_load_and_every_one_has_a_source():
    claims = load_claims()
    assert len(claims) >= 12
    assert {entry.source.split(",")[0] for entry in claims.values()} == {"DiffuAgent", "DLLM-Searcher", "DLLM Agent"}


def test_what_a_scripted_agent_does_as_well_tells_nothing(tmp_path):
    """NEWCOMER B1: two that answer as seldom as each other, and as a random agent, are not "as accurate"."""
    inputs = run(tmp_path, {"random": 0.25, "empty": 0.0, "tiny-ar": 0.25, "tiny-block": 0.25})
    overall, (finding,) = evaluate(claim(expect="not_less"), inputs)
    assert (overall, finding.why) == ("cannot tell", "tiny-block cannot be distinguished from the random agent")
    assert (finding.n, finding.value) == (96, 0.0), "the numbers stand there all the same"
    # One side that is better than chance is enough to be worse than, not to be as good as or as fast as.
    better = run(tmp_path, {"random": 0.25, "empty": 0.0, "tiny-ar": 1.0, "tiny-block": 0.25})
    assert verdict(better, expect="less") == "holds"
    assert verdict(better, metric="steps", expect="not_less") == "cannot tell"


def test_failures_that_the_empty_agent_has_too_are_not_a_models(tmp_path):
    """NEWCOMER B1: a model that writes nothing has the malformed calls of the agent that says nothing."""
    test = {"metric": "failure.loop", "against": {"metric": "failure.format"}, "expect": "more"}
    inputs = run(tmp_path, {"empty": 0.0, "tiny-block": 0.0}, loops={"empty": 0.9, "tiny-block": 0.9})
    overall, (finding,) = evaluate(claim(**test), inputs)
    assert (overall, finding.why) == ("cannot tell", "tiny-block cannot be distinguished from the empty agent")
    assert verdict(run(tmp_path, {"empty": 0.0, "tiny-block": 0.0}, loops={"tiny-block": 0.9}), **test) == "holds"


def test_a_level_needs_models_at_work_and_tasks_that_can_be_solved(tmp_path):
    level = {"against": None, "expect": "at_most", "bound": 10}
    nobody = run(tmp_path, {"random": 0.0, "tiny-block": 0.0, "tiny-ar": 0.0})
    assert evaluate(claim(**level), nobody)[1][0].why == "no agent of this run beats chance here"
    assert verdict(run(tmp_path, {"random": 0.0, "tiny-block": 0.0, "tiny-ar": 1.0}), **level) == "holds"
    rows = [score("tiny-block", "babyai", level_, seed) for level_ in LEVELS for seed in range(24)]
    write_frame(tmp_path / "failures/babyai/tiny-block.parquet", [failure(row, "empty") for row in rows], Failure)
    mute = evaluate(claim(**level), Inputs(configuration(), tmp_path))[1][0]
    assert (mute.verdict, mute.why) == ("cannot tell", "they wrote nothing in 100 % of episodes")


def test_no_two_are_the_same_at_the_floor_or_the_ceiling(tmp_path):
    for share, why in ((1.0, "both are at the ceiling"), (0.0, "both are at the floor")):
        overall, (finding,) = evaluate(claim(expect="same"), run(tmp_path, {"tiny-ar": share, "tiny-block": share}))
        assert (overall, finding.why) == ("cannot tell", why)


@pytest.mark.parametrize(("share", "why"), [(1.0, "both are at the ceiling"), (0.96875, ""), (0.25, ""), (0.0, "both are at the floor")])
def test_no_two_differ_at_the_floor_or_the_ceiling_either(tmp_path, share, why):
    """That nobody loses on tasks which both always solve is no evidence against "less", as it is none for "not less"."""
    expect = "more" if share == 0 else "less"
    inputs = run(tmp_path, {"tiny-ar": share, "tiny-block": share}, loops={"tiny-ar": share, "tiny-block": share})
    overall, (finding,) = evaluate(claim(metric="failure.loop", expect=expect), inputs)
    assert (overall, finding.why) == ("cannot tell" if why else "does not hold", why)


def test_an_amount_that_no_task_varies_is_no_evidence(tmp_path):
    """Where every question takes exactly seven rounds, none could have needed fewer."""
    for varied in (0, 1):
        for agent in ("tiny-ar", "tiny-block"):
            rows = [score(agent, "babyai", "GoToObj", k, success=k % 2 == 0, steps=7 + varied * (k % 3)) for k in range(96)]
            write_frame(tmp_path / f"scores/babyai/{agent}.parquet", rows, Score)
        overall, (finding,) = evaluate(claim(metric="steps", expect="less"), Inputs(configuration(), tmp_path))
        assert (overall, finding.why) == (("does not hold", "") if varied else ("cannot tell", "every task takes both the same"))


def test_tasks_without_a_difference_still_leave_room_for_one(tmp_path):
    """An interval of width zero at n 20 is no evidence: of 17 % none is seen in 20 once in forty times."""
    rows = {agent: [score(agent, "babyai", "GoToObj", n, success=n % 2 == 0) for n in range(20)] for agent in ("tiny-ar", "tiny-block")}
    for agent, scores in rows.items():
        write_frame(tmp_path / f"scores/babyai/{agent}.parquet", scores, Score)
    overall, (finding,) = evaluate(claim(expect="not_less"), Inputs(configuration(), tmp_path))
    assert (overall, round(finding.low), round(finding.high)) == ("cannot tell", -17, 17)
    assert finding.tasks_to_tell == 230 and sentence(finding, configuration()).endswith("about 230 tasks would tell")


def test_a_premise_that_fails_makes_a_claim_not_applicable(tmp_path):
    """NEWCOMER B3: that faster dLLMs are worse says nothing of dLLMs that are not faster."""
    inputs = run(tmp_path, {"tiny-ar": 1.0, "tiny-block": 0.0})
    less, more = claim(expect="less").tests, claim(expect="more").tests
    assert evaluate(Claim(source="s", statement="t", premise=more, tests=less), inputs)[0] == "not applicable"
    assert evaluate(Claim(source="s", statement="t", premise=less, tests=less), inputs)[0] == "holds"
    absent = claim(benchmarks=["alfworld"]).tests
    assert evaluate(Claim(source="s", statement="t", premise=absent, tests=less), inputs)[0] == "cannot tell"


@pytest.mark.parametrize(
    ("started", "why"),
    [
        ({"tiny-ar": 100, "tiny-block": 100}, ""),  # side by side
        ({"tiny-ar": 100, "tiny-block": 9000}, ""),  # each alone
        ({"tiny-ar": 100, "tiny-block": 9000, "tiny-full": 9010}, "tiny-block ran beside tiny-full on babyai"),
        (None, "when tiny-block ran is not recorded"),
    ],
)
def test_times_are_compared_between_runs_alone_or_at_the_same_time(tmp_path, started, why):
    inputs = run(tmp_path, {"tiny-ar": 1.0, "tiny-block": 1.0, "tiny-full": 1.0}, started=started)
    if started is None or len(started) == 2:
        (tmp_path / "scores/babyai/tiny-full.parquet").unlink()
    of, against = ({"agents": [agent]} for agent in ("tiny-block", "tiny-ar"))
    test = {"metric": "seconds", "of": of, "against": against, "expect": "ratio_at_most", "bound": 1.5}
    overall, (finding,) = evaluate(claim(**test), Inputs(inputs.config, tmp_path))
    assert (overall, finding.why.partition(", and")[0]) == ("not comparable" if why else "holds", why)
    inputs.config.agents["tiny-ar"].concurrency = 1
    assert evaluate(claim(**test), Inputs(inputs.config, tmp_path))[0] == "not comparable"


def test_groups_are_compared_on_each_benchmark_that_both_play(tmp_path):
    """NEWCOMER B2: agents of another benchmark do not empty the tasks that these share."""
    inputs = run(tmp_path, {"tiny-ar": 1.0, "tiny-block": 0.0})
    for agent, share in (("tiny-ar", 0.0), ("tiny-full", 1.0)):
        rows = [score(agent, "bfcl", "simple", n, success=n < 40 * share) for n in range(40)]
        write_frame(tmp_path / f"scores/bfcl/{agent}.parquet", rows, Score)
    overall, findings = evaluate(claim(benchmarks="all"), inputs)
    assert [(finding.benchmark, finding.n, finding.verdict) for finding in findings] == [
        ("babyai", 96, "holds"),
        ("bfcl", 40, "does not hold"),
    ]
    assert overall == "cannot tell", "the benchmarks disagree"
    assert verdict(inputs, benchmarks=["babyai"]) == "holds"


def test_a_model_and_its_preference_trained_self_count_once(tmp_path):
    inputs = run(tmp_path, {"tiny-ar": 0.0, "tiny-block": 0.0, "tiny-full": 1.0})
    inputs.config.backbones["tiny-full"].training.objective = "agentic_vrpo"
    inputs.config.backbones["tiny-full"].training.base = "tiny-block"
    assert evaluate(claim(), inputs)[1][0].value == 0.0
    staged = {"of": {"stage": "preference"}, "against": {"stage": "base"}, "expect": "more"}
    overall, (finding,) = evaluate(claim(**staged), inputs)
    assert (overall, finding.value, finding.sides[0][0]) == ("holds", 100.0, "agents (tiny-full)")


def test_most_settings_are_counted_agent_by_agent(tmp_path):
    inputs = run(tmp_path, {"tiny-block": 0.0, "tiny-full": 1.0, "tiny-ar": 1.0})
    mostly = {"against": None, "expect": "mostly_at_most", "bound": 10}
    assert verdict(inputs, **mostly) == "does not hold"
    inputs.config.agents["second"] = inputs.config.agents["tiny-block"]
    inputs.config.run.agents.append("second")
    rows = [score("second", "babyai", level, seed) for level in LEVELS for seed in range(24)]
    write_frame(tmp_path / "scores/babyai/second.parquet", rows, Score)
    assert verdict(Inputs(inputs.config, tmp_path), **mostly) == "holds"


WORKFLOW = {"tool_calls": 4.0, "calls_before_thought": 3.0, "seeker.completion_tokens": 60.0, "seeker.nfe": 20.0, "invalid_action": 1.0}


def test_measures_of_workflows_and_ratios_are_metrics(tmp_path):
    inputs = run(tmp_path, {"tiny-ar": 1.0, "tiny-block": 1.0}, measures=WORKFLOW, model_seconds=0.5)
    level = {"against": None, "expect": "at_least", "bound": 50}
    assert evaluate(claim(metric="calls_first", **level), inputs)[1][0].value == 75.0
    speed = {"metric": "tokens_per_second", "expect": "more"}
    assert evaluate(claim(**speed), inputs)[1][0].sides[0][1] == 40.0  # 20 tokens in half a second
    assert evaluate(claim(metric="tool_calls", expect="less"), inputs)[1][0].sides[0][1] == 4.0
    assert evaluate(claim(metric="seeker_tokens_per_forward", expect="more"), inputs)[1][0].sides[0][1] == 3.0
    assert evaluate(claim(metric="invalid_action", **level), inputs)[1][0].value == 100.0


def test_a_finding_reads_as_a_sentence_with_names_numbers_and_bound(tmp_path):
    """NEWCOMER B5."""
    inputs = run(tmp_path, {"tiny-ar": 1.0, "tiny-block": 0.5})
    _, (finding,) = evaluate(claim(published=-34.8), inputs)
    text = sentence(finding, inputs.config)
    assert text.startswith("BabyAI (n 96), success: dLLM agents (tiny-block) 50.0 %, AR agents (tiny-ar) 100.0 %: -50.0 points [")
    assert "], expected below 0 (margin 5.0); paper -34.8 points" in text
    _, (finding,) = evaluate(claim(against=None, expect="at_most", bound=10, published=3.6), inputs)
    assert "], expected at most 10.0; paper 3.6 %; about " in sentence(finding, inputs.config)


def test_what_is_not_tested_is_said(tmp_path):
    assert len(load_untested()) >= 5
    table = make("claims", Inputs(configuration(), tmp_path))
    assert [block.title for block in table.layout.blocks] == ["The run has no such agents", "Not tested"]
    assert {row.metric for row in table.rows if row.value} == {"cannot_tell"}
