"""The loop: going on after a kill, and the same step whoever shares the work."""

import os
import signal
import socket

import pytest
import torch

from dllm_agents.training import objectives
from dllm_agents.training.loop import fit
from dllm_agents.training.objectives import Example
from dllm_agents.training.optimiser import Muon, orthogonalise, rate_fraction

SETTINGS = {"learning_rate": 1e-2, "muon_learning_rate": 0.02, "warmup": 0.1, "clip": 1.0}


def new_model():
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    heads = {"num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 2}
    return LlamaForCausalLM(LlamaConfig(vocab_size=40, hidden_size=16, intermediate_size=32, tie_word_embeddings=True, **heads))


def batch_at(index: int):
    generator = torch.Generator().manual_seed(index)
    ids = torch.randint(3, 40, (2, 10), generator=generator).tolist()
    rows = [objectives.block_diffusion(Example.exchange(row[:4], [*row[4:], 1]), 2, 1, 4, generator) for row in ids]
    return objectives.collate(rows, "block_causal", 0).normalised()


def weights(model):
    return torch.cat([parameter.detach().flatten() for parameter in model.parameters()])


def test_a_killed_run_goes_on_to_the_same_weights(tmp_path, monkeypatch):
    monkeypatch.setattr("dllm_agents.training.loop.SAVE_EVERY", 5)
    state = tmp_path / "state"
    whole = new_model()
    uninterrupted = fit(whole, batch_at, 400, **SETTINGS)
    killed_at = uninterrupted.steps - 3

    child = os.fork()
    if child == 0:
        fit(new_model(), lambda i: os.kill(os.getpid(), signal.SIGKILL) if i == killed_at else batch_at(i), 400, state=state, **SETTINGS)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    assert state.is_dir(), "the last saved state is what the kill leaves"

    asked = []
    model = new_model()
    run = fit(model, lambda i: asked.append(i) or batch_at(i), 400, state=state, **SETTINGS)
    assert min(asked) >= 5, "saved steps are not run again"
    assert torch.equal(weights(model), weights(whole))
    assert (run.steps, run.supervised_tokens, run.loss_curve) == (uninterrupted.steps, 400, uninterrupted.loss_curve)
    assert not state.exists()


def test_a_state_of_other_settings_is_not_continued(tmp_path, monkeypatch):
    monkeypatch.setattr("dllm_agents.training.loop.SAVE_EVERY", 2)

    def stop(index):
        if index == 5:
            raise KeyboardInterrupt
        return batch_at(index)

    with pytest.raises(KeyboardInterrupt):
        fit(new_model(), stop, 400, state=tmp_path / "state", fingerprint="one", **SETTINGS)
    asked = []
    fit(new_model(), lambda i: asked.append(i) or batch_at(i), 100, state=tmp_path / "state", fingerprint="other", **SETTINGS)
    assert min(asked) == 0


def test_two_processes_equal_one_with_twice_the_accumulation(tmp_path):
    alone = new_model()
    fit(alone, batch_at, 150, accumulate=2, **SETTINGS)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    children = [fork_worker(rank, port, tmp_path / f"{rank}.pt") for rank in (0, 1)]
    assert [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children] == [0, 0]
    for rank in (0, 1):
        assert torch.allclose(torch.load(tmp_path / f"{rank}.pt"), weights(alone), atol=1e-5)


def fork_worker(rank: int, port: int, path) -> int:
    """A process of a gloo group of two that trains and leaves its weights. Forked, so that it imports nothing again."""
    child = os.fork()
    if child:
        return child
    failed = 1
    try:
        from accelerate.state import AcceleratorState

        AcceleratorState._reset_state(True)
        group = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": 2, "RANK": rank, "LOCAL_RANK": rank}
        os.environ.update({key: str(value) for key, value in group.items()}, ACCELERATE_USE_CPU="true")
        model = new_model()
        fit(model, batch_at, 150, **SETTINGS)
        torch.save(weights(model), path)
        failed = 0
    finally:
        os._exit(failed)


def test_the_weights_of_the_lowest_validation_loss_are_kept(tmp_path):
    """One batch learnt by heart: the loss of another one goes up again, and the best weights are not the last."""
    checks, found = [batch_at(1000)], {}
    for keep in ("last", "best"):
        model = new_model()
        run = fit(model, lambda index: batch_at(0), 1200, checks=checks, keep=keep, **SETTINGS)
        curve = [loss for _, loss in run.validation_curve]
        with torch.no_grad():
            found[keep] = round(sum(check.loss(model).item() for check in checks), 4)
    assert found["best"] == pytest.approx(min(curve), abs=1e-3) and found["last"] == pytest.approx(curve[-1], abs=1e-3)
    assert found["best"] < found["last"]


def test_a_loss_that_is_not_finite_names_its_batch_and_leaves_good_weights(tmp_path):
    from safetensors.torch import load_file

    from dllm_agents.errors import StageError

    def broken(index):
        batch = batch_at(index)
        if index == 4:
            batch.weights[:] = float("nan")
        return batch

    model = new_model()
    with pytest.raises(StageError, match=r"loss is nan at step 5, batch number 4: .*good weights are in"):
        fit(model, broken, 400, state=tmp_path / "state", describe=lambda number: f"number {number}", **SETTINGS)
    kept = load_file(tmp_path / "state/state.safetensors")
    assert all(tensor.isfinite().all() for tensor in kept.values())
    before = new_model()
    fit(before, batch_at, sum(batch_at(index).supervised for index in range(4)), **SETTINGS)
    assert kept["model.model.norm.weight"].shape == before.model.norm.weight.shape


def test_every_step_is_told_to_the_scalar_writer():
    seen = {}
    run = fit(new_model(), batch_at, 200, checks=[batch_at(99)], scalars=lambda step, values: seen.update({step: values}), **SETTINGS)
    assert list(seen) == list(range(1, run.steps + 1))
    assert {"loss", "gradient_norm", "learning_rate", "tokens_per_second"} <= set(seen[1])
    assert seen[run.steps]["validation_loss"] == run.validation_curve[-1][1]


def test_muon_updates_are_nearly_orthogonal():
    for shape in ((3, 8, 8), (2, 4, 16), (2, 16, 4)):
        values = torch.linalg.svdvals(orthogonalise(torch.randn(shape, generator=torch.Generator().manual_seed(0))))
        assert (values > 0.3).all() and (values < 1.3).all()
    parameter = torch.nn.Parameter(torch.zeros(4, 4))
    parameter.grad = torch.eye(4)
    Muon([parameter], lr=0.1).step()
    assert torch.allclose(parameter.diag(), torch.full((4,), -0.1), atol=0.04)


def test_muon_iterates_as_published_in_either_form():
    """Against the iteration as Jordan et al. write it, in double precision; wide, square, tall, of low rank and all zero."""

    def published(x):
        x = x / x.norm().clamp(min=1e-7)
        for _ in range(5):
            gram = x @ x.T
            x = 3.4445 * x + (-4.7750 * gram + 2.0315 * gram @ gram) @ x
        return x

    generator = torch.Generator().manual_seed(1)
    low = torch.randn(12, 2, generator=generator) @ torch.randn(2, 40, generator=generator)
    drawn = [torch.randn(shape, generator=generator) for shape in ((12, 40), (40, 12), (12, 12), (12, 17), (12, 18), (1, 8))]
    for matrix in (*drawn, low, 1e-9 * drawn[0], torch.zeros(12, 40)):
        wide = matrix if matrix.shape[0] <= matrix.shape[1] else matrix.T
        expected = published(wide.double()).float()
        torch.testing.assert_close(
            orthogonalise(matrix[None])[0], expected if wide is matrix else expected.T, atol=2e-5, rtol=1e-4, msg=str(matrix.shape)
        )
    # Half precision loses what is small beside the largest: not more than the published form does.
    spread = torch.linalg.qr(drawn[1])[0].T * torch.logspace(0, -4, 12)[:, None]
    exact = published(spread.double())
    error = (orthogonalise(spread[None].bfloat16())[0] - exact).norm() / exact.norm()
    assert error < 2 * (published(spread.bfloat16()) - exact).norm() / exact.norm()


def test_the_rate_warms_up_and_falls_to_zero():
    assert rate_fraction(0.0, 0.1) == pytest.approx(1 / 11)
    assert rate_fraction(0.1, 0.1) == pytest.approx(1.0)
    assert rate_fraction(0.55, 0.1) == pytest.approx(0.5)
    assert rate_fraction(1.0, 0.1) == pytest.approx(0.0)


def test_training_ends_twice_as_late_as_it_has_learnt():
    """The rates stay high until the measure says so, and fall to nothing at the end, which comes before the budget."""
    rates, told = [], iter([0.1, 0.5, 0.98])
    measure = lambda: next(told, 1.0)  # noqa: E731
    run = fit(new_model(), batch_at, 4000, measure=measure, learnt=0.97, scalars=lambda step, values: rates.append(values), **SETTINGS)
    assert run.learnt_at is not None and run.supervised_tokens == 2 * run.learnt_at < 4000
    high = [values["learning_rate"] for values in rates if 480 < values["supervised_tokens"] <= run.learnt_at]
    assert high and set(high) == {1e-2}
    assert rates[-1]["learning_rate"] < 1e-3

    never = fit(new_model(), batch_at, 1000, measure=lambda: 0.0, learnt=0.97, **SETTINGS)
    assert never.learnt_at is None and never.supervised_tokens == 1000 and never.accuracy_curve[-1][1] == 0.0
