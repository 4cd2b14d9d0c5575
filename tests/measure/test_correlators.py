"""Correlators against loops over units and networks, exact values, and refusals."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest
import torch

from isometry import measure, training
from isometry._base import MemoryBudgetError

N, NETS = 3, 5


def seeded(seed):
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def case():
    draw = seeded(0)
    weights = [torch.randn(NETS, N, m, generator=draw, dtype=torch.float64) for m in (2, N, N)]
    return weights, torch.tensor([0.8, -0.5], dtype=torch.float64)


def naive(family, layer, nets):
    """Transcribe the definitions with loops over the ordered pairs of units, for some of the networks."""
    z, h, dh, hi, hii = (t[layer].numpy() for t in (family.z, family.h, family.dh, family.hi, family.hii))
    pairs = list(permutations(range(N), 2))

    def mean(f):
        return np.mean([f(a, i, j) for a in nets for i, j in pairs])

    def across(f, g):  # E f E g, over different networks
        return np.mean([f(a) * g(b) for a in nets for b in nets if a != b])

    def kernel(a):
        return np.mean(z[a] ** 2)

    def trace(a):
        return np.trace(h[a]) / N

    found = {
        "K": np.mean([kernel(a) for a in nets]),
        "Theta": np.mean([trace(a) for a in nets]),
        "V": N * (mean(lambda a, i, j: z[a, i] ** 2 * z[a, j] ** 2) - across(kernel, kernel)),
        "A": N * (mean(lambda a, i, j: h[a, i, i] * h[a, j, j]) - across(trace, trace)),
        "B": N * mean(lambda a, i, j: h[a, i, j] ** 2),
        "D": N * (mean(lambda a, i, j: z[a, i] ** 2 * h[a, j, j]) - across(kernel, trace)),
        "F": N * mean(lambda a, i, j: z[a, i] * z[a, j] * h[a, i, j]),
        "P": N * mean(lambda a, i, j: z[a, i] * dh[a, i, j, j]),
        "Q": N * mean(lambda a, i, j: z[a, j] * dh[a, i, i, j]),
        "R": N * mean(lambda a, i, j: hi[a, i, i, j, j]),
        "S": N * mean(lambda a, i, j: hii[a, i, i, j, j]),
        "T": N * mean(lambda a, i, j: hii[a, i, j, i, j]),
        "U": N * mean(lambda a, i, j: hii[a, i, j, j, i]),
    }
    k, theta = found["K"], found["Theta"]
    scales = dict.fromkeys("ABPQ", theta**2) | dict.fromkeys("DF", theta * k) | dict.fromkeys("RSTU", theta**3 / k)
    return found | {f"{name}~": found[name] / scale for name, scale in (scales | {"V": k**2}).items()}


def test_against_naive_loops(case):
    # Seen to fail with T and U exchanged, with z_i and z_j exchanged in P, with A's product of means left biased.
    weights, x = case
    family = measure.ntk_family(weights, x, "tanh", order=3)
    found = measure.correlators(weights, x, "tanh", order=3)
    assert list(found.value) == ["K", "Theta", "V", "A", "B", "D", "F", "P", "Q", "R", "S", "T", "U"]
    for layer in range(3):
        wanted = naive(family, layer, range(NETS))
        replicas = [naive(family, layer, [a for a in range(NETS) if a != left]) for left in range(NETS)]
        for name in wanted:
            values = found.normalized if name.endswith("~") else found.value
            errors = found.normalized_stderr if name.endswith("~") else found.stderr
            assert float(values[name[0] if name != "Theta" else name][layer]) == pytest.approx(
                wanted[name], rel=1e-9, abs=1e-12
            )
            spread = np.array([r[name] for r in replicas])
            stderr = np.sqrt((NETS - 1) / NETS * ((spread - spread.mean()) ** 2).sum())
            assert float(errors[name[0] if name != "Theta" else name][layer]) == pytest.approx(
                stderr, rel=1e-7, abs=1e-10
            )


def test_linear_orthogonal_networks_have_no_kernel_fluctuations():
    # H = l h I in every network, and dH_abc = lambda_w h l (l - 1) / (2 n) (d_ab z_c + d_ac z_b): so A, B, D, F and P
    # vanish, and Q = h l (l - 1) / 2 times the mean of z_j^2, which is K.
    n = 4
    found = measure.correlators(
        training.ensemble(6, [n] * 6, generator=seeded(1)), torch.arange(1.0, n + 1), "linear", order=2
    )
    layers = np.arange(1, 6)
    h = 1 + 30 / n
    np.testing.assert_allclose(found.value["Theta"].numpy(), layers * h, rtol=1e-12)
    for letter in "ABDFP":
        np.testing.assert_allclose(found.value[letter].numpy(), 0, atol=1e-9)
    np.testing.assert_allclose(found.value["Q"].numpy(), h * layers * (layers - 1) / 2 * 30 / n, rtol=1e-11)
    assert found.lambda_b == (1.0,) * 5


def test_lower_orders_hold_fewer_letters(case):
    weights, x = case
    one, two = (measure.correlators(weights, x, "tanh", order=k) for k in (1, 2))
    assert list(one.value) == ["K", "Theta", "V", "A", "B", "D", "F"]
    assert list(one.normalized) == ["V", "D", "F", "A", "B"]
    assert torch.equal(one.value["A"], two.value["A"])
    assert "P" in two.value
    assert "R" not in two.value
    stats = measure.preactivation_stats(weights, x, "tanh")
    torch.testing.assert_close(one.normalized["V"], stats.fluctuation)
    torch.testing.assert_close(one.normalized_stderr["V"], stats.fluctuation_stderr)


def test_it_prints_and_is_plain_data(case):
    weights, x = case
    found = measure.correlators(weights, x, "relu", order=2)
    lines = str(found).splitlines()
    assert lines[0] == "5 relu networks of width 3, normalized, at layer 3"
    assert "relu is not smooth at 0" in lines[-1]
    assert len(found.to_dict()["normalized"]["A"]) == 3


def test_refusals(case):
    weights, x = case
    with pytest.raises(ValueError, match="weights holds 2 networks; averages over an ensemble"):
        measure.correlators([w[:2] for w in weights], x, "tanh")
    with pytest.raises(ValueError, match="x is zero"):
        measure.correlators(weights, torch.zeros(2), "tanh")
    with pytest.raises(
        MemoryBudgetError, match=r"the NTK family of order 3 of 5 networks of width 3 needs .* Use order=2"
    ):
        measure.correlators(weights, x, "tanh", order=3, budget=10_000)
    with pytest.raises(MemoryBudgetError, match="Use fewer networks or a smaller width"):
        measure.correlators(weights, x, "tanh", budget=100)
