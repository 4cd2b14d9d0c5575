"""Modes of data, decoupled weights, descent, and trees: against torch's autograd, an ODE solver and dense matrices."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from scipy.integrate import solve_ivp

from isometry.theory import linear_dynamics as ld


def gen(seed=0):
    return torch.Generator().manual_seed(seed)


def task(inputs=6, outputs=4, seed=0):
    """Orthonormal inputs, as rows, with random targets."""
    return ld.decompose(torch.eye(inputs), torch.randn(inputs, outputs, generator=gen(seed)))


def flow(weights, s11, s31, times):
    """Integrate tau dW_l/dt = (W_L .. W_l+1)^T (S31 - W S11) (W_l-1 .. W_1)^T with tau = 1; the products over time."""
    shapes, s11, s31 = [tuple(w.shape) for w in weights], s11.numpy(), s31.numpy()
    ends = np.cumsum([0, *(a * b for a, b in shapes)])

    def split(flat):
        return [flat[i:j].reshape(shape) for (i, j), shape in zip(itertools.pairwise(ends), shapes, strict=True)]

    def whole(chain, size):
        product = np.eye(size)
        for w in chain:
            product = w @ product
        return product

    def velocity(_t, flat):
        chain = split(flat)
        n1 = chain[0].shape[1]
        gap = s31 - whole(chain, n1) @ s11
        steps = [whole(chain[i + 1 :], len(w)).T @ gap @ whole(chain[:i], n1).T for i, w in enumerate(chain)]
        return np.concatenate([step.ravel() for step in steps])

    start = np.concatenate([w.numpy().ravel() for w in weights])
    done = solve_ivp(velocity, (0, times[-1]), start, method="DOP853", t_eval=times, rtol=1e-10, atol=1e-12)
    return [torch.from_numpy(whole(split(y), shapes[0][1])) for y in done.y.T]


def test_decompose_gives_back_the_correlation():
    g = gen()
    x, y = torch.linalg.qr(torch.randn(9, 5, generator=g, dtype=torch.float64)).Q, torch.randn(9, 3, generator=g)
    modes = ld.decompose(x, y)
    torch.testing.assert_close(modes.u * modes.s @ modes.v.T, y.double().T @ x)
    torch.testing.assert_close(modes.input_correlation, torch.eye(5, dtype=torch.float64))
    assert modes.whitening is None
    assert bool((modes.s.diff() <= 0).all())


def test_whitening_handles_directions_without_data():
    x = torch.randn(20, 6, generator=gen(), dtype=torch.float64)
    x[:, 2] = 0
    y = x @ torch.randn(6, 2, generator=gen(1), dtype=torch.float64)
    with pytest.raises(ValueError, match=r"inputs are not white: SUM x x\^T differs .* pass whiten=True"):
        ld.decompose(x, y)
    modes = ld.decompose(x, y, whiten=True)
    expected = torch.eye(6, dtype=torch.float64)
    expected[2, 2] = 0
    torch.testing.assert_close(modes.input_correlation, expected, atol=1e-12, rtol=0)
    # Whitened least squares: the targets' energy is all in the modes, since they are linear in the inputs.
    assert float(modes.s.square().sum()) == pytest.approx(float(y.square().sum()), rel=1e-10)


def test_consistency_is_that_of_the_dense_formula():
    x, y = torch.randn(30, 5, generator=gen(), dtype=torch.float64), torch.randn(30, 4, generator=gen(1)).double()
    found = ld.pretraining_consistency(x, y)
    v = np.linalg.svd((y.T @ x).numpy(), full_matrices=False)[2].T
    m = v.T @ (x.T @ x).numpy() @ v
    off = m - np.diag(np.diag(m))
    assert float(found) == pytest.approx(np.linalg.norm(off) / np.linalg.norm(np.diag(m)), rel=1e-10)
    q = torch.linalg.svd(x, full_matrices=False).Vh
    assert float(ld.pretraining_consistency(x, x @ q.T)) < 1e-10


@pytest.mark.parametrize("hidden", [[], [7], [4, 9], [5, 5, 5, 5]])
def test_decoupled_weights_are_balanced_and_aligned(hidden):
    modes = task()
    u0 = torch.tensor([0.1, 0.2, 0.3, 0.4])
    weights = ld.decoupled_weights(modes, hidden, u0, generator=gen(2))
    assert [tuple(w.shape) for w in weights] == list(zip([*hidden, 4], [6, *hidden], strict=True))
    assert ld.balancedness(weights) < 1e-13
    torch.testing.assert_close(ld.mode_strengths(weights, modes), u0.double())
    whole = weights[0]
    for w in weights[1:]:
        whole = w @ whole
    torch.testing.assert_close(whole, modes.u * u0.double() @ modes.v.T, check_dtype=False)


def test_the_global_stream_stays():
    before = torch.get_rng_state()
    ld.decoupled_weights(task(), [5], 0.1, generator=gen())
    ld.hierarchical_data(2, 5, generator=gen())
    assert torch.equal(before, torch.get_rng_state())


def test_a_narrow_layer_learns_only_as_many_modes():
    modes = task()
    weights = ld.decoupled_weights(modes, [2], 0.01, generator=gen())
    path = ld.simulate(
        weights, modes.input_correlation, modes.cross_correlation, lr=0.02, steps=2000, modes=modes, every=99
    )
    torch.testing.assert_close(path.strengths[-1], torch.cat([modes.s[:2], torch.zeros(2)]), atol=1e-9, rtol=1e-9)


@pytest.mark.parametrize("depth", [1, 2, 3, 5])
def test_three_roads_agree(depth):
    """The formula, the differential equation of all weights, and descent with a small step."""
    modes, times = task(seed=3), np.linspace(0.05, 2.0, 6)
    weights = ld.decoupled_weights(modes, [6] * (depth - 1), 0.3, generator=gen(1))
    formula = torch.from_numpy(ld.mode_curve(modes.s, 0.3, times, depth=depth).T)
    solved = [
        ld.mode_strengths([w], modes) for w in flow(weights, modes.input_correlation, modes.cross_correlation, times)
    ]
    torch.testing.assert_close(formula, torch.stack(solved), rtol=1e-7, atol=1e-8)
    lr = 1e-3
    path = ld.simulate(
        weights, modes.input_correlation, modes.cross_correlation, lr=lr, steps=2000, modes=modes, every=50
    )
    clock = lr * path.steps.double()
    expected = torch.from_numpy(ld.mode_curve(modes.s, 0.3, clock, depth=depth).T)
    assert float((path.strengths / expected - 1).abs().max()) < 0.01


def test_descent_is_autograds():
    g = gen(4)
    weights = [torch.randn(s, generator=g, dtype=torch.float64) / 2 for s in ((5, 6), (3, 5), (4, 3))]
    x, y = torch.randn(8, 6, generator=g, dtype=torch.float64), torch.randn(8, 4, generator=g, dtype=torch.float64)
    path = ld.simulate(weights, x.T @ x, y.T @ x, lr=0.003, steps=7)
    leaves = [w.clone().requires_grad_() for w in weights]
    best = 0.5 * float((y - x @ torch.linalg.lstsq(x, y).solution).square().sum())
    losses = []
    for _ in range(8):
        loss = 0.5 * (y - x @ (leaves[2] @ leaves[1] @ leaves[0]).T).square().sum()
        losses.append(float(loss.detach()) - best)
        gradients = torch.autograd.grad(loss, leaves)
        with torch.no_grad():
            if len(losses) < 8:
                for leaf, gradient in zip(leaves, gradients, strict=True):
                    leaf -= 0.003 * gradient
    for leaf, weight in zip(leaves, path.weights, strict=True):
        torch.testing.assert_close(leaf.detach(), weight)
    torch.testing.assert_close(path.excess, torch.tensor(losses, dtype=torch.float64))
    assert path.steps.tolist() == list(range(8))


def test_descent_stops_at_its_share_and_says_when_it_diverges():
    one, two = torch.eye(2), 2 * torch.eye(2)
    path = ld.simulate([torch.zeros(2, 2)], one, two, lr=0.5, steps=50, until=0.1)
    assert path.reached == 2  # the excess falls by 4 with every step
    assert path.steps.tolist() == [0, 1, 2]
    wild = ld.simulate([torch.zeros(2, 2)], one, two, lr=1e3, steps=500, every=10, until=0.1)
    assert wild.diverged
    assert wild.reached is None
    assert bool(torch.isfinite(wild.excess).all())
    assert "diverged after step" in str(wild)
    assert "excess loss 4 -> " in str(path)


def test_a_trees_spectrum_is_that_of_its_correlations():
    levels, features, flip = 4, 10, 0.15
    s, level = ld.hierarchical_spectrum(levels, features, flip=flip)
    items = 2**levels
    dense = np.empty((items, items))
    for i, j in itertools.product(range(items), repeat=2):
        up = 0
        while i >> up != j >> up:
            up += 1
        dense[i, j] = (1 - 2 * flip) ** (2 * up)
    values = np.sort(np.linalg.eigvalsh(dense))[::-1]
    np.testing.assert_allclose(s.numpy(), np.sqrt(features * values), rtol=1e-10)
    assert [int((level == k).sum()) for k in range(levels + 1)] == [1, 1, 2, 4, 8]


def test_drawn_features_have_the_trees_correlations():
    tree = ld.hierarchical_data(3, 40000, flip=0.1, generator=gen())
    found = tree.targets @ tree.targets.T / 40000
    # A correlation is a mean of 40000 signs: its standard deviation is at most 1 / 200, and 64 entries stay within 5.
    for i, j in itertools.product(range(8), repeat=2):
        up = next(k for k in range(4) if i >> k == j >> k)
        assert abs(float(found[i, j]) - 0.8 ** (2 * up)) < 5 / 200
    modes = ld.decompose(tree.inputs, tree.targets)
    torch.testing.assert_close(modes.s, tree.s, rtol=0.03, atol=0)


@pytest.mark.parametrize(("call", "message"), [
    (lambda: ld.decompose(torch.eye(3), torch.ones(4, 1)), r"inputs hold 3 samples and targets 4; give one target row"),
    (lambda: ld.decompose(torch.eye(3), torch.zeros(3, 1)), r"targets are uncorrelated with inputs: SUM y x\^T is 0"),
    (lambda: ld.decoupled_weights(task(), [0], 0.1), r"hidden must hold positive whole numbers"),
    (lambda: ld.decoupled_weights(task(), [3], 0.0), r"u0 must be one finite number > 0, or one for each of the 4"),
    (lambda: ld.decoupled_weights(task(), [3], torch.ones(2)), r"u0 must be one finite number > 0, or one for each"),
    (lambda: ld.balancedness([]), r"weights holds no layers"),
    (lambda: ld.balancedness([torch.ones(2, 3), torch.ones(2, 3)]), r"weights\[1\] takes 3 inputs but weights\[0\]"),
    (lambda: ld.mode_strengths([torch.ones(2, 3)], task()), r"weights map 3 inputs to 2 outputs, modes are of 6"),
    (lambda: ld.simulate([torch.ones(2, 3)], torch.eye(4), torch.ones(2, 4), lr=0.1, steps=1), r"weights map 3 inputs"),
    (lambda: ld.simulate([torch.ones(2, 3)], torch.eye(3), torch.ones(2, 4), lr=0.1, steps=1), r"input_correlation"),
    (lambda: ld.simulate([torch.ones(1, 1)], torch.eye(1), torch.eye(1), lr=0.1, steps=0), r"steps must be a positive"),
    (lambda: ld.simulate([torch.ones(1, 1)], torch.eye(1), torch.eye(1), lr=0.0, steps=1), r"lr must be a finite"),
    (lambda: ld.hierarchical_data(0, 5), r"levels must be a positive whole number, got 0"),
    (lambda: ld.hierarchical_data(20, 5), r"levels=20 would make 1048576 items"),
    (lambda: ld.hierarchical_data(2, 5, flip=0.5), r"flip must be below 1/2, where features carry nothing"),
])  # fmt: skip
def test_bad_arguments_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_results_print_themselves():
    assert str(task()).startswith("4 modes of strengths ")
    assert "8 items of 5 features" in str(ld.hierarchical_data(3, 5, generator=gen()))
    assert "along 2 task modes: " in str(ld.pretraining_consistency(torch.eye(2), torch.eye(2)))
