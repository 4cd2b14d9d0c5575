"""Figures: plain data that plotly's own validators accept, and that shows the content."""

from __future__ import annotations

import json
import math

import numpy as np
import plotly.graph_objects as go
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from isometry.report import tidy
from isometry.report._figures import EVIDENCE, proof
from isometry.report._figures._correlation import correlation
from isometry.report._figures._fisher import fisher
from isometry.report._figures._jacobian import jacobian
from isometry.report._figures._phase import phase
from isometry.report._figures._plot import log_axis
from isometry.report._figures._signal import signal
from isometry.report._figures._units import units
from isometry.report._theme import DARK, LIGHT, template
from tests.report import samples

ALL = (*EVIDENCE, proof)


@pytest.fixture(scope="module")
def sick():
    return samples.sick()


def named(plot, name):
    return next(trace for trace in plot.figure["data"] if trace.get("name") == name)


def area(y, x):
    return np.sum(np.diff(x) * (np.array(y)[1:] + np.array(y)[:-1]) / 2)


@pytest.mark.parametrize("build", ALL, ids=lambda build: build.__name__)
@pytest.mark.parametrize("make", [samples.sick, samples.hostile])
def test_plotly_accepts_every_figure(build, make):
    plot = build(tidy(make()))
    go.Figure(plot.figure)  # raises on a property or value that plotly does not know
    json.dumps(plot.figure, allow_nan=False)
    assert plot.reading.endswith((".", ")"))


@pytest.mark.parametrize("palette", [LIGHT, DARK], ids=["light", "dark"])
def test_plotly_accepts_the_templates(palette):
    go.Figure(data=[], layout={"template": template(palette)})


@pytest.mark.parametrize("build", ALL, ids=lambda build: build.__name__)
def test_what_was_not_measured_is_not_drawn(build, sick):
    assert build(tidy({})) is None
    assert build(tidy(samples.nulled(sick))) is None


@pytest.mark.parametrize("build", ALL, ids=lambda build: build.__name__)
def test_any_number_may_be_null(build, sick):
    """Null numbers one kind at a time: each leaf's key, everywhere it occurs."""

    def leaves(value, key=""):
        if isinstance(value, dict):
            return {k for name, item in value.items() for k in leaves(item, name)}
        if isinstance(value, list):
            return {k for item in value for k in leaves(item, key)}
        return {key}

    def without(value, gone, key=""):
        if isinstance(value, dict):
            return {name: without(item, gone, name) for name, item in value.items()}
        if isinstance(value, list):
            return [without(item, gone, key) for item in value]
        return None if key == gone else value

    sections = {key: sick[key] for key in ("signal", "jacobian", "fisher", "phase", "proof")}
    for key in sorted(leaves(sections)):
        plot = build(tidy(without(sections, key)))
        if plot is not None:
            json.dumps(plot.figure, allow_nan=False)
            assert "None" not in plot.reading, key


def test_signal_shows_both_directions_with_theory_and_e_folds(sick):
    plot = signal(tidy(sick))
    measured = [trace for trace in plot.figure["data"] if trace["name"] == "measured"]
    theory = [trace for trace in plot.figure["data"] if trace["name"] == "theory"]
    assert [trace["yaxis"] for trace in measured] == ["y", "y2"]
    assert [len(trace["x"]) for trace in theory] == [100, 100]
    assert measured[1]["y"][0] == pytest.approx(sick["signal"]["layers"][0]["gradient_norm"], rel=1e-4)
    layout = plot.figure["layout"]
    assert layout["yaxis"]["type"] == layout["yaxis2"]["type"] == "log"
    assert "e-fold depth of g²: 0.95 (theory 0.92)" in layout["annotations"][1]["text"]
    assert "falls from" in plot.reading
    assert "24 powers of ten" in plot.reading


def test_zero_and_missing_values_are_marked_on_the_log_axis(sick):
    layers = [dict(layer) for layer in sick["signal"]["layers"]]
    layers[3]["q"], layers[5]["q"], layers[7]["nonfinite"] = 0.0, math.nan, 3
    plot = signal(tidy({"signal": {"layers": layers}}))
    assert named(plot, "exactly zero")["x"] == [4]
    assert named(plot, "not finite or not measured")["x"] == [6]
    assert named(plot, "measured")["y"][3] is None
    assert "There is 1 layer with no signal at all and 1 layer with NaN or infinity." in plot.reading


def test_normalizations_are_marks_beside_the_line_through_the_weight_layers():
    rows = [
        {"name": name, "kind": kind, "depth": depth, "q": q}
        for name, kind, depth, q in (("a", "linear", 1, 9.0), ("n", "norm", 1, 1.0), ("b", "linear", 2, 4.0))
    ]
    plot = signal(tidy({"signal": {"layers": rows}}))
    assert named(plot, "measured")["y"] == [9.0, 4.0]
    assert named(plot, "after normalization")["y"] == [1.0]
    assert "falls" not in plot.reading.split(".")[0]


def test_a_far_fixed_point_does_not_flatten_the_plot():
    rows = [{"name": "a", "depth": 1, "q": 1.0}, {"name": "b", "depth": 2, "q": 0.5}]
    plot = signal(tidy({"signal": {"layers": rows, "q_star": 1e-30}}))
    assert all(trace["name"] != "q* (fixed point)" for trace in plot.figure["data"])


def test_layers_are_drawn_in_the_order_of_depth():
    rows = [{"name": "b", "depth": 2, "q": 4.0}, {"name": "a", "depth": 1, "q": 2.0}]
    assert named(signal(tidy({"signal": {"layers": rows}})), "measured")["y"] == [2.0, 4.0]


@given(st.lists(st.floats(1e-300, 1e300), min_size=1, max_size=6))
@settings(deadline=None, max_examples=100)
def test_a_log_axis_spans_at_least_a_decade_and_all_values_and_has_labels(values):
    axis = log_axis(values)
    low, high = axis["range"]
    assert high - low >= 1
    assert low <= math.log10(min(values)) + 1e-3
    assert high >= math.log10(max(values)) - 1e-3
    if "tickvals" in axis:
        assert sum(low <= math.log10(tick) <= high for tick in axis["tickvals"]) >= 2


def test_correlation_marks_the_reach_and_tells_of_the_collapse(sick):
    plot = correlation(tidy(sick))
    assert plot.figure["layout"]["shapes"][0]["x0"] == pytest.approx(6 * 0.92)
    assert "e-fold depth of 1 − c: 0.94 (theory 0.92)" in plot.figure["layout"]["annotations"][0]["text"]
    assert "They have become the same to the network" in plot.reading
    assert "beyond the reach of 5.5 layers" in plot.reading
    far = tidy(sick | {"signal": sick["signal"] | {"xi_c": 1000.0}})
    assert "shapes" not in correlation(far).figure["layout"]


@pytest.mark.parametrize("spread", [0.05, 3.0], ids=["linear", "log"])
def test_the_histogram_is_a_density(spread):
    values = np.exp(np.random.default_rng(0).normal(0, spread, 2000)).tolist()
    trace = named(jacobian(tidy({"jacobian": {"singular_values": values}})), "measured")
    x = np.log10(trace["x"]) if spread > 1 else np.array(trace["x"])
    assert np.sum(np.diff(x) * np.array(trace["y"][:-1])) == pytest.approx(1, rel=1e-2)  # bin edges have five digits
    assert sum(trace["customdata"]) == 2000


def test_the_law_is_drawn_in_the_histograms_measure(sick):
    plot = jacobian(tidy(sick))
    law = named(plot, "theory (orthogonal weights)")
    s, density = (np.array(sick["jacobian"]["law"][key]) for key in ("s", "density"))
    assert np.allclose(law["y"], density * s * math.log(10), rtol=1e-3)
    assert area(law["y"], np.log10(law["x"])) == pytest.approx(area(density, s), rel=1e-2)


def test_zero_singular_values_are_counted_not_drawn():
    plot = jacobian(tidy({"jacobian": {"singular_values": [[1.0, 0.5, 0.0], [0.9, 0.0, 0.0]], "inputs": 2}}))
    assert "6 singular values at 2 inputs" in plot.reading
    assert "3 values of them are zero and not drawn" in plot.reading
    x, y = (np.array(named(plot, "measured")[key]) for key in ("x", "y"))
    assert np.sum(np.diff(x) * y[:-1]) == pytest.approx(0.5, rel=1e-2)


@given(st.lists(st.floats(1e-30, 1e30), min_size=1, max_size=30))
@settings(deadline=None, max_examples=60)
def test_every_singular_value_lands_in_a_bin(values):
    trace = named(jacobian(tidy({"jacobian": {"singular_values": values}})), "measured")
    assert sum(trace["customdata"]) == len(values)


def test_fisher_is_sorted_and_shows_bounds_and_step(sick):
    content = tidy(sick | {"fisher": sick["fisher"] | {"eigenvalues": [0.1, 2.31, 0.0, 1.0]}})
    plot = fisher(content)
    assert named(plot, "eigenvalues")["y"] == [2.31, 1.0, 0.1]
    assert named(plot, "certificate")["y"] == [4.4, 4.4]
    heading = plot.figure["layout"]["annotations"][0]["text"]
    assert "λ<sub>max</sub> = 2.31<br>largest stable step 2/λ<sub>max</sub> = 0.866" in heading
    assert "The certificate 4.4 bounds it for any network." in plot.reading


def test_the_theorem_stands_beside_the_hidden_layers_eigenvalue_that_it_is_about(sick):
    plot = fisher(tidy(sick))
    assert named(plot, "hidden layers: theorem")["y"] == [0.011, 0.011]
    assert named(plot, "hidden layers: λ<sub>max</sub>")["y"] == [0.72]
    assert "Hidden layers alone: λ_max 0.72, theorem 0.011, which does not hold here." in plot.reading
    assert "a single network may exceed it" in plot.reading
    held = fisher(tidy(sick | {"fisher": sick["fisher"] | {"hidden": {"lambda_max": 0.72, "bound_theorem": 0.9}}}))
    assert "Hidden layers alone: λ_max 0.72, theorem 0.9." in held.reading
    assert "exceed" not in held.reading


def test_a_bound_far_below_the_spectrum_is_told_and_not_drawn(sick):
    hidden = {"lambda_max": 0.72, "bound_theorem": 3e-90}
    plot = fisher(tidy(sick | {"fisher": sick["fisher"] | {"hidden": hidden}}))
    assert "hidden layers: theorem" not in [trace["name"] for trace in plot.figure["data"]]
    assert "theorem 3e-90, which does not hold here" in plot.reading
    alone = fisher(tidy(sick | {"fisher": sick["fisher"] | {"hidden": None}}))
    assert "Hidden layers" not in alone.reading


def test_the_phase_diagram_moves_the_net_from_before_to_after(sick):
    plot = phase(tidy(sick))
    z = np.array(plot.figure["data"][0]["z"])
    assert z.shape == (25, 41)
    assert np.allclose(10**z, sick["phase"]["chi"], rtol=1e-3)
    assert named(plot, "before")["x"] == [pytest.approx(0.57735)]
    arrow = plot.figure["layout"]["annotations"][-1]
    assert (arrow["ax"], arrow["x"]) == (pytest.approx(0.57735), 1.0157)
    assert "ordered, gradients vanish" in plot.reading
    assert plot.figure["layout"]["coloraxis"]["cmid"] == 0


def test_a_net_off_the_grid_widens_the_axes():
    grid = {"sigma_w": [1.0, 2.0], "sigma_b": [0.0, 0.1], "chi": [[0.5, 2.0], [0.4, 1.9]]}
    plot = phase(tidy({"phase": grid | {"before": {"sigma_w": 5.0, "sigma_b": 0.05}}}))
    assert plot.figure["layout"]["xaxis"]["range"][1] > 5
    assert named(plot, "this net")["x"] == [5.0]
    assert "χ is about" not in plot.reading


def test_units_stack_and_name_the_worst_layer(sick):
    layers = [dict(layer, saturated=0.1, dead=0.0) for layer in sick["signal"]["layers"]]
    layers[10]["dead"] = 0.85
    plot = units(tidy({"signal": {"layers": layers}}))
    assert plot.figure["layout"]["barmode"] == "stack"
    assert plot.figure["layout"]["yaxis"]["range"][1] == 1.05
    assert "At most 85 % of a layer's units are dead (in layers.20); one layer exceeds 10 %." in plot.reading


def test_the_proof_shows_both_runs_and_guessing(sick):
    plot = proof(tidy(sick))
    assert {trace["name"] for trace in plot.figure["data"]} == {"before", "after", "guessing"}
    assert named(plot, "guessing")["y"] == [pytest.approx(2.3026, rel=1e-4)] * 2
    smooth = plot.figure["data"][-1]["y"]
    assert np.allclose(smooth, sick["proof"]["after"]["loss"], atol=0.25)
    assert "accuracy 95.3 %" in plot.reading


def test_long_runs_are_thinned_and_broken_ones_told():
    loss = [2.0] * 5000 + [None]
    plot = proof(tidy({"proof": {"before": {"loss": loss}, "after": {"loss": [1.0, 0.5]}}}))
    assert max(len(trace["x"]) for trace in plot.figure["data"]) <= 600
    assert "the loss stopped being finite" in plot.reading


def test_the_fisher_figure_of_a_large_net_stays_small():
    values = np.exp(np.random.default_rng(0).normal(-5, 3, 1000))
    assert len(json.dumps(fisher(tidy({"fisher": {"eigenvalues": values}})).figure)) < 20_000


def test_a_signal_that_jumps_or_never_arrives_is_told():
    q = [1.0, 80.0, 0.001, 1.2]
    rows = [{"name": f"{i}", "depth": i + 1, "q": v, "gradient_norm": 0.0 if i < 2 else 1.0} for i, v in enumerate(q)]
    plot = signal(tidy({"signal": {"layers": rows}}))
    assert "jumps between 0.001 and 80 from the first layer to the last" in plot.reading
    assert "There are 2 layers with no gradient at all." in plot.reading
    in_legend = [trace["name"] for trace in plot.figure["data"] if trace["showlegend"]]
    assert in_legend == ["measured", "exactly zero"]


def test_a_panel_without_a_finite_value_says_so():
    rows = [{"name": "a", "depth": 1, "q": 1.0, "gradient_norm": math.nan}, {"name": "b", "depth": 2, "q": 1.0}]
    heading = signal(tidy({"signal": {"layers": rows}})).figure["layout"]["annotations"][1]["text"]
    assert heading == "Backward: gradient norm g: no finite value"


def test_no_dead_unit_no_empty_plot(sick):
    layers = [dict(layer, saturated=0.0, dead=0.0) for layer in sick["signal"]["layers"]]
    content = tidy({"signal": {"layers": layers}})
    assert units(content) is None
    assert "No unit is dead or saturated." in signal(content).reading


def test_a_single_critical_point_is_a_mark():
    grid = {"sigma_w": [1.0, 2.0], "sigma_b": [0.0, 0.1], "chi": [[0.5, 2.0], [0.5, 2.0]]}
    plot = phase(tidy({"phase": grid | {"critical": {"sigma_w": [1.4142], "sigma_b": [0.0]}}}))
    assert named(plot, "critical, χ = 1")["mode"] == "markers"


def test_eigenvalues_at_rounding_level_are_counted_not_drawn():
    plot = fisher(tidy({"fisher": {"eigenvalues": [0.3, 0.2, 1e-17, -2e-17]}}))
    assert named(plot, "eigenvalues")["y"] == [0.3, 0.2]
    assert "2 of them are zero to rounding and not drawn." in plot.reading
