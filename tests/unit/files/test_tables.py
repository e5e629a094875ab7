"""Answers go to every format and come back as they were, or are refused with the row; pandas reads the same tables."""

import json

import pandas as pd
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from mmpref.cli.main import main
from mmpref.errors import DataError
from mmpref.evals import export_answers
from mmpref.files.tables import read_table, write_table

POPE = [{"question_id": n, "image": f"{n}.jpg", "text": f"Is there a {n}?", "label": "yes"} for n in range(4)]
OPEN = [{"id": str(n), "prompt": f"Say {n}.", "output": "r"} for n in range(4)]
HARD = "\r\n\t\"'=+-@,\0\x07\x0b\x85\u2028\ufeff\ufffe\ud83d\ude00🙂_x0041"
TEXTS = st.lists(
    st.text(st.one_of(st.characters(), st.sampled_from(HARD)), max_size=12), min_size=len(POPE), max_size=len(POPE)
)
CASES = [
    *(("pope", POPE, to, end) for to, end in (("jsonl", "jsonl"), ("llava", "jsonl"), ("lmms_eval", "jsonl"))),
    *(("pope", POPE, "vlmevalkit", end) for end in ("tsv", "xlsx")),
    ("pope", POPE, "official", "jsonl"),
    *(
        ("win_rate", OPEN, to, end)
        for to, end in (("alpaca_eval", "json"), ("arena_hard", "jsonl"), ("ifeval", "jsonl"))
    ),
]


def has_no_place(char, end):
    half = 0xD800 <= ord(char) < 0xE000
    return half or (char == "\0" if end == "tsv" else char not in "\t\n" and (ord(char) < 32 or char in "\ufffe\uffff"))


@pytest.mark.parametrize(("name", "questions", "to", "end"), CASES)
@settings(
    deadline=None, max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@given(texts=TEXTS)
@example(texts=["a\rb", "=1+1", "_x000D_", "\t\r\n"])
@example(texts=["null", "NaN", "1", "1e5"])
def test_answers_come_back_as_they_were_or_are_refused(name, questions, to, end, texts, tmp_path):
    answers = [{"id": n, "text": text} for n, text in enumerate(texts)]
    there, back = tmp_path / f"there.{end}", tmp_path / "back.jsonl"
    there.unlink(missing_ok=True)
    if to == "vlmevalkit" and any(has_no_place(char, end) for text in texts for char in text):
        with pytest.raises(DataError, match="rows cannot be written to the table as they are"):
            export_answers(name, questions, answers, to, there)
        assert not there.exists()
        return
    export_answers(name, questions, answers, to, there)
    export_answers(name, questions, there, "jsonl", back)
    rows = [json.loads(line) for line in back.read_text(encoding="utf-8").split("\n") if line]
    assert [row["text"] for row in rows] == texts
    if to == "vlmevalkit":  # what the tool's own reader makes of it, without its guesses at types
        read = pd.read_excel if end == "xlsx" else lambda file, **more: pd.read_csv(file, sep="\t", **more)
        assert read(there, keep_default_na=False, dtype=str)["prediction"].tolist() == texts


@pytest.mark.parametrize(
    ("end", "text", "why"),
    [
        (
            "xlsx",
            "x" * 32_768,
            r"row 2: has 32,768 characters, and a cell of .xlsx can have 32,767; 1 of 2 rows .*\(2\)",
        ),
        ("xlsx", "🙂" * 16_384, "row 2: has 16,384 characters"),
        ("xlsx", "a\r\nb", "row 2: has a carriage return, which .xlsx cannot contain.*use .tsv, or JSON lines"),
        ("tsv", "a\0b", "row 2: has a NUL character.*use JSON lines"),
        ("tsv", "\ud83d", "row 2: has half a surrogate pair.*use JSON lines"),
    ],
)
def test_what_a_table_cannot_hold_is_refused_and_nothing_is_written(end, text, why, tmp_path):
    with pytest.raises(DataError, match=why):
        write_table(tmp_path / f"t.{end}", [{"prediction": "Yes"}, {"prediction": text}])
    assert not (tmp_path / f"t.{end}").exists()


def test_a_cell_of_the_greatest_length_stands(tmp_path):
    text = "x" * 32_767
    write_table(tmp_path / "t.xlsx", [{"prediction": text}])
    assert read_table(tmp_path / "t.xlsx")[0]["prediction"] == text


def test_a_lone_carriage_return_breaks_no_row(tmp_path):
    """D3: 48 rows became 50."""
    rows = [{"index": n, "prediction": "a\rb" if n % 24 == 0 else "Yes"} for n in range(48)]
    write_table(tmp_path / "t.tsv", rows)
    assert [row["prediction"] for row in read_table(tmp_path / "t.tsv")] == [row["prediction"] for row in rows]


def test_changed_answers_are_counted(tmp_path, capsys):
    questions = [
        {"category": "count", "image": "1.jpg", "question": f"Is it {n}? Please answer yes or no.", "answer": label}
        for n, label in ((1, "Yes"), (2, "No"))
    ]
    for name, rows in (
        ("q", questions),
        ("a", [{"id": f"count/1.jpg/{n}", "text": f"Yes{'!' * n}\n"} for n in (1, 2)]),
    ):
        (tmp_path / name).write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    command = ["export", "--benchmark", "mme", "--questions", str(tmp_path / "q"), "--answers", str(tmp_path / "a")]
    assert main([*command, "--to", "official", "--out", str(tmp_path / "out")]) == 0
    assert "changed 2 answers, because MME's file has one line for an answer" in capsys.readouterr().out
