"""Inputs of one number a sample: times, lengths, ids."""

import pytest
import torch
from torch import nn

from isometry.diagnosis import diagnose, prescribe

N = 60
Y = torch.arange(N) % 3


def normal(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


def ids(top):
    return torch.randint(0, top, (N,), generator=torch.Generator().manual_seed(top))


class Timed(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(7, 16), nn.Tanh(), nn.Linear(16, 3))

    def forward(self, x, t):
        return self.net(torch.cat([x, t[:, None]], 1))


class Packed(nn.Module):
    def __init__(self):
        super().__init__()
        self.rnn, self.head = nn.LSTM(6, 16, batch_first=True), nn.Linear(16, 3)

    def forward(self, x, lengths):
        packed = nn.utils.rnn.pack_padded_sequence(x, lengths.cpu(), batch_first=True, enforce_sorted=False)
        return self.head(self.rnn(packed)[1][0][-1])


class Recommender(nn.Module):
    def __init__(self):
        super().__init__()
        self.users, self.items, self.head = nn.Embedding(20, 8), nn.Embedding(30, 8), nn.Linear(16, 3)

    def forward(self, user, item):
        return self.head(torch.cat([self.users(user), self.items(item)], 1))


CASES = {
    "a time by name": (Timed, {"x": normal(N, 6), "t": normal(N).abs()}),
    "a time": (Timed, (normal(N, 6), normal(N).abs())),
    "lengths": (Packed, (normal(N, 5, 6), 1 + ids(5))),
    "ids": (Recommender, (ids(20), ids(30))),
    "one id": (lambda: nn.Sequential(nn.Embedding(20, 8), nn.Linear(8, 3)), ids(20)),
}


@pytest.mark.parametrize(("build", "x"), CASES.values(), ids=CASES)
def test_numbers_without_an_axis_of_their_own_are_diagnosed(build, x):
    torch.manual_seed(0)
    found = diagnose(build(), (x, Y))
    assert not {"indistinct_inputs", "coupled_samples"} & {f.code for f in found.findings}
    assert found.evidence.case.x.rows()[-1].shape == (N,)


def test_equal_ids_are_told():
    found = diagnose(Recommender(), ((torch.zeros(N, dtype=torch.int64), torch.ones(N, dtype=torch.int64)), Y))
    assert found.findings[0].code == "indistinct_inputs"


def test_a_packed_sequence_gets_no_prescription_but_a_reason():
    x = (normal(N, 5, 6), 1 + ids(5))
    found = diagnose(Packed(), (x, Y), prove=10)
    assert found.prescription is None
    assert any("packed sequence" in skipped.why for skipped in found.skipped if skipped.what == "prescription")
    with pytest.raises(NotImplementedError, match="feed it padded sequences"):
        prescribe(Packed(), (x, Y))
