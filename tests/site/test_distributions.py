"""The wheel and the source distribution: what is in them, and that mmpref runs from them."""

from __future__ import annotations

import re
import tarfile
import zipfile
from email.parser import Parser
from pathlib import Path, PurePosixPath

import pytest

from tests.installed_wheel import ROOT, Installed, build, own_files

pytestmark = pytest.mark.site

SHARED = {
    "data_cards/": ("data_cards/", {".md"}),
    "scripts/accelerate/": ("accelerate/", {".yaml"}),
    "docs/": ("docs/", {".md", ".svg", ".png", ".ipynb"}),
}
"""Folder of the repository -> its place below share/mmpref, and the endings that are installed."""
NOT_IN_SDIST = (".", "Dockerfile")
"""How names begin that are of no use outside the repository."""


def in_wheel(wheel: Path) -> dict[str, bytes]:
    """Name -> content; what belongs below sys.prefix is called share/..."""
    with zipfile.ZipFile(wheel) as archive:
        return {re.sub(r"^[^/]+\.data/data/", "", name): archive.read(name) for name in archive.namelist()}


def expected_in_wheel() -> dict[str, Path]:
    """Every file of the package, and the files beside it that an installed mmpref reads or names."""
    found = {name: ROOT / name for name in own_files() if name.startswith("mmpref/") and not is_note(name)}
    for name in own_files():
        for folder, (place, endings) in SHARED.items():
            if name.startswith(folder) and PurePosixPath(name).suffix in endings:
                found[f"share/mmpref/{place}{name.removeprefix(folder)}"] = ROOT / name
    return found


def is_note(name: str) -> bool:
    return PurePosixPath(name).name.startswith(".")


def test_the_wheel_has_every_file_of_the_package_and_every_card_profile_and_page(installed: Installed) -> None:
    found = {name: content for name, content in in_wheel(installed.wheel).items() if ".dist-info/" not in name}
    expected = expected_in_wheel()
    assert set(found) == set(expected)
    assert [name for name, file in expected.items() if found[name] != file.read_bytes()] == []


def test_the_source_distribution_has_what_builds_tests_and_documents_it(installed: Installed) -> None:
    with tarfile.open(installed.sdist) as archive:
        found = {member.name.partition("/")[2] for member in archive.getmembers() if member.isfile()}
    made = {name for name in found if ".egg-info/" in name} | {"PKG-INFO", "setup.cfg"}
    assert found - made == {name for name in own_files() if not name.startswith(NOT_IN_SDIST)}


def test_the_wheel_of_the_source_distribution_is_the_wheel_of_the_tree(installed: Installed, tmp_path: Path) -> None:
    """``build`` makes the first from the unpacked sdist; this one is made from the tree itself."""
    source = installed.wheel.parent.parent / "source"
    build(source, tmp_path, "--wheel")
    (direct,) = tmp_path.glob("*.whl")
    assert direct.name == installed.wheel.name
    assert in_wheel(direct) == in_wheel(installed.wheel)


def test_the_metadata_says_what_an_index_asks_for(installed: Installed) -> None:
    (content,) = (text for name, text in in_wheel(installed.wheel).items() if name.endswith(".dist-info/METADATA"))
    said = Parser().parsestr(content.decode("utf-8"))
    assert said["Name"] == "mmpref"
    assert said["License-Expression"] == "Apache-2.0"
    assert said["Requires-Python"] == ">=3.11"
    assert said["Description-Content-Type"] == "text/markdown"
    assert said.get_payload() == (ROOT / "README.md").read_text(encoding="utf-8")
    assert len(said["Summary"]) < 512
    assert "\n" not in said["Summary"]


def test_the_version_is_the_one_of_version_py_everywhere(installed: Installed, tmp_path: Path) -> None:
    (version,) = re.findall(r'^__version__ = "(.+)"$', (ROOT / "mmpref" / "version.py").read_text(), re.MULTILINE)
    assert re.findall(r"^version: (.+)$", (ROOT / "CITATION.cff").read_text(), re.MULTILINE) == [version]
    assert installed.wheel.name.split("-")[1] == version
    assert installed.run("mmpref", "--version", cwd=tmp_path).stdout == f"mmpref {version}\n"


def test_the_installed_command_finds_cards_profiles_and_recipes_and_runs_the_demo(
    installed: Installed, tmp_path: Path
) -> None:
    where = installed.run("python", "-c", "import mmpref; print(mmpref.__file__)", cwd=tmp_path)
    assert Path(where.stdout.strip()).is_relative_to(installed.folder)
    cards = installed.run("mmpref", "data", "list", cwd=tmp_path).stdout
    assert [path.stem for path in ROOT.glob("data_cards/*.md") if path.stem not in (*cards.split(), "README")] == []
    shown = installed.run("mmpref", "recipes", "demo_uni_dpo", cwd=tmp_path).stdout
    assert shown.strip() == (ROOT / "mmpref" / "recipes" / "demo_uni_dpo.yaml").read_text(encoding="utf-8").strip()
    code = "from mmpref.training.parallel.profiles import read_profile; print(read_profile('zero3')[1])"
    assert "zero3" in installed.run("python", "-c", code, cwd=tmp_path).stdout
    demo = installed.run("mmpref", "demo", "--scale", "0.02", "--out", "demo", cwd=tmp_path)
    assert demo.returncode == 0, demo.stderr[-3000:]
    assert "<svg" in (tmp_path / "demo" / "report.html").read_text(encoding="utf-8")
