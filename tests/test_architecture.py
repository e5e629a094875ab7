"""The shape of the house, as a test: who may import whom, one door per library, what loads without the extras.

The tables below are the rules. Imports inside functions count, and between rooms those under TYPE_CHECKING too; a
library's type that only stands in an annotation opens no door.
"""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "mmpref"
MODULES = sorted(PACKAGE.rglob("*.py"))

BASE = {"version", "errors", "records", "api_keys", "threads", "file_reading", "files", "file_hashes", "process"}
RECIPE = {"config", "left_over", "overrides", "recipe_files", "recipe_keys", "recipe_values", "yaml_text"}
RUN_FOLDER = {"run_content", "run_holding", "run_refusals", "rundir"}
SETTINGS = BASE | RECIPE | RUN_FOLDER
LOWER = SETTINGS | {"data", "processing", "losses", "models"}
MAY_IMPORT: dict[str, set[str]] = {
    "version": set(),
    "errors": set(),
    "process": {"errors"},
    "records": {"errors"},
    "api_keys": set(),
    "threads": set(),
    "file_reading": {"errors"},
    "files": {"errors", "api_keys", "file_reading"},
    "file_hashes": {"errors", "file_reading", "files"},
    "statistics": {"errors"},
    "yaml_text": {"errors", "file_reading"},
    "left_over": {"errors"},
    "overrides": {"errors", "yaml_text"},
    "recipe_files": {"errors", "file_reading", "yaml_text"},
    "recipe_keys": {"errors", "yaml_text"},
    "recipe_values": {"file_reading"},
    "config": BASE | (RECIPE - {"config"}),
    "run_content": set(),
    "run_holding": BASE | {"run_content"},
    "run_refusals": BASE | RECIPE | {"run_content", "run_holding"},
    "rundir": BASE | RECIPE | RUN_FOLDER - {"rundir"},
    "data": SETTINGS,
    "processing": BASE | RECIPE,
    "losses": {"errors"},
    "models": BASE | RECIPE | {"processing", "losses"},
    "training": LOWER,
    "evals": LOWER - {"losses"} | {"statistics"},
    "sampling": LOWER - {"losses"},
    # the code that made a number also makes its paired difference; none of it loads torch
    "report": SETTINGS | {"evals", "statistics"},
    "terminal": SETTINGS,
    "doctor": LOWER | {"training", "version"},
    "demo": LOWER | {"training", "evals", "sampling", "report", "terminal"},
    "cli_data": SETTINGS | {"data", "terminal"},
    "cli_eval": SETTINGS | {"evals", "terminal"},
    # a recipe with a start adapter resolves to what that adapter says
    "cli_recipe": SETTINGS | {"losses", "training"},
    "cli_arguments": {"errors", "file_reading"} | RECIPE,
    "cli": LOWER
    | {
        "training",
        "evals",
        "sampling",
        "report",
        "terminal",
        "demo",
        "doctor",
        "cli_data",
        "cli_eval",
        "cli_recipe",
        "cli_arguments",
    },
    "__main__": {"cli"},
    # the public names, loaded on first use
    "__init__": BASE | {"losses", "training", "evals", "models"},
}

# library -> the files that may import it
DOORS: dict[str, set[str]] = {
    "PIL": {"data/images.py", "demo/world.py", "processing/pixels.py"},  # the last makes blank ones
    "datasets": {"data/source.py"},
    "peft": {"models/adapter.py"},
    "bitsandbytes": {"models/quantize.py"},
    "matplotlib": {"report/figures.py"},
    "openpyxl": {"evals/tables.py"},
    "typer": {"cli.py", "cli_arguments.py", "cli_data.py", "cli_eval.py", "cli_recipe.py"},
    "pydantic": {"config.py", "recipe_keys.py", "recipe_values.py"},
    "yaml": {"config.py", "yaml_text.py"},
    "rich": {"terminal.py"},
    "trl": set(),
    "torchvision": set(),
    "deepspeed": {"training/parallel/zero.py"},
    "httpx2": {"evals/http_calls.py"},
    "jinja2": {"processing/render_process.py"},
    "filelock": {"files.py"},
    "psutil": {"process/signals.py"},
    "requests": set(),
    "urllib.request": set(),
}
AUTO_DOOR = {"models/load.py"}

EXTRAS = ("bitsandbytes", "matplotlib", "openpyxl", "trl", "torchvision", "deepspeed")
HEAVY = ("torch", "transformers", "datasets", "accelerate", "peft", "numpy", "PIL", "matplotlib")
NO_SUCH_NAMES = {"utils", "util", "common", "helpers", "helper", "misc", "base"}
MAX_LINES = 500


def place(path: Path) -> str:
    """The file's name below mmpref/, as the tables write it."""
    return path.relative_to(PACKAGE).as_posix()


def part(path: Path) -> str:
    """The room or top-level file that a module belongs to."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def nodes(tree: ast.AST, *, types: bool) -> Iterator[ast.AST]:
    """All nodes below a node; without ``types``, what stands under ``if TYPE_CHECKING:`` is left out."""
    for child in ast.iter_child_nodes(tree):
        if not types and isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
            continue
        yield child
        yield from nodes(child, types=types)


def imports(path: Path, *, types: bool = True) -> Iterator[tuple[str, ...]]:
    """Every module that a file imports, anywhere in it, as full dotted names; names of a from-import are added."""
    package = ("mmpref", *path.relative_to(PACKAGE).parts[:-1])
    for node in nodes(ast.parse(path.read_text(encoding="utf-8")), types=types):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield tuple(alias.name.split("."))
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            full = (*base, *(node.module.split(".") if node.module else ()))
            for alias in node.names:
                yield (*full, alias.name)
        elif isinstance(node, ast.Call):
            yield from _by_name(node)


def _by_name(call: ast.Call) -> Iterator[tuple[str, ...]]:
    """``import_module("x.y")`` with a text in the source."""
    name = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
    if name in {"import_module", "__import__"} and call.args and isinstance(call.args[0], ast.Constant):
        yield tuple(str(call.args[0].value).split("."))


def fresh_python(code: str, **env: str) -> str:
    """Run code in a new interpreter from the root of the repository; its standard output."""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False, env={**os.environ, **env}
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout.strip()


def test_every_part_has_a_rule() -> None:
    assert {part(path) for path in MODULES} <= set(MAY_IMPORT)


@pytest.mark.parametrize("path", MODULES, ids=place)
def test_imports_follow_the_arrows(path: Path) -> None:
    ours = {name[1] for name in imports(path) if name[0] == "mmpref" and len(name) > 1}
    ours = {name for name in ours if name in MAY_IMPORT}  # the rest are names of the package itself
    assert ours - {part(path)} <= MAY_IMPORT[part(path)]


def test_the_arrows_make_no_circle() -> None:
    done: set[str] = set()
    rules = {name: set(may) for name, may in MAY_IMPORT.items() if name != "__init__"}
    while ready := {name for name, may in rules.items() if name not in done and may <= done}:
        done |= ready
    assert done == set(rules)


@pytest.mark.parametrize("library", DOORS)
def test_each_library_has_one_door(library: str) -> None:
    wanted = tuple(library.split("."))
    users = {
        place(path) for path in MODULES if any(name[: len(wanted)] == wanted for name in imports(path, types=False))
    }
    assert users <= DOORS[library]


def test_auto_classes_are_used_in_one_file() -> None:
    users = set()
    for path in MODULES:
        by_import = any(name[0] == "transformers" and re.match(r"Auto[A-Z]", name[-1]) for name in imports(path))
        tree = ast.parse(path.read_text(encoding="utf-8"))
        by_attribute = any(
            isinstance(node, ast.Attribute) and re.match(r"Auto[A-Z]", node.attr) for node in ast.walk(tree)
        )
        if by_import or by_attribute:
            users.add(place(path))
    assert users <= AUTO_DOOR


def test_the_loss_core_imports_only_torch() -> None:
    allowed = {"torch", "mmpref", *sys.stdlib_module_names}
    for path in PACKAGE.glob("losses/**/*.py"):
        assert {name[0] for name in imports(path)} <= allowed, place(path)


WITHOUT_EXTRAS = """
import importlib, importlib.machinery, pkgutil, sys
blocked = set({blocked!r})

class Filter:
    # stands where the path finder stood, so that "is it installed?" is answered no as well
    @staticmethod
    def find_spec(name, path=None, target=None):
        if name.partition(".")[0] in blocked:
            return None
        return importlib.machinery.PathFinder.find_spec(name, path, target)

    find_distributions = importlib.machinery.PathFinder.find_distributions
    invalidate_caches = importlib.machinery.PathFinder.invalidate_caches

sys.meta_path[:] = [Filter if finder is importlib.machinery.PathFinder else finder for finder in sys.meta_path]
import mmpref
for module in pkgutil.walk_packages(mmpref.__path__, "mmpref."):
    if not module.name.endswith("__main__"):
        importlib.import_module(module.name)
print(sorted(blocked & set(sys.modules)))
"""


def test_every_module_imports_with_the_minimal_install() -> None:
    assert fresh_python(WITHOUT_EXTRAS.format(blocked=EXTRAS)) == "[]"


def loaded_after(code: str) -> set[str]:
    """Which of the heavy libraries a piece of code loads."""
    return set(fresh_python(f"{code}\nimport sys\nprint(*set({HEAVY!r}).intersection(sys.modules))").split())


def test_import_mmpref_loads_nothing_heavy() -> None:
    assert loaded_after("import mmpref") == set()


def test_help_loads_nothing_heavy() -> None:
    code = "import contextlib, io\nfrom mmpref.cli import main\n"
    for arguments in (["--help"], ["--version"], ["train", "--help"], ["demo", "--help"]):
        code += f"with contextlib.redirect_stdout(io.StringIO()):\n    assert main({arguments!r}) == 0\n"
    assert loaded_after(code) == set()


def test_help_needs_no_other_library_than_the_command_line_s_own() -> None:
    """What keeps ``mmpref --help`` under half a second of processor time (0.28 s measured), without timing it here."""
    code = "import contextlib, io, sys\nbefore = set(sys.modules)\nfrom mmpref.cli import main\n"
    code += "with contextlib.redirect_stdout(io.StringIO()):\n    main(['--help'])\n"
    code += "tops = {name.split('.')[0] for name in set(sys.modules) - before}\n"
    loaded = set(fresh_python(f"{code}print(*tops - set(sys.stdlib_module_names))").split())
    assert loaded <= {"mmpref", "typer", "shellingham", "annotated_doc", "rich", "pygments", "markdown_it", "mdurl"}
    ours = fresh_python(f"{code}print(*(name for name in sys.modules if name.startswith('mmpref.')))").split()
    assert set(ours) <= {"mmpref.cli", "mmpref.cli_data", "mmpref.cli_eval", "mmpref.errors", "mmpref.version"} | {
        "mmpref.cli_arguments",
        "mmpref.cli_recipe",
    } | {f"mmpref.process{name}" for name in ("", ".children", ".notices", ".signals", ".streams")}


def test_data_and_report_load_no_torch() -> None:
    rooms = [path for path in MODULES if part(path) in {"data", "report"} and path.stem != "__init__"]
    code = "\n".join("import mmpref." + place(path).removesuffix(".py").replace("/", ".") for path in rooms)
    assert not loaded_after(code) & {"torch", "transformers", "accelerate", "peft"}


def test_files_are_short_enough_to_read() -> None:
    files = [*MODULES, *ROOT.glob("scripts/**/*.py"), *ROOT.glob("tests/**/*.py")]
    long = {
        str(path.relative_to(ROOT)): lines
        for path in files
        if (lines := len(path.read_text().splitlines())) > MAX_LINES
    }
    assert long == {}


def test_no_file_is_a_drawer_for_everything() -> None:
    names = {name: path for path in MODULES for name in (*path.relative_to(PACKAGE).parts[:-1], path.stem)}
    assert not NO_SUCH_NAMES & names.keys()


def readme_map() -> dict[str, str]:
    """Entry -> what the map in README.md says of it: the fenced block whose first line begins with ``mmpref/``."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    block = re.search(r"```[a-z]*\nmmpref/[ \t]*.*\n(?P<body>(?:.*\n)*?)```", readme)
    assert block, "README.md needs the map of the house: a fenced block whose first line is `mmpref/`"
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
    rooms = {f"mmpref/{part(path)}/" for path in MODULES if path.parent != PACKAGE}
    folders = {f"mmpref/{path.name}/" for path in (PACKAGE / "recipes",) if path.is_dir()}
    files = {f"mmpref/{path.name}" for path in MODULES if path.parent == PACKAGE and not path.stem.startswith("__")}
    assert {name for name in entries if name.startswith("mmpref/")} == rooms | folders | files
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
    from mmpref.config import load_recipe
    from mmpref.losses import build_objective

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
