"""The settings of the polar factor: against the composed scalar polynomial, the SVD, and what the table states."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from isometry.linalg import haar
from isometry.optim import POLAR, Muon, orthogonalized
from isometry.optim import _orthogonal_step as step

ITERATED = [name for name, setting in POLAR.items() if setting.steps]


def gen(seed=0):
    return torch.Generator().manual_seed(seed)


def spectrum(values, m, n, seed=0, dtype=torch.float64):
    """A matrix of given singular values, with its singular vectors."""
    k = len(values)
    u = haar(m, k, generator=gen(seed), dtype=dtype)
    v = haar(n, k, generator=gen(seed + 1), dtype=dtype)
    return (u * values) @ v.mT, u, v


def errors(matrix):
    off = torch.linalg.svdvals(matrix.double()) - 1
    return float(off.square().mean().sqrt()), float(off.abs().max())


@pytest.mark.parametrize("name", ITERATED)
@pytest.mark.parametrize(("m", "n"), [(12, 12), (20, 9), (9, 20)])
def test_singular_values_move_as_the_composed_polynomial_says(name, m, n):
    values = torch.logspace(0, -4, min(m, n), dtype=torch.float64)
    matrix, u, v = spectrum(values, m, n)
    setting = POLAR[name]
    power = 4 if setting.bound == "schatten-4" else 2
    s = values / values.pow(power).sum() ** (1 / power)
    for a, b, c in setting.steps:
        s = a * s + b * s**3 + c * s**5
    torch.testing.assert_close(orthogonalized(7.0 * matrix, polar=name), (u * s) @ v.mT, rtol=0, atol=1e-9)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("m", "n"), [(30, 30), (50, 20), (20, 50)])
def test_the_accurate_setting_gives_the_polar_factor(m, n, dtype):
    values = torch.logspace(0, -3, min(m, n), dtype=dtype)
    matrix, u, v = spectrum(values, m, n, dtype=dtype)
    torch.testing.assert_close(orthogonalized(matrix, polar="accurate"), u @ v.mT, rtol=0, atol=2e-3)
    torch.testing.assert_close(orthogonalized(matrix, polar="exact"), u @ v.mT, rtol=0, atol=1e-3)


@pytest.mark.parametrize("name", POLAR)
def test_the_stated_error_is_the_measured_one(name):
    matrices = torch.randn(24, 400, 400, generator=gen())  # the smallest values decide, and vary from draw to draw
    if not POLAR[name].steps:  # in float32 a value below 4.8e-5 of the largest, one in 10,000 here, counts as zero
        matrices = matrices.double()
    dtype = torch.bfloat16 if POLAR[name].steps else None
    off = torch.linalg.svdvals(orthogonalized(matrices, polar=name, compute_dtype=dtype).double()) - 1
    assert float(off.square().mean().sqrt()) == pytest.approx(POLAR[name].error, rel=0.3, abs=2e-3)


HARD = {
    "square": torch.randn(400, 400, generator=gen(1)),
    "tall": torch.randn(900, 300, generator=gen(2)),
    "wide": torch.randn(300, 900, generator=gen(3)),
    "geometric": spectrum(torch.logspace(0, -3, 300), 300, 300, dtype=torch.float32)[0],
    "two strong directions": torch.randn(300, 2, generator=gen(4)) @ torch.randn(2, 300, generator=gen(5))
    + torch.randn(300, 300, generator=gen(6)),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kind", HARD)
@pytest.mark.parametrize(("name", "products", "slack"), [("fast", 12, 1.01), ("quick", 11, 1.03)])
def test_fewer_products_from_the_tighter_bound_do_not_fall_short_of_the_first_releases(
    name, products, slack, kind, dtype
):
    ours = errors(orthogonalized(HARD[kind], polar=name, compute_dtype=dtype))
    first = errors(orthogonalized(HARD[kind], polar="muon", compute_dtype=dtype))
    assert ours[0] < slack * first[0]
    assert ours[1] < slack * first[1]
    assert sum(3 if c else 2 for _, _, c in POLAR[name].steps) == products


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kind", ["tall", "wide", "geometric"])
def test_the_accurate_setting_is_within_a_percent_in_bfloat16_too(kind, dtype):
    assert errors(orthogonalized(HARD[kind], polar="accurate", compute_dtype=dtype))[0] < 1e-2


@given(
    st.sampled_from(list(POLAR)),
    st.integers(1, 12),
    st.integers(1, 12),
    st.sampled_from([1e-30, 1e-20, 1.0, 1e20, 1e30]),
    st.sampled_from([torch.float32, torch.bfloat16, torch.float64]),
    st.integers(0, 10_000),
)
@settings(max_examples=80, deadline=None)
def test_scale_does_not_matter(name, m, n, size, dtype, seed):
    matrix = torch.randn(m, n, generator=gen(seed)).to(dtype)
    scaled = orthogonalized(matrix * size, polar=name)
    assert scaled.dtype == dtype
    wide = scaled.double()
    assert torch.isfinite(wide).all()
    # bfloat16 matrices are rounded once more by the scaling; a nearly singular one may turn far by that.
    if dtype != torch.bfloat16 and float(torch.linalg.cond(matrix.double())) < 100:
        torch.testing.assert_close(wide, orthogonalized(matrix, polar=name).double(), rtol=0, atol=1e-3)


@pytest.mark.parametrize("name", POLAR)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_zeros_stay_zero_beside_others(name, dtype):
    stack = torch.stack([torch.zeros(4, 6), torch.eye(4, 6)]).to(dtype)
    result = orthogonalized(stack, polar=name)
    assert not result[0].any()
    assert torch.allclose(result[1].float(), torch.eye(4, 6), atol=0.35)


@pytest.mark.parametrize("name", POLAR)
def test_what_is_missing_in_the_rank_is_not_made_up(name):
    matrix, u, v = spectrum(torch.ones(3, dtype=torch.float64), 8, 6)
    result = orthogonalized(matrix, polar=name)
    assert float((result - u @ u.mT @ result @ v @ v.mT).norm()) < 1e-6


@pytest.mark.parametrize("name", POLAR)
def test_batches_are_matrices_one_by_one_and_the_argument_is_left_alone(name):
    stack = torch.randn(2, 3, 7, 5, generator=gen(), dtype=torch.float64)
    before = stack.clone()
    result = orthogonalized(stack, polar=name)
    assert torch.equal(stack, before)
    for i in range(2):
        for j in range(3):
            torch.testing.assert_close(result[i, j], orthogonalized(stack[i, j], polar=name))


def test_the_iteration_compiles_as_a_whole():
    matrix = torch.randn(6, 5, generator=gen())
    compiled = torch.compile(lambda m: orthogonalized(m, polar="accurate"), fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(matrix), orthogonalized(matrix, polar="accurate"))


def weight():
    return nn.Parameter(torch.ones(2, 2))


@pytest.mark.parametrize(("gain", "chosen"), [(4.0, "bfloat16"), (1.1, "float32"), (0.3, "float32")])
def test_the_dtype_is_measured_and_written_into_the_group(gain, chosen, monkeypatch):
    monkeypatch.setattr(step, "_gain", lambda: gain)
    optimizer = Muon([weight()])
    assert optimizer.param_groups[0]["compute_dtype"] == chosen
    assert optimizer.state_dict()["param_groups"][0]["compute_dtype"] == chosen
    fixed = Muon([{"params": [weight()], "compute_dtype": "float32"}])
    assert fixed.param_groups[0]["compute_dtype"] == "float32"


def test_processes_of_a_group_do_not_measure_each_for_itself(monkeypatch):
    monkeypatch.setattr(step, "_gain", lambda: 4.0)
    for name, value in {"is_initialized": True, "get_world_size": 2}.items():
        monkeypatch.setattr(torch.distributed, name, lambda value=value: value)
    assert Muon([weight()]).param_groups[0]["compute_dtype"] == "float32"


def test_the_measurement_is_a_ratio():
    assert 0.01 < step._gain() < 100


@pytest.mark.parametrize(
    ("matrices", "polar", "error", "words"),
    [
        (torch.ones(3), "fast", ValueError, "matrices"),
        (torch.ones(2, 2, dtype=torch.long), "fast", TypeError, "matrices"),
        ([[1.0]], "fast", TypeError, "matrices"),
        (torch.ones(2, 2), "fats", ValueError, "did you mean 'fast'"),
    ],
)
def test_what_has_no_polar_factor_is_refused(matrices, polar, error, words):
    with pytest.raises(error, match=words):
        orthogonalized(matrices, polar=polar)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", ITERATED)
@pytest.mark.parametrize("shape", [(16, 16), (16, 64), (64, 16)])
def test_directions_that_are_missing_do_not_run_away(name, dtype, shape):
    """As in the momentum of a layer after a normalization, which has no mean; rounding fills it, and steps amplify."""
    for seed in range(10):
        for rank in (1, 2, 8, 15):
            values = torch.zeros(16)
            values[:rank] = torch.logspace(0, -1.7, rank)
            matrix, _, _ = spectrum(values, *shape, seed=seed, dtype=torch.float32)
            found = orthogonalized(matrix, polar=name, compute_dtype=dtype)
            assert float(torch.linalg.matrix_norm(found.double(), 2)) < 1.3
