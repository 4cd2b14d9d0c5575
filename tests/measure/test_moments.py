import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from isometry.measure import _moments as moments


def naive_cosine(rows):
    """Every pair, one by one."""
    values = []
    for a in range(len(rows)):
        for b in range(a):
            u, v = rows[a].tolist(), rows[b].tolist()
            lengths = math.sqrt(math.fsum(x * x for x in u)) * math.sqrt(math.fsum(x * x for x in v))
            values.append(math.fsum(x * y for x, y in zip(u, v, strict=True)) / lengths)
    return sum(values) / len(values)


@settings(deadline=None, max_examples=25)
@given(st.integers(2, 6), st.integers(1, 5), st.integers(-150, 150), st.integers(0, 10**6))
def test_mean_cosine_is_the_mean_over_pairs(samples, width, exponent, seed):
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randn(samples, width, dtype=torch.float64, generator=generator) + 0.5
    assert moments.mean_cosine(rows * 10.0**exponent) == pytest.approx(naive_cosine(rows), abs=1e-12)


def test_mean_cosine_leaves_out_silent_and_broken_samples():
    rows = torch.tensor([[1.0, 0.0], [0.0, 0.0], [1.0, 1.0], [math.nan, 1.0]], dtype=torch.float64)
    assert moments.mean_cosine(rows) == pytest.approx(math.sqrt(0.5))
    assert math.isnan(moments.mean_cosine(rows[:2]))


def test_second_moment_and_error():
    rows = torch.tensor([[1.0, 3.0], [0.0, 2.0]], dtype=torch.float64)
    q, error = moments.second_moment(rows)
    assert q == pytest.approx(3.5)
    assert error == pytest.approx(1.5)  # samples' own moments are 5 and 2: std 3 / sqrt 2, over sqrt 2
    assert math.isnan(moments.second_moment(rows[:1])[1])


def test_by_sample_unfolds_windows_and_refuses_the_rest():
    folded = torch.arange(24.0).reshape(6, 4)
    assert torch.equal(moments.by_sample(folded, 3), folded.reshape(3, 8).double())
    assert moments.by_sample(folded, 4) is None
    assert torch.equal(moments.by_sample(folded, 4, batch_dim=1), folded.T.double())


def test_range_risk():
    values = torch.tensor([0.0, 1.0, 1e-6, 1e5, 1e-39, math.inf, math.nan, -2.0], dtype=torch.float64)
    risk = moments.range_risk(values)
    assert risk == moments.RangeRisk(
        underflow_fp16=2 / 8, underflow_bf16=1 / 8, overflow_fp16=2 / 8, overflow_bf16=1 / 8, zero=1 / 8
    )


def test_constant_units():
    units = torch.tensor([[1.0, 1.0, 0.0], [1.0 + 1e-7, 1.1, 0.0]])
    assert moments.constant_units(units) == pytest.approx(2 / 3)
    assert math.isnan(moments.constant_units(units[:1]))


def health(function, h, unit_dim=-1, **kind):
    settings_ = {"rectifies": False, "squashes": False, "steepest": 1.0} | kind
    return moments.unit_health(function, h, unit_dim, **settings_)


def test_dead_units_of_rectifiers():
    h = torch.tensor([[-1.0, -1.0, 2.0], [-2.0, 1.0, 3.0]])
    assert health(torch.relu, h, rectifies=True).dead == pytest.approx(1 / 3)
    assert health(torch.relu_, h, rectifies=True).dead == pytest.approx(1 / 3)  # in place: on a copy
    assert h[0, 0] == -1
    # The slope of GELU at -8 is 8e-15: as dead as a ReLU.
    assert health(torch.nn.functional.gelu, 8 * h, rectifies=True).dead == pytest.approx(1 / 3)


def test_channels_are_units_of_images():
    h = torch.full((2, 3, 4, 4), -1.0)
    h[0, 1, 2, 2] = 1.0
    assert health(torch.relu, h, unit_dim=1, rectifies=True).dead == pytest.approx(2 / 3)


def test_saturated_units():
    h = torch.zeros(20, 3)
    h[:, 0], h[:19, 1], h[:10, 2] = 4.0, -4.0, 4.0
    found = health(torch.tanh, h, squashes=True)
    assert found.saturated == pytest.approx(2 / 3)
    assert found.saturation == pytest.approx(49 / 60)
    # 1% of the sigmoid's steepest slope, a quarter, lies at 6, not at 3
    assert health(torch.sigmoid, h, squashes=True, steepest=0.25).saturated == 0
    assert health(torch.sigmoid, 2 * h, squashes=True, steepest=0.25).saturated == pytest.approx(2 / 3)
