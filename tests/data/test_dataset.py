"""The description of a data set checks itself; the messages are read."""

from __future__ import annotations

import dataclasses
import math
import re

import pytest
import torch

from isometry.data import Dataset, as_dataset
from isometry.tape import Inputs

X = torch.randn(4, 3, generator=torch.Generator().manual_seed(0))
Y = torch.tensor([0, 1, 2, 1])


def test_a_sound_set_says_what_it_is():
    data = Dataset("toy", X, Y, 3, X[:2], Y[:2], ("a note",))
    assert (len(data), data.shape, data.outputs) == (4, (3,), 3)
    assert str(data) == "toy: 4 samples (+ 2 for test) of shape (3,), 3 classes\n  a note"
    assert data.with_notes("another").notes == ("a note", "another")
    with pytest.raises(dataclasses.FrozenInstanceError):
        data.name = "other"


def test_regression_counts_columns():
    assert Dataset("toy", X, torch.randn(4, 2)).outputs == 2


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"inputs": X[:0]}, ValueError, "inputs is empty (shape (0, 3))"),
        ({"inputs": X[0]}, ValueError, "inputs must have at least 2 dimensions"),
        ({"inputs": [[1.0]]}, TypeError, "inputs must be a torch.Tensor, got list"),
        ({"inputs": X.int()}, TypeError, "inputs must be floating point (or int64 for token ids), got torch.int32"),
        ({"inputs": X / 0}, ValueError, "inputs holds 12 non-finite values (NaN or infinity) of 12"),
        ({"targets": Y[:3]}, ValueError, "targets have length 3 but there are 4 inputs"),
        ({"targets": Y + 1}, ValueError, "labels out of range: from 1 to 3, with 3 classes they must lie in 0..2"),
        ({"targets": Y - 1}, ValueError, "labels out of range: from -1 to 1"),
        ({"targets": Y.float()}, TypeError, "targets must be int64 class labels, got torch.float32"),
        ({"targets": Y[:, None]}, ValueError, "targets must be (N,) class labels, got shape (4, 1)"),
        ({"targets": Y * 0 + 2}, ValueError, "a single class: all 4 samples have label 2"),
        ({"classes": 1}, ValueError, "classes must be at least 2, got 1"),
        ({"classes": 3.0}, TypeError, "classes must be an integer, got float"),
        ({"classes": None}, TypeError, "targets are torch.int64 without a number of classes"),
        ({"classes": None, "targets": Y.float()}, ValueError, "targets for regression must be (N, K), got shape (4,)"),
        ({"classes": None, "targets": X / 0}, ValueError, "targets holds 12 non-finite values"),
        ({"test_inputs": X}, ValueError, "test_targets is None while its partner is given"),
        ({"test_inputs": X[:, :2], "test_targets": Y}, ValueError, "test_inputs have samples of shape (2,), inputs of"),
        ({"test_inputs": X, "test_targets": Y + 1}, ValueError, "test_targets hold labels out of range"),
    ],
)
def test_unsound_sets_are_refused_with_a_sentence(change, error, message):
    with pytest.raises(error, match=re.escape(message)):
        Dataset(**{"name": "toy", "inputs": X, "targets": Y, "classes": 3, **change})


@pytest.mark.parametrize(
    ("inputs", "shape"),
    [
        (torch.ones(4, 5, dtype=torch.int64), (4, 5)),
        (torch.ones(4, 5, 2), (4, 5)),
        (torch.ones(4, 2, 5), (4, 5)),
        (torch.ones(4, 3, 5, 6), (4, 5, 6)),
        (Inputs(kwargs={"input_ids": torch.ones(4, 9).long(), "decoder_input_ids": torch.ones(4, 5).long()}), (4, 5)),
    ],
)
def test_positions_may_have_labels_of_their_own(inputs, shape):
    targets = torch.arange(math.prod(shape)).reshape(shape) % 3
    assert Dataset("toy", inputs, targets, classes=3).targets is targets
    assert as_dataset((inputs, targets)).targets.shape == shape
    with pytest.raises(ValueError, match=r"pass one label a sample, or one for each position: \(N, "):
        Dataset("toy", inputs, targets[:, :4], classes=3)
