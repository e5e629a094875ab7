"""``mmpref score`` and ``mmpref export`` as typed: saved answers in, numbers and files out, no model anywhere."""

import json
from pathlib import Path

import pytest

from mmpref.cli.main import main
from mmpref.files.tables import write_table
from tests.unit.evals.cases import load


@pytest.fixture
def pope(tmp_path: Path) -> tuple[Path, Path]:
    case = load("pope")
    questions, answers = tmp_path / "questions.json", tmp_path / "answers.jsonl"
    questions.write_text("".join(json.dumps(row) + "\n" for row in case["questions"]), encoding="utf-8")
    answers.write_text("".join(json.dumps(row) + "\n" for row in case["answers"]), encoding="utf-8")
    return questions, answers


def test_the_result_is_printed_and_written_with_the_official_number_beside(
    pope: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    questions, answers = pope
    out = tmp_path / "results.json"
    command = ["score", "--benchmark", "pope", "--questions", str(questions), "--answers", str(answers)]
    assert main([*command, "--out", str(out)]) == 0
    printed = capsys.readouterr().out
    assert "protocol mmpref" in printed
    assert "official" in printed
    assert "yes_ratio" in printed
    result = json.loads(out.read_text(encoding="utf-8"))
    assert (result["benchmark"], result["protocol"], result["n"]) == ("pope", "mmpref", 420)
    assert result["protocols"]["official"]["metrics"] == pytest.approx(load("pope")["expected"]["official"])
    assert len(result["intervals"]["accuracy"]) == 2
    assert result["versions"]


def test_answers_go_to_a_table_and_back(
    pope: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    questions, answers = pope
    table, back = tmp_path / "m_POPE.xlsx", tmp_path / "back.jsonl"
    asked = ["--benchmark", "pope", "--questions", str(questions)]
    assert main(["export", *asked, "--answers", str(answers), "--to", "vlmevalkit", "--out", str(table)]) == 0
    assert "wrote 420 answers" in capsys.readouterr().out
    assert main(["export", *asked, "--answers", str(table), "--to", "jsonl", "--out", str(back)]) == 0

    def texts(file: Path) -> dict[str, str]:
        rows = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
        return {str(row["id"]): row["text"] for row in rows}

    assert texts(back) == texts(answers)


def test_too_few_verdicts_end_with_exit_code_8(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    case = load("mmhal")
    files = {name: tmp_path / f"{name}.json" for name in ("questions", "answers", "verdicts")}
    for name in ("questions", "answers"):
        files[name].write_text(json.dumps(case[name]), encoding="utf-8")
    command = ["score", "--benchmark", "mmhal"]
    command += ["--questions", str(files["questions"]), "--answers", str(files["answers"])]
    assert main(command) == 8
    assert "pass verdicts=FILE" in capsys.readouterr().err
    some = [{"id": row["id"], "score": 5, "judge": "j"} for row in case["answers"][:90]]
    files["verdicts"].write_text(json.dumps(some), encoding="utf-8")
    assert main([*command, f"verdicts={files['verdicts']}"]) == 8
    assert "6 of 96 answers have no verdict, more than 2%" in capsys.readouterr().err
    all_but_one = [{"id": row["id"], "score": 5, "judge": "j"} for row in case["answers"][:95]]
    files["verdicts"].write_text(json.dumps(all_but_one), encoding="utf-8")
    assert main([*command, f"verdicts={files['verdicts']}"]) == 0
    assert "missing 1" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--benchmark", "popes"], 2, "did you mean 'pope'"),
        (["--benchmark", "pope", "--protocol", "papers"], 2, "unknown protocol of pope 'papers'"),
        (["--benchmark", "pope", "pairings=id"], 2, "did you mean 'pairing'"),
        (["--benchmark", "amber"], 3, "is no folder"),
    ],
)
def test_a_wrong_word_is_refused_in_one_line(
    pope: tuple[Path, Path],
    arguments: list[str],
    code: int,
    message: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    questions, answers = pope
    assert main(["score", "--questions", str(questions), "--answers", str(answers), *arguments]) == code
    err = capsys.readouterr().err
    assert message in err
    assert err.count("\n") == 1


def test_a_table_that_fits_nothing_is_refused(pope: tuple[Path, Path], tmp_path: Path) -> None:
    questions, _ = pope
    table = tmp_path / "other.tsv"
    write_table(table, [{"index": 1, "question": "What is this?", "answer": "Yes", "prediction": "Yes"}])
    command = ["score", "--benchmark", "pope", "--questions", str(questions), "--answers", str(table)]
    assert main(command) == 3
