"""The page and the tables of a sweep."""

import csv
import io
import json
import re

import pytest

from mmpref.cli.main import main
from mmpref.errors import ConfigError
from mmpref.report.figures.heat_map import _ONE_HUE, _TWO_HUES, colour_of, contrast, ink_on
from mmpref.report.sweep.cells import read_sweep
from mmpref.report.sweep.drawings import curves, difference_maps, dots, heat_maps, layout_of, trade_off
from mmpref.report.sweep.page import write_sweep_report
from tests.unit.report.sweep_folders import make_sweep

AXES = {"loss.beta": ["0.1", "1"], "train.learning_rate": ["1e-5", "1e-4", "1e-3"], "seed": ["0", "1"]}


def metrics(names):
    value = 0.1 * float(names["loss.beta"]) + 1000 * float(names["train.learning_rate"]) / 10
    value += (0.02 if names["arm"] == "B <b>" else 0) + 0.01 * int(names["seed"])
    return {"chair_s": value, "recall": 0.5 + value, "mean_length": 12.0}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    states = {"A_loss.beta=1_train.learning_rate=1e-3_seed=1": {"state": "failed", "error": "no memory"}}
    return make_sweep(tmp_path_factory.mktemp("sweeps") / "s", ["A", "B <b>"], AXES, metrics, states=states)


@pytest.fixture(scope="module")
def sweep(folder):
    return read_sweep(folder)


@pytest.fixture(scope="module")
def chair(sweep):
    return next(one for one in sweep.measures if one.key == "chair/chair_s")


def test_a_map_carries_the_means_it_shows(sweep, chair):
    maps = heat_maps(sweep, chair, layout_of(sweep))
    assert len(maps) == 2
    assert len({one.key for one in maps}) == 2
    drawn = maps[0]
    assert drawn.columns[:4] == ("arm", "loss.beta", "train.learning_rate", "chair/chair_s")
    found = {row[1:3]: row[3] for row in drawn.rows}
    assert found["0.1", "1e-5"] == pytest.approx(0.01 + 0.001 + 0.005)
    assert "1.6" in drawn.svg
    assert "1/2 seeds" in drawn.svg
    assert "learning_rate 1e-5: 1.6 (best)" in drawn.words
    assert next(one.caption for one in maps).endswith(maps[1].caption.partition("One scale")[2])


def test_which_axes_a_map_has(sweep):
    assert [one.label for one in (layout_of(sweep).rows, layout_of(sweep).columns)] == ["beta", "learning_rate"]
    turned = layout_of(sweep, ["learning_rate", "loss.beta"])
    assert (turned.rows.label, turned.columns.label) == ("learning_rate", "beta")
    one = layout_of(sweep, ["beta"])
    assert one.rows is None
    assert [axis.label for axis in one.fixed] == ["learning_rate"]
    with pytest.raises(ConfigError, match=r"did you mean 'loss\.beta'"):
        layout_of(sweep, ["loss.betta"])
    with pytest.raises(ConfigError, match="not an axis"):
        layout_of(sweep, ["seed"])
    with pytest.raises(ConfigError, match="each once"):
        layout_of(sweep, ["beta", "loss.beta"])


def test_difference_maps_have_sign_and_number(sweep, chair):
    (drawn,) = difference_maps(sweep, chair, layout_of(sweep))
    assert [row[3] for row in drawn.rows] == [pytest.approx(0.02)] * 6
    assert "+2.0" in drawn.svg
    assert "Blue: B <b> is better (lower)" in drawn.caption


def test_curves_stand_at_each_arm_s_best_and_at_each_value(sweep, chair):
    found = curves(sweep, chair, sweep.grid_axes[0])
    assert len(found) == 1 + 3
    assert {row[2] for row in found[0].rows} == {"1e-5"}
    assert [row[3] for row in found[0].rows] == pytest.approx([0.016, 0.106, 0.036, 0.126])
    assert {row[2] for row in found[3].rows} == {"1e-3"}


def test_the_trade_off_marks_what_nothing_beats(tmp_path):
    """At 2 both are worse than at 1; 3 has more objects at a higher rate."""
    table = {"1": (0.1, 0.5, 9.0), "2": (0.2, 0.4, 8.0), "3": (0.3, 0.9, 20.0)}
    names = ("chair_s", "recall", "mean_length")
    folder = make_sweep(tmp_path / "s", [], {"x": list("123")}, lambda n: dict(zip(names, table[n["x"]], strict=True)))
    found = read_sweep(folder)
    by_key = {one.name: one for one in found.measures}
    drawn = trade_off(found, by_key["chair_s"], by_key["recall"], by_key["mean_length"])
    assert drawn.rows == tuple(
        ("", x, *table[x], beaten) for x, beaten in zip("123", ("yes", "no", "yes"), strict=True)
    )
    assert "3 (20.0 words)" in drawn.svg


def test_without_an_axis_arms_are_dots(tmp_path):
    found = read_sweep(
        make_sweep(
            tmp_path / "s", ["A", "B"], {"seed": ["0", "1"]}, lambda n: {"chair_s": 0.1 if n["arm"] == "A" else 0.2}
        )
    )
    chair = found.measures[0]
    (drawn,) = dots(found, chair)
    assert [(row[0], row[1]) for row in drawn.rows] == [("A", 0.1), ("B", 0.2)]
    assert heat_maps(found, chair, layout_of(found)) == []


def test_text_on_every_ground_can_be_read():
    for colours in (_ONE_HUE, _TWO_HUES):
        for step in range(101):
            ground = colour_of(step / 100, (0.0, 1.0), colours)
            assert contrast(ground, ink_on(ground)) > 4.5
    assert colour_of(0.0, (0.0, 1.0), _ONE_HUE) == _ONE_HUE[0]
    assert colour_of(0.0, (1.0, 0.0), _ONE_HUE) == _ONE_HUE[-1]
    assert colour_of(None, (0.0, 1.0), _ONE_HUE) is None


def test_the_command_writes_page_and_tables(folder, tmp_path, capsys):
    outs = [tmp_path / f"o.{ending}" for ending in ("html", "csv", "md", "json")]
    assert main(["report", str(folder), *(part for out in outs for part in ("--out", str(out)))]) == 0
    page, table, words, data = (out.read_text() for out in outs)
    assert "23 of 24 cells are complete" in page
    assert "no memory" in page
    assert "B &lt;b&gt; beats A in 0 of 6 cells, 1 with fewer seeds than the sweep (" in page
    assert "<b>" not in page
    assert not re.search(r'(src|href)="http', page)
    ids = re.findall(r' id="([^"]*)"', page)
    assert len(ids) == len(set(ids))
    rows = list(csv.DictReader(io.StringIO(table)))
    assert len(rows) == 24
    assert sum(row["state"] == "failed" for row in rows) == 1
    assert float(rows[0]["chair/chair_s"]) == pytest.approx(0.011)
    assert "| B <b> beats A | 0 of 6 cells, 1 with fewer seeds than the sweep |" in words
    found = json.loads(data)["comparisons"]["chair/chair_s"]["beats"][0]
    assert found["over_seed_means"]["losses"] == 6
    assert found["over_seed_means"]["on_fewer_seeds"] == 1
    assert found["over_cells_and_seeds"]["n"] == 11


def test_bad_input_is_told(tmp_path, capsys):
    folder = make_sweep(tmp_path / "s", ["A"], {"x": ["1"]}, lambda n: {"chair_s": 0.1})
    assert main(["report", str(folder), "--out", str(tmp_path / "o.tex")]) == 2
    assert "ends in .html, .csv, .md, .json" in capsys.readouterr().err
    assert main(["report", str(folder), str(tmp_path), "--out", str(tmp_path / "o.html")]) == 2
    advice = re.search(r"mmpref (report \S+ --out) FILE\.html", capsys.readouterr().err)[1].split()
    assert main([*advice, str(tmp_path / "advised.html")]) == 0
    cell = folder / "cells" / "A_x=1"
    assert main(["report", str(cell), "--axes", "beta", "--out", str(tmp_path / "o.csv")]) == 2
    assert "give one folder of mmpref sweep" in capsys.readouterr().err
    assert main(["report", str(folder), "--axes", "gamma", "--out", str(tmp_path / "o.csv")]) == 2
    assert main(["report", str(folder), "--out", str(folder / "sweep.json")]) == 2
    assert json.loads((folder / "sweep.json").read_text())["sweep"]


def test_a_sweep_without_a_number_says_so(tmp_path):
    folder = make_sweep(tmp_path / "s", ["A", "B"], {"x": ["1"]}, lambda n: None)
    write_sweep_report(folder, [tmp_path / "o.html"])
    assert "there is nothing to compare" in (tmp_path / "o.html").read_text()
