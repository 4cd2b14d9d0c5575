"""From tensors, arrays, mappings, loaders and torch data sets to a Dataset; values never change silently."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch
import torch.utils.data as tud
from hypothesis import given, settings
from hypothesis import strategies as st

from isometry.data import Dataset, as_dataset, batch

X = np.random.default_rng(0).normal(size=(6, 3))
Y = np.array([0, 1, 2, 0, 1, 2])


class Pairs(tud.Dataset):
    def __init__(self, n, draw=False):
        self.n, self.draw = n, draw

    def __len__(self):
        return self.n

    def __getitem__(self, i):
        if self.draw:
            torch.rand(1)
        return torch.full((2,), float(i)), int(i >= self.n // 2)


class Stream(tud.IterableDataset):
    def __iter__(self):
        i = 0
        while True:
            yield np.array([i, i + 1.0]), i % 3
            i += 1


def test_a_dataset_passes_through():
    data = as_dataset((X, Y))
    assert as_dataset(data) is data


@given(
    dtype=st.sampled_from([np.float16, np.float32, np.float64, np.uint8, np.int8, np.bool_, ">f4", ">i4"]),
    shape=st.sampled_from([(1,), (3,), (1, 2, 2)]),
)
@settings(deadline=None, max_examples=20)
def test_arrays_keep_their_values(dtype, shape):
    x = (np.arange(6 * int(np.prod(shape))).reshape(6, *shape) % 2).astype(dtype)
    data = as_dataset((x, Y))
    np.testing.assert_array_equal(data.inputs.double().numpy(), x.astype(np.float64))
    assert data.classes == 3
    assert data.inputs.dtype in (torch.get_default_dtype(), torch.int64)


def test_conversions_are_noted():
    assert as_dataset((X.astype(np.float32), Y)).notes == ()
    assert "converted from torch.float64 to torch.float32" in as_dataset((X, Y)).notes[0]
    raw = as_dataset((np.full((6, 2), 255, np.uint8), Y))
    assert float(raw.inputs.max()) == 255.0
    assert "without rescaling" in raw.notes[0]
    tokens = as_dataset((np.arange(12).reshape(6, 2), Y))
    assert tokens.inputs.dtype == torch.int64
    assert "token ids" in tokens.notes[0]


def test_tensors_keep_their_dtype_and_arrays_are_copied():
    x = torch.from_numpy(X.copy())
    assert as_dataset((x, torch.from_numpy(Y))).inputs.dtype == torch.float64
    array = X.astype(np.float32)
    data = as_dataset((array, Y))
    array[:] = 0
    assert bool(data.inputs.any())


@pytest.mark.parametrize(
    ("targets", "classes", "kind"),
    [
        (Y.astype(float), 3, "taken as class labels"),
        (Y[:, None], 3, "targets of shape (6, 1) taken as (6,): one label a sample"),
        (Y == 1, 2, None),
        (Y + 0.5, None, "taken as regression"),
        (np.eye(3)[Y], None, "taken as regression"),
        (Y * 7.0, None, "taken as regression"),
        (Y * 2, 5, "2 of them do not occur"),
    ],
)
def test_what_targets_are_taken_for(targets, classes, kind):
    data = as_dataset((X.astype(np.float32), targets))
    assert data.classes == classes
    assert " ".join(data.notes) == "" if kind is None else kind in " ".join(data.notes)
    assert data.targets.ndim == (1 if classes else 2)


@pytest.mark.parametrize(
    ("data", "options", "error", "message"),
    [
        ((X, Y - 1), {}, ValueError, "the smallest is -1; number from 0 on"),
        ((X, Y), {"classes": 2}, ValueError, "labels out of range: from 0 to 2, with 2 classes"),
        ((X, Y + 0.5), {"classes": 3}, ValueError, "targets hold non-integer labels (such as 0.5)"),
        ((X, np.eye(3, dtype=int)[Y]), {}, ValueError, "targets must be (N,) class labels, got integers of shape"),
        ((X, Y * 0), {}, ValueError, "single class"),
        ((X, Y[:5]), {}, ValueError, "targets have length 5 but there are 6 inputs"),
        ((X[:, 0], Y), {}, ValueError, "inputs must be (N, ...), got shape (6,); add an axis"),
        ((X * np.nan, Y), {}, ValueError, "inputs holds 18 non-finite values"),
        ((X, Y * np.nan), {}, ValueError, "targets holds 6 non-finite values"),
        ((X[:0], Y[:0]), {}, ValueError, "targets is empty (shape (0,))"),
        ((X.astype(complex), Y), {}, TypeError, "inputs has dtype complex128; pass numbers"),
        ((X, list("abcdef")), {}, TypeError, "encode strings as integer labels"),
        ((X.astype(object), Y), {}, TypeError, "inputs is an array of Python objects"),
        ((X, {"a": 1}), {}, TypeError, "targets must be a tensor or a NumPy array, got dict"),
        ((X, Y, X), {}, TypeError, "data is a tuple of 3; pass (inputs, targets)"),
        (X, {}, TypeError, "got ndarray; put inputs and targets into a tuple"),
        (None, {}, TypeError, "got NoneType"),
    ],
)
def test_bad_data_is_refused_with_a_sentence(data, options, error, message):
    with pytest.raises(error, match=re.escape(message)):
        as_dataset(data, **options)


def test_a_quadruple_brings_its_test_set():
    data = as_dataset((X, Y, X[:2], Y[:2]), name="mine")
    assert (data.name, len(data.test_inputs), data.test_targets.tolist()) == ("mine", 2, [0, 1])


def test_mappings_by_the_usual_names_and_unused_ones_noted():
    data = as_dataset({"x_train": X, "y_train": Y, "x_test": X[:2], "y_test": Y[:2], "extra": 1})
    assert len(data.test_inputs) == 2
    assert "arrays not used: extra" in data.notes


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        (("a", "b"), "data has no inputs: name an array 'x' or 'inputs'; it holds 'a', 'b'"),
        (("x",), "data has no targets: name an array 'y' or 'targets'; it holds 'x'"),
        (("x", "inputs", "y"), "data has several candidates for the inputs: 'inputs', 'x'; keep one"),
        ((), "it holds nothing"),
    ],
)
def test_unclear_names_are_listed(keys, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        as_dataset(dict.fromkeys(keys, X))


def test_a_loader_is_gathered_up_to_the_count_and_leaves_the_rng_alone():
    loader = tud.DataLoader(Pairs(20), batch_size=6, shuffle=True)
    before = torch.get_rng_state()
    data = as_dataset(loader, max_samples=15)
    assert torch.equal(torch.get_rng_state(), before)
    assert len(data) == 15
    assert data.notes == ("gathered 15 samples from 3 batches of a DataLoader (at most 15)",)
    assert len(as_dataset(loader)) == 20


def test_a_torch_dataset_that_is_sorted_by_class_is_sampled_evenly():
    before = torch.get_rng_state()
    data = as_dataset(Pairs(100, draw=True), max_samples=10)
    assert torch.equal(torch.get_rng_state(), before)
    assert data.inputs[:, 0].tolist() == [0, 10, 20, 30, 40, 50, 60, 70, 80, 90]
    assert data.targets.tolist() == [0] * 5 + [1] * 5
    assert data.name == "Pairs"
    assert data.notes == ("gathered 10 of 100 samples of a torch Dataset, evenly spaced",)


def test_an_endless_stream_stops_at_the_count():
    data = as_dataset(Stream(), max_samples=7)
    assert len(data) == 7
    assert "first 7 samples of an iterable" in data.notes[0]


@pytest.mark.parametrize(
    ("data", "options", "error", "message"),
    [
        (tud.DataLoader([]), {}, ValueError, "the DataLoader is empty"),
        (tud.DataLoader([X[0], X[1]]), {}, TypeError, "must be a pair (inputs, targets), got Tensor"),
        (tud.DataLoader([(1, 2, 3)]), {}, TypeError, "got list of 3"),
        (tud.DataLoader(Pairs(4), batch_size=None), {}, ValueError, "no batch axis; pass batch_size="),
        (Pairs(0), {}, ValueError, "the torch Dataset is empty"),
        (Pairs(4), {"max_samples": 0}, ValueError, "max_samples must be a positive integer, got 0"),
    ],
)
def test_bad_loaders_are_refused(data, options, error, message):
    with pytest.raises(error, match=re.escape(message)):
        as_dataset(data, **options)


def test_ragged_samples_are_refused():
    class Ragged(Pairs):
        def __getitem__(self, i):
            return torch.zeros(i + 1), i

    with pytest.raises(ValueError, match="inputs differ in shape"):
        as_dataset(Ragged(3))


def test_a_name_is_loaded():
    assert isinstance(as_dataset("digits"), Dataset)


IDS = torch.arange(24).reshape(4, 6) % 5


def test_several_inputs_and_a_label_per_position():
    given = {"input_ids": IDS, "attention_mask": torch.ones_like(IDS), "labels": IDS.masked_fill(IDS == 0, -100)}
    data = as_dataset(given)
    assert (len(data), data.shape, data.classes) == (4, (6,), 5)
    assert set(data.inputs.kwargs) == {"input_ids", "attention_mask"}
    assert torch.equal(data.targets, given["labels"])
    again = as_dataset(
        torch.utils.data.DataLoader([{k: v[i] for k, v in given.items()} for i in range(4)], batch_size=3)
    )
    assert torch.equal(again.inputs.kwargs["input_ids"], IDS)
    assert torch.equal(again.targets, data.targets)


def test_inputs_by_position():
    data = as_dataset(((torch.ones(4, 3), torch.zeros(4, 2)), torch.tensor([0, 1, 1, 0])))
    assert [tuple(t.shape) for t in data.inputs[:2].rows()] == [(2, 3), (2, 2)]
    x, y = batch(data, 2, generator=torch.Generator().manual_seed(0))
    assert len(x) == len(y) == 2


def test_sequences_of_features_with_labels():
    assert as_dataset((torch.ones(4, 6, 2), IDS)).targets.shape == (4, 6)
    with pytest.raises(ValueError, match=r"must be \(N,\) class labels, got integers of shape \(4, 6\)"):
        as_dataset((torch.ones(4, 6), IDS))  # one-hot rows, say: no position has features of its own


@pytest.mark.parametrize(
    ("data", "error", "message"),
    [
        ({"input_ids": IDS, "labels": IDS * 0 - 100}, ValueError, "targets are all -100, the label that is left out"),
        ([{"input_ids": IDS[0]}], TypeError, "has the keys 'input_ids', but no 'labels'; add the targets"),
        (
            [{"input_ids": IDS[0], "labels": 0}, {"input_ids": IDS[1, :4], "labels": 1}],
            ValueError,
            r"inputs differ in shape from batch to batch \(\(4,\), \(6,\)\).*pad sequences to one length",
        ),
        (
            [{"input_ids": IDS[0], "labels": 0}, {"input_ids": IDS[1, :4], "labels": 1}] * 2,
            ValueError,
            "samples of the DataLoader differ in shape, so they cannot be stacked; pad sequences to one length",
        ),
    ],
)
def test_what_several_inputs_are_refused_for(data, error, message):
    size = 1 if len(data) < 4 else 2
    given = torch.utils.data.DataLoader(data, batch_size=size) if isinstance(data, list) else data
    with pytest.raises(error, match=message):
        as_dataset(given)


def test_an_exhausted_loader():
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(torch.ones(2, 2), torch.zeros(2)), batch_size=2)
    loader.batch_sampler.sampler = iter(())
    with pytest.raises(ValueError, match="empty, or an iterator that is already exhausted"):
        as_dataset(loader)


@pytest.mark.parametrize("given", [lambda: iter([]), lambda: (pair for pair in [])])
def test_an_iterator_is_told_what_to_pass_for_batches(given):
    with pytest.raises(TypeError, match="an iterator can be read only once: pass the DataLoader itself for batches"):
        as_dataset(given())


def test_lists_of_samples_that_differ_in_shape():
    with pytest.raises(ValueError, match="inputs is a list of entries that differ in shape; make all samples the same"):
        as_dataset(([torch.randn(4), torch.randn(3)], torch.tensor([0, 1])))
