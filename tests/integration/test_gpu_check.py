"""scripts/gpu_check.py from the outside: what is missing is said, what breaks takes nothing along, nothing is lost."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.dry_runs import dry_run
from tests.tiers import corners

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "scripts" / "gpu_check.py"
sys.path.insert(0, str(SCRIPT.parent))

from gpu_parts import environment, kernels  # noqa: E402
from gpu_parts.case import Case, Context, Row, run_cases  # noqa: E402
from gpu_parts.results import without_folders  # noqa: E402


def check(*options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, str(SCRIPT), *options], capture_output=True, text=True, check=False)


def context(tmp_path: Path, **changed: Any) -> Context:
    usual = {"dry_run": False, "device": "cpu", "deadline": time.monotonic() + 1000, "work": tmp_path}
    return Context(**{**usual, **changed})


# ---- what is not there ----------------------------------------------------------------------------------------------


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device here")
def test_without_a_card_one_line_says_so_and_what_to_do(tmp_path: Path) -> None:
    done = check("--out", str(tmp_path / "out.json"))
    assert done.returncode == 2
    [line] = done.stderr.strip().splitlines()
    assert "CUDA" in line
    assert "--dry-run" in line
    assert not (tmp_path / "out.json").exists()


@pytest.mark.parametrize(
    ("reasons", "said"),
    [
        (["CUDA initialization: The NVIDIA driver on your system is too old (found version 11040).", "CUDA error"],
         "driver is too old"),
        (["The NVIDIA driver on your system is too old (found version 11040). Please update"], "update the driver"),
        (["Found no NVIDIA driver on your system. Please check that you have an NVIDIA GPU"], "no CUDA device"),
        (["Torch not compiled with CUDA enabled"], "a build without CUDA"),
        (["No CUDA GPUs are available"], "no CUDA device can be used: No CUDA GPUs"),
        (["CUDA error: CUDA-capable device(s) is/are busy or unavailable"], "busy or unavailable"),
    ],
)  # fmt: skip
def test_why_there_is_no_card_is_one_line(reasons: list[str], said: str) -> None:
    found = environment._why_no_card(reasons)
    assert said in found
    assert "--dry-run" in found
    assert "\n" not in found


@pytest.mark.parametrize(
    ("versions", "said"),
    [
        ({"torch": "2.10.1", "transformers": "5.23.0"}, "torch 2.10.1 is too old; pip install 'torch>=2.11'"),
        ({"torch": "2.11.0", "transformers": "4.57.0"}, "pip install 'transformers>=5.17'"),
        ({"torch": "2.11.0", "transformers": None}, "transformers is not installed"),
    ],
)  # fmt: skip
def test_libraries_below_the_floor_are_refused(versions: dict[str, str | None], said: str) -> None:
    with pytest.raises(environment.UnusableError) as raised:
        environment.refuse_old_libraries(versions)
    assert said in str(raised.value)


@pytest.mark.parametrize("version", ["2.11.0+cu130", "2.11.0a0+git1", "3.0.0"])
def test_libraries_at_the_floor_are_taken(version: str) -> None:
    environment.refuse_old_libraries({"torch": version, "transformers": "5.17.0.dev0"})


def test_a_product_that_a_card_cannot_make_is_a_note(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(_: Context) -> float:
        raise RuntimeError("CUDA error: CUBLAS_STATUS_NOT_SUPPORTED\nmore")

    monkeypatch.setattr(environment, "product_rate", fails)
    found = environment.look(context(tmp_path))
    assert found["bf16_tflops"] == 0.0
    assert any("CUBLAS_STATUS_NOT_SUPPORTED" in note for note in found["notes"])


def test_a_card_that_others_use_is_told() -> None:
    free = {"free_gib": 79.0, "memory_gib": 80.0, "busy_percent": 0.0, "cards": 1, "capability": "9.0"}
    assert environment.in_the_way(free) == []
    [full] = environment.in_the_way({**free, "free_gib": 40.0})
    assert "busy: 50% of its memory" in full
    [working] = environment.in_the_way({**free, "busy_percent": 97.0})
    assert "works 97% of the time" in working
    [several] = environment.in_the_way({**free, "cards": 4})
    assert "CUDA_VISIBLE_DEVICES" in several
    [old] = environment.in_the_way({**free, "capability": "7.5"})
    assert "no bfloat16 of its own" in old


def test_the_card_that_is_used_is_found_among_others_and_a_part_of_one_is_none_of_them() -> None:
    cards = [["GPU-aa", "580.1", "3", "1024"], ["GPU-bb", "580.1", "[N/A]", "[N/A]"]]
    assert environment.of_card(cards, "aa") == ("580.1", 3.0, 1.0)
    assert environment.of_card(cards, "GPU-bb") == ("580.1", 0.0, None)
    assert environment.of_card(cards, "MIG-cc") == ("580.1", 3.0, None)
    assert environment.of_card([], "aa") == (None, 0.0, None)


# ---- one case after another -----------------------------------------------------------------------------------------


def breaks_after_one_row() -> Iterator[Row]:
    yield {"figure": 1.0}
    raise ValueError("the second\nline is not shown")


def test_a_case_that_breaks_keeps_its_rows_and_the_next_one_runs(tmp_path: Path) -> None:
    cases = [Case(name="first", run=breaks_after_one_row), Case(name="second", run=lambda: [{"figure": 2.0}])]
    rows = list(run_cases(cases, context(tmp_path)))
    assert [row["case"] for row in rows] == ["first", "first", "second"]
    assert rows[0]["figure"] == 1.0
    assert rows[1]["failed"] == "ValueError: the second"
    assert rows[2]["figure"] == 2.0


def test_what_is_missing_for_a_case_is_one_line(tmp_path: Path) -> None:
    def never() -> list[Row]:
        raise AssertionError("it must not run")

    def too_large() -> list[Row]:
        raise RuntimeError("a wrapper") from torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9 GiB\nmore")

    cases = [
        Case(name="library", run=never, libraries=("torch", "no_such_library")),
        Case(name="card", run=never, only_cuda=True),
        Case(name="time", run=never, seconds=5000.0),
        Case(name="memory", run=too_large),
    ]
    found = {row["case"]: row["skipped"] for row in run_cases(cases, context(tmp_path))}
    assert found["library"] == "no_such_library is not installed"
    assert found["card"] == "it needs a CUDA device"
    assert found["time"].startswith("the time of this part is up")
    assert found["memory"].startswith("the card is too small for it")
    assert all("\n" not in why for why in found.values())


def test_a_figure_that_is_none_fails_its_row_and_the_next_one_is_written(tmp_path: Path) -> None:
    figures = [{"a": float("nan")}, {"a": [[1.0, {"b": float("inf")}]]}, {"a": torch.zeros(2)}, {"a": 1.0, "b": None}]
    found = list(run_cases([Case(name="one", run=lambda: figures)], context(tmp_path)))
    assert [row.get("failed") for row in found] == ["a is nan", "a b is inf", "a is a Tensor", None]
    json.dumps(found, allow_nan=False)


def test_rows_name_no_folder_of_the_machine_and_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/data/anna")
    site = Path(torch.__file__).parents[1]
    row = {
        "why": f"{tmp_path}/model/x is missing, '/data/anna/tmp', /data/annabel",
        "planned": {"output": str(tmp_path / "run"), "sizes": [1, 2.5, None]},
        "at": [
            f"{ROOT}/tests/gpu/test_x.py:7 and {site}/torch/nn.py",
            f"{Path('/home', 'anna')}/a and {Path(tempfile.gettempdir(), 'pytest-of-anna')}/pytest-3",
        ],
    }
    found = without_folders(row, tmp_path)
    assert found["why"] == "WORK/model/x is missing, '~/tmp', /data/annabel"
    assert found["planned"] == {"output": "WORK/run", "sizes": [1, 2.5, None]}
    assert found["at"][0] == "./tests/gpu/test_x.py:7 and SITE/torch/nn.py"
    assert "anna" not in found["at"][1]


# ---- the run --------------------------------------------------------------------------------------------------------


def test_a_dry_run_wants_a_place_of_its_own() -> None:
    done = check("--dry-run")
    assert done.returncode == 2
    assert "--out" in done.stderr


def test_a_file_that_is_none_of_ours_is_not_replaced(tmp_path: Path) -> None:
    path = tmp_path / "thesis.json"
    path.write_text('{"chapters": 7}')
    done = check("--dry-run", "--out", str(path))
    assert done.returncode == 2
    assert str(path) in done.stderr
    assert path.read_text() == '{"chapters": 7}'


@pytest.mark.parametrize("minutes", ["0", "-1", "nan"])
def test_no_time_is_refused(minutes: str, tmp_path: Path) -> None:
    done = check("--dry-run", "--out", str(tmp_path / "x.json"), f"--minutes={minutes}")
    assert done.returncode == 2
    assert "--minutes" in done.stderr


@pytest.mark.slow
def test_a_part_that_cannot_be_loaded_says_why_in_the_results(tmp_path: Path) -> None:
    """As a library does that another one needs and is not there."""
    shutil.copytree(ROOT / "scripts", tmp_path / "scripts")
    (tmp_path / "scripts" / "bench_losses.py").write_text("import no_such_library")
    (tmp_path / "mmpref").symlink_to(ROOT / "mmpref")
    out = tmp_path / "out.json"
    command = [sys.executable, str(tmp_path / "scripts" / "gpu_check.py"), "--dry-run", "--out", str(out), "--parts"]
    done = subprocess.run([*command, "heads"], capture_output=True, text=True, check=False)
    assert done.returncode == 1, done.stderr
    results = json.loads(out.read_text())
    assert results["commit"] is None  # a copy
    assert results["parts"]["heads"]["status"] == "failed"
    [row] = results["parts"]["heads"]["rows"]
    assert row == {"case": "heads", "failed": "ModuleNotFoundError: No module named 'no_such_library'"}


def test_a_part_whose_time_is_up_is_stopped_and_the_next_one_runs(tmp_path: Path) -> None:
    out = tmp_path / "out.json"
    done = check("--dry-run", "--out", str(out), "--parts", "kernels", "heads", "--minutes", "0.0001")
    assert done.returncode == 0, done.stderr
    parts = json.loads(out.read_text())["parts"]
    assert list(parts) == ["kernels", "heads"]
    for part in parts.values():
        assert part["status"] == "stopped"
        assert "its time was up" in part["why"]


def children(pid: int) -> dict[int, list[bytes]]:
    """Each with its command line; any may end meanwhile."""
    found = {}
    with contextlib.suppress(OSError):
        for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
            found[int(child)] = Path(f"/proc/{child}/cmdline").read_bytes().split(b"\0")
    return found


def wait_for_part(process: subprocess.Popen[str], part: str) -> int:
    """The process id of a part, once it runs."""
    while process.poll() is None:
        for pid, words in children(process.pid).items():
            if b"--part" in words and words[words.index(b"--part") + 1].decode() == part:
                return pid
        time.sleep(0.05)
    raise AssertionError(f"it ended before {part} began")


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="finds processes through /proc")
def test_a_part_that_is_killed_does_not_take_the_others_along(tmp_path: Path) -> None:
    out = tmp_path / "out.json"
    command = [sys.executable, str(SCRIPT), "--dry-run", "--out", str(out), "--parts", "kernels", "heads"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        os.kill(wait_for_part(process, "kernels"), signal.SIGKILL)
        os.kill(wait_for_part(process, "heads"), signal.SIGKILL)
        process.communicate()
    assert process.returncode == 1
    parts = json.loads(out.read_text())["parts"]
    for part in ("kernels", "heads"):
        assert parts[part]["status"] == "failed"
        assert "SIGKILL" in parts[part]["why"]


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="finds processes through /proc")
@pytest.mark.parametrize("number", corners([signal.SIGINT, signal.SIGTERM], signal.SIGTERM))
def test_a_run_that_is_stopped_leaves_whole_results_and_no_process(tmp_path: Path, number: signal.Signals) -> None:
    out = tmp_path / "out.json"
    command = [sys.executable, str(SCRIPT), "--dry-run", "--out", str(out), "--parts", "kernels", "heads"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        part = wait_for_part(process, "kernels")
        process.send_signal(number)
        said, _ = process.communicate()
    assert process.returncode == 130
    assert "Traceback" not in said
    kernels_part = json.loads(out.read_text())["parts"]["kernels"]
    assert kernels_part["status"] == "running"
    assert "stopped while this part ran" in kernels_part["why"]
    assert not Path(f"/proc/{part}").exists()


STOPPED_AS_A_PART_BEGINS = """
import os, runpy, signal, subprocess, sys

class Popen(subprocess.Popen):
    def __init__(self, command, **more):
        super().__init__(command, **more)
        if "kernels" in command[:4]:
            print("part", self.pid, flush=True)
            os.kill(os.getpid(), NUMBER)
            for _ in range(1000):  # a signal is heard between two steps
                pass

subprocess.Popen = Popen
sys.argv[0] = sys.argv.pop(1)
sys.path.insert(0, os.path.dirname(sys.argv[0]))
runpy.run_path(sys.argv[0], run_name="__main__")
"""


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="finds processes through /proc")
@pytest.mark.parametrize("number", corners([signal.SIGINT, signal.SIGTERM], signal.SIGINT))
def test_a_run_that_is_stopped_while_it_starts_a_part_leaves_no_process(tmp_path: Path, number: signal.Signals) -> None:
    code = STOPPED_AS_A_PART_BEGINS.replace("NUMBER", str(int(number)))
    command = [sys.executable, "-c", code, str(SCRIPT), "--dry-run", "--out", str(tmp_path / "out.json")]
    done = subprocess.run([*command, "--parts", "kernels"], capture_output=True, text=True, check=False)
    assert (done.returncode, "Traceback" in done.stderr) == (130, False), done.stderr
    part = done.stdout.partition("part ")[2].split()[0]
    assert not Path(f"/proc/{part}").exists()


@pytest.mark.slow
def test_the_tests_of_the_gpu_run_at_toy_size(tmp_path: Path) -> None:
    [row] = dry_run(tmp_path, "kernels")["kernels"]
    assert row["passed"] > 10
    assert row["num_failed"] == 0


def write_tests(folder: Path, *more: str) -> None:
    """A tests/gpu with a test of every outcome, and ``more`` lines behind them."""
    lines = [
        "import pytest, time",
        "def test_good(): pass",
        "def test_bad(): assert 1 == 2, 'they differ'",
        "@pytest.mark.skip(reason='no card')\ndef test_none(): pass",
        "@pytest.fixture\ndef broken(): raise OSError('disk')",
        "def test_error(broken): pass",
        "@pytest.fixture\ndef late():\n    yield\n    raise OSError('at its end')",
        "def test_end(late): pass",
        *more,
    ]
    (folder / "tests" / "gpu").mkdir(parents=True)
    (folder / "tests" / "gpu" / "test_x.py").write_text("\n".join(lines))
    (folder / "pytest.ini").write_text("[pytest]\naddopts = -o 'markers=gpu'\n")
    (folder / "conftest.py").write_text(
        "import pytest\ndef pytest_collection_modifyitems(items):\n    [one.add_marker('gpu') for one in items]\n"
    )


def test_every_outcome_of_a_test_is_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_tests(tmp_path)
    monkeypatch.setattr(kernels, "ROOT", tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(SCRIPT.parent))
    counts, *failed = kernels.run_tests(context(tmp_path))
    assert (counts["passed"], counts["num_failed"], counts["not_run"]) == (1, 3, {"no card": 1})
    said = {row["case"]: row["failed"] for row in failed}
    assert "they differ" in said["test_x.py::test_bad"]
    assert "disk" in said["test_x.py::test_error"]
    assert "at its end" in said["test_x.py::test_end"]


def test_tests_that_are_not_through_in_time_leave_what_they_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun = tmp_path / "begun"
    write_tests(tmp_path, f"def test_slow():\n    open({str(begun)!r}, 'w').close()\n    time.sleep(1000)")
    wait = subprocess.Popen.wait

    def until_it_is_slow(process: subprocess.Popen[bytes], timeout: float | None = None) -> int:
        if timeout is None:
            return wait(process)
        while not begun.exists():
            assert process.poll() is None
            time.sleep(0.02)
        raise subprocess.TimeoutExpired(process.args, timeout)

    monkeypatch.setattr(subprocess.Popen, "wait", until_it_is_slow)
    monkeypatch.setattr(kernels, "ROOT", tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(SCRIPT.parent))
    counts, *failed, rest = kernels.run_tests(context(tmp_path))
    assert "its time was up" in rest["skipped"]
    assert (counts["passed"], len(failed)) == (1, 3)


def test_a_test_that_takes_the_process_along_is_no_success(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a fault in a kernel's own code does."""
    write_tests(tmp_path, "def test_fault():\n    import os\n    os.abort()", "def test_never(): pass")
    monkeypatch.setattr(kernels, "ROOT", tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(SCRIPT.parent))
    counts, *_, rest = kernels.run_tests(context(tmp_path))
    assert counts["passed"] == 1
    assert rest["failed"].startswith("pytest ended with -6")


@pytest.mark.slow
def test_tests_whose_processes_live_on_are_not_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sleeper = "import subprocess, sys; one = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])"
    write_tests(tmp_path, f"def test_leaves():\n    {sleeper}\n    open('pid', 'w').write(str(one.pid))")
    monkeypatch.setattr(kernels, "ROOT", tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(SCRIPT.parent))
    counts, *_ = kernels.run_tests(context(tmp_path))
    left = int((tmp_path / "pid").read_text())
    os.kill(left, signal.SIGKILL)  # it was still there
    assert counts["passed"] == 2


def test_a_pytest_that_cannot_begin_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_tests(tmp_path)
    (tmp_path / "conftest.py").write_text("import no_such_library\n")
    monkeypatch.setattr(kernels, "ROOT", tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(SCRIPT.parent))
    with pytest.raises(RuntimeError, match=r"pytest ended with [1-9].*no_such_library"):
        list(kernels.run_tests(context(tmp_path)))
