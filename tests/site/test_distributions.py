"""The wheel and the source distribution: what is in them, and that mmpref runs from them."""

from __future__ import annotations

import re
import subprocess
import sys
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.installed_wheel import ROOT, Installed, distributions

pytestmark = pytest.mark.site


@pytest.fixture(scope="module")
def made(installed: Installed) -> Any:
    return distributions.Distributions(wheel=installed.wheel, sdist=installed.sdist)


def test_both_have_every_file_that_they_shall_have(made: Any) -> None:
    names = distributions.own_files(ROOT)
    assert distributions.faults(made, ROOT, names) == []
    wheel = distributions.in_wheel(made.wheel)
    for name in ("mmpref/recipes/demo_dpo.yaml", "mmpref/report/page.css", "mmpref/data/commands/gallery.js"):
        assert name in wheel
    for name in ("data_cards/rlhf_v.md", "accelerate/zero3.yaml", "docs/losses.md", "docs/tasks/move_here.md"):
        assert f"share/mmpref/{name}" in wheel


def test_what_is_new_in_the_tree_and_in_none_of_both_is_named(made: Any, tmp_path: Path) -> None:
    names = [*distributions.own_files(ROOT), "mmpref/recipes/new.yml", "data_cards/new.md", "tests/new.py"]
    assert distributions.faults(made, ROOT, names) == [
        "the wheel lacks mmpref/recipes/new.yml",
        "the wheel lacks share/mmpref/data_cards/new.md",
        *(f"the source distribution lacks {name}" for name in sorted(names[-3:])),
    ]
    changed = tmp_path / made.wheel.name
    with zipfile.ZipFile(made.wheel) as old, zipfile.ZipFile(changed, "w") as new:
        for name in old.namelist():
            text = old.read(name).replace(b"Version: 0", b"Version: 9") if name.endswith("METADATA") else old.read(name)
            if not name.endswith("demo_dpo.yaml"):
                new.writestr(name, text if not name.endswith("page.css") else b"")
    found = distributions.faults(replace(made, wheel=changed), ROOT, distributions.own_files(ROOT))
    assert found[0] == "the wheel lacks mmpref/recipes/demo_dpo.yaml"
    assert "mmpref/report/page.css in the wheel is not the tree's mmpref/report/page.css" in found
    assert any(line.startswith("the metadata says Version: 9") for line in found)


def test_the_wheel_of_the_source_distribution_is_the_wheel_of_the_tree(installed: Installed, tmp_path: Path) -> None:
    """``build`` makes the first from the unpacked sdist; this one is made from the tree itself."""
    source = installed.wheel.parent.parent / "source"
    distributions.build(source, tmp_path, "--wheel")
    (direct,) = tmp_path.glob("*.whl")
    assert direct.name == installed.wheel.name
    assert distributions.in_wheel(direct) == distributions.in_wheel(installed.wheel)


def test_the_requirements_of_the_installed_package_are_those_of_the_tree(installed: Installed, tmp_path: Path) -> None:
    """The one reads pyproject.toml, the other the metadata of the wheel: both refuse the same."""
    code = "from mmpref.installation import core, of_extras; print(core()); print(sorted(of_extras().items()))"
    tree = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert installed.run("python", "-c", code, cwd=tmp_path).stdout == tree.stdout
    assert "Requirement(name='bitsandbytes', floor='0.50', extra='qlora')" in tree.stdout


def test_the_version_is_the_one_of_version_py_everywhere(installed: Installed, tmp_path: Path) -> None:
    (version,) = re.findall(r'^__version__ = "(.+)"$', (ROOT / "mmpref" / "version.py").read_text(), re.MULTILINE)
    assert re.findall(r"^version: (.+)$", (ROOT / "CITATION.cff").read_text(), re.MULTILINE) == [version]
    assert installed.wheel.name.split("-")[1] == version
    assert installed.run("mmpref", "--version", cwd=tmp_path).stdout == f"mmpref {version}\n"


def test_the_installed_command_finds_cards_profiles_and_recipes(installed: Installed, tmp_path: Path) -> None:
    where = installed.run("python", "-c", "import mmpref; print(mmpref.__file__)", cwd=tmp_path)
    assert Path(where.stdout.strip()).is_relative_to(installed.folder)
    cards = installed.run("mmpref", "data", "list", cwd=tmp_path).stdout
    assert [path.stem for path in ROOT.glob("data_cards/*.md") if path.stem not in (*cards.split(), "README")] == []
    shown = installed.run("mmpref", "recipes", "demo_uni_dpo", cwd=tmp_path).stdout
    assert shown.strip() == (ROOT / "mmpref" / "recipes" / "demo_uni_dpo.yaml").read_text(encoding="utf-8").strip()
    code = "from mmpref.training.parallel.profiles import read_profile; print(read_profile('zero3')[1])"
    assert "zero3" in installed.run("python", "-c", code, cwd=tmp_path).stdout


@pytest.mark.slow  # the quick start, whose commands are followed, runs it as well
def test_the_installed_command_runs_the_demo(installed: Installed, tmp_path: Path) -> None:
    demo = installed.run("mmpref", "demo", "--scale", "0.02", "--out", "demo", cwd=tmp_path)
    assert demo.returncode == 0, demo.stderr[-3000:]
    assert "<svg" in (tmp_path / "demo" / "report.html").read_text(encoding="utf-8")
