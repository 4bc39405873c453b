"""VRPO and JustGRPO by small examples, and what sharing masks buys."""

import math

import pytest
import torch
from test_objectives import END, MASK, PAD, TURNS, generator, tiny_model

from dllm_agents.training import objectives, preference
from dllm_agents.training.objectives import Example

WINNER = Example.exchange([10, 11, 12], [20, 21, 22, 23, END])
LOSER = Example.exchange([10, 11, 12], [24, 25, 26, 27, END])


def estimates(model, examples, seed, samples=2):
    rows = preference.draw(examples, MASK, END, 4, samples, generator(seed))
    with torch.no_grad():
        return preference.elbo(model, rows, "block_causal", PAD)


def test_the_elbo_is_the_mean_of_its_draws():
    model = tiny_model()
    rows = preference.draw([WINNER, TURNS], MASK, END, 4, 3, generator(0))
    with torch.no_grad():
        together = preference.elbo(model, rows, "block_causal", PAD)
        for example, draws in zip(together, rows, strict=True):
            alone = [objectives.collate([row], "block_causal", PAD) for row in draws]
            by_hand = -sum(objectives.token_losses(objectives.logits_of(model, batch), batch).sum() for batch in alone) / 3
            assert example.item() == pytest.approx(by_hand.item(), rel=1e-4)


def test_vrpo_is_dpo_on_elbo_differences():
    policy, reference = torch.tensor([[-3.0, -5.0]]), torch.tensor([[-4.0, -4.5]])
    by_hand = -math.log(1 / (1 + math.exp(-0.1 * ((-3 + 4) - (-5 + 4.5)))))
    assert preference.vrpo_loss(policy, reference, beta=0.1).item() == pytest.approx(by_hand, rel=1e-6)
    scaled = preference.vrpo_loss(policy, reference, 0.1, lengths=torch.tensor([[2.0, 4.0]])).item()
    assert scaled == pytest.approx(-math.log(1 / (1 + math.exp(-0.1 * (1 / 2 + 0.5 / 4)))), rel=1e-6)


def test_a_policy_equal_to_its_reference_has_no_preference_whatever_was_drawn():
    model = tiny_model()
    for seed in range(3):
        policy, reference = estimates(model, [WINNER, LOSER], seed), estimates(model, [WINNER, LOSER], seed)
        assert preference.vrpo_loss(policy[None], reference[None], 0.1).item() == pytest.approx(math.log(2), rel=1e-6)


def test_shared_masks_vary_less():
    reference, policy = tiny_model(), tiny_model()
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter.add_(0.02 * torch.randn(parameter.shape, generator=generator(9)))

    def score(policy_seed, reference_seed):
        gain = estimates(policy, [WINNER, LOSER], policy_seed) - estimates(reference, [WINNER, LOSER], reference_seed)
        return (gain[0] - gain[1]).item()

    shared = torch.tensor([score(seed, seed) for seed in range(16)]).var()
    separate = torch.tensor([score(seed, 1000 + seed) for seed in range(16)]).var()
    assert shared < separate / 10


def test_one_gradient_step_prefers_the_winner():
    policy, reference = tiny_model(), tiny_model()
    rows = preference.draw([WINNER, LOSER], MASK, END, 4, 2, generator(0))
    with torch.no_grad():
        fixed = preference.elbo(reference, rows, "block_causal", PAD)[None]
    optimiser = torch.optim.SGD(policy.parameters(), lr=0.1)
    losses = []
    for _ in range(3):
        value = preference.vrpo_loss(preference.elbo(policy, rows, "block_causal", PAD)[None], fixed, beta=0.1)
        optimiser.zero_grad()
        value.backward()
        optimiser.step()
        losses.append(value.item())
    assert losses[2] < losses[1] < losses[0]


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
