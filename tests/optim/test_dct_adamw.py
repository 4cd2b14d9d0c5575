"""DCT-AdamW against its formulas written out with dense projections, torch's AdamW, and its promises on memory."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import nn

from isometry.optim import DCTAdamW, explain
from isometry.optim._dct_adamw import carried
from isometry.roles import route
from tests.optim.low_rank_textbook import TextbookDCTAdamW, cosines

SHAPES = [(6, 6), (9, 4), (4, 9)]


def draw(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def run(optimizer, parameters, steps, begin=0):
    for t in range(begin, begin + steps):
        for i, p in enumerate(parameters):
            p.grad = draw(*p.shape, seed=100 * t + i).to(p)
        optimizer.step()


@pytest.mark.parametrize("error_feedback", [True, False])
@pytest.mark.parametrize(("refresh", "rotate"), [(1, True), (3, True), (2, False)])
@pytest.mark.parametrize("p", [1, 2])
def test_its_steps_are_those_of_the_formulas(error_feedback, refresh, rotate, p):
    parameters = [nn.Parameter(draw(*shape, seed=i)) for i, shape in enumerate(SHAPES * 2)]
    expected = [w.detach().clone() for w in parameters]
    options = {"lr": 0.03, "betas": (0.8, 0.9), "eps": 1e-6, "weight_decay": 0.1}
    options |= {"error_feedback": error_feedback, "refresh": refresh, "rotate": rotate, "p": p}
    optimizer = DCTAdamW(parameters, rank=2, **options)
    textbooks = [TextbookDCTAdamW(cosines(min(w.shape)), 2, **options) for w in parameters]
    for t in range(7):
        for i, w in enumerate(parameters):
            w.grad = draw(*w.shape, seed=100 * t + i)
            expected[i] = textbooks[i].step(expected[i], w.grad)
        optimizer.step()
    for w, wanted in zip(parameters, expected, strict=True):
        torch.testing.assert_close(w.detach(), wanted, rtol=0, atol=1e-12)


@pytest.mark.parametrize("basis", ["identity", "dct2"])
def test_of_full_rank_it_is_adamw_in_the_basis(basis):
    mine, other = nn.Parameter(draw(5, 3)), nn.Parameter(draw(5, 3))
    q = cosines(3) if basis == "dct2" else torch.eye(3, dtype=torch.float64)
    optimizer = DCTAdamW([mine], lr=0.1, rank=1.0, weight_decay=0.2, basis=basis)
    other.data = other.data @ q
    peer = torch.optim.AdamW([other], lr=0.1, weight_decay=0.2)
    for t in range(6):
        mine.grad = draw(5, 3, seed=t)
        other.grad = mine.grad @ q
        optimizer.step()
        peer.step()
    torch.testing.assert_close(mine.detach(), other.detach() @ q.T, rtol=0, atol=1e-12)


def test_the_rest_moves_as_by_adamw_with_the_same_numbers():
    vector, other = nn.Parameter(draw(5)), nn.Parameter(draw(5))
    options = {"lr": 0.02, "betas": (0.7, 0.8), "eps": 1e-5, "weight_decay": 0.3}
    groups = [{"params": [nn.Parameter(draw(3, 3))]}, {"params": [vector], "rule": "adamw"}]
    optimizer, peer = DCTAdamW(groups, rank=1, **options), torch.optim.AdamW([other], **options)
    for t in range(3):
        vector.grad, other.grad = draw(5, seed=t), draw(5, seed=t)
        optimizer.step()
        peer.step()
    torch.testing.assert_close(vector.detach(), other.detach())
    assert DCTAdamW(groups, lr=0.02, adamw={"lr": 0.5}).param_groups[1]["lr"] == 0.5


def test_states_follow_their_columns_as_the_dense_rotation_says():
    q, states = cosines(7), draw(3, 4, 3)
    before = torch.tensor([[0, 2, 5], [1, 2, 3], [4, 5, 6]])
    now = torch.tensor([[0, 1, 2, 5], [2, 3, 5, 6], [0, 1, 2, 3]])
    expected = torch.stack([s @ q[:, b].T @ q[:, n] for s, b, n in zip(states, before, now, strict=True)])
    torch.testing.assert_close(carried(states, before, now), expected, rtol=0, atol=1e-14)


def test_without_rotation_the_states_of_columns_are_mixed():
    """The remark that decides the default: on a regression whose best columns change, mixing holds training up."""
    torch.manual_seed(0)
    x, truth = draw(128, 32, seed=1), draw(64, 32, seed=2)
    ends = {}
    for rotate in (True, False):
        w = nn.Parameter(torch.zeros(64, 32, dtype=torch.float64))
        optimizer = DCTAdamW([w], lr=0.02, rank=8, rotate=rotate)
        for _ in range(600):
            optimizer.zero_grad()
            (x @ (w - truth).T).square().mean().backward()
            optimizer.step()
        ends[rotate] = float((w.detach() - truth).square().mean())
    assert ends[True] < 0.1 * ends[False]


def test_the_memory_is_what_is_promised():
    """Of each (R, K) matrix 2 max(R, K) r numbers and r indices; of the error R K numbers, or bytes, or half bytes."""
    shapes, rank = [(40, 16), (16, 40), (16, 16)], 4
    low = sum(max(s) * rank * 4 for s in shapes)
    numbers, rows = sum(m * n for m, n in shapes), sum(m for m, _ in shapes)
    error = {None: 4 * numbers, 8: numbers + 8 * rows, 4: numbers // 2 + 8 * rows}
    for bits, expected in error.items():
        parameters = [nn.Parameter(draw(*s, dtype=torch.float32)) for s in shapes]
        optimizer = DCTAdamW(parameters, rank=rank, ef_bits=bits)
        assert optimizer.state_bytes() == {}
        run(optimizer, parameters, 2)
        counted = optimizer.state_bytes()
        assert (counted["exp_avg"], counted["exp_avg_sq"], counted["indices"]) == (low, low, 3 * rank * 4)
        assert sum(v for k, v in counted.items() if k.startswith("error")) == expected
        assert set(counted) <= {"step", "exp_avg", "exp_avg_sq", "indices", "error", "error_codes", "error_levels"}
        held = {k: optimizer.state[parameters[0]][k].dtype for k in counted if k.startswith("error_c")}
        assert all(dtype == torch.uint8 for dtype in held.values())


@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("shape", [(6, 5), (5, 6), (1, 3), (7, 1)])
def test_an_error_in_few_bits_is_near_the_error(bits, shape):
    exact, packed = (nn.Parameter(draw(*shape)) for _ in range(2))
    ours = [DCTAdamW([exact], rank=1), DCTAdamW([packed], rank=1, ef_bits=bits)]
    for t in range(1, 3):
        for w, optimizer in zip((exact, packed), ours, strict=True):
            w.grad = draw(*shape, seed=t)
            optimizer.step()
        kept = ours[0].state[exact]["error"]
        state = ours[1].state[packed]
        codes, levels = state["error_codes"], state["error_levels"]
        low = torch.stack([codes & 15, codes >> 4], -1).flatten(-2)[:, : shape[1]] if bits == 4 else codes
        back = levels[:, :1] + low * levels[:, 1:]
        if t == 1:  # later ones have chosen after other rounding
            assert bool(((back - kept).abs() <= 0.5 * levels[:, 1:] + 1e-12).all())
    assert bool(packed.isfinite().all())


@pytest.mark.parametrize("bits", [8, 4])
def test_few_bits_train_as_well(bits):
    truth, ends = draw(24, 12, seed=2), {}
    for given in (None, bits):
        w = nn.Parameter(torch.zeros(24, 12, dtype=torch.float64))
        optimizer = DCTAdamW([w], lr=0.02, rank=3, ef_bits=given)
        for t in range(600):
            optimizer.param_groups[0]["lr"] = 0.02 * (1 - t / 600)
            w.grad = w.detach() - truth
            optimizer.step()
        ends[given] = float((w.detach() - truth).square().mean())
    assert ends[bits] < max(1.5 * ends[None], 1e-3)


@pytest.mark.parametrize("bits", [None, 8, 4])
def test_a_saved_run_goes_on_to_the_bit(bits, tmp_path):
    parameters = [nn.Parameter(draw(*s, dtype=torch.bfloat16)) for s in [(6, 5), (5, 6), (5, 6)]]
    optimizer = DCTAdamW(parameters, rank=2, ef_bits=bits, refresh=2)
    run(optimizer, parameters, 3)
    torch.save(optimizer.state_dict(), tmp_path / "state.pt")
    others = copy.deepcopy(parameters)
    run(optimizer, parameters, 3, begin=3)
    again = DCTAdamW(others, rank=1)
    again.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    run(again, others, 3, begin=3)
    for a, b in zip(parameters, others, strict=True):
        assert torch.equal(a, b)
    assert again.state[others[0]]["indices"].dtype == torch.int32
    assert again.state[others[0]]["exp_avg"].shape[-1] == 2


@pytest.mark.parametrize("rank", [1, 4])
def test_another_rank_keeps_error_and_states_of_columns_that_stay(rank):
    w = nn.Parameter(draw(7, 5))
    optimizer = DCTAdamW([w], rank=3, refresh=100)
    run(optimizer, [w], 2)
    before = {k: v.clone() for k, v in optimizer.state[w].items()}
    optimizer.param_groups[0]["rank"] = rank
    w.grad = 0 * draw(7, 5)
    optimizer.step()
    state = optimizer.state[w]
    assert state["indices"].shape == (1, rank)
    wanted = carried(before["exp_avg"], before["indices"], state["indices"]) * 0.9
    q = cosines(5)[:, state["indices"][0].long()]
    torch.testing.assert_close(state["exp_avg"], wanted + 0.1 * before["error"] @ q)
    torch.testing.assert_close(state["error"], before["error"] - before["error"] @ q @ q.T)


def test_a_change_of_the_error_begins_it_anew():
    w = nn.Parameter(draw(7, 5))
    optimizer = DCTAdamW([w], rank=2)
    run(optimizer, [w], 2)
    mean = optimizer.state[w]["exp_avg"].clone()
    optimizer.param_groups[0]["error_feedback"] = False
    optimizer.param_groups[0]["lr"] = 0.0
    w.grad = torch.zeros_like(w)
    optimizer.step()
    assert set(optimizer.state[w]) == {"step", "exp_avg", "exp_avg_sq", "indices"}
    assert float(optimizer.state[w]["exp_avg"].norm()) <= float(mean.norm())
    optimizer.param_groups[0] |= {"error_feedback": True, "ef_bits": 4}
    optimizer.step()
    assert set(optimizer.state[w]) == {"step", "exp_avg", "exp_avg_sq", "indices", "error_codes", "error_levels"}


@pytest.mark.parametrize("bits", [None, 4])
def test_kernels_and_fused_projections_are_their_matrices(bits):
    """A (4, 3, 5) kernel is one (4, 15) matrix; of a fused projection each block has columns of its own."""
    kernel, flat = nn.Parameter(draw(4, 3, 5)), nn.Parameter(draw(4, 3, 5).reshape(4, 15))
    ours = DCTAdamW([{"params": [kernel], "layout": "conv"}], rank=2, ef_bits=bits)
    theirs = DCTAdamW([flat], rank=2, ef_bits=bits)
    stack, ones = nn.Parameter(draw(3, 6, 5)), [nn.Parameter(draw(3, 6, 5)[i].clone()) for i in range(3)]
    many = DCTAdamW([{"params": [stack], "layout": "batch"}], rank=2)
    each = DCTAdamW(ones, rank=2)
    for t in range(4):
        kernel.grad = draw(4, 3, 5, seed=t)
        flat.grad = kernel.grad.reshape(4, 15)
        stack.grad = draw(3, 6, 5, seed=t)
        for i, w in enumerate(ones):
            w.grad = stack.grad[i].clone()
        for optimizer in (ours, theirs, many, each):
            optimizer.step()
    torch.testing.assert_close(kernel.detach().reshape(4, 15), flat.detach())
    torch.testing.assert_close(stack.detach(), torch.stack([w.detach() for w in ones]))
    assert many.state[stack]["indices"].shape == (3, 2)


def test_gradients_are_not_touched_and_zero_gradients_move_nothing():
    w = nn.Parameter(draw(6, 4))
    optimizer, before = DCTAdamW([w], rank=2, lr=0.1), w.detach().clone()
    w.grad = torch.zeros_like(w)
    for _ in range(3):
        optimizer.step()
    assert torch.equal(w, before)
    w.grad = draw(6, 4, seed=5)
    optimizer.step()
    assert torch.equal(w.grad, draw(6, 4, seed=5))


def test_a_routed_model_trains_and_explains_itself():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 16), nn.Tanh(), nn.Linear(16, 3))
    optimizer = DCTAdamW(route(model), lr=0.01, rank=0.25)
    x, y = torch.randn(64, 8), torch.arange(64) % 3
    losses = []
    for _ in range(80):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(x), y)
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.7 * losses[0]
    assert {row.rule for row in explain(optimizer)} == {"DCTAdamW", "adamw"}
    assert next(r.rms for r in explain(optimizer) if r.rule == "DCTAdamW") == pytest.approx(0.01 * 0.2 * 0.5)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"rank": 5}, ValueError, r"rank must be from 1 to 4 for parameter 0 of group 0 of shape \(6, 4\)"),
        ({"rank": 0.1}, ValueError, "0.1 of 4 rounds to 0"),
        ({"rank": -1}, ValueError, "rank must be at least 1, got -1"),
        ({"rank": None}, TypeError, "rank must be an integer, got NoneType"),
        ({"betas": (0.9, 1.0)}, ValueError, r"betas\[1\] must be at least 0 and below 1"),
        ({"eps": -1.0}, ValueError, "eps must be a finite number >= 0"),
        ({"lr": math.nan}, ValueError, "lr must be a finite number >= 0"),
        ({"ef_bits": 2}, ValueError, "ef_bits must be None, 8 or 4, got 2"),
        ({"refresh": 0}, ValueError, "refresh must be at least 1, got 0"),
        ({"rotate": 1}, TypeError, "rotate must be True or False"),
        ({"error_feedback": None}, TypeError, "error_feedback must be True or False"),
        ({"p": 0}, ValueError, "p must be 1 or 2, got 0"),
        ({"basis": "svd"}, ValueError, "basis"),
        ({"route": "fast"}, ValueError, "route"),
        ({"adamw": "fast"}, TypeError, "adamw must be a mapping"),
    ],
)
def test_senseless_options_are_refused_by_name(options, error, message):
    with pytest.raises(error, match=message):
        DCTAdamW([nn.Parameter(torch.ones(6, 4))], **options)


def test_a_rank_that_fits_not_every_matrix_is_refused_when_it_is_added():
    optimizer = DCTAdamW([nn.Parameter(draw(6, 6))], rank=5)
    with pytest.raises(ValueError, match=r"rank must be from 1 to 3 for parameter 0 of group 1"):
        optimizer.add_param_group({"params": [nn.Parameter(draw(3, 8))]})
    assert len(optimizer.param_groups) == 1
