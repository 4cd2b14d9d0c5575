"""Folders of images, one subfolder a class."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from isometry._base import progress
from isometry.data._convert import from_arrays
from isometry.data._dataset import Dataset

__all__ = ["load_image_folder"]

_SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".ppm", ".pgm"}


def load_image_folder(path: Path, *, size: int | tuple[int, int] | None = None, classes: int | None = None) -> Dataset:
    """Load a folder that holds one subfolder of images a class.

    Images are grey (one channel) if all of them are, else RGB (three), transparency dropped; values are 0..255, not
    rescaled. If the folder holds ``train`` and ``test`` (or ``val``), those hold the class folders.

    Args:
        path: The folder.
        size: Resize all images to this height and width; None insists that all have the same size.
        classes: Number of classes; by default the number of subfolders.

    Returns:
        The data set; classes are numbered by the subfolders' names in alphabetical order.

    Raises:
        ImportError: If Pillow is not installed.
        ValueError: If there are no images, their sizes differ, a file cannot be read, or the test classes differ.
    """
    try:
        import PIL.Image
    except ImportError as error:
        raise ImportError(
            f"DATA {str(path)!r} is a folder of images and needs Pillow; install it with: "
            "pip install 'isometry[images]'."
        ) from error
    train = path / "train" if (path / "train").is_dir() else path
    names = _class_names(train)
    x, y = _read(PIL.Image, train, names, size)
    notes = [f"classes by folder: {', '.join(f'{i} {name}' for i, name in enumerate(names[:20]))}"]
    if size is not None:
        notes.append(f"resized to {x.shape[2]} x {x.shape[3]}")
    test: tuple[np.ndarray | None, np.ndarray | None] = (None, None)
    held_out = next((path / n for n in ("test", "val") if (path / n).is_dir()), None) if train != path else None
    if held_out is not None:
        if _class_names(held_out) != names:
            raise ValueError(f"DATA {str(path)!r}: {train.name} and {held_out.name} have different class folders.")
        test = _read(PIL.Image, held_out, names, size)
        if test[0] is not None and test[0].shape[1] != x.shape[1]:  # one of the two holds colour
            x, *rest = (np.broadcast_to(a, (len(a), 3, *a.shape[2:])) for a in (x, test[0]))
            test = (rest[0], test[1])
        notes.append(f"test set from {held_out.name}")
    return from_arrays(
        x, y, *test, name=path.resolve().name, classes=classes or len(names), notes=tuple(notes), source=str(path)
    )


def _class_names(folder: Path) -> list[str]:
    names = sorted(p.name for p in folder.iterdir() if p.is_dir() and not p.name.startswith("."))
    if not names:
        raise ValueError(f"DATA {str(folder)!r} has no subfolders; make one folder of images for each class.")
    return names


def _read(
    pillow: Any, folder: Path, names: list[str], size: int | tuple[int, int] | None
) -> tuple[np.ndarray, np.ndarray]:
    files = [
        (file, label)
        for label, name in enumerate(names)
        for file in sorted((folder / name).rglob("*"))
        if file.suffix.lower() in _SUFFIXES
    ]
    for label, name in enumerate(names):
        if all(file_label != label for _, file_label in files):
            raise ValueError(
                f"DATA {str(folder)!r}: class folder {name!r} holds no images ({', '.join(sorted(_SUFFIXES))})."
            )
    target = (size, size) if isinstance(size, int) else size
    images = []
    first: tuple[str, tuple[int, ...]] | None = None
    for index, (file, _) in enumerate(files):
        progress("Reading images", index, len(files))
        image = _open(pillow, file, target)
        shape = image.shape[1:]
        if first is None:
            first = (file.name, shape)
        elif shape != first[1]:
            raise ValueError(
                f"DATA {str(folder)!r}: images differ in size: {first[0]} is {_text(first[1])}, {file.name} is "
                f"{_text(shape)}; make them equal or say {folder}:size={shape[0]}x{shape[1]}."
            )
        images.append(image)
    channels = max(len(image) for image in images)
    x = np.stack([np.broadcast_to(image, (channels, *image.shape[1:])) for image in images])
    return x, np.array([label for _, label in files])


def _open(pillow: Any, file: Path, size: tuple[int, int] | None) -> np.ndarray:
    """Read one image.

    Returns:
        (1 or 3, H, W), uint8.

    Raises:
        ValueError: If the file cannot be read; the message names it.
    """
    try:
        with pillow.open(file) as opened:
            if opened.mode[0] in "IF":  # converting would clip the values at 255
                raise ValueError(f"mode {opened.mode}, more than 8 bits a channel; put such images into an .npz file")
            image = opened.convert("L" if opened.mode in ("1", "L", "LA") else "RGB")
    except (OSError, SyntaxError, ValueError, pillow.DecompressionBombError) as error:
        raise ValueError(f"DATA: the image {str(file)!r} cannot be read ({error}); repair or remove it.") from error
    if size is not None:
        image = image.resize((size[1], size[0]), pillow.Resampling.BILINEAR)
    array = np.asarray(image, dtype=np.uint8)
    return array[None] if array.ndim == 2 else np.ascontiguousarray(array.transpose(2, 0, 1))


def _text(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape))
