"""Each objective against a sum written out by hand, and against what decoding will show the model."""

import math

import pytest
import torch

from dllm_agents.training import masks, objectives
from dllm_agents.training.objectives import IGNORE, Example

PAD, END, MASK = 0, 1, 2


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def test_next_token_is_the_sum_over_the_response_and_its_end():
    batch = objectives.next_token([Example([5, 6, 7], [8, 9, END])], PAD)
    assert batch.input_ids.tolist() == [[5, 6, 7, 8, 9]]
    assert batch.targets.tolist() == [[IGNORE, IGNORE, 8, 9, END]]
    logits = torch.randn(1, 5, 12, generator=generator())
    by_hand = -sum(logits[0, row].log_softmax(-1)[token] for row, token in ((2, 8), (3, 9), (4, END))) / 3
    assert objectives.loss(logits[batch.targets != IGNORE], batch).item() == pytest.approx(by_hand.item(), rel=1e-6)


def test_padding_carries_no_loss_and_is_seen_by_nobody():
    batch = objectives.next_token([Example([5, 6, 7], [8, END]), Example([5], [END])], PAD)
    assert batch.supervised == 3
    padding = batch.attention[1, 0][:, 1:]
    assert padding.nonzero().tolist() == [[1, 0], [2, 1], [3, 2]], "each padded key is seen by itself alone"


def test_full_diffusion_has_one_drawn_and_one_fully_masked_copy():
    example = Example([5, 6], [7, 8, 9, END])
    batch = objectives.full_diffusion([example], PAD, MASK, response_tokens=8, generator=generator())
    assert batch.input_ids.shape == (2, 10)
    assert batch.input_ids[1].tolist() == [5, 6] + [MASK] * 8
    clean = torch.tensor([5, 6, 7, 8, 9, END, END, END, END, END])
    for row in range(2):
        masked = batch.input_ids[row] == MASK
        assert (batch.input_ids[row] == torch.where(masked, MASK, clean)).all()
        scored = batch.targets[row] != IGNORE
        assert not (scored & ~masked).any() and (batch.targets[row][scored] == clean[scored]).all()
    assert (batch.targets[1, 2:7] == clean[2:7]).all(), "the words and the first two end tokens are always scored"
    assert batch.attention.all(), "everything sees everything"


def test_block_rows_are_what_decoding_shows():
    """Prompt of 5 with blocks of 4: the first decoded block begins with the prompt's tail."""
    example = Example([10, 11, 12, 13, 14], [20, 21, 22, END])
    batch = objectives.block_diffusion([example], PAD, MASK, block_length=4, generator=generator())
    clean = [10, 11, 12, 13, 14, 20, 21, 22, END, END, END, END]
    ids, positions = batch.input_ids[0].tolist(), batch.position_ids[0].tolist()
    assert ids[:8] == clean[:8] and positions[:8] == list(range(8))
    assert positions[8:] == list(range(4, 12)) * 2
    assert ids[16:] == [14, MASK, MASK, MASK, MASK, MASK, MASK, MASK], "copy 2 is fully masked, the prompt's tail stays"
    assert ids[8] == 14
    seen = batch.attention[0, 0]
    # The first noisy block of copy 1 (8..11) sees the clean prompt block and itself, not the clean form of its own block.
    assert seen[9].nonzero().flatten().tolist() == [0, 1, 2, 3, 8, 9, 10, 11]
    # The second one (12..15) sees both clean blocks and itself, neither the first noisy block nor the other copy.
    assert seen[13].nonzero().flatten().tolist() == [0, 1, 2, 3, 4, 5, 6, 7, 12, 13, 14, 15]
    # Clean tokens are block-causal.
    assert seen[1].nonzero().flatten().tolist() == [0, 1, 2, 3]
    assert seen[5].nonzero().flatten().tolist() == list(range(8))


def test_changing_what_comes_later_changes_no_scored_logit():
    model = tiny_model()
    first = Example([10, 11, 12, 13, 14], [20, 21, 22, 23, 24, 25, 26, END])
    other = Example([10, 11, 12, 13, 14], [20, 21, 22, 23, 24, 25, 27, END])
    logits = [rows(model, objectives.block_diffusion([e], PAD, MASK, 4, generator(3)))[0] for e in (first, other)]
    block = [objectives.block_diffusion([e], PAD, MASK, 4, generator(3)).position_ids[0] // 4 for e in (first, other)][0]
    earlier = block < 2
    assert torch.equal(logits[0][earlier], logits[1][earlier])
    assert not torch.equal(logits[0][~earlier], logits[1][~earlier])


def test_a_noisy_copy_gives_the_logits_of_decoding():
    """The [clean ; noisy] row and a plain block-causal forward of prompt + decided + masks agree."""
    model = tiny_model()
    example = Example([10, 11, 12, 13, 14], [20, 21, 22, 23, END])
    batch = objectives.block_diffusion([example], PAD, MASK, block_length=4, generator=generator())
    trained = rows(model, batch)[0]
    sequence = torch.tensor([[10, 11, 12, 13, 14, 20, 21, 22, MASK, MASK, MASK, MASK]])
    block = torch.arange(12)[None] // 4
    attention = (block[:, :, None] >= block[:, None, :])[:, None]
    with torch.no_grad():
        decoded = model(input_ids=sequence, attention_mask=attention, position_ids=torch.arange(12)[None]).logits[0]
    last_block_of_copy_2 = slice(20, 24)
    assert torch.allclose(trained[last_block_of_copy_2], decoded[8:12], atol=1e-5)


def test_a_budget_is_met_to_the_token():
    batch = objectives.next_token([Example([5], [6, 7, 8, END])], PAD)
    batch.keep(3)
    assert batch.supervised == 3


def test_causal_mask_sees_the_past():
    assert masks.causal(torch.ones(1, 3, dtype=torch.bool))[0, 0].tolist() == torch.ones(3, 3).tril().bool().tolist()


def test_uniform_loss_of_a_blind_model_is_log_of_the_vocabulary():
    batch = objectives.block_diffusion([Example([5, 6], [7, 8, END])], PAD, MASK, 4, generator())
    assert objectives.loss(torch.zeros(batch.supervised, 50), batch).item() == pytest.approx(math.log(50))


def tiny_model():
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    heads = {"num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 2}
    config = LlamaConfig(vocab_size=40, hidden_size=16, intermediate_size=32, **heads)
    return LlamaForCausalLM(config).eval()


@torch.no_grad()
def rows(model, batch):
    return model(input_ids=batch.input_ids, attention_mask=batch.attention, position_ids=batch.position_ids).logits
