"""Does a test notice when the loss core is wrong? Changes one thing at a time and runs the unit tests.

    OMP_NUM_THREADS=1 python scripts/mutate_losses.py [--jobs 2] [--only bases,uni_dpo] [--list]

A mutant turns a sign, an operator, a strictness, a constant or a branch round, removes a detach, a no_grad, a clamp or
a negation, or takes the other answer or the other mean. The working tree is never touched: a forked process imports the
changed source from memory. Prints every survivor, and how many of all mutants were killed.
"""

from __future__ import annotations

import argparse
import ast
import importlib.abc
import importlib.util
import os
import signal
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
HOME = ROOT / "mmpref" / "losses"
TESTS = ROOT / "tests" / "unit" / "losses"
MATHS = ("test_golden.py", "test_sides.py", "test_bases.py", "test_uni_dpo.py", "test_ada_dpo.py",
         "test_ada_balance.py", "test_objective.py", "test_properties.py")  # fmt: skip
TERMS = ("test_golden_image.py", "test_image_terms.py")
SUITES = {
    "sides": (*TERMS, *MATHS),
    "bases": (*TERMS, *MATHS),
    "ada_dpo": MATHS,
    "uni_dpo": (*TERMS, *MATHS),
    "anchors": TERMS,
    "kto": TERMS,
    "pair_term": (*TERMS, "test_ada_balance.py"),
    "image_term": TERMS,
    "objective": (*TERMS, "test_tau_good.py", *MATHS),
    "diagnostics": MATHS,
    "logps": ("test_logps.py",),
    "vocab_tiles": ("test_logps.py",),
    "contract": ("test_contract.py", "test_uni_dpo.py", "test_objective.py"),
    "settings": ("test_settings.py", "test_term_settings.py", "test_tau_good.py", "test_former_keys.py"),
    "term_settings": ("test_term_settings.py",),
    "values": ("test_settings.py", "test_term_settings.py"),
    "loss_line": ("test_term_settings.py", "test_idle_keys.py"),
    "former_keys": ("test_former_keys.py",),
    "tau_good": ("test_tau_good.py",),
}
SECONDS = 300

# Mutants that no test can kill, because they compute the same: (module, start of what was done) and why.
EQUIVALENT = {
    ("sides", "constant: 2.0 -> 3.0"): "where log1mexp changes branch: both are accurate there",
    ("sides", "strictness: u > -_LN2"): "where log1mexp changes branch: both are accurate there",
    ("sides", "logic: x.rejected is None or"): "PairLogps refuses one without the other",
    ("sides", "field: x.rejected -> x.chosen"): "a type check's None; the other half of the check decides",
    ("bases", "constant: 60.0 -> 61.0"): "a guard against overflow with room to spare",
    ("bases", "constant: 30.0 -> 31.0"): "a guard against overflow with room to spare",
    ("diagnostics", "constant: 80.0 -> 81.0"): "a bound with room to spare",
    ("diagnostics", "logic: r is None or score_r is None"): "both or neither are None",
    ("diagnostics", "name: score_r -> score_w"): "a type check's None; the other half of the check decides",
    ("diagnostics", "name: score_w -> score_r"): "read for its dtype only",
    ("diagnostics", "field: w.mean -> w.total"): "read for its shape only",
    ("diagnostics", "field: r.mean -> r.total"): "read for its shape only",
    ("diagnostics", "field: side.mean -> side.total"): "read for its shape only",
    ("diagnostics", "operator: pull_w + pull.force"): "the sign of the whole sum; its size is taken",
    ("diagnostics", "operator: pull_r + pull.force"): "the sign of the whole sum; its size is taken",
    ("diagnostics", "name: pull_w -> pull_r"): "where one side is 0 the limit is the same",
    ("diagnostics", "no no_grad"): "saves a graph; the results are detached anyway",
    ("uni_dpo", "logic: x.chosen_score is None or"): "PairLogps refuses one without the other",
    ("uni_dpo", "field: x.chosen_score -> x.rejected_score"): "PairLogps refuses one without the other",
    ("uni_dpo", "field: x.rejected_score -> x.chosen_score"): "PairLogps refuses one without the other",
    ("uni_dpo", "name: chosen -> rejected"): "zeros of the same shape",
    ("uni_dpo", "field: chosen.mean -> chosen.total"): "read for its shape only",
    ("objective", "field: x.rejected -> x.chosen"): "a type check's None; rejected_side refuses as well",
    ("objective", "no detach: force.detach()"): "saves a graph; the results are detached anyway",
    ("vocab_tiles", "constant: 256 -> 257"): "the narrowest tile: any number near it",
    ("vocab_tiles", "constant: 0 -> 1"): "a row that is never read; a loop that starts at 0 is another line",
    ("vocab_tiles", "negation: -1 -> (1)"): "dimension 1 of 2 is the last",
    ("vocab_tiles", "constant: 1.0 -> 2.0"): "a shortcut past a multiplication by 1",
    ("vocab_tiles", "strictness: a.shape[1] <= a.shape[0] -> (a.shape[1] < a.shape[0])"): "by the temporary: the same",
    ("vocab_tiles", "branch: hidden.shape[0] if with_unit"): "an empty matrix grows when the product is put there",
    ("logps", "constant: 1 -> 2"): "a vocabulary of one word",
    ("vocab_tiles", "constant: 1 -> 2"): "one token or one word: still the narrowest tile",
    ("logps", "negation: -1 -> (1)"): "dimension 1 of 2 is the last",
    ("contract", "logic: self.chosen_score is None or"): "PairLogps refuses one without the other",
    ("contract", "field: self.chosen_score -> self.rejected_score"): "PairLogps refuses one without the other",
    ("contract", "field: self.rejected_score -> self.chosen_score"): "PairLogps refuses one without the other",
    ("settings", "constant: 4 -> 5"): "which line a warning points at",
    ("settings", "constant: 5 -> 6"): "which line a warning points at",
    ("settings", "constant: 1 -> 2"): "more candidates of which the first is taken",
    ("values", "constant: 1 -> 2"): "more candidates of which the first is taken",
    ("anchors", "name: chosen -> rejected"): "zeros of the same shape",
    ("kto", "strictness: desirable > 0.5"): "labels are 1 or 0",
    ("kto", "no no_grad"): "saves a graph; the results are detached anyway",
    ("pair_term", "logic: self.ada is None or"): "coefficients are there exactly where a balance is",
    ("image_term", "no no_grad"): "saves a graph; the results are detached anyway",
    ("logps", "operator: 32 * 2**20"): "the size of a tile: results do not depend on it",
    ("logps", "constant: 32 -> 33"): "the size of a tile: results do not depend on it",
    ("logps", "constant: 2 -> 3"): "the size of a tile: results do not depend on it",
    ("logps", "constant: 20 -> 21"): "the size of a tile: results do not depend on it",
}

BINARY = {ast.Add: "-", ast.Sub: "+", ast.Mult: "/", ast.Div: "*", ast.BitAnd: "|", ast.BitOr: "&", ast.FloorDiv: "*"}
ORDER = {ast.Gt: ">=", ast.GtE: ">", ast.Lt: "<=", ast.LtE: "<", ast.Eq: "!=", ast.NotEq: "=="}
REMOVED = {"detach", "clamp", "clamp_"}
METHODS = {"add_": "sub_", "sub_": "add_", "mul_": "div_", "div_": "mul_", "logsigmoid": "sigmoid",
           "maximum": "minimum", "amax": "amin"}  # fmt: skip
FIELDS = {"better": "worse", "worse": "better",
          "mean": "total", "total": "mean", "chosen": "rejected", "rejected": "chosen", "ref_mean": "ref_total",
          "ref_total": "ref_mean", "chosen_score": "rejected_score", "rejected_score": "chosen_score"}  # fmt: skip
NAMES = {"better": "worse", "worse": "better", "good": "bad", "bad": "good",
         "score_w": "score_r", "score_r": "score_w", "log_w": "log_r", "log_r": "log_w", "chosen": "rejected",
         "rejected": "chosen", "slope_w": "slope_r", "pull_w": "pull_r", "agree": "disagree",
         "disagree": "agree"}  # fmt: skip


@dataclass(frozen=True)
class Mutant:
    module: str
    line: int
    what: str
    source: str


def mutants_of(module: str) -> Iterator[Mutant]:
    source = (HOME / f"{module}.py").read_text(encoding="utf-8")
    lines = source.splitlines(keepends=True)
    starts = [0]
    for line in lines:
        starts.append(starts[-1] + len(line.encode()))
    raw = source.encode()

    def span(node: ast.expr) -> tuple[int, int]:
        assert node.end_lineno is not None
        assert node.end_col_offset is not None
        return starts[node.lineno - 1] + node.col_offset, starts[node.end_lineno - 1] + node.end_col_offset

    def text(node: ast.expr) -> str:
        start, end = span(node)
        return raw[start:end].decode()

    def made(node: ast.expr, new: str, what: str) -> Mutant:
        start, end = span(node)
        changed = (raw[:start] + new.encode() + raw[end:]).decode()
        return Mutant(module, node.lineno, f"{what}: {' '.join(text(node).split())[:60]} -> {new[:60]}", changed)

    for node in _code(ast.parse(source)):
        if isinstance(node, ast.BinOp) and type(node.op) in BINARY:
            yield made(node, f"({text(node.left)} {BINARY[type(node.op)]} {text(node.right)})", "operator")
        elif isinstance(node, ast.Compare) and len(node.ops) == 1 and type(node.ops[0]) in ORDER:
            right = text(node.comparators[0])
            yield made(node, f"({text(node.left)} {ORDER[type(node.ops[0])]} {right})", "strictness")
        elif isinstance(node, ast.UnaryOp):
            yield made(node, f"({text(node.operand)})", "negation")
        elif isinstance(node, ast.BoolOp):
            joined = " or " if isinstance(node.op, ast.And) else " and "
            yield made(node, "(" + joined.join(f"({text(v)})" for v in node.values) + ")", "logic")
        elif isinstance(node, ast.IfExp):
            yield made(node, f"({text(node.orelse)} if {text(node.test)} else {text(node.body)})", "branch")
        elif (
            isinstance(node, ast.Constant) and isinstance(node.value, (int, float)) and not isinstance(node.value, bool)
        ):
            yield made(node, repr(node.value + 1), "constant")
        elif isinstance(node, ast.Constant) and isinstance(node.value, bool):
            yield made(node, repr(not node.value), "constant")
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            if node.func.attr in REMOVED:
                yield made(node, f"({text(node.func.value)})", f"no {node.func.attr}")
            elif node.func.attr in METHODS:
                arguments = text(node)[len(text(node.func)) :]
                yield made(node, f"{text(node.func.value)}.{METHODS[node.func.attr]}{arguments}", "method")
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "straight_through":
            yield made(node, text(node.args[0]), "no straight-through")
        elif isinstance(node, ast.Attribute) and node.attr in FIELDS and isinstance(node.ctx, ast.Load):
            yield made(node, f"{text(node.value)}.{FIELDS[node.attr]}", "field")
        elif isinstance(node, ast.Name) and node.id in NAMES and isinstance(node.ctx, ast.Load):
            yield made(node, NAMES[node.id], "name")
    for number, line in enumerate(lines):
        if line.strip().startswith("@torch.no_grad()"):
            kept = "".join([*lines[:number], "\n", *lines[number + 1 :]])
            yield Mutant(module, number + 1, "no no_grad", kept)


def _code(tree: ast.AST) -> Iterator[ast.AST]:
    """Nodes that compute: no annotations, decorators, messages or docstrings."""
    for field, value in ast.iter_fields(tree):
        if field in ("annotation", "returns", "decorator_list", "type_params"):
            continue
        for child in value if isinstance(value, list) else [value]:
            if not isinstance(child, ast.AST) or isinstance(child, (ast.Raise, ast.JoinedStr, ast.Import)):
                continue
            if (
                isinstance(child, ast.Call)
                and isinstance(child.func, ast.Name)
                and child.func.id in ("_warn", "_refuse")
            ):
                if child.func.id == "_refuse":  # its first argument decides, the others say
                    yield child.args[0]
                    yield from _code(child.args[0])
                continue
            yield child
            yield from _code(child)


class _FromMemory(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    def __init__(self, mutant: Mutant) -> None:
        self.name, self.source = f"mmpref.losses.{mutant.module}", mutant.source

    def find_spec(self, fullname, path=None, target=None):  # type: ignore[no-untyped-def]
        return importlib.util.spec_from_loader(fullname, self) if fullname == self.name else None

    def exec_module(self, module) -> None:  # type: ignore[no-untyped-def]
        exec(compile(self.source, f"<mutant of {self.name}>", "exec"), module.__dict__)


def run_child(mutant: Mutant | None, suites: tuple[str, ...]) -> None:
    import pytest

    with open(os.devnull, "w") as quiet:  # noqa: PTH123 - a file descriptor is wanted
        os.dup2(quiet.fileno(), 1)
        os.dup2(quiet.fileno(), 2)
    if mutant is not None:
        sys.meta_path.insert(0, _FromMemory(mutant))
    code = pytest.main(
        ["-x", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", *(str(TESTS / name) for name in suites)]
    )
    os._exit(int(code))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--only", default=",".join(SUITES))
    parser.add_argument("--list", action="store_true")
    parser.add_argument("--again", type=Path, help="only mutants named as survivors in this output of an earlier run")
    args = parser.parse_args()
    mutants = [m for module in args.only.split(",") for m in mutants_of(module)]
    if args.again:
        named = args.again.read_text(encoding="utf-8")
        mutants = [m for m in mutants if f": {m.what}\n" in named]
    if args.list:
        for m in mutants:
            print(f"{m.module}:{m.line}: {m.what}")
        print(len(mutants))
        return 0

    sys.path.insert(0, str(ROOT))
    os.chdir(ROOT)
    # loaded once, inherited by every child; mmpref itself is not
    import hypothesis
    import pytest  # noqa: F401
    import torch

    hypothesis.settings.register_profile("mutants", database=None, max_examples=10, derandomize=True)
    hypothesis.settings.load_profile("mutants")
    torch.set_num_threads(1)

    queue: list[Mutant | None] = [None, *mutants]  # first the code as it is: it must pass
    running: dict[int, tuple[Mutant | None, float]] = {}
    survivors: list[Mutant] = []
    equivalent = 0
    while queue or running:
        while queue and len(running) < args.jobs:
            mutant = queue.pop(0)
            asked = [mutant.module] if mutant else args.only.split(",")
            suites = tuple({s: 0 for module in asked for s in SUITES[module]})
            if (child := os.fork()) == 0:
                run_child(mutant, suites)
            running[child] = (mutant, time.monotonic())
        done, status = os.waitpid(-1, os.WNOHANG)
        if not done:
            for child, (_, since) in running.items():
                if time.monotonic() - since > SECONDS:
                    os.kill(child, signal.SIGKILL)  # a mutant that never ends is noticed too
            time.sleep(0.02)
            continue
        mutant, _ = running.pop(done)
        passed = os.waitstatus_to_exitcode(status) == 0
        if mutant is None:
            if not passed:
                print("the tests fail on the code as it is: nothing to measure")
                return 1
        elif passed and any((mutant.module, mutant.what[: len(what)]) == (m, what) for m, what in EQUIVALENT):
            equivalent += 1
        elif passed:
            survivors.append(mutant)
            print(f"survived {mutant.module}:{mutant.line}: {mutant.what}", flush=True)
    real = len(mutants) - equivalent
    print(f"killed {real - len(survivors)} of {real}, and {equivalent} more compute the same as the code")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
