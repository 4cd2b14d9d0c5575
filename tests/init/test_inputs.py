import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from isometry.init import orthogonal_, scale_inputs


@settings(deadline=None, max_examples=15)
@given(
    inputs=st.integers(20, 60),
    outputs=st.integers(20, 60),
    q_star=st.floats(1e-3, 4),
    scale=st.sampled_from([1e-6, 1.0, 1e6]),
)
def test_first_pre_activations_have_variance_q_star(inputs, outputs, q_star, scale):
    generator = torch.Generator().manual_seed(inputs * 100 + outputs)
    layer = nn.Linear(inputs, outputs, bias=False)
    orthogonal_(layer.weight, gain=1.2, generator=generator)
    x = scale_inputs(scale * torch.randn(400, inputs, generator=generator), q_star=q_star, sigma_w=1.2, fan_out=outputs)
    # the mean over 400 * outputs squares of a chi-squared kind: relative error below 5 / sqrt(400 * 20 / 2)
    assert layer(x).square().mean().item() == pytest.approx(q_star, rel=0.08)


def test_gaussian_weights_use_the_number_of_inputs():
    x = scale_inputs(torch.randn(5, 3, 4), q_star=0.5, sigma_w=2.0, sigma_b=0.1, weights="gaussian")
    assert x.shape == (5, 3, 4)
    assert x.square().flatten(1).sum(1).tolist() == pytest.approx([12 * (0.5 - 0.01) / 4] * 5)


def test_one_factor_for_all_keeps_ratios():
    x = torch.tensor([[1.0, 0.0], [3.0, 0.0]])
    scaled = scale_inputs(x, q_star=1.0, sigma_w=1.0, fan_out=2, per_sample=False)
    assert (scaled[1, 0] / scaled[0, 0]).item() == pytest.approx(3)
    assert scaled.square().sum(1).mean().item() == pytest.approx(2)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_dtype_is_kept(dtype):
    assert scale_inputs(torch.ones(2, 3, dtype=dtype), q_star=1.0, sigma_w=1.0, fan_out=3).dtype == dtype


@pytest.mark.parametrize(
    ("x", "options", "message"),
    [
        (torch.zeros(2, 3), {}, "x holds 2 samples that are zero and have no direction"),
        (torch.full((2, 3), float("nan")), {}, "x holds 6 non-finite values"),
        (torch.ones(2, 3), {"sigma_b": 2.0}, "sigma_b must be below sqrt(q_star) = 1, got 2.0"),
        (torch.ones(2, 3), {"fan_out": None}, "fan_out is needed for orthogonal weights"),
        (torch.ones(2, 3), {"q_star": 0.0}, "q_star must be a finite number > 0, got 0.0"),
        (torch.ones(2, 3), {"weights": "haar"}, "weights must be 'orthogonal' or 'gaussian', got 'haar'"),
        (torch.ones(0, 3), {}, "x is empty"),
    ],
)
def test_errors(x, options, message):
    with pytest.raises(ValueError) as caught:
        scale_inputs(x, **{"q_star": 1.0, "sigma_w": 1.0, "fan_out": 3, **options})
    assert message in str(caught.value)
