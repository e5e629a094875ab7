"""Files that nothing here runs: Dockerfile, dev container, workflows, forms. What they name exists and agrees."""

from __future__ import annotations

import json
import re
import shlex
import tomllib
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
if not (ROOT / "Dockerfile").exists():
    pytest.skip("the source distribution has none of these files", allow_module_level=True)
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
EXTRAS = PROJECT["optional-dependencies"]
DOCKERFILE = (ROOT / "Dockerfile").read_text(encoding="utf-8")
FORMS = sorted(path for path in (ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.yml") if path.name != "config.yml")


def argument(name: str) -> str:
    (found,) = re.findall(rf"^ARG {name}=(.+)$", DOCKERFILE, re.MULTILINE)
    return found


def copied() -> list[str]:
    """What the Dockerfile takes from the tree."""
    text = DOCKERFILE.replace("${CONSTRAINTS}", argument("CONSTRAINTS"))
    lines = re.findall(r"^COPY (?!--from)(.+)$", text, re.MULTILINE)
    return [name for line in lines for name in line.split()[:-1]]


def test_the_image_copies_files_that_exist_and_that_are_sent_to_the_builder() -> None:
    assert {"pyproject.toml", "mmpref", "docs", "data_cards", "scripts/constraints.txt"} <= set(copied())
    assert [name for name in copied() if not (ROOT / name).exists()] == []
    sent = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    assert [name for name in copied() if f"!{name}" not in sent] == []


def test_the_image_copies_all_that_the_wheel_is_made_of() -> None:
    table = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]["data-files"]
    sources = [pattern for patterns in table.values() for pattern in patterns]
    assert [name for name in sources if not any(name.startswith(f"{folder}/") for folder in copied())] == []


def test_the_image_has_extras_that_exist_a_pinned_base_and_no_root() -> None:
    assert set(argument("EXTRAS").split(",")) <= EXTRAS.keys()
    base = re.fullmatch(r"nvidia/cuda:(\d+)\.\d+\.\d+-base-ubuntu(\d+\.\d+)", argument("BASE"))
    assert base, "a base with its whole version"
    python = {"22.04": "3.10", "24.04": "3.12"}[base[2]]
    assert f"Programming Language :: Python :: {python}" in PROJECT["classifiers"]
    lines = DOCKERFILE.splitlines()
    assert lines.index("USER mmpref") < lines.index('ENTRYPOINT ["mmpref"]')
    assert f"Ubuntu {base[2]} has Python {python}" in DOCKERFILE


def test_the_extras_are_the_rows_of_the_page() -> None:
    page = (ROOT / "docs" / "installing.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(\w+)` \|", page, re.MULTILINE)
    assert set(rows) == EXTRAS.keys() - {"test", "docs"}


def test_the_dev_container_runs_a_script_with_options_that_exist() -> None:
    container = json.loads((ROOT / ".devcontainer" / "devcontainer.json").read_text(encoding="utf-8"))
    (python,) = re.findall(r"/python:(\d+\.\d+)-", container["image"])
    assert f"Programming Language :: Python :: {python}" in PROJECT["classifiers"]
    shell, script, *options = shlex.split(container["postCreateCommand"])
    assert (shell, (ROOT / script).is_file()) == ("bash", True)
    known = (ROOT / "scripts" / "check.py").read_text(encoding="utf-8")
    assert [word for word in options if word.startswith("--") and f'"{word}"' not in known] == []


@pytest.mark.parametrize("path", FORMS, ids=lambda path: path.stem)
def test_a_form_has_what_the_forge_asks_for(path: Path) -> None:
    form = yaml.safe_load(path.read_text(encoding="utf-8"))
    assert {"name", "description", "body"} <= form.keys()
    fields = [field for field in form["body"] if field["type"] != "markdown"]
    assert {field["type"] for field in fields} <= {"textarea", "input", "dropdown", "checkboxes"}
    names = [field["id"] for field in fields]
    assert len(set(names)) == len(names) > 0
    assert all(field["attributes"]["label"] for field in fields)
    assert any(field.get("validations", {}).get("required") for field in fields)


def test_the_form_for_faults_asks_for_doctor() -> None:
    form = yaml.safe_load((ROOT / ".github" / "ISSUE_TEMPLATE" / "bug.yml").read_text(encoding="utf-8"))
    (doctor,) = (field for field in form["body"] if field["id"] == "doctor")
    assert doctor["validations"]["required"] is True
    assert "mmpref doctor" in doctor["attributes"]["label"]


@pytest.mark.parametrize("name", ["SECURITY.md", "SUPPORT.md", "CONTRIBUTING.md"])
def test_links_of_the_pages_at_the_top_lead_somewhere(name: str) -> None:
    text = (ROOT / name).read_text(encoding="utf-8")
    links = [link for link in re.findall(r"\]\(([^)#]+)", text) if "://" not in link]
    assert [link for link in links if not (ROOT / link).exists()] == []
    assert "@" not in text, "no address of mail that nobody reads"


@pytest.mark.parametrize("path", sorted((ROOT / ".github" / "workflows").glob("*.yml")), ids=lambda path: path.stem)
def test_a_workflow_runs_scripts_that_exist_on_pythons_that_are_supported(path: Path) -> None:
    workflow = yaml.safe_load(path.read_text(encoding="utf-8"))
    assert workflow["permissions"] == {"contents": "read"}
    for job in workflow["jobs"].values():
        steps = [step for step in job["steps"] if "run" in step]
        assert steps or "needs" in job  # a job that hands on what another made
        assert job["timeout-minutes"] > 0
        for step in steps:
            named = re.findall(r"(?:\.ci/run|scripts/[\w/]+\.(?:sh|py))", step["run"])
            assert named or "pip " in step["run"]
            assert [name for name in named if not (ROOT / name).is_file()] == []
    pythons = {str(version) for version in re.findall(r'"(3\.\d+)"', path.read_text(encoding="utf-8"))}
    assert {f"Programming Language :: Python :: {version}" for version in pythons} <= {*PROJECT["classifiers"]}
