"""Folders of images: one class a subfolder, equal sizes or a size that is said, broken files named."""

from __future__ import annotations

import sys

import numpy as np
import pytest

from isometry import data

PIL_Image = pytest.importorskip("PIL.Image")


def paint(path, *, value=0, size=(4, 6), mode="L"):
    path.parent.mkdir(parents=True, exist_ok=True)
    shape = size if mode == "L" else (*size, 3)
    PIL_Image.fromarray(np.full(shape, value, np.uint8)).save(path)


@pytest.fixture
def folder(tmp_path):
    for name, value in (("cats", 10), ("dogs", 200)):
        for i in range(3):
            paint(tmp_path / name / f"{i}.png", value=value + i)
    return tmp_path


def test_classes_by_folder_values_untouched(folder):
    loaded = data.load(str(folder))
    assert loaded.inputs.shape == (6, 1, 4, 6)
    assert loaded.inputs[:, 0, 0, 0].tolist() == [10, 11, 12, 200, 201, 202]
    assert loaded.targets.tolist() == [0, 0, 0, 1, 1, 1]
    assert "classes by folder: 0 cats, 1 dogs" in loaded.notes
    assert loaded.name == folder.name


def test_one_colour_image_makes_all_three_channelled(folder):
    paint(folder / "dogs" / "9.png", value=7, mode="RGB")
    assert data.load(str(folder)).shape == (3, 4, 6)


def test_train_and_test_folders(folder):
    for name in ("cats", "dogs"):
        (folder / "train").mkdir(exist_ok=True)
        (folder / name).rename(folder / "train" / name)
        paint(folder / "test" / name / "0.png", value=99, mode="RGB")
    loaded = data.load(str(folder))
    assert loaded.inputs.shape == (6, 3, 4, 6)
    assert loaded.test_inputs.shape == (2, 3, 4, 6)
    (folder / "test" / "dogs").rename(folder / "test" / "wolves")
    with pytest.raises(ValueError, match="train and test have different class folders"):
        data.load(str(folder))


def test_sizes_must_agree_or_be_said(folder):
    paint(folder / "dogs" / "big.png", size=(8, 8))
    with pytest.raises(ValueError, match=r"0\.png is 4 x 6, big\.png is 8 x 8; make them equal or say .*:size=8x8"):
        data.load(str(folder))
    assert data.load(f"{folder}:size=5x7").shape == (1, 5, 7)
    assert data.load(f"{folder}:size=5").shape == (1, 5, 5)
    assert data.load(str(folder), size=(5, 7)).shape == (1, 5, 7)
    with pytest.raises(ValueError, match="DATA option size='0' must be a positive whole number"):
        data.load(f"{folder}:size=0")


def test_a_broken_file_is_named(folder):
    (folder / "dogs" / "1.png").write_bytes(b"not an image")
    with pytest.raises(ValueError, match=r"the image '.*dogs.1\.png' cannot be read"):
        data.load(str(folder))


def test_deep_images_are_not_clipped_silently(folder):
    PIL_Image.fromarray(np.full((4, 6), 60000, np.uint16)).save(folder / "dogs" / "1.png")
    with pytest.raises(ValueError, match=r"1\.png' cannot be read \(mode I;16, more than 8 bits a channel"):
        data.load(str(folder))


def test_empty_folders_are_named(folder, tmp_path):
    (folder / "eels").mkdir()
    with pytest.raises(ValueError, match="class folder 'eels' holds no images"):
        data.load(str(folder))
    bare = tmp_path / "cats"
    with pytest.raises(ValueError, match=r"has no subfolders; make one folder of images for each class"):
        data.load(str(bare))


def test_one_class_is_refused(tmp_path):
    paint(tmp_path / "only" / "a.png")
    with pytest.raises(ValueError, match="classes must be at least 2, got 1"):
        data.load(str(tmp_path))


def test_without_pillow_the_error_says_what_to_install(folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "PIL.Image", None)
    with pytest.raises(ImportError, match=r"pip install 'isometry\[images\]'"):
        data.load(str(folder))
