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

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "mmpref"
MODULES = sorted(PACKAGE.rglob("*.py"))

# what every room may build on: no room of these imports anything above it
GROUND = {"version", "errors", "records", "yaml_text", "api_keys", "process", "files"}
RECIPE = GROUND | {"recipe"}
RUN_FOLDER = RECIPE | {"rundir"}
# room or top-level file -> the others that it may import
MAY_IMPORT: dict[str, set[str]] = {
    "version": set(),
    "errors": set(),
    "records": set(),
    "api_keys": set(),
    "image_tokens": set(),
    "process": {"errors"},
    "files": {"errors", "api_keys"},
    "yaml_text": {"errors", "files"},
    "statistics": {"errors"},
    "recipe": GROUND,
    "rundir": RECIPE,
    "terminal": RUN_FOLDER,
    "losses": {"errors"},
    "data": RUN_FOLDER | {"image_tokens"},
    "processing": RECIPE,
    "models": RECIPE | {"processing", "losses"},
    "training": RUN_FOLDER | {"data", "processing", "losses", "models"},
    # what a run keeps its weights in, how it is divided, and its loss are the same for the plan and for the training
    "planning": RUN_FOLDER | {"image_tokens", "data", "losses", "processing", "models", "training"},
    "merge": RUN_FOLDER | {"data", "processing", "models", "training"},
    "generation": RECIPE | {"data", "processing", "models"},
    "judging": RECIPE | {"generation"},
    "evals": RUN_FOLDER | {"data", "models", "statistics", "generation", "judging"},
    # the code that made a number also makes its paired difference; none of it loads torch
    "report": RUN_FOLDER | {"evals", "judging", "statistics"},
    "doctor": RUN_FOLDER | {"data", "processing", "losses", "models", "training"},
    "demo": RUN_FOLDER | {"data", "processing", "models", "training", "evals", "report", "terminal"},
    "cli": RUN_FOLDER
    | {"statistics", "terminal", "losses", "data", "models", "training", "planning", "merge", "generation", "judging"}
    | {"evals", "report", "doctor", "demo"},
    "__main__": {"cli"},
    # the public names, loaded on first use
    "__init__": {"version", "records", "losses", "training", "evals", "models"},
}
# planning and doctor look at training only through these
PARTS_OF_TRAINING = {
    "planning": {"training.parallel.strategy", "training.precision", "training.loss_settings"},
}

# inside a room: the files and folders in levels, each may import those of earlier levels only
LEVELS: dict[str, list[set[str]]] = {
    "files": [{"reading", "tables"}, {"rows", "writing"}, {"hashes"}],
    "recipe": [
        {"key_rules", "keys", "overrides", "shipped", "value_types"},
        {"unused_keys"},
        {"sections"},
        {"loading"},
    ],
    "rundir": [{"content"}, {"locking"}, {"refusals", "train_log"}, {"folder"}, {"vanished"}],
    "losses": [
        {"contract", "former_keys", "presets", "tau_good", "values", "vocab_tiles"},
        {"logps", "settings", "sides"},
        {"ada_dpo", "bases", "diagnostics", "loss_line", "uni_dpo"},
        {"objective"},
    ],
    "data": [
        {"quarantine", "split", "text_similarity"},
        {"images", "placeholders"},
        {"audit", "mixture", "pairs"},
        {"formats"},
        {"card", "reading"},
        {"loading"},
        {"fetching", "image_check", "manifest", "opening"},
        {"commands"},
    ],
    "processing": [
        {"batch", "embedded_tokens", "errors", "family", "image_settings", "positions"},
        {"chat", "pixels"},
        {"encode", "tokenizer_parts"},
        {"layout", "length_plan", "pair_text"},
        {"collate"},
    ],
    "models": [
        {"known_configs", "loaded", "parts", "quantize", "reference_rule", "tuning", "unwrap"},
        {"folder", "frozen_tower", "precision", "tower_windows"},
        {"adapters"},
        {"logps", "part_counts", "save"},
        {"load"},
        {"find_config"},
    ],
    "training": [{"loss_settings", "precision"}, {"parallel"}, {"trainer"}, {"run"}],
    "planning": [
        {"gpus", "image_shape", "meta_model", "parallelism"},
        {"architecture", "plan_input"},
        {"network", "optimizer_memory", "pair_shape"},
        {"memory"},
        {"speed", "subject"},
        {"changes"},
        {"plan"},
        {"fit"},
        {"fitted_recipe", "text"},
    ],
    "generation": [
        {"concurrency", "contract", "fingerprint", "http_calls", "ranks", "scripted", "token_usage"},
        {"answer_log", "chat_api", "in_process"},
        {"likelihood", "server"},
        {"processes"},
    ],
    "judging": [{"contract", "cost"}, {"cache", "fence"}],
    "evals": [
        {"files", "image_check", "text"},
        {"benchmarks"},
        {"results", "unread"},
        {"scoring"},
        {"evaluate", "export", "judge"},
    ],
    "report": [
        {"evaluation", "flags", "markup", "text_stats"},
        {"cells", "questions"},
        {"differences", "figures", "flips", "runs", "tables"},
        {"commands", "drift", "examples", "notes"},
        {"compare", "curves", "provenance"},
        {"benchmarks"},
        {"benchmark_page", "summary", "table_files"},
        {"page"},
    ],
}

# library -> the files that may import it
DOORS: dict[str, set[str]] = {
    "PIL": {"data/images/loader.py", "demo/world.py", "processing/pixels.py"},  # the last makes blank ones
    "datasets": {"data/reading/source.py"},
    "peft": {"models/adapters/lora.py"},
    "bitsandbytes": {"models/quantize.py"},
    "matplotlib": {"report/figures.py"},
    "openpyxl": {"files/tables.py"},
    "typer": {
        f"cli/{name}.py" for name in ("arguments", "data", "evals", "main", "options", "plan", "recipes", "train")
    },
    "pydantic": {"recipe/sections.py", "recipe/keys.py", "recipe/value_types.py"},
    "yaml": {"recipe/sections.py", "yaml_text.py"},
    "rich": {"terminal.py"},
    "trl": set(),
    "torchvision": set(),
    "deepspeed": {"training/parallel/zero.py"},
    "httpx2": {"generation/http_calls.py"},
    "jinja2": {"processing/chat/render_process.py"},
    "filelock": {"files/writing.py"},
    "psutil": {"process/signals.py"},
    "requests": set(),
    "urllib.request": set(),
}
AUTO_DOOR = {"models/load.py"}

EXTRAS = ("bitsandbytes", "matplotlib", "openpyxl", "trl", "torchvision", "deepspeed")
HEAVY = ("torch", "transformers", "datasets", "accelerate", "peft", "numpy", "PIL", "matplotlib")


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


def modules_of(path: Path) -> set[str]:
    """Which modules of ours a file imports, as the names of their files below mmpref/, without the suffix."""
    found = set()
    for name in imports(path):
        if name[0] != "mmpref":
            continue
        for length in range(len(name), 1, -1):
            below = "/".join(name[1:length])
            if (PACKAGE / f"{below}.py").is_file() or (PACKAGE / below / "__init__.py").is_file():
                found.add(below)
                break
    return found


def test_every_room_with_rooms_or_many_files_is_ordered() -> None:
    folders = {part(path) for path in MODULES if path.parent != PACKAGE}
    assert folders - set(LEVELS) <= {"process", "demo", "cli"}


@pytest.mark.parametrize("room", LEVELS)
def test_files_inside_a_room_import_only_what_is_below_them(room: str) -> None:
    level = {name: number for number, names in enumerate(LEVELS[room]) for name in names}
    found = {
        path: path.relative_to(PACKAGE / room).parts[0].removesuffix(".py") for path in MODULES if part(path) == room
    }
    assert set(level) == set(found.values()) - {"__init__"}
    upward = []
    for path, own in found.items():
        if own == "__init__":
            continue
        for other in modules_of(path):
            head, _, rest = other.partition("/")
            name = rest.partition("/")[0]
            if head == room and name not in (own, "") and level[name] >= level[own]:
                upward.append(f"{place(path)} imports {other}")
            assert head != room or name, f"{place(path)} imports its own room's __init__"
    assert upward == []


def test_no_two_files_import_each_other_even_through_others() -> None:
    graph = {place(path).removesuffix(".py"): modules_of(path) for path in MODULES if path.stem != "__init__"}
    done: set[str] = set()
    while ready := {name for name, needs in graph.items() if name not in done and needs & graph.keys() <= done}:
        done |= ready
    assert sorted(set(graph) - done) == []


@pytest.mark.parametrize("room", PARTS_OF_TRAINING)
def test_only_these_parts_of_training_are_for_others(room: str) -> None:
    used = {name.replace("/", ".") for path in MODULES if part(path) == room for name in modules_of(path)}
    assert {name for name in used if name.startswith("training")} <= PARTS_OF_TRAINING[room]


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
    code = "import contextlib, io\nfrom mmpref.cli.main import main\n"
    for arguments in (["--help"], ["--version"], ["train", "--help"], ["demo", "--help"]):
        code += f"with contextlib.redirect_stdout(io.StringIO()):\n    assert main({arguments!r}) == 0\n"
    assert loaded_after(code) == set()


def test_help_needs_no_other_library_than_the_command_line_s_own() -> None:
    """What keeps ``mmpref --help`` under half a second of processor time (0.28 s measured), without timing it here."""
    code = "import contextlib, io, sys\nbefore = set(sys.modules)\nfrom mmpref.cli.main import main\n"
    code += "with contextlib.redirect_stdout(io.StringIO()):\n    main(['--help'])\n"
    code += "tops = {name.split('.')[0] for name in set(sys.modules) - before}\n"
    loaded = set(fresh_python(f"{code}print(*tops - set(sys.stdlib_module_names))").split())
    assert loaded <= {"mmpref", "typer", "shellingham", "annotated_doc", "rich", "pygments", "markdown_it", "mdurl"}
    ours = fresh_python(f"{code}print(*(name for name in sys.modules if name.startswith('mmpref.')))").split()
    assert set(ours) <= {
        "mmpref.cli",
        "mmpref.cli.main",
        "mmpref.cli.data",
        "mmpref.cli.evals",
        "mmpref.cli.options",
        "mmpref.errors",
        "mmpref.version",
    } | {
        "mmpref.cli.arguments",
        "mmpref.cli.plan",
        "mmpref.cli.recipes",
        "mmpref.cli.train",
    } | {f"mmpref.process{name}" for name in ("", ".children", ".notices", ".signals", ".streams")}


def test_data_and_report_load_no_torch() -> None:
    rooms = [path for path in MODULES if part(path) in {"data", "report"} and path.stem != "__init__"]
    code = "\n".join("import mmpref." + place(path).removesuffix(".py").replace("/", ".") for path in rooms)
    assert not loaded_after(code) & {"torch", "transformers", "accelerate", "peft"}
