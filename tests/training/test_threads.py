"""Small networks train on one thread; the setting is put back whatever happens."""

import pytest
import torch
from torch import nn

from isometry.training._threads import suitable_threads


@pytest.fixture
def two_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize(
    ("model", "batch", "inside"),
    [
        (nn.Linear(100, 100), 64, 1),
        (nn.Linear(1000, 1000), 64, 2),
        (nn.Linear(100, 100), 10_000, 2),
        (nn.Conv2d(3, 3, 3), 64, 2),
    ],
)
def test_threads_follow_the_largest_product(two_threads, model, batch, inside):
    with suitable_threads(model, batch):
        assert torch.get_num_threads() == inside
    assert torch.get_num_threads() == 2


def test_threads_are_put_back_after_an_error(two_threads):
    with pytest.raises(RuntimeError, match="midway"), suitable_threads(nn.Linear(2, 2), 4):
        raise RuntimeError("midway")
    assert torch.get_num_threads() == 2
