"""What enters an optimizer, and what is loaded into one: wrong parameters, groups, states are refused by a sentence."""

from __future__ import annotations

import copy
import itertools
import math

import pytest
import torch
from torch import nn

from isometry import optim, roles
from isometry.optim import AuON, ClippedSGD, DCTAdamW, Dion, Muon, NormalizedSGD, Trion, explain

NEEDED = {
    "ClippedSGD": {"lr": 0.1, "clip": 1.0},
    "GeneralizedSignSGD": {"betas": (0.9, 0.8)},
    "NormalizedSGD": {"lr": 0.1},
    "RiemannianSGD": {"momentum": 0.9},
    "SGDP": {"lr": 0.1, "momentum": 0.9},
}
ABSTRACT = (optim.Optimizer, optim.MatrixOptimizer)
OURS = [
    cls
    for cls in vars(optim).values()
    if isinstance(cls, type) and issubclass(cls, optim.Optimizer) and cls not in ABSTRACT
]
TORCHS = [torch.optim.SGD, torch.optim.AdamW, torch.optim.Muon]


def weight(*shape, **options):
    return nn.Parameter(torch.ones(*(shape or (4, 4)), **options))


def made(cls, parameters):
    return cls(parameters, **NEEDED.get(cls.__name__, {}))


def stepped(cls, *shapes):
    parameters = [weight(*shape) for shape in shapes or [(4, 4)]]
    optimizer = made(cls, parameters)
    for i, p in enumerate(parameters):
        p.grad = torch.randn(p.shape, generator=torch.Generator().manual_seed(i))
    optimizer.step()
    return optimizer


def test_all_optimizers_are_here():
    assert len(OURS) == 14


# -- parameters and groups ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cls", OURS)
@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        (None, TypeError, "params must be parameters or groups of them, got NoneType; pass model.parameters()"),
        (3, TypeError, "params must be parameters or groups of them, got int"),
        ([{"lr": 1.0}], TypeError, "a group lacks 'params', it has 'lr'; say which parameters are in it"),
        ([torch.ones(2, 2, dtype=torch.complex64)], TypeError, "parameter 0 of group 0 has dtype torch.complex64"),
        ([torch.ones(2, 2).to(torch.float8_e4m3fn)], TypeError, "has dtype torch.float8_e4m3fn"),
        ([torch.eye(3).to_sparse()], TypeError, r"has layout torch.sparse_coo, but the steps are dense"),
        (list(nn.LazyLinear(3).parameters()), ValueError, r"is not initialized yet .*: run the model once"),
    ],
)
def test_what_holds_no_parameters_is_refused(cls, given, error, message):
    with pytest.raises(error, match=message):
        made(cls, given)


@pytest.mark.parametrize("cls", OURS)
def test_a_misspelt_option_is_no_note(cls):
    optimizer = made(cls, [weight()])
    with pytest.raises(ValueError, match="a group has 'maximise', which is no option; did you mean 'maximize'"):
        optimizer.add_param_group({"params": [weight()], "maximise": True})
    with pytest.raises(TypeError, match="a group must be a dictionary, got list"):
        optimizer.add_param_group([weight()])
    optimizer.add_param_group({"params": [weight()], "name": "second", "shown_as": "mine", "max_lr": 1.0})
    assert [group.get("shown_as") for group in optimizer.param_groups] == [None, "mine"]


def test_numbers_beyond_floats_and_flags_of_the_wrong_kind():
    with pytest.raises(ValueError, match="lr must be a finite number, got an integer beyond the range of floats"):
        Muon([weight()], lr=10**400)
    with pytest.raises(TypeError, match=r"scale_invariant must hold parameters or their names, got 0\.9 in it"):
        optim.AdamP([weight()], scale_invariant=[0.9])


def test_meta_parameters_are_refused_at_the_step():
    w = weight(device="meta")
    optimizer = Muon([w])
    w.grad = torch.ones_like(w)
    with pytest.raises(ValueError, match="is on the meta device and has no values to move"):
        optimizer.step()


@pytest.mark.parametrize("cls", OURS)
@pytest.mark.parametrize("bad", [math.nan, math.inf, -1.0])
def test_a_rate_that_has_become_no_number_moves_nothing(cls, bad):
    optimizer = made(cls, [weight(), weight(3, 3)])
    optimizer.add_param_group({"params": [weight(2, 2)]})
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    for p in parameters:
        p.grad = torch.ones_like(p)
    optimizer.param_groups[1]["lr"] = bad
    with pytest.raises(ValueError, match=f"lr of group 1 has become {bad}; no parameter was changed"):
        optimizer.step()
    assert all(torch.equal(p, torch.ones_like(p)) for p in parameters)


@pytest.mark.parametrize("cls", OURS)
def test_weights_without_entries_are_passed_over(cls):
    """Beside others that move as they would alone."""
    optimizer, alone = stepped(cls, (4, 4), (0, 4), (4, 0)), stepped(cls, (4, 4))
    assert torch.equal(optimizer.param_groups[0]["params"][0], alone.param_groups[0]["params"][0])
    assert str(explain(optimizer))
    made(cls, [weight(), weight(0, 4), weight(4, 0)]).load_state_dict(optimizer.state_dict())


@pytest.mark.filterwarnings("ignore:Initializing zero-element tensors")
def test_layers_without_units_are_routed_to_adamw():
    model = nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 8), nn.Linear(8, 0), nn.Linear(0, 8), nn.Linear(8, 2))
    routing = roles.route(model)
    assert [row.name for row in routing.by_rule("matrix")] == ["1.weight"]
    assert routing["2.weight"].reason == "hidden: has no entries"
    Muon(routing)


@pytest.mark.parametrize("size", [1e19, 3e20, 1e30, 1e37, 3e38])
def test_large_gradients_do_not_make_weights_infinite(size):
    """Squares that are infinite stop a weight, as in torch's AdamW, but do not spoil it."""
    for cls in (DCTAdamW, optim.GeneralizedSignSGD) if size < 1e38 else (optim.GeneralizedSignSGD,):
        w, g = nn.Parameter(torch.ones(32, 32)), torch.Generator().manual_seed(0)
        optimizer = made(cls, [w])
        for _ in range(4):
            w.grad = torch.randn(32, 32, generator=g).clamp(-1, 1) * size
            optimizer.step()
            assert w.isfinite().all()


def test_a_rank_that_rounds_to_nothing_is_told_what_to_be():
    for cls in (Trion, Dion, DCTAdamW):
        with pytest.raises(ValueError, match=r"0\.25 of 1 rounds to 0; give a whole number, or matrices as small as"):
            cls([weight(8, 1), weight(8, 8)], rank=0.25)
        cls([{"params": [weight(8, 1)], "rule": "adamw"}, {"params": [weight(8, 8)]}], rank=0.25)


# -- saved states ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("cls", "other"), list(itertools.permutations(OURS, 2)))
def test_the_state_of_every_other_optimizer_is_refused(cls, other):
    refuses(cls, made(other, [weight()]))


@pytest.mark.parametrize(("cls", "other"), list(itertools.product(OURS, TORCHS)))
def test_the_state_of_torchs_optimizers_is_refused(cls, other):
    refuses(cls, other([weight()], lr=7.0))


def refuses(cls, other):
    optimizer = made(cls, [weight()])
    before = copy.deepcopy(optimizer.state_dict())
    with pytest.raises(ValueError, match=f"state_dict is not one of {cls.__name__}: its group 0 (lacks|has) "):
        optimizer.load_state_dict(other.state_dict())
    assert optimizer.state_dict() == before


@pytest.mark.parametrize("cls", OURS)
@pytest.mark.parametrize("state", [None, {}, {"state": {}}, [1]])
def test_what_is_no_state_is_refused(cls, state):
    with pytest.raises(TypeError, match=f"pass what {cls.__name__}.state_dict"):
        made(cls, [weight()]).load_state_dict(state)


@pytest.mark.parametrize("cls", OURS)
def test_a_state_of_another_width_is_refused_and_nothing_has_changed(cls):
    source, optimizer = stepped(cls), stepped(cls, (5, 5))
    if not source.state_dict()["state"][0].keys() - {"step", "projection"}:
        optimizer.load_state_dict(source.state_dict())  # nothing is kept that has a size
        return
    before, kept = copy.deepcopy(optimizer.state_dict()), dict(optimizer.state)
    with pytest.raises(ValueError, match=r"of parameter 0 .* has shape \(4, 4\) in the state, the parameter has \(5, "):
        optimizer.load_state_dict(source.state_dict())
    assert optimizer.state == kept
    after = optimizer.state_dict()
    assert after["param_groups"] == before["param_groups"]
    torch.testing.assert_close(after["state"], before["state"], rtol=0, atol=0)


@pytest.mark.parametrize("cls", OURS)
def test_a_state_with_a_part_missing_or_spoilt_is_refused(cls):
    state = stepped(cls).state_dict()
    for name, value in state["state"][0].items():
        if name == "step" or not isinstance(value, torch.Tensor):
            continue
        less = copy.deepcopy(state)
        del less["state"][0][name]
        with pytest.raises(ValueError, match=f"the state of parameter 0 of group 0 .* lacks {name}"):
            made(cls, [weight()]).load_state_dict(less)
        if value.is_floating_point():
            spoilt = copy.deepcopy(state)
            spoilt["state"][0][name].view(-1)[0] = math.nan
            with pytest.raises(ValueError, match=f"{name} of parameter 0 .* holds NaN in the state"):
                made(cls, [weight()]).load_state_dict(spoilt)
    made(cls, [weight()]).load_state_dict(state)


def test_a_routed_state_of_another_width_is_refused_by_the_table():
    def net(width):
        return nn.Sequential(nn.Linear(4, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 2))

    narrow, wide = Muon(roles.route(net(8))), Muon(roles.route(net(16)))
    with pytest.raises(ValueError, match=r"'2.weight' was routed to 'matrix' with shape \(8, 8\) .* shape \(16, 16\)"):
        wide.load_state_dict(narrow.state_dict())
    assert wide.param_groups[0]["routes"][0]["shape"] == [16, 16]


def test_the_cases_that_once_passed():
    with pytest.raises(ValueError, match="its group 0 has dampening"):
        NormalizedSGD([weight()], lr=0.1).load_state_dict(torch.optim.SGD([weight()], lr=7.0).state_dict())
    with pytest.raises(ValueError, match="its group 0 has compute_dtype, ns_steps"):
        AuON([weight()]).load_state_dict(optim.HybridAuON([weight()]).state_dict())
    with pytest.raises(ValueError, match="its group 0 has clip"):
        NormalizedSGD([weight()], lr=0.1).load_state_dict(ClippedSGD([weight()], lr=0.1, clip=1.0).state_dict())
