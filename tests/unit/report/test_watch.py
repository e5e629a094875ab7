from __future__ import annotations

import json
import shutil

import pytest

from mmpref.errors import ConfigError
from mmpref.report.page import PageOptions
from mmpref.report.runs import load_runs
from mmpref.report.watch import LOOKS_GONE, Watch


def watch(runs, out, said):
    return Watch(runs, out, every=2.5, options=PageOptions(title="Now"), say=said.append)


def set_state(run, **facts):
    file = run / "manifest.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **facts}))


def test_a_page_follows_a_run_from_before_its_start_to_its_end(folders, tmp_path):
    run, out, said = tmp_path / "run", tmp_path / "page.html", []
    watched = watch([run], out, said)
    assert not watched.look()
    assert '<meta http-equiv="refresh" content="3">' in out.read_text()
    assert "holds no run yet" in out.read_text()
    folders.write_run(run, log=folders.preference_log()[:6], state="running")
    set_state(run, planned_steps=65)
    with (run / "metrics.jsonl").open("a") as stream:
        stream.write('{"step": 30, "lo')  # a line that is being written
    assert not watched.look()
    assert "live: step 25 of 65, updated" in out.read_text()
    assert "lines cannot be used" not in out.read_text()
    before = out.stat().st_mtime_ns
    assert not watched.look()
    assert out.stat().st_mtime_ns == before  # nothing changed
    set_state(run, state="complete", steps=65)
    assert watched.look()
    assert "refresh" not in out.read_text()
    assert "live:" not in out.read_text()
    assert said[-1] == "all runs ended"


def test_what_is_gone_stays_on_the_page_and_ends_the_watch(folders, tmp_path):
    run, out, said = folders.write_run(tmp_path / "run", state="running"), tmp_path / "page.html", []
    watched = watch([run], out, said)
    assert not watched.look()
    shutil.rmtree(run)
    looks = [watched.look() for _ in range(LOOKS_GONE)]
    assert looks == [*([False] * (LOOKS_GONE - 1)), True]
    assert 'http-equiv="refresh"' not in out.read_text()
    assert "no longer live: the runs are gone" in out.read_text()
    assert "gone" in said[-1]


def test_stopping_leaves_a_page_that_no_browser_reads_again(folders, tmp_path, monkeypatch):
    run, out = folders.write_run(tmp_path / "run", state="running"), tmp_path / "page.html"
    watched = watch([run], out, [])

    def stop(seconds):
        raise KeyboardInterrupt

    monkeypatch.setattr("time.sleep", stop)
    with pytest.raises(KeyboardInterrupt):
        watched.run()
    assert "refresh" not in out.read_text()
    assert "no longer live: watching was stopped. step 0" in out.read_text()
    assert out.read_text().rstrip().endswith("</html>")


def test_the_pair_log_of_a_running_training_is_that_of_its_newest_whole_checkpoint(folders, tmp_path):
    run = folders.write_run(tmp_path / "run", state="running")
    rows = [{"step": 1, "pair_id": "p0", "rewards/margins": None}, {"step": 2, "pair_id": "p1", "rewards/margins": 0.5}]
    for step in (5, 10, 20):
        (run / f"checkpoints/step-{step}").mkdir(parents=True)
        folders.write_pairs(run / f"checkpoints/step-{step}/pairs.parquet", [{**row, "step": step} for row in rows])
    (run / "checkpoints/step-20/pairs.parquet").write_bytes(b"PAR1 half of it")
    [found] = load_runs([run])
    assert found.pairs == {"step": [10, 10], "pair_id": ["p0", "p1"], "rewards/margins": [None, 0.5]}
    assert any("pairs.parquet is read from checkpoints/step-10" in problem for problem in found.problems)


def test_an_error_that_stays_ends_the_watch(folders, tmp_path):
    run, out = folders.write_run(tmp_path / "run", state="running"), tmp_path / "page.html"
    watched = watch([run, run], out, said := [])
    assert not watched.look()  # it may have been a file half there
    assert "given more than once" in said[-1]
    with pytest.raises(ConfigError, match="more than once"):
        watched.look()
    with pytest.raises(ConfigError, match="--every 10"):
        Watch([run], out, every=0, options=PageOptions(), say=said.append)
