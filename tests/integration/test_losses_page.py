"""docs/losses.md: what a reader can type into a calculator gives the values shown, and those of the losses."""

from __future__ import annotations

import ast
import math
import operator
import re
import runpy
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from mmpref.losses import PairLogps, build_objective
from mmpref.losses.presets import BASES, PRESETS
from mmpref.recipe.keys import described
from mmpref.recipe.sections import Recipe

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "losses.md").read_text(encoding="utf-8")
LOSS = re.compile(r"`(\{\"name\".*?\})`(?: and\n`rejected = (-\d+)`)?")
_FUNCTIONS: dict[str, Callable[..., float]] = {"exp": math.exp, "log": math.log, "min": min, "max": max}
_OPERATORS: dict[type, Callable[..., float]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.Pow: operator.pow,
    ast.USub: operator.neg,
}


def calculator(typed: str) -> float:
    """What a pocket calculator shows: numbers, + - * / ^, brackets, exp, log, min and max, and nothing else."""

    def value(node: ast.expr) -> float:
        match node:
            case ast.Constant(value=int() | float() as number):
                return float(number)
            case ast.UnaryOp(op=op, operand=operand):
                return _OPERATORS[type(op)](value(operand))
            case ast.BinOp(left=left, op=op, right=right):
                return _OPERATORS[type(op)](value(left), value(right))
            case ast.Call(func=ast.Name(id=name), args=args):
                return _FUNCTIONS[name](*map(value, args))
        raise AssertionError(f"{typed}: no calculator has {ast.dump(node)}")

    return value(ast.parse(typed.replace("^", "**"), mode="eval").body)


@dataclass(frozen=True)
class Line:
    """A line of a table of the page."""

    loss: str | None
    """The section of the loss that the text before the table names."""
    rejected: float
    typed: str
    shown: str
    name: str

    def is_shown(self, exact: float, digits: float = 0.5) -> bool:
        """Whether a number, rounded, is the one shown; off by so many units of the last place at most."""
        places = len(self.shown.partition(".")[2])
        return abs(exact - float(self.shown)) <= digits * 10**-places + 1e-9


def lines() -> list[Line]:
    """Of all tables with a calculator, but for the one of the bases."""
    found, loss, rejected, place = [], None, -72.0, 0
    for table in re.finditer(r"^\| step \| is \| calculator \|.*?\n\n", PAGE, flags=re.MULTILINE | re.DOTALL):
        for named in LOSS.finditer(PAGE, place, table.start()):
            loss, rejected = named[1], float(named[2] or -72.0)
        place = table.end()
        for row in table[0].splitlines()[2:]:
            if row:
                *_, typed, shown, name = (cell.strip() for cell in row.strip("|").split("|"))
                found.append(Line(loss, rejected, typed.strip("`"), shown, name.strip("`")))
    return found


LINES = lines()


def computed(section: dict[str, Any], rejected: float = -72.0) -> dict[str, float]:
    """The page's pair through a loss: what is logged of it, its loss and its two derivatives."""
    numbers = {"chosen": -28.0, "rejected": rejected, "ref_chosen": -26.0, "ref_rejected": -56.0, "chosen_score": 4.0,
                   "rejected_score": 3.0}  # fmt: skip
    tensors: dict[str, Tensor] = {name: torch.tensor([value], dtype=torch.float64) for name, value in numbers.items()}
    sides = [tensors[side].requires_grad_() for side in ("chosen", "rejected")]
    lengths = {"chosen_len": torch.tensor([20]), "rejected_len": torch.tensor([40])}
    out = build_objective(section)(PairLogps(**tensors, **lengths))
    found = {name: float(values) for name, values in out.stats.items()} | {"loss": float(out.per_pair.detach())}
    pulls = torch.autograd.grad(out.per_pair.sum(), sides, allow_unused=True)
    for side, pull in zip(("chosen", "rejected"), pulls, strict=True):
        found[f"d loss / d logps/{side}"] = 0.0 if pull is None else float(pull)
    return found


def test_the_page_works_through_the_losses_it_is_about() -> None:
    assert len(LINES) > 45
    named = {str(ast.literal_eval(line.loss)["name"]) for line in LINES if line.loss}
    assert named == {"dpo", "uni_dpo", "adadpo", "uni_adadpo"}
    assert {line.rejected for line in LINES} == {-72.0, -96.0}
    of_both = {"loss", "d loss / d logps/chosen", "d loss / d logps/rejected"}
    for name in ("dpo", "uni_dpo", "adadpo"):
        assert of_both <= {line.name for line in LINES if line.loss and f'"{name}"' in line.loss}, name
    assert {"uni/w_qual", "uni/w_perf", "uni/nll_active", "loss/nll", "ada/coef_chosen", "ada/coef_rejected",
            "ada/clipped", "grad/ratio", "grad/ratio_to_ref"} <= {line.name for line in LINES}  # fmt: skip


@pytest.mark.parametrize("line", LINES, ids=lambda line: f"{line.name or '-'} {line.typed}"[:70])
def test_a_calculator_shows_the_value(line: Line) -> None:
    assert line.is_shown(calculator(line.typed), 1.0), calculator(line.typed)  # numbers that are typed in are rounded


@pytest.mark.parametrize("line", [line for line in LINES if line.name], ids=lambda line: f"{line.name} {line.loss}")
def test_the_losses_compute_the_value(line: Line) -> None:
    assert line.loss is not None
    found = computed(ast.literal_eval(line.loss), line.rejected)[line.name]
    assert line.is_shown(found), f"{line.name}: {found}, the page says {line.shown}"


def test_the_bases_table_works_through_bases_at_their_defaults() -> None:
    table = PAGE.partition("| base | calculator | value |\n|---|---|---|\n")[2].partition("\n\n")[0]
    rows = [[cell.strip(" `") for cell in row.strip("|").split("|")] for row in table.splitlines()]
    assert {base for base, _, _ in rows} == BASES.keys() - {"dpo", "robust", "kto"}
    for base, typed, shown in rows:
        line = Line(None, -72.0, typed, shown, base)
        assert line.is_shown(calculator(typed)), base
        assert line.is_shown(computed({"name": base})["loss"]), base


def test_the_python_block_runs_and_gives_what_it_says(tmp_path: Path) -> None:
    (block,) = re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL)
    script = tmp_path / "block.py"
    script.write_text(block, encoding="utf-8")
    names = runpy.run_path(str(script))
    said = re.search(r"tensor\(\[([\d.]+)\]\)$", block, flags=re.MULTILINE)
    assert said is not None
    assert names["out"].per_pair.item() == pytest.approx(float(said[1]), abs=5e-5)
    assert {"rewards/margins", "grad/ratio"} <= names["out"].stats.keys()


def test_symbols_are_defined_before_they_are_used() -> None:
    """In reading order: no formula has a letter that no table, sentence or formula before it introduced."""
    defined = PAGE.index("## One pair, by hand")
    symbols = PAGE[PAGE.index("## Symbols") : defined]
    for symbol in (r"\pi", r"\ell", "$u$", "$p$", "$h$", r"\bar h", "$s$", "$S$", r"\sigma", r"\beta", "$M$", "$f(M)$"):
        assert symbol in symbols, symbol
    later = {r"\varepsilon": "## Bases", r"\eta": "## Uni-DPO", r"\tau": "## Uni-DPO", r"\gamma": "## Uni-DPO",
             r"\lambda": "## Uni-DPO", "c_w": "## AdaDPO", "$R$": "## AdaDPO", "$C$": "## AdaDPO",
             r"\omega": "## The image", r"\alpha_w": "## The image", "z_0": "## Bases", "$k$": "## AdaDPO"}  # fmt: skip
    for symbol, section in later.items():
        assert PAGE.index(symbol) > PAGE.index(section), f"{symbol} is used before {section}"


def test_every_preset_and_key_of_the_loss_is_on_the_page() -> None:
    for preset in PRESETS:
        assert re.search(rf"`(name: )?{preset}`", PAGE), preset
    keys = [key.name for key in described(Recipe) if key.name.startswith("loss.") and not key.research]
    assert len(keys) > 25
    for last in {key.rpartition(".")[2] for key in keys}:
        assert re.search(rf"`[\w.]*\b{last}\b", PAGE), last
