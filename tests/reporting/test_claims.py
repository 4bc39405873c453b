"""Claims: each verdict by an example, and one clear line for a bad file."""

import pytest
from pydantic import ValidationError
from synthetic_run import LEVELS, configuration, failure, score

from dllm_agents.errors import StageError
from dllm_agents.frames import write_frame
from dllm_agents.records import Exit, Failure, Score
from dllm_agents.reporting.claims import Claim, evaluate, load_claims
from dllm_agents.reporting.inputs import Inputs

AR, DIFFUSION = {"paradigm": "ar"}, {"paradigm": "diffusion"}


def run(tmp_path, solved: dict[str, float], seconds: dict[str, float] | None = None, loops: dict[str, float] | None = None) -> Inputs:
    """Agents that solve the given share of 96 BabyAI tasks, at a given time, with a loop in a given share."""
    for agent, share in solved.items():
        rows = [
            score(agent, "babyai", level, seed, success=(index % 4) < 4 * share, seconds=(seconds or {}).get(agent, 1.0) + 0.01 * seed)
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
    same = run(tmp_path, {"tiny-ar": 0.5, "tiny-block": 0.5})
    assert verdict(same, expect="more") == verdict(same, expect="less") == "cannot tell"


def test_same_and_not_less_use_the_margin(tmp_path):
    equal = run(tmp_path, {"tiny-ar": 0.5, "tiny-block": 0.5})
    assert verdict(equal, expect="same") == verdict(equal, expect="not_less") == "holds"
    worse = run(tmp_path, {"tiny-ar": 1.0, "tiny-block": 0.0})
    assert verdict(worse, expect="same") == verdict(worse, expect="not_less") == "does not hold"


def test_replayed_verifiers_are_compared_on_the_same_stored_episodes(tmp_path):
    tests = {"metric": "exit.steps", "of": {"role": "verifier", **DIFFUSION}, "against": {"role": "verifier", **AR}, "expect": "more"}
    inputs = Inputs(configuration(), tmp_path)
    assert evaluate(claim(**tests), inputs)[1][0].why == "the run replays no such verifiers"
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
    assert evaluate(claim(**tests), Inputs(mixed, tmp_path))[1][0].why == "the run replays no such verifiers"


def test_a_team_is_no_match_for_an_agent_that_acts_in_a_named_way(tmp_path):
    inputs = run(tmp_path, {"tiny-ar": 1.0, "team": 0.0, "tiny-block": 1.0})
    inputs.config.agents["team"] = inputs.config.agents["tiny-ar"].model_copy(update={"workflow": "planner"})
    inputs.config.run.agents.append("team")
    assert evaluate(claim(expect="more"), inputs)[1][0].value == 50.0
    assert evaluate(claim(expect="more", against=AR | {"acting": "react"}), inputs)[1][0].value == 0.0


def test_levels_are_held_against_their_bound(tmp_path):
    inputs = run(tmp_path, {"tiny-block": 0.0, "tiny-ar": 1.0})
    assert verdict(inputs, against=None, expect="at_most", bound=10) == "holds"
    assert verdict(inputs, against=None, expect="at_least", bound=50) == "does not hold"
    few = run(tmp_path, {"tiny-block": 0.25})
    assert verdict(few, against=None, expect="at_most", bound=25) == "cannot tell"


def test_times_are_compared_as_ratios_of_totals(tmp_path):
    inputs = run(tmp_path, {"tiny-ar": 1.0, "tiny-block": 1.0}, seconds={"tiny-ar": 2.0, "tiny-block": 1.0})
    assert verdict(inputs, metric="seconds", expect="ratio_at_most", bound=0.7) == "holds"
    assert verdict(inputs, metric="seconds", expect="ratio_at_most", bound=0.3) == "does not hold"


def test_failures_are_metrics_and_may_be_compared_within_a_group(tmp_path):
    inputs = run(tmp_path, {"tiny-ar": 0.5, "tiny-block": 0.5}, loops={"tiny-block": 0.9})
    assert verdict(inputs, metric="failure.loop", expect="more") == "holds"
    assert verdict(inputs, metric="failure.loop", against={"metric": "failure.format"}, expect="more") == "holds"


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
