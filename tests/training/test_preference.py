"""VRPO and JustGRPO by small examples, and what sharing masks buys."""

import math

import pytest
import torch
from test_objectives import END, MASK, PAD, TURNS, generator, tiny_model

from dllm_agents.training import forward, objectives, preference
from dllm_agents.training.objectives import Example

WINNER = Example.exchange([10, 11, 12], [20, 21, 22, 23, END])
LOSER = Example.exchange([10, 11, 12], [24, 25, 26, 27, END])


def draw(example, source, samples=2):
    return preference.draw(example, MASK, END, 4, samples, source)


def pairs(seed, reference, beta=0.1, samples=2):
    source = generator(seed)
    return preference.pair_batch([([WINNER], [LOSER])], lambda example: draw(example, source, samples), PAD, reference, beta, False)


def estimates(model, seed):
    batch = pairs(seed, model)
    with torch.no_grad():
        return preference.elbo(model, batch, batch.owner, 2)


def test_the_elbo_sums_examples_and_averages_draws():
    """Each draw alone, as a row of its own, against the row that shares one clean form between them."""
    model = tiny_model()
    rows = [draw(example, generator(at), 3) for at, example in enumerate((WINNER, TURNS))]
    batch = objectives.collate(rows, "block_causal", PAD)
    owner = torch.zeros(batch.supervised, dtype=torch.long)
    by_hand = 0.0
    with torch.no_grad():
        together = preference.elbo(model, batch, owner, 1)
        for row in rows:
            for number in (1, 2, 3):
                chosen = (row.copy == 0) | (row.copy == number)
                alone = objectives.collate([objectives.Row(*(part[chosen] for part in row))], "block_causal", PAD)
                by_hand -= objectives.token_losses(forward.logits_of(model, alone), alone).sum().item()
    assert together.item() == pytest.approx(by_hand, rel=1e-4)


def test_vrpo_is_dpo_on_elbo_differences():
    policy, reference = torch.tensor([[-3.0, -5.0]]), torch.tensor([[-4.0, -4.5]])
    by_hand = -math.log(1 / (1 + math.exp(-0.1 * ((-3 + 4) - (-5 + 4.5)))))
    assert preference.vrpo_loss(policy, reference, beta=0.1).item() == pytest.approx(by_hand, rel=1e-6)
    scaled = preference.vrpo_loss(policy, reference, 0.1, lengths=torch.tensor([[2.0, 4.0]])).item()
    assert scaled == pytest.approx(-math.log(1 / (1 + math.exp(-0.1 * (1 / 2 + 0.5 / 4)))), rel=1e-6)


def test_a_policy_equal_to_its_reference_has_no_preference_whatever_was_drawn():
    model = tiny_model()
    for seed in range(3):
        assert pairs(seed, model).loss(model).item() == pytest.approx(math.log(2), rel=1e-6)


def test_shared_masks_vary_less():
    reference, policy = tiny_model(), tiny_model()
    with torch.no_grad():
        for model in (reference, policy):
            model.lm_head.weight.mul_(20)  # tokens of unequal cost, as a trained model has
        for parameter in policy.parameters():
            parameter.add_(0.002 * torch.randn(parameter.shape, generator=generator(9)))

    def score(policy_seed, reference_seed):
        gain = estimates(policy, policy_seed) - estimates(reference, reference_seed)
        return (gain[0] - gain[1]).item()

    shared = torch.tensor([score(seed, seed) for seed in range(16)]).var()
    separate = torch.tensor([score(seed, 1000 + seed) for seed in range(16)]).var()
    assert shared < separate / 10


def test_one_gradient_step_prefers_the_winner():
    policy, reference = tiny_model(), tiny_model()
    batch = pairs(0, reference)
    optimiser = torch.optim.SGD(policy.parameters(), lr=0.1)
    losses = []
    for _ in range(3):
        value = batch.loss(policy)
        optimiser.zero_grad()
        value.backward()
        optimiser.step()
        losses.append(value.item())
    assert losses[2] < losses[1] < losses[0]
    assert all(parameter.grad is None for parameter in reference.parameters())


def test_a_sequential_row_shows_each_token_what_left_to_right_decoding_shows():
    row = preference.sequential(WINNER, MASK, 4)
    shown = [row.ids[row.copy == copy].tolist() for copy in range(6)]
    assert shown[0] == [10, 11, 12, 20], "what lies before the last block, clean"
    assert shown[1] == [10, 11, 12, MASK] and shown[2] == [MASK] * 4
    assert shown[4] == [21, 22, MASK, MASK]
    assert row.targets[row.targets != objectives.IGNORE].tolist() == WINNER.ids[3:]


def test_sequential_likelihoods_are_those_of_plain_forwards():
    """Each token's logits against one block-causal forward over what a left-to-right decoder has by then, masks behind it."""
    model = tiny_model()
    for example in (WINNER, TURNS):
        row = preference.sequential(example, MASK, 4)
        batch = objectives.collate([row], "block_causal", PAD)
        generated = torch.tensor(example.generated)
        block = torch.arange(len(generated)) // 4
        with torch.no_grad():
            predicted = forward.logits_of(model, batch)
            for at, logits in zip(generated.nonzero().flatten().tolist(), predicted, strict=True):
                start = int((block == block[at]).nonzero()[0])
                ids = torch.tensor([[*example.ids[:at], *[MASK] * (start + 4 - at)]])
                numbers = torch.cat([block[:start], block[at].expand(4)])
                seen = (numbers[:, None] >= numbers[None, :])[None, None]
                places = torch.arange(start + 4)[None]
                plain = model(input_ids=ids, attention_mask=seen, position_ids=places).logits[0, at]
                assert torch.allclose(logits, plain, atol=1e-5)


def test_a_shifted_base_is_read_one_place_to_the_left():
    row = preference.sequential(WINNER, MASK, 4, shift=True)
    asked = row.targets != objectives.IGNORE
    assert sorted(row.targets[asked].tolist()) == sorted(WINNER.ids[3:])
    assert (row.position[asked] + 1).sort().values.tolist() == [3, 4, 5, 6, 7]


def test_grpo_pushes_towards_the_better_half_of_its_group():
    log_probs = torch.zeros(4, requires_grad=True)
    owner = torch.tensor([0, 0, 1, 1])
    preference.grpo_loss(log_probs, torch.zeros(4), torch.tensor([[1.0, 0.0]]), owner).backward()
    assert (log_probs.grad[:2] < 0).all() and (log_probs.grad[2:] > 0).all()
    even = preference.grpo_loss(torch.zeros(4), torch.zeros(4), torch.tensor([[1.0, 1.0]]), owner)
    assert even.item() == pytest.approx(0.0)


def test_grpo_is_the_clipped_objective_written_out():
    """Two groups of two, one token more in the first rollout; a ratio beyond the clip on the side that would gain is cut."""
    old = torch.log(torch.tensor([0.5, 0.4, 0.2, 0.3, 0.6]))
    ratios = [1.5, 1.0, 0.9, 1.1, 0.5]
    rewards, owner = torch.tensor([[1.0, 0.0], [0.0, 1.0]]), torch.tensor([0, 0, 1, 2, 3])
    advantages = [1, 1, -1, -1, 1]
    gains = [min(r * a, max(0.8, min(1.2, r)) * a) for r, a in zip(ratios, advantages, strict=True)]
    assert gains == pytest.approx([1.2, 1.0, -0.9, -1.1, 0.5])
    by_hand = -((gains[0] + gains[1]) / 2 + gains[2] + gains[3] + gains[4]) / 4
    value = preference.grpo_loss(old + torch.log(torch.tensor(ratios)), old, rewards, owner)
    assert value.item() == pytest.approx(by_hand, rel=1e-4)
