"""The Riemannian optimizers against the textbook, torch's own optimizers, and the symmetries that they must have."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from isometry import manifolds
from isometry.manifolds import Oblique, Stiefel
from isometry.optim import RiemannianAdam, RiemannianSGD
from tests.optim import textbook

MAKERS = {
    "square": lambda: nn.Linear(6, 6, bias=False),
    "tall": lambda: nn.Linear(4, 9, bias=False),
    "wide": lambda: nn.Linear(9, 4, bias=False),
    "one row": lambda: nn.Linear(7, 1, bias=False),
    "one column": lambda: nn.Linear(1, 7, bias=False),
    "conv": lambda: nn.Conv2d(3, 5, 2, bias=False),
    "grouped conv": lambda: nn.Conv1d(4, 6, 3, groups=2, bias=False),
}


def gen(seed=0):
    return torch.Generator().manual_seed(seed)


def layer(shape, manifold="stiefel", scale=1.0, dtype=torch.float64, seed=0):
    torch.manual_seed(seed)
    module = MAKERS[shape]().to(dtype)
    manifolds.constrain_(module, manifold, names="weight", scale=scale)
    return module, manifolds.constraint_of(module.weight)


def slope_of(constraint, seed=1):
    """The gradient of |H * (W - T)|^2 / 2 for a fixed target and weights, entry by entry; in the upright layout too."""
    target = torch.randn(constraint.shape, generator=gen(seed), dtype=torch.float64)
    weights = 0.5 + torch.rand(constraint.shape, generator=gen(seed + 1), dtype=torch.float64)
    upright = [constraint.matrix(t) for t in (target, weights)]
    return (
        lambda w: (weights * (w.double() - target)).to(w.dtype),
        lambda w, i: upright[1][i] * (w - upright[0][i]),
    )


def run(module, optimizer, slope, steps):
    for _ in range(steps):
        module.weight.grad = slope(module.weight.detach())
        optimizer.step()


def upright_start(constraint):
    weight = constraint.parameter.detach().double().clone()
    return list(constraint.matrix(weight)), float(constraint.scale())


SGD_OPTIONS = {
    "plain": {},
    "momentum": {"momentum": 0.9},
    "damped": {"momentum": 0.8, "dampening": 0.3},
    "nesterov": {"momentum": 0.9, "nesterov": True},
}
ADAM_OPTIONS = {
    "plain": {},
    "amsgrad": {"amsgrad": True, "betas": (0.8, 0.9)},
    "columns": {"second_moment": "per-column"},
    "rows": {"step_scale": "rows"},
}
DTYPES = {"float64": (torch.float64, 1e-10), "float32": (torch.float32, 1e-6)}


@pytest.mark.parametrize(
    ("lr", "metric"), [(1e-4, "embedded"), (3e-3, "embedded"), (0.07, "embedded"), (0.02, "canonical")]
)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("options", SGD_OPTIONS)
@pytest.mark.parametrize("shape", ["square", "tall", "wide", "conv"])
def test_sgd_is_the_textbook_one(shape, options, dtype, metric, lr):
    kind, tolerance = DTYPES[dtype]
    module, constraint = layer(shape, Stiefel(metric), dtype=kind)
    slope, upright_slope = slope_of(constraint)
    (start,), s = upright_start(constraint)
    lr = lr * (1 - SGD_OPTIONS[options].get("momentum", 0))  # comparable steps
    run(module, RiemannianSGD(module.parameters(), lr=lr, **SGD_OPTIONS[options]), slope, 25)
    wanted = textbook.sgd(
        start, s, lambda w: upright_slope(w, 0), steps=25, lr=lr, metric=metric, **SGD_OPTIONS[options]
    )
    assert float((constraint.matrix(module.weight.detach().double())[0] - wanted).abs().max()) < tolerance


@pytest.mark.parametrize(("lr", "metric"), [(1e-3, "embedded"), (0.2, "embedded"), (0.03, "canonical")])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("options", ADAM_OPTIONS)
@pytest.mark.parametrize("shape", ["square", "tall", "wide", "conv"])
def test_adam_is_the_textbook_one(shape, options, dtype, metric, lr):
    kind, tolerance = DTYPES[dtype]
    module, constraint = layer(shape, Stiefel(metric), dtype=kind)
    slope, upright_slope = slope_of(constraint)
    (start,), s = upright_start(constraint)
    given = dict(ADAM_OPTIONS[options])
    run(module, RiemannianAdam(module.parameters(), lr=lr, **given), slope, 25)
    factor = (start.numel() / start.shape[1]) ** 0.5 if given.pop("step_scale", None) else 1.0
    columns = given.pop("second_moment", None) == "per-column"
    wanted = textbook.adam(
        start,
        s,
        lambda w: upright_slope(w, 0),
        steps=25,
        lr=lr,
        metric=metric,
        factor=factor,
        columns=columns,
        **given,
    )
    # Adam's first steps have a fixed length whatever the gradient, so rounding is not damped.
    assert float((constraint.matrix(module.weight.detach().double())[0] - wanted).abs().max()) < 3 * tolerance


@pytest.mark.parametrize("scale", [0.25, 3.0, "learned"])
@pytest.mark.parametrize("shape", ["square", "tall"])
@pytest.mark.parametrize("method", ["sgd", "adam"])
def test_scales_are_part_of_the_algorithm(method, shape, scale):
    module, constraint = layer(shape, scale=scale)
    slope, upright_slope = slope_of(constraint)
    (start,), s = upright_start(constraint)
    learned = {"scale_lr": 0.02} if scale == "learned" else {}
    if method == "sgd":
        optimizer = RiemannianSGD(module.parameters(), lr=0.02, momentum=0.7, nesterov=True, **learned)
        wanted = textbook.sgd(
            start, s, lambda w: upright_slope(w, 0), steps=30, lr=0.02, momentum=0.7, nesterov=True, **learned
        )
    else:
        optimizer = RiemannianAdam(module.parameters(), lr=0.02, amsgrad=True, **learned)
        wanted = textbook.adam(start, s, lambda w: upright_slope(w, 0), steps=30, lr=0.02, amsgrad=True, **learned)
    run(module, optimizer, slope, 30)
    assert torch.allclose(constraint.matrix(module.weight.detach())[0], wanted, atol=1e-10)
    if scale == "learned":
        assert abs(float(constraint.scale()) - s) > 0.05
    else:
        assert float(constraint.scale()) == s


def test_matrices_of_a_group_are_independent_and_share_a_scale():
    module, constraint = layer("grouped conv")
    slope, upright_slope = slope_of(constraint)
    starts, s = upright_start(constraint)
    assert len(starts) == 2
    run(module, RiemannianSGD(module.parameters(), lr=0.1, momentum=0.9), slope, 10)
    for i, (start, got) in enumerate(zip(starts, constraint.matrix(module.weight.detach()), strict=True)):
        wanted = textbook.sgd(start, s, lambda w, i=i: upright_slope(w, i), steps=10, lr=0.1, momentum=0.9)
        assert torch.allclose(got, wanted, atol=1e-10)


@pytest.mark.parametrize("method", [RiemannianSGD, RiemannianAdam])
@pytest.mark.parametrize("retraction", ["auto", "qr", "cayley", "newton-schulz"])
def test_every_retraction_solves_procrustes(method, retraction):
    """max tr(T^T W) over orthonormal columns is attained at the polar factor of T, and nowhere else."""
    module, _ = layer("tall")
    target = torch.randn(9, 4, generator=gen(), dtype=torch.float64)
    optimizer = method(module.parameters(), lr=0.1, retraction=retraction)
    if method is RiemannianAdam:
        optimizer.param_groups[0]["betas"] = (0.9, 0.9)  # forgets the long gradients of the start
    for lr in (0.1, 0.03, 0.01, 0.003, 0.001, 0.0003):
        optimizer.param_groups[0]["lr"] = lr if method is RiemannianAdam else 0.1
        run(module, optimizer, lambda w: -target, 60)
    # Adam circles the minimum at a distance of about its last learning rate.
    assert torch.allclose(module.weight.detach(), textbook.polar(target), atol=2e-3)
    assert manifolds.check(module).ok


@pytest.mark.parametrize("length", [0.5, 3.0, 200.0])
@pytest.mark.parametrize("shape", ["square", "tall", "wide"])
def test_one_long_step_is_the_textbook_one(shape, length):
    module, constraint = layer(shape)
    slope, upright_slope = slope_of(constraint)
    (start,), s = upright_start(constraint)
    run(module, RiemannianSGD(module.parameters(), lr=length, momentum=0.5, nesterov=True), slope, 1)
    wanted = textbook.sgd(start, s, lambda w: upright_slope(w, 0), steps=1, lr=length, momentum=0.5, nesterov=True)
    # Rounding is relative to the step, and turned by it.
    assert torch.allclose(constraint.matrix(module.weight.detach())[0], wanted, atol=1e-12 * max(1, length**2))
    assert manifolds.check(module).ok


def test_an_oblique_weight_moves_column_by_column():
    module, constraint = layer("tall", Oblique())
    slope, upright_slope = slope_of(constraint)
    (start,), _ = upright_start(constraint)
    run(module, RiemannianAdam(module.parameters(), lr=0.05), slope, 20)
    # Each column is a sphere of its own, and a sphere is a Stiefel manifold with one column.
    for j in range(start.shape[1]):
        wanted = textbook.adam(
            start[:, j : j + 1],
            1.0,
            lambda w, j=j: upright_slope(w.expand(-1, start.shape[1]), 0)[:, j : j + 1],
            steps=20,
            lr=0.05,
        )
        assert torch.allclose(constraint.matrix(module.weight.detach())[0][:, j : j + 1], wanted, atol=1e-10)


@pytest.mark.parametrize("shape", ["square", "tall", "wide", "conv"])
@pytest.mark.parametrize("method", [RiemannianSGD, RiemannianAdam])
def test_turning_the_problem_turns_the_trajectory(method, shape):
    """With f(W) replaced by f(O^T W) and W_0 by O W_0, the iterates are O W_t."""
    turn = textbook.polar(torch.randn(9, 9, generator=gen(5), dtype=torch.float64))
    ends = []
    for turned in (False, True):
        module, constraint = layer(shape)
        slope, _ = slope_of(constraint)
        rows = module.weight.shape[0]
        o = turn[:rows, :rows]
        o = textbook.polar(o) if turned else torch.eye(rows, dtype=torch.float64)

        def turned_slope(w, o=o, slope=slope):
            flat = o.T @ w.flatten(1)
            return (o @ slope(flat.view_as(w)).flatten(1)).view_as(w)

        with torch.no_grad():
            module.weight.copy_((o @ module.weight.flatten(1)).view_as(module.weight))
        run(module, method(module.parameters(), lr=0.05), turned_slope, 15)
        ends.append(o.T @ module.weight.detach().flatten(1))
    assert torch.allclose(*ends, atol=1e-10)


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (
            lambda p: RiemannianSGD(p, lr=0.05, momentum=0.9, nesterov=True, weight_decay=0.1),
            lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9, nesterov=True, weight_decay=0.1),
        ),
        (
            lambda p: RiemannianSGD(p, lr=0.05, momentum=0.9, dampening=0.2, maximize=True),
            lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9, dampening=0.2, maximize=True),
        ),
        (lambda p: RiemannianSGD(p, lr=0.05), lambda p: torch.optim.SGD(p, lr=0.05)),
        (
            lambda p: RiemannianAdam(p, lr=0.01, weight_decay=0.1, betas=(0.8, 0.95)),
            lambda p: torch.optim.AdamW(p, lr=0.01, weight_decay=0.1, betas=(0.8, 0.95)),
        ),
        (
            lambda p: RiemannianAdam(p, lr=0.01, amsgrad=True, eps=1e-3),
            lambda p: torch.optim.AdamW(p, lr=0.01, amsgrad=True, eps=1e-3, weight_decay=0.0),
        ),
    ],
)
def test_ordinary_parameters_move_as_under_torch(ours, theirs):
    ends = []
    for make in (ours, theirs):
        torch.manual_seed(0)
        net = nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 7), nn.Tanh(), nn.Linear(7, 3))
        net.register_parameter("raw", nn.Parameter(torch.tensor(0.3)))
        x = torch.randn(16, 5, generator=gen())
        optimizer = make(net.parameters())
        for _ in range(30):
            optimizer.zero_grad()
            (net(x * net.raw) ** 2).mean().backward()
            optimizer.step()
        ends.append(torch.cat([p.detach().flatten() for p in net.parameters()]))
    assert torch.allclose(*ends, atol=1e-6)


@pytest.mark.parametrize("scale", [1.0, 0.3, "learned"])
@pytest.mark.parametrize("shape", MAKERS)
@pytest.mark.parametrize("method", [RiemannianSGD, RiemannianAdam])
def test_a_zero_gradient_changes_nothing_to_the_bit(method, shape, scale):
    module, _ = layer(shape, scale=scale, dtype=torch.float32)
    before = module.weight.detach().clone()
    optimizer = method(module.parameters(), lr=0.1)
    for _ in range(40):  # looks at the drift included
        module.weight.grad = torch.zeros_like(module.weight)
        optimizer.step()
    assert torch.equal(module.weight, before)


def test_a_learning_rate_of_zero_keeps_the_weight_and_gathers_momentum():
    module, constraint = layer("square")
    slope, _ = slope_of(constraint)
    before = module.weight.detach().clone()
    optimizer = RiemannianAdam(module.parameters(), lr=0.0)
    run(module, optimizer, slope, 3)
    assert torch.equal(module.weight, before)
    assert float(optimizer.state[module.weight]["exp_avg_body"].abs().max()) > 0


def test_a_learning_rate_means_the_same_at_every_scale():
    """f(W / s) is the same function of Q, so Q's path is the same, though W's gradient is 1 / s times as large."""
    ends = []
    for s in (1.0, 8.0):
        module, constraint = layer("square", scale=s)
        slope, _ = slope_of(constraint)
        run(module, RiemannianSGD(module.parameters(), lr=0.1, momentum=0.5), lambda w, s=s, f=slope: f(w / s) / s, 20)
        ends.append(module.weight.detach() / s)
    assert torch.allclose(*ends, atol=1e-12)


@pytest.mark.parametrize("shape", ["square", "tall"])
@pytest.mark.parametrize(
    "make",
    [
        lambda p: RiemannianSGD(p, lr=1e-4, momentum=0.9),  # steps of 0.02 radians
        lambda p: RiemannianSGD(p, lr=0.03),  # of 2 radians
        lambda p: RiemannianAdam(p, lr=1e-4),  # so small that most go straight on
        lambda p: RiemannianAdam(p, lr=1e-2, second_moment="per-column"),
    ],
)
def test_a_thousand_steps_leave_no_drift(make, shape):
    torch.manual_seed(0)
    module = nn.Linear(60, 60, bias=False) if shape == "square" else nn.Linear(40, 60, bias=False)
    manifolds.constrain_(module, "stiefel", names="weight", scale=1.3)
    optimizer = make(module.parameters())
    source = gen()
    for _ in range(1000):
        module.weight.grad = torch.randn(module.weight.shape, generator=source)
        optimizer.step()
    assert manifolds.check(module)["weight"].max_abs < 3e-6


def test_small_steps_in_one_direction_do_not_add_their_roundings_up():
    """What is rounded alike in every step grows in proportion to their number; the regular look takes it away."""
    torch.manual_seed(0)
    module = nn.Linear(64, 64, bias=False)
    manifolds.constrain_(module, "stiefel", names="weight", scale=1.0)
    optimizer = RiemannianSGD(module.parameters(), lr=1e-6)
    gradient = torch.randn(64, 64, generator=gen())
    for _ in range(100):
        module.weight.grad = gradient
        optimizer.step()
        assert manifolds.check(module).ok


@pytest.mark.parametrize("method", [RiemannianSGD, RiemannianAdam])
def test_the_rounding_of_long_gradients_does_not_add_up(method):
    """A gradient normal to the manifold leaves a tangent part of its rounding alone, which is not tangent at all."""
    module, _ = layer("tall")
    direction = torch.randn(4, 4, generator=gen(), dtype=torch.float64)
    optimizer = method(module.parameters(), lr=1.0 if method is RiemannianSGD else 1e-9)
    for _ in range(15):
        module.weight.grad = 1e3 * module.weight.detach() @ (direction + direction.T)
        optimizer.step()
        assert manifolds.check(module).ok


def test_a_large_step_still_ends_on_the_manifold():
    for shape in ("square", "tall"):
        module, constraint = layer(shape, dtype=torch.float32)
        slope, _ = slope_of(constraint)
        run(module, RiemannianSGD(module.parameters(), lr=300.0), slope, 1)
        run(module, RiemannianSGD(module.parameters(), lr=0.0), slope, 1)
        assert manifolds.check(module).ok


@pytest.mark.parametrize("momentum", [0.0, 0.9])
@pytest.mark.parametrize("lr", [0.03, 0.2, 1.0, 3e3, 1e4, 1e5, 1e9])
@pytest.mark.parametrize("shape", [(64, 64), (20, 64), (64, 20)])
def test_steps_of_every_length_stay_on_the_manifold(shape, lr, momentum):
    torch.manual_seed(0)
    net = nn.Sequential(*(nn.Linear(*shape, bias=False) for _ in range(2)))
    manifolds.constrain_(net, "stiefel", names="*", scale=1.3)
    optimizer = RiemannianSGD(net.parameters(), lr=lr, momentum=momentum)
    for _ in range(15):
        for p in net.parameters():
            p.grad = torch.randn_like(p)
        optimizer.step()
        assert manifolds.check(net).ok


@pytest.mark.parametrize("shape", [(64, 64), (20, 64), (64, 20)])
@pytest.mark.parametrize("length", [0.3, 0.4, 0.5, 0.7, 1.0, 2.0, 2.8, 5.0, 20.0, 80.0, 500.0])
def test_long_steps_in_few_directions_stay_on_the_manifold(length, shape):
    """Rounding is then in proportion to the square of the step, in all other directions too."""
    torch.manual_seed(0)
    module = nn.Linear(*shape, bias=False)
    manifolds.constrain_(module, "stiefel", names="weight", scale=1.0)
    optimizer = RiemannianSGD(module.parameters(), lr=1.0)
    for _ in range(40):
        gradient = torch.randn(shape[1], 1) @ torch.randn(1, shape[0])
        module.weight.grad = length * gradient / gradient.norm()
        optimizer.step()
        assert manifolds.check(module).ok


@pytest.mark.parametrize("shape", [(12, 12), (8, 12), (12, 8)])
@pytest.mark.parametrize("momentum", [0.0, 0.6])
def test_very_long_steps_are_those_of_float64(shape, momentum):
    """Where S = V^T V cannot be had in float32, the step is still the polar retraction and the transport."""
    ends = []
    for dtype in (torch.float32, torch.float64):
        torch.manual_seed(0)
        module = nn.Linear(*shape, bias=False)
        manifolds.constrain_(module, "stiefel", names="weight", scale=1.0)
        manifolds.constrain_(module.to(dtype), "stiefel", names="weight", scale=1.0)
        optimizer = RiemannianSGD(module.parameters(), lr=1e4, momentum=momentum)
        for step in range(2):
            optimizer.param_groups[0]["lr"] = (1e4, 1e-2)[step]
            module.weight.grad = torch.randn(module.weight.shape, generator=gen(step)).to(dtype)
            optimizer.step()
        ends.append(module.weight.detach().double())
    assert torch.allclose(*ends, atol=1e-4)


@pytest.mark.parametrize("retraction", ["cayley", "qr", "newton-schulz"])
def test_other_retractions_do_not_drift(retraction):
    torch.manual_seed(0)
    module = nn.Linear(16, 16, bias=False)
    manifolds.constrain_(module, "stiefel", names="weight")
    optimizer = RiemannianSGD(module.parameters(), lr=0.05, retraction=retraction)
    source = gen()
    for _ in range(1500):
        noise = torch.randn(16, 16, generator=source)
        module.weight.grad = module.weight.detach() - 0.3 * torch.eye(16) + 0.1 * noise
        optimizer.step()
    assert manifolds.check(module).ok


def test_a_retraction_that_cannot_make_a_step_refuses_it_by_name():
    module, _ = layer("tall")
    optimizer = RiemannianSGD(module.named_parameters(), lr=100.0, retraction="newton-schulz")
    before = module.weight.detach().clone()
    with pytest.raises(ValueError, match=r"retraction 'newton-schulz' refuses the step .* for parameter 'weight'"):
        run(module, optimizer, lambda w: torch.randn(w.shape, generator=gen(), dtype=w.dtype), 1)
    assert torch.equal(module.weight, before)


def test_a_run_goes_on_to_the_bit_after_loading_and_constraining():
    """Weights that are on the manifold are left as they are, so the order does not matter where s is given."""
    for dtype in (torch.float32, torch.bfloat16, torch.float64):
        module, constraint = layer("square", scale=1.7, dtype=dtype)
        slope, _ = slope_of(constraint)
        optimizer = RiemannianAdam(module.parameters(), lr=0.05)
        run(module, optimizer, slope, 12)
        saved = copy.deepcopy((module.state_dict(), optimizer.state_dict(), constraint.scale()))
        run(module, optimizer, slope, 12)
        for load_first in (True, False):
            other = MAKERS["square"]().to(dtype)
            if load_first:
                other.load_state_dict(saved[0])
            manifolds.constrain_(other, "stiefel", names="weight", scale=saved[2])
            if not load_first:
                other.load_state_dict(saved[0])
            resumed = RiemannianAdam(other.parameters(), lr=0.05)
            resumed.load_state_dict(saved[1])
            run(other, resumed, slope, 12)
            assert torch.equal(other.weight, module.weight)


def test_maximize_is_minimizing_the_opposite():
    ends = []
    for sign, options in ((1.0, {}), (-1.0, {"maximize": True})):
        module, constraint = layer("square")
        slope, _ = slope_of(constraint)
        run(module, RiemannianAdam(module.parameters(), lr=0.1, **options), lambda w, s=sign, f=slope: s * f(w), 5)
        ends.append(module.weight.detach())
    assert torch.equal(*ends)


def test_constraining_and_releasing_in_mid_run():
    torch.manual_seed(0)
    module = nn.Linear(5, 5, bias=False).double()
    optimizer = RiemannianSGD(module.named_parameters(), lr=0.1, momentum=0.9)
    run(module, optimizer, torch.ones_like, 2)
    manifolds.constrain_(module, "stiefel", names="weight")
    with pytest.warns(UserWarning, match=r"parameter 'weight' moves by another rule than before .*state begins anew"):
        run(module, optimizer, torch.ones_like, 2)
    assert manifolds.check(module).ok
    assert "momentum_buffer" not in optimizer.state[module.weight]
    manifolds.release(module)
    with pytest.warns(UserWarning, match=r"its state has defect, momentum_body"):
        run(module, optimizer, torch.ones_like, 2)
    assert set(optimizer.state[module.weight]) == {"step", "momentum_buffer"}


def test_a_copied_optimizer_without_its_model_says_that_constraints_are_gone():
    module, constraint = layer("square")
    slope, _ = slope_of(constraint)
    optimizer = RiemannianSGD(module.parameters(), lr=0.1)
    run(module, optimizer, slope, 1)
    both = copy.deepcopy((module, optimizer))
    run(*both, slope, 2)
    assert manifolds.check(both[0]).ok
    alone = copy.deepcopy(optimizer)
    alone.param_groups[0]["params"][0].grad = torch.ones(6, 6, dtype=torch.float64)
    with pytest.warns(UserWarning, match=r"copy the model and the optimizer together"):
        alone.step()


def test_an_optimizer_copied_before_its_first_step_says_that_constraints_are_gone():
    module, _ = layer("square")
    optimizer = RiemannianSGD(module.named_parameters(), lr=0.1)
    alone = copy.deepcopy(optimizer)
    alone.param_groups[0]["params"][0].grad = torch.ones(6, 6, dtype=torch.float64)
    with pytest.warns(UserWarning, match=r"parameter 'weight' was constrained before .*copy the model and the optim"):
        alone.step()
    alone.step()  # said once
    for both in (copy.deepcopy((module, optimizer)), copy.deepcopy((optimizer, module))[::-1]):
        run(*both, torch.ones_like, 1)
        assert manifolds.check(both[0]).ok


def test_a_weight_that_others_wrote_to_is_projected_with_a_warning():
    module, constraint = layer("square", dtype=torch.float32)
    slope, _ = slope_of(constraint)
    optimizer = RiemannianSGD(module.named_parameters(), lr=0.01)
    run(module, optimizer, slope, 2)
    with torch.no_grad():
        module.weight.mul_(1.5)
    with pytest.warns(UserWarning, match=r"parameter 'weight' was off the manifold stiefel .* projected"):
        run(module, optimizer, slope, 1)
    assert manifolds.check(module).ok
    module.weight.data = 2 * module.weight.data  # torch does not count this one; the regular look finds it
    with pytest.warns(UserWarning, match=r"parameter 'weight' was off the manifold stiefel .*projected on it"):
        run(module, optimizer, slope, 40)
    assert manifolds.check(module).ok


def test_the_orthogonal_group_is_the_square_stiefel_manifold():
    ends = []
    for manifold in ("orthogonal", "stiefel"):
        module, constraint = layer("square", manifold)
        slope, _ = slope_of(constraint)
        run(module, RiemannianAdam(module.parameters(), lr=0.1), slope, 5)
        ends.append(module.weight.detach())
    assert torch.equal(*ends)


def test_a_learned_scale_stays_positive_and_a_zero_weight_is_refused():
    module, constraint = layer("square", scale="learned", dtype=torch.float32)
    optimizer = RiemannianSGD(module.named_parameters(), lr=0.0, scale_lr=1e3)
    before = float(constraint.scale())
    run(module, optimizer, torch.clone, 1)  # d/ds of |W|^2 / 2 is p s: s - 1000 p s would be negative
    assert float(constraint.scale()) == pytest.approx(before / 10, rel=1e-5)
    assert manifolds.check(module).ok
    with torch.no_grad():
        module.weight.zero_()
    with pytest.raises(
        ValueError, match=r"parameter 'weight' is zero, which is no point of stiefel; initialize it anew"
    ):
        run(module, optimizer, torch.ones_like, 1)


def test_options_are_checked():
    p = [nn.Parameter(torch.zeros(2, 2))]
    for maker, options, error, words in (
        (RiemannianSGD, {"lr": -1.0}, ValueError, "lr must be a finite number >= 0, got -1.0"),
        (RiemannianSGD, {"lr": "fast"}, TypeError, "lr must be a number, got str"),
        (RiemannianSGD, {"momentum": 1.0}, ValueError, "momentum must be at least 0 and below 1, got 1.0"),
        (RiemannianSGD, {"nesterov": True}, ValueError, "nesterov=True needs momentum > 0 and dampening = 0"),
        (RiemannianSGD, {"retraction": "polr"}, ValueError, "unknown retraction 'polr'; did you mean 'polar'"),
        (RiemannianSGD, {"maximize": 1}, TypeError, "maximize must be True or False, got 1"),
        (RiemannianAdam, {"betas": (0.9, 1.0)}, ValueError, r"betas\[1\] must be at least 0 and below 1, got 1.0"),
        (RiemannianAdam, {"betas": 0.9}, TypeError, "betas must be two numbers, got 0.9"),
        (RiemannianAdam, {"second_moment": "matrix"}, ValueError, "unknown second_moment 'matrix'"),
        (RiemannianAdam, {"step_scale": "row"}, ValueError, "unknown step_scale 'row'; did you mean 'rows'"),
        (RiemannianAdam, {"scale_lr": float("nan")}, ValueError, "scale_lr must be a finite number >= 0, got nan"),
    ):
        with pytest.raises(error, match=words):
            maker(p, **options)
