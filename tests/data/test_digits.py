"""The shipped digits equal scikit-learn's, split and standardized as their docstring says."""

from __future__ import annotations

import importlib.resources

import numpy as np
import torch

from isometry import data


def packed():
    with importlib.resources.files("isometry.data").joinpath("digits.npz").open("rb") as stream:
        return dict(np.load(stream, allow_pickle=False))


def test_they_equal_scikit_learns():
    from sklearn.datasets import load_digits

    theirs, ours = load_digits(), packed()
    np.testing.assert_array_equal(ours["images"], theirs.images)
    np.testing.assert_array_equal(ours["labels"], theirs.target)


def test_the_split_is_the_documented_one():
    ours = packed()
    labels = ours["labels"].astype(int)
    order = np.random.RandomState(0).permutation(1797)
    quota = np.bincount(labels) * 360 / 1797
    take = np.floor(quota).astype(int)
    take[np.argsort(take - quota, kind="stable")[: 360 - take.sum()]] += 1
    chosen = [i for c in range(10) for i in order[labels[order] == c][: take[c]]]
    np.testing.assert_array_equal(ours["test"], np.sort(chosen))


def test_standardized_by_the_training_mean_and_one_deviation():
    digits, raw = data.load("digits"), packed()
    assert digits.inputs.shape == (1437, 1, 8, 8)
    assert digits.test_inputs.shape == (360, 1, 8, 8)
    assert digits.inputs.dtype == torch.float32
    assert digits.inputs.mean(0).abs().max() < 1e-5
    train = np.delete(raw["images"], raw["test"], axis=0).astype(float)
    scale = (train - train.mean(0)).std()
    expected = (raw["images"][raw["test"]] - train.mean(0)) / scale
    np.testing.assert_allclose(digits.test_inputs[:, 0].numpy(), expected, atol=1e-5)
    assert digits.targets.bincount().min() > 130
    assert digits.test_targets.bincount().tolist() == [36, 37, 35, 37, 36, 36, 36, 36, 35, 36]


def test_source_and_licence_are_said():
    digits = data.load("digits")
    assert digits.licence == "CC BY 4.0"
    assert "UCI" in digits.source
    assert "mean image removed" in digits.notes[0]
    assert importlib.resources.files("isometry.data").joinpath("digits.LICENCE.md").is_file()
