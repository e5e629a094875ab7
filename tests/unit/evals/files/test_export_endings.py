"""``mmpref export`` refuses a file name that says another kind of file than the format is."""

import json

import pytest

from mmpref.cli.main import main
from mmpref.errors import ConfigError
from mmpref.evals import export_answers
from tests.unit.evals.cases import arguments

POPE = [{"question_id": n, "image": f"{n}.jpg", "text": f"Is there a {n}?", "label": "yes"} for n in range(2)]
OPEN = [{"id": str(n), "prompt": f"Say {n}.", "output": "r"} for n in range(2)]
ANSWERS = [{"id": n, "text": "Yes"} for n in range(2)]


@pytest.mark.parametrize(
    ("benchmark", "to", "end", "says"),
    [
        *(("pope", to, end, f"{to} of pope is JSON lines, .* ends in .jsonl or .json or .ndjson; VLMEvalKit's")
          for to in ("jsonl", "llava", "lmms_eval", "official") for end in (".xlsx", ".tsv", ".XLSX")),
        ("pope", "jsonl", ".csv", "give one that ends in .jsonl or .json or .ndjson$"),
        ("pope", "jsonl", ".parquet", "is JSON lines"),
        ("pope", "llava", ".jsonl.gz", "is JSON lines"),
        ("pope", "vlmevalkit", ".jsonl", r"is a table, .* ends in .tsv or .xlsx"),
        ("pope", "vlmevalkit", ".csv", "is a table"),
        ("pope", "vlmevalkit", "", "this is a name without an ending"),
        ("pope", "vlmevalkit", ".v1", "is a table"),
        ("win_rate", "alpaca_eval", ".jsonl", "alpaca_eval of win_rate is one JSON array, .* ends in .json$"),
        ("win_rate", "arena_hard", ".xlsx", "is JSON lines"),
        ("win_rate", "ifeval", ".tsv", "is JSON lines"),
        ("chair", "official", ".jsonl", "is one JSON array"),
        ("mme", "official", ".xlsx", "is a folder of text files; give a name without .xlsx"),
        ("mme", "official", ".jsonl", "is a folder of text files"),
    ],
)  # fmt: skip
def test_an_ending_of_another_kind_is_refused_before_anything_is_read(benchmark, to, end, says, tmp_path):
    """JSON lines were written under the name of a table, which score could not open."""
    out = tmp_path / f"x{end}"
    with pytest.raises(ConfigError, match=says):
        export_answers(benchmark, tmp_path / "none.json", tmp_path / "none.jsonl", to, out)
    assert not out.exists()


@pytest.mark.parametrize("end", ["", ".jsonl", ".json", ".ndjson", ".JSONL", ".5-7b"])
@pytest.mark.parametrize("to", ["jsonl", "llava", "lmms_eval"])
def test_fitting_endings_and_names_with_dots_are_written(end, to, tmp_path):
    assert export_answers("pope", POPE, ANSWERS, to, tmp_path / f"llava-1{end}").num_rows == 2


def test_what_is_named_in_the_refusal_works(tmp_path, capsys):
    (tmp_path / "q.json").write_text(json.dumps(POPE), encoding="utf-8")
    (tmp_path / "a.json").write_text(json.dumps(ANSWERS), encoding="utf-8")
    given = ["--benchmark", "pope", "--questions", str(tmp_path / "q.json")]
    export = ["export", *given, "--answers", str(tmp_path / "a.json"), "--out"]
    assert main([*export, str(tmp_path / "x.xlsx"), "--to", "jsonl"]) == 2
    assert "--to vlmevalkit" in " ".join(capsys.readouterr().err.split())
    for name, to in (("x.xlsx", "vlmevalkit"), ("x.tsv", "vlmevalkit"), ("x.jsonl", "jsonl")):
        assert main([*export, str(tmp_path / name), "--to", to]) == 0
        assert main(["score", *given, "--answers", str(tmp_path / name)]) == 0


def test_mmes_folder_may_be_called_as_one_likes(tmp_path):
    questions, answers, _ = arguments("mme", tmp_path)
    assert export_answers("mme", questions, answers, "official", tmp_path / "LaVIN-7.5b").num_rows == len(answers)
