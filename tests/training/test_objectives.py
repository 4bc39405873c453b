"""Each objective against a sum written out by hand, and against what decoding will show the model."""

import itertools
import math

import pytest
import torch

from dllm_agents.training import forward, masks, noising, objectives
from dllm_agents.training.objectives import IGNORE, Example

PAD, END, MASK = 0, 1, 2
REPLY = Example.exchange([10, 11, 12, 13, 14], [20, 21, 22, END])
# Think and call, a tool response, a second think and call, in blocks of 4: the response shares a block with both.
TURNS = Example([10, 20, 21, 30, 31, 32, 22, 23, END], [False, True, True, False, False, False, True, True, True])


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def causal(*examples):
    return objectives.collate([objectives.next_token(example) for example in examples], "causal", PAD)


def blocks(example, seed=0, length=4, **options):
    row = objectives.block_diffusion(example, MASK, END, length, generator(seed), **options)
    return objectives.collate([row], "block_causal", PAD)


def test_next_token_is_the_sum_over_the_response_and_its_end():
    batch = causal(Example.exchange([5, 6, 7], [8, 9, END])).normalised()
    assert batch.input_ids.tolist() == [[5, 6, 7, 8, 9]]
    assert batch.targets.tolist() == [[IGNORE, IGNORE, 8, 9, END]]
    logits = torch.randn(1, 5, 12, generator=generator())
    by_hand = -sum(logits[0, row].log_softmax(-1)[token] for row, token in ((2, 8), (3, 9), (4, END))) / 3
    assert loss(logits, batch) == pytest.approx(by_hand.item(), rel=1e-6)


def test_padding_carries_no_loss_and_is_seen_by_nobody():
    batch = causal(Example.exchange([5, 6, 7], [8, END]), Example.exchange([5], [END]))
    assert batch.supervised == 3
    padding = seen(batch)[1, 0][:, 1:]
    assert padding.nonzero().tolist() == [[1, 0], [2, 1], [3, 2]], "each padded key is seen by itself alone"


def test_full_diffusion_has_one_drawn_and_one_fully_masked_copy():
    rows = objectives.full_diffusion(Example.exchange([5, 6], [7, 8, 9, END]), MASK, END, 8, generator())
    batch = objectives.collate(rows, "full", PAD)
    assert batch.input_ids.shape == (2, 10)
    assert batch.input_ids[1].tolist() == [5, 6] + [MASK] * 8
    clean = torch.tensor([5, 6, 7, 8, 9, END, END, END, END, END])
    for row in range(2):
        masked = batch.input_ids[row] == MASK
        assert (batch.input_ids[row] == torch.where(masked, MASK, clean)).all()
        scored = batch.targets[row] != IGNORE
        assert not (scored & ~masked).any() and (batch.targets[row][scored] == clean[scored]).all()
    assert (batch.targets[1, 2:7] == clean[2:7]).all(), "the words and the first two end tokens are always scored"
    assert seen(batch).all(), "everything sees everything"


def test_the_llada_elbo_is_the_weighted_sum_over_masked_tokens():
    """LLaDA equation 3 on six tokens, written out."""
    example = Example.exchange([5, 6], [7, 8, 9, END])
    scores = torch.randn(1, 6, 12, generator=generator())
    seen = set()
    for seed in range(8):
        (row,) = objectives.full_diffusion(example, MASK, END, 4, generator(seed), "independent")
        batch = objectives.collate([row], "full", PAD).normalised(tokens=4)
        masked = [place for place in range(2, 6) if batch.input_ids[0, place] == MASK]
        level = 1 / row.weights[0].item()
        by_hand = -sum(scores[0, place].log_softmax(-1)[example.ids[place]].item() for place in masked) / level / 4
        assert loss(scores, batch) == pytest.approx(by_hand, rel=1e-5)
        seen.add(len(masked))
    assert len(seen) > 2


@pytest.mark.parametrize("rule", ["independent", "fixed_count"])
def test_the_elbo_is_unbiased(rule):
    """The mean over many draws against the sum over every way of masking: -E = sum over sets S of 1 / (|S| C(L, |S|)) CE(S | rest)."""
    ids, generated = torch.tensor([5, 7, 8, 9]), torch.tensor([False, True, True, True])
    cost = torch.randn(2, 2, 2, 3, generator=generator(7)).abs()  # cost[mask of the three tokens][token], any function will do

    def summed(masked):
        return cost[tuple(masked.long().tolist())] * masked

    exact = sum(
        summed(torch.tensor(subset)).sum() / (sum(subset) * math.comb(3, sum(subset)))
        for subset in itertools.product([False, True], repeat=3)
        if any(subset)
    )
    source = generator(3)
    draws = torch.tensor(
        [
            (summed(noise.masked[1:]) * noise.weight[1:]).sum()
            for noise in (objectives.copies(rule, generated, ids == END, None, source)[0] for _ in range(2000))
        ]
    )
    error = draws.std() / math.sqrt(len(draws))
    assert abs(draws.mean() - exact) < 4 * error and error < 0.08 * exact


def test_fixed_counts_vary_less_than_independent_draws():
    generated = torch.ones(6, dtype=torch.bool)
    spread = {}
    for rule in ("independent", "fixed_count"):
        source = generator(0)
        noises = [objectives.copies(rule, generated, ~generated, None, source)[0] for _ in range(300)]
        spread[rule] = torch.tensor([(noise.masked * noise.weight).sum() for noise in noises]).var()
    assert spread["fixed_count"] < 1e-6 < spread["independent"], "a constant cost has no variance under fixed counts"


def test_block_rows_are_what_decoding_shows():
    """Prompt of 5 with blocks of 4: the first decoded block begins with the prompt's tail."""
    batch = blocks(REPLY)
    clean = [10, 11, 12, 13, 14, 20, 21, 22, END, END, END, END]
    ids, positions = batch.input_ids[0].tolist(), batch.position_ids[0].tolist()
    assert ids[:8] == clean[:8] and positions[:8] == list(range(8))
    assert positions[8:] == list(range(4, 12)) * 2
    assert ids[16:] == [14, MASK, MASK, MASK, MASK, MASK, MASK, MASK], "copy 2 is fully masked, the prompt's tail stays"
    assert ids[8] == 14
    # The three-part mask of the paper's figure:
    assert sees(batch, 9) == [0, 1, 2, 3, 8, 9, 10, 11], "a noisy block: earlier clean blocks and itself"
    assert sees(batch, 13) == [0, 1, 2, 3, 4, 5, 6, 7, 12, 13, 14, 15], "neither an earlier noisy block nor the other copy"
    assert sees(batch, 1) == [0, 1, 2, 3] and sees(batch, 5) == list(range(8)), "clean tokens are block-causal"


def test_a_noisy_copy_gives_the_logits_of_decoding():
    """The [clean ; noisy] row and a plain block-causal forward of prompt + decided + masks agree."""
    model = tiny_model()
    trained = logits(model, blocks(REPLY))
    sequence = torch.tensor([[10, 11, 12, 13, 14, 20, 21, 22, MASK, MASK, MASK, MASK]])
    block = torch.arange(12)[None] // 4
    attention = (block[:, :, None] >= block[:, None, :])[:, None]
    with torch.no_grad():
        decoded = model(input_ids=sequence, attention_mask=attention, position_ids=torch.arange(12)[None]).logits[0]
    last_block_of_copy_2 = slice(20, 24)
    assert torch.allclose(trained[last_block_of_copy_2], decoded[8:12], atol=1e-5)


def test_agentic_noising_masks_the_response_after_a_call_and_never_scores_it():
    batch = blocks(TURNS, rule="anchored")
    ids, positions, targets = batch.input_ids[0], batch.position_ids[0], batch.targets[0]
    noisy = torch.arange(len(ids)) >= 8
    for place, shown in ((3, MASK), (0, 10), (4, 30 + 1), (5, 32)):
        here = noisy & (positions == place)
        assert (ids[here] == shown).all(), f"position {place}"
    assert not (targets[noisy & ((positions >= 3) & (positions <= 5))] != IGNORE).any()


@pytest.mark.parametrize("noise", ["clean", "noisy"])
@pytest.mark.parametrize(
    ("mask", "layers", "leaks"),
    [("aligned", 2, False), ("edges", 1, False), ("edges", 2, True), ("naive", 1, True), ("naive", 2, True)],
)
def test_a_later_tool_response_never_changes_a_scored_logit_unless_the_mask_is_naive(mask, layers, leaks, noise):
    """Removed edges hold in one layer; through two the response comes by way of the prompt's tail, which equation 13 lets see it."""
    model = tiny_model(layers=layers)
    changed = TURNS._replace(ids=[10, 20, 21, 33, 31, 32, 22, 23, END])
    changes = False
    for seed in range(8):
        pair = [blocks(example, seed, context_mask=mask, context_noise=noise) for example in (TURNS, changed)]
        before = (pair[0].targets[0] != IGNORE) & (pair[0].position_ids[0] < 3)
        assert before.any()
        first, second = (logits(model, batch)[before] for batch in pair)
        changes |= not torch.equal(first, second)
    assert changes == leaks


def test_removed_edges_are_those_of_equation_13():
    """M(i, j) = 0 only for a generated i and context j that does not come before it; within its block and copy."""
    batch = blocks(TURNS, length=8, context_mask="edges")
    noisy = [place for place, copy in enumerate(batch.copy[0].tolist()) if abs(copy) == 1]
    block = [place for place in noisy if batch.block[0, place] == 0]
    generated = dict(zip(block, TURNS.generated[:8], strict=True))
    for query in block:
        removed = {key for key in block if generated[query] and not generated[key] and key >= query}
        assert sees(batch, query) == [key for key in block if key not in removed]


@pytest.mark.parametrize("mask", ["aligned", "edges", "naive"])
@pytest.mark.parametrize("noise", ["clean", "noisy"])
def test_context_before_a_reply_is_always_shown_unless_noise_may_hit_it(noise, mask):
    shown = set()
    for seed in range(20):
        batch = blocks(TURNS, seed=seed, context_mask=mask, context_noise=noise)
        before = (batch.copy[0] != 0) & (batch.position_ids[0] == 0)
        shown |= set(batch.input_ids[0][before].tolist())
        context = torch.tensor([not flag for flag in TURNS.generated] + [False] * 8)[batch.position_ids[0]]
        assert not (batch.targets[0][context] != IGNORE).any(), "context is never scored"
    assert shown == ({10} if noise == "clean" else {10, MASK})


def test_next_turn_tokens_in_a_block_with_a_masked_response_cannot_see_it():
    """In blocks of 8 the response (3..5) lies between two calls of the same block."""
    model = tiny_model()
    changed = TURNS._replace(ids=[10, 20, 21, 33, 34, 35, 22, 23, END])
    pair = [blocks(example, seed=5, length=8) for example in (TURNS, changed)]
    scored = (pair[0].targets[0] != IGNORE) & (pair[0].position_ids[0] < 8)
    assert torch.equal(logits(model, pair[0])[scored], logits(model, pair[1])[scored])


def test_complementary_copies_score_every_token_once():
    """Fast-dLLM v2 section 3.2."""
    batch = blocks(REPLY, rule="complementary")
    places = batch.position_ids[0][batch.targets[0] != IGNORE].tolist()
    assert sorted(set(places)) == sorted(places) and set(places) >= {5, 6, 7, 8, 9}


def test_shifted_targets_stand_on_the_token_before_and_a_blocks_first_on_the_clean_block_before():
    plain, shifted = blocks(REPLY, seed=2, rule="complementary"), blocks(REPLY, seed=2, rule="complementary", shift=True)
    scored = shifted.targets[0] != IGNORE
    for place, target in zip(shifted.position_ids[0][scored].tolist(), shifted.targets[0][scored].tolist(), strict=True):
        assert target == [*REPLY.ids, END, END, END][place + 1]
    assert shifted.targets[0, 7] == END and plain.targets[0, 7] == IGNORE, "position 8 begins a block: read from clean position 7"
    assert shifted.supervised == plain.supervised


def test_full_diffusion_can_be_shifted_too():
    """Dream: the row before a masked token predicts it, and nothing else changes."""
    plain, shifted = (objectives.full_diffusion(REPLY, MASK, END, 4, generator(4), "middle", shift)[0] for shift in (False, True))
    assert torch.equal(plain.ids, shifted.ids) and (plain.targets != IGNORE).any()
    assert torch.equal(plain.targets[1:], shifted.targets[:-1]) and torch.equal(
        plain.weights[1:] * (plain.targets[1:] != IGNORE), shifted.weights[:-1]
    )


def test_end_tokens_are_always_masked_under_the_dllm_var_rule():
    generated, end = torch.ones(8, dtype=torch.bool), torch.arange(8) >= 6
    for seed in range(20):
        noise = noising.end_masked(noising.independent(generated, generator(seed), None, 0.1, 0.9), end)
        assert noise.masked[6:].all() and (noise.weight[6:] == 1).all() and (noise.weight[:6] <= 10).all()


def test_packed_examples_give_the_losses_of_separate_rows():
    model = tiny_model()
    rows = [objectives.block_diffusion(example, MASK, END, 4, generator(1)) for example in (REPLY, TURNS, REPLY)]
    alone = [losses(model, objectives.collate([row], "block_causal", PAD)) for row in rows]
    packed = objectives.collate(rows, "block_causal", PAD, packed_length=64)
    assert len(packed.input_ids) == 2
    assert torch.allclose(torch.cat(alone).sort().values, losses(model, packed).sort().values, atol=1e-5)


def test_a_budget_is_met_to_the_token():
    batch = causal(Example.exchange([5], [6, 7, 8, END]))
    batch.keep(3)
    assert batch.supervised == 3


def test_causal_mask_sees_the_past():
    segment = torch.zeros(1, 3, dtype=torch.long)
    found = masks.dense(masks.causal(segment), segment.shape, segment.device)
    assert found[0, 0].tolist() == torch.ones(3, 3).tril().bool().tolist()


@pytest.mark.parametrize("kind", ["causal", "full", "block_causal", "context_causal"])
@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
def test_flex_attention_and_the_dense_mask_give_the_same_logits(kind, monkeypatch):
    """The whole way through the model; torch's flex_attention uncompiled, as it runs on a CPU."""
    from torch.nn.attention.flex_attention import flex_attention
    from transformers.integrations import flex_attention as integration

    monkeypatch.setattr(integration, "compile_friendly_flex_attention", lambda *given, training, **named: flex_attention(*given, **named))
    batch, found = packed_and_padded(kind), {}
    for form in ("sdpa", "flex_attention"):
        model = tiny_model()
        model.config._attn_implementation = form
        with torch.no_grad():
            found[form] = forward.logits_of(model, batch)
    assert torch.allclose(found["sdpa"], found["flex_attention"], atol=1e-5)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="flex_attention has a backward pass on a GPU alone")
@pytest.mark.parametrize("kind", ["causal", "full", "block_causal", "context_causal"])
def test_flex_attention_on_a_gpu_trains_as_the_dense_mask_does(kind):
    batch, found = packed_and_padded(kind).to(torch.device("cuda")), {}
    for form in ("sdpa", "flex_attention"):
        model = tiny_model(hidden=64).cuda()
        model.config._attn_implementation = form
        loss = batch.loss(model)
        loss.backward()
        found[form] = (loss.item(), model.model.layers[0].self_attn.q_proj.weight.grad)
    assert found["sdpa"][0] == pytest.approx(found["flex_attention"][0], rel=1e-4)
    assert torch.allclose(found["sdpa"][1], found["flex_attention"][1], rtol=1e-2, atol=1e-4)


def brute_force_context_causal(row):
    """Who sees whom in [clean ; noisy copies], written out place by place."""
    length = len(row.ids)
    seen = torch.zeros(length, length, dtype=torch.bool)
    for query in range(length):
        for key in range(length):
            if row.copy[key] == 0 and row.copy[query] == 0:
                seen[query, key] = row.position[key] <= row.position[query]
            elif row.copy[key] == 0:
                seen[query, key] = row.block[key] < row.block[query]
            else:
                seen[query, key] = row.copy[key] == row.copy[query] and row.block[key] == row.block[query]
    return seen


@pytest.mark.parametrize("example", [REPLY, TURNS], ids=["reply", "turns"])
@pytest.mark.parametrize("length", [2, 3, 8])
def test_context_causal_attention_is_the_brute_force_one(example, length):
    row = objectives.context_causal(example, MASK, END, length, generator(3))
    batch = objectives.collate([row], "context_causal", PAD, multiple=8)
    seen = masks.dense(batch.rule, batch.input_ids.shape, torch.device("cpu"))[0, 0]
    used = len(row.ids)
    assert torch.equal(seen[:used, :used], brute_force_context_causal(row))
    assert not seen[:used, used:].any(), "padding is seen by nobody"


def test_context_causal_loss_is_the_hand_sum():
    """L_MDM of the masked tokens, a block's first token at the clean one before it, and half the next-token loss of the clean copy."""
    example = Example.exchange([5, 6, 7], [8, 9, 10, 11, 12, END])
    row = objectives.context_causal(example, MASK, END, 4, generator(1), "anchored", ar_weight=0.5)
    batch = objectives.collate([row], "context_causal", PAD).normalised()
    model = tiny_model()
    all_logits = logits(model, batch)
    log_probs = torch.log_softmax(all_logits, -1)
    total, weights = 0.0, 0.0
    reply = [8, 9, 10, 11, 12, END]
    for at, token in enumerate(reply):
        weight = 0.5 + (at % 4 == 0)  # blocks of 4 from the reply's start
        total += weight * -log_probs[2 + at, token].item()
        weights += weight
    clean = len(example.ids) - 1
    padded = [*reply, END, END]
    for copy in (1, 2):
        start = clean + (copy - 1) * 8
        for at in range(8):
            if at % 4 and row.ids[start + at] == MASK and row.targets[start + at - 1] != IGNORE:
                total += -log_probs[start + at - 1, padded[at]].item()
                weights += 1
            if at % 4 == 0:
                assert row.ids[start + at] == padded[at], "a block's first token is decided before the block"
    assert (row.ids[clean + 8 :] == MASK).sum() == 6, "the second copy is fully masked but for the first token of each block"
    assert batch.loss(model).item() == pytest.approx(total / weights, rel=1e-5)


@pytest.mark.parametrize("kind", ["causal", "context_causal"])
def test_prompts_without_gradients_change_no_loss_and_teach_nothing_by_their_keys(kind):
    examples = [REPLY, Example.exchange([7, 8, 9, 10], [8, 6, END]), Example.exchange([7], [8, END])]

    def gradient(**options):
        draw = generator(1)
        context = [objectives.context_causal(example, MASK, END, 4, draw) for example in examples]
        rows = context if kind == "context_causal" else [objectives.next_token(example) for example in examples]
        batch, model = objectives.collate(rows, kind, PAD, **options), tiny_model()
        value = batch.loss(model)
        value.backward()
        return batch, value.item(), model

    whole, expected, _ = gradient()
    batch, value, model = gradient(prompt_gradient=False)
    assert batch.prompt == 4, "the last token of a prompt predicts the first of the reply"
    assert value == pytest.approx(expected, rel=1e-5) and batch.supervised == whole.supervised
    # The same in one pass whose keys and values at prompts are cut out of the graph.
    by_hand, cut = tiny_model(), batch.prompt
    batch.prompt = 0
    for layer in by_hand.model.layers:
        for projection in (layer.self_attn.k_proj, layer.self_attn.v_proj):
            projection.register_forward_hook(lambda _, __, out: torch.cat([out[:, :cut].detach(), out[:, cut:]], 1))
    batch.loss(by_hand).backward()
    for (name, own), other in zip(model.named_parameters(), by_hand.parameters(), strict=True):
        torch.testing.assert_close(own.grad, other.grad, msg=name)


@pytest.mark.parametrize("family", ["Llama", "Qwen2", "Qwen3", "Mistral"])
@pytest.mark.parametrize("kind", ["causal", "full", "block_causal", "context_causal"])
def test_places_left_out_of_the_last_layer_change_nothing(kind, family):
    """Against transformers' own forward of every place; Mistral's attention is not known to be plain and is left whole."""
    if kind == "full":
        rows = [row for example in (REPLY, TURNS) for row in objectives.full_diffusion(example, MASK, END, 6, generator())]
        batch = objectives.collate(rows, kind, PAD)
    else:
        batch = packed_and_padded(kind)
    for kept in (batch.supervised, 3, 0):
        batch.keep(kept)
        model, plain = tiny_model(family=family), tiny_model(family=family)
        trained = batch.loss(model)
        logits = plain(input_ids=batch.input_ids, attention_mask=seen(batch), position_ids=batch.position_ids).logits
        expected = objectives.token_losses(logits.flatten(0, 1)[batch.supervised_places()], batch).sum()
        torch.testing.assert_close(trained, expected)
        trained.backward()
        expected.backward()
        for (name, own), other in zip(model.named_parameters(), plain.parameters(), strict=True):
            torch.testing.assert_close(own.grad, other.grad, msg=name)
        last = model.model.layers[-1]
        assert not last.mlp._forward_hooks and "forward" not in vars(last.self_attn), "the model is left as it was"


def test_a_layer_under_activation_checkpointing_is_left_whole():
    """As `fsdp_activation_checkpointing` wraps them."""
    from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper

    batch, model, plain = packed_and_padded("block_causal"), tiny_model().train(), tiny_model().train()
    for at, layer in enumerate(model.model.layers):
        model.model.layers[at] = checkpoint_wrapper(layer, preserve_rng_state=False)
    for one in (model, plain):
        batch.loss(one).backward()
    for own, other in zip(model.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(own.grad, other.grad)


def packed_and_padded(kind):
    examples = [REPLY, TURNS, REPLY, Example.exchange([7], [8, END])]
    row_of = {"block_causal": objectives.block_diffusion, "context_causal": objectives.context_causal}.get(kind)
    if row_of is not None:
        rows = [row_of(example, MASK, END, 4, generator(1)) for example in examples]
    else:
        rows = [objectives.next_token(example) for example in examples]
    batch = objectives.collate(rows, kind, PAD, packed_length=20 if row_of is None else 48)
    assert len(batch.input_ids) < len(rows) and (batch.segment < 0).any()
    return batch


def loss(all_logits, batch):
    return objectives.token_losses(all_logits[batch.targets != IGNORE], batch).sum().item()


def seen(batch):
    return masks.dense(batch.rule, batch.input_ids.shape, batch.input_ids.device)


def sees(batch, place):
    return seen(batch)[0, 0, place].nonzero().flatten().tolist()


def tiny_model(hidden=16, layers=2, family="Llama"):
    import transformers

    torch.manual_seed(0)
    heads = {"num_hidden_layers": layers, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": hidden // 4}
    config = getattr(transformers, f"{family}Config")(vocab_size=40, hidden_size=hidden, intermediate_size=32, **heads)
    return getattr(transformers, f"{family}ForCausalLM")(config).eval()


@torch.no_grad()
def logits(model, batch):
    return model(input_ids=batch.input_ids, attention_mask=seen(batch), position_ids=batch.position_ids).logits[0]


@torch.no_grad()
def losses(model, batch):
    return objectives.token_losses(forward.logits_of(model, batch), batch)
