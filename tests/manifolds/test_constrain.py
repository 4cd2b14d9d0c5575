"""Putting models on manifolds: what is chosen, how it is laid out, what is refused."""

from __future__ import annotations

import json
import re

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations

import isometry as iso
from isometry import manifolds
from isometry.manifolds import Oblique, Orthogonal, Stiefel
from isometry.roles import Axes
from tests.manifolds.cases import seeded


def mlp(width=20, depth=4):
    torch.manual_seed(0)
    return iso.nn.reference_model(f"mlp:depth={depth},width={width},activation=tanh", in_shape=(12,), classes=5)


def values(model):
    return {name: p.detach().clone() for name, p in model.named_parameters()}


def bits(tensor):
    return tensor.detach().clone(memory_format=torch.contiguous_format).view(torch.uint8)


def naive_polar(matrix):
    u, _, vh = torch.linalg.svd(matrix.double(), full_matrices=False)
    return (u @ vh).to(matrix.dtype)


# -- what is chosen ----------------------------------------------------------------------------------------------------


def test_the_hidden_matrices_by_role():
    model = mlp()
    before = values(model)
    done = manifolds.constrain_(model)
    assert [row.name for row in done] == list(before)
    assert [row.name for row in done.constrained] == [f"hidden.{i}.linear.weight" for i in range(4)]
    assert done["hidden.0.linear.weight"].role == "input"
    assert done["output.weight"].why == "the readout stays free; name it in names= to constrain it"
    assert done["hidden.1.linear.bias"].why == "a bias, not a matrix between layers"
    for name, old in before.items():
        new = model.get_parameter(name).detach()
        if done[name].action == "left":
            assert torch.equal(new, old)
            continue
        scale = float(old.norm()) / min(old.shape) ** 0.5
        assert done[name].scale == pytest.approx(scale, rel=1e-6)
        assert torch.allclose(new, scale * naive_polar(old), atol=2e-6)
        assert float(new.norm()) == pytest.approx(float(old.norm()), rel=1e-5)  # the root mean square is kept
    row = done["hidden.1.linear.weight"]
    q = before[row.name] / row.scale
    assert row.before == pytest.approx(float((q.T @ q - torch.eye(20)).norm()), rel=1e-4)
    assert row.after < 5e-6
    assert row.matrices == (1, 20, 20)


def test_what_critical_set_stays():
    """Orthogonal weights of scale sigma_w are on the manifold already: nothing moves, and s is that scale."""
    model = mlp(depth=6)
    sigma_w = iso.init.critical_(model, generator=seeded()).sigma_w
    before = values(model)
    done = manifolds.constrain_(model)
    for row in done.constrained:
        assert torch.allclose(model.get_parameter(row.name), before[row.name], atol=2e-6)
    assert done["hidden.1.linear.weight"].scale == pytest.approx(sigma_w, rel=1e-6)
    assert done["hidden.1.linear.weight"].before < 1e-5


def test_a_layer_on_its_own_is_meant():
    for layer in (nn.Linear(6, 4), nn.Conv2d(2, 5, 3), nn.Bilinear(3, 4, 5)):
        assert manifolds.constrain_(layer).constrained[0].name == "weight"
    lstm = manifolds.constrain_(nn.LSTM(4, 5))
    assert [row.name for row in lstm.constrained] == ["weight_ih_l0", "weight_hh_l0"]


def test_names_patterns_and_roles():
    model = mlp()
    done = manifolds.constrain_(model, names=["hidden.1.*", "output.weight"])
    assert [row.name for row in done.constrained] == ["hidden.1.linear.weight", "output.weight"]
    assert done["hidden.1.linear.bias"].why == "it has shape (20,) and is no matrix"
    assert done["hidden.2.linear.weight"].why == "not named"
    embedded = nn.Sequential(nn.Embedding(9, 6), nn.Linear(6, 6), nn.Linear(6, 9))
    done = manifolds.constrain_(embedded)
    assert [row.name for row in done.constrained] == ["1.weight"]
    assert done["0.weight"].why.startswith("embeddings stay free")


def test_the_table_is_printed_and_is_plain_data():
    done = manifolds.constrain_(mlp(), "oblique", scale="learned")
    text = str(done)
    assert text.startswith("4 of 10 parameters constrained: oblique")
    assert re.search(
        r"hidden\.1\.linear\.weight +hidden +20 x 20 +constrained +1 x 20 x 20 +oblique +\S+ learned", text
    )
    assert len(text.splitlines()) == 10 + 4
    assert json.loads(json.dumps(done.to_dict()))["rows"][0]["name"] == "hidden.0.linear.weight"
    with pytest.raises(KeyError, match="did you mean"):
        done["hidden.1.linear.weigh"]
    assert len(done) == 10


# -- how parameters are laid out ---------------------------------------------------------------------------------------


class Experts(nn.Module):
    def __init__(self):
        super().__init__()
        self.experts = nn.Parameter(torch.randn(3, 4, 6))  # (expert, out, in)
        self.head = nn.Linear(4, 2)


class Conv1D(nn.Module):
    """As in GPT-2: a linear layer stored as (in, out)."""

    def __init__(self):
        super().__init__()
        self.nf = 8
        self.weight = nn.Parameter(torch.randn(5, 8))


def slices(name, w):
    """Naively, the matrices (out, in * kernel) that a parameter is made of."""
    return {
        "linear": lambda: [w],
        "conv": lambda: [w.reshape(w.shape[0], -1)],
        "grouped": lambda: [part.reshape(4, -1) for part in w.split(4)],
        "depthwise": lambda: [part.reshape(1, -1) for part in w],
        "transposed": lambda: [part.permute(1, 0, 2, 3).reshape(w.shape[1], -1) for part in w.split(3)],
        "lstm": lambda: list(w.split(5)),
        "qkv": lambda: list(w.split(6)),
        "bilinear": lambda: [w.reshape(5, -1)],
        "experts": lambda: list(w),
        "gpt2": lambda: [w.T],
    }[name]()


LAYOUTS = {
    "linear": (lambda: nn.Linear(7, 4), "weight", {}),
    "conv": (lambda: nn.Conv2d(3, 5, 3), "weight", {}),
    "grouped": (lambda: nn.Conv2d(6, 8, 3, groups=2), "weight", {}),
    "depthwise": (lambda: nn.Conv1d(4, 4, 3, groups=4), "weight", {}),
    "transposed": (lambda: nn.ConvTranspose2d(6, 4, 3, groups=2), "weight", {}),
    "lstm": (lambda: nn.LSTM(3, 5), "weight_ih_l0", {}),
    "qkv": (lambda: nn.MultiheadAttention(6, 2), "in_proj_weight", {}),
    "bilinear": (lambda: nn.Bilinear(3, 4, 5), "weight", {}),
    "experts": (Experts, "experts", {"overrides": {"experts": ("hidden", Axes(batch=(0,), out=(1,), in_=(2,)))}}),
    "gpt2": (Conv1D, "weight", {}),
}


@pytest.mark.parametrize("scale", ["fixed", "learned", 1.7])
@pytest.mark.parametrize(
    "manifold", [Stiefel(), Stiefel("canonical"), Oblique(), Oblique(dim=-1)], ids=lambda m: m.name
)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_kind_of_layer(layout, manifold, scale):
    torch.manual_seed(0)
    build, name, options = LAYOUTS[layout]
    layer = build()
    old = layer.get_parameter(name).detach().clone()
    row = manifolds.constrain_(layer, manifold, names=name, scale=scale, **options)[name]
    new = layer.get_parameter(name).detach()
    olds, news = slices(layout, old), slices(layout, new)
    assert row.matrices[0] == len(news)
    for before, after in zip(olds, news, strict=True):
        if isinstance(manifold, Oblique):
            rows = manifold.dim == -1 or before.shape[0] < before.shape[1]
            wanted = before / before.norm(dim=1 if rows else 0, keepdim=True)
        else:
            wanted = naive_polar(before)
        assert torch.allclose(after / row.scale, wanted, atol=2e-6)
    columns = sum(torch.linalg.matrix_norm(n).square() for n in news) / row.scale**2  # all of length one
    wanted = 1.7 if scale == 1.7 else float(old.norm() / columns.sqrt())
    assert row.scale == pytest.approx(wanted, rel=1e-4)
    assert row.scale_kind == ("learned" if scale == "learned" else "fixed")

    constraint = manifolds.constraint_of(layer.get_parameter(name))
    assert constraint.parameter is layer.get_parameter(name)
    q = constraint.point()
    assert tuple(q.shape) == row.matrices
    assert constraint.manifold.check(q).ok
    assert not constraint.manifold.transposes(q.shape)
    assert torch.equal(constraint.tensor(constraint.matrix(new)), new)
    assert torch.allclose(constraint.tensor(q * float(constraint.scale())), new, atol=1e-6)
    assert float(constraint.scale()) == pytest.approx(row.scale, rel=1e-5)
    assert manifolds.check(layer).ok


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_every_dtype_is_judged_by_its_rounding(dtype):
    torch.manual_seed(0)
    layer = nn.Linear(50, 30).to(dtype)
    row = manifolds.constrain_(layer)["weight"]
    eps = torch.finfo(dtype).eps
    assert layer.weight.dtype == dtype
    assert row.after < 2 * eps * 30**0.5 + 1e-5 * (dtype == torch.float32)
    assert manifolds.check(layer).ok
    with torch.no_grad():
        layer.weight[0, 0] += 100 * eps
    assert not manifolds.check(layer).ok


def test_recurrent_layers_run_on_as_before():
    """cuDNN-style flat weights are views; writing in place keeps them together."""
    lstm = nn.LSTM(4, 5)
    manifolds.constrain_(lstm)
    out, _ = lstm(torch.randn(3, 2, 4))
    assert out.shape == (3, 2, 5)


# -- what is refused ---------------------------------------------------------------------------------------------------


def model_with(weight=None, frozen=False):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, 2))
    if weight is not None:
        with torch.no_grad():
            model[1].weight.copy_(weight)
    model[1].weight.requires_grad_(not frozen)
    return model


def tied():
    model = nn.Sequential(nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, 2))
    model[2].weight = model[1].weight
    return model


def expanded():
    model = nn.Linear(3, 3)
    model.weight = nn.Parameter(torch.randn(3, 1).expand(3, 3))
    return model


def of_inference():
    with torch.inference_mode():
        return nn.Linear(3, 3)


def raw():
    model = nn.Linear(3, 3)
    model.extra = nn.Parameter(torch.randn(4, 4))
    return model


NAN = torch.full((6, 6), float("nan"))
LOW = torch.ones(6, 6)


@pytest.mark.parametrize(
    ("build", "arguments", "error", "words"),
    [
        (lambda: model_with(NAN), {}, ValueError, "1.weight holds 36 non-finite values"),
        (lambda: model_with(LOW), {}, ValueError, "1.weight cannot be projected on stiefel: x has rank 1, but"),
        (
            lambda: model_with(0 * LOW),
            {"manifold": "oblique"},
            ValueError,
            "1.weight cannot be projected on oblique: x has 6 zero columns",
        ),
        (tied, {}, ValueError, r"1.weight is tied: it is also 2.weight. A constraint would hold in all these places"),
        (
            raw,
            {"names": "extra"},
            ValueError,
            "extra cannot be constrained: its output and input dimensions are not kn",
        ),
        (
            model_with,
            {"names": "0.bias"},
            ValueError,
            r"0.bias cannot be constrained: it has shape \(6,\) and is no mat",
        ),
        (model_with, {"names": "*.bias"}, ValueError, r"none of the parameters that names='\*.bias' matches can be"),
        (model_with, {"names": "3.weight"}, ValueError, "unknown names pattern '3.weight'; did you mean"),
        (model_with, {"names": []}, TypeError, "names must be a name, a pattern or a non-empty sequence"),
        (model_with, {"names": 3}, TypeError, "names must be a name, a pattern or a non-empty sequence"),
        (model_with, {"manifold": "stiefl"}, ValueError, "unknown manifold 'stiefl'; did you mean 'stiefel'"),
        (model_with, {"manifold": Stiefel}, TypeError, "manifold must be a name or a Manifold"),
        (model_with, {"scale": "learnt"}, ValueError, "unknown scale 'learnt'; did you mean 'learned'"),
        (model_with, {"scale": 0.0}, ValueError, "scale must be a finite number > 0"),
        (model_with, {"scale": 1e-40}, ValueError, "scale is 1e-40, but .*weight, which is float32, can be scaled to"),
        (model_with, {"scale": 1e39}, ValueError, r"scale is 1e\+39, but .*can be scaled to 1.2e-38 to 3.4e\+38 only"),
        (model_with, {"scale": True}, TypeError, "scale must be a number"),
        (
            lambda: nn.Linear(4, 3),
            {"manifold": "orthogonal"},
            ValueError,
            "square matrices only, got 3 x 4; use Stiefel",
        ),
        (lambda: nn.Linear(4, 3, device="meta"), {}, ValueError, "weight is on the meta device and has no values; mat"),
        (expanded, {}, ValueError, r"weight is expanded \(several of its entries share one memory cell\) and cannot"),
        (of_inference, {}, ValueError, "weight is an inference tensor and cannot be written to; replace it by a clone"),
        (lambda: nn.LazyLinear(3), {}, ValueError, "model has lazy parameters"),
        (
            lambda: nn.Linear(4, 3, dtype=torch.complex64),
            {},
            TypeError,
            "weight has dtype torch.complex64; only float64",
        ),
        (
            lambda: nn.Linear(4, 3).to(torch.float8_e4m3fn),
            {},
            TypeError,
            "weight has dtype torch.float8_e4m3fn; only float64",
        ),
        (
            lambda: nn.LayerNorm(4),
            {},
            ValueError,
            r"no hidden matrix can be constrained \(weight: a norm, not a matrix",
        ),
        (nn.ReLU, {}, ValueError, "no hidden matrix can be constrained: the model has no parameters; name a weight"),
        (
            lambda: nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 6), nn.Linear(6, 2)),
            {"manifold": "orthogonal", "names": ["0.weight", "1.weight"]},
            ValueError,
            "1.weight cannot be constrained: the orthogonal group has square matrices only, got 6 x 4; use Stiefel",
        ),
        (lambda: torch.ones(3, 3), {}, TypeError, "model must be a torch.nn.Module, got Tensor"),
    ],
)
def test_refusals_change_nothing(build, arguments, error, words):
    model = build()
    before = values(model) if isinstance(model, nn.Module) and not isinstance(model, nn.LazyLinear) else {}
    with pytest.raises(error, match=words):
        manifolds.constrain_(model, **arguments)
    if isinstance(model, nn.Module):
        assert manifolds.constraints(model) == {}
        for name, value in before.items():
            if not value.is_meta:
                assert torch.equal(*(bits(t) for t in (value, model.get_parameter(name))))


def test_the_orthogonal_manifold_leaves_what_is_not_square():
    model = nn.Sequential(nn.Linear(5, 6), nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, 2))
    for names in (None, "*.weight"):
        done = manifolds.constrain_(model, "orthogonal", names=names)
        assert [row.name for row in done.constrained] == ["1.weight", "2.weight"]
        assert done["0.weight"].action == "left"
        assert done["0.weight"].why == "the orthogonal group has square matrices only, got 6 x 5; use Stiefel"


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("manifold", ["stiefel", "oblique"])
@pytest.mark.parametrize("scale", ["fixed", "learned", 1.3])
def test_what_is_on_the_manifold_already_stays_to_the_bit(manifold, scale, dtype):
    model = model_with().to(dtype)
    manifolds.constrain_(model, manifold, scale=scale)
    before = [p.detach().clone() for p in model.parameters()]
    done = manifolds.constrain_(model, manifold, scale=scale)
    assert all(row.before == row.after for row in done.constrained)
    assert all(map(torch.equal, before, model.parameters()))
    manifolds.release(model)
    manifolds.constrain_(model, manifold, scale=scale)
    assert all(map(torch.equal, before, model.parameters()))


def test_parametrized_weights_are_listed_or_refused():
    model = model_with()
    parametrizations.weight_norm(model[1])
    done = manifolds.constrain_(model)
    name = "1.parametrizations.weight.original1"
    assert done[name].action == "left"
    assert "weight of 1 is parametrized" in done[name].why
    for asked in (name, "1.weight"):
        with pytest.raises(ValueError, match=r"cannot be constrained: weight of 1 is parametrized, so the module uses"):
            manifolds.constrain_(model_with_norm(), names=asked)


def model_with_norm():
    model = model_with()
    parametrizations.weight_norm(model[1])
    return model


def test_frozen_weights_are_listed():
    model = model_with(frozen=True)
    for names in (None, ["0.weight", "1.weight"]):
        done = manifolds.constrain_(model, names=names)
        assert done["1.weight"].action == "skipped"
        assert done["1.weight"].why.startswith("frozen (requires_grad is False)")
    assert set(manifolds.constraints(model)) == {"0.weight"}


def test_a_tied_weight_that_is_named_is_constrained_once():
    model = tied()
    done = manifolds.constrain_(model, names=["2.weight"])
    assert done["1.weight"].why == "tied to 2.weight"
    assert len(manifolds.constraints(model)) == 1
    assert manifolds.constraint_of(model[2].weight) is manifolds.constraint_of(model[1].weight) is not None


def test_constraining_again():
    model = model_with()
    manifolds.constrain_(model)
    record = manifolds.constraint_of(model[0].weight)
    with torch.no_grad():
        model[0].weight.mul_(2).add_(0.01)
    again = manifolds.constrain_(model)
    assert manifolds.constraint_of(model[0].weight) is record
    assert record.scale() == pytest.approx(again["0.weight"].scale)
    assert manifolds.check(model).ok
    for arguments in ({"manifold": "oblique"}, {"scale": "learned"}, {"manifold": Orthogonal()}):
        with pytest.raises(
            ValueError, match=r"0.weight is constrained already, to stiefel with a fixed scale, and was t"
        ):
            manifolds.constrain_(model, **arguments)
    manifolds.release(model)
    assert len(manifolds.constrain_(model, "orthogonal", scale="learned").constrained) == 2
