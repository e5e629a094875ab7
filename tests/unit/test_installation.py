"""What is missing, too old or of the wrong build is one line at the first command, before anything is loaded.

Libraries are made missing in earnest: an environment of its own has links to what is installed here, but for those.
"""

from __future__ import annotations

import ast
import importlib
import json
import os
import re
import shlex
import subprocess
import sys
import sysconfig
import tomllib
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from mmpref import installation
from mmpref.doctor.machine import machine
from mmpref.doctor.needs import unmet
from mmpref.errors import ConfigError
from mmpref.installation import Requirement, TorchBuild
from mmpref.recipe.loading import load_recipe
from tests.installed_wheel import ROOT, empty_environment

HEAVY = ("torch", "transformers", "numpy", "PIL", "pydantic", "typer", "accelerate")
LEFT_OUT = ("bitsandbytes", "matplotlib", "av", "deepspeed", "tensorboard", "wandb")


def fake(folder: Path, name: str, version: str) -> Path:
    """What pip leaves of a library in a folder: its metadata."""
    metadata = folder / f"{name}-{version}.dist-info" / "METADATA"
    metadata.parent.mkdir(parents=True)
    metadata.write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    return folder


def command(
    *arguments: str, before: Path | None = None, python: Path | str = sys.executable, code: str = ""
) -> subprocess.CompletedProcess[str]:
    """``python -m mmpref ARGUMENTS``, or ``code`` in its place; ``before`` stands before everything installed."""
    places = [str(place) for place in (before, ROOT) if place is not None]
    env = {name: value for name, value in os.environ.items() if name != "CUDA_VISIBLE_DEVICES"}
    env |= {"PYTHONPATH": os.pathsep.join(places), "PYTHONDONTWRITEBYTECODE": "1"}
    started = ["-c", code] if code else ["-m", "mmpref"]
    return subprocess.run(
        [str(python), *started, *arguments], env=env, capture_output=True, text=True, cwd=ROOT.anchor, check=False
    )


def floors() -> dict[str, str]:
    """Library -> floor of the core, as pyproject.toml has them."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return dict(line.split(">=") for line in project["dependencies"])


@pytest.fixture(autouse=True)
def versions_read_anew() -> Iterator[None]:
    installation._quick_versions.cache_clear()
    yield
    installation._quick_versions.cache_clear()


def test_a_library_below_its_floor_is_refused_by_every_command_before_anything_is_loaded(tmp_path: Path) -> None:
    before = fake(fake(tmp_path, "transformers", "4.50.3"), "peft", "0.18.9")
    said = (
        f"mmpref: transformers 4.50.3 is older than {floors()['transformers']}, peft 0.18.9 is older than "
        f"{floors()['peft']}: pip install 'transformers>={floors()['transformers']}' 'peft>={floors()['peft']}' "
        f"(Python: {sys.executable})\n"
    )
    for arguments in (["train", "no_such_recipe"], ["score"], ["data", "list"]):
        done = command(*arguments, before=before)
        assert (done.returncode, done.stdout, done.stderr) == (2, "", said)
    code = f"import atexit, sys\natexit.register(lambda: print([n for n in {HEAVY} if n in sys.modules]))\n"
    loaded = command("train", "x", before=before, code=f"{code}from mmpref.__main__ import start\nstart()")
    assert (loaded.returncode, loaded.stdout) == (2, "[]\n")


def test_help_and_version_are_shown_all_the_same(tmp_path: Path) -> None:
    before = fake(tmp_path, "transformers", "4.50.3")
    for arguments in (["--version"], ["train", "--help"]):
        assert command(*arguments, before=before).returncode == 0


def test_doctor_says_the_same_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(fake(fake(tmp_path, "transformers", "4.50.3"), "Jinja2", "3.0")))
    facts = {fact.name: fact for fact, _ in zip(machine(), range(12), strict=False)}
    assert (facts["transformers"].value, facts["transformers"].ok) == ("4.50.3 is older than 5.17", False)
    assert facts["transformers"].hint == "pip install 'transformers>=5.17'"
    assert facts["jinja2"].value == "3.0 is older than 3.1"
    assert facts["torch"].ok is True


@pytest.mark.parametrize(
    ("version", "is_older"),
    [
        ("2.10.1", True),
        ("2.11", False),
        ("2.11.0a0+git1", False),
        ("3", False),
        ("2.9.9+cu128", True),
        ("unknown", False),
    ],
)
def test_release_numbers_are_compared_as_numbers(version: str, is_older: bool) -> None:
    assert installation._older(version, "2.11.0") is is_older


def wheel(folder: Path, name: str, version: str) -> None:
    """An empty library as an index would hand it out."""
    stem = f"{name.replace('-', '_')}-{version}"
    with zipfile.ZipFile(folder / f"{stem}-py3-none-any.whl", "w") as archive:
        archive.writestr(f"{stem}.dist-info/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        archive.writestr(f"{stem}.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{stem}.dist-info/RECORD", "")


def test_where_nothing_is_installed_everything_is_named_and_the_advice_heals(tmp_path: Path) -> None:
    python = empty_environment(tmp_path / "empty", libraries=False)
    own = command("--help", python=python)
    assert own.returncode == 2
    assert own.stderr.startswith("mmpref: typer is not installed, rich is not installed: pip install 'typer>=")
    index = tmp_path / "index"
    index.mkdir()
    for name, floor in floors().items():
        wheel(index, name, floor)
    look = "import sys; from mmpref.installation import refuse_unusable; refuse_unusable(sys.argv[1:])"
    missing = command("train", python=python, code=look).stderr.splitlines()[-1]
    (advised,) = re.findall(r"pip (install .*) \(Python", missing)
    assert [name.split(">=")[0] for name in shlex.split(advised)[1:]] == [*floors()]
    pip = [sys.executable, "-m", "pip", "--python", str(python), "--disable-pip-version-check"]
    without_torch = [name for name in shlex.split(advised) if not name.startswith("torch")]
    offline = ["--quiet", "--no-index", "--find-links", str(index)]
    subprocess.run([*pip, *without_torch, *offline], check=True, capture_output=True)
    assert command("score", python=python, code=look).returncode == 0, "scoring needs no torch"
    assert "torch is not installed: pip install 'torch>=" in command("train", python=python, code=look).stderr
    subprocess.run([*pip, *shlex.split(advised), *offline], check=True, capture_output=True)
    assert command("train", python=python, code=look).returncode == 0


@pytest.fixture(scope="module")
def poor(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The interpreter of an environment with the libraries that are here, but for those of most extras."""
    folder = tmp_path_factory.mktemp("poor")
    python = empty_environment(folder / "environment", libraries=False)
    packages = next((folder / "environment").glob("lib/*/site-packages"))
    for entry in Path(sysconfig.get_path("purelib")).iterdir():
        if entry.name.startswith("mmpref") or entry.suffix == ".pth" or entry.name.startswith("__editable__"):
            continue
        if re.split(r"[-.]", entry.name.lower())[0] not in LEFT_OUT:
            (packages / entry.name).symlink_to(entry)
    return python


def test_what_an_extra_brings_is_asked_for_before_torch_is_loaded(poor: Path, tmp_path: Path) -> None:
    rows = tmp_path / "rows.jsonl"
    rows.write_text(json.dumps({"videos": ["clip.mp4"], "prompt": "?", "chosen": "a", "rejected": "b"}) + "\n")
    frames = tmp_path / "frames.jsonl"
    frames.write_text(
        json.dumps({"videos": [["1.png", "2.png"]], "prompt": "?", "chosen": "a", "rejected": "b"}) + "\n"
    )
    demo = ["train", "demo_uni_dpo", f"data.train={frames}", "model.path=m", f"output={tmp_path / 'run'}"]
    qlora = ["train", "qwen2_5_vl_3b_uni_dpo_qlora", "data.train=p.jsonl"]
    answers = ["eval", "--model", "m", "--benchmark", "pope", "--questions", "q", "--out", "o"]
    asked = [  # what is missing, its extra, the command, how the line begins, and how it ends
        ("bitsandbytes", "qlora", [*qlora, "train.optim=adamw_torch"], "adapter.kind=qlora", "adapter.kind=lora"),
        (
            "bitsandbytes",
            "qlora",
            [*demo, "train.optim=adamw_8bit"],
            "train.optim=adamw_8bit",
            "train.optim=adamw_torch",
        ),
        ("bitsandbytes", "qlora", [*answers, "--quantization", "nf4"], "--quantization nf4", "leave it out"),
        ("matplotlib", "report", ["demo", "--out", "d"], "the report's figures", "end before it: --until start"),
        ("matplotlib", "report", ["report", "r", "--out", "p.html"], "a page with figures", "write a table, as --out"),
        (
            "av",
            "video",
            [*demo, f"data.train={rows}"],
            f"{rows} names video files",
            "give each video as a list of frames",
        ),
        ("deepspeed", "deepspeed", [*demo, "--launch", "zero3"], "--launch zero3", "--launch fsdp2, which needs"),
        ("wandb", "track", [*demo, "train.report_to=[wandb]"], "train.report_to=wandb", "train.report_to=[]"),
    ]
    commands = [arguments for _, _, arguments, _, _ in asked]
    code = (
        "import json, sys\nfrom mmpref.cli.main import main\n"
        f"for arguments in json.loads({json.dumps(json.dumps(commands))}):\n    assert main(arguments) == 2\n"
        "print([name for name in ('torch', 'transformers') if name in sys.modules])\n"
        "from mmpref.doctor.needs import unmet\nfrom mmpref.recipe.loading import load_recipe\n"
        f"print([*unmet(load_recipe('demo_uni_dpo', {demo[2:]!r}))])\n"
    )
    done = command(python=poor, code=code)
    assert done.stdout == "[]\n[]\n", done.stderr
    for line, (library, extra, _, begins, otherwise) in zip(done.stderr.splitlines(), asked, strict=True):
        assert line.startswith(f"mmpref: {begins}"), line
        assert f"needs {library}, which is not installed: pip install 'mmpref[{extra}]', or {otherwise}" in line


def test_the_other_way_that_a_refusal_names_needs_no_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(fake(tmp_path, "bitsandbytes", "0.43.1")))
    asked = ["data.train=p.jsonl"]
    (found,) = unmet(load_recipe("qwen2_5_vl_3b_uni_dpo_qlora", [*asked, "train.optim=adamw_torch"]))
    assert "adapter.kind=qlora needs bitsandbytes, and 0.43.1 is older than 0.50: pip install 'mmpref[qlora]'" in found
    (found,) = unmet(load_recipe("qwen2_5_vl_3b_uni_dpo_qlora", asked))
    assert found.startswith("adapter.kind=qlora with train.optim=adamw_8bit needs bitsandbytes, ")
    assert found.endswith(", or adapter.kind=lora train.optim=adamw_torch")
    both = [*asked, "adapter.kind=lora", "train.optim=adamw_torch", "train.report_to=[]"]
    assert [*unmet(load_recipe("qwen2_5_vl_3b_uni_dpo_qlora", both))] == []
    assert [*unmet(load_recipe("qwen2_5_vl_3b_uni_dpo_lora", [*asked, "train.optim=adamw_torch_8bit"]))] == []


@pytest.fixture
def gpu_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine whose driver names a GPU, and a torch for the CPU alone."""
    (tmp_path / "root" / "proc" / "driver" / "nvidia" / "gpus" / "0000:01:00.0").mkdir(parents=True)
    torch = tmp_path / "packages" / "torch"
    torch.mkdir(parents=True)
    (torch / "__init__.py").write_text("raise RuntimeError('torch was loaded')\n")
    (torch / "version.py").write_text(
        "__version__ = '2.13.0+cpu'\ncuda: Optional[str] = None\nhip: Optional[str] = None\n"
    )
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    return tmp_path


def test_a_torch_for_the_cpu_beside_a_gpu_is_refused_unless_the_cpu_is_asked_for(gpu_here: Path) -> None:
    demo = ["train", "demo_uni_dpo", "data.train=p.jsonl", "model.path=m", "train.use_cpu=false"]
    asked = [demo, ["merge", "run", "--out", "o"],
             ["eval", "--model", "m", "--benchmark", "pope", "--questions", "q", "--out", "o"],
             ["sample", "generate", "--model", "m", "--prompts", "p", "--out", "o"],
             ["sample", "score", "c", "--scorer", "mine=reward", "--out", "o"]]  # fmt: skip
    code = (
        "import os, pathlib, sys\nfrom mmpref import installation\n"
        f"installation._ROOT = pathlib.Path({str(gpu_here / 'root')!r})\n"
        "from mmpref.cli.main import main\n"
        f"for arguments in {asked!r}:\n    assert main(arguments) == 2\n"
        "print('torch' in sys.modules)\n"
        "from mmpref.doctor.needs import unmet\nfrom mmpref.recipe.loading import load_recipe\n"
        f"print([*unmet(load_recipe('demo_uni_dpo', {[*demo[2:4], 'train.use_cpu=true']!r}))])\n"
        "os.environ['CUDA_VISIBLE_DEVICES'] = ''\n"
        f"print([*unmet(load_recipe('demo_uni_dpo', {demo[2:]!r}))])\n"
    )
    done = command(before=gpu_here / "packages", code=code)
    assert done.stdout == "False\n[]\n[]\n", done.stderr
    lines = done.stderr.splitlines()
    begins = (
        "mmpref: this machine has an NVIDIA GPU, and torch 2.13.0+cpu was built for the CPU alone: "
        "pip install --force-reinstall 'torch==2.13.0'"
    )
    ends = ["train.use_cpu=true to train on the CPU", "--device cpu to use the CPU"]
    ends += ["set CUDA_VISIBLE_DEVICES= (to nothing) to use the CPU"] * 3
    assert [line.startswith(begins) for line in lines] == [True] * 5
    assert [line.rpartition(", or ")[2] for line in lines] == ends


@pytest.mark.parametrize(
    ("version", "cuda", "hip", "is_for_cpu"),
    [
        ("2.13.0", "'12.8'", "None", False),
        ("2.11.0+rocm7", "None", "'7.0.1'", False),
        ("2.13.0+cpu", "None", "None", True),
    ],
)
def test_the_build_of_torch_is_read_from_its_file(
    version: str, cuda: str, hip: str, is_for_cpu: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "torch"
    package.mkdir()
    (package / "__init__.py").touch()
    spec = type("Spec", (), {"origin": str(package / "__init__.py")})
    monkeypatch.setattr(installation, "find_spec", lambda name: spec)
    assert installation.torch_build() is None
    (package / "version.py").write_text("from elsewhere import *\n")
    assert installation.torch_build() is None
    lines = [
        f"__version__ = '{version}'",
        "debug = False",
        f"cuda: Optional[str] = {cuda}",
        f"hip: Optional[str] = {hip}",
    ]
    (package / "version.py").write_text("\n".join(lines))
    assert installation.torch_build() == TorchBuild(version=version, is_for_cpu=is_for_cpu)


def test_the_build_of_the_torch_that_is_here_is_what_torch_says() -> None:
    import torch

    found = installation.torch_build()
    assert found is not None
    assert (found.version, found.is_for_cpu) == (
        torch.__version__,
        torch.version.cuda is None and torch.version.hip is None,
    )


def test_a_gpu_is_what_the_driver_names_and_nothing_hides(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(installation, "_ROOT", tmp_path)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert not installation.has_nvidia_gpu()
    (tmp_path / "dev").mkdir()
    (tmp_path / "dev" / "nvidiactl").touch()
    assert not installation.has_nvidia_gpu()
    (tmp_path / "dev" / "nvidia0").touch()
    assert installation.has_nvidia_gpu()
    for hidden, found in {"": False, "-1": False, "0": True}.items():
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", hidden)
        assert installation.has_nvidia_gpu() is found


def test_a_library_without_metadata_is_taken_for_what_it_is_called(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "some_library").mkdir()
    monkeypatch.syspath_prepend(str(tmp_path))
    assert Requirement(name="some_library", floor="2").fault() == "is not installed", "a folder of its name"
    (tmp_path / "some_library" / "__init__.py").touch()
    importlib.invalidate_caches()
    assert Requirement(name="some_library", floor="2").fault() is None


def test_a_python_that_is_too_old_is_told_in_one_line(tmp_path: Path) -> None:
    ast.parse((ROOT / "mmpref" / "__init__.py").read_text(encoding="utf-8"), feature_version=(3, 7))
    (tmp_path / "sitecustomize.py").write_text("import sys\nsys.version_info = (3, 9, 2, 'final', 0)\n")
    done = command("--version", before=tmp_path)
    said = f"mmpref needs Python 3.11 or newer; this is 3.9 ({sys.executable})"
    assert (done.returncode, done.stdout, done.stderr) == (2, "", f"mmpref: {said}\n")
    imported = command(before=tmp_path, code="import mmpref")
    assert imported.stderr.splitlines()[-1] == f"ImportError: {said}"


def test_the_oldest_python_is_said_in_one_way() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    (floor,) = re.findall(r">=(\d+\.\d+)", project["requires-python"])
    for file in ("mmpref/__init__.py", "scripts/setup.sh", "README.md"):
        assert f"Python {floor} or newer" in (ROOT / file).read_text(encoding="utf-8"), file


def test_every_extra_that_is_named_anywhere_exists() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    files = [ROOT / "README.md", *(ROOT / "mmpref").rglob("*.py"), *(ROOT / "docs").rglob("*.md")]
    files += [*(ROOT / "data_cards").glob("*.md"), ROOT / "scripts" / "setup.sh"]
    named: dict[str, str] = {}
    for file in files:
        for listed in re.findall(r"mmpref\[([a-z, ]+)\]", file.read_text(encoding="utf-8")):
            named |= {name.strip(): file.name for name in listed.split(",")}
    assert {"qlora", "report", "tables", "video"} <= named.keys()
    assert {name: file for name, file in named.items() if name not in extras} == {}
    everything = {name for line in extras["all"] for name in re.findall(r"[a-z]+", line.partition("[")[2])}
    assert everything == extras.keys() - {"all", "test", "docs", "dev"}


def test_a_library_that_is_not_known_is_asked_for_by_its_name() -> None:
    with pytest.raises(
        ConfigError, match=r"^x needs no-such-library, which is not installed: pip install 'no-such-library'"
    ):
        installation.refuse_without("no-such-library", "x")
