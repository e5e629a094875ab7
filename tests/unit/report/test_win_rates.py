"""Win rates by length in the report."""

import json

import pytest

from mmpref.cli.main import main
from mmpref.report.runs import load_runs
from mmpref.report.win_rates import win_rate_section


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """Two results of ``mmpref score``: B wins where it is longer, and only there."""
    folder = tmp_path_factory.mktemp("rates")
    questions = [{"id": f"{n}", "prompt": f"Say {n}.", "output": "x" * 100, "score": 1} for n in range(40)]
    (folder / "q.json").write_text(json.dumps(questions))
    outs = []
    for name, lengths in (("a", (100, 104)), ("b", (60, 160))):
        rows = [
            {"id": f"{n}", "text": "y" * lengths[n % 2], "score": 2 * (n % 4 == 1 if name == "a" else n % 2)}
            for n in range(40)
        ]
        answers = folder / f"{name}.json"
        answers.write_text(json.dumps(rows))
        outs.append(folder / f"{name}_scored.json")
        command = ["score", "--benchmark", "win_rate", "--questions", str(folder / "q.json")]
        assert main([*command, "--answers", str(answers), "--out", str(outs[-1])]) == 0
    return outs


def test_the_section_shows_rates_at_equal_length_and_by_length(results):
    runs = load_runs(results)
    section = win_rate_section(runs)
    assert "ours, not AlpacaEval" in section
    assert "lc_win_rate_local" in section
    assert ">50.0 [" in section  # b wins half of the time
    assert "b_scored, longer: 100.0 % of 20" in section
    assert "b_scored, shorter: 0.0 % of 20" in section
    assert "a_scored, similar: 25.0 % of 40" in section
    assert section.count('download="win-rate-by-length') == 3


def test_the_page_has_it_and_runs_without_win_rates_have_none(results, tmp_path):
    page = tmp_path / "o.html"
    assert main(["report", *map(str, results), "--out", str(page)]) == 0
    assert 'id="win-rates"' in page.read_text()
    runs = [run.__class__(run.label, run.path, {}, None, {}, (), ()) for run in load_runs(results)]
    assert win_rate_section(runs) is None
