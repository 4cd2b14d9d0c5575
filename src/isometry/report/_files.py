"""Files that are there whole or not at all; here and not in ``_base``, since reports are written without torch."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["whole_file"]


@contextmanager
def whole_file(target: Path) -> Iterator[Path]:
    """Write a file in one step: one beside it takes its place when the block ends; errors and Ctrl-C leave the old one.

    Args:
        target: The file; its folder is made where it is missing.

    Yields:
        The path to write to.

    Raises:
        OSError: If the folder cannot be made, or nothing can be written there.
    """
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.", suffix=".part")
    except OSError as error:
        raise OSError(
            f"nothing can be written to {str(target.parent)!r} ({error.strerror}); give another folder."
        ) from error
    os.close(handle)
    try:
        yield Path(name)
        os.chmod(name, 0o666 & ~_umask())  # mkstemp's 0600 would keep the file from its readers
        os.replace(name, target)
    except BaseException:  # Ctrl-C too
        Path(name).unlink(missing_ok=True)
        raise


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
