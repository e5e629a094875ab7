"""The shape of the tree: lengths of files, names, the map in the README, the shipped recipes."""

from __future__ import annotations

import ast
import re
import statistics
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.architecture.test_imports import MODULES, PACKAGE, ROOT, part

NO_SUCH_NAMES = {"utils", "util", "common", "helpers", "helper", "misc", "base"}
MAX_LINES = 600
MEDIAN_LINES = 200
MAX_PARAMETERS = 7
MORE_PARAMETERS = 0.005
"""Share of functions that may have more."""


def test_files_are_short_enough_to_read() -> None:
    files = [*MODULES, *ROOT.glob("scripts/**/*.py"), *ROOT.glob("tests/**/*.py")]
    long = {
        str(path.relative_to(ROOT)): lines
        for path in files
        if (lines := len(path.read_text().splitlines())) > MAX_LINES
    }
    assert long == {}


def test_half_of_the_files_are_short() -> None:
    assert statistics.median(len(path.read_text(encoding="utf-8").splitlines()) for path in MODULES) < MEDIAN_LINES


def functions() -> Iterator[tuple[str, ast.FunctionDef | ast.AsyncFunctionDef]]:
    """Every function and method of mmpref with its place; those of the command line are apart: their parameters are
    the options of a command."""
    for path in MODULES:
        if part(path) == "cli":
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                yield f"{path.relative_to(ROOT)}:{node.lineno} {node.name}", node


def num_parameters(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    names = [one.arg for one in (*function.args.posonlyargs, *function.args.args, *function.args.kwonlyargs)]
    return len([name for name in names if name not in ("self", "cls")])


def test_next_to_no_function_has_eight_parameters() -> None:
    """What belongs together is an object; the rare exception is a signature that another library asks for."""
    counts = {place: num_parameters(function) for place, function in functions()}
    many = {place: count for place, count in counts.items() if count > MAX_PARAMETERS}
    assert len(many) < MORE_PARAMETERS * len(counts), many


def test_public_functions_and_classes_have_docstrings() -> None:
    """Those of a module; what a method does that only fulfils a protocol is said at the protocol."""
    missing = []
    for path in MODULES:
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            named = isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_")
            if named and ast.get_docstring(node) is None and "overload" not in ast.unparse(node):
                missing.append(f"{path.relative_to(ROOT)}:{node.lineno}")
    assert missing == []


def test_no_file_is_named_for_nothing() -> None:
    names = {name: path for path in MODULES for name in (*path.relative_to(PACKAGE).parts[:-1], path.stem)}
    assert not NO_SUCH_NAMES & names.keys()


def readme_map() -> dict[str, str]:
    """Entry -> what the map in README.md says of it: the fenced block whose first line begins with ``mmpref/``."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    block = re.search(r"```[a-z]*\nmmpref/[ \t]*.*\n(?P<body>(?:.*\n)*?)```", readme)
    assert block, "README.md needs a map of the packages: a fenced block whose first line is `mmpref/`"
    entries: dict[str, str] = {}
    current = ""
    for line in block["body"].splitlines():
        if found := re.match(r"( {0,2})(\S+)(.*)", line):
            current = ("mmpref/" if found[1] else "") + found[2]
            entries[current] = found[3]
        else:
            entries[current] += line
    return entries


def test_the_map_in_the_readme_is_the_tree() -> None:
    entries = readme_map()
    packages = {f"mmpref/{part(path)}/" for path in MODULES if path.parent != PACKAGE}
    folders = {f"mmpref/{path.name}/" for path in (PACKAGE / "recipes",) if path.is_dir()}
    files = {f"mmpref/{path.name}" for path in MODULES if path.parent == PACKAGE and not path.stem.startswith("__")}
    assert {name for name in entries if name.startswith("mmpref/")} == packages | folders | files
    around = {Path(name).parts[0] + "/" for name in own_names() if "/" in name and name[0] != "."}
    assert {name for name in entries if not name.startswith("mmpref/")} == around - {"mmpref/"}


def test_every_file_that_the_map_names_exists() -> None:
    for name, text in readme_map().items():
        for file in re.findall(r"[\w/]+\.(?:py|sh|txt)\b", text):
            assert (ROOT / name / file).exists(), f"{name}{file}"


RECIPES = sorted(PACKAGE.glob("recipes/**/*.yaml"))


def test_there_are_recipes() -> None:
    assert RECIPES


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_every_recipe_parses_and_its_loss_can_be_built(path: Path) -> None:
    from mmpref.losses import build_objective
    from mmpref.recipe.loading import load_recipe

    recipe = load_recipe(path)
    assert load_recipe(path.stem) == recipe, "a shipped recipe is found by its name"
    build_objective(recipe.loss.as_mapping())


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_every_recipe_begins_with_its_command_its_memory_and_its_result(path: Path) -> None:
    head = "\n".join(
        line for line in path.read_text(encoding="utf-8").split("\n\n")[0].splitlines() if line.startswith("#")
    )
    assert f"mmpref train {path.stem}" in head or "mmpref demo" in head
    assert "# Memory:" in head
    assert "# Result:" in head


def own_names() -> list[str]:
    """The project's files, by name from the root: what git knows or would add; without git, all that is not hidden."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if listed.returncode == 0 and listed.stdout:
        return [name for name in listed.stdout.split("\0") if name and (ROOT / name).is_file()]
    files = [path.relative_to(ROOT) for path in ROOT.rglob("*") if path.is_file()]
    return [file.as_posix() for file in files if not any(name.startswith(".") for name in file.parts)]


def test_no_path_of_one_machine_is_in_the_tree() -> None:
    pattern = re.compile(rb"(?<![\w.~$}/*-])/(?:work|root|home|opt|Users|mnt)/[\w.]")
    found = []
    for name in own_names():
        data = (ROOT / name).read_bytes()
        if b"\0" not in data[:4096] and (hit := pattern.search(data)):
            line = data.count(b"\n", 0, hit.start()) + 1
            found.append(f"{name}:{line}")
    assert found == []
