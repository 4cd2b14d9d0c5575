"""The probe: it leaves the training as it is, keeps its cap, tells what went wrong, and says what it cannot take.

Seen to fail: without ``untouched`` around a measure the weights differ (dropout draws from another stream); with the
cap's ``<=`` replaced by ``True`` or the cost left out of it the steps differ from the naive account; with the looks at
the parameters removed the NaN is seen a step later, when all of them have it.
"""

import math
import re
import warnings

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import isometry as iso
from isometry import measure
from isometry.tape import untouched
from isometry.training import Probe
from isometry.training._probe_health import WAITING, Health
from isometry.training._probe_pace import make_schedule
from tests.training.probe_nets import STEP, Clock, Training

ALL = ("signal", "fisher", "jacobian", "ntk", "confusion", "curvature")
FREE = 1e9  # a cap that nothing meets


def follow(probe, losses):
    with probe:
        for loss in losses:
            probe.step(loss)


def constant(model, x, y):
    return {"one": 1.0}


# -- no trace ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("start", ["before", "late"])
def test_the_training_is_bit_for_bit_the_same(start):
    def drawing(model, x, y):  # a careless measure of the user's: draws, accumulates gradients, changes modes
        model.train()
        model(x + torch.randn_like(x)).sum().backward()
        return {"draw": torch.rand(())}

    plain = Training()
    losses = [float(plain.step().detach()) for _ in range(12)]
    probed = Training()
    probe = Probe(
        probed.model,
        probed.x,
        probed.y,
        measures={**dict.fromkeys(ALL, True), "drawing": drawing},
        every=2,
        max_overhead=FREE,
        samples=8,
    )
    seen = []
    with probe:
        for _ in range(12):
            loss = probed.step()
            probe.step(loss if start == "before" else None)
            seen.append(float(loss.detach()))
    assert probe.left_out == {}
    assert {row["measure"] for row in probe.rows()} == {*ALL, "drawing", "training"}
    assert seen == losses
    for (name, a), b in zip(plain.model.state_dict().items(), probed.model.state_dict().values(), strict=True):
        assert torch.equal(a, b), name
    assert all(module.training for module in probed.model.modules())


@pytest.mark.parametrize("way", ["in place", "through data", "swapped", "and raises"])
def test_weights_that_a_measure_alters_are_put_back_and_told(way):
    # Seen to fail: without the putting back the weights differ.
    def altering(model, x, y):
        with torch.no_grad():
            if way == "through data":
                model[0].weight.data[0] = model[0].weight.data[1]
            elif way == "swapped":
                model[0].weight.data = model[0].weight.data.double()
            else:
                model[0].weight.add_(1.0)
                model[4].bias.add_(1.0)
        if way == "and raises":
            raise RuntimeError("no such thing")
        return {"one": 1.0}

    training = Training()
    before = {name: p.clone() for name, p in training.model.state_dict().items()}
    probe = Probe(training.model, training.x, measures={"mine": altering}, max_overhead=FREE)
    said = r"measure 'mine' altered the parameter '0.weight'( and 1 more)?, which was put back; let it work on a copy"
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        probe.start()
    assert re.search(said, str(told[0].message))
    assert len(told) == (2 if way == "and raises" else 1)
    for name, value in training.model.state_dict().items():
        assert value.dtype == before[name].dtype
        assert torch.equal(value, before[name]), name
    notes = [r["note"] for r in probe.history.records if r["measure"] == "mine"]
    assert notes[0].startswith("left out: no such" if way == "and raises" else "altered the parameter '0.weight'")


def test_weights_that_are_nan_before_are_not_told_as_altered():
    training = Training()
    with torch.no_grad():
        training.model[4].weight[0, 0] = math.nan
    probe = Probe(training.model, training.x, measures={"one": constant})
    with pytest.warns(UserWarning, match="not finite at step 0"):  # and no other: warnings are errors here
        probe.start()
    assert [r["note"] for r in probe.history.records if r["measure"] == "one"] == [None]


def test_the_numbers_are_those_of_the_measurements():
    training = Training()
    model, x, y = training.model, training.x[:8], training.y[:8]
    probe = Probe(model, training.x, training.y, measures=ALL, samples=8, max_overhead=FREE).start()
    found = {(r["measure"], r["quantity"]): r["value"] for r in probe.rows()}
    with untouched(model, training=False):
        signal, fisher = measure.signal(model, x, y), measure.fisher(model, x)
        kernel, confusion = measure.ntk(model, x, form="trace"), measure.gradient_confusion(model, x, y)
        s = measure.jacobian(model, x).spectrum().s_max
        top = torch.linalg.eigvalsh(measure.curvature(model, x, y).dense())[-1]
    layers = signal.weight_layers
    assert found["signal", "q_max"] == max(layer.q for layer in layers)
    assert found["signal", "q_min"] == min(layer.q for layer in layers)
    assert found["signal", "correlation"] == layers[-1].correlation
    assert found["signal", "gradient_ratio"] == layers[0].gradient_norm / layers[-1].gradient_norm
    assert found["signal", "dead"] == max(a.dead for a in signal.activations)
    assert found["fisher", "lambda_max"] == fisher.lambda_max
    assert found["fisher", "effective_rank"] == fisher.effective_rank
    assert found["ntk", "lambda_max"] == float(kernel.eigenvalues()[0])
    assert found["ntk", "alignment"] == kernel.alignment(y).cosine
    assert found["confusion", "min_cosine"] == confusion.min_cosine
    assert found["confusion", "eta"] == confusion.eta
    assert found["jacobian", "s_max"] == pytest.approx(float(s.mean()), rel=1e-6)
    assert found["curvature", "lambda_max"] == pytest.approx(float(top), rel=0.02)  # Lanczos to one percent


@pytest.mark.parametrize("kind", ["tuple", "dict", "Inputs"])
def test_models_of_several_inputs(kind):
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(4, 3)

        def forward(self, x, scale):
            return self.layer(x) * scale

    torch.manual_seed(0)
    x, scale = torch.randn(6, 4), torch.rand(6, 1)
    given_ = {"tuple": (x, scale), "dict": {"x": x, "scale": scale}, "Inputs": iso.Inputs((x,), {"scale": scale})}[kind]
    measures = {"signal": True, "fisher": True, "kind": lambda m, x, y: {"known": type(x).__name__ == kind}}
    probe = Probe(Two(), given_, torch.randint(3, (6,)), measures=measures).start()
    found = {(r["measure"], r["quantity"]): r["value"] for r in probe.rows()}
    assert found["signal", "nonfinite"] == 0
    assert found["kind", "known"] == 1
    assert probe.left_out == {}


def test_vocabulary_sized_outputs_draw_labels_the_same_at_every_step():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Embedding(50, 8), nn.Linear(8, 50))
    tokens = torch.randint(50, (16, 5))
    with Probe(model, tokens, tokens, measures=["fisher", "ntk"], every=1, max_overhead=FREE) as probe:
        torch.rand(3)  # the training draws, too
        probe.step()
    fisher = [r for r in probe.history.records if r["measure"] == "fisher"]
    assert fisher[0]["note"] == "trace by labels drawn from the model, 8 a sample; lambda_max exact"
    assert fisher[0]["values"] == fisher[1]["values"]  # the weights did not move, and neither did the draws
    with untouched(model):
        exact = measure.fisher(model, tokens, dense=False).trace
        top = float(measure.curvature(model, tokens, tokens, kind="gauss-newton").top(1).eigenvalues[0])
    assert fisher[0]["values"]["lambda_max"] == pytest.approx(top, rel=0.02)
    assert fisher[0]["values"]["effective_rank"] == fisher[0]["values"]["trace"] / fisher[0]["values"]["lambda_max"]
    # Each label's squared gradient is an independent draw with mean trace; 16 * 5 * 8 of them vary by less than half.
    assert fisher[0]["values"]["trace"] == pytest.approx(exact, rel=0.25)
    ntk = next(r for r in probe.history.records if r["measure"] == "ntk")
    assert ntk["note"] == "16 of 250 outputs"


def test_where_products_do_not_settle_the_drawn_eigenvalue_is_named_biased(monkeypatch):
    monkeypatch.setattr("isometry.training._probe_measures.LANCZOS_STEPS", 2)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Embedding(50, 8), nn.Linear(8, 50))
    tokens = torch.randint(50, (16, 5))
    probe = Probe(model, tokens, tokens, measures=["fisher"], max_overhead=FREE).start()
    record = next(r for r in probe.history.records if r["measure"] == "fisher")
    assert "8 a sample: lambda_max is biased upwards, effective_rank downwards (2 products left" in record["note"]
    values = record["values"]
    assert values["effective_rank"] == pytest.approx(values["trace"] / values["lambda_max"])


# -- when it measures --------------------------------------------------------------------------------------------------


@given(st.integers(0, 100))
def test_the_geometric_schedule_has_four_steps_in_every_doubling(k):
    due = make_schedule("geometric", None)
    step = round(2 ** (k / 4))
    assert due(step)
    after = round(2 ** ((k + 1) / 4))
    inside = range(step + 1, after) if k < 40 else [step + 1, (step + after) // 2, after - 1]
    assert not any(due(s) for s in inside)


def test_the_first_steps_of_the_geometric_schedule():
    due = make_schedule("geometric", None)
    assert [s for s in range(65) if due(s)] == [
        0,
        1,
        2,
        3,
        4,
        5,
        6,
        7,
        8,
        10,
        11,
        13,
        16,
        19,
        23,
        27,
        32,
        38,
        45,
        54,
        64,
    ]


@pytest.mark.parametrize(("cap", "cost", "every"), [(0.1, 3.0, 1), (0.0625, 0.5, 4), (0.5, 7.0, 3)])
def test_the_cap_is_kept_and_skips_are_listed(cap, cost, every):
    clock = Clock()

    def dear(model, x, y):
        clock.pass_by(cost)
        return {"one": 1.0}

    training = Training()
    probe = Probe(training.model, training.x, measures={"dear": dear}, every=every, max_overhead=cap, clock=clock)
    shares = []
    with probe:
        for _ in range(300):
            clock.pass_by(STEP)
            before = len(probe.history.records)
            probe.step()
            if len(probe.history.records) > before:
                shares.append(probe.overhead)
    spent, expected, skipped = cost, [0], 0  # the account as the docstring gives it
    for step in range(every, 301, every):
        if spent + cost <= cap * step:
            spent += cost
            expected.append(step)
        else:
            skipped += 1
    assert [r["step"] for r in probe.rows() if r["measure"] == "dear"] == expected
    assert len(expected) > 3
    assert max(shares) <= cap
    assert sum(gap.times for gap in probe.skipped["dear"]) == skipped
    assert {gap.reason for gap in probe.skipped["dear"]} == {"over the cap"}
    assert probe.skipped["dear"][0].first == every


def test_without_a_cap_every_due_measurement_is_taken_however_fast_the_training():
    clock = Clock()

    def dear(model, x, y):
        clock.pass_by(1e6)
        return {"one": 1.0}

    training = Training()
    measures = {"dear": dear}
    with Probe(training.model, training.x, measures=measures, every=1, max_overhead=None, clock=clock) as probe:
        for _ in range(5):
            probe.step()  # takes no time at all
    assert [r["step"] for r in probe.rows() if r["measure"] == "dear"] == [0, 1, 2, 3, 4, 5]
    assert probe.skipped == {}
    assert probe.history.header["max_overhead"] is None


def test_an_infinite_cap_is_refused_with_what_to_pass_instead():
    training = Training()
    with pytest.raises(ValueError, match="max_overhead must be finite, got inf; pass None to measure whenever"):
        Probe(training.model, training.x, max_overhead=math.inf)


def test_a_cheap_measure_goes_on_while_a_dear_one_waits():
    clock = Clock()

    def measure_of(seconds):
        def take(model, x, y):
            clock.pass_by(seconds)
            return {"one": 1.0}

        return take

    training = Training()
    measures = {"dear": measure_of(40.0), "cheap": measure_of(0.01)}
    with Probe(training.model, training.x, measures=measures, every=1, max_overhead=0.1, clock=clock) as probe:
        for _ in range(700):
            clock.pass_by(STEP)
            probe.step()
    taken = {name: sum(r["measure"] == name for r in probe.rows()) for name in measures}
    assert taken["dear"] == 1
    assert taken["cheap"] > 200


def test_a_trainer_that_counts_in_strides_misses_no_due_step():
    training = Training()
    with Probe(training.model, training.x, measures={"one": constant}, every=5, max_overhead=FREE) as probe:
        for step in range(2, 40, 2):
            probe.step(step=step)
    assert [r["step"] for r in probe.rows() if r["measure"] == "one"] == [0, 6, 10, 16, 20, 26, 30, 36]


def test_a_function_as_schedule_and_what_is_logged():
    training, heard, late = Training(), [], []
    probe = Probe(
        training.model,
        training.x,
        measures={"one": constant},
        schedule=lambda step: step in {3, 4},
        max_overhead=FREE,
        log=lambda metrics, step: heard.append((step, metrics)),
    )
    end = probe.listen(lambda metrics, step: late.append(step))
    with probe:
        returned = [probe.step(0.5) for _ in range(3)]
        end()
        probe.step(torch.tensor(0.25))
    assert [step for step, _ in heard] == [0, 3, 4]
    assert late == [0, 3]
    assert heard[0][1] == {"probe/one/one": 1.0}
    assert heard[1][1] == returned[2]
    assert heard[2][1]["probe/training/loss"] == 0.25
    assert returned[:2] == [{}, {}]


# -- what goes wrong ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("layer", ["0", "4"])
def test_a_nan_in_a_layer_is_told_with_step_and_layer_once(layer):
    training = Training()
    probe = Probe(training.model, training.x, training.y, max_overhead=FREE, every=50)

    def losses():
        for step in range(1, 101):
            loss = training.step()
            if step == 7:
                with torch.no_grad():
                    training.model.get_submodule(layer).weight[0, 0] = math.nan
            yield loss

    with pytest.warns(UserWarning, match=f"not finite at step 7, first in layer '{layer}'") as told:
        follow(probe, losses())
    assert len(told) == 1
    assert probe.nonfinite["step"] == 7
    assert f"the first is '{layer}.weight'" in probe.nonfinite["note"]
    assert probe.steps == 100
    signal = [r for r in probe.history.records if r["measure"] == "signal"]
    assert [r["step"] for r in signal] == [0, 50, 100]  # the signal still says where
    assert signal[1]["note"] == "0"  # by then a step has spread the NaN over all weights
    assert [r["step"] for r in probe.history.records if r["measure"] == "fisher"] == [0]
    assert probe.skipped["fisher"] == ((50, 100, 2, "the model is not finite"),)


def test_a_loss_that_is_not_finite_is_told_at_its_step_though_nothing_is_due():
    training = Training()
    probe = Probe(training.model, training.x, training.y, measures=["signal"], every=1000)
    with pytest.warns(UserWarning, match="not finite at step 3: the loss was inf; all parameters are finite"):
        follow(probe, (1.0, torch.tensor(0.5), math.inf, 0.5))
    assert probe.nonfinite["step"] == 3


def test_losses_on_an_accelerator_are_looked_at_together_and_keep_their_steps():
    class Far(torch.Tensor):
        """A loss that says it lies on another device; reading it is counted."""

        reads = 0
        device = property(lambda self: torch.device("cuda"))

        def tolist(self):
            Far.reads += 1
            return super().tolist()

    health = Health(nn.Linear(2, 2))
    for step in range(1, WAITING):
        loss = torch.tensor(math.nan if step == 9 else 1.0).as_subclass(Far)
        assert health.look(step, loss, parameters=False, now=False) is None
    assert Far.reads == 0
    seen = health.look(WAITING, torch.tensor(1.0).as_subclass(Far), parameters=False, now=False)
    assert Far.reads == 1
    assert (seen.step, seen.words) == (9, "the loss was nan; all parameters are finite")


def test_a_model_that_is_spread_over_processes_is_refused(tmp_path):
    distributed = torch.distributed
    if not distributed.is_available():
        pytest.skip("this torch has no torch.distributed")
    from torch.distributed.tensor import distribute_module, init_device_mesh

    store = distributed.FileStore(str(tmp_path / "store"), 1)
    distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    try:
        model = distribute_module(nn.Linear(4, 2), init_device_mesh("cpu", (1,)))
        probe = Probe(model, torch.ones(3, 4), measures=["signal"])
        with pytest.raises(ValueError, match="parameter 'weight' is distributed over processes, and a probe measures"):
            probe.start()
    finally:
        distributed.destroy_process_group()


def test_the_gradients_say_from_where_on():
    training = Training()
    training.step()
    training.model[0].weight.grad[0, 0] = math.inf
    training.model[1].weight.grad[0] = math.nan
    probe = Probe(training.model, training.x, training.y, measures=["signal"])
    with probe, pytest.warns(UserWarning, match="gradients are not finite from '1.weight' down to '0.weight'"):
        probe.step(math.nan)


def test_when_all_parameters_are_spoilt_no_layer_is_blamed():
    training = Training()
    with Probe(training.model, training.x, training.y, measures=["signal"]) as probe:
        training.model(training.x).mul(math.nan).sum().backward()
        training.optimizer.step()
        with pytest.warns(UserWarning, match="step 1: the loss was nan; all 6 parameters hold NaN or infinity"):
            probe.step(math.nan)


def test_activations_that_overflow_with_finite_parameters_are_told():
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 2))
    with torch.no_grad():
        model[1].weight.fill_(3e38)
        model[0].bias.fill_(10.0)
    probe = Probe(model, torch.ones(4, 4), measures=["signal"])
    with pytest.warns(UserWarning, match="step 0, first in layer '1': the signal of the probe's batch is not finite"):
        probe.start()
    assert probe.nonfinite["step"] == 0


def test_a_measure_that_does_not_apply_is_told_once_and_left_out():
    model = nn.Sequential(nn.Embedding(9, 4), nn.Linear(4, 3))
    tokens = torch.randint(9, (6,))
    probe = Probe(model, tokens, measures=["jacobian", "signal"], every=1, max_overhead=FREE)
    with pytest.warns(UserWarning, match=r"step 0: measure 'jacobian' left out: x has dtype torch.int64") as told:
        follow(probe, [None] * 3)
    assert len(told) == 1
    assert "name the module after whose output to start" in probe.left_out["jacobian"]
    assert sum(r["measure"] == "jacobian" for r in probe.history.records) == 1


def test_a_measure_that_fails_later_is_told_and_tried_again():
    calls = []

    def moody(model, x, y):
        calls.append(None)
        if len(calls) == 2:
            raise RuntimeError("not today")
        return {"call": len(calls)}

    training = Training()
    probe = Probe(training.model, training.x, measures={"moody": moody}, every=1, max_overhead=FREE)
    with pytest.warns(UserWarning, match="step 1: measure 'moody' failed: not today"):
        follow(probe, [None] * 3)
    assert [r["value"] for r in probe.rows() if r["quantity"] == "call"] == [1, 3, 4]
    assert probe.left_out == {}


@pytest.mark.parametrize(
    ("returned", "message"),
    [
        (3.0, r"measure 'odd' returned float; return a dict of numbers by name"),
        ({"a": torch.ones(2)}, r"measure 'odd' returned Tensor for 'a'; return single real numbers"),
        ({"a": "b"}, r"measure 'odd' returned str for 'a'"),
    ],
)
def test_what_a_function_returns_is_checked(returned, message):
    training = Training()
    with pytest.warns(UserWarning, match=message):
        Probe(training.model, training.x, measures={"odd": lambda m, x, y: returned}).start()


def probe_of(*args, **kwargs):
    training = Training()
    return Probe(training.model, *(args or (training.x, training.y)), **kwargs)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: Probe("net", torch.ones(2)), TypeError, r"model must be a torch.nn.Module, got str; build the model"),
        (lambda: probe_of("text"), TypeError, r"x must be a torch.Tensor, a tuple of tensors or a dict"),
        (lambda: probe_of(torch.ones(0, 6)), ValueError, r"x holds no samples; pass at least one"),
        (lambda: probe_of(torch.ones(4, 6), torch.ones(3)), ValueError, r"y has shape \(3,\) for 4 samples in x"),
        (lambda: probe_of(measures=["fischer"]), ValueError, r"unknown measure 'fischer'; did you mean 'fisher'\?"),
        (lambda: probe_of(measures=[]), ValueError, r"measures is empty; name some of signal, fisher"),
        (lambda: probe_of(measures={"a": 3}), TypeError, r"measure 'a' must be a function of \(model, x, y\), got int"),
        (lambda: probe_of(measures={"skipped": constant}), ValueError, r"measure name 'skipped' cannot be used"),
        (
            lambda: probe_of(torch.ones(4, 6), measures=["curvature"]),
            ValueError,
            r"measure 'curvature' needs targets; pass y to the probe, or leave it out of measures",
        ),
        (lambda: probe_of(schedule="every"), ValueError, r'schedule="every" needs a number of steps; pass every=100'),
        (lambda: probe_of(schedule="geometrical"), ValueError, r"unknown schedule 'geometrical'; did you mean 'geom"),
        (lambda: probe_of(schedule=3), TypeError, r"schedule must be a name or a function of the step, got int"),
        (lambda: probe_of(every=0), ValueError, r"every must be a whole number of steps >= 1, got 0"),
        (lambda: probe_of(every=2, schedule=bool), ValueError, r"every=2 and a function as schedule were given"),
        (lambda: probe_of(max_overhead=0), ValueError, r"max_overhead must be a finite number > 0, got 0"),
        (lambda: probe_of(samples=0), ValueError, r"samples must be a whole number >= 1, got 0"),
        (lambda: probe_of(likelihood="normal"), ValueError, r"unknown likelihood 'normal'"),
        (lambda: probe_of().step(), RuntimeError, r"the probe is not running; put the loop into `with probe:`"),
        (lambda: probe_of().start(-1), ValueError, r"step must be the number of steps done, got -1"),
        (lambda: probe_of().start().start(), RuntimeError, r"the probe runs already; call start\(\) once"),
        (lambda: probe_of().start().step("a"), TypeError, r"loss must be one number, got str"),
        (
            lambda: probe_of().start().step(torch.ones(2)),
            TypeError,
            r"loss must be one number, got a tensor of shape \(2,\); pass the batch's mean loss",
        ),
        (lambda: probe_of().start().step(step=0), ValueError, r"step must grow: 0 was given after 0; pass the steps"),
    ],
)
def test_refusals(call, error, message):
    with pytest.raises(error, match=message):
        call()
