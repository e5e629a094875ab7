"""An import of mmpref registers nothing and changes no other library."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[2] / "mmpref"
MODULES = sorted(PACKAGE.rglob("*.py"))

REGISTERS = {"register", "register_at_fork", "filterwarnings", "simplefilter", "basicConfig"}


def at_import(tree: ast.AST) -> Iterator[ast.AST]:
    """All nodes that run when a module is imported: no bodies of functions, and not what runs as a program only."""
    for child in ast.iter_child_nodes(tree):
        if isinstance(child, ast.If) and ast.unparse(child.test) in ("__name__ == '__main__'", "TYPE_CHECKING"):
            yield from at_import(ast.Module(body=child.orelse, type_ignores=[]))
        elif isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            defaults = [one for one in (*child.args.defaults, *child.args.kw_defaults) if one is not None]
            for part_of in (*getattr(child, "decorator_list", ()), *defaults):
                yield part_of
                yield from at_import(part_of)
        else:
            yield child
            yield from at_import(child)


def imported_names(tree: ast.Module) -> set[str]:
    """The names that imports bind, at the top of a module or in what runs there."""
    found = set()
    for node in at_import(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            found |= {alias.asname or alias.name.split(".")[0] for alias in node.names}
    return found


def changes_at_import(source: str) -> list[str]:
    """What a module registers with, or changes of, anything that is not its own when it is imported."""
    tree = ast.parse(source)
    others = imported_names(tree)
    found = []
    for node in at_import(tree):
        targets: list[ast.expr] = []
        if isinstance(node, ast.Call):
            name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            is_signal = name == "signal" and root_of(node.func) in others
            is_patch = name in {"setattr", "delattr"} and bool(node.args) and root_of(node.args[0]) in others
            if name in REGISTERS or is_signal or is_patch:
                found.append(ast.unparse(node))
        elif isinstance(node, ast.Assign | ast.Delete):
            targets = node.targets
        elif isinstance(node, ast.AugAssign | ast.AnnAssign):
            targets = [node.target]
        for target in targets:
            for one in target.elts if isinstance(target, ast.Tuple | ast.List) else (target,):
                if isinstance(one, ast.Attribute | ast.Subscript) and root_of(one) in others:
                    found.append(ast.unparse(node))
    return found


def root_of(expression: ast.expr) -> str:
    """The name that an expression begins with: ``a`` of ``a.b[0].c()``."""
    while isinstance(expression, ast.Attribute | ast.Subscript | ast.Call):
        expression = expression.func if isinstance(expression, ast.Call) else expression.value
    return expression.id if isinstance(expression, ast.Name) else ""


def test_nothing_registers_itself_or_changes_another_library_at_import() -> None:
    assert [str(path) for path in MODULES if changes_at_import(path.read_text(encoding="utf-8"))] == []


@pytest.mark.parametrize(
    "source",
    [
        "import atexit\natexit.register(print)",
        "import os\nif hasattr(os, 'register_at_fork'):\n    os.register_at_fork(after_in_child=print)",
        "from os import register_at_fork\nregister_at_fork(after_in_child=print)",
        "import signal\nsignal.signal(signal.SIGTERM, print)",
        "from signal import signal, SIGTERM\nsignal(SIGTERM, print)",
        "from lib import Interface\nfor name in 'ab':\n    Interface.register(name, print)",
        "from lib import register\n@register('a')\ndef f(): pass",
        "import lib\nclass A:\n    lib.registry.register('a')",
        "import lib\nsetattr(lib.Thing, 'name', 1)",
        "import lib as other\nother.Thing.name = 1",
        "import lib\na, lib.b = 1, 2",
        "import os\nos.environ['NAME'] = '1'",
        "import lib\nlib.limit += 1",
        "import lib\ndel lib.table['a']",
        "try:\n    import lib\nexcept ImportError:\n    pass\nelse:\n    lib.x: int = 1",
        "import warnings\nwarnings.filterwarnings('ignore')",
        "import lib\ndef f(x=lib.register('a')): pass",
    ],
)
def test_a_registration_or_patch_at_import_is_found(source: str) -> None:
    assert changes_at_import(source)


@pytest.mark.parametrize(
    "source",
    [
        "import atexit\ndef f():\n    atexit.register(print)",
        "import lib\nclass A:\n    def f(self):\n        lib.x = 1",
        "class Own(dict): pass\nOwn.name = 1\nsetattr(Own, 'other', 2)",
        "import signal\nif __name__ == '__main__':\n    signal.signal(signal.SIGINT, signal.SIG_IGN)",
        "import lib\nNAME = lib.name\nf = lambda: lib.register('a')",
        "import lib\ntable = {}\ntable['a'] = lib.a",
    ],
)
def test_what_changes_only_its_own_or_runs_later_is_no_finding(source: str) -> None:
    assert changes_at_import(source) == []
