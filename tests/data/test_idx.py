"""IDX files: round trips of every type, partners found beside, damage named. Fashion-MNIST rests on them."""

from __future__ import annotations

import gzip
import re
import struct

import numpy as np
import pytest
import torch

from isometry import data
from isometry.data._idx import is_idx_name, read_idx

CODES = {"u1": 8, "i1": 9, "i2": 0x0B, "i4": 0x0C, "f4": 0x0D, "f8": 0x0E}


def idx(array, *, compress=False):
    """Write the format by its description: 0 0 type ndim, sizes, values; all big-endian."""
    code = CODES[f"{array.dtype.kind}{array.dtype.itemsize}"]
    raw = bytes([0, 0, code, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape)
    raw += array.astype(array.dtype.newbyteorder(">")).tobytes()
    return gzip.compress(raw) if compress else raw


def write_pair(folder, split, n, *, shape=(28, 28), compress=True, labels=None):
    rng = np.random.default_rng(len(split))
    images = rng.integers(0, 256, size=(n, *shape)).astype(np.uint8)
    labels = np.arange(n, dtype=np.uint8) % 10 if labels is None else labels
    suffix = ".gz" if compress else ""
    (folder / f"{split}-images-idx{images.ndim}-ubyte{suffix}").write_bytes(idx(images, compress=compress))
    (folder / f"{split}-labels-idx1-ubyte{suffix}").write_bytes(idx(labels, compress=compress))
    return images, labels


@pytest.mark.parametrize("kind", sorted(CODES))
@pytest.mark.parametrize("compress", [False, True])
def test_every_type_comes_back(tmp_path, kind, compress):
    array = (np.arange(24).reshape(2, 3, 4) * 5).astype(kind)
    path = tmp_path / "a.idx"
    path.write_bytes(idx(array, compress=compress))
    back = read_idx(path)
    assert back.dtype == np.dtype(kind)
    assert back.dtype.isnative
    np.testing.assert_array_equal(back, array)


@pytest.mark.parametrize("compress", [False, True])
def test_labels_and_test_set_are_found_beside(tmp_path, compress):
    images, labels = write_pair(tmp_path, "train", 20, compress=compress)
    write_pair(tmp_path, "t10k", 10, compress=compress)
    loaded = data.load(str(tmp_path / f"train-images-idx3-ubyte{'.gz' if compress else ''}"))
    assert loaded.inputs.shape == (20, 1, 28, 28)
    np.testing.assert_array_equal(loaded.inputs[:, 0].numpy(), images)  # not rescaled
    assert loaded.targets.tolist() == labels.tolist()
    assert len(loaded.test_inputs) == 10
    assert any("labels from train-labels-idx1-ubyte" in note for note in loaded.notes)
    assert any("without rescaling" in note for note in loaded.notes)


def test_colour_images_keep_their_channels(tmp_path):
    write_pair(tmp_path, "train", 20, shape=(3, 4, 5))
    assert data.load(str(tmp_path / "train-images-idx4-ubyte.gz")).shape == (3, 4, 5)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is not an IDX file: it starts with nothing"),
        (b"PNG....", "is not an IDX file: it starts with 50 4e 47 2e"),
        (bytes([0, 0, 8, 3, 0, 0]), "ends inside its header"),
        (idx(np.zeros((2, 3), np.uint8))[:-1], "says shape (2, 3) (6 bytes) but holds 5 bytes"),
        (gzip.compress(b"abc", mtime=0)[:-6], "is a damaged gzip file"),
    ],
)
def test_damage_is_named(tmp_path, content, message):
    path = tmp_path / "train-images-idx3-ubyte"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=re.escape(message)) as caught:
        data.load(str(path))
    assert "train-images-idx3-ubyte" in str(caught.value)


def test_missing_labels_and_label_files_are_explained(tmp_path):
    write_pair(tmp_path, "train", 20)
    with pytest.raises(ValueError, match="labels perhaps; give the file of images"):
        data.load(str(tmp_path / "train-labels-idx1-ubyte.gz"))
    (tmp_path / "train-labels-idx1-ubyte.gz").unlink()
    with pytest.raises(ValueError, match="has no file of labels beside it"):
        data.load(str(tmp_path / "train-images-idx3-ubyte.gz"))


def test_names_of_idx_files():
    assert is_idx_name("train-images-idx3-ubyte.gz")
    assert is_idx_name("x.idx")
    assert is_idx_name("train-images.idx3-ubyte")
    assert not is_idx_name("images.npz")


def test_fashion_mnist_from_a_folder_is_standardized(tmp_path):
    images, _ = write_pair(tmp_path, "train", 40)
    test_images, _ = write_pair(tmp_path, "t10k", 10, compress=False)
    loaded = data.load(f"fashion-mnist:{tmp_path}")
    assert (len(loaded), loaded.shape, loaded.classes, len(loaded.test_inputs)) == (40, (1, 28, 28), 10, 10)
    scale = (images - images.mean(0)).std()
    torch.testing.assert_close(
        loaded.test_inputs[:, 0].double(),
        torch.from_numpy((test_images - images.mean(0)) / scale),
        atol=1e-5,
        rtol=0,
    )
    assert loaded.licence == "MIT"


def test_fashion_mnist_by_environment(tmp_path, monkeypatch):
    (tmp_path / "fashion-mnist").mkdir()
    write_pair(tmp_path / "fashion-mnist", "train", 20)
    write_pair(tmp_path / "fashion-mnist", "t10k", 10)
    monkeypatch.setenv("ISOMETRY_DATA", str(tmp_path))
    assert len(data.load("fashion-mnist")) == 20


def test_fashion_mnist_missing_says_how_to_get_it(tmp_path):
    with pytest.raises(ValueError, match=r"not in .*apt install dataset-fashion-mnist.*fashion-mnist:FOLDER"):
        data.load(f"fashion-mnist:{tmp_path}")
    write_pair(tmp_path, "train", 20)
    with pytest.raises(ValueError, match=r"has no t10k-images-idx3-ubyte\(\.gz\)"):
        data.load(f"fashion-mnist:{tmp_path}")
    write_pair(tmp_path, "t10k", 10, shape=(8, 8))
    with pytest.raises(ValueError, match=r"t10k files .* hold images of shape \(10, 8, 8\)"):
        data.load(f"fashion-mnist:{tmp_path}")


def test_the_real_fashion_mnist_where_it_is_installed():
    from isometry.data._fashion_mnist import _DEBIAN

    if not _DEBIAN.is_dir():
        pytest.skip("Debian's dataset-fashion-mnist is not installed")
    loaded = data.load(f"fashion-mnist:{_DEBIAN}")
    assert loaded.inputs.shape == (60000, 1, 28, 28)
    assert loaded.test_targets.bincount().tolist() == [1000] * 10
    assert abs(float(loaded.inputs.std()) - 1) < 1e-3
