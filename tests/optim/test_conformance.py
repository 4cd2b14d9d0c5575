"""Every optimizer of the room on every problem; see problems.py, where a new one joins."""

from __future__ import annotations

import copy
import io
import pickle
import warnings

import pytest
import torch
import torch._dynamo.testing
from torch import nn

from isometry import manifolds
from isometry.optim import Muon
from isometry.optim._gradients import GradientLook
from tests.optim.problems import CASES, OPTIMIZERS, batch, flat, gen, mixed, train

each = pytest.mark.parametrize("entry", OPTIMIZERS, ids=lambda e: e.name)
on_manifolds = pytest.mark.parametrize("entry", [e for e in OPTIMIZERS if e.manifolds], ids=lambda e: e.name)
everywhere = pytest.mark.parametrize(("entry", "constraint"), CASES, ids=[f"{e.name}-{c}" for e, c in CASES])


def lower(optimizer, entry, step, steps):
    """Lower the rate of a method whose steps would go on at their length around the minimum."""
    for group in optimizer.param_groups:
        if entry.constant_step:
            group["lr"] = entry.lr * (1 - step / steps)


@each
def test_a_quadratic_is_minimized(entry):
    p = nn.Parameter(torch.full((3, 2), 2.0))
    optimizer = entry.make([p], entry.lr)
    for step in range(400):
        lower(optimizer, entry, step, 400)
        optimizer.zero_grad()
        (p**2).sum().backward()
        optimizer.step()
    assert float(p.detach().abs().max()) < 0.02


@each
def test_the_rosenbrock_valley_is_followed(entry):
    p = nn.Parameter(torch.zeros(1, 2, dtype=torch.float64))
    optimizer = entry.make([p], entry.lr * entry.steep)
    for step in range(1000):
        lower(optimizer, entry, step, 1000)
        optimizer.zero_grad()
        x, y = p[0]
        ((1 - x) ** 2 + 100 * (y - x**2) ** 2).backward()
        optimizer.step()
    assert float(((p.detach() - 1) ** 2).sum()) < 0.8  # from 2


@on_manifolds
def test_procrustes_is_solved_on_the_manifold(entry):
    torch.manual_seed(0)
    layer = nn.Linear(4, 7, bias=False)
    manifolds.constrain_(layer, "stiefel", names="weight", scale=1.0)
    target = torch.randn(7, 4, generator=gen())
    optimizer = entry.make(layer.parameters(), entry.lr)
    for step in range(1000):
        layer.weight.grad = -target
        optimizer.param_groups[0]["lr"] = entry.lr * 0.997**step
        optimizer.step()
    u, _, vh = torch.linalg.svd(target, full_matrices=False)
    assert torch.allclose(layer.weight.detach(), u @ vh, atol=0.02)
    assert manifolds.check(layer).ok


@everywhere
def test_a_mixed_model_learns_and_stays_where_it_belongs(entry, constraint):
    model = mixed(constraint)
    frozen = model.frozen.weight.clone()
    losses = train(model, entry.make(model.parameters(), entry.lr), 60)
    assert losses[-1] < 0.9 * losses[0]
    assert manifolds.check(model).ok
    assert torch.equal(model.frozen.weight, frozen)


@everywhere
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_a_resumed_run_is_the_same_run_to_the_bit(entry, constraint, dtype):
    whole = mixed(constraint, dtype)
    optimizer = entry.make(whole.parameters(), entry.lr)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 60)
    train(whole, optimizer, 35, scheduler)

    first = mixed(constraint, dtype)
    optimizer = entry.make(first.parameters(), entry.lr)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 60)
    train(first, optimizer, 20, scheduler)
    file = io.BytesIO()
    torch.save([first.state_dict(), optimizer.state_dict(), scheduler.state_dict()], file)
    file.seek(0)
    saved = torch.load(file, weights_only=True)

    second = mixed(constraint, dtype)
    optimizer = entry.make(second.parameters(), 1e-9)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 60)
    second.load_state_dict(saved[0])
    optimizer.load_state_dict(saved[1])
    scheduler.load_state_dict(saved[2])
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # what was saved is on the manifold
        train(second, optimizer, 15, scheduler)
    assert torch.equal(flat(whole), flat(second))


@everywhere
def test_a_copy_goes_on_as_the_original(entry, constraint):
    model = mixed(constraint)
    optimizer = entry.make(model.parameters(), entry.lr)
    train(model, optimizer, 5)
    twin, twin_optimizer = copy.deepcopy((model, optimizer))
    train(model, optimizer, 5)
    before = flat(twin)
    train(twin, twin_optimizer, 5)
    assert torch.equal(flat(model), flat(twin))
    assert not torch.equal(before, flat(twin))


@everywhere
def test_what_has_loaded_a_state_goes_on_by_itself(entry, constraint):
    model, other = mixed(constraint), mixed(constraint)
    optimizer, loaded = (entry.make(m.parameters(), entry.lr) for m in (model, other))
    train(model, optimizer, 5)
    other.load_state_dict(model.state_dict())
    loaded.load_state_dict(optimizer.state_dict())  # of a run that goes on, which must not take the other along
    train(model, optimizer, 5)
    train(other, loaded, 5)
    assert torch.equal(flat(model), flat(other))


@everywhere
def test_bfloat16_follows_float32_and_has_a_float32_master(entry, constraint):
    low, high = mixed(constraint, torch.bfloat16), mixed(constraint)
    losses = train(low, optimizer := entry.make(low.parameters(), entry.lr), 40)
    reference = train(high, entry.make(high.parameters(), entry.lr), 40)
    assert losses[-1] < 0.95 * losses[0]
    assert abs(losses[-1] - reference[-1]) < 0.25 * reference[0]
    state = optimizer.state[low.square.weight]
    assert all(t.dtype == torch.float32 for t in state.values() if t.is_floating_point())
    assert low.square.weight.dtype == torch.bfloat16
    assert manifolds.check(low).ok


@everywhere
def test_gradients_are_not_written_to_and_zero_steps_change_nothing(entry, constraint):
    model = mixed(constraint)
    optimizer = entry.make(model.parameters(), entry.lr, maximize=True)
    x, y = batch()
    ((model(x) - y) ** 2).mean().backward()
    grads = [p.grad.clone() for p in model.parameters() if p.grad is not None]
    optimizer.step()
    assert all(
        torch.equal(a, b)
        for a, b in zip(grads, (p.grad for p in model.parameters() if p.grad is not None), strict=True)
    )
    model = mixed(constraint)
    before = flat(model)
    optimizer = entry.make(model.parameters(), entry.lr)
    optimizer.step()  # no gradient at all
    for p in model.parameters():
        p.grad = torch.zeros_like(p)
    optimizer.step()
    assert torch.equal(flat(model), before)


@everywhere
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_gradients_that_are_not_finite_are_refused_and_nothing_changes(entry, constraint, value):
    model = mixed(constraint)
    optimizer = entry.make(model.named_parameters(), entry.lr)
    train(model, optimizer, 2)
    before, state = flat(model), copy.deepcopy(optimizer.state_dict()["state"])
    model.wide.weight.grad[1, 2] = value
    words = (
        r"the gradient of parameter 'wide.weight' holds 1 non-finite value \(NaN or infinity\) of 36; no parameter was"
    )
    with pytest.raises(ValueError, match=words):
        optimizer.step()
    assert torch.equal(flat(model), before)
    after = optimizer.state_dict()["state"]
    assert all(torch.equal(after[i][k], state[i][k]) for i in state for k in state[i])


@each
def test_finite_gradients_whose_squares_overflow_are_taken(entry):
    p = nn.Parameter(torch.ones(3, 2))
    p.grad = torch.full((3, 2), 1e30)
    entry.make([p], 1e-35).step()
    assert bool(torch.isfinite(p).all())


@each
@pytest.mark.parametrize("shape", [(3, 2), (1, 4), (4, 1), (2, 3, 2, 2), (5,)])
def test_tiny_and_zero_gradients_are_taken(entry, shape):
    for size in (1e-30, 1e-42, 0.0):  # squares that are no numbers, a number that is none itself, and nothing
        p = nn.Parameter(torch.ones(shape))
        optimizer = entry.make([p], entry.lr)
        for _ in range(3):
            p.grad = torch.full(shape, size)
            optimizer.step()
        assert bool(torch.isfinite(p).all())
        assert all(bool(torch.isfinite(t).all()) for t in optimizer.state[p].values() if t.is_floating_point())
        if size == 0:
            assert torch.equal(p.detach(), torch.ones(shape))


@each
@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"lr": -1.0}, ValueError, "lr must be a finite number >= 0, got -1.0"),
        ({"lr": float("nan")}, ValueError, "lr must be a finite number >= 0, got nan"),
        ({"lr": "0.1"}, TypeError, "lr must be a number, got str"),
        ({"weight_decay": -0.1}, ValueError, "weight_decay must be a finite number >= 0"),
        ({"maximize": 1}, TypeError, "maximize must be True or False, got 1"),
    ],
)
def test_senseless_options_are_refused_in_the_group_that_has_them(entry, options, error, words):
    first, second = nn.Parameter(torch.ones(2, 2)), nn.Parameter(torch.ones(2, 2))
    optimizer = entry.make([first], entry.lr)
    own = {"layout": "conv"} if "layout" in optimizer.param_groups[0] else {}
    with pytest.raises(error, match=words):
        optimizer.add_param_group({"params": [second], **own, **options})
    assert len(optimizer.param_groups) == len(entry.make([first], entry.lr).param_groups)
    optimizer.add_param_group({"params": [second], **own})  # what was refused has left nothing behind


@each
def test_what_cannot_be_taken_is_refused(entry):
    with pytest.raises(TypeError, match=r"parameter 0 of group \d .*dtype torch.complex64, but .*view_as_real"):
        entry.make([nn.Parameter(torch.zeros(2, dtype=torch.complex64))], entry.lr)
    embedding = nn.Embedding(5, 2, sparse=True)
    optimizer = entry.make(embedding.named_parameters(), entry.lr)
    embedding(torch.tensor([1])).sum().backward()
    before = embedding.weight.detach().clone()
    with pytest.raises(ValueError, match=r"parameter 'weight' has a sparse gradient .* pass sparse=False"):
        optimizer.step()
    assert torch.equal(embedding.weight, before)


@everywhere
def test_stacks_do_not_change_what_a_parameter_does(entry, constraint):
    """A parameter moves as it would alone: no state is shared between the members of a batch."""
    model, other = mixed(constraint), mixed(constraint)
    ours = entry.make(model.parameters(), entry.lr)
    movable = [p for p in other.parameters() if p.requires_grad]
    if entry.coupled:  # one optimizer still, but a stack for each parameter, as rates of their own do not merge
        alone = [entry.make([{"params": [p], "lr": torch.tensor(entry.lr)} for p in movable], entry.lr)]
    else:
        alone = [entry.make([p], entry.lr) for p in movable]
    x, y = batch()
    for _ in range(5):
        for net, optimizers in ((model, [ours]), (other, alone)):
            net.zero_grad()
            ((net(x) - y) ** 2).mean().backward()
            for optimizer in optimizers:
                optimizer.step()
    assert torch.allclose(flat(model), flat(other), atol=1e-6)


@each
def test_accumulated_gradients_are_the_gradient_of_the_sum(entry):
    ends = []
    for parts in (1, 4):
        model = mixed("stiefel" if entry.manifolds else "free", torch.float64)
        optimizer = entry.make(model.parameters(), entry.lr)
        x, y = batch(torch.float64)
        for _ in range(4):
            optimizer.zero_grad()
            for a, b in zip(x.chunk(parts), y.chunk(parts), strict=True):
                (((model(a) - b) ** 2).mean() / parts).backward()
            optimizer.step()
        ends.append(flat(model))
    assert torch.allclose(*ends, atol=1e-10)


@each
def test_autocast_trains(entry):
    model = mixed("stiefel" if entry.manifolds else "free")
    optimizer = entry.make(model.parameters(), entry.lr)
    x, y = batch()
    losses = []
    for _ in range(25):
        optimizer.zero_grad()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            out = model(x)
        loss = ((out.float() - y) ** 2).mean()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.95 * losses[0]
    assert manifolds.check(model).ok


@each
def test_a_closure_is_evaluated_with_gradients_and_its_loss_returned(entry):
    p = nn.Parameter(torch.full((3, 2), 2.0))
    optimizer = entry.make([p], entry.lr)

    def closure():
        optimizer.zero_grad()
        loss = (p**2).sum()
        loss.backward()
        return loss

    assert float(optimizer.step(closure).detach()) == 24.0
    assert not torch.equal(p.detach(), torch.full((3, 2), 2.0))


@each
def test_maximize_goes_the_other_way(entry):
    down, up = (nn.Parameter(torch.full((3, 2), 2.0)) for _ in range(2))
    for p, options in ((down, {}), (up, {"maximize": True})):
        p.grad = torch.ones(3, 2)
        entry.make([p], entry.lr, **options).step()
    assert torch.allclose(down.detach() - 2, 2 - up.detach(), atol=1e-6)
    assert bool((down < 2).all())


@each
def test_pickles_go_on_as_the_original(entry):
    p = nn.Parameter(torch.full((3, 2), 2.0))
    optimizer = entry.make([p], entry.lr)
    for _ in range(2):
        p.grad = torch.ones(3, 2)
        optimizer.step()
    again = pickle.loads(pickle.dumps(optimizer))
    (twin,) = (q for group in again.param_groups for q in group["params"])
    for q, o in ((p, optimizer), (twin, again)):
        q.grad = torch.full((3, 2), 0.5)
        o.step()
    assert torch.equal(p, twin)


@each
def test_an_empty_group_is_no_trouble(entry):
    p = nn.Parameter(torch.ones(3, 2))
    optimizer = entry.make([p], entry.lr)
    optimizer.add_param_group({"params": []})
    p.grad = torch.ones(3, 2)
    optimizer.step()
    optimizer.load_state_dict(optimizer.state_dict())
    optimizer.step()
    assert bool((p < 1).all())


@each
def test_learning_rates_may_be_tensors(entry):
    ends = []
    for lr in (entry.lr, torch.tensor(entry.lr)):
        p = nn.Parameter(torch.ones(3, 2))
        p.grad = torch.ones(3, 2)
        entry.make([p], lr).step()
        ends.append(p.detach())
    assert torch.allclose(*ends, atol=1e-7)


@each
def test_a_compiled_training_step_is_not_compiled_anew(entry):
    torch._dynamo.reset()
    model = nn.Sequential(nn.Linear(4, 5, bias=False), nn.Tanh(), nn.Linear(5, 3, bias=False))
    optimizer = entry.make(model.parameters(), entry.lr)
    counter = torch._dynamo.testing.CompileCounter()

    @torch.compile(backend=counter)
    def train_step(x):
        optimizer.zero_grad()
        model(x).square().mean().backward()
        optimizer.step()

    before = flat(model)
    for index in range(6):
        train_step(torch.ones(8, 4))
        if index == 1:
            frames = counter.frame_count
    assert counter.frame_count == frames
    assert not torch.equal(flat(model), before)


class _Late(GradientLook):
    """A look that is under way, as it is on an accelerator; ``insist`` notes what had been written before it came."""

    watched = ()

    def __init__(self, members):
        super().__init__(members)
        self.is_under_way, self._arrival = True, self

    def synchronize(self):
        assert all(torch.equal(now, before) for now, before in self.watched)


@everywhere
def test_nothing_is_written_before_the_look_at_gradients_has_come(entry, constraint, monkeypatch):
    plain, late = mixed(constraint), mixed(constraint)
    train(plain, entry.make(plain.parameters(), entry.lr), 4)
    monkeypatch.setattr("isometry.optim._base.GradientLook", _Late)
    optimizer = entry.make(late.parameters(), entry.lr)
    for _ in range(4):
        tensors = [p.detach() for p in late.parameters()]
        tensors += [t for state in optimizer.state.values() for t in state.values()]
        monkeypatch.setattr(_Late, "watched", [(t, t.clone()) for t in tensors])
        train(late, optimizer, 1)
    assert torch.equal(flat(plain), flat(late))
    monkeypatch.setattr(_Late, "watched", ())
    late.square.weight.grad[0, 0] = float("nan")
    before, state = flat(late), copy.deepcopy(optimizer.state_dict()["state"])
    with pytest.raises(ValueError, match="non-finite"):
        optimizer.step()
    assert torch.equal(flat(late), before)
    after = optimizer.state_dict()["state"]
    assert all(torch.equal(after[i][k], state[i][k]) for i in state for k in state[i])


def test_a_computation_that_fails_on_nan_is_refused_for_the_nan(monkeypatch):
    def singular(*args, **options):
        raise RuntimeError("the algorithm failed to converge")

    monkeypatch.setattr("isometry.optim._base.GradientLook", _Late)
    monkeypatch.setattr("isometry.optim._muon.orthogonalized", singular)
    p = nn.Parameter(torch.ones(3, 3))
    p.grad = torch.full((3, 3), float("nan"))
    with pytest.raises(ValueError, match="holds 9 non-finite values"):
        Muon([p], 0.1).step()
