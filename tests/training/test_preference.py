"""VRPO and JustGRPO by small examples, and what sharing masks buys."""

import math

import pytest
import torch
from test_objectives import END, MASK, PAD, TURNS, generator, tiny_model

from dllm_agents.training import objectives, preference
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
                by_hand -= objectives.token_losses(objectives.logits_of(model, alone), alone).sum().item()
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


def test_sequential_rows_show_each_token_what_left_to_right_decoding_shows():
    rows = preference.sequential_rows(WINNER, MASK, END, 4)
    assert len(rows) == 5
    assert rows[0].ids.tolist() == [10, 11, 12, MASK]
    assert rows[2].ids.tolist() == [10, 11, 12, 20, 21, MASK, MASK, MASK]
    assert [row.targets[row.targets != objectives.IGNORE].tolist() for row in rows] == [[20], [21], [22], [23], [END]]


def test_grpo_pushes_towards_the_better_half_of_its_group():
    log_probs = torch.zeros(4, requires_grad=True)
    owner = torch.tensor([0, 0, 1, 1])
    preference.grpo_loss(log_probs, torch.zeros(4), torch.tensor([1.0, 0.0]), owner).backward()
    assert (log_probs.grad[:2] < 0).all() and (log_probs.grad[2:] > 0).all()
    even = preference.grpo_loss(torch.zeros(4), torch.zeros(4), torch.tensor([1.0, 1.0]), owner)
    assert even.item() == pytest.approx(0.0)
