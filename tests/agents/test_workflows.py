"""LLMCompiler, the multi-LLM agent, MAKER, AutoTool and the router, played step by step by scripted backbones against their definitions."""

import random
import threading
import time
from collections import Counter

import pytest
from games import Scripted, World, answer, play, question, stages

from dllm_agents import benchmarks
from dllm_agents.agents import workflows
from dllm_agents.agents.game import Game
from dllm_agents.agents.recording import Recording
from dllm_agents.agents.workflows import autotool, llm_compiler, maker, router
from dllm_agents.benchmarks.multihop_qa import SearchEnvironment
from dllm_agents.benchmarks.plan_reply import plan_text
from dllm_agents.benchmarks.search_reply import answer_text, reply_text, tool_call
from dllm_agents.config import Agent
from dllm_agents.config.roles import WORKFLOWS
from dllm_agents.errors import StageError
from dllm_agents.records import Call, EpisodeStep, Trajectory

PLAN = '1. search("mother of Ann")\n2. search("birthplace of $1")\n3. search("teacher of Bo")\n4. join()'


# ------------------------------------------------------------------------------------------------------------------ LLMCompiler


def test_llm_compiler_plans_fetches_and_joins():
    backbones = Scripted(planner=[PLAN], joiner=["Thought: enough.\nFinish(Oslo)"])
    world = World(birthplace="Eva was born in Oslo.", mother="Eva", teacher="Bo was taught by Ida.")
    outcome, calls = play("llm_compiler", backbones, world)
    assert sorted(world.asked) == ["birthplace of Eva", "mother of Ann", "teacher of Bo"]
    assert stages(outcome) == ["plan", "search", "search", "search", "join", "answer"] and outcome.success and len(calls) == 2
    assert [step.action for step in outcome.steps[1:4]] == [tool_call([q]) for q in ("mother of Ann", "birthplace of Eva", "teacher of Bo")]
    joiner = backbones.prompts["joiner"][0]
    assert all(text in joiner for text in ("mother of Ann -> T1: Eva", "Eva was born in Oslo.", "Bo was taught by Ida."))


def test_a_task_starts_when_its_inputs_are_there_and_not_when_its_level_is():
    released = threading.Event()

    def search(query):
        if query == "slow":
            assert released.wait(20), "the task behind the fast one waited for the slow one"
        if query == "behind fast":
            released.set()
        return [llm_compiler.Passage("T", query.split()[-1])]

    plan = llm_compiler.read_plan('1. search("slow")\n2. search("fast")\n3. search("behind $2")')
    results = llm_compiler.fetch(plan, search, 4)
    assert [results[number].query for number in (1, 2, 3)] == ["slow", "fast", "behind fast"]


def test_calls_side_by_side_take_the_time_of_the_longest_chain():
    def search(query):
        time.sleep(0.1)
        return [llm_compiler.Passage("T", "x")]

    plan = llm_compiler.read_plan("\n".join(f'{number}. search("q{number}")' for number in range(1, 5)))
    results = llm_compiler.fetch(plan, search, 4)
    moments = [(result.started, result.ended) for result in results.values()]
    assert max(started for started, _ in moments) < min(ended for _, ended in moments)


def test_a_joiner_that_is_not_content_has_it_planned_again_at_most_twice():
    backbones = Scripted(planner=['1. search("mother of Ann")'], joiner=["Replan(where was Eva born?)"])
    outcome, calls = play("llm_compiler", backbones, World(mother="Eva"))
    assert stages(outcome) == ["plan", "search", "join"] * 3 + ["answer"] and outcome.counts["replans"] == 2 and len(calls) == 6
    assert "Known already: mother of Ann -> Eva" in backbones.prompts["planner"][1]
    assert "Replan" not in backbones.prompts["joiner"][2] and "Replan" in backbones.prompts["joiner"][0]


def test_a_call_is_not_given_again_what_its_inputs_gave():
    first, second = (llm_compiler.Passage("T", text) for text in ("Eva", "Oslo"))
    plan = llm_compiler.read_plan('1. search("a")\n2. search("b $1")\n3. search("c")')
    results = llm_compiler.fetch(plan, lambda query: [first, second] if query != "a" else [first], 2)
    assert [results[number].passages for number in (1, 2, 3)] == [[first], [second], [first, second]]
    assert results[2].text == "Oslo" and results[2].query == "b Eva"


@pytest.mark.parametrize(
    ("plan", "problem"),
    [
        ('1. search("a $2")\n2. search("b $1")', "calls 1, 2 wait for one another"),
        ('1. search("a $1")', "calls 1 wait for one another"),
        ('1. search("a")\n2. search("b $7")', "call 2 refers to $7, which no call of the plan is"),
        ('1. search("a")\n2. delete("b")', "the plan calls delete, which is no tool"),
        ("", "the plan has 0 calls; 1 to 12 can be run"),
        ("no plan at all", "the plan has 0 calls; 1 to 12 can be run"),
        ("\n".join(f'{n}. search("q")' for n in range(1, 14)), "the plan has 13 calls; 1 to 12 can be run"),
    ],
)
def test_a_plan_that_cannot_be_run_ends_the_episode_with_one_line(plan, problem):
    assert llm_compiler.read_plan(plan) == problem
    outcome, calls = play("llm_compiler", Scripted(planner=[plan], joiner=["Finish(x)"]), World())
    assert outcome.ended == "no_action" and len(calls) == 1 and outcome.steps[-1].error == problem and not outcome.steps[-1].valid
    backbones = Scripted(planner=['1. search("mother")', plan], joiner=["Replan(x)", "Finish(Oslo)"])
    outcome, _ = play("llm_compiler", backbones, World(mother="Eva"))
    assert outcome.success, "a later plan that cannot be run leaves the joiner what is there"


def test_the_plans_that_our_planners_are_taught_are_plans_of_searches():
    plan = llm_compiler.read_plan(reply_text("two hops", plan_text(["mother of Ann", "employer of #1"])))
    assert plan == {1: llm_compiler.Planned("mother of Ann"), 2: llm_compiler.Planned("employer of $1")} and plan[2].needs == {1}
    assert llm_compiler.read_plan(plan_text([])) == {}


def test_a_tool_that_fails_forever_is_recorded_and_what_waits_for_it_is_not_run():
    world = World(mother=RuntimeError("gone"), teacher="Ida")
    outcome, _ = play("llm_compiler", Scripted(planner=[PLAN], joiner=["Finish(unknown)"]), world)
    first, second, third = outcome.steps[1:4]
    assert first.error == "RuntimeError: gone" and second.error == "$1, which it needs, found nothing" and third.error is None
    assert sorted(world.asked) == ["mother of Ann", "teacher of Bo"] and outcome.ended == "answered"
    with pytest.raises(StageError, match="no key"):
        play("llm_compiler", Scripted(planner=[PLAN], joiner=["Finish(x)"]), World(mother=StageError("no key")))


def test_every_plan_runs_in_an_order_that_its_references_allow():
    generator = random.Random(1)
    for _ in range(50):
        count = generator.randint(1, 8)
        needs = {n: sorted(generator.sample(range(1, n), generator.randint(0, n - 1))) for n in range(1, count + 1)}
        lines = [f'{n}. search("q{n} {" ".join(f"${m}" for m in needs[n])}")' for n in needs]
        generator.shuffle(lines)
        done = []
        plan = llm_compiler.read_plan("\n".join(lines))
        results = llm_compiler.fetch(
            plan, lambda q, done=done: (done.append(q.split()[0]), [llm_compiler.Passage("T", q.split()[0])])[1], 3
        )
        assert all(results[n].query.split() == [f"q{n}", *(f"q{m}" for m in needs[n])] for n in needs)
        assert all(done.index(f"q{m}") < done.index(f"q{n}") for n in needs for m in needs[n])


# -------------------------------------------------------------------------------------------------------------------- multi-LLM


def test_the_planner_hands_each_step_to_the_caller_and_the_end_to_the_summariser():
    backbones = Scripted(
        planner=["I need her mother. Next: caller.", "Eva. Now her birthplace. Next: caller.", "Known. Next: summariser."],
        caller=["<think>hm</think>mother of Ann", tool_call(["birthplace of Eva"])],
        summariser=["The answer is Oslo."],
    )
    world = World(birthplace="Eva was born in Oslo.", mother="The mother of Ann is Eva.")
    outcome, calls = play("multi_llm", backbones, world)
    assert stages(outcome) == ["plan", "call", "search"] * 2 + ["plan", "summarise", "answer"] and outcome.success
    assert world.asked == ["mother of Ann", "birthplace of Eva"] and Counter(call.role for call in calls) == Counter(
        planner=3, caller=2, summariser=1
    )
    assert "I need her mother." in backbones.prompts["caller"][0] and "Eva was born in Oslo." in backbones.prompts["summariser"][0]


@pytest.mark.parametrize(
    ("said", "following"),
    [
        ("x. Next: caller.", "caller"),
        ("The caller has done it. Next: summarizer", "summariser"),
        ("Next: give up.", "give up"),
        ("nothing said", "caller"),
        (reply_text("t", tool_call(["q"])), "caller"),
        (reply_text("t", answer_text("a")), "summariser"),
    ],
)
def test_who_comes_next(said, following):
    assert workflows.load("multi_llm").next_role(Call(role="planner", seed=1, text=said)) == following


def test_the_multi_llm_agent_is_bounded_and_may_give_up():
    outcome, calls = play(
        "multi_llm", Scripted(planner=["Next: caller."], caller=["q"], summariser=["Oslo"]), World(), options={"steps": 3}
    )
    assert len(calls) == 7 and outcome.answer == "Oslo"
    outcome, calls = play("multi_llm", Scripted(planner=["Next: give up"], caller=["q"], summariser=["x"]), World())
    assert len(calls) == 1 and outcome.ended == "no_action"
    said = Scripted(planner=["Next: caller."], caller=[""], summariser=["x"])
    outcome, _ = play("multi_llm", said, World(), options={"steps": 1})
    assert outcome.steps[1].error == "no call" and "Search: none could be read" in said.prompts["summariser"][0]


# --------------------------------------------------------------------------------------------------------------- embodied tasks


@pytest.fixture(scope="module")
def babyai():
    return benchmarks.load("babyai", {"levels": ["GoToObj", "PickupLoc"], "seeds": [1234, 1235, 1236], "max_steps": 8, "train_tasks": 40})


def act(workflow, benchmark, task, backbones, learnt=None, **options):
    """(outcome, calls) of an embodied workflow."""
    with benchmark.environment(task) as environment:
        options = WORKFLOWS[workflow].options | options
        roles = Recording(backbones)
        played = Game(workflow, task, benchmark, environment, roles, Agent(policy="m"), "react", 1, options, learnt)
        return played.play(workflows.load(workflow).play), roles.in_order()


def thought(action):
    return f"Thought: I see.\nAction: {action}"


def voted(samples, ahead):
    """First-to-ahead-by-k by its definition: (the winner or None, samples drawn)."""
    votes = Counter()
    for drawn, action in enumerate(samples, 1):
        votes[action] += 1
        top = votes.most_common()
        if top[0][1] - (top[1][1] if len(top) > 1 else 0) >= ahead:
            return top[0][0], drawn
    return None, len(samples)


@pytest.mark.parametrize("ahead", [1, 2, 3])
def test_maker_votes_by_first_to_ahead_by_k(babyai, ahead):
    generator = random.Random(ahead)
    for _ in range(20):
        samples = [generator.choice(["turn left", "turn right", "move forward"]) for _ in range(9)]
        babyai.options.max_steps = 1
        said = Scripted(policy=list(map(thought, samples)))
        outcome, calls = act("maker", babyai, babyai.tasks("test")[0], said, ahead=ahead, samples=9)
        winner, drawn = voted(samples, ahead)
        assert len(calls) == outcome.counts["samples"] == drawn
        most = max(Counter(samples).values())
        assert outcome.steps[0].action == (winner or next(item for item in samples if Counter(samples)[item] == most))
        assert (outcome.steps[0].error is None) == (winner is not None) and outcome.counts.get("undecided", 0) == (winner is None)
    babyai.options.max_steps = 8


def test_maker_discards_red_flags_and_asks_in_a_fresh_context(babyai):
    said = ["no action", answer(thought("turn right"), "length"), thought("x" * 500), thought("turn left")]
    backbones = Scripted(policy=said)
    babyai.options.max_steps = 3
    outcome, _ = act("maker", babyai, babyai.tasks("test")[0], backbones, ahead=2, samples=6)
    babyai.options.max_steps = 8
    assert outcome.steps[0].action == "turn left" and outcome.counts["red_flags"] == 3 and len(outcome.steps) == 3
    now = backbones.prompts["policy"][-1].rpartition("Now it is your turn")[2]
    assert now.count("Action: turn left") == 1, "the latest step alone is shown"


def test_a_voter_that_never_agrees_or_never_can_be_read_ends_in_bounds(babyai):
    turns = iter(["turn left", "turn right"] * 500)
    outcome, calls = act("maker", babyai, babyai.tasks("test")[0], Scripted(policy=[lambda _: thought(next(turns))]), ahead=3, samples=6)
    assert len(calls) == 48 and outcome.ended == "step_limit" and outcome.counts["undecided"] == 8
    assert outcome.steps[0].error == "no action led by 3 after 6 samples; the most frequent is played"
    outcome, calls = act("maker", babyai, babyai.tasks("test")[0], Scripted(policy=["hm"]), samples=4)
    assert len(calls) == 32 and outcome.steps[0].error == "none of 4 samples could be read" and outcome.steps[0].action is None


def test_makers_curve_rises_with_samples(babyai):
    """A policy that is right in 60 % of samples: a step is right more often the further a vote must lead."""

    def share(ahead):
        right = 0
        for seed in range(60):
            generator = random.Random(seed)
            samples = [generator.choices(["turn left", "turn right"], [0.6, 0.4])[0] for _ in range(60)]
            right += voted(samples, ahead)[0] == "turn left"
        return right / 60

    assert share(1) < share(3) < share(6)
    assert [maker.lead(votes) for votes in ([], [2], [1, 4, 2], [3, 3])] == [0, 2, 2, 0]


def teach(benchmark, count=40):
    found = []
    for task in benchmark.tasks("train")[:count]:
        with benchmark.environment(task) as environment:
            opened, steps = environment.reset(), []
            while len(steps) < 8 and not (steps and steps[-1].done):
                step = environment.step(action := environment.expert_action()[1])
                steps.append(EpisodeStep(index=len(steps), action=action, observation=step.observation, done=step.done))
        if environment.success:
            found.append(Trajectory(task=task, teacher="t", seed=1, initial_observation=opened, steps=steps, success=True, progress=1.0))
    return found


def test_autotool_takes_the_tools_it_is_sure_of_without_asking_and_loses_nothing(babyai):
    learnt = autotool.learn(teach(babyai), WORKFLOWS["autotool"].options, babyai)
    saved = steps = 0
    for task in babyai.tasks("test"):
        with babyai.environment(task) as environment:
            backbones = Scripted(policy=[lambda _, environment=environment: thought(environment.expert_action()[1])])
            fields = {"options": WORKFLOWS["autotool"].options, "learnt": learnt}
            played = Game("autotool", task, babyai, environment, Recording(backbones), Agent(policy="m"), "react", 1, **fields)
            outcome = played.play(autotool.play)
        assert outcome.success and all((step.call is None) or step.thought for step in outcome.steps)
        assert len(outcome.steps) == len(played.roles.in_order()) + outcome.counts.get("calls_saved", 0)
        saved, steps = saved + outcome.counts.get("calls_saved", 0), steps + len(outcome.steps)
    assert saved >= 0.2 * steps


def test_the_inertia_score_is_half_frequency_and_half_likeness_of_contexts():
    graph = autotool.InertiaGraph()
    go, take = autotool.Tool("go to {}", ("red ball 1",)), autotool.Tool("pickup {}", ("red ball 1",))
    see = "a red ball 1 right in front of you"
    for goal, tool, times in (("go to the red ball", go, 3), ("pick up the red ball", take, 1)):
        for _ in range(times):
            graph.add((), tool, autotool.Context(goal, see, None, ()))
    context = autotool.Context("pick up the red ball", see, None, ["go to red ball 1", "pickup red ball 1", "turn left"])
    likeness = {"go to {}": autotool.cosine(Counter(["go", "to", "the", "red", "ball"]), context.words) ** 8, "pickup {}": 1.0}
    expected = {
        name: 0.5 * count / 4 + 0.5 * likeness[name] / sum(likeness.values()) for name, count in (("go to {}", 3), ("pickup {}", 1))
    }
    assert graph.scores((), list(expected), context, 0.5) == pytest.approx(expected)
    assert graph.best((), context, 0.5) == ("pickup red ball 1", pytest.approx(expected["pickup {}"]))
    assert graph.best((), context, 0.5, {((), "pickup {}")})[0] == "go to red ball 1", "an edge that led nowhere is not taken again"
    unknown = context._replace(actions=["pickup red ball 1", "pickup blue key 1"])
    assert graph.best((), unknown, 0.5, {((), "go to {}")})[0] == "pickup red ball 1"  # the goal names it
    assert graph.best((), unknown._replace(goal="do it"), 0.5) == (None, 0.0), "a tool that is possible has no parameters"


def test_the_threshold_is_the_lowest_at_which_held_out_trajectories_agree(babyai):
    steps = [(0.9, True)] * 8 + [(0.5, True)] * 8 + [(0.4, False)] * 8
    for agreement in (0.5, 0.66, 0.95, 1.0):
        right = [t for t in autotool.THRESHOLDS if (kept := [s for score, s in steps if score >= t]) and sum(kept) / len(kept) >= agreement]
        assert autotool.lowest_reliable(steps, agreement) == right[0]
    assert autotool.lowest_reliable([(0.9, False)], 0.5) == autotool.lowest_reliable([], 0.5) == autotool.NEVER
    taught = teach(babyai)
    learnt = autotool.learn(taught, {"agreement": 0.9, "frequency": 0.5}, babyai)
    held_out = taught[autotool.HELD_OUT - 1 :: autotool.HELD_OUT]
    # An empty path counts twice: it is its own last part.
    assert sum(learnt.followed[()].values()) == 2 * (len(taught) - len(held_out)), "what chooses the threshold is not learnt from"
    judged = list(autotool.judged(learnt, held_out, babyai, 0.5))
    taken = [same for score, same in judged if score >= learnt.threshold]
    assert taken and sum(taken) >= 0.9 * len(taken) and len(judged) <= sum(len(trajectory.steps) for trajectory in held_out)


def test_without_a_threshold_that_agrees_the_policy_takes_every_step(babyai, capsys):
    learnt = autotool.learn(teach(babyai, 4), {"agreement": 0.9, "frequency": 0.5}, babyai)
    assert learnt.threshold == autotool.NEVER and "no threshold agrees with the teacher in 90% of steps" in capsys.readouterr().err


def test_parameters_are_filled_from_where_they_mostly_come_from_and_not_guessed(babyai):
    graph = autotool.InertiaGraph()
    see = "a red ball 1 here, a blue box 1 there and a blue key 1"
    graph.add((), autotool.Tool("go to {}", ("red ball 1",)), autotool.Context("go to the red ball", see, None, ()))
    actions = ["go to blue box 1", "go to blue key 1", "go to red ball 1"]
    assert graph.fill("go to {}", autotool.Context("go to the blue key", see, None, actions)) == "go to blue key 1"
    assert graph.fill("go to {}", autotool.Context("find something", see, None, actions)) is None
    assert autotool.tool_of("take apple 1 from table 2", "You see a apple 1 and the table 2.") == autotool.Tool(
        "take {} from {}", ("apple 1", "table 2")
    )
    with pytest.raises(StageError, match="no accepted trajectory"):
        autotool.learn([], {}, babyai)


# ----------------------------------------------------------------------------------------------------------------------- router


def test_the_router_hands_on_what_the_small_backbone_is_not_sure_of(babyai):
    task = babyai.tasks("test")[0]
    small = [answer(thought("turn left"), confidence=[0.95, 0.99]), answer(thought("turn left"), confidence=[0.95, 0.2])]
    outcome, calls = act("router", babyai, task, Scripted(policy=small, large=[thought("turn right")]))
    assert [step.action for step in outcome.steps[:3]] == ["turn left", "turn right", "turn right"]
    assert outcome.counts == {"small_alone": 1, "handed_on": len(outcome.steps) - 1}
    assert Counter(call.role for call in calls) == Counter(policy=len(outcome.steps), large=len(outcome.steps) - 1)
    assert router.confidence(Call(role="policy", seed=1)) == 0.0, "a server that does not tell is not trusted"


def test_the_router_searches_too_and_its_limits_hold():
    sure, unsure = answer(tool_call(["mother of Ann"]), confidence=[1.0]), answer("hm", confidence=[0.1])
    benchmark, task = benchmarks.load("multihop_qa", {"tasks": 1, "train_tasks": 0}), question()
    ends = []
    for limit in (100, 5, 3):
        backbones = Scripted(policy=[sure, unsure], large=[answer_text("Oslo")])
        environment = SearchEnvironment(task, World(mother="The mother of Ann is Eva."), 10)
        fields = {"options": WORKFLOWS["router"].options}
        played = Game("router", task, benchmark, environment, Recording(backbones, limit), Agent(policy="m"), "react", 1, **fields)
        outcome = played.play(router.play)
        ends.append((outcome.ended, outcome.counts))
    both = {"small_alone": 1, "handed_on": 1}
    assert ends == [("success", both), ("success", both), ("token_limit", both)]
