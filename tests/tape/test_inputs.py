"""What models are called with, and which output is meant."""

from collections import OrderedDict
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from isometry.tape import Inputs, as_inputs, select_output


class Several(nn.Module):
    """Adds up what it is given, so that every argument matters."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(3))

    def forward(self, x, extra, *, scale, adjacency=None, flag=False):
        out = self.weight * x * scale + extra["bias"].unsqueeze(1)
        return out @ adjacency if flag else out


def inputs(samples=4):
    x = torch.arange(samples * 3.0).view(samples, 3)
    extra = {"bias": torch.arange(samples).float()}
    return Inputs(
        (x, extra),
        {"scale": torch.full((samples, 1), 2.0), "adjacency": torch.eye(3) + 1, "flag": True},
        shared={"adjacency"},
    )


@given(st.integers(1, 6), st.integers(0, 5))
def test_samples_of_a_batch_are_samples_of_the_output(samples, pick):
    whole, model = inputs(samples), Several()
    index = torch.tensor([pick % samples, 0])
    assert torch.equal(whole[index].run(model), whole.run(model)[index])
    assert len(whole[index]) == 2


def test_shared_tensors_stay_shared_in_a_batch_of_their_size():
    some = inputs(5)[:3]  # the adjacency has 3 rows too
    assert [tuple(t.shape) for t in some.rows()] == [(3, 3), (3,), (3, 1)]
    assert torch.equal(some[:1].kwargs["adjacency"], torch.eye(3) + 1)
    assert len(Inputs((torch.ones(3, 2),), {"table": torch.ones(3, 3)}, shared={"table"}).rows()) == 1


def test_clone_is_detached_and_independent():
    x = torch.ones(2, 2, requires_grad=True)
    copied = as_inputs((x,)).clone()
    copied.first.zero_()
    assert float(x.detach().sum()) == 4
    assert not copied.first.requires_grad


def test_leaf_is_the_first_real_tensor():
    tokens, real = torch.zeros(2, 3, dtype=torch.long), torch.ones(2, 3)
    both = as_inputs({"ids": tokens, "weights": real})
    assert both.leaf is real
    assert as_inputs(tokens).leaf is None
    replaced = both.with_leaf(real * 2)
    assert float(replaced.kwargs["weights"].sum()) == 12
    assert replaced.kwargs["ids"] is tokens


def test_conversion_leaves_tokens_alone():
    moved = as_inputs({"ids": torch.zeros(2, dtype=torch.long), "x": torch.ones(2)}).to("cpu", torch.float64)
    assert (moved.kwargs["ids"].dtype, moved.kwargs["x"].dtype) == (torch.long, torch.float64)


def test_mask_from_an_attention_mask():
    mask = torch.tensor([[1, 1, 0], [1, 0, 0]])
    batch = as_inputs({"input_ids": torch.zeros(2, 3, dtype=torch.long), "attention_mask": mask})
    assert torch.equal(batch.counted((2, 3)), mask.bool())
    assert batch.counted((2,)) is None  # one label per sequence
    assert torch.equal(batch.changed(mask=mask == 0)[1:].counted((1, 3)), (mask == 0)[1:])
    with pytest.raises(ValueError, match=r"mask must have the shape of the outputs' positions, \(2, 4\), got \(2, 3\)"):
        batch.changed(mask=mask).counted((2, 4))


def test_a_whole_call_is_one_sample():
    graph = Inputs((torch.ones(5, 3), torch.eye(5)), whole=True)
    model = nn.Linear(3, 2)
    assert len(graph) == 1
    assert graph[:1] is graph
    assert tuple(Inputs((torch.ones(5, 3),), whole=True).run(model).shape) == (1, 5, 2)
    with pytest.raises(ValueError, match="one whole sample"):
        graph[torch.tensor([0, 0])]


def test_functional_call():
    model, batch = Several(), inputs()
    other = {"weight": torch.full((3,), 5.0)}
    expected = batch.run(model)
    with torch.no_grad():
        model.weight.fill_(5.0)
    assert torch.equal(batch.run(model), batch.run_with(Several(), other))
    assert not torch.equal(expected, batch.run(model))


A, B = torch.ones(2), torch.zeros(2)


@pytest.mark.parametrize(
    ("output", "key"),
    [
        (A, None),
        ((A, B), None),
        ((torch.zeros(2).long(), A), None),
        ([B, A], 1),
        ({"logits": A, "loss": B}, None),
        (OrderedDict(last_hidden_state=A, pooler_output=B), None),
        ({"ids": torch.zeros(2).long(), "anything": A}, None),
        ({"a": B, "b": A}, "b"),
        (SimpleNamespace(sample=A), "sample"),
    ],
)
def test_the_output_that_is_meant(output, key):
    assert select_output(output, key) is A


@pytest.mark.parametrize(
    ("output", "key", "message"),
    [
        (
            {"a": A, "b": B},
            None,
            r"dict with keys 'a', 'b'; say which one is measured: isometry.Inputs\(..., output=key",
        ),
        ({"a": A}, "b", r"no output 'b'; there are 'a'"),
        ((A, B), 2, r"no output 2; there are 0, 1"),
        ({"a": "text"}, "a", r"output 'a' of the model is str, not a tensor"),
        ((1, "two"), None, r"a tuple of 2 elements, none of them a real-valued tensor"),
        ("text", None, r"model returned str; measurements need a tensor"),
        (SimpleNamespace(), "sample", r"SimpleNamespace, which has no output 'sample'"),
    ],
)
def test_outputs_that_are_refused(output, key, message):
    with pytest.raises(TypeError, match=message):
        select_output(output, key)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: as_inputs([1.0]), TypeError, r"x must be a torch.Tensor, .* got list without a tensor in it"),
        (lambda: as_inputs("x"), TypeError, r"x must be a torch.Tensor, .* got str; convert it first"),
        (lambda: Inputs(A), TypeError, r"args must be a tuple of arguments, got Tensor; write Inputs\(\(x,\)\)"),
        (lambda: Inputs((1,)), TypeError, r"no tensor with a row per sample"),
        (
            lambda: Inputs((A,), shared={"table"}),
            ValueError,
            r"shared names 'table', which is no argument; known are 0",
        ),
        (lambda: Inputs((A,), shared={0}), TypeError, r"no tensor with a row per sample"),
    ],
)
def test_bad_arguments(make, error, message):
    with pytest.raises(error, match=message):
        make()


def test_printed():
    assert str(as_inputs(torch.ones(2, 3))) == "x of shape (2, 3) and dtype torch.float32"
    assert str(as_inputs({"ids": torch.ones(2).long(), "k": 3})) == "inputs ids (2,) int64"
