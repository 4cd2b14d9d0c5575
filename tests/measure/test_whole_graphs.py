"""Curvature and gradient confusion of the nodes of one whole graph, against dense derivatives of the masked loss."""

import pytest
import torch
from torch import nn
from torch.func import functional_call, hessian
from torch.nn import functional

from isometry import Inputs, measure

NODES, CLASSES = 7, 3
Y = torch.arange(NODES) % CLASSES
MASK = torch.tensor([1, 1, 0, 1, 0, 1, 1]).bool()
COUNTED = MASK.nonzero().flatten().tolist()


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


class GraphNet(nn.Module):
    """Two rounds of messages; counts its forward passes."""

    def __init__(self, outputs=CLASSES):
        super().__init__()
        self.a, self.b, self.calls = nn.Linear(4, 5), nn.Linear(5, outputs), 0

    def forward(self, nodes, adjacency):
        self.calls += 1
        assert len(nodes) == NODES, "the graph was split"
        return self.b(adjacency @ torch.tanh(self.a(adjacency @ nodes)))


def net(outputs=CLASSES):
    with torch.random.fork_rng():
        torch.manual_seed(1)
        return GraphNet(outputs).double()


def graph(mask=MASK, *, sparse=False):
    adjacency = normal(NODES, NODES, seed=2).abs()
    return Inputs((normal(NODES, 4), adjacency.to_sparse() if sparse else adjacency), whole=True, mask=mask)


def dense_hessian(model, x, loss):
    names, shapes = zip(*((n, p.shape) for n, p in model.named_parameters()), strict=True)
    sizes = [s.numel() for s in shapes]

    def of_flat(flat):
        parts = [p.view(s) for p, s in zip(flat.split(sizes), shapes, strict=True)]
        return loss(functional_call(model, dict(zip(names, parts, strict=True)), x.args))

    return hessian(of_flat)(torch.cat([p.detach().flatten() for p in model.parameters()]))


def node_gradients(model, x, loss, nodes):
    rows = []
    for i in nodes:
        grads = torch.autograd.grad(loss(model(*x.args)[i], i), list(model.parameters()))
        rows.append(torch.cat([g.flatten() for g in grads]))
    return torch.stack(rows)


@pytest.mark.parametrize("sparse", [False, True])
def test_curvature_is_that_of_the_mean_over_counted_nodes(sparse):
    model, x = net(), graph(sparse=sparse)
    found = measure.curvature(model, x, Y)
    wanted = dense_hessian(model, graph(), lambda out: functional.cross_entropy(out[MASK], Y[MASK]))
    assert float((found.dense() - wanted).abs().max()) < 1e-8
    loss = functional.cross_entropy(model(*x.args)[MASK], Y[MASK]).detach()
    assert found.value == pytest.approx(float(loss), abs=1e-12)
    assert found.top(1).eigenvalues[0] == pytest.approx(float(torch.linalg.eigvalsh(wanted)[-1]), rel=1e-6)
    assert found.chunk == 1


def test_a_label_of_minus_100_leaves_a_node_out_as_a_mask_does():
    labels = Y.where(MASK, -100)
    one, other = measure.curvature(net(), graph(None), labels), measure.curvature(net(), graph(), Y)
    assert torch.equal(one.dense(), other.dense())
    one = measure.gradient_confusion(net(), graph(None), labels)
    assert (one.samples, one.eta) == (len(COUNTED), measure.gradient_confusion(net(), graph(), Y).eta)


def test_uncounted_labels_may_be_anything():
    labels = Y.where(MASK, 77)
    assert measure.curvature(net(), graph(), labels).value == measure.curvature(net(), graph(), Y).value
    found = measure.gradient_confusion(net(), graph(), labels)
    assert found.eta == measure.gradient_confusion(net(), graph(), Y).eta


@pytest.mark.parametrize("outputs", [1, CLASSES])
@pytest.mark.parametrize("mask", [None, MASK])
def test_squared_errors_of_nodes(outputs, mask):
    model, x = net(outputs), graph(mask)
    values = normal(NODES, outputs, seed=5)
    at = slice(None) if mask is None else mask
    wanted = dense_hessian(model, x, lambda out: functional.mse_loss(out[at], values[at]))
    for y in (values, values[None], *([values[:, 0]] if outputs == 1 else [])):
        assert float((measure.curvature(model, x, y, loss="mse").dense() - wanted).abs().max()) < 1e-8


def test_confusion_is_that_of_each_nodes_own_loss():
    model, x = net(), graph()
    rows = node_gradients(model, x, lambda out, i: functional.cross_entropy(out, Y[i]), COUNTED)
    gram = rows @ rows.T
    i, j = torch.triu_indices(len(COUNTED), len(COUNTED), 1)
    cosines = gram[i, j] / rows.norm(dim=1)[i] / rows.norm(dim=1)[j]
    model.calls = 0
    found = measure.gradient_confusion(model, x, Y, per_layer=True)
    assert model.calls <= 4  # size, randomness, and one for all gradients
    assert found.eta == pytest.approx(max(0.0, -float(gram[i, j].min())), abs=1e-8)
    assert torch.allclose(found.cosines.sort().values, cosines.sort().values, atol=1e-8)
    assert found.mean_gradient_norm == pytest.approx(float(rows.mean(0).norm()), abs=1e-8)
    worst = int(cosines.argmin())
    assert found.worst == (COUNTED[int(i[worst])], COUNTED[int(j[worst])])
    assert (found.samples, found.gradients, found.route) == (len(COUNTED), len(COUNTED), "passes")
    assert "the nodes of one graph share a forward pass" in str(found)
    assert [layer.name for layer in found.layers] == ["a", "b"]


def test_confusion_of_batches_of_nodes_is_that_of_their_mean_gradients():
    model, x = net(), graph()
    values = normal(NODES, CLASSES, seed=6)
    found = measure.gradient_confusion(
        model, x, values, batch_size=2, pairs=4, generator=torch.Generator().manual_seed(3)
    )
    assert set(found.batches.flatten().tolist()) <= set(COUNTED)
    rows = node_gradients(model, x, lambda out, i: functional.mse_loss(out, values[i]), range(NODES))
    means = rows[found.batches].mean(1)
    left, right = means[0::2], means[1::2]
    wanted = (left * right).sum(1) / left.norm(dim=1) / right.norm(dim=1)
    assert torch.allclose(found.cosines, wanted, atol=1e-8)
    assert found.eta == pytest.approx(max(0.0, -float((left * right).sum(1).min())), abs=1e-8)
    split = measure.gradient_confusion(model, x, values, batch_size=2)
    wanted = float(rows[split.batches].mean((0, 1)).norm())
    assert split.mean_gradient_norm == pytest.approx(wanted, abs=1e-8)


@pytest.mark.parametrize("kind", ["true", "monte-carlo"])
def test_fisher_and_kernel_take_a_sparse_adjacency(kind):
    def found(sparse):
        generator = torch.Generator().manual_seed(0)
        return measure.fisher(net(), graph(sparse=sparse), kind=kind, generator=generator).eigenvalues()

    assert torch.allclose(found(sparse=True), found(sparse=False), atol=1e-10)
    one, other = (measure.ntk(net(), graph(sparse=sparse)).values for sparse in (True, False))
    assert torch.allclose(one, other, atol=1e-10)


def test_batch_statistics_over_the_nodes_are_part_of_the_function():
    class Normed(GraphNet):
        def __init__(self):
            super().__init__()
            self.norm = nn.BatchNorm1d(5)

        def forward(self, nodes, adjacency):
            return self.b(adjacency @ torch.tanh(self.norm(self.a(nodes))))

    model, x = Normed().double(), graph()
    found = measure.gradient_confusion(model, x, Y)
    rows = node_gradients(model, x, lambda out, i: functional.cross_entropy(out, Y[i]), COUNTED)
    assert found.mean_gradient_norm == pytest.approx(float(rows.mean(0).norm()), abs=1e-8)


def confusion(*args, **kwargs):
    return measure.gradient_confusion(net(), *args, **kwargs)


def curvature(*args, **kwargs):
    return measure.curvature(net(), *args, **kwargs)


@pytest.mark.parametrize("measured", [confusion, curvature])
@pytest.mark.parametrize(
    ("x", "y", "said"),
    [
        (graph(MASK[:-1]), Y, r"mask must have the shape of the outputs' positions, \(7,\), got \(6,\); pass one True"),
        (graph(MASK & False), Y, r"leave no (label|node) that counts .*mark at least"),
        (graph(), Y[:-1], r"\(6,\).*pass one (label|target) per node"),
        (graph(), Y + 1, r"from 1 to 3|1\.\.3, but the model has 3 outputs"),
    ],
    ids=["mask", "no node", "targets", "class"],
)
def test_refusals(measured, x, y, said):
    with pytest.raises(ValueError, match=said):
        measured(x, y)


def test_more_refusals():
    with pytest.raises(ValueError, match=r'route="gram" needs samples that do not mix.*leave it at "auto"'):
        confusion(graph(), Y, route="gram")
    with pytest.raises(ValueError, match=r"x holds 1 sample; gradient confusion compares at least two"):
        confusion(graph(torch.arange(NODES) == 3), Y)
    with pytest.raises(ValueError, match=r"shape \(7, 3\) for loss 'mse' on a whole graph.*got \(3, 7\).*per node"):
        curvature(graph(), normal(CLASSES, NODES), loss="mse")
    with pytest.raises(ValueError, match=r"mask leaves no node that counts; mark at least one"):
        curvature(graph(MASK & False), normal(NODES, CLASSES), loss="mse")
    with pytest.raises(ValueError, match=r"mask, which loss function does not see|mask, which loss <lambda> does not"):
        curvature(graph(), Y, loss=lambda out, y: functional.cross_entropy(out[0], y))

    class Pooled(GraphNet):
        def forward(self, nodes, adjacency):
            return super().forward(nodes, adjacency).mean(0)

    with pytest.raises(ValueError, match=r"need one row of outputs per node, \(nodes, outputs\)"):
        measure.gradient_confusion(Pooled().double(), graph(), Y)


def test_a_function_as_loss_is_given_one_node_or_the_whole_graph():
    model, x = net(), graph(None)
    found = measure.gradient_confusion(model, x, Y, loss=lambda out, y: functional.cross_entropy(out, y))
    assert found.eta == pytest.approx(measure.gradient_confusion(model, x, Y).eta, rel=1e-12)
    found = measure.curvature(model, x, Y, loss=lambda out, y: functional.cross_entropy(out[0], y))
    assert torch.allclose(found.dense(), measure.curvature(model, x, Y).dense(), atol=1e-12)
