import pytest
import torch
from torch import nn

from isometry.init import gaussian_


def gen(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize(("out", "in_"), [(400, 100), (100, 400)])
def test_through_a_real_linear_layer(out, in_):
    # The dks error: a test that reads (in, out) as well would pass; a real layer does not.
    layer = nn.Linear(in_, out, bias=False)
    gaussian_(layer.weight, sigma=1.5, generator=gen())
    x = torch.randn(500, in_, generator=gen(1))
    assert float(layer(x).detach().square().mean() / x.square().mean()) == pytest.approx(1.5**2, rel=0.02)


@pytest.mark.parametrize(("out", "in_", "groups"), [(32, 16, 1), (16, 32, 1), (32, 32, 4)])
def test_through_a_real_convolution(out, in_, groups):
    layer = nn.Conv2d(in_, out, 3, padding=1, padding_mode="circular", groups=groups, bias=False)
    gaussian_(layer.weight, sigma=1.5, generator=gen())
    x = torch.randn(20, in_, 12, 12, generator=gen(1))
    # 2304 weights at least: their mean square scatters by sqrt(2 / 2304) = 3 %.
    assert float(layer(x).detach().square().mean() / x.square().mean()) == pytest.approx(1.5**2, rel=0.12)


def test_a_transposed_convolution_says_its_fan_in():
    layer = nn.ConvTranspose1d(32, 48, 3, padding=1, bias=False)
    gaussian_(layer.weight, sigma=1.5, fan_in=32 * 3, generator=gen())
    x = torch.randn(20, 32, 50, generator=gen(1))
    inner = layer(x).detach()[..., 1:-1]
    assert float(inner.square().mean() / x.square().mean()) == pytest.approx(1.5**2, rel=0.1)


def test_entries_are_independent_and_normal():
    n = 200_000
    z = gaussian_(torch.empty(n // 4, 4, dtype=torch.float64), sigma=2.0, generator=gen())  # deviation 2 / sqrt(4)
    assert abs(float(z.mean())) < 5 / n**0.5
    assert float(z.var()) == pytest.approx(1, abs=5 * (2 / n) ** 0.5)
    assert float((z**4).mean()) == pytest.approx(3, abs=5 * (96 / n) ** 0.5)
    assert abs(float((z[:, 0] * z[:, 1]).mean())) < 5 / (n / 4) ** 0.5


def test_vectors_need_a_fan_in():
    v = gaussian_(torch.empty(10_000), sigma=3.0, fan_in=9, generator=gen())
    assert float(v.std()) == pytest.approx(1, rel=0.05)
    with pytest.raises(ValueError, match=r"got shape \(3,\); pass fan_in= for a vector"):
        gaussian_(torch.empty(3))
    for fan_in in (0, 1.5, True):
        with pytest.raises(ValueError, match="fan_in must be a whole number >= 1, got"):
            gaussian_(torch.empty(3, 3), fan_in=fan_in)


def test_zero_sigma_is_the_zero_matrix():
    assert bool((gaussian_(torch.ones(3, 3), sigma=0.0) == 0).all())
