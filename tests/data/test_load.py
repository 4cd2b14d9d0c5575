"""References to data: names, users' functions, and what is said when nothing fits."""

from __future__ import annotations

import re
import textwrap

import pytest

from isometry import data
from isometry._base import BadReferenceError

MODULE = """
import numpy as np
import torch
import torch.utils.data as tud

X, Y = np.ones((4, 3), np.float32), np.array([0, 1, 0, 1])


def pair():
    return X, Y


def torch_set():
    return tud.TensorDataset(torch.from_numpy(X), torch.from_numpy(Y))


loader = tud.DataLoader(torch_set(), batch_size=2)


def text():
    return "digits"


def broken():
    return X[:2], Y


def raising():
    raise RuntimeError("the disk is on fire")


def asking(path):
    return path
"""


@pytest.fixture
def module(tmp_path, monkeypatch):
    (tmp_path / "my_data_module.py").write_text(textwrap.dedent(MODULE))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("form", ["my_data_module.py:pair", "my_data_module:torch_set", "my_data_module.py:loader"])
def test_functions_and_objects_of_users(module, form):
    loaded = data.load(form)
    assert (len(loaded), loaded.classes, loaded.name) == (4, 2, form)


@pytest.mark.parametrize(
    ("reference", "error", "message"),
    [
        ("my_data_module.py:broken", ValueError, "DATA 'my_data_module.py:broken': targets have length 4 but there"),
        ("my_data_module.py:raising", BadReferenceError, "raised when called:\n"),
        ("my_data_module.py:raising", BadReferenceError, "RuntimeError: the disk is on fire"),
        ("my_data_module.py:asking", BadReferenceError, "missing 1 required positional argument: 'path'"),
        ("my_data_module.py:text", BadReferenceError, "gave the string 'digits'; return (inputs, targets)"),
        ("my_data_module.py:par", BadReferenceError, "did you mean 'pair'"),
        ("my_data_module.py", ValueError, "is a Python file; say which function to call: my_data_module.py:NAME"),
        ("nowhere.py:pair", BadReferenceError, "there is no file 'nowhere.py'"),
        ("no_such_module_at_all:pair", BadReferenceError, "there is no module 'no_such_module_at_all'"),
    ],
)
def test_what_is_wrong_with_a_users_function(module, reference, error, message):
    with pytest.raises(error, match=re.escape(message)) as caught:
        data.load(reference)
    assert str(caught.value).count("File ") <= 3


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        ("digit", "unknown DATA 'digit'; did you mean 'digits'?"),
        ("fashion_mnist", "unknown DATA 'fashion_mnist'; did you mean 'fashion-mnist'?"),
        ("zzz", "unknown DATA 'zzz'; known names: digits, fashion-mnist, shakespeare."),
        ("missing.npz", "DATA: there is no file or folder 'missing.npz'; check the path (now in"),
        ("some/folder", "DATA: there is no file or folder 'some/folder'"),
        ("digits:folder", "DATA 'digits' ships with the package and takes no folder, got 'folder'"),
        ("digits:classes=10", "DATA 'digits' takes no options classes= or size="),
        ("missing.npz:classes=", "DATA option 'classes=' has no value; write key=value"),
        (" ", "DATA is empty; known names: digits, fashion-mnist, shakespeare, or give a file"),
    ],
)
def test_references_that_name_nothing(reference, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        data.load(reference)


def test_unknown_formats(tmp_path):
    (tmp_path / "a.csv").write_text("1,2,3\n")
    with pytest.raises(ValueError, match=r"a\.csv' is of no known format; give an \.npz file"):
        data.load(str(tmp_path / "a.csv"))
    with pytest.raises(ValueError, match="size= is for folders of images only"):
        data.load(f"{tmp_path}/a.csv:size=3")


def test_data_in_memory_belongs_elsewhere():
    with pytest.raises(TypeError, match="reference must be a string, got tuple; use as_dataset"):
        data.load((1, 2))
