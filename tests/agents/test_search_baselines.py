"""The retrieval baselines of DLLM-Searcher's Table 1, played step by step by scripted backbones against their papers' algorithms."""

import math
from collections import Counter

import pytest
from games import Scripted, World, answer, play, question, stages

from dllm_agents.agents.workflows import adaptive_rag, selective_context, sure
from dllm_agents.agents.workflows.ircot import next_sentence
from dllm_agents.benchmarks.search import Passage
from dllm_agents.benchmarks.search_reply import answer_text, reply_text, tool_call
from dllm_agents.errors import StageError
from dllm_agents.records import Call, EpisodeStep, Trajectory

MOTHER, BORN = "The mother of Ann is Eva.", "Eva was born in Oslo."


def hops():
    return World(Eva=BORN, mother=MOTHER)


def test_iter_retgen_searches_with_the_question_and_the_whole_previous_generation_three_times():
    backbones = Scripted(policy=["Her mother is Eva.", "Eva was born in Oslo. <answer>Bergen</answer>", answer_text("Oslo")])
    world = hops()
    outcome, calls = play("iter_retgen", backbones, world)
    q = question().goal
    assert world.asked == [q, f"{q} Her mother is Eva.", f"{q} Bergen"]
    assert stages(outcome) == ["search", "generate"] * 3 + ["answer"] and len(calls) == 3
    assert MOTHER in backbones.prompts["policy"][0] and BORN in backbones.prompts["policy"][1]
    assert outcome.success and outcome.answer == "Oslo" and outcome.ended == "success" and outcome.counts == {"searches": 3}


def test_iter_retgen_has_no_answer_where_the_last_generation_calls():
    outcome, _ = play("iter_retgen", Scripted(policy=[tool_call(["x"])]), hops())
    assert outcome.answer is None and outcome.ended == "no_action" and outcome.steps[-1].error == "no answer"


def test_ircot_takes_one_sentence_a_step_and_searches_with_it_until_the_answer():
    said = ["Ann's mother is Eva. She was a judge.", "Eva was born in Oslo.", "So the answer is: Oslo.", answer_text("Oslo")]
    backbones, world = Scripted(policy=said), hops()
    outcome, calls = play("ircot", backbones, world)
    assert world.asked == [question().goal, "Ann's mother is Eva.", "Eva was born in Oslo."]
    assert stages(outcome) == ["search", "think", "search", "think", "search", "think", "read", "answer"]
    reader = backbones.prompts["policy"][-1]
    assert MOTHER in reader and reader.count(f"T1: {BORN}") == 1, "the pool holds every passage once"
    assert "She was a judge" not in backbones.prompts["policy"][1] and outcome.success and len(calls) == 4


def test_ircot_is_bounded_by_its_steps_its_pool_and_by_repetition():
    many = World(**{"": [f"passage {number}" for number in range(40)]})
    backbones = Scripted(policy=[lambda prompt: f"Sentence {len(prompt)}."])
    outcome, calls = play("ircot", backbones, many, options={"steps": 3, "passages": 10, "pool": 15})
    assert len(calls) == 4 and stages(outcome).count("think") == 3
    assert backbones.prompts["policy"][-1].count("\nPassage ") + backbones.prompts["policy"][-1].startswith("Passage") == 10
    _, calls = play("ircot", Scripted(policy=["The same."]), hops())
    assert len(calls) == 3, "a sentence that was there already ends the reasoning"


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("One. Two.", "One."),
        ("no end", "no end"),
        ("<think>hm</think> Is it? Yes.", "Is it?"),
        (reply_text("I look.", tool_call(["mother of Ann"])), "mother of Ann"),
        (reply_text("It is told.", answer_text("Oslo")), "So the answer is: Oslo."),
        ("", ""),
    ],
)
def test_the_next_sentence_of_a_reply(text, sentence):
    assert next_sentence(Call(role="policy", seed=1, text=text)) == sentence


def scores_of(said):
    """SuRe's choice by its definition: validity plus the sum of pairwise preferences over all ordered pairs."""
    candidates = list(said["valid"])
    total = {one: said["valid"][one] + sum(said["better"][one, other] for other in candidates if other != one) for one in candidates}
    return max(candidates, key=lambda one: total[one])


@pytest.mark.parametrize("valid", [{"Oslo": 1, "Rome": 0}, {"Oslo": 0, "Rome": 1}, {"Oslo": 1, "Rome": 1}])
@pytest.mark.parametrize(("first", "second"), [("Summary 1", "Summary 2"), ("Summary 2", "Summary 1"), ("neither", "Summary 1")])
def test_sure_adds_validity_and_ranks_over_ordered_pairs(valid, first, second):
    points = {"Summary 1": 1.0, "Summary 2": 0.0, "neither": 0.5}
    said = [answer_text("Oslo\nRome"), "about Oslo", "about Rome", *(str(bool(valid[one])) for one in ("Oslo", "Rome")), first, second]
    outcome, calls = play("sure", Scripted(policy=said), hops())
    assert stages(outcome) == ["search", "candidates", "summarise", "summarise", "validate", "validate", "rank", "rank", "answer"]
    better = {("Oslo", "Rome"): points[first], ("Rome", "Oslo"): points[second]}
    assert outcome.answer == scores_of({"valid": valid, "better": better}) and len(calls) == 7


def test_sure_without_a_candidate_ends_and_one_candidate_needs_no_ranking():
    outcome, calls = play("sure", Scripted(policy=[""]), hops())
    assert outcome.ended == "no_action" and len(calls) == 1
    outcome, calls = play("sure", Scripted(policy=[answer_text("Oslo"), "s", "no idea"]), hops())
    assert outcome.success and len(calls) == 3
    assert sure.candidates_of("(a) Oslo (b) Rome", 2) == ["Oslo", "Rome"] and sure.candidates_of("1. A\n2. A\n3. B\n4. C", 2) == ["A", "B"]
    assert sure.candidates_of("(a) 1987 (b) Apollo 11", 2) == ["1987", "Apollo 11"]  # no marks of a list
    assert sure.candidates_of("- 3.5\n2) **Rome**.", 2) == ["3.5", "Rome"]


def accepted(*observations, searches=1, goal="g"):
    steps = [
        EpisodeStep(index=index, action=tool_call(["q"]), observation=text) for index, text in enumerate(observations or [""] * searches)
    ]
    return Trajectory(task=question(goal), teacher="t", seed=1, steps=steps, success=True, progress=1.0)


def test_selective_context_drops_the_phrases_that_the_model_expects():
    learnt = selective_context.learn([accepted("The mother of Ann is Eva.\nThe mother of Bo is Eva.")], {}, None)
    passages = [Passage("A", "The mother of Ann is Zebedee.")]
    kept = selective_context.compress(passages, learnt, 0.5)
    assert "Zebedee" in kept[0].text and "The mother" not in kept[0].text
    assert selective_context.compress(passages, learnt, 0.0)[0].text == "The mother of Ann is Zebedee ."
    assert selective_context.compress([], learnt, 0.5) == []
    backbones = Scripted(policy=[answer_text("Oslo")])
    outcome, _ = play(
        "selective_context", backbones, World(mother="The mother of Ann is Zebedee."), learnt=learnt, options={"removed": 0.5}
    )
    assert "Zebedee" in backbones.prompts["policy"][0] and "The mother" not in backbones.prompts["policy"][0]
    assert outcome.counts["context_words_kept"] < outcome.counts["context_words"] and stages(outcome) == ["search", "read", "answer"]


def test_self_information_is_that_of_the_interpolated_bigram_model():
    model = selective_context.learn([accepted("a b a c")], {}, None)
    words, total = Counter("abac"), 4
    alone = {word: (words[word] + 1) / (total + 4) for word in "abc"}
    after = {("", "a"): 1.0, ("a", "b"): 0.5, ("b", "a"): 1.0, ("a", "c"): 0.5}
    by_hand = [-math.log2(0.5 * after[pair] + 0.5 * alone[pair[1]]) for pair in (("", "a"), ("a", "b"), ("b", "a"))]
    assert model.self_information(["a", "b", "a"]) == pytest.approx(by_hand)
    with pytest.raises(StageError, match="no accepted trajectory has search results"):
        selective_context.learn([], {}, None)


def plain_bayes(trajectories, text):
    """The likeliest number of searches, by counting."""
    groups = {}
    for trajectory in trajectories:
        groups.setdefault(len(trajectory.steps), []).append(trajectory.task.goal.lower().split())
    words = {word for goals in groups.values() for goal in goals for word in goal}

    def likelihood(goals):
        said = [word for goal in goals for word in goal]
        return len(goals) * math.prod((said.count(word) + 1) / (len(said) + len(words)) for word in text.lower().split())

    return max(sorted(groups), key=lambda count: likelihood(groups[count]))


def test_adaptive_rag_classifies_as_counting_does_and_takes_the_branch():
    learning = [
        accepted(goal="who is ann", searches=1),
        accepted(goal="who is bo", searches=1),
        accepted(goal="where was the mother of ann born", searches=2),
        accepted(goal="what is one plus one", searches=0),
    ]
    learning[-1] = learning[-1].model_copy(update={"steps": []})
    options = {"classifier": "trajectories"}
    learnt = adaptive_rag.learn(learning, options, None)
    for text in ("who is eva", "the mother of bo", "one plus two", "born where"):
        assert adaptive_rag.CLASSES.index(learnt.classify(text)) == plain_bayes(learning, text)
    backbones = Scripted(policy=[answer_text("Oslo")])
    outcome, _ = play("adaptive_rag", backbones, hops(), question("what is one plus one"), learnt=learnt)
    assert stages(outcome) == ["read", "answer"] and outcome.counts == {"none_retrieval": 1}
    outcome, _ = play("adaptive_rag", backbones, hops(), question("who is eva"), learnt=learnt)
    assert stages(outcome) == ["search", "read", "answer"] and outcome.counts["single_retrieval"] == 1
    said = Scripted(policy=["So the answer is: Oslo.", answer_text("Oslo")])
    outcome, _ = play("adaptive_rag", said, hops(), question("where was the mother of eva born"), learnt=learnt)
    assert stages(outcome) == ["search", "think", "read", "answer"] and outcome.counts["iterative_retrieval"] == 1


@pytest.mark.parametrize(("said", "branch"), [("none", "none"), ("<answer> Single </answer>", "single"), ("perhaps", "iterative")])
def test_adaptive_rag_may_ask_the_backbone(said, branch):
    outcome, _ = play("adaptive_rag", Scripted(policy=[said, answer_text("Oslo")]), hops(), options={"classifier": "backbone"})
    assert outcome.counts[f"{branch}_retrieval"] == 1 and stages(outcome)[0] == "classify"


def test_a_classifier_of_one_class_says_so_in_one_line_and_always_says_that_class(capsys):
    learnt = adaptive_rag.learn([accepted(searches=2), accepted(searches=3)], {"classifier": "trajectories"}, None)
    assert capsys.readouterr().err.count("\n") == 1 and learnt.classify("anything") == "iterative"
    with pytest.raises(StageError, match="no accepted trajectory to learn from"):
        adaptive_rag.learn([], {"classifier": "trajectories"}, None)
    with pytest.raises(StageError, match="allowed: trajectories, backbone"):
        adaptive_rag.learn([], {"classifier": "oracle"}, None)


def test_search_o1_goes_on_behind_condensed_results_in_one_reply():
    said = [
        "I need her mother. <|begin_search_query|> mother of Ann <|end_search_query|> and then",
        "**Final Information** It is Eva.",
        "So Eva. <|begin_search_query|> birthplace of Eva",  # the server took the stop's text
        "<think>hm</think>**Final Information**\nOslo.",
        "That is it: \\boxed{Oslo}",
    ]
    backbones, world = Scripted(policy=said), hops()
    outcome, calls = play("search_o1", backbones, world, dialect="search_o1")
    assert world.asked == ["mother of Ann", "birthplace of Eva"] and outcome.success and len(calls) == 5
    assert stages(outcome) == ["reason", "search", "condense", "reason", "search", "condense", "reason", "answer"]
    *_, last = backbones.messages["policy"]
    assert [message["role"] for message in last] == ["user", "assistant"]
    assert last[1]["content"] == (
        "I need her mother. <|begin_search_query|> mother of Ann <|end_search_query|>"
        "\n\n<|begin_search_result|>It is Eva<|end_search_result|>\n\n"
        "So Eva. <|begin_search_query|> birthplace of Eva<|end_search_query|>"
        "\n\n<|begin_search_result|>Oslo<|end_search_result|>\n\n"
    )
    condensing = backbones.prompts["policy"][1]
    assert MOTHER in condensing and "I need her mother." in condensing


def test_search_o1_is_bounded_in_searches_turns_and_characters():
    calls_for = lambda number: f"<|begin_search_query|> q{number} <|end_search_query|>"  # noqa: E731
    numbers = iter(range(100))
    backbones = Scripted(policy=[lambda prompt: "x" * 9000 if "condense" in prompt or "Documents:" in prompt else calls_for(next(numbers))])
    world = World(q="long " * 2000)
    outcome, calls = play("search_o1", backbones, world, dialect="search_o1")
    assert len(world.asked) == 10 and stages(outcome).count("reason") == 15 and len(calls) == 25
    assert outcome.ended == "no_action" and "The limit of searches is reached" in backbones.prompts["policy"][-1]
    assert all(prompt.partition("Documents:")[2].count("long") <= 600 for prompt in backbones.prompts["policy"] if "Documents:" in prompt)
    again = Scripted(policy=[calls_for(1), "x", calls_for(1), "\\boxed{Oslo}"])
    outcome, _ = play("search_o1", again, world, dialect="search_o1")
    assert "You have searched for this already" in again.prompts["policy"][-1] and outcome.success


def test_search_o1_plays_in_our_tags_for_the_backbones_that_are_taught_them():
    backbones = Scripted(policy=[reply_text("I look.", tool_call(["mother of Ann"])), answer_text("Eva"), answer_text("Oslo")])
    outcome, _ = play("search_o1", backbones, hops(), style="compact")
    assert outcome.success and "Found: 1. Ann: The mother of Ann is Eva.\n" in backbones.prompts["policy"][-1]
    assert all(len(messages) == 1 for messages in backbones.messages["policy"]), "our tags are no growing reply"


def test_a_token_limit_ends_any_of_them_and_keeps_what_was_played():
    outcome, calls = play("sure", Scripted(policy=[answer("Oslo\nRome", tokens=5)]), hops(), max_tokens=8)
    assert outcome.ended == "token_limit" and stages(outcome) == ["search", "candidates", "summarise"] and calls[-1].refused or calls
