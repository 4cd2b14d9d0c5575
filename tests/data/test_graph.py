"""One whole graph as a data set."""

import pytest
import torch

from isometry import Inputs, training
from isometry.data import as_dataset, batch

X, A = torch.ones(6, 4), torch.eye(6)
Y = torch.tensor([0, 1, 2, 0, 1, 4])
MASK = torch.tensor([1, 1, 1, 1, 0, 0]).bool()


def graph(mask=MASK):
    return Inputs((X, A), whole=True, mask=mask)


def test_nodes_that_do_not_count_have_no_label():
    found = as_dataset((graph(), Y))
    assert found.targets.tolist() == [0, 1, 2, 0, -100, -100]
    assert (len(found), found.classes, found.outputs, found.shape, found.graph) == (6, 3, 3, (4,), True)
    assert found.notes == ("one whole graph: 4 of 6 nodes count",)
    assert "6 nodes of shape (4,), 3 classes" in str(found)
    assert as_dataset((graph(), Y), classes=9).classes == 9


def test_unknown_labels_and_a_column_of_labels():
    unknown = Y.where(MASK, -1)
    assert as_dataset((graph(), unknown.unsqueeze(1))).targets.tolist() == [0, 1, 2, 0, -100, -100]
    marked = Y.where(MASK, -100)
    assert as_dataset((graph(None), marked)).classes == 3


def test_real_targets():
    values = torch.rand(6).where(MASK, torch.nan)
    found = as_dataset((graph(), values))
    assert found.classes is None
    assert found.targets.shape == (6, 1)
    assert torch.equal(found.targets[:, 0], values.nan_to_num(0.0))


def test_the_test_set_is_another_mask():
    found = as_dataset((graph(), Y.clamp_max(2), graph(~MASK), Y.clamp_max(2)))
    assert found.test_targets.tolist() == [-100, -100, -100, -100, 1, 2]

    class Net(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.table = torch.nn.Parameter(torch.eye(3)[Y.clamp_max(2)] * 5)

        def forward(self, x, adjacency):
            return adjacency @ self.table

    curve = training.fit(Net(), found, steps=2)
    assert curve.accuracy == curve.test_accuracy == 1.0


@pytest.mark.parametrize(
    ("given", "error", "said"),
    [
        ((graph(MASK[:-1]), Y), ValueError, r"mask has shape \(5,\) but there are 6 targets, one per node"),
        ((graph(~MASK & MASK), Y), ValueError, "leave no node that counts; mark at least two"),
        ((graph(), torch.tensor(1)), ValueError, "pass one target per node of the graph"),
        ((graph(), torch.stack([Y, Y], 1)), ValueError, r"must be \(nodes,\) class labels .*got shape \(6, 2\)"),
        ((graph(), Y * 0), ValueError, "single class"),
        ((graph(), Y, X, Y), TypeError, "test_inputs must be a whole graph as the inputs are, got Tensor"),
        ((Inputs((X, A / 0), whole=True), Y), ValueError, "non-finite"),
    ],
    ids=["mask", "no node", "scalar", "columns", "one class", "test", "infinite"],
)
def test_refusals(given, error, said):
    with pytest.raises(error, match=said):
        as_dataset(given)


def test_a_sparse_adjacency_is_checked_too():
    twice = torch.sparse_coo_tensor([[0, 0], [1, 1]], [1.0, 2.0], (6, 6), check_invariants=True)
    for sparse in (A.to_sparse(), twice):
        assert as_dataset((Inputs((X, sparse), whole=True), Y)).graph
    broken = torch.sparse_coo_tensor([[0], [1]], [torch.inf], (6, 6), check_invariants=True)
    with pytest.raises(ValueError, match="inputs holds 1 non-finite value"):
        as_dataset((Inputs((X, broken), whole=True), Y))


def test_graphs_are_not_taken_apart_or_joined():
    with pytest.raises(ValueError, match="cannot be drawn apart"):
        batch(as_dataset((graph(), Y)), 2)

    class Items(torch.utils.data.Dataset):
        def __len__(self):
            return 2

        def __getitem__(self, index):
            return graph(), Y

    with pytest.raises(TypeError, match="holds Inputs, which are a batch or a whole graph already"):
        as_dataset(Items())
