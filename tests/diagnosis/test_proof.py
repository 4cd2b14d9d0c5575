from __future__ import annotations

import json
import math

import torch

from isometry.diagnosis import diagnose
from isometry.diagnosis._proof import _verdict
from isometry.report._figures import proof
from isometry.report._tidy import tidy
from isometry.training import Curve

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


def run(final, accuracy, losses=(2.2,) * 10):
    return Curve(losses, final, accuracy, math.nan, 2.2, False, False, "adam", 1e-3, 100, 10)


def test_a_net_that_has_begun_is_not_called_one_that_has_not_learned():
    told = _verdict(run(1.78, 0.73), run(1.75, 0.6))
    assert told.startswith("Neither gets far enough in these steps")
    assert (
        "has begun to learn, but not come below half of chance (loss 1.78 on the training set, 73% of it right)" in told
    )
    assert "has not learned" not in told
    flat = _verdict(run(2.19, 0.1), run(2.21, 0.1))
    assert flat.startswith("Neither learns in these steps")
    assert flat.count("has not learned") == 2


def test_the_two_losses_of_a_proof_are_told_apart():
    found = diagnose(mlp(3), data(200), prove=10, samples=32)
    before, told = found.to_dict()["proof"]["before"], found.proof.verdict
    assert before["final_loss"] == found.proof.before.final_loss
    assert f"loss {before['final_loss']:.3g} on the training set" in told
    reading = proof(tidy(found.to_dict())).reading
    assert f"loss on the training set {before['final_loss']:.3g}" in reading
    assert f"last minibatch's loss {before['loss'][-1]:.3g}" in reading
