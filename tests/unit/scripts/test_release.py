"""scripts/release.py in a repository of its own."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[3] / "scripts" / "release.py"
PROJECT = """
[build-system]
requires = ["setuptools>=77"]
build-backend = "setuptools.build_meta"

[project]
name = "mmpref"
description = "A package"
readme = "README.md"
license = "Apache-2.0"
requires-python = ">=3.11"
dynamic = ["version"]

[tool.setuptools]
packages = ["mmpref"]

[tool.setuptools.dynamic]
version = { attr = "mmpref.version.__version__" }
"""
CHANGES = "# Changelog\n\n## Unreleased\n\n- A new loss.\n- A fix.\n\n## 0.1.0 (2026-01-02)\n\n- The first.\n"
NAMED = {f"GIT_{role}_{what}": text for role in ("AUTHOR", "COMMITTER") for what, text in
         (("NAME", "Someone"), ("EMAIL", "someone@example.org"))}  # fmt: skip


def git(repository: Path, *arguments: str) -> str:
    env = {**os.environ, **NAMED, "GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_SYSTEM": os.devnull}
    done = subprocess.run(["git", *arguments], cwd=repository, env=env, capture_output=True, text=True, check=True)
    return done.stdout.strip()


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    (tmp_path / "mmpref").mkdir()
    (tmp_path / "mmpref" / "version.py").write_text('"""The version."""\n\n__version__ = "0.1.0"\n')
    (tmp_path / "CITATION.cff").write_text("cff-version: 1.2.0\nversion: 0.1.0\n")
    (tmp_path / "CHANGELOG.md").write_text(CHANGES)
    (tmp_path / "pyproject.toml").write_text(PROJECT)
    (tmp_path / "MANIFEST.in").write_text("include *.md *.cff\n")
    (tmp_path / "README.md").write_text("# A package\n")
    (tmp_path / ".gitignore").write_text("dist/\n")
    git(tmp_path, "init", "--quiet")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "--quiet", "-m", "All")
    return tmp_path


def release(repository: Path, *arguments: str, check: str = "true") -> subprocess.CompletedProcess[str]:
    env = {**os.environ, **NAMED, "GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_SYSTEM": os.devnull}
    command = [sys.executable, str(SCRIPT), *arguments, "--root", str(repository), "--check", check]
    return subprocess.run(command, env=env, capture_output=True, text=True, check=False)


def test_a_release_sets_the_version_dates_its_notes_and_is_tagged_with_them(repository: Path) -> None:
    done = release(repository, "0.2.0")
    assert done.returncode == 0, done.stderr
    assert (repository / "mmpref" / "version.py").read_text() == '"""The version."""\n\n__version__ = "0.2.0"\n'
    assert (repository / "CITATION.cff").read_text() == "cff-version: 1.2.0\nversion: 0.2.0\n"
    changes = (repository / "CHANGELOG.md").read_text()
    head, _, rest = changes.partition("## 0.2.0 (")
    assert head == "# Changelog\n\n## Unreleased\n\n"
    assert rest[10:] == ")\n\n- A new loss.\n- A fix.\n\n## 0.1.0 (2026-01-02)\n\n- The first.\n"
    assert git(repository, "status", "--porcelain") == ""
    assert git(repository, "log", "-1", "--format=%s") == "Release 0.2.0"
    assert git(repository, "rev-list", "-1", "v0.2.0") == git(repository, "rev-parse", "HEAD")
    assert git(repository, "tag", "--list", "--format=%(contents)", "v0.2.0") == (
        "mmpref 0.2.0\n\n- A new loss.\n- A fix."
    )
    made = {path.name: path.read_bytes() for path in (repository / "dist").iterdir()}
    assert set(made) == {"mmpref-0.2.0-py3-none-any.whl", "mmpref-0.2.0.tar.gz"}
    for name, data in made.items():
        assert f"{hashlib.sha256(data).hexdigest()}  {len(data):,} bytes  {repository / 'dist' / name}\n" in done.stdout
    assert "  git push origin HEAD v0.2.0\n  python -m twine upload " in done.stdout
    again = release(repository, "0.3.0")
    assert again.returncode == 1
    assert "is empty" in again.stderr


def test_a_dry_run_shows_the_notes_and_changes_nothing(repository: Path) -> None:
    before = git(repository, "rev-parse", "HEAD")
    done = release(repository, "0.2.0", "--dry-run")
    assert done.returncode == 0, done.stderr
    assert "- A new loss.\n- A fix.\n" in done.stdout
    assert "The first" not in done.stdout
    assert git(repository, "status", "--porcelain") == git(repository, "tag") == ""
    assert git(repository, "rev-parse", "HEAD") == before
    assert "mmpref-0.2.0-py3-none-any.whl" in done.stdout
    assert not (repository / "dist").exists()


def test_what_the_wheel_lacks_ends_the_release_before_anything_is_written(repository: Path) -> None:
    (repository / "mmpref" / "recipe.yaml").write_text("model: {}\n")
    git(repository, "add", ".")
    git(repository, "commit", "--quiet", "-m", "A recipe that pyproject.toml does not name")
    done = release(repository, "0.2.0")
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert "the wheel lacks mmpref/recipe.yaml" in done.stderr
    assert git(repository, "tag") == git(repository, "diff", "HEAD") == ""


@pytest.mark.parametrize(
    ("version", "check", "says"),
    [
        ("0.1.0", "true", "does not follow 0.1.0"),
        ("0.0.9", "true", "does not follow 0.1.0"),
        ("1.0", "true", "three numbers"),
        ("0.2.0", "false", "the checks failed"),
        ("0.2.0", "touch left", "not clean"),
    ],
)
def test_a_release_is_refused_in_one_line_and_nothing_is_written(
    repository: Path, version: str, check: str, says: str
) -> None:
    done = release(repository, version, check=check)
    assert done.returncode == 1
    assert says in done.stderr
    assert done.stderr.count("\n") == 1
    assert git(repository, "tag") == git(repository, "diff", "HEAD") == ""


def test_changes_that_are_not_committed_and_a_tag_that_exists_are_refused(repository: Path) -> None:
    git(repository, "tag", "v0.2.0")
    assert "exists already" in release(repository, "0.2.0").stderr
    (repository / "CHANGELOG.md").write_text("new")
    assert "not clean" in release(repository, "0.3.0").stderr


def test_the_first_release_has_the_version_that_the_tree_has(repository: Path) -> None:
    (repository / "CHANGELOG.md").write_text("# Changelog\n\n## 0.1.0 (unreleased)\n\n- All of it.\n")
    git(repository, "commit", "--quiet", "-am", "Not released yet")
    assert release(repository, "0.1.0").returncode == 0
    assert "## Unreleased\n\n## 0.1.0 (2" in (repository / "CHANGELOG.md").read_text()
