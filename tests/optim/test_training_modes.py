"""Optimizers for hidden matrices in the ways in which people train: compiled, with scaled gradients, accumulated."""

from __future__ import annotations

import pytest
import torch
import torch._dynamo.testing
from torch.nn import functional
from torch.testing import assert_close

from isometry.nn import reference_model
from isometry.optim import AuON, DCTAdamW, HybridAuON, Muon, NorMuon, Trion
from isometry.roles import route

METHODS = {
    "Muon": lambda groups: Muon(groups, lr=0.02, compute_dtype="float32"),
    "NorMuon": lambda groups: NorMuon(groups, lr=0.02, compute_dtype="float32"),
    "AuON": lambda groups: AuON(groups, lr=0.1),
    "HybridAuON": lambda groups: HybridAuON(groups, lr=0.1),
    "Trion": lambda groups: Trion(groups, lr=0.02, rank=0.5),
    "DCTAdamW": lambda groups: DCTAdamW(groups, lr=0.02, rank=0.5),
}
each = pytest.mark.parametrize("method", METHODS)


def made(method, dtype=torch.float64):
    """In float64: the keys' biases have no gradient but rounding, which AdamW would blow up to steps in float32."""
    generator = torch.Generator().manual_seed(0)
    model = reference_model("gpt:depth=2,width=12,heads=2", in_shape=(6,), classes=11, generator=generator).to(dtype)
    return model, METHODS[method](route(model))


def batches(count=4):
    draws = torch.Generator().manual_seed(1)
    return [torch.randint(11, (8, 7), generator=draws) for _ in range(count)]


def loss_of(model, tokens):
    return functional.cross_entropy(model(tokens[:, :-1]).flatten(0, 1), tokens[:, 1:].flatten())


def weights(model):
    return [p.detach().clone() for p in model.parameters()]


def plain(method, steps=4):
    model, optimizer = made(method)
    for tokens in batches(steps):
        optimizer.zero_grad()
        loss_of(model, tokens).backward()
        optimizer.step()
    return weights(model)


def compiled(model, optimizer, inside, backend):
    """A training step whose forward and backward pass are compiled, and the optimizer's step where asked for."""
    forward = (lambda tokens: loss_of(model, tokens)) if inside else torch.compile(model, backend=backend)

    def step(tokens):
        optimizer.zero_grad()
        (forward(tokens) if inside else loss_of(forward, tokens)).backward()
        optimizer.step()

    return torch.compile(step, backend=backend) if inside else step


@pytest.mark.parametrize("inside", [False, True], ids=["step outside", "step inside"])
@pytest.mark.parametrize("method", ["Muon", "NorMuon", "AuON"])  # test_conformance.py counts for the others
def test_compiled_training_is_the_same_and_is_compiled_once(method, inside):
    torch._dynamo.reset()
    model, optimizer = made(method)
    counter = torch._dynamo.testing.CompileCounterWithBackend("aot_eager")
    step = compiled(model, optimizer, inside, counter)
    for index, tokens in enumerate(batches()):
        step(tokens)
        if index == 1:
            frames = counter.frame_count
    assert counter.frame_count == frames > 0
    for got, wanted in zip(model.parameters(), plain(method), strict=True):
        assert_close(got.detach(), wanted, rtol=1e-6, atol=1e-8)


@each
def test_scaled_gradients_train_as_unscaled_ones(method):
    model, optimizer = made(method)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)  # a power of two: exact
    for tokens in batches():
        optimizer.zero_grad()
        scaler.scale(loss_of(model, tokens)).backward()
        scaler.step(optimizer)
        scaler.update()
    for got, wanted in zip(model.parameters(), plain(method), strict=True):
        assert_close(got.detach(), wanted, rtol=1e-6, atol=1e-8)


@each
def test_half_precision_learns_and_an_overflow_is_a_step_not_taken(method):
    model, optimizer = made(method, torch.float32)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**40)  # too much for float16 on the way back
    tokens, losses, still = batches(1)[0], [], 0
    for _ in range(50):
        before = weights(model)
        optimizer.zero_grad()
        with torch.autocast("cpu", dtype=torch.float16):
            loss = loss_of(model, tokens)
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        skipped = scaler.get_scale()
        scaler.update()
        if scaler.get_scale() < skipped:
            still += 1
            assert all(torch.equal(a, b) for a, b in zip(before, weights(model), strict=True))
        losses.append(float(loss.detach()))
    steps = {int(state["step"]) for state in optimizer.state.values()}
    assert steps == {50 - still}
    assert still > 5
    assert losses[-1] < losses[0] - 0.2


@each
def test_accumulated_gradients_are_those_of_the_whole_batch(method):
    model, optimizer = made(method)
    for tokens in batches():
        optimizer.zero_grad()
        for part in tokens.chunk(4):
            (loss_of(model, part) / 4).backward()
        optimizer.step()
    for got, wanted in zip(model.parameters(), plain(method), strict=True):
        assert_close(got.detach(), wanted, rtol=1e-6, atol=1e-8)
