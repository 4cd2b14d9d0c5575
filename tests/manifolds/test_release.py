"""Looking at constraints, judging them, taking them off."""

from __future__ import annotations

import re

import pytest
import torch
from torch import nn

from isometry import manifolds


def constrained(**options):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 8), nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 3))
    manifolds.constrain_(model, **options)
    return model


def test_release_leaves_the_weights():
    model = constrained()
    before = [p.clone() for p in model.parameters()]
    record = manifolds.constraint_of(model[1].weight)  # even if somebody still holds it
    assert manifolds.release(model, "1.*") == ("1.weight",)
    assert record.parameter is model[1].weight
    assert set(manifolds.constraints(model)) == {"0.weight", "2.weight"}
    assert manifolds.constraint_of(model[1].weight) is None
    assert manifolds.release(model) == ("0.weight", "2.weight")
    assert manifolds.release(model) == ()
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))
    assert not any("_isometry" in key for module in model.modules() for key in module.__dict__)


@pytest.mark.parametrize("scale", ["fixed", "learned", 2.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_bake_projects_exactly_once_more(dtype, scale):
    model = constrained(scale=scale)
    scales = {name: float(record.scale()) for name, record in manifolds.constraints(model).items()}
    with torch.no_grad():
        for p in model.parameters():
            p.add_(1e-3 * torch.randn_like(p))
    assert not manifolds.check(model).ok
    model.to(dtype)
    wanted = {}
    for name, s in scales.items():
        weight = model.get_parameter(name).detach().double()
        u, _, vh = torch.linalg.svd(weight, full_matrices=False)
        factor = float(weight.norm()) / min(weight.shape) ** 0.5 if scale == "learned" else s
        wanted[name] = factor * (u @ vh)
    assert manifolds.bake(model) is model
    assert manifolds.constraints(model) == {}
    for name, value in wanted.items():
        error = (model.get_parameter(name).double() - value).abs()
        # one rounding of each entry to the storage dtype, and of the scale and the product to float32
        assert bool((error <= (torch.finfo(dtype).eps / 2 + 4e-7) * value.abs() + 1e-9).all()), name


def test_bake_some_and_none():
    model = constrained()
    assert manifolds.bake(model, ["0.weight"]) is model
    assert set(manifolds.constraints(model)) == {"1.weight", "2.weight"}
    manifolds.bake(model)
    assert manifolds.bake(model) is model
    for call in (manifolds.bake, manifolds.release):
        with pytest.raises(ValueError, match=r"unknown names pattern '1.weigh'; did you mean '1.weight'"):
            call(constrained(), "1.weigh")
        with pytest.raises(TypeError, match=r"model must be a torch\.nn\.Module"):
            call([1])


def test_bake_refuses_what_cannot_be_projected_and_changes_nothing():
    model = constrained()
    with torch.no_grad():
        model[0].weight.add_(0.1)
        model[2].weight.fill_(1.0)
    before = model[0].weight.clone()
    with pytest.raises(ValueError, match=r"2.weight cannot be projected on stiefel: x has rank 1"):
        manifolds.bake(model)
    assert torch.equal(model[0].weight, before)
    assert len(manifolds.constraints(model)) == 3


def test_check_finds_each_state():
    model = constrained(scale="learned")
    assert manifolds.check(model).ok
    assert manifolds.check(model).summary == "3 constrained parameters, all on it"
    with torch.no_grad():
        model[0].weight[0, 0] = float("nan")
        model[1].weight.zero_()
        model[2].weight[:, 0] *= 1.01
    found = manifolds.check(model)
    assert [row.note for row in found] == ["holds NaN or infinity", "is zero", ""]
    assert not any(row.ok for row in found)
    # W / s with s^2 = |W|^2 / 8: the first column's squared length is 1.0201 / (8.0201 / 8) - 1 off
    assert found["2.weight"].max_abs == pytest.approx(1.0201 * 8 / 8.0201 - 1, rel=1e-3)
    assert manifolds.check(model, tolerance=0.1)["2.weight"].ok
    text = str(found)
    assert text.startswith("3 constrained parameters, 3 OFF their manifold")
    assert re.search(r"0\.weight +stiefel +8 x 5 +float32 .* OFF +holds NaN", text)
    with pytest.raises(KeyError, match=r"unknown constrained parameter '2.weigh'"):
        found["2.weigh"]
    assert len(manifolds.check(nn.Linear(2, 2))) == 0
    assert manifolds.check(nn.Linear(2, 2)).summary == "no parameter is constrained"
