"""What all methods for hidden matrices share: which matrices a parameter is, what AdamW moves, what is refused."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from isometry.optim import Muon
from isometry.roles import Axes


def gen(seed=0):
    return torch.Generator().manual_seed(seed)


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=gen(seed), dtype=torch.float64)


def polar_factor(matrix):
    u, _, vh = torch.linalg.svd(matrix, full_matrices=False)
    return u @ vh


def moved(parameter, gradient, **group):
    """How far the first step of Muon (lr = 1, no momentum, no scale) moves a parameter."""
    p = nn.Parameter(parameter.clone())
    p.grad = gradient
    optimizer = Muon([{"params": [p], **group}], lr=1.0, momentum=0.0, polar="exact", scale="none")
    optimizer.step()
    return parameter - p.detach()


def row(axes, name="w", role="hidden", rule="matrix"):
    return {"name": name, "shape": [], "role": role, "rule": rule, "reason": "said so", "axes": axes.to_dict()}


def test_kernels_are_one_matrix_of_inputs_and_taps():
    gradient = draw(5, 3, 2, 2)
    step = moved(draw(5, 3, 2, 2, seed=1), gradient, layout="conv")
    torch.testing.assert_close(step, polar_factor(gradient.reshape(5, 12)).reshape(5, 3, 2, 2))


def test_stacked_matrices_move_each_for_itself():
    gradient = draw(2, 3, 5, 4)
    step = moved(draw(2, 3, 5, 4, seed=1), gradient, layout="batch")
    expected = torch.stack([torch.stack([polar_factor(g) for g in gs]) for gs in gradient])
    torch.testing.assert_close(step, expected)


def test_blocks_of_a_fused_projection_move_each_for_itself():
    gradient = draw(12, 4)
    step = moved(draw(12, 4, seed=1), gradient, routes=[row(Axes((0,), (1,), blocks=("q", "k", "v")))])
    torch.testing.assert_close(step, torch.cat([polar_factor(g) for g in gradient.chunk(3)]))


def test_inputs_first_is_turned_over():
    gradient = draw(4, 12)  # transformers' Conv1D: (in, 3 out)
    step = moved(draw(4, 12, seed=1), gradient, routes=[row(Axes((1,), (0,), blocks=("q", "k", "v")))])
    torch.testing.assert_close(step, torch.cat([polar_factor(g) for g in gradient.chunk(3, dim=1)], dim=1))


def test_groups_of_a_convolution_move_each_for_itself():
    gradient = draw(6, 2, 3)
    step = moved(draw(6, 2, 3, seed=1), gradient, routes=[row(Axes((0,), (1,), (2,), groups=2))])
    parts = [polar_factor(g.reshape(3, 6)).reshape(3, 2, 3) for g in gradient.chunk(2)]
    torch.testing.assert_close(step, torch.cat(parts))


def test_equal_shapes_of_other_axes_are_not_mixed():
    ps = [nn.Parameter(draw(6, 6, seed=i)) for i in range(2)]
    before = [p.detach().clone() for p in ps]
    optimizer = Muon(
        [{"params": ps, "routes": [row(Axes((0,), (1,))), row(Axes((0,), (1,), blocks=("a", "b")))]}],
        lr=1.0,
        momentum=0.0,
        polar="exact",
        scale="none",
    )
    for i, p in enumerate(ps):
        p.grad = draw(6, 6, seed=10 + i)
    optimizer.step()
    torch.testing.assert_close(before[0] - ps[0].detach(), polar_factor(ps[0].grad))
    parts = torch.cat([polar_factor(g) for g in ps[1].grad.chunk(2)])
    torch.testing.assert_close(before[1] - ps[1].detach(), parts)


@pytest.mark.parametrize("given", [None, {"lr": 0.01, "betas": (0.8, 0.9), "eps": 1e-6, "weight_decay": 0.2}])
def test_the_rest_moves_as_by_torchs_adamw(given):
    options = given or {"lr": 3e-4, "betas": (0.9, 0.95), "eps": 1e-10, "weight_decay": 0.0}
    matrix, vector, other = (nn.Parameter(draw(4, 4)), nn.Parameter(draw(5, seed=1)), nn.Parameter(draw(5, seed=1)))
    optimizer = Muon([{"params": [matrix]}, {"params": [vector], "rule": "adamw"}], weight_decay=0.7, adamw=given)
    peer = torch.optim.AdamW([other], **options)
    for t in range(5):
        matrix.grad, vector.grad = draw(4, 4, seed=t), draw(5, seed=t)
        other.grad = vector.grad.clone()
        optimizer.step()
        peer.step()
    torch.testing.assert_close(vector.detach(), other.detach(), rtol=1e-12, atol=1e-14)
    assert set(optimizer.state[matrix]) == {"step", "momentum_buffer"}
    assert set(optimizer.state[vector]) == {"step", "exp_avg", "exp_avg_sq"}


def test_a_groups_own_options_win():
    vector = nn.Parameter(draw(5))
    groups = [{"params": [nn.Parameter(draw(4, 4))]}, {"params": [vector], "rule": "adamw", "lr": 0.5}]
    optimizer = Muon(groups, lr=0.1, adamw={"lr": 0.01, "weight_decay": 0.3})
    assert [(g["lr"], g["weight_decay"]) for g in optimizer.param_groups] == [(0.1, 0.0), (0.5, 0.3)]


@pytest.mark.parametrize(
    ("group", "message"),
    [
        ({"params": [torch.ones(3)]}, r"has shape \(3,\) and is no matrix, but its group has rule='matrix'"),
        ({"params": [torch.ones(())]}, r"has shape \(\) and is no matrix"),
        ({"params": [torch.ones(2, 3, 4)]}, r"may be a kernel or a stack of matrices; say layout='conv'"),
        ({"params": [torch.ones(2, 2)], "rule": "muon"}, "rule"),
        ({"params": [torch.ones(2, 2)], "layout": "linear"}, "layout"),
        ({"params": [torch.ones(2, 2)], "routes": []}, "routes has 0 rows for 1 parameters"),
        ({"params": [torch.ones(2, 2)], "rule": "adamw"}, "no parameter takes Muon's own rule: parameter 0 of group 0"),
        ({"params": []}, "groups without any parameter"),
    ],
)
def test_what_is_no_matrix_is_refused_by_a_sentence(group, message):
    group = {**group, "params": [nn.Parameter(p) for p in group["params"]]}
    with pytest.raises(ValueError, match=message):
        Muon([group])


def test_a_refused_group_is_not_kept():
    optimizer = Muon([nn.Parameter(torch.ones(2, 2))])
    with pytest.raises(ValueError, match="is no matrix"):
        optimizer.add_param_group({"params": [nn.Parameter(torch.ones(3))]})
    assert len(optimizer.param_groups) == 1


@pytest.mark.parametrize(
    ("adamw", "error", "message"),
    [
        ({"learning_rate": 1.0}, ValueError, "adamw option"),
        ({"betas": (0.9,)}, TypeError, "betas must be two numbers"),
        ({"lr": -1.0}, ValueError, r"adamw\['lr'\] must be a finite number >= 0"),
        ("fast", TypeError, "adamw must be a mapping"),
    ],
)
def test_senseless_options_of_adamw_are_refused(adamw, error, message):
    with pytest.raises(error, match=message):
        Muon([nn.Parameter(torch.ones(2, 2))], adamw=adamw)


def test_names_are_told_where_they_are_known():
    with pytest.raises(ValueError, match=r"parameter 'bias' has shape \(3,\)"):
        Muon(nn.Linear(4, 3).named_parameters())


def trained(model, optimizer, steps, seed=0):
    for t in range(steps):
        optimizer.zero_grad()
        model(draw(8, 4, seed=seed + t)).square().sum().backward()
        optimizer.step()


def groups_of(model, **group):
    matrices = [(n, p) for n, p in model.named_parameters() if p.ndim == 2]
    rest = [(n, p) for n, p in model.named_parameters() if p.ndim < 2]
    return [{"params": matrices, **group}, {"params": rest, "rule": "adamw"}]


def test_a_saved_run_goes_on_to_the_bit(tmp_path):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3)).double()
    optimizer = Muon(groups_of(model))
    trained(model, optimizer, 3)
    torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict()}, tmp_path / "run.pt")
    trained(model, optimizer, 3, seed=3)
    saved = torch.load(tmp_path / "run.pt", weights_only=True)
    again = copy.deepcopy(model)
    again.load_state_dict(saved["model"])
    resumed = Muon(groups_of(again))
    resumed.load_state_dict(saved["optimizer"])
    trained(again, resumed, 3, seed=3)
    for a, b in zip(model.parameters(), again.parameters(), strict=True):
        assert torch.equal(a, b)


def test_another_routing_on_resume_is_refused_and_changes_nothing():
    model = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3)).double()
    optimizer = Muon(groups_of(model))
    trained(model, optimizer, 2)
    saved = optimizer.state_dict()
    fewer = Muon([{"params": [model[0].weight]}, {"params": [*model.parameters()][1:], "rule": "adamw"}])
    with pytest.raises(ValueError, match="another routing: group 0 had 2 parameters of the rule 'matrix', and has 1"):
        fewer.load_state_dict(saved)
    spare = {"params": [("spare", nn.Parameter(draw(4, 4)))]}
    turned = Muon([{**group, "rule": "adamw"} for group in groups_of(model)] + [spare])
    told = r"another routing: parameter '0.weight' was routed to 'matrix', and is routed to 'adamw'; parameter '2.w"
    with pytest.raises(ValueError, match=told):
        turned.load_state_dict(saved)
    assert not fewer.state
    assert not turned.state


def test_other_blocks_on_resume_are_another_routing():
    parameter = nn.Parameter(draw(6, 6))

    def of(axes):
        return Muon([{"params": [parameter], "routes": [row(axes)]}])

    saved = of(Axes((0,), (1,), blocks=("q", "k"))).state_dict()
    with pytest.raises(ValueError, match=r"was routed to 'matrix' with axes \(2\*out, in\) .* with axes \(out, in\)"):
        of(Axes((0,), (1,))).load_state_dict(saved)


def test_another_optimizers_state_is_refused():
    parameter = nn.Parameter(draw(3, 3))
    with pytest.raises(ValueError, match="not one of Muon: its group 0 lacks"):
        Muon([parameter]).load_state_dict(torch.optim.SGD([parameter], lr=0.1).state_dict())
