"""Models as people have them: several inputs and outputs, sequences, graphs; the Fisher matrix by its definition."""

import pytest
import torch
from torch import nn

from isometry import measure
from isometry.tape import Inputs, as_inputs

TOLERANCE = {"llama": 1e-6}  # its normalizations and rotary embeddings compute in float32, whatever they are given


class Recurrent(nn.Module):
    """Returns what torch's recurrent layers return, with the sequence's logits in front."""

    def __init__(self, kind):
        super().__init__()
        self.cell, self.head = kind(3, 4, batch_first=True), nn.Linear(4, 3)

    def forward(self, x):
        hidden, state = self.cell(x)
        return self.head(hidden), state


class Encoder(nn.Module):
    def __init__(self):
        super().__init__()
        layer = nn.TransformerEncoderLayer(4, 2, 6, dropout=0.0, batch_first=True)
        self.encoder, self.head = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False), nn.Linear(4, 3)

    def forward(self, x, *, padding):
        return {"hidden": x, "logits": self.head(self.encoder(x, src_key_padding_mask=padding))}


class GraphNet(nn.Module):
    """Two rounds of message passing over one graph; its nodes influence each other."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(4, 5), nn.Linear(5, 3)

    def forward(self, nodes, adjacency):
        return self.b(adjacency @ torch.tanh(self.a(adjacency @ nodes)))


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def plain(name):
    torch.manual_seed(0)
    if name in ("lstm", "gru"):
        return Recurrent({"lstm": nn.LSTM, "gru": nn.GRU}[name]).double(), normal(3, 4, 3)
    if name == "encoder":
        padding = torch.zeros(3, 4, dtype=torch.bool)
        padding[-1, -1] = True
        return Encoder().double().eval(), Inputs((normal(3, 4, 4),), {"padding": padding}, mask=~padding)
    adjacency = normal(6, 6).abs()
    if name == "one graph":
        return GraphNet().double(), Inputs((normal(6, 4), adjacency), whole=True, mask=torch.arange(6) < 4)
    return GraphNet().double(), Inputs((normal(3, 6, 4), adjacency))  # three signals on one graph


PLAIN = ("lstm", "gru", "encoder", "one graph", "graph signals")
FOREIGN = ("gpt2", "bert", "llama", "resnet", "convnext", "vit")


def build(name):
    if name in PLAIN:
        return plain(name)
    hf_models = pytest.importorskip("tests.measure.hf_models")
    return hf_models.build(name)


def jacobians(model, inputs):
    """One (C, parameters) block per sample and position that counts, by ordinary backward passes, and its logits."""
    parameters = {n: p.detach() for n, p in model.named_parameters()}
    with torch.no_grad():
        shape = inputs.run(model).shape
    mask = inputs.mask if inputs.whole else inputs.counted(shape[:-1])
    mask = torch.ones(shape[:-1], dtype=torch.bool) if mask is None else mask.reshape(shape[:-1]).bool()
    for n in range(len(inputs)):
        leaves = {k: v.clone().requires_grad_() for k, v in parameters.items()}
        out = inputs[n : n + 1].run_with(model, leaves)[0].reshape(-1, shape[-1])
        for t in mask[n].flatten().nonzero().flatten().tolist() if mask.ndim > 1 else [0]:
            rows = []
            for value in out[t]:
                found = torch.autograd.grad(value, list(leaves.values()), retain_graph=True, allow_unused=True)
                parts = zip(found, leaves.values(), strict=True)
                rows.append(torch.cat([(torch.zeros_like(p) if g is None else g).flatten() for g, p in parts]))
            yield (n, t), torch.stack(rows), out[t].detach()


def dense(model, inputs):
    total, count = 0, 0
    for _, j, z in jacobians(model, inputs):
        p = z.softmax(0)
        total, count = total + j.T @ (torch.diag(p) - torch.outer(p, p)) @ j, count + 1
    return total / count


@pytest.mark.parametrize("name", [*PLAIN, *FOREIGN])
def test_spectrum_is_that_of_the_dense_matrix(name):
    model, x = build(name)
    found = measure.fisher(model, x)
    wanted = torch.linalg.eigvalsh(dense(model, as_inputs(x))).flip(0)
    values, scale = found.eigenvalues(), float(wanted[0])
    assert float((values - wanted[: len(values)]).abs().max()) < TOLERANCE.get(name, 1e-8) * scale
    assert float(wanted[len(values) :].abs().sum()) < TOLERANCE.get(name, 1e-8) * scale
    assert found.top(1).eigenvalues[0] == pytest.approx(scale, rel=1e-5)
    assert float(found.bound(form="rigorous")) >= scale * (1 - 1e-6)


@pytest.mark.parametrize("name", ["lstm", "one graph", "gpt2"])
def test_products_are_those_of_the_dense_matrix(name):
    model, x = build(name)
    found, matrix = measure.fisher(model, x, dense=False), dense(model, as_inputs(x))
    vector = normal(found.size, seed=3)
    assert torch.allclose(found.matvec(vector), matrix @ vector, rtol=1e-7, atol=1e-9 * float(matrix.diagonal().sum()))
    assert found.trace == pytest.approx(float(matrix.diagonal().sum()), rel=1e-9)


@pytest.mark.parametrize("name", ["gpt2", "encoder"])
def test_empirical_counts_positions_that_have_a_label(name):
    model, x = build(name)
    inputs = as_inputs(x)
    with torch.no_grad():
        out = inputs.run(model)
    labels = torch.arange(out.shape[0] * out.shape[1]).reshape(out.shape[:2]) % out.shape[2]
    labels[0, :2] = -100
    total, count = 0, 0
    for (n, t), j, z in jacobians(model, inputs):
        if labels[n, t] >= 0:
            hot = torch.nn.functional.one_hot(labels[n, t], len(z)).double()
            g = j.T @ (z.softmax(0) - hot)
            total, count = total + torch.outer(g, g), count + 1
    found = measure.fisher(model, x, targets=labels, kind="empirical")
    wanted = torch.linalg.eigvalsh(total / count).flip(0)
    assert found.positions == count
    assert torch.allclose(found.eigenvalues(), wanted[: len(found.eigenvalues())], atol=1e-8 * float(wanted[0]))


def test_monte_carlo_draws_a_label_per_position_without_bias():
    model, x = build("gpt2")
    inputs = as_inputs(x)
    exact = float(dense(model, inputs).diagonal().sum())
    traces = []
    for seed in range(6):
        generator = torch.Generator().manual_seed(seed)
        found = measure.fisher(model, x, kind="monte-carlo", draws=64, generator=generator)
        assert len(found.eigenvalues()) == 3 * 64
        traces.append(found.trace)
    spread = torch.tensor(traces).std() / len(traces) ** 0.5
    # Student's t with 5 degrees of freedom: 6.9 standard errors are exceeded in one of 1000 trials
    assert abs(sum(traces) / len(traces) - exact) < 6.9 * float(spread)


def test_one_graph_and_its_nodes():
    model, x = build("one graph")
    found = measure.fisher(model, x)
    assert (found.samples, found.positions) == (1, 4)
    with pytest.raises(ValueError, match=r"not on 3 of its samples.*Inputs\(\.\.\., whole=True\)"):
        measure.fisher(model, Inputs(x.args, shared=(1,)))


def test_class_dimension():
    torch.manual_seed(0)
    model, x = nn.Conv2d(2, 3, 3).double(), normal(2, 2, 4, 5)
    found = measure.fisher(model, x, class_dim=1)
    wanted = torch.linalg.eigvalsh(dense(model, as_inputs(x).changed(class_dim=1))).flip(0)
    assert torch.allclose(found.eigenvalues(), wanted[: len(found.eigenvalues())], atol=1e-10 * float(wanted[0]))
    with pytest.raises(ValueError, match=r"not clear along which dimension the classes lie; pass class_dim=1"):
        measure.fisher(model, x)


@pytest.mark.parametrize("name", ["encoder", "graph signals", "vit", "convnext"])
def test_jacobian_in_the_real_valued_input(name):
    model, x = build(name)
    inputs = as_inputs(x)
    found = measure.jacobian(model, inputs[:2]).matrix()
    for n in range(2):
        one = inputs[n : n + 1]
        wanted = torch.autograd.functional.jacobian(lambda v, one=one: one.with_leaf(v).run(model), one.leaf)
        assert torch.allclose(found[n], wanted.reshape(found.shape[1:]), rtol=0, atol=1e-10 * float(wanted.abs().max()))


def test_jacobian_after_an_embedding():
    model, x = build("gpt2")
    found = measure.jacobian(model, x, start="transformer.drop", stop="transformer.ln_f")
    assert found.shape == (40, 40)
    assert float(found.singular_values().min()) > 0
    with pytest.raises(ValueError, match=r"torch.int64, so nothing can be differentiated.*start="):
        measure.jacobian(model, x)


@pytest.mark.parametrize("name", [*PLAIN, *FOREIGN])
def test_signal_of_every_family(name):
    model, x = build(name)
    inputs = as_inputs(x)
    with torch.no_grad():
        out = inputs.run(model)
    labels = torch.arange(out[..., 0].numel()).reshape(out.shape[:-1]) % out.shape[-1]
    result = measure.signal(model, inputs, labels)
    assert result.samples == len(inputs)
    wanted = float(nn.functional.cross_entropy(out.reshape(-1, out.shape[-1]).float(), labels.flatten()))
    assert result.loss == pytest.approx(wanted, rel=1e-5)
    assert all(layer.gradient_norm > 0 for layer in result.weight_layers)
