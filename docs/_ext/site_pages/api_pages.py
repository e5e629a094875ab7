"""The public names by package, for autodoc: signatures and docstrings come from the code when the site is built."""

from __future__ import annotations

import ast
import importlib
import inspect
import textwrap
from pathlib import Path
from types import ModuleType

PACKAGES = {
    "mmpref": "The names that most programs need; each is also in a package below.",
    "mmpref.losses": "The objectives: pure functions of the log-probs of pairs.",
    "mmpref.models": "Loading, adapters, and the log-probs of a policy and its reference.",
    "mmpref.training": "The Trainer, and from a recipe to a finished run folder.",
    "mmpref.evals": "Benchmarks: load, answer, score, compare.",
    "mmpref.data": "Rows in, pairs out; images opened safely.",
    "mmpref.processing": "Pairs to tensors through a model's own processor and chat template.",
}
"""Package -> what it is for."""


def pages() -> dict[str, str]:
    """File below ``docs/`` -> its text."""
    return {"api/index.md": _index(), **{f"api/{_name(package)}.rst": _package(package) for package in PACKAGES}}


def _name(package: str) -> str:
    return package.rpartition(".")[2]


def _index() -> str:
    rows = "".join(f"| [`{package}`]({_name(package)}.rst) | {about} |\n" for package, about in PACKAGES.items())
    tree = "".join(f"{_name(package)}\n" for package in PACKAGES)
    return (
        "# Python API\n\nEvery public name, by the package that exports it. Import from these packages; what lies "
        "deeper may move. A change of any of them has a line in the [changelog](../changelog.md).\n\n"
        f"| package | what it is for |\n| --- | --- |\n{rows}\n```{{toctree}}\n:hidden:\n:maxdepth: 1\n\n{tree}```\n"
    )


def _package(package: str) -> str:
    module = importlib.import_module(package)
    lines = [
        package,
        "=" * len(package),
        "",
        f".. module:: {package}",
        "   :no-index-entry:",
        "",
        PACKAGES[package],
        "",
    ]
    about = inspect.cleandoc(module.__doc__ or "").partition("\n\n")[2]
    lines += [about, ""] if about else []
    for name in sorted(module.__all__, key=lambda name: (_order(getattr(module, name)), name)):
        lines += [*_one(package, module, name), ""]
    return "\n".join(lines)


def _order(value: object) -> int:
    return 0 if inspect.isclass(value) else 1 if inspect.isfunction(value) else 2


def _one(package: str, module: ModuleType, name: str) -> list[str]:
    value = getattr(module, name)
    if inspect.isclass(value):
        first = _first_package(value, name)
        if first != package:
            return [f".. rubric:: {name}", "", f"The class of :mod:`{first}`: :class:`{first}.{name}`."]
        return [f".. autoclass:: {package}.{name}", "   :members:", "   :member-order: bysource"]
    if inspect.isfunction(value):
        first = _first_package(value, name)
        if first != package:
            return [f".. rubric:: {name}", "", f"The function of :mod:`{first}`: :func:`{first}.{name}`."]
        return [f".. autofunction:: {package}.{name}"]
    about, source = _constant(module, name)
    return [f".. py:data:: {package}.{name}", "", *textwrap.indent(f"{about}{source}", "   ").splitlines()]


def _first_package(value: object, name: str) -> str:
    """The package that a name is documented in: the deepest one that exports it."""
    having = [package for package in PACKAGES if getattr(importlib.import_module(package), name, None) is value]
    having = [package for package in having if name in importlib.import_module(package).__all__]
    return having[-1]


def _constant(module: ModuleType, name: str) -> tuple[str, str]:
    """The text below a constant and how it is written, from the file that defines it."""
    file, wanted = Path(inspect.getsourcefile(module) or ""), name
    for _ in range(5):
        tree = ast.parse(file.read_text(encoding="utf-8"))
        for statement, after in zip(tree.body, [*tree.body[1:], None], strict=True):
            if wanted not in _targets(statement):
                continue
            text = ""
            if isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant):
                text = inspect.cleandoc(str(after.value.value))
            return (f"{text}\n\n" if text else ""), _written(statement)
        found = _import_of(tree, wanted)
        if found is None:
            break
        file = Path(inspect.getsourcefile(importlib.import_module(found[0])) or "")
        wanted = found[1]
    return "", ""


def _targets(statement: ast.stmt) -> list[str]:
    if isinstance(statement, ast.AnnAssign):
        return [ast.unparse(statement.target)]
    return [ast.unparse(target) for target in statement.targets] if isinstance(statement, ast.Assign) else []


def _written(statement: ast.stmt) -> str:
    """A type alias as it is written, another constant as its type."""
    if not isinstance(statement, ast.AnnAssign) or statement.value is None:
        return f"``{ast.unparse(statement)}``" if len(ast.unparse(statement)) < 160 else ""
    kind = ast.unparse(statement.annotation)
    return f"``{ast.unparse(statement.value)}``" if kind == "TypeAlias" else f"Type: ``{kind}``"


def _import_of(tree: ast.Module, name: str) -> tuple[str, str] | None:
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                if (alias.asname or alias.name) == name:
                    return node.module, alias.name
    return None
