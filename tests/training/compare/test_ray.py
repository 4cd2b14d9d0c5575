"""Tasks of Ray on a local Ray that is started and stopped here; one task's worker is killed in mid-run."""

from __future__ import annotations

import sys
import warnings

import pytest

from isometry.training.compare import run_experiment
from tests.training.compare.experiments import dying, small, tables


@pytest.fixture(scope="module")
def cluster():
    ray = pytest.importorskip("ray")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Ray's own
        ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
        yield ray
        ray.shutdown()


@pytest.mark.filterwarnings("ignore")
def test_it_is_what_the_local_engine_gives_though_a_worker_is_killed(cluster, tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    calm = run_experiment(dying(tmp_path / "a", lr="0.1"), tmp_path / "a" / "out", workers=0)
    deaths = []

    def listen(run, event):
        deaths.extend([event.notes[0]] if event.kind == "death" else [])

    found = run_experiment(dying(tmp_path / "b", 6, lr="0.1"), tmp_path / "b" / "out", engine="ray", listener=listen)
    assert deaths == ["its Ray task was lost (WorkerCrashedError)"]
    assert tables(tmp_path / "a" / "out") == tables(tmp_path / "b" / "out")
    assert found.entries == calm.entries
    assert cluster.is_initialized()  # it was not started by the experiment


def test_without_ray_it_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(
        ImportError, match=r"--engine ray needs Ray, which is not installed; pip install 'isometry\[ray\]'"
    ):
        run_experiment(small(tmp_path), tmp_path / "out", engine="ray")
