"""References to users' code: every way in which they fail has its sentence, and nothing is left behind."""

from __future__ import annotations

import os
import re
import sys

import pytest

from isometry._base import BadReferenceError, load_callable, short_traceback


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    return tmp_path


def write(folder, name, text):
    (folder / name).write_text(text)


def test_a_file_by_relative_absolute_and_home_path(here, monkeypatch):
    write(here, "model.py", "def build():\n    return 7\n")
    monkeypatch.setenv("HOME", str(here))
    for path in ("model.py", str(here / "model.py"), "~/model.py"):
        assert load_callable(f"{path}:build")() == 7


def test_an_attribute_of_an_attribute(here):
    write(
        here,
        "model.py",
        "class Zoo:\n    class Cat:\n        @staticmethod\n        def build():\n            return 1\n",
    )
    assert load_callable("model.py:Zoo.Cat.build")() == 1


def test_modules_in_the_working_folder_and_installed_ones(here):
    write(here, "a_module_of_mine.py", "def build():\n    return 8\n")
    assert load_callable("a_module_of_mine:build")() == 8
    assert load_callable("os.path:join") is os.path.join
    sys.modules.pop("a_module_of_mine")


def test_neighbours_of_a_file_can_be_imported(here):
    (here / "sub").mkdir()
    write(here / "sub", "the_neighbour.py", "VALUE = 5\n")
    write(here / "sub", "model.py", "from the_neighbour import VALUE\n\n\ndef build():\n    return VALUE\n")
    before = list(sys.path)
    assert load_callable("sub/model.py:build")() == 5
    assert sys.path == before
    sys.modules.pop("the_neighbour")


def test_dataclasses_and_pickles_find_their_module(here):
    import pickle

    write(
        here,
        "model.py",
        "from __future__ import annotations\nfrom dataclasses import dataclass\n\n\n"
        "@dataclass\nclass Config:\n    width: int = 3\n",
    )
    config = load_callable("model.py:Config")
    assert pickle.loads(pickle.dumps(config(4))) == config(4)


def test_an_edited_file_is_read_again(here):
    write(here, "model.py", "VALUE = 1\n")
    assert load_callable("model.py:VALUE") == 1
    write(here, "model.py", "VALUE = 22\n")
    assert load_callable("model.py:VALUE") == 22


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        ("model.py", "MODEL 'model.py' is not a reference; write path/to/file.py:name or package.module:name."),
        ("model.py:", "MODEL 'model.py:' is not a reference"),
        (":build", "MODEL ':build' is not a reference"),
        ("", "MODEL '' is not a reference"),
        ("modle.py:build", "MODEL: there is no file 'modle.py'; check the path (now in "),
        ("model.py:biuld", "MODEL: model.py has no 'biuld': unknown name 'biuld'; did you mean 'build'?"),
        ("model.py:build.inner", "MODEL: model.py has no 'inner'"),
        (
            "no_module_of_this_name:build",
            "MODEL: there is no module 'no_module_of_this_name'; install it, or give a file",
        ),
        ("no_package_x.inner:build", "MODEL: there is no module 'no_package_x.inner'"),
        ("os.path:jion", "MODEL: os.path has no 'jion': unknown name 'jion'; did you mean 'join'"),
    ],
)
def test_missing_things_are_named(here, reference, message):
    write(here, "model.py", "def build():\n    return 7\n")
    with pytest.raises(BadReferenceError, match=re.escape(message)):
        load_callable(reference, argument="MODEL")


def test_a_file_that_raises_shows_its_own_frames_only(here):
    write(here, "model.py", "def inner():\n    return 1 / 0\n\n\ninner()\n")
    before = list(sys.path)
    with pytest.raises(BadReferenceError) as caught:
        load_callable("model.py:build", argument="MODEL")
    text = str(caught.value)
    assert text.startswith("MODEL: model.py raised while it was imported:\n")
    assert text.endswith("ZeroDivisionError: division by zero")
    assert "line 5, in <module>" in text
    assert "line 2, in inner" in text
    assert "_references.py" not in text
    assert "importlib" not in text
    assert sys.path == before
    assert not [name for name in sys.modules if name.startswith("_isometry_user_") and "model" in name]


def test_a_syntax_error_points_at_the_line(here):
    write(here, "model.py", "def build(:\n    pass\n")
    with pytest.raises(BadReferenceError, match=r"(?s)model\.py.*line 1.*def build\(:.*SyntaxError"):
        load_callable("model.py:build")


def test_a_missing_import_inside_is_the_users_error_not_a_missing_module(here):
    write(here, "a_module_with_needs.py", "import a_library_nobody_has\n")
    with pytest.raises(BadReferenceError, match=r"raised while it was imported:(?s:.*)'a_library_nobody_has'"):
        load_callable("a_module_with_needs:build")


def test_a_script_that_exits_does_not_end_the_program(here):
    write(here, "script.py", "import sys\n\nsys.exit(3)\n")
    for reference in ("script.py:build", "script:build"):
        with pytest.raises(BadReferenceError, match=r"raised while it was imported:(?s:.*)SystemExit: 3"):
            load_callable(reference)


def test_a_file_that_changes_the_import_path_does_no_harm(here):
    write(here, "model.py", "import sys\n\nsys.path.clear()\nVALUE = 1\n")
    assert load_callable("model.py:VALUE") == 1


def test_a_deep_traceback_is_cut_to_its_last_frames():
    def deep(n):
        if n == 0:
            raise KeyError("end")
        deep(n - 1)

    with pytest.raises(KeyError) as caught:
        deep(20)
    text = short_traceback(caught.value)
    assert text.count("File ") == 3
    assert text.endswith("KeyError: 'end'")
    assert short_traceback(caught.value, frames=1).count("File ") == 1


def test_frames_of_torch_are_left_out():
    import torch

    with pytest.raises(RuntimeError) as caught:
        torch.nn.Linear(2, 3)(torch.zeros(1, 5))
    text = short_traceback(caught.value)
    assert os.sep + os.path.join("torch", "nn") not in text
    assert "test_references.py" in text


def test_what_a_file_has_imported_is_not_suggested(here):
    write(
        here,
        "net.py",
        "import torch\nfrom torch import nn\nfrom torch.nn import Flatten\n\n\nclass NoSuch(nn.Module):\n    pass\n\n\n"
        "nosuchnet = nn.Sequential(Flatten())\n",
    )
    with pytest.raises(BadReferenceError) as caught:
        load_callable("net.py:nosuch")
    assert "'torch'" not in str(caught.value)
    assert "did you mean 'nosuchnet'" in str(caught.value)
    with pytest.raises(BadReferenceError) as caught:
        load_callable("net.py:Flaten")
    assert "Flatten" not in str(caught.value)
