"""``.npz`` files: read without pickles, unclear names and damage explained."""

from __future__ import annotations

import pathlib

import numpy as np
import pytest

from isometry import data

X = np.random.default_rng(0).normal(size=(6, 3)).astype(np.float32)
Y = np.array([0, 1, 2, 0, 1, 2])


@pytest.mark.parametrize("names", [("x", "y"), ("inputs", "targets"), ("X_train", "y_train"), ("data", "labels")])
@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_the_usual_names(tmp_path, names, save):
    save(tmp_path / "d.npz", **dict(zip(names, (X, Y), strict=True)))
    loaded = data.load(str(tmp_path / "d.npz"))
    np.testing.assert_array_equal(loaded.inputs.numpy(), X)
    assert loaded.targets.tolist() == Y.tolist()
    assert loaded.name == "d.npz"


def test_options_come_after_a_colon(tmp_path):
    np.savez(tmp_path / "d.npz", x=X, y=Y)
    assert data.load(f"{tmp_path}/d.npz:classes=10").classes == 10
    with pytest.raises(ValueError, match=r"from 0 to 2, with 2 classes they must lie in 0..1"):
        data.load(f"{tmp_path}/d.npz:classes=2")
    with pytest.raises(ValueError, match="DATA option classes='ten' must be a positive whole number"):
        data.load(f"{tmp_path}/d.npz:classes=ten")
    with pytest.raises(ValueError, match="unknown DATA option 'clases'; did you mean 'classes'"):
        data.load(f"{tmp_path}/d.npz:clases=2")


def test_unclear_names_are_listed(tmp_path):
    np.savez(tmp_path / "d.npz", a=X, b=Y)
    with pytest.raises(ValueError, match=r"DATA '.*d\.npz' has no inputs: .* it holds 'a', 'b'"):
        data.load(str(tmp_path / "d.npz"))


def test_python_objects_are_refused_unread(tmp_path):
    class Bomb:
        def __reduce__(self):
            return (pytest.fail, ("the pickle was executed",))

    np.savez(tmp_path / "d.npz", x=X, y=np.array([Bomb()] * 6, dtype=object))
    with pytest.raises(ValueError, match=r"array 'y.npy' cannot be read .* Python objects are refused"):
        data.load(str(tmp_path / "d.npz"))


def test_damage_and_bare_arrays(tmp_path):
    np.savez(tmp_path / "d.npz", x=X, y=Y)
    raw = (tmp_path / "d.npz").read_bytes()
    (tmp_path / "cut.npz").write_bytes(raw[: len(raw) // 2])
    with pytest.raises(ValueError, match=r"DATA '.*cut\.npz' is not a readable \.npz file"):
        data.load(str(tmp_path / "cut.npz"))
    (tmp_path / "text.npz").write_text("hello")
    with pytest.raises(ValueError, match=r"DATA '.*text\.npz' is not a readable \.npz file"):
        data.load(str(tmp_path / "text.npz"))
    np.save(tmp_path / "one.npy", X)
    with pytest.raises(ValueError, match=r"is one array without targets; save both with numpy.savez"):
        data.load(str(tmp_path / "one.npy"))
    (tmp_path / "one.npy").rename(tmp_path / "one.npz")
    with pytest.raises(ValueError, match=r"is one bare array, not an .npz archive"):
        data.load(str(tmp_path / "one.npz"))


def test_a_file_that_may_not_be_read_is_not_damaged(tmp_path, monkeypatch):
    np.savez(tmp_path / "d.npz", x=X, y=Y)

    def deny(*_):
        raise PermissionError(13, "Permission denied", "d.npz")

    monkeypatch.setattr(pathlib.Path, "open", deny)
    with pytest.raises(OSError, match=r"DATA '.*d\.npz' cannot be opened: Permission denied; mend that") as caught:
        data.load(str(tmp_path / "d.npz"))
    assert "numpy.savez" not in str(caught.value)
