from __future__ import annotations

import json

import torch

from isometry.diagnosis import diagnose

from .nets import assert_same, data, fingerprint, mlp


def test_the_prescribed_net_learns_and_the_default_one_does_not():
    model = mlp(40)
    before = fingerprint(model)
    threads = torch.get_num_threads()
    found = diagnose(model, data(200), prove=60, samples=32)
    assert torch.get_num_threads() == threads
    assert_same(before, fingerprint(model))
    proof = found.proof
    assert proof.cured
    assert proof.verdict.startswith("The prescription cures it")
    assert len(proof.before.loss) == len(proof.after.loss) == 60
    assert proof.after.accuracy > proof.before.accuracy + 0.2
    assert proof.before.lr in proof.tried
    whole = found.to_dict()["proof"]
    assert set(whole) == {"steps", "optimizer", "batch_size", "chance", "before", "after", "verdict"}
    assert json.dumps(whole)
    assert diagnose(model, data(200), prove=60, samples=32).proof.after.loss == proof.after.loss
