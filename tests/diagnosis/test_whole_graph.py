"""A diagnosis of one whole graph: its nodes stand for samples, and nothing takes them apart."""

import copy
import itertools
import json
import math
import re

import pytest
import torch
from torch import nn
from torch.nn import functional
from typer.testing import CliRunner

from isometry import Inputs, data, diagnose, init, training
from isometry.cli import app
from isometry.diagnosis import prescribe
from isometry.diagnosis._case import open_case
from isometry.diagnosis._nodes import NodeInputs
from isometry.diagnosis._response import measure_response

from .nets import assert_same, fingerprint

NODES, FEATURES, CLASSES = 60, 8, 3
MASK = torch.arange(NODES) < 30


def ring_of_classes():
    """Nodes of three classes, linked mostly within their class, with features that lean towards it."""
    g = torch.Generator().manual_seed(0)
    y = torch.arange(NODES) % CLASSES
    x = torch.randn(NODES, FEATURES, generator=g) + 2 * torch.eye(CLASSES, FEATURES)[y]
    likely = torch.where(y.unsqueeze(1) == y, 0.25, 0.03)
    links = (torch.rand(NODES, NODES, generator=g) < likely).float()
    links = ((links + links.T) > 0).float().fill_diagonal_(1)
    scale = links.sum(1).rsqrt()
    return x, scale.unsqueeze(1) * links * scale, y


X, A, Y = ring_of_classes()


class GCN(nn.Module):
    def __init__(self, depth=2, shrink=1.0):
        super().__init__()
        widths = [FEATURES] + [16] * (depth - 1) + [CLASSES]
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in itertools.pairwise(widths))
        with torch.no_grad():
            for layer in self.layers:
                layer.weight *= shrink

    def forward(self, x, adjacency):
        assert len(x) == NODES, "the graph was split"
        for layer in self.layers[:-1]:
            x = torch.relu(adjacency @ layer(x))
        return adjacency @ self.layers[-1](x)


def graph(mask=MASK, adjacency=A):
    return Inputs((X, adjacency), whole=True, mask=mask)


@pytest.fixture(scope="module")
def cured():
    model = GCN(8, shrink=0.1)
    before = fingerprint(model)
    found = diagnose(model, (graph(), Y), prove=100)
    assert_same(before, fingerprint(model))
    return model, found


def test_a_healthy_graph_net_has_no_errors_or_warnings():
    for adjacency in (A, A.to_sparse()):
        found = diagnose(GCN(), (graph(adjacency=adjacency), Y))
        assert found.verdict == "healthy"
        assert {f.severity for f in found.findings} <= {"info"}


def test_a_sick_graph_net_is_found_sick_and_cured(cured):
    _, found = cured
    assert found.verdict == "warning"
    assert "vanishing_gradient" in [f.code for f in found.findings]
    assert found.proof.cured
    assert "The prescription cures it" in str(found.proof)
    assert found.proof.batch_size == 30  # every step takes all nodes that count
    assert found.proof.chance == pytest.approx(math.log(CLASSES))


def test_sixteen_layers_with_default_weights_are_found_sick_and_train_better_as_prescribed():
    found = diagnose(GCN(16), (graph(), Y), prove=200)
    assert "vanishing_gradient" in [f.code for f in found.findings if f.severity == "warning"]
    assert found.proof.after.learned
    assert found.proof.after.accuracy > found.proof.before.accuracy


def test_the_prescription_is_calibrated_and_can_be_applied(cured):
    model, found = cured
    assert "calibrated on data" in found.prescription.summary
    one, other = (found.prescription.apply_(copy.deepcopy(model)) for _ in range(2))
    for a, b, old in zip(one.parameters(), other.parameters(), model.parameters(), strict=True):
        assert torch.equal(a, b)
        assert a.ndim < 2 or not torch.equal(a, old)
    again = init.critical_(copy.deepcopy(model), data=graph(), generator=torch.Generator().manual_seed(0))
    assert again.method == "data"
    assert diagnose(one, (graph(), Y)).verdict == "healthy"


def test_what_is_not_meaningful_is_listed(cured):
    _, found = cured
    why = {s.what: s.why for s in found.skipped}
    assert "the nodes of one graph influence each other" in why["Jacobian"]
    assert "messages between nodes" in why["mean-field theory"]
    assert (
        "its 60 nodes stand for samples, and the loss is that of 30 nodes that count"
        in why["the model exactly as it is"]
    )
    assert "coupled_samples" not in [f.code for f in found.findings]


def test_the_report_speaks_of_nodes(cured, tmp_path):
    _, found = cured
    found.save(tmp_path)
    subject = json.loads((tmp_path / "diagnosis.json").read_text(encoding="utf-8"))["subject"]
    assert (subject["samples"], subject["nodes"]) == (None, NODES)
    page = (tmp_path / "index.html").read_text(encoding="utf-8")
    assert "was measured on 60 nodes of" in page
    assert "<dt>Nodes</dt><dd>60</dd>" in page


def test_signal_and_correlation_are_those_over_the_nodes():
    model = GCN(3)
    signal = diagnose(model, (graph(), Y)).evidence.signal
    first = model.layers[0](X).detach().double()
    unit = functional.normalize(first, dim=1)
    cosine = (unit @ unit.T).fill_diagonal_(0).sum() / (NODES * (NODES - 1))
    assert signal.samples == NODES
    assert signal.layers[0].q == pytest.approx(float(first.square().mean()), rel=1e-6)
    assert signal.layers[0].correlation == pytest.approx(float(cosine), rel=1e-6)
    assert signal.input_q == pytest.approx(float(X.square().mean()), rel=1e-6)


@pytest.mark.parametrize("kind", ["labels", "values"])
def test_only_nodes_that_count_send_a_gradient_back(kind):
    values = torch.randn(NODES, CLASSES, generator=torch.Generator().manual_seed(3))
    targets = Y if kind == "labels" else values
    model = GCN()
    found = diagnose(model, (graph(), targets))
    out = model(X, A)[MASK]
    # the response's loss is the usual one; the signal's squared loss is a mean over outputs, too
    wanted = functional.cross_entropy(out, Y[MASK])
    scale = 1.0
    if kind == "values":
        wanted, scale = 0.5 * (out - values[MASK]).square().sum(1).mean(), 2 / CLASSES
    names, parameters = zip(*model.named_parameters(), strict=True)
    grads = dict(zip(names, torch.autograd.grad(wanted, parameters), strict=True))
    assert found.evidence.response.loss == pytest.approx(float(wanted.detach()), rel=1e-5)
    for g in found.evidence.response.gradients:
        assert g.rms == pytest.approx(float(grads[g.name].square().mean().sqrt()), rel=1e-4)
    for layer in found.evidence.signal.layers:
        own = torch.cat([grads[f"{layer.name}.{p}"].flatten() for p in ("weight", "bias")])
        assert layer.weight_gradient_norm == pytest.approx(scale * float(own.norm()), rel=1e-4)


def test_the_fisher_spectrum_is_that_of_the_nodes_that_count():
    model = GCN()
    fisher = diagnose(model, (graph(), Y)).evidence.fisher
    assert (fisher.kind, fisher.positions, len(fisher.eigenvalues())) == ("true", 30, 30 * (CLASSES - 1))
    parameters, total = list(model.parameters()), 0
    for logits in model(X, A)[MASK]:
        p = logits.softmax(0).detach()
        rows = [torch.autograd.grad(v, parameters, retain_graph=True) for v in logits]
        j = torch.stack([torch.cat([g.flatten() for g in row]) for row in rows])
        total = total + j.T @ (torch.diag(p) - torch.outer(p, p)) @ j / 30
    assert fisher.lambda_max == pytest.approx(float(torch.linalg.eigvalsh(total.double())[-1]), rel=1e-4)


def test_over_smoothing_is_a_collapse_of_the_nodes():
    class Smoothed(GCN):
        def forward(self, x, adjacency):
            for _ in range(200):
                x = (adjacency / adjacency.sum(1, keepdim=True)) @ x
            return super().forward(x, adjacency / adjacency.sum(1, keepdim=True))

    found = diagnose(Smoothed(), (graph(), Y)).evidence
    assert found.response.terminal < 1e-6
    x = (torch.matrix_power(A.double() / A.double().sum(1, keepdim=True), 200)) @ X.double()
    share = (x - x.mean(0)).square().mean() / x.square().mean()
    assert found.response.inputs[0].distinguishability < 10 * float(share) + 1e-10


class Messages(nn.Module):
    """Takes a list of edges before the features."""

    def __init__(self):
        super().__init__()
        self.inner = GCN()

    def forward(self, edges, x):
        def gathered(h):
            return h.index_add(0, edges[1], h[edges[0]]) / 4

        hidden = torch.tanh(gathered(self.inner.layers[0](x)))
        return gathered(self.inner.layers[1](hidden))


def test_edges_may_come_first_and_by_name():
    given = Inputs(kwargs={"edges": A.nonzero().T, "x": X}, whole=True, mask=MASK)
    found = diagnose(Messages(), (given, Y), prove=30)
    assert found.verdict == "healthy"
    assert found.proof.before.learned
    assert found.evidence.signal.input_q == pytest.approx(float(X.square().mean()), rel=1e-6)


def test_which_arguments_have_a_row_per_node():
    def rows(*args, shared=()):
        given = NodeInputs(args, shared=frozenset(shared), nodes=4)
        return [any(t is r for r in given.rows()) for t in args]

    features, square, edges = torch.ones(4, 2), torch.ones(4, 4), torch.ones(2, 9)
    assert rows(square, features, edges) == [False, True, False]
    assert rows(features, torch.ones(4)) == [True, True]
    assert rows(square, square.clone()) == [True, False]
    assert rows(square, square.clone(), shared=[0]) == [False, True]
    assert rows(square.to_sparse(), square) == [False, True]
    given = NodeInputs((square, features), nodes=4, mask=torch.ones(4))
    assert given[:] is given
    assert len(given) == 4
    assert len(given.together) == 1
    assert given.clone().rows()[0].equal(features)
    assert given.scaled(3.0).args[0].equal(square)
    with pytest.raises(ValueError, match="the 4 nodes are one graph and cannot be taken apart"):
        given[:2]


def test_inputs_alone_and_batch_normalization_over_nodes():
    class Normed(GCN):
        def __init__(self):
            super().__init__()
            self.norm = nn.BatchNorm1d(16)

        def forward(self, x, adjacency):
            return adjacency @ self.layers[1](torch.relu(self.norm(adjacency @ self.layers[0](x))))

    found = diagnose(Normed(), graph())
    assert found.verdict == "healthy"
    assert any("never been trained" in s.why for s in found.skipped)
    assert {c.action for c in prescribe(GCN(), graph()).changes} == {"scaled", "set"}


def test_the_response_of_a_graph_is_measured_in_whole_passes():
    case = open_case(GCN(), (graph(), Y), samples=5, seed=0, likelihood=None)
    assert (len(case.x), case.shape, case.chance) == (NODES, (NODES, CLASSES), pytest.approx(math.log(CLASSES)))
    assert len(measure_response(case).inputs) == 2


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (lambda: (graph(MASK[:50]), Y), r"mask has shape \(50,\) but there are 60 targets, one per node"),
        (lambda: (graph(MASK & False), Y), "leave no node that counts; mark at least two nodes"),
        (lambda: (graph(None), Y[:50]), "data have 50 targets for a graph of 60 nodes; pass one target per node"),
        (lambda: (graph(), Y + 1), "labels up to 3 but the model has 3 outputs; give the model at least 4"),
        (lambda: graph(MASK[:50]), r"mask must have the shape of the outputs' positions, \(60,\), got \(50,\)"),
        (lambda: (graph(), torch.stack([Y, Y])), r"must be \(nodes,\) class labels of one graph, got shape \(2, 60\)"),
        (
            lambda: torch.utils.data.DataLoader([0, 1], collate_fn=lambda _: (graph(), Y)),
            "the DataLoader yields several whole graphs .*join them into one graph",
        ),
    ],
    ids=["mask", "no node", "targets", "class", "mask alone", "shape", "several graphs"],
)
def test_refusals(given, said):
    with pytest.raises(ValueError, match=said):
        diagnose(GCN(), given())


def test_an_output_for_the_whole_graph_is_refused():
    class Pooled(GCN):
        def forward(self, x, adjacency):
            return super().forward(x, adjacency).mean(0)

    with pytest.raises(ValueError, match=r"one row of outputs per node .*got \(3,\); of several graphs"):
        diagnose(Pooled(), (graph(), Y))
    with pytest.raises(ValueError, match=r"outputs of shape \(3,\) for a graph with 60 targets"):
        training.fit(Pooled(), (graph(), Y), steps=2)


def test_a_loader_of_one_graph_is_that_graph():
    loader = torch.utils.data.DataLoader([0], collate_fn=lambda _: (graph(), Y))
    assert data.as_dataset(loader).graph
    assert diagnose(GCN(), loader).verdict == "healthy"


NET = """
import torch
from tests.diagnosis.test_whole_graph import GCN, Y, graph as whole

def build():
    return GCN(8, shrink=0.1)

def graph():
    return whole(), Y
"""


def test_the_command_line_takes_a_function_that_returns_a_graph(tmp_path, monkeypatch):
    (tmp_path / "net.py").write_text(NET)
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(
        app, ["diagnose", "net.py:build", "--data", "net.py:graph", "--prove", "50", "--out", "report"]
    )
    assert result.exit_code == 0, result.output
    said = re.sub(r"\s+", " ", result.output)
    assert "was measured on 60 nodes of net.py:graph" in said
    assert "30 nodes each" in said
    assert "The squared gradient falls by one e-fold" in said
    assert (tmp_path / "report" / "index.html").stat().st_size > 10_000
