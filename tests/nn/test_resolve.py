import pytest
import torch
from torch import nn

from isometry._base import BadReferenceError
from isometry.nn import resolve_model

USER_FILE = """
import torch
from torch import nn

net = nn.Linear(3, 2)

class Net(nn.Sequential):
    def __init__(self):
        super().__init__(nn.Linear(3, 2))

def sized(in_shape, classes=7):
    return nn.Linear(in_shape[0], classes)

def deep():
    return inner()

def inner():
    return nn.Linear(3, "two")

def needy(width, depth):
    return nn.Linear(width, depth)

def number():
    return 3

def class_instead():
    return Net

constant = 5
"""


@pytest.fixture
def user_file(tmp_path):
    path = tmp_path / "user_model.py"
    path.write_text(USER_FILE)
    return str(path)


@pytest.mark.parametrize("name", ["net", "Net", "sized"])
def test_modules_classes_and_functions_of_a_file(user_file, name):
    model = resolve_model(f"{user_file}:{name}", in_shape=(3,), classes=2)
    assert model(torch.zeros(1, 3)).shape == (1, 2)


def test_spec_module_path_and_objects():
    assert resolve_model("mlp:depth=2", in_shape=(3,), classes=2)(torch.zeros(1, 3)).shape == (1, 2)
    assert isinstance(resolve_model("torch.nn:Tanh", in_shape=(3,), classes=2), nn.Tanh)
    assert isinstance(resolve_model("isometry.nn:perceptron", in_shape=(3,), classes=2), nn.Sequential)
    module = nn.Linear(3, 2)
    assert resolve_model(module, in_shape=(3,), classes=2) is module
    assert isinstance(resolve_model(nn.Tanh, in_shape=(3,), classes=2), nn.Tanh)
    assert resolve_model(lambda classes: nn.Linear(3, classes), in_shape=(3,), classes=4).out_features == 4


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("number", "number returned an int, not an nn.Module; return the module itself"),
        ("class_instead", "returned the class Net; return an instance of it"),
        ("constant", "is an int; name an nn.Module"),
        ("needy", "needs the arguments width, depth; give defaults"),
        ("nett", "has no 'nett': unknown name 'nett'; did you mean"),
    ],
)
def test_errors_about_the_users_object(user_file, name, message):
    with pytest.raises(BadReferenceError) as caught:
        resolve_model(f"{user_file}:{name}", in_shape=(3,), classes=2)
    assert message in str(caught.value)


def test_the_users_traceback_is_short_and_ends_in_the_error(user_file):
    with pytest.raises(BadReferenceError) as caught:
        resolve_model(f"{user_file}:deep", in_shape=(3,), classes=2)
    message = str(caught.value)
    assert "deep raised when it was called" in message
    assert "in deep" in message
    assert "in inner" in message
    assert "_resolve.py" not in message
    assert "TypeError" in message.splitlines()[-1] or "TypeError" in message
    assert len(message.splitlines()) < 25


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        ("mpl:depth=3", "unknown reference model 'mpl'; did you mean 'mlp'?"),
        ("mpl", "did you mean 'mlp'?"),
        ("nonsense", "path/to/file.py:name or package.module:name"),
        ("missing.py:build", "there is no file 'missing.py'"),
        ("not_a_package.models:build", "there is no module 'not_a_package.models'"),
    ],
)
def test_errors_about_the_reference(reference, message):
    with pytest.raises(BadReferenceError) as caught:
        resolve_model(reference, in_shape=(3,), classes=2)
    assert message in str(caught.value)


def test_wrong_type():
    with pytest.raises(TypeError, match=r"MODEL must be a reference string, an nn.Module or a callable"):
        resolve_model(3, in_shape=(3,), classes=2)
