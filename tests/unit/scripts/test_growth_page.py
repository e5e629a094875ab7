"""scripts/make_growth_page.py: page and figure are what results/growth gives, and exponents are those of a hand."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from tests.loaded_scripts import script

ROOT = Path(__file__).resolve().parents[3]


growth = script("make_growth_page")


def test_the_page_and_the_figure_are_what_the_results_give() -> None:
    assert growth.stale() == []
    page = growth.PAGE.read_text(encoding="utf-8")
    blocks = ("machine", "exponents", "data", *growth.AXES)
    assert all(f"<!-- make_growth_page.py: {name} -->" in page for name in blocks)


def test_exponents_of_exact_powers_have_no_width() -> None:
    fit = growth.fitted([(x, 3.0 * x**2) for x in (1, 2, 5, 8)])
    assert fit.exponent == pytest.approx(2)
    assert fit.last == pytest.approx(2)
    assert fit.interval == pytest.approx((2, 2), abs=1e-6)


def test_a_fixed_part_bends_the_line_and_the_last_slope_sees_it() -> None:
    fit = growth.fitted([(x, 10 + x) for x in (1, 10, 100)])
    assert fit.last == pytest.approx(math.log10(110 / 20))
    assert 0.3 < fit.exponent < fit.last  # 0.5 by hand: (log 110 - log 11) / log 100
    assert fit.exponent == pytest.approx(0.5)


def test_an_interval_is_student_s_over_the_points() -> None:
    points = [(1.0, 1.0), (math.e, math.exp(1.1)), (math.e**2, math.exp(1.9))]
    fit = growth.fitted(points)  # logarithms 0, 1.1, 1.9 at 0, 1, 2: slope 0.95, left over 0.05, -0.1, 0.05 about 1
    assert fit.exponent == pytest.approx(0.95)
    half = 12.706 * math.sqrt((0.05**2 + 0.1**2 + 0.05**2) / 1 / 2)
    assert fit.interval == pytest.approx((0.95 - half, 0.95 + half), abs=1e-3)


def test_repeats_are_averaged_and_counted_figures_stand_once(tmp_path: Path) -> None:
    (tmp_path / "steps.csv").write_text(
        "axis,value,way,pairs,tokens,gflop,peak_mib,cpu_seconds\n"
        "pairs,1,mmpref,1,10,2.0,5.0,1.0\npairs,1,mmpref,1,10,2.0,5.0,3.0\n"
        "pairs,2,mmpref,2,20,4.0,9.0,5.0\npairs,1,TRL,1,20,3.0,8.0,4.0\npairs,2,TRL,2,40,6.0,16.0,10.0\n"
    )
    assert growth.means(growth.step_points("pairs", "mmpref", "cpu_seconds", tmp_path)) == [(1, 2.0), (2, 5.0)]
    assert growth.step_points("pairs", "mmpref", "gflop", tmp_path) == [(1, 2.0), (2, 4.0)]
    assert growth.step_table("pairs", tmp_path)[2:] == [
        "| 1 | 2 | 4 | 2 | 3 | 5 | 8 | 2.00 |",
        "| 2 | 5 | 10 | 4 | 6 | 9 | 16 | 2.00 |",
    ]
