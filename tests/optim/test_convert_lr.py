"""Learning rates carried over between libraries: their steps, transcribed, are equal after the conversion."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from isometry.optim import CONVENTIONS, Muon, convert_lr, explain
from isometry.roles import route


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def polar(matrix):
    u, _, vh = torch.linalg.svd(matrix, full_matrices=False)
    return u @ vh


# One step without momentum of each library, as its code has it, but for the exact polar factor.


def torch_muon(w, g, lr, wd, adjust_lr_fn=None):
    a, b = w.shape[:2]
    ratio = 0.2 * math.sqrt(max(a, b)) if adjust_lr_fn == "match_rms_adamw" else math.sqrt(max(1, a / b))
    return w * (1 - lr * wd) - lr * ratio * polar(g)


def dion(w, g, lr, wd, adjust_lr="spectral_norm", flatten=False):
    shape, matrix = w.shape, g.flatten(1) if flatten else g
    fan_out, fan_in = matrix.shape[-2:]
    if adjust_lr == "spectral_norm":
        adjusted = lr * math.sqrt(fan_out / fan_in)
    else:
        adjusted = lr if adjust_lr is None else lr * 0.2 * math.sqrt(max(fan_out, fan_in))
    return w * (1 - lr * wd) - adjusted * polar(matrix).reshape(shape)


def keller_jordan(w, g, lr, wd):
    update = g.view(len(g), -1) if g.ndim == 4 else g
    update = polar(update) * max(1, g.size(-2) / g.size(-1)) ** 0.5
    return w * (1 - lr * wd) - lr * update.reshape(w.shape)


def moonlight(w, g, lr, wd):
    a, b = w.shape[:2]
    return w * (1 - lr * wd) - lr * 0.2 * math.sqrt(max(a, b)) * polar(g)


def nvidia(w, g, lr, wd, scale_mode="spectral", extra_scale_factor=1.0):
    out, in_ = w.shape
    scale = {
        "shape_scaling": max(1, out / in_) ** 0.5,
        "spectral": max(out, in_) ** 0.5,
        "unit_rms_norm": (out / in_) ** 0.5,
    }[scale_mode]
    return w * (1 - lr * wd) - lr * polar(g) * scale * extra_scale_factor


def ours(w, g, lr, wd, scale="original"):
    p = nn.Parameter(w.clone())
    p.grad = g
    layout = "conv" if w.ndim > 2 else None
    group = {"params": [p], "layout": layout}
    Muon([group], lr=lr, momentum=0.0, weight_decay=wd, scale=scale, polar="exact").step()
    return p.detach()


STEPS = {
    "torch.optim.Muon": (torch_muon, [{}, {"adjust_lr_fn": "match_rms_adamw"}, {"adjust_lr_fn": "original"}]),
    "dion": (dion, [{}, {"adjust_lr": "rms_norm"}, {"adjust_lr": None, "flatten": True}]),
    "KellerJordan": (keller_jordan, [{}]),
    "Moonlight": (moonlight, [{}]),
    "NVIDIA": (
        nvidia,
        [{}, {"scale_mode": "unit_rms_norm"}, {"scale_mode": "shape_scaling"}, {"extra_scale_factor": 0.2}],
    ),
    "isometry": (ours, [{}, *({"scale": scale} for scale in ("spectral", "match_rms_adamw", "none"))]),
}
CASES = [(name, options) for name, (_, choices) in STEPS.items() for options in choices]


def named(name, options):
    return (name, options) if options else name


@pytest.mark.parametrize("shape", [(12, 5), (5, 12), (7, 7)])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_steps_are_equal_after_the_conversion(case, shape):
    w, g, lr, wd = draw(*shape), draw(*shape, seed=1), 0.03, 0.4
    expected = STEPS[case[0]][0](w, g, lr, wd, **case[1])
    for other in CASES:
        rates = convert_lr(lr, named(*case), named(*other), shape, weight_decay=wd)
        found = STEPS[other[0]][0](w, g, rates.lr, rates.weight_decay, **other[1])
        torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12, msg=str(other))


@pytest.mark.parametrize("shape", [(12, 2, 3, 3), (4, 3, 4, 2)])
def test_kernels_are_converted_where_both_flatten_them(shape):
    w, g, lr, wd = draw(*shape), draw(*shape, seed=1), 0.03, 0.4
    cases = [("KellerJordan", {}), ("isometry", {}), ("isometry", {"scale": "spectral"}), ("dion", {"flatten": True})]
    for case in cases:
        expected = STEPS[case[0]][0](w, g, lr, wd, **case[1])
        for other in cases:
            rates = convert_lr(lr, named(*case), named(*other), shape, weight_decay=wd)
            found = STEPS[other[0]][0](w, g, rates.lr, rates.weight_decay, **other[1])
            torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("adjust", [None, "original", "match_rms_adamw"])
@pytest.mark.parametrize("shape", [(48, 12), (12, 48)])
def test_torchs_own_muon_takes_the_same_step(adjust, shape):
    w, g = draw(*shape).float(), draw(*shape, seed=1).float()
    theirs, mine = nn.Parameter(w.clone()), nn.Parameter(w.clone())
    theirs.grad, mine.grad = g, g.clone()
    lr, wd = 0.1, 0.5
    torch.optim.Muon([theirs], lr=lr, weight_decay=wd, adjust_lr_fn=adjust).step()
    options = {} if adjust is None else {"adjust_lr_fn": adjust}
    rates = convert_lr(lr, ("torch.optim.Muon", options), ("isometry", {"scale": "spectral"}), shape, weight_decay=wd)
    Muon([mine], lr=rates.lr, weight_decay=rates.weight_decay, scale="spectral", polar="muon").step()
    step, expected = mine.detach() - w, theirs.detach() - w
    # torch orthogonalizes in bfloat16: 5 iterations with an error of 2^-8 each, and slopes of a few.
    assert (step - expected).norm() <= 0.03 * expected.norm()


def test_every_convention_has_its_step_here():
    assert set(CONVENTIONS) == {*STEPS, "adamw"}
    for name, convention in CONVENTIONS.items():
        assert convention.source
        assert set(convention.choices) <= set(convention.options), name


def test_adamws_root_mean_square_is_kept():
    shape = (30, 20)
    rates = convert_lr(1e-3, "adamw", "isometry", shape)
    p = nn.Parameter(torch.zeros(*shape))
    (row,) = explain(Muon([p], lr=rates.lr))
    (peer,) = explain(torch.optim.AdamW([p], lr=1e-3))
    assert math.isclose(row.rms, peer.rms)
    assert math.isclose(convert_lr(1e-3, "adamw", "Moonlight", shape).lr, 1e-3)
    assert math.isclose(convert_lr(1e-3, "adamw", ("NVIDIA", {"extra_scale_factor": 0.2}), shape).lr, 1e-3)


sizes = st.tuples(st.integers(1, 4096), st.integers(1, 4096))


@given(lr=st.floats(1e-6, 10), shape=sizes, a=st.sampled_from(CASES), b=st.sampled_from(CASES))
def test_there_and_back(lr, shape, a, b):
    there = convert_lr(lr, named(*a), named(*b), shape, weight_decay=0.1)
    back = convert_lr(there.lr, named(*b), named(*a), shape, weight_decay=there.weight_decay)
    assert math.isclose(back.lr, lr, rel_tol=1e-12)
    assert math.isclose(there.lr * there.weight_decay, lr * 0.1, rel_tol=1e-12)


def test_one_rate_that_does_not_fit_all_shapes_is_said_to_be_none():
    rates = convert_lr(0.02, "torch.optim.Muon", "Moonlight", [(400, 100), (100, 400), (400, 400)], weight_decay=0.1)
    told = (
        "no single learning rate in Moonlight makes the steps of torch.optim.Muon: it would be 0.01 for 400 x 100, "
        "0.005 for 100 x 400, 0.005 for 400 x 400. Give each shape its own"
    )
    with pytest.raises(ValueError, match=told):
        float(rates)
    with pytest.raises(ValueError, match="no single weight decay in Moonlight"):
        _ = rates.weight_decay
    assert float(convert_lr(0.02, "torch.optim.Muon", "KellerJordan", [(400, 100), (100, 400)])) == 0.02


def test_a_routing_gives_each_parameter_its_own():
    model = nn.Sequential(nn.Linear(9, 8), nn.Linear(8, 32), nn.Linear(32, 8), nn.Linear(8, 8), nn.Linear(8, 2))
    rates = convert_lr(0.02, "Moonlight", "isometry", route(model), weight_decay=0.1)
    assert [(row.shape, row.names) for row in rates] == [
        ((32, 8), ("1.weight",)),
        ((8, 32), ("2.weight",)),
        ((8, 8), ("3.weight",)),
    ]
    options = rates.options()
    optimizer = Muon(route(model, options=options), lr=0.02)
    found = {row.shape: row for row in explain(optimizer) if row.shape is not None}
    for shape, row in found.items():
        assert math.isclose(row.rms, 0.2 * 0.02), shape  # Moonlight's root mean square, whatever the shape
        assert math.isclose(row.lr * row.weight_decay, 0.02 * 0.1)


def test_it_prints():
    rates = convert_lr(0.02, ("dion", {"adjust_lr": "rms_norm"}), "KellerJordan", [(400, 100), (100, 400)])
    text = str(rates)
    assert "dion (adjust_lr=rms_norm) -> KellerJordan" in text
    assert "400 x 100" in text
    assert "0.04" in text
    assert len(rates) == len(rates.to_dict()["rows"]) == 2


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ((0.1, "Muon", "dion", (4, 4)), "unknown from_ 'Muon'"),
        ((0.1, "dion", "torch.optim.muon", (4, 4)), "unknown to 'torch.optim.muon'; did you mean 'torch.optim.Muon'"),
        ((0.1, ("dion", {"scale": "none"}), "dion", (4, 4)), "unknown option of dion 'scale'; .*adjust_lr, flatten"),
        ((0.1, ("dion", {"adjust_lr": "rms"}), "dion", (4, 4)), "unknown adjust_lr 'rms'; did you mean 'rms_norm'"),
        ((0.1, ("NVIDIA", {"extra_scale_factor": 0.0}), "dion", (4, 4)), "extra_scale_factor must be above 0"),
        ((-0.1, "dion", "dion", (4, 4)), "lr must be a finite number >= 0"),
        ((0.1, "dion", "dion", (4,)), r"shape must be \(out, in\) or \(out, in, \*kernel\), whole numbers >= 1"),
        ((0.1, "dion", "dion", (4, 0)), "whole numbers >= 1"),
        ((0.1, "dion", "dion", []), "shape is empty"),
        ((0.1, "dion", "isometry", (4, 4, 3)), "dion with flatten=False orthogonalizes slices .* of 4 x 4 x 3"),
        ((0.1, "isometry", "NVIDIA", (4, 4, 3, 3)), "NVIDIA takes matrices only, and the shape 4 x 4 x 3 x 3 is none"),
        ((0.1, "isometry", "KellerJordan", (4, 4, 3)), "KellerJordan takes matrices only"),
        ((0.1, "isometry", "dion", route(nn.Linear(2, 2))), "the routing has no hidden matrix"),
    ],
)
def test_senseless_requests_are_refused(args, message):
    with pytest.raises(ValueError, match=message):
        convert_lr(*args)


def test_wrong_types_are_refused():
    with pytest.raises(TypeError, match="from_ must be the name of a convention, or a pair of it and its options"):
        convert_lr(0.1, ("dion", "rms_norm"), "dion", (4, 4))
    with pytest.raises(TypeError, match=r"shape must be \(out, in\), several of them, or a routing, got int"):
        convert_lr(0.1, "dion", "dion", 4)
    with pytest.raises(TypeError, match="lr must be a number"):
        convert_lr("0.1", "dion", "dion", (4, 4))
    with pytest.raises(ValueError, match="the shapes have no names"):
        convert_lr(0.1, "dion", "dion", (4, 4)).options()
    with pytest.raises(ValueError, match="weight_decay was not given"):
        _ = convert_lr(0.1, "dion", "dion", (4, 4)).weight_decay
