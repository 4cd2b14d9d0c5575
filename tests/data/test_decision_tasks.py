"""Decision trials: what is asked can be read off the noiseless inputs, and chance follows the generator."""

from __future__ import annotations

import pytest
import torch

from isometry.data import DECISION_TASKS, decision_trials


def gen(seed=0):
    return torch.Generator().manual_seed(seed)


def trials(task, n=400, **options):
    return decision_trials(task, n, generator=gen(), **options)


def test_two_alternatives_ask_for_the_stronger_channel():
    data = trials("2af", noise=0.0)
    difference = data.inputs[:, :7, 1] - data.inputs[:, :7, 2]
    assert bool((difference == difference[:, :1]).all())
    clear = difference[:, 0] != 0
    # A fifth of the trials is undecidable: 80 of 400 expected, standard deviation 8.
    assert abs(int((~clear).sum()) - 80) < 40
    assert torch.equal(data.targets[clear, -1], torch.where(difference[clear, 0] > 0, 1, 2))
    assert sorted({round(float(v), 4) for v in difference[:, 0].abs()}) == [0, 0.064, 0.128, 0.256, 0.512]
    assert bool((data.inputs[:, 7] == 0).all())


def test_match_to_sample_asks_whether_both_were_the_same():
    data = trials("dms", noise=0.0)
    same = (data.inputs[:, 0, 1:] == data.inputs[:, 6, 1:]).all(1)
    assert torch.equal(data.targets[:, -1], torch.where(same, 1, 2))
    assert bool((data.inputs[:, 1:6, 1:] == 0).all())
    assert 100 < int(same.sum()) < 300


def test_context_asks_for_the_cued_pair():
    data = trials("context", noise=0.0)
    assert data.shape == (8, 7)
    cue = data.inputs[:, :, 5:]
    assert bool((cue.sum(2) == 1).all())
    pairs = data.inputs[:, 0, 1:5].reshape(-1, 2, 2)
    cued = pairs[torch.arange(400), cue[:, 0].argmax(1)]
    assert torch.equal(data.targets[:, -1], torch.where(cued[:, 0] > cued[:, 1], 1, 2))
    assert bool((data.inputs[:, 2:, 1:5] == 0).all())
    disagree = (pairs[:, 0, 0] > pairs[:, 0, 1]) != (pairs[:, 1, 0] > pairs[:, 1, 1])
    assert int(disagree.sum()) > 100  # else the cue would not matter


@pytest.mark.parametrize("task", DECISION_TASKS)
def test_every_task_fixates_until_its_last_step(task):
    data = trials(task, 60)
    assert data.inputs.shape[:2] == (60, 8)
    assert bool((data.inputs[:, :7, 0] == 1).all())
    assert bool((data.inputs[:, 7, 0] == 0).all())
    assert bool((data.targets[:, :7] == 0).all())
    assert bool((data.targets[:, 7] > 0).all())
    ends = trials(task, 60, steps=False)
    assert torch.equal(ends.targets, data.targets[:, 7])
    assert (data.classes, ends.classes) == (3, 3)


@pytest.mark.parametrize("task", DECISION_TASKS)
def test_the_generator_decides_and_the_noise_has_its_size(task):
    before = torch.get_rng_state()
    one, two, other = (
        trials(task, 500, noise=0.3),
        trials(task, 500, noise=0.3),
        decision_trials(task, 500, generator=gen(1)),
    )
    assert torch.equal(before, torch.get_rng_state())
    assert torch.equal(one.inputs, two.inputs)
    assert not torch.equal(one.inputs, other.inputs)
    if task == "2af":  # over 7 steps a trial's channel is constant but for the noise
        spread = float(one.inputs[:, :7, 1:].var(1).mean().sqrt())
        assert spread == pytest.approx(0.3, rel=0.05)  # 6000 degrees of freedom: 1 % of standard error


def test_bad_arguments_are_named():
    with pytest.raises(ValueError, match="unknown task '2afc'; did you mean '2af'"):
        decision_trials("2afc", 3)
    with pytest.raises(ValueError, match="n must be a positive whole number, got 0"):
        decision_trials("2af", 0)
    with pytest.raises(ValueError, match="noise must be a finite number >= 0"):
        decision_trials("2af", 3, noise=-1.0)


def test_a_single_trial_can_be_drawn():
    for task in DECISION_TASKS:
        assert len(decision_trials(task, 1, generator=gen())) == 1
