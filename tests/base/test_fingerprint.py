"""Checksums: equal for equal bits, different for whatever else two processes could have been given."""

from __future__ import annotations

import pytest
import torch

from isometry._base import fingerprint


@pytest.mark.parametrize(
    "dtype", [torch.float64, torch.float32, torch.bfloat16, torch.complex128, torch.int64, torch.uint8, torch.bool]
)
def test_every_dtype_has_one(dtype):
    numbers = torch.arange(24).view(4, 6)
    tensor = numbers % 5 == 0 if dtype == torch.bool else numbers.to(dtype)
    assert fingerprint([tensor]) == fingerprint([tensor.clone()]) == fingerprint([tensor.T.contiguous().T])
    assert len({fingerprint([t]) for t in (tensor, tensor.flip(0), tensor[:3], tensor.view(6, 4))}) == 4


def test_what_two_processes_may_have_otherwise():
    x = torch.randn(5, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    nudged = x.clone()
    nudged[4, 2, 3, 3] = torch.nextafter(nudged[4, 2, 3, 3], torch.tensor(9.0))
    others = [x, x.flip(3), x.roll(1, 0), -x, nudged, x.double(), x[:, :, :0]]
    assert len({fingerprint([other]) for other in others}) == len(others)
    assert fingerprint([x, x[:2]]) != fingerprint([x[:2], x])
    assert fingerprint([]) == fingerprint([])
    assert fingerprint([torch.tensor(1.0)]) != fingerprint([torch.tensor(1)])


def test_long_tensors_are_summed_up_in_pieces(monkeypatch):
    from isometry._base import _fingerprint

    monkeypatch.setattr(_fingerprint, "_PIECE", 4)
    long = torch.arange(10)
    assert fingerprint([long]) != fingerprint([long.roll(4)])
    assert fingerprint([long]) == fingerprint([long.clone()])
