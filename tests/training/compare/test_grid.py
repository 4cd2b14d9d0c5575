"""The product of an experiment's parts, and how it may grow under its results."""

from __future__ import annotations

import dataclasses
import json
import re

import pytest

from isometry.training.compare import expand
from isometry.training.compare._grid import identity, insist_on_same
from tests.training.compare.experiments import SMALL, dying, small

GRID = (
    SMALL + '\n[[init]]\nname = "default"\n\n[[init]]\nname = "orthogonal"\n\n[[optimizer]]\nname = "Adam"\nlr = 1e-3\n'
)


def test_the_product_and_its_identities(tmp_path):
    grid = expand(small(tmp_path, GRID))
    assert len(grid.runs) == 1 * 2 * (2 + 1) * 2  # models, inits, (optimizer, lr) pairs, seeds
    assert len({run.id for run in grid.runs}) == len(grid.runs)
    assert grid.left_out == ()
    assert list(grid.labels.values())[::11] == [
        "default | SGD | lr 0.01 | seed 0",
        "orthogonal | Adam | lr 0.001 | seed 3",
    ]
    first = grid.runs[0]
    assert (first.combination.init, first.combination.optimizer, first.lr, first.seed) == ("default", "SGD", 0.01, 0)
    assert str(grid.runs[-1]) == "mlp:depth=3,width=16,activation=tanh | orthogonal | Adam | lr 0.001 | seed 3"


def test_an_identity_outlives_growth_and_labels_but_no_option(tmp_path):
    before = {run.id for run in expand(small(tmp_path, GRID)).runs}
    grown = GRID.replace("seeds = [0, 3]", "seeds = [5, 3, 0]").replace("lr = 1e-3", 'lr = [1e-2, 1e-3]\nlabel = "A"')
    after = {run.id for run in expand(small(tmp_path, grown)).runs}
    assert before < after
    for old, new in (("epochs = 3", "epochs = 4"), ("samples = 250", "samples = 200"), ("batch_size = 50", "")):
        assert not before & {run.id for run in expand(small(tmp_path, GRID.replace(old, new))).runs}


def test_constraints_go_with_optimizers_that_know_them(tmp_path):
    text = GRID + '\n[[constraint]]\nname = "stiefel"\n\n[[optimizer]]\nname = "RiemannianSGD"\nlr = 0.1\n'
    grid = expand(small(tmp_path, text))
    assert {run.combination.optimizer for run in grid.runs} == {"RiemannianSGD"}
    assert len(grid.left_out) == 4
    assert grid.left_out[0].endswith("stiefel | SGD: SGD does not keep weights on a manifold")
    with pytest.raises(ValueError, match=r"the experiment has nothing to train: .*Add constraint 'none', or an"):
        expand(small(tmp_path, GRID + '\n[[constraint]]\nname = "stiefel"\n'))


MODEL = '[[model]]\nname = "mlp:depth=3,width=16,activation=tanh"\n'


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (
            SMALL.replace("lr = [0.01, 0.1]", 'lr = 0.1\nlabel = "a"')
            + '[[optimizer]]\nname = "SGD"\nlr = [0.1, 0.3]\nlabel = "b"\n',
            "the tables [[optimizer]] 'a' and 'b' have the same name 'SGD' and lr 0.1, so they would train the same "
            "runs; leave one out, or change more than the label.",
        ),
        (
            SMALL + '[[init]]\nname = "default"\n[[init]]\nname = "default"\nlabel = "again"\n',
            "the tables [[init]] 'default' and 'again' have the same name 'default', so",
        ),
        (
            SMALL + '[[init]]\nname = "critical"\nq_star = 0.5\n'
            '[[init]]\nname = "critical"\nq_star = 0.5\nlabel = "again"\n',
            "'critical (q_star=0.5)' and 'again' have the same name 'critical', q_star = 0.5, so",
        ),
        (
            SMALL + MODEL + 'label = "again"\n',
            "and 'again' have the same name 'mlp:depth=3,width=16,activation=tanh', so",
        ),
    ],
)
def test_entries_that_differ_in_their_labels_alone_are_refused(tmp_path, text, words):
    with pytest.raises(ValueError, match=re.escape(words)):
        expand(small(tmp_path, text))


def test_entries_of_other_rates_or_schedules_are_not_the_same(tmp_path):
    more = '[[optimizer]]\nname = "SGD"\nlr = 0.3\nlabel = "b"\n'
    more += '[[optimizer]]\nname = "SGD"\nlr = 0.1\nschedule = "cosine"\n'
    grid = expand(small(tmp_path, SMALL + more))
    assert len({run.id for run in grid.runs}) == len(grid.runs) == 8


def test_a_grid_that_is_too_large_is_refused_at_once(tmp_path):
    rates = ", ".join(str(i) for i in range(1, 101))
    text = SMALL.replace("seeds = [0, 3]", "seeds = 50000").replace("lr = [0.01, 0.1]", f"lr = [{rates}]")
    with pytest.raises(ValueError, match=r"the experiment has 5,000,000 runs, more than 100,000; take fewer seeds"):
        expand(small(tmp_path, text))


def changed(tmp_path, before, after):
    known = json.loads(json.dumps(identity(before)))
    insist_on_same(known, identity(after))


def test_it_may_grow(tmp_path):
    before = small(tmp_path, GRID)
    more = GRID.replace("seeds = [0, 3]", "seeds = 4").replace("lr = [0.01, 0.1]", "lr = [0.01, 0.1, 1.0]")
    more += '\n[[model]]\nname = "mlp:depth=9"\n[log]\nloggers = "csv"\n'
    changed(tmp_path, before, small(tmp_path, more))
    changed(tmp_path, before, dataclasses.replace(before, folder=tmp_path / "elsewhere"))


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("seeds = [0, 3]", "seeds = [0]", r"made these results: seeds \[3\] are gone. Put it back, or give another"),
        ("epochs = 3", "epochs = 5", "epochs was 3, now 5"),
        ("samples = 250", "samples = 300", "data.samples was 250, now 300"),
        ("lr = [0.01, 0.1]", "lr = [0.1]", r"the optimizer 'SGD' lost the learning rates \[0.01\]"),
        (
            "lr = 1e-3",
            'lr = 1e-3\neps = 1e-4\nlabel = "Adam"',
            "the optimizer 'Adam' had options {}, now {'eps': 0.0001}",
        ),
        ("lr = 1e-3", 'lr = 1e-3\nschedule = "cosine"\nlabel = "Adam"', "had schedule 'constant', now 'cosine'"),
        ('name = "orthogonal"', 'name = "gaussian"', "the init 'orthogonal' is gone"),
        ("[data]", "[probe]\n[data]", "probe was None, now"),
    ],
)
def test_other_changes_are_refused(tmp_path, old, new, words):
    assert old in GRID
    before = small(tmp_path, GRID)
    with pytest.raises(ValueError, match=words):
        changed(tmp_path, before, small(tmp_path, GRID.replace(old, new)))


def test_the_users_own_source_may_not_change(tmp_path):
    experiment = dying(tmp_path)
    known = identity(experiment)
    assert list(known["sources"]) == ["dying.py"]
    (tmp_path / "dying.py").write_text("changed = True\n", encoding="utf-8")
    with pytest.raises(ValueError, match=r"dying.py is not the file that it was"):
        insist_on_same(known, identity(experiment))
