"""One table of initializers, one table of inputs: a new initializer joins the first and meets all of the second."""

from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, parametrize

from isometry.init import (
    delta_orthogonal,
    delta_orthogonal_,
    from_connectivity,
    from_connectivity_,
    gaussian,
    gaussian_,
    low_rank,
    low_rank_,
    orthogonal,
    orthogonal_,
    orthogonal_convolution,
    orthogonal_convolution_,
)


@dataclass(frozen=True)
class Case:
    name: str
    fill: Any
    make: Any
    shapes: tuple[tuple[int, ...], ...]
    kwargs: tuple[tuple[str, Any], ...] = ()


MATRICES = ((6, 6), (3, 7), (7, 3), (1, 5), (5, 1), (1, 1), (4, 3, 3, 3), (8, 2, 5), (2, 3, 1, 2, 3))


def from_mask_(tensor, **kwargs):
    """Give the weight a wiring in which every unit is connected."""
    shape = tensor.shape if isinstance(tensor, torch.Tensor) and not nn.parameter.is_lazy(tensor) else (2, 2)
    return from_connectivity_(tensor, torch.ones(shape, dtype=torch.bool), **kwargs)


def from_mask(shape, **kwargs):
    return from_connectivity(torch.ones(shape, dtype=torch.bool), **kwargs)


KERNELS = ((4, 4, 3), (6, 4, 3, 3), (1, 1, 3), (5, 1, 4, 4), (4, 2, 3, 2, 1))
CASES = [
    Case("orthogonal_", orthogonal_, orthogonal, MATRICES),
    Case("orthogonal_ stacked", orthogonal_, orthogonal, ((2, 3, 5), (2, 5, 3, 3)), (("batch_dims", 1),)),
    Case("gaussian_", gaussian_, gaussian, MATRICES),
    Case("low_rank_", low_rank_, low_rank, MATRICES, (("rank", 1),)),
    Case("from_connectivity_", from_mask_, from_mask, MATRICES[:6]),
    Case("delta_orthogonal_", delta_orthogonal_, delta_orthogonal, KERNELS),
    Case("orthogonal_convolution_", orthogonal_convolution_, orthogonal_convolution, (*KERNELS, (2, 5, 3, 3))),
]
GRID = [
    pytest.param(case, shape, id=f"{case.name}-{'x'.join(map(str, shape))}") for case in CASES for shape in case.shapes
]
EACH = [pytest.param(case, id=case.name) for case in CASES]
DTYPES = [torch.float64, torch.float32, torch.bfloat16, torch.float16]


def gen(seed=0):
    return torch.Generator().manual_seed(seed)


def run(case, tensor, **kwargs):
    return case.fill(tensor, **dict(case.kwargs), **kwargs)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("case", "shape"), GRID)
def test_fills_in_place_and_returns_its_argument(case, shape, dtype):
    tensor = torch.full(shape, float("nan"), dtype=dtype)
    assert run(case, tensor, generator=gen()) is tensor
    assert tensor.shape == shape
    assert tensor.dtype == dtype
    assert bool(torch.isfinite(tensor).all())
    assert bool((tensor != 0).any())


@pytest.mark.parametrize(("case", "shape"), GRID)
def test_the_generator_decides_and_the_global_stream_stays(case, shape):
    before = torch.get_rng_state()
    first = run(case, torch.empty(shape), generator=gen(3))
    assert torch.equal(first, run(case, torch.empty(shape), generator=gen(3)))
    assert not torch.equal(first, run(case, torch.empty(shape), generator=gen(4))) or first.numel() < 13
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("case", EACH)
def test_without_a_generator_the_global_stream_is_used(case):
    shape = case.shapes[0]
    torch.manual_seed(7)
    first = run(case, torch.empty(shape))
    torch.manual_seed(7)
    assert torch.equal(first, run(case, torch.empty(shape)))
    assert not torch.equal(first, run(case, torch.empty(shape)))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize(("case", "shape"), GRID)
def test_low_precision_is_the_rounded_float32_draw(case, shape, dtype):
    low = run(case, torch.empty(shape, dtype=dtype), generator=gen())
    assert torch.equal(low, run(case, torch.empty(shape), generator=gen()).to(dtype))


@pytest.mark.parametrize(("case", "shape"), GRID)
def test_the_pure_twin_makes_the_same_tensor(case, shape):
    pure = case.make(shape, **dict(case.kwargs), dtype=torch.float64, generator=gen())
    assert torch.equal(pure, run(case, torch.empty(shape, dtype=torch.float64), generator=gen()))


@pytest.mark.parametrize("case", EACH)
def test_noncontiguous_tensors_get_the_same_values(case):
    shape = case.shapes[0]
    plain = run(case, torch.empty(shape), generator=gen())
    strided = torch.empty(*shape[:-1], 2 * shape[-1])[..., ::2]
    assert torch.equal(run(case, strided, generator=gen()), plain)


@pytest.mark.parametrize("case", EACH)
def test_a_parameter_stays_a_leaf_and_its_version_moves(case):
    weight = nn.Parameter(torch.zeros(case.shapes[0]))
    loss = (weight**2).sum()
    run(case, weight)
    assert weight.is_leaf
    assert weight.requires_grad
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


@pytest.mark.parametrize("case", EACH)
def test_a_view_of_a_parameter_is_written_through(case):
    shape = case.shapes[0]
    weight = nn.Parameter(torch.zeros(2, *shape))
    run(case, weight[1])
    assert bool((weight[1] != 0).any())
    assert bool((weight[0] == 0).all())


class Double(nn.Module):
    def forward(self, x):
        return 2 * x


def doubled(module):
    parametrize.register_parametrization(module, "weight", Double())
    return module


WRAPS = [doubled, parametrizations.weight_norm, parametrizations.spectral_norm, parametrizations.orthogonal]


@pytest.mark.parametrize("wrap", WRAPS, ids=lambda w: w.__name__)
@pytest.mark.parametrize("case", EACH)
def test_a_parametrized_weight_is_refused(case, wrap):
    module = wrap(nn.Conv2d(4, 4, 3) if "delta" in case.name else nn.Linear(4, 4))
    with pytest.raises(ValueError, match=r"result of a computation.*probably parametrized. Remove the parametrization"):
        run(case, module.weight)


@pytest.mark.parametrize("case", EACH)
def test_tensors_that_cannot_be_written_to_are_refused(case):
    shape = case.shapes[0]
    with pytest.raises(ValueError, match=r"on the meta device and has no storage .* materialize it first"):
        run(case, torch.empty(shape, device="meta"))
    with pytest.raises(ValueError, match="is expanded: several of its entries share one memory cell"):
        run(case, torch.zeros(1).expand(shape))
    with pytest.raises(ValueError, match="is a lazy parameter without a shape yet; run one batch"):
        run(case, nn.LazyLinear(3).weight)
    with torch.inference_mode():
        inference = torch.zeros(shape)
    with pytest.raises(ValueError, match="is an inference tensor"):
        run(case, inference)


@pytest.mark.parametrize("case", EACH)
def test_what_is_no_real_weight_is_refused(case):
    shape = case.shapes[0]
    with pytest.raises(TypeError, match=r"must be a torch.Tensor, got Linear"):
        run(case, nn.Linear(2, 2))
    for dtype in (torch.complex64, torch.int64):
        with pytest.raises(TypeError, match=f"must be real floating point, got {dtype}"):
            run(case, torch.zeros(shape, dtype=dtype))
    with pytest.raises(ValueError, match="is empty"):
        run(case, torch.zeros(0, *shape[1:]))
    with pytest.raises(ValueError, match=r"must have .* dimensions.*got shape \(3,\)"):
        run(case, torch.zeros(3))
    with pytest.raises(ValueError, match=r"must have .* dimensions.*got shape \(\)"):
        run(case, torch.zeros(()))


@pytest.mark.parametrize("scale", [float("nan"), float("inf"), -1.0])
@pytest.mark.parametrize("case", EACH)
def test_a_senseless_scale_is_refused(case, scale):
    name = "gain" if "orthogonal" in case.name else "sigma"
    tensor = torch.zeros(case.shapes[0])
    with pytest.raises(ValueError, match=f"{name} must be a finite number >= 0, got"):
        run(case, tensor, **{name: scale})
    assert bool((tensor == 0).all())


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize(("case", "shape"), GRID)
def test_a_cpu_generator_gives_the_same_draw_on_cuda(case, shape):
    there = run(case, torch.empty(shape, device="cuda"), generator=gen())
    assert torch.allclose(there.cpu(), run(case, torch.empty(shape), generator=gen()), atol=1e-6)
