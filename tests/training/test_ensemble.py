"""Ensembles: what the matrices are, which stream they come from, and refusals."""

from __future__ import annotations

import pytest
import torch

from isometry.training import Ensemble, ensemble


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def defect(w, scale=1.0):
    gram = w @ w.mT if w.shape[-2] <= w.shape[-1] else w.mT @ w
    return float((gram - scale**2 * torch.eye(gram.shape[-1], dtype=w.dtype)).abs().max())


def test_orthogonal_layers_are_orthogonal_and_independent():
    nets = ensemble(50, [6] * 4, sigma_w=1.5, generator=seeded())
    layers = list(nets)
    assert len(nets) == len(layers) == 3
    assert all(w.shape == (50, 6, 6) and w.dtype == torch.float64 for w in layers)
    assert max(defect(w, 1.5) for w in layers) < 1e-13
    # Entries of a Haar matrix have variance 1/n: over 50 networks the mean of products of two layers' entries has the
    # standard deviation sigma^2 / n / sqrt(50 n^2).
    overlap = (layers[0] * layers[1]).mean()
    assert abs(float(overlap)) < 4 * 1.5**2 / 6 / (50 * 36) ** 0.5


def test_gaussian_and_mixed_layers():
    # The mean square of m entries of variance s has the standard deviation s sqrt(2 / m).
    gaussian = ensemble(40, [10, 20, 20], weights="gaussian", sigma_w=2.0, generator=seeded())
    for w, fan_in in zip(gaussian, (10, 20), strict=True):
        variance = 4.0 / fan_in
        assert abs(float(w.square().mean()) - variance) < 4 * variance * (2 / w.numel()) ** 0.5
    mixed = list(ensemble(40, [10, 20, 20], weights="mixed", generator=seeded()))
    assert defect(mixed[0]) > 0.1
    assert defect(mixed[1]) < 1e-13


def test_the_same_layers_come_again_in_any_order_and_leave_the_global_stream_alone():
    state = torch.get_rng_state()
    nets = ensemble(3, [4] * 5, generator=seeded(7))
    last = nets.layer(3)
    assert torch.equal(last, list(nets)[3])
    assert torch.equal(nets.layer(0), ensemble(3, [4] * 5, generator=seeded(7)).layer(0))
    assert not torch.equal(nets.layer(0), ensemble(3, [4] * 5, generator=seeded(8)).layer(0))
    # deeper networks begin alike
    assert torch.equal(nets.layer(2), ensemble(3, [4] * 9, generator=seeded(7)).layer(2))
    assert torch.equal(torch.get_rng_state(), state)
    assert isinstance(nets, Ensemble)
    assert str(nets) == "3 networks of 4 layers (4 -> 4 -> 4 -> ...), orthogonal, sigma_w=1"
    with pytest.raises(IndexError, match="index must be from 0 to 3, got 4"):
        nets.layer(4)


@pytest.mark.parametrize("widths", [(8, 3), (3, 8)])
def test_semi_orthogonal_layers_keep_the_mean_square(widths):
    fan_in, out = widths
    w = ensemble(4000, widths, semi_orthogonal=True, sigma_w=1.2, generator=seeded()).layer(0)
    x = torch.randn(fan_in, generator=seeded(1), dtype=torch.float64)
    ratios = ((w @ x).square().mean(-1) / x.square().mean()) / 1.44
    # exact with orthonormal columns; with rows it is 8/3 of a Beta(3/2, 5/2) variable of standard deviation 0.2165
    limit = 1e-12 if out > fan_in else 4 * (8 / 3) * 0.2165 / 4000**0.5
    assert abs(float(ratios.mean()) - 1) < limit


def test_dtypes():
    w = ensemble(2, [3, 3], weights="gaussian", dtype=torch.bfloat16, generator=seeded()).layer(0)
    assert w.dtype == torch.bfloat16
    assert ensemble(2, [3, 3], dtype=torch.float32, generator=seeded()).layer(0).dtype == torch.float32


def test_refusals():
    with pytest.raises(
        ValueError, match=r"widths\[1\] = 4 and widths\[2\] = 5 differ, so layer 1 cannot be orthogonal"
    ):
        ensemble(3, [4, 4, 5])
    with pytest.raises(ValueError, match=r"widths\[0\] = 7 and widths\[1\] = 4 differ, so layer 0"):
        ensemble(3, [7, 4])
    ensemble(3, [7, 4, 4], weights="mixed")  # its first layer is Gaussian
    with pytest.raises(ValueError, match="networks must be a positive whole number, got 0"):
        ensemble(0, [4, 4])
    with pytest.raises(ValueError, match=r"widths\[1\] must be a positive whole number, got 2.5"):
        ensemble(3, [4, 2.5])  # type: ignore[list-item]
    with pytest.raises(ValueError, match=r"widths must hold the inputs and at least one layer, got \[4\]"):
        ensemble(3, [4])
    with pytest.raises(ValueError, match="unknown weights 'haar'"):
        ensemble(3, [4, 4], weights="haar")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="sigma_w must be a finite number > 0, got 0"):
        ensemble(3, [4, 4], sigma_w=0.0)
    with pytest.raises(TypeError, match=r"dtype must be a real floating dtype, got torch\.int64"):
        ensemble(3, [4, 4], dtype=torch.int64)
