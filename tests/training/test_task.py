"""Training on one whole graph, against a loop that is written out."""

import math

import pytest
import torch
from torch import nn
from torch.nn import functional

from isometry import Inputs
from isometry.training import fit

NODES = 12
X = torch.randn(NODES, 5, generator=torch.Generator().manual_seed(0))
A = torch.rand(NODES, NODES, generator=torch.Generator().manual_seed(1)) / NODES
Y = torch.arange(NODES) % 3
MASK = torch.arange(NODES) < 7


class GraphNet(nn.Module):
    def __init__(self):
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(2)
            self.a, self.b = nn.Linear(5, 8), nn.Linear(8, 3)

    def forward(self, x, adjacency):
        assert len(x) == NODES, "the graph was split"
        return self.b(adjacency @ torch.tanh(self.a(x)))


def graph(mask=MASK):
    return Inputs((X, A), whole=True, mask=mask)


def written_out(loss, steps):
    net = GraphNet()
    stepper, losses = torch.optim.Adam(net.parameters(), lr=0.01), []
    for _ in range(steps):
        value = loss(net(X, A))
        losses.append(value.item())
        stepper.zero_grad()
        value.backward()
        stepper.step()
    return losses, net


@pytest.mark.parametrize("targets", [Y, Y.where(MASK, -1)], ids=["labels", "unknown elsewhere"])
def test_every_step_takes_all_nodes_that_count(targets):
    losses, net = written_out(lambda out: functional.cross_entropy(out[MASK], Y[MASK]), 20)
    trained = GraphNet()
    curve = fit(trained, (graph(), targets), steps=20, lr=0.01, batch_size=4)
    assert curve.loss == pytest.approx(losses, rel=1e-5)
    assert curve.batch_size == int(MASK.sum())
    out = net(X, A).detach()[MASK]
    assert curve.final_loss == pytest.approx(float(functional.cross_entropy(out, Y[MASK])), rel=1e-5)
    assert curve.accuracy == pytest.approx(float((out.argmax(1) == Y[MASK]).float().mean()))
    assert torch.allclose(trained.a.weight, net.a.weight, atol=1e-6)


def test_labels_may_mark_what_counts():
    one = fit(GraphNet(), (graph(None), Y.where(MASK, -100)), steps=10)
    assert one.loss == fit(GraphNet(), (graph(), Y), steps=10).loss
    assert one.batch_size == int(MASK.sum())


def test_real_values_of_nodes():
    values = torch.randn(NODES, 3, generator=torch.Generator().manual_seed(4))
    losses, _ = written_out(lambda out: 0.5 * (out - values)[MASK].square().sum(1).mean(), 10)
    curve = fit(GraphNet(), (graph(), values), steps=10, lr=0.01)
    assert curve.loss == pytest.approx(losses, rel=1e-5)
    known = values[MASK].double()
    assert curve.chance == pytest.approx(float(0.5 * (known - known.mean(0)).square().sum(1).mean()))
    assert math.isnan(curve.accuracy)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ((graph(MASK[:-1]), Y), r"mask must have the shape of the outputs' positions, \(12,\), got \(11,\)"),
        ((graph(MASK & False), Y), "leave no node that counts"),
        ((graph(None), Y[:-1]), r"outputs of shape \(12, 3\) for a graph with 11 targets; both must have one row"),
        ((graph(), Y + 1), r"labels from 1 to 3, but the model has 3 outputs; labels must be 0\.\.2"),
        (((X, Y[:-1])), "12 inputs and 11 targets"),
    ],
    ids=["mask", "no node", "targets", "class", "samples"],
)
def test_refusals(given, said):
    with pytest.raises(ValueError, match=said):
        fit(GraphNet(), given, steps=2)
