"""Kernel and four-point vertex of ensembles: naive loops, exact values, theory at leading order, and refusals."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from isometry import measure, theory, training
from isometry.measure._ensemble_stats import jackknife, pair_mean, product_of_means


def seeded(seed):
    return torch.Generator().manual_seed(seed)


def naive(z):
    """Transcribe the definitions of K, V and V/K^2 with loops; z is (networks, n)."""
    nets, n = z.shape
    k = np.mean([z[a, i] ** 2 for a in range(nets) for i in range(n)])
    pairs = np.mean([z[a, i] ** 2 * z[a, j] ** 2 for a in range(nets) for i in range(n) for j in range(i)])
    means = [np.mean(z[a] ** 2) for a in range(nets)]
    squared = np.mean([means[a] * means[b] for a in range(nets) for b in range(nets) if a != b])
    v = n * (pairs - squared)
    return np.array([k, v, v / k**2])


def test_against_naive_loops():
    # Seen to fail with equal pairs i = j let in, with the biased K^2, and with the jackknife's factor left out.
    draw = seeded(0)
    weights = [torch.randn(6, 4, m, generator=draw, dtype=torch.float64) for m in (3, 4)]
    x = torch.tensor([0.3, -0.2, 1.0], dtype=torch.float64)
    found = measure.preactivation_stats(weights, x, "tanh")
    z = (weights[1] @ torch.tanh(weights[0] @ x).unsqueeze(-1)).squeeze(-1).numpy()
    wanted = naive(z)
    ours = torch.stack([found.kernel, found.vertex, found.fluctuation])[:, 1].numpy()
    np.testing.assert_allclose(ours, wanted, rtol=1e-11)
    replicas = np.stack([naive(np.delete(z, a, axis=0)) for a in range(6)])
    stderr = np.sqrt(5 / 6 * ((replicas - replicas.mean(axis=0)) ** 2).sum(axis=0))
    errors = torch.stack([found.kernel_stderr, found.vertex_stderr, found.fluctuation_stderr])[:, 1].numpy()
    np.testing.assert_allclose(errors, stderr, rtol=1e-9)


def test_the_jackknife_of_a_mean_is_its_standard_error():
    sample = torch.randn(50, generator=seeded(1), dtype=torch.float64)
    value, error = jackknife({"x": sample}, lambda mean, count: {"x": mean["x"]})["x"]
    assert float(value) == pytest.approx(float(sample.mean()))
    assert float(error) == pytest.approx(float(sample.std() / 50**0.5))


def test_products_of_means_are_unbiased_by_construction():
    f, g = torch.randn(2, 7, generator=seeded(2), dtype=torch.float64)
    wanted = np.mean([float(f[a] * g[b]) for a in range(7) for b in range(7) if a != b])
    assert float(product_of_means(f.mean(), g.mean(), (f * g).mean(), 7)) == pytest.approx(wanted)
    pairs = np.mean([float(f[i] * g[j]) for i in range(7) for j in range(7) if i != j])
    assert float(pair_mean(f, g)) == pytest.approx(pairs)


def test_linear_orthogonal_networks_at_finite_width():
    # |z|^2 = |x|^2 in every network, z is uniform on that sphere: K is exact and V/K^2 = -2 n / (n + 2). The estimate
    # deviates from it by more than 4.5 standard errors once in 150,000 layers; there are 4, at a fixed seed.
    n = 6
    found = measure.preactivation_stats(
        training.ensemble(3000, [n] * 5, generator=seeded(3)), torch.arange(1.0, n + 1), "linear"
    )
    np.testing.assert_allclose(found.kernel.numpy(), 91 / 6, rtol=1e-12)
    off = (found.fluctuation + 2 * n / (n + 2)).abs() / found.fluctuation_stderr
    assert float(off.max()) < 4.5
    assert float(found.fluctuation_stderr.max()) < 0.05  # so -2 itself is 10 standard errors away
    # the control: Gaussian weights, whose V/K^2 is 2 (l - 1) at leading order
    gaussian = training.ensemble(3000, [n] * 5, weights="gaussian", generator=seeded(3))
    grown = measure.preactivation_stats(gaussian, torch.arange(1.0, n + 1), "linear")
    assert float(grown.fluctuation[-1] - grown.fluctuation[0]) > 4


@pytest.mark.parametrize("weights", ["orthogonal", "gaussian", "mixed"])
def test_tanh_follows_theory_up_to_higher_orders(weights):
    # Next to 3.5 standard errors, terms of relative order depth / n: at n = 48 and 4 layers the recursions' own
    # value may be off by 3 (1 + |V/K^2|) / n (for -2 n / (n + 2) it is 4 / n).
    n = 48
    predicted = theory.finite_width("tanh", k1=0.49, depth=4, weights=weights)
    stack = training.ensemble(1500, [n] * 5, weights=weights, generator=seeded(4))
    found = measure.preactivation_stats(stack, 0.7 * torch.ones(n), "tanh")
    assert found.kernel.numpy() == pytest.approx(predicted.kernel, rel=0.02)
    allowed = 3.5 * found.fluctuation_stderr.numpy() + 3 * (1 + abs(predicted.fluctuation)) / n
    assert (abs(found.fluctuation.numpy() - predicted.fluctuation) < allowed).all()
    other = {"orthogonal": "gaussian", "gaussian": "mixed", "mixed": "gaussian"}[weights]
    wrong = theory.finite_width("tanh", k1=0.49, depth=4, weights=other)  # type: ignore[arg-type]
    assert (abs(found.fluctuation.numpy() - wrong.fluctuation) > allowed)[-1]


def test_a_tensor_of_layers_and_a_list_are_the_same():
    stack = torch.stack(list(training.ensemble(5, [4, 4, 4, 4], generator=seeded(5))))
    x = torch.ones(4)
    one, two = measure.preactivation_stats(stack, x, "tanh"), measure.preactivation_stats(list(stack), x, torch.tanh)
    assert torch.equal(one.vertex, two.vertex)
    assert (one.networks, one.width, one.activation) == (5, 4, "tanh")
    assert str(one).splitlines()[0] == "5 tanh networks of width 4"
    assert len(one.to_dict()["kernel"]) == 3


def test_refusals():
    stack, x = torch.ones(2, 5, 4, 4), torch.ones(4)
    with pytest.raises(ValueError, match=r"weights holds 2 networks; averages .* need at least 3"):
        measure.preactivation_stats(torch.ones(2, 2, 4, 4), x, "tanh")
    with pytest.raises(ValueError, match="weights holds 1 network; averages"):
        measure.preactivation_stats(torch.ones(2, 1, 4, 4), x, "tanh")
    with pytest.raises(ValueError, match=r"x is zero, so every pre-activation is zero and V / K\^2 is undefined"):
        measure.preactivation_stats(stack, torch.zeros(4), "tanh")
    with pytest.raises(ValueError, match="there are no pairs of units"):
        measure.preactivation_stats(torch.ones(1, 5, 1, 4), x, "tanh")
    with pytest.raises(ValueError, match="statistics per unit need equal widths"):
        measure.preactivation_stats([stack[0], torch.ones(5, 3, 4)], x, "tanh")
    bad = stack.clone()
    bad[1, 0, 0, 0] = torch.nan
    with pytest.raises(ValueError, match=r"weights\[1\] holds 1 non-finite value"):
        measure.preactivation_stats(bad, x, "tanh")
