"""The step that all optimizers share: batches, groups, state, closures, compilation."""

from __future__ import annotations

import pickle
import warnings

import pytest
import torch
from torch import nn

from isometry import manifolds
from isometry.optim import Muon, NorMuon, Optimizer, RiemannianAdam, RiemannianSGD
from isometry.optim import _base as base
from tests.optim.problems import batch, flat, mixed, train


def batches_of(optimizer):
    return sorted(len(b.members) for b in optimizer._batches)


def test_parameters_of_one_kind_are_one_batch():
    net = nn.Sequential(*(nn.Linear(5, 5) for _ in range(6)))
    manifolds.constrain_(net, "stiefel", names=["0.weight", "1.weight", "2.weight"])
    optimizer = RiemannianAdam(net.parameters())
    net(torch.randn(3, 5)).sum().backward()
    optimizer.step()
    assert batches_of(optimizer) == [3, 3, 6]
    kept = optimizer._batches
    optimizer.step()
    assert optimizer._batches is kept  # nothing is gathered anew


def test_large_stacks_are_cut(monkeypatch):
    monkeypatch.setitem(base.STACK_BYTES, "cpu", 4 * 25 * 4)
    ends = []
    for limit in (4 * 25 * 4, 1 << 20):
        monkeypatch.setitem(base.STACK_BYTES, "cpu", limit)
        torch.manual_seed(0)
        net = nn.Sequential(*(nn.Linear(5, 5, bias=False) for _ in range(6)))
        manifolds.constrain_(net, "stiefel", names="*.weight")
        optimizer = RiemannianAdam(net.parameters())
        for _ in range(3):
            optimizer.zero_grad()
            ((net(torch.ones(3, 5)) - 1) ** 2).sum().backward()
            optimizer.step()
        ends.append(flat(net))
        assert batches_of(optimizer) == ([2, 4] if limit < 1000 else [6])
    assert torch.allclose(*ends, atol=1e-6)


def test_groups_with_equal_options_share_batches_and_schedules_do_not_part_them():
    ps = [nn.Parameter(torch.ones(3)) for _ in range(4)]
    optimizer = RiemannianSGD([{"params": [p]} for p in ps[:3]] + [{"params": [ps[3]], "lr": 0.5}], lr=0.1)
    scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5)
    for p in ps:
        p.grad = torch.ones(3)
    for _ in range(3):
        optimizer.step()
        kept = optimizer._batches
        scheduler.step()
    optimizer.step()
    # initial_lr, which schedulers add, parts the last group as its lr does
    assert batches_of(optimizer) == [1, 3]
    assert optimizer._batches is kept
    assert torch.allclose(ps[0].detach(), torch.full((3,), 1 - 0.1 * (1 + 0.5 + 0.25 + 0.125)))
    assert torch.allclose(ps[3].detach(), torch.full((3,), 1 - 0.5 * (1 + 0.5 + 0.25 + 0.125)))


def test_missing_gradients_are_skipped_and_counted_apart():
    a, b = (nn.Parameter(torch.zeros(2)) for _ in range(2))
    ours = RiemannianAdam([a, b], lr=0.1)
    c, d = (nn.Parameter(torch.zeros(2)) for _ in range(2))
    theirs = torch.optim.AdamW([c, d], lr=0.1, weight_decay=0.0)
    for step in range(6):
        for first, second, optimizer in ((a, b, ours), (c, d, theirs)):
            first.grad = torch.full((2,), float(step + 1))
            second.grad = torch.full((2,), -1.0) if step % 2 else None
            optimizer.step()
    assert torch.allclose(a, c)
    assert torch.allclose(b, d)
    assert [float(ours.state[p]["step"]) for p in (a, b)] == [6.0, 3.0]


def test_parameters_can_be_added_later_and_groups_can_be_empty():
    model = mixed("stiefel")
    optimizer = RiemannianSGD([{"params": model.square.parameters()}, {"params": []}], lr=0.05, momentum=0.9)
    train(model, optimizer, 3)
    before = model.tall.weight.detach().clone()
    optimizer.add_param_group({"params": model.tall.parameters(), "lr": 0.01})
    train(model, optimizer, 3)
    assert not torch.equal(model.tall.weight, before)
    assert manifolds.check(model).ok
    with pytest.raises(ValueError, match="lr must be a finite number >= 0, got -1"):
        optimizer.add_param_group({"params": model.wide.parameters(), "lr": -1})
    assert len(optimizer.param_groups) == 3


def test_learning_rates_may_be_tensors():
    ends = []
    for lr in (0.05, torch.tensor(0.05)):
        model = mixed("stiefel")
        optimizer = RiemannianAdam(model.parameters(), lr=lr, scale_lr=lr)
        train(model, optimizer, 5)
        ends.append(flat(model))
    assert torch.allclose(*ends, atol=1e-6)


def test_a_closure_is_evaluated_with_gradients():
    model = mixed("stiefel")
    optimizer = RiemannianSGD(model.parameters(), lr=0.01)
    x, y = batch()

    def closure():
        optimizer.zero_grad()
        loss = ((model(x) - y) ** 2).mean()
        loss.backward()
        return loss

    losses = [float(optimizer.step(closure).detach()) for _ in range(20)]
    assert losses[-1] < losses[0]
    assert optimizer.step() is None


def test_state_is_there_for_everyone_per_parameter():
    model = mixed("stiefel")
    optimizer = RiemannianAdam(model.parameters(), lr=0.01)
    train(model, optimizer, 2)
    state = optimizer.state[model.tall.bias]
    assert state["exp_avg"].shape == model.tall.bias.shape
    assert float(state["step"]) == 2
    # Written to in place, it counts; put there anew, it counts as well.
    bias = model.square.bias
    optimizer.state[bias]["exp_avg"].zero_()
    optimizer.state[bias]["exp_avg_sq"] = torch.full_like(bias, float("inf"))
    before = bias.detach().clone()
    train(model, optimizer, 1)
    assert torch.equal(bias, before)


def test_state_keeps_its_dtype_through_a_state_dict():
    model = mixed("stiefel", torch.bfloat16)
    optimizer = RiemannianAdam(model.parameters(), lr=0.01)
    train(model, optimizer, 3)
    other = RiemannianAdam(model.parameters(), lr=0.5)
    other.load_state_dict(optimizer.state_dict())
    for p in model.parameters():
        for name, value in optimizer.state[p].items():
            assert torch.equal(other.state[p][name], value)
            assert other.state[p][name].dtype == torch.float32
    assert other.param_groups[0]["lr"] == 0.01


def test_a_state_can_be_loaded_twice():
    """As the accelerate library does: torch adds an option to the defaults when a state is loaded."""
    p = nn.Parameter(torch.ones(3, 2))
    optimizer = RiemannianSGD([p], lr=0.1, momentum=0.9)
    saved = optimizer.state_dict()
    optimizer.load_state_dict(saved)
    optimizer.load_state_dict(saved)
    p.grad = torch.ones(3, 2)
    optimizer.step()
    assert torch.allclose(p, torch.full((3, 2), 0.9))


def test_a_master_follows_what_others_write():
    p = nn.Parameter(torch.ones(3, dtype=torch.bfloat16))
    optimizer = RiemannianSGD([p], lr=1e-4)
    for _ in range(10):
        p.grad = torch.ones(3, dtype=torch.bfloat16)
        optimizer.step()
    assert torch.allclose(optimizer.state[p]["master"], torch.full((3,), 1 - 1e-3))  # in bfloat16 1 - 1e-4 is 1
    with torch.no_grad():
        p[0] = 5.0
    optimizer.step()
    assert torch.allclose(optimizer.state[p]["master"], torch.tensor([5 - 1e-4, 1 - 1.1e-3, 1 - 1.1e-3]))


def test_an_optimizer_can_be_pickled():
    p = nn.Parameter(torch.ones(3))
    optimizer = RiemannianAdam([p], lr=0.1)
    p.grad = torch.ones(3)
    optimizer.step()
    twin = pickle.loads(pickle.dumps(optimizer))
    (q,) = twin.param_groups[0]["params"]
    q.grad = torch.ones(3)
    optimizer.step()
    twin.step()
    assert torch.equal(p, q)


def test_a_step_of_no_finite_length_is_refused():
    layer = nn.Linear(4, 4, bias=False)
    manifolds.constrain_(layer, "stiefel", names="weight", scale=1.0)
    optimizer = RiemannianSGD(layer.named_parameters(), lr=1e30)
    before = layer.weight.detach().clone()
    layer.weight.grad = torch.randn(4, 4, generator=torch.Generator().manual_seed(0)) * 1e20
    with pytest.raises(ValueError, match=r"no finite length for parameter 'weight': .*lower the learning rate"):
        optimizer.step()
    assert torch.equal(layer.weight, before)


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_a_refused_step_changes_no_batch(momentum):
    net = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 6), nn.Linear(6, 6))
    manifolds.constrain_(net, "stiefel", names="*.weight")
    optimizer = RiemannianSGD(net.named_parameters(), lr=1e6, momentum=momentum)
    before = flat(net)
    for p in net.parameters():
        p.grad = torch.randn(p.shape, generator=torch.Generator().manual_seed(0))
    net[2].weight.grad *= 1e20
    with pytest.raises(
        ValueError, match=r"for parameter '2.weight': .*lower the learning rate .* No parameter was changed"
    ):
        optimizer.step()
    assert torch.equal(flat(net), before)
    assert all(not state or float(state["step"]) == 0 for state in optimizer.state.values())
    net[2].weight.grad /= 1e20
    optimizer.step()
    assert manifolds.check(net).ok


@pytest.mark.parametrize(
    ("ours", "theirs", "lacking"),
    [
        (RiemannianAdam, torch.optim.AdamW, "second_moment, step_scale, retraction, scale_lr"),
        (RiemannianAdam, torch.optim.SGD, "betas, eps, amsgrad"),
        (RiemannianSGD, torch.optim.AdamW, "momentum, nesterov"),
        (RiemannianSGD, RiemannianAdam, "momentum, nesterov, dampening"),
    ],
)
def test_the_state_of_another_optimizer_is_refused_when_it_is_loaded(ours, theirs, lacking):
    model = mixed("stiefel")
    optimizer = ours(model.parameters(), lr=0.25)
    saved = theirs(model.parameters(), lr=0.5).state_dict()
    with pytest.raises(
        ValueError, match=rf"state_dict is not one of {ours.__name__}: its group 0 lacks {lacking}.*; load what"
    ):
        optimizer.load_state_dict(saved)
    assert optimizer.param_groups[0]["lr"] == 0.25
    train(model, optimizer, 1)


def test_a_senseless_saved_option_changes_nothing():
    optimizer = RiemannianSGD([nn.Parameter(torch.ones(2))], lr=0.25)
    saved = optimizer.state_dict()
    saved["param_groups"][0] = {**saved["param_groups"][0], "lr": -1.0}
    with pytest.raises(ValueError, match="lr must be a finite number >= 0, got -1"):
        optimizer.load_state_dict(saved)
    assert optimizer.param_groups[0]["lr"] == 0.25


def test_warnings_point_here_and_name_every_parameter_once():
    net = nn.Sequential(*(nn.Linear(5, 5, bias=False) for _ in range(4)))
    optimizer = RiemannianSGD(net.named_parameters(), lr=0.1, momentum=0.9)

    def step(change):
        for p in net.parameters():
            p.grad = torch.ones(5, 5)
        change()
        with warnings.catch_warnings(record=True) as seen:
            warnings.simplefilter("always")
            optimizer.step()
        return seen

    assert not step(lambda: None)
    (seen,) = step(lambda: manifolds.constrain_(net, "stiefel", names="*"))
    assert seen.filename == __file__
    names = "parameter '0.weight', parameter '1.weight', parameter '2.weight', parameter '3.weight'"
    assert str(seen.message).startswith(f"{names} move by another rule than before (their state has momentum_buffer)")

    def write():
        with torch.no_grad():
            for layer in net[:2]:
                layer.weight.mul_(2)

    (seen,) = step(write)
    assert seen.filename == __file__
    assert str(seen.message).startswith(
        "parameter '0.weight', parameter '1.weight' were off the manifold stiefel (defect up to"
    )


def test_a_compiled_training_step_is_compiled_once():
    model = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 2))
    manifolds.constrain_(model, "stiefel", names="0.weight")
    optimizer = RiemannianAdam(model.parameters(), lr=torch.tensor(0.01))
    x = torch.randn(8, 4)
    compiled = torch.compile(model, backend="eager")

    @torch.compile(backend="eager")
    def step():
        optimizer.step()

    torch._dynamo.reset()
    counts = []
    for _ in range(4):
        optimizer.zero_grad()
        compiled(x).square().mean().backward()
        step()
        counts.append(torch._dynamo.utils.counters["stats"]["unique_graphs"])
    assert counts[1:] == counts[1:2] * 3
    assert manifolds.check(model).ok


def test_what_knows_manifolds_says_so_and_the_base_does_not():
    assert RiemannianSGD.manifold_aware
    assert RiemannianAdam.manifold_aware
    assert not Optimizer.manifold_aware


def test_a_model_is_no_list_of_parameters():
    with pytest.raises(TypeError, match=r"params must be parameters, got a Linear; pass its named_parameters\(\)"):
        Muon(nn.Linear(2, 2))


def test_the_state_of_another_method_for_matrices_is_told_by_its_options():
    parameters = [nn.Parameter(torch.ones(2, 2))]
    with pytest.raises(ValueError, match="state_dict is not one of Muon: its group 0 has beta2, norm;"):
        Muon(parameters).load_state_dict(NorMuon(parameters).state_dict())
