"""The package map as a test: who may import whom, one module per library, what loads without the extras.

The tables below are the rules. Imports inside functions count, and between packages those under TYPE_CHECKING too; a
library may be imported anywhere for an annotation alone.
"""

from __future__ import annotations

import ast
import functools
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

# what every package may import: none of these imports anything else
GROUND = {"version", "errors", "records", "yaml_text", "api_keys", "installation", "process", "files"}
RECIPE = GROUND | {"recipe"}
RUN_FOLDER = RECIPE | {"rundir"}
# package or top-level file -> the others that it may import
MAY_IMPORT: dict[str, set[str]] = {
    "version": set(),
    "errors": set(),
    "records": set(),
    "api_keys": set(),
    "image_tokens": set(),
    "installation": {"errors"},
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
    # a model answers some prompts while it trains, with the batches and caches that evaluation has
    "training": RUN_FOLDER | {"data", "processing", "losses", "models", "generation"},
    # how a run is divided, its dtypes, its loss and the tiles of its logits are the same for the plan and the training
    "planning": RUN_FOLDER | {"image_tokens", "data", "processing", "losses", "models", "training"},
    "merge": RUN_FOLDER | {"data", "processing", "models", "training"},
    "generation": RECIPE | {"data", "processing", "models"},
    "judging": RECIPE | {"generation"},
    "evals": RUN_FOLDER | {"data", "models", "statistics", "generation", "judging"},
    # model-driven scorers use the answerers of generation: torch stays there
    "sampling": RUN_FOLDER | {"data", "statistics", "generation", "judging", "evals"},
    # the code that made a number also makes its paired difference; none of it loads torch
    "report": RUN_FOLDER | {"evals", "judging", "statistics"},
    "sweeps": RUN_FOLDER | {"data", "losses", "models", "statistics", "generation", "training", "evals"},
    "doctor": RUN_FOLDER | {"data", "processing", "losses", "models", "training"},
    "demo": RUN_FOLDER | {"data", "processing", "models", "training", "evals", "report", "terminal"},
    # tables of what others' keys become; data sets are found through the reader of their own description
    "migration": RECIPE | {"data"},
    # names of losses, cards and example pairs; settings for a card come from the planner
    "project": RECIPE | {"data", "demo", "losses", "planning", "training"},
    "cli": RUN_FOLDER
    | {"migration", "project"}
    | {"statistics", "terminal", "losses", "data", "models", "training", "planning", "merge", "generation", "judging"}
    | {"evals", "sampling", "report", "doctor", "demo", "sweeps"},
    "__main__": {"cli", "errors", "installation"},
    # the public names, loaded on first use
    "__init__": {"version", "records", "losses", "training", "evals", "models"},
}
# planning and doctor look at training only through these
PARTS_OF_TRAINING = {
    "project": {"training.loss_settings"},
    "planning": {"training.parallel.strategy", "training.precision", "training.loss_settings"},
}

# inside a package: its files and folders in levels; each may import those of earlier levels only
LEVELS: dict[str, list[set[str]]] = {
    "files": [{"reading", "tables"}, {"rows", "temporary"}, {"writing"}, {"hashes", "locking"}],
    "statistics": [{"bootstrap"}, {"exact", "length_control", "ranks"}],
    "recipe": [
        {"key_rules", "keys", "overrides", "shipped", "value_types"},
        {"sample_section", "unused_keys"},
        {"sections"},
        {"loading"},
    ],
    "rundir": [{"content"}, {"folder", "locking"}, {"refusals", "train_log", "vanished"}, {"claim"}],
    "losses": [
        {"contract", "former_keys", "kl_estimators", "presets", "tau_good", "values", "vocab_tiles"},
        {"logps", "sides", "term_settings"},
        {"anchors", "kto", "settings"},
        {"ada_dpo", "bases", "diagnostics", "loss_line", "uni_dpo"},
        {"pair_term"},
        {"image_term"},
        {"objective"},
    ],
    "data": [
        {"loss_facts", "prompt_groups", "quarantine", "random_images", "single_answers", "split", "text_similarity"},
        {"accepted", "media_files"},
        {"images", "placeholders", "row_values"},
        {"pair_weights", "videos"},
        {"audit", "decoded_before", "mixture", "prompt_rows"},
        {"pairs"},
        {"pair_writing"},
        {"formats"},
        {"card", "reading"},
        {"pair_source"},
        {"loading"},
        {"fetching", "image_check", "manifest", "opening", "prompt_source"},
        {"verification"},
        {"commands"},
    ],
    "processing": [
        {"image_rows", "rope_lengths"},
        {
            "cross_attention",
            "embedded_tokens",
            "encoded",
            "errors",
            "family",
            "image_settings",
            "pair_fit",
            "positions",
        },
        {"batch", "chat", "pixels", "token_weights", "video_settings"},
        {"answer_tree", "other_images", "tokenizer_parts", "videos"},
        {"encode"},
        {"layout", "length_plan", "pair_text"},
        {"row_parts"},
        {"collate"},
    ],
    "models": [
        {"experts"},
        {
            "batch_norms",
            "known_configs",
            "loaded",
            "parts",
            "position_table",
            "quantize",
            "reference_rule",
            "tuning",
            "unwrap",
        },
        {
            "folder",
            "frozen_tower",
            "position_table",
            "precision",
            "row_positions",
            "tower_inputs",
            "tower_masks",
            "tower_windows",
        },
        {"adapters", "tower_features"},
        {"logps", "part_counts", "save"},
        {"load", "reward_head"},
        {"find_config"},
    ],
    "training": [{"loss_settings", "precision"}, {"parallel"}, {"trainer"}, {"run"}],
    "planning": [
        {"gpus", "image_shape", "meta_model", "parallelism"},
        {"architecture", "plan_input"},
        {"network", "optimizer_memory", "pair_shape", "video_shape"},
        {"kept_features", "memory"},
        {"speed", "subject"},
        {"changes"},
        {"plan"},
        {"fit"},
        {"fitted_recipe", "text"},
    ],
    "doctor": [{"machine", "needs", "section_faults"}, {"recipe_check"}],
    "project": [{"choices"}, {"recipe"}, {"folder"}],
    "migration": [
        {"losses", "reading", "values"},
        {"contract"},
        {"llama_factory_unread", "sources", "training_arguments"},
        {"llama_factory", "ms_swift", "ms_swift_table", "trl_table"},
        {"trl"},
        {"convert"},
    ],
    "generation": [
        {"concurrency", "contract", "fingerprint", "http_calls", "model_source", "scripted", "settings", "token_usage"},
        {"answer_log", "api_server", "chat_reply", "continuations", "drawing", "local_model", "ranks"},
        {"chat_api", "in_process", "likelihood"},
        {"answer_likelihood"},
        {"fact_lists", "reward_model"},
        {"processes", "sampled", "server"},
        {"sampling_server", "with_tokens"},
    ],
    "judging": [{"contract", "cost"}, {"cache", "fence", "rating", "text"}, {"engine"}],
    "evals": [
        {"files", "image_check", "shuffle_test", "text"},
        {"benchmarks"},
        {"named_setting", "result_warnings", "results", "unread"},
        {"scoring"},
        {"agreement", "export", "judge", "model_facts"},
        {"plan"},
        {"answering"},
        {"evaluate"},
    ],
    "sampling": [
        {"candidate_files", "length_balance", "shards", "steps"},
        {"agreement_of_scorers", "generate", "mapping", "merge_shards", "pair_card", "possible_pairs", "scorers"},
        {"pair", "score_images", "score_log", "score_settings"},
        {"score_source"},
        {"score_run"},
        {"score_results"},
        {"score_files"},
        {"score_outcome"},
        {"score"},
        {"round_commands"},
        {"round_facts"},
        {"rounds"},
    ],
    "sweeps": [
        {"claims", "grid", "same"},
        {"ablations", "folder"},
        {"cell", "check"},
        {"listing", "workers"},
        {"run"},
    ],
    "report": [
        {"evaluation", "facts", "flags", "html", "pair_columns", "parts", "rounds_folder", "text_stats"},
        {"cells", "questions"},
        {"differences", "figures", "flips", "runs", "tables"},
        {"cautions", "commands", "cost", "drift", "examples", "notes", "trained_on", "win_rates"},
        {"compare", "curves", "pairs", "provenance", "samples"},
        {"benchmarks", "health", "rounds"},
        {"benchmark_page", "summary", "table_files"},
        {"page", "paper"},
        {"sweep", "watch"},
    ],
}

# library -> the files that may import it
IMPORTED_BY: dict[str, set[str]] = {
    "av": {"data/videos/files.py"},
    "PIL": {
        "data/images/derived.py",
        "data/images/loader.py",
        "data/videos/files.py",
        "demo/world.py",
        "processing/other_images.py",
        "processing/pixels.py",
    },  # the last makes blank ones
    "datasets": {"data/reading/hub.py"},
    "peft": {"models/adapters/lora.py"},
    "bitsandbytes": {"models/quantize.py"},
    "matplotlib": {"report/figures/canvas.py"},
    "openpyxl": {"files/tables.py"},
    "typer": {
        f"cli/{name}.py"
        for name in (
            "arguments",
            "data",
            "data_options",
            "evals",
            "generate",
            "main",
            "new",
            "options",
            "pairs",
            "plan",
            "recipes",
            "rounds",
            "sample",
            "scores",
            "sweep",
            "train",
        )
    },
    "pydantic": {
        "data/card.py",
        "migration/convert.py",
        "recipe/loading.py",
        "recipe/sample_section.py",
        "recipe/sections.py",
        "recipe/keys.py",
        "recipe/value_types.py",
    },
    "yaml": {"recipe/loading.py", "yaml_text.py"},
    "rich": {"terminal.py"},
    "trl": set(),
    "torchvision": set(),
    "deepspeed": {"training/parallel/zero.py"},
    "httpx2": {"generation/http_calls.py"},
    "jinja2": {"data/commands/gallery.py", "processing/chat/render_process.py", "report/html.py"},
    "filelock": {"files/locking.py", "files/temporary.py"},
    "psutil": {"process/signals.py"},
    "requests": set(),
    "urllib.request": set(),
}
AUTO_CLASSES_IN = {"models/load.py"}

EXTRAS = ("av", "bitsandbytes", "matplotlib", "openpyxl", "trl", "torchvision", "deepspeed")
HEAVY = ("torch", "transformers", "datasets", "accelerate", "peft", "numpy", "PIL", "matplotlib")


def place(path: Path) -> str:
    """The file's name below mmpref/, as the tables write it."""
    return path.relative_to(PACKAGE).as_posix()


def part(path: Path) -> str:
    """The package or top-level file that a module belongs to."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def nodes(tree: ast.AST, *, types: bool) -> Iterator[ast.AST]:
    """All nodes below a node; without ``types``, what is under ``if TYPE_CHECKING:`` is left out."""
    for child in ast.iter_child_nodes(tree):
        if not types and isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
            continue
        yield child
        yield from nodes(child, types=types)


@functools.cache
def parsed(path: Path) -> ast.Module:
    """A file of the package, which several tests look at."""
    return ast.parse(path.read_text(encoding="utf-8"))


@functools.cache
def imports(path: Path, *, types: bool = True) -> tuple[tuple[str, ...], ...]:
    """Every module that a file imports, anywhere in it, as full dotted names; names of a from-import are added."""
    return tuple(_imports(path, types=types))


def _imports(path: Path, *, types: bool) -> Iterator[tuple[str, ...]]:
    package = ("mmpref", *path.relative_to(PACKAGE).parts[:-1])
    for node in nodes(parsed(path), types=types):
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


def test_every_package_of_many_files_is_ordered() -> None:
    folders = {part(path) for path in MODULES if path.parent != PACKAGE}
    assert folders - set(LEVELS) <= {"process", "demo", "cli"}


@pytest.mark.parametrize("package", LEVELS)
def test_files_inside_a_package_import_only_what_is_below_them(package: str) -> None:
    level = {name: number for number, names in enumerate(LEVELS[package]) for name in names}
    found = {
        path: path.relative_to(PACKAGE / package).parts[0].removesuffix(".py")
        for path in MODULES
        if part(path) == package
    }
    assert set(level) == set(found.values()) - {"__init__"}
    upward = []
    for path, own in found.items():
        if own == "__init__":
            continue
        for other in modules_of(path):
            head, _, rest = other.partition("/")
            name = rest.partition("/")[0]
            if head == package and name not in (own, "") and level[name] >= level[own]:
                upward.append(f"{place(path)} imports {other}")
            assert head != package or name, f"{place(path)} imports its own package's __init__"
    assert upward == []


def test_no_two_files_import_each_other_even_through_others() -> None:
    graph = {place(path).removesuffix(".py"): modules_of(path) for path in MODULES if path.stem != "__init__"}
    done: set[str] = set()
    while ready := {name for name, needs in graph.items() if name not in done and needs & graph.keys() <= done}:
        done |= ready
    assert sorted(set(graph) - done) == []


@pytest.mark.parametrize("package", PARTS_OF_TRAINING)
def test_only_these_parts_of_training_are_for_others(package: str) -> None:
    used = {name.replace("/", ".") for path in MODULES if part(path) == package for name in modules_of(path)}
    assert {name for name in used if name.startswith("training")} <= PARTS_OF_TRAINING[package]


@pytest.mark.parametrize("library", IMPORTED_BY)
def test_each_library_is_imported_by_its_own_files_only(library: str) -> None:
    wanted = tuple(library.split("."))
    users = {
        place(path) for path in MODULES if any(name[: len(wanted)] == wanted for name in imports(path, types=False))
    }
    assert users <= IMPORTED_BY[library]


def test_auto_classes_are_used_in_one_file() -> None:
    users = set()
    for path in MODULES:
        by_import = any(name[0] == "transformers" and re.match(r"Auto[A-Z]", name[-1]) for name in imports(path))
        tree = parsed(path)
        by_attribute = any(
            isinstance(node, ast.Attribute) and re.match(r"Auto[A-Z]", node.attr) for node in ast.walk(tree)
        )
        if by_import or by_attribute:
            users.add(place(path))
    assert users <= AUTO_CLASSES_IN


def test_the_loss_core_imports_only_torch() -> None:
    allowed = {"torch", "mmpref", *sys.stdlib_module_names}
    for path in PACKAGE.glob("losses/**/*.py"):
        assert {name[0] for name in imports(path)} <= allowed, place(path)


def statements_run_by_an_import(body: list[ast.stmt]) -> Iterator[ast.stmt]:
    """The statements of a module that run when it is imported; those under a condition count."""
    for statement in body:
        if isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            continue
        if isinstance(statement, ast.If) and "__name__" in ast.unparse(statement.test):  # when started as a program
            continue
        yield statement
        for name in ("body", "orelse", "finalbody"):
            yield from statements_run_by_an_import(getattr(statement, name, []))


def root_name(node: ast.expr) -> str:
    """``a`` of ``a.b(c).d[e]``."""
    while isinstance(node, ast.Attribute | ast.Subscript | ast.Call):
        node = node.func if isinstance(node, ast.Call) else node.value
    return node.id if isinstance(node, ast.Name) else ""


@pytest.mark.parametrize("path", [path for path in MODULES if path.stem != "__main__"], ids=place)
def test_an_import_registers_nothing_and_changes_no_other_module(path: Path) -> None:
    """Such as ``atexit.register(...)`` or ``warnings.showwarning = ...``: that belongs into what a command calls."""
    tree = parsed(path)
    own = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}
    own |= {node.name for node in tree.body if isinstance(node, ast.FunctionDef | ast.ClassDef)}
    found = []
    for statement in statements_run_by_an_import(tree.body):
        changed: list[ast.expr] = []
        if isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Call):
            changed = [statement.value]
        elif isinstance(statement, ast.Assign):
            changed = [one for one in statement.targets if isinstance(one, ast.Attribute | ast.Subscript)]
        found += [f"line {one.lineno}" for one in changed if root_name(one) not in own]
    assert found == []


WITHOUT_EXTRAS = """
import importlib, importlib.machinery, pkgutil, sys
blocked = set({blocked!r})

class Filter:
    # in place of the path finder, so that "is it installed?" is answered no as well
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
    optional = {"attr"}  # rich prints objects of attrs where that is installed: the docs' notebooks bring it
    needed = {"mmpref", "typer", "shellingham", "annotated_doc", "rich", "pygments", "markdown_it", "mdurl"}
    assert loaded <= needed | optional
    ours = fresh_python(f"{code}print(*(name for name in sys.modules if name.startswith('mmpref.')))").split()
    assert set(ours) <= {
        "mmpref.cli",
        "mmpref.cli.main",
        "mmpref.cli.completion",
        "mmpref.cli.data",
        "mmpref.cli.data_options",
        "mmpref.cli.evals",
        "mmpref.cli.options",
        "mmpref.cli.sample",
        "mmpref.cli.scores",
        "mmpref.errors",
        "mmpref.version",
    } | {
        "mmpref.cli.arguments",
        "mmpref.cli.pairs",
        "mmpref.cli.new",
        "mmpref.cli.plan",
        "mmpref.cli.recipes",
        "mmpref.cli.generate",
        "mmpref.cli.rounds",
        "mmpref.cli.scores",
        "mmpref.cli.sweep",
        "mmpref.cli.train",
    } | {f"mmpref.process{name}" for name in ("", ".children", ".notices", ".signals", ".streams")}


def test_data_and_report_load_no_torch() -> None:
    files = [path for path in MODULES if part(path) in {"data", "migration", "report"} and path.stem != "__init__"]
    code = "\n".join("import mmpref." + place(path).removesuffix(".py").replace("/", ".") for path in files)
    assert not loaded_after(code) & {"torch", "transformers", "accelerate", "peft"}
