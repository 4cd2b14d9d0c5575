"""The record of a constraint survives what happens to models: copies, files, dtypes, replaced parameters, compilers."""

from __future__ import annotations

import copy
import gc
import io
import pickle

import pytest
import torch
from torch import nn

from isometry import manifolds
from isometry.manifolds._registry import registered


def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 3))


def constrained(**options):
    model = net()
    manifolds.constrain_(model, **options)
    return model


def held(model, count=2):
    """Each record of the model belongs to its own parameter, and is found by it."""
    records = manifolds.constraints(model)
    assert len(records) == count
    for name, record in records.items():
        parameter = model.get_parameter(name)
        assert record.parameter is parameter
        assert manifolds.constraint_of(parameter) is record
    assert all(manifolds.constraint_of(p) is None for n, p in model.named_parameters() if n not in records)
    return records


def test_the_weight_stays_an_ordinary_parameter():
    plain, model = net(), constrained()
    assert list(plain.state_dict()) == list(model.state_dict())
    assert [type(p) for p in model.parameters()] == [nn.Parameter] * 6
    assert all(p.is_leaf for p in model.parameters())
    assert repr(plain) == repr(model)
    held(model)


def test_state_dicts():
    model = constrained()
    state = copy.deepcopy(model.state_dict())
    records = held(model)
    for other in (constrained(), net()):
        other.load_state_dict(state)
    model.load_state_dict({k: v for k, v in state.items() if "2" in k}, strict=False)
    assert held(model) == records
    model.load_state_dict({k: v.clone() for k, v in state.items()}, assign=True)
    assert held(model) == records
    assert manifolds.check(model).ok
    state["2.weight"][0, 0] += 0.5
    model.load_state_dict(state)
    found = manifolds.check(model)
    assert [row.name for row in found if not row.ok] == ["2.weight"]
    assert found.summary == "2 constrained parameters, 1 OFF their manifold"


def test_a_loaded_state_of_another_scale_is_told():
    model, other = constrained(scale=2.0), constrained(scale=3.0)
    model.load_state_dict(other.state_dict())
    row = manifolds.check(model)["2.weight"]
    assert not row.ok
    assert row.note == "its scale is 3 instead of 2"
    assert (row.scale, row.measured_scale) == (2.0, pytest.approx(3.0, rel=1e-6))


def test_a_scale_that_is_off_by_little_is_told_too():
    model, other = constrained(scale=2.0), constrained(scale=2.0006)
    model.load_state_dict(other.state_dict())
    assert manifolds.check(model)["2.weight"].note == "its scale is 2.0006 instead of 2"


@pytest.mark.parametrize("scale", ["fixed", "learned"])
def test_copies_have_records_of_their_own(scale):
    model = constrained(scale=scale)
    records = held(model)
    twin = copy.deepcopy(model)
    for name, record in held(twin).items():
        assert record is not records[name]
        assert record.module is not records[name].module
        assert (record.given, record.scale_kind, record.axes) == (
            records[name].given,
            records[name].scale_kind,
            records[name].axes,
        )
    manifolds.release(twin)
    held(model)
    part = copy.deepcopy(model[2])
    assert manifolds.constraint_of(part.weight).module is part


def test_files_and_pickles_of_whole_models():
    model = constrained(manifold=manifolds.Oblique(dim=-1), scale=2.0)
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    for other in (torch.load(file, weights_only=False), pickle.loads(pickle.dumps(model))):
        records = held(other)
        assert records["0.weight"].given == manifolds.Oblique(dim=-1)
        assert records["0.weight"].scale() == 2.0
        assert manifolds.check(other).ok
    held(model)


def test_dtypes_devices_and_swapped_parameters():
    model = constrained()
    records = held(model)
    for dtype in (torch.float64, torch.bfloat16, torch.float32):
        model.to(dtype)
        assert held(model) == records
        assert manifolds.check(model)["0.weight"].dtype == dtype
    torch.__future__.set_overwrite_module_params_on_conversion(True)
    try:
        before = model[0].weight
        model.to(torch.float64)
        assert model[0].weight is not before
        assert held(model) == records
    finally:
        torch.__future__.set_overwrite_module_params_on_conversion(False)
    old = model[0].weight
    assert manifolds.constraint_of(old) is records["0.weight"]
    model[0].weight = nn.Parameter(old.detach().clone())
    assert manifolds.constraint_of(old) is None
    assert held(model) == records


def test_compiled_models_are_the_same_models():
    model = constrained()
    x = torch.randn(4, 5)
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    assert torch.equal(compiled(x), model(x))
    assert set(manifolds.constraints(compiled)) == {"_orig_mod.0.weight", "_orig_mod.2.weight"}
    exported = torch.export.export(model, (x,))
    assert torch.equal(exported.module()(x), model(x))
    manifolds.release(compiled)
    twice = torch.compile(net(), backend="eager", fullgraph=True)
    assert len(manifolds.constrain_(twice).constrained) == 2


def test_parametrizing_afterwards_is_noticed():
    model = constrained()
    record = manifolds.constraints(model)["2.weight"]
    nn.utils.parametrizations.weight_norm(model[2])
    row = manifolds.check(model)["2.weight"]
    assert not row.ok
    assert row.note == "no longer a parameter of its module (parametrized since?)"
    with pytest.raises(
        ValueError, match=r"2.weight is no longer a parameter of its ParametrizedLinear \(was it parametr"
    ):
        _ = record.parameter
    assert all(manifolds.constraint_of(p) is None for p in model[2].parameters())


def test_records_go_with_their_models():
    gc.collect()
    before = len(list(registered()))
    model = constrained()
    assert len(list(registered())) == before + 2
    del model
    gc.collect()
    assert len(list(registered())) == before


def test_the_record_reads_and_writes_the_weight():
    model = constrained(scale=2.0)
    record = manifolds.constraints(model)["0.weight"]  # 8 x 5
    assert repr(record) == "Constraint('0.weight', stiefel, scale 2, fixed, shape (8, 5))"
    assert record.matrix(model[0].weight).data_ptr() == model[0].weight.data_ptr()  # a view, nothing is copied
    q = record.manifold.random(1, 8, 5)
    assert record.write_(q) is model[0].weight
    assert torch.equal(model[0].weight, 2 * q[0])
    assert torch.allclose(record.point(), q)
    with pytest.raises(ValueError, match=r"the scale of 0.weight is fixed at 2, got 3; constrain it again with"):
        record.write_(q, 3.0)
    with pytest.raises(ValueError, match=r"tensor must have the shape of 0.weight, \(8, 5\), got \(5, 8\)"):
        record.matrix(torch.ones(5, 8))
    learned = constrained(scale="learned")
    record = manifolds.constraints(learned)["0.weight"]
    record.write_(q, 3.0)
    assert float(record.scale()) == pytest.approx(3.0, rel=1e-6)
    assert record.scale().shape == ()
    record.write_(-q)
    assert torch.allclose(learned[0].weight, -3 * q[0], atol=1e-5)
    with torch.no_grad():
        learned[0].weight.zero_()
    with pytest.raises(ValueError, match=r"0.weight is zero and has no point on stiefel; initialize it anew"):
        record.point()
