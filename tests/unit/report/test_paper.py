"""The table that a paper prints: whose numbers stand in one column, which is best, and what may not be left out."""

from __future__ import annotations

import csv
import io
import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from mmpref.cli.main import main
from mmpref.evals import score
from mmpref.evals.results import write_scored
from mmpref.report.paper.columns import wanted_columns
from mmpref.report.paper.inputs import load_models
from mmpref.report.paper.table import paper_table

THINGS = ("dog", "cat", "car", "cup")


def pope_questions(images, *, first=0, word="dog"):
    """One question per image; every second one has the label yes."""
    return [
        {
            "question_id": n,
            "image": f"{n}.jpg",
            "text": f"Is there a {word} in the image?",
            "label": ("yes", "no")[n % 2],
        }
        for n in range(first, first + images)
    ]


def pope(folder, wrong, *, images=30, first=0, unread=(), questions=None, **more):
    """A result of ``mmpref score``: wrong on the questions of ``wrong``, unreadable on those of ``unread``."""
    asked = questions or pope_questions(images, first=first)
    turned = {"yes": "No.", "no": "Yes."}
    right = {"yes": "Yes.", "no": "No."}
    rows = []
    for row in asked:
        number = row["question_id"]
        text = "Hard to tell." if number in unread else (turned if number in wrong else right)[row["label"]]
        rows.append({"id": number, "text": text})
    write_scored(folder, score("pope", asked, rows, **more.pop("options", {})), **more)
    return folder


def chair(folder, made_up, *, forgotten=(), images=24, protocol="mmpref", **more):
    """Captions that name both things of an image, one less on ``forgotten``, one too many on ``made_up``."""
    truth = {str(n): [THINGS[n % 4], THINGS[(n + 1) % 4]] for n in range(images)}
    rows = []
    for n in range(images):
        said = [THINGS[n % 4]] if n in forgotten else [THINGS[n % 4], THINGS[(n + 1) % 4]]
        said += [THINGS[(n + 2) % 4]] if n in made_up else []
        rows.append({"id": str(n), "text": " and ".join(f"a {thing}" for thing in said)})
    write_scored(folder, score("chair", truth, rows, protocol), **more)
    return folder


def run(*arguments, out, more=()):
    assert main(["report", *map(str, arguments), "--table", "paper", "--out", str(out), *more]) == 0
    return out.read_text(encoding="utf-8")


def lines_of(*arguments, tmp_path, more=()):
    """The lines of the .csv by (model, metric), and its notes."""
    rows = list(csv.DictReader(io.StringIO(run(*arguments, out=tmp_path / "table.csv", more=more))))
    return {(row["model"], row["metric"]): row for row in rows if row["model"]}, [
        row["notes"] for row in rows if not row["model"]
    ]


def refused(*arguments, tmp_path, capsys, more=()):
    code = main(["report", *map(str, arguments), "--table", "paper", "--out", str(tmp_path / "t.csv"), *more])
    assert code == 2
    assert not (tmp_path / "t.csv").exists()
    return capsys.readouterr().err


# --- which is best ----------------------------------------------------------------------------------------------------


def test_values_marks_and_differences_are_those_counted_by_hand(tmp_path):
    """30 questions on 30 images: all right; wrong on five, as chance may be; wrong on six, as it is not."""
    pope(tmp_path / "all" / "right" / "pope", wrong=())
    pope(tmp_path / "all" / "five" / "pope", wrong=range(5))
    pope(tmp_path / "all" / "six" / "pope", wrong=range(6))
    lines, _ = lines_of(tmp_path / "all", tmp_path=tmp_path)
    found = {name: lines[name, "accuracy"] for name in ("right", "five", "six")}
    assert {name: float(row["value"]) for name, row in found.items()} == pytest.approx(
        {"right": 1, "five": 25 / 30, "six": 24 / 30}
    )
    assert {name: row["mark"] for name, row in found.items()} == {
        "right": "best", "five": "not clearly worse", "six": "clearly worse",
    }  # fmt: skip
    assert found["right"]["difference_from_best"] == ""
    assert float(found["five"]["difference_from_best"]) == pytest.approx(-5 / 30)
    assert float(found["six"]["difference_from_best"]) == pytest.approx(-6 / 30)
    assert float(found["six"]["difference_high"]) < 0
    assert "too few units differ (5 of 30)" in found["five"]["notes"]
    # five: three of 15 with the label yes are denied, two others affirmed
    assert float(lines["five", "f1"]["value"]) == pytest.approx(2 * 12 / (2 * 12 + 2 + 3))
    assert float(lines["five", "yes_ratio"]["value"]) == pytest.approx(14 / 30)


def test_the_best_is_the_lowest_where_less_is_better_and_neither_where_nothing_is(tmp_path):
    chair(tmp_path / "all" / "careful" / "chair", made_up=range(2))
    chair(tmp_path / "all" / "bold" / "chair", made_up=range(12))
    chair(tmp_path / "all" / "short" / "chair", made_up=range(12), forgotten=range(10))
    lines, _ = lines_of(tmp_path / "all", tmp_path=tmp_path)
    marks = {metric: [lines[name, metric]["mark"] for name in ("bold", "careful", "short")] for _, metric in lines}
    assert marks["chair_s"] == ["clearly worse", "best", "clearly worse"]
    by_hand = {"chair_s": 12 / 24, "chair_i": 12 / (24 + 14 + 12), "recall": 38 / 48}  # ten images with one thing less
    assert {name: float(lines["short", name]["value"]) for name in by_hand} == pytest.approx(by_hand)
    assert marks["recall"] == ["best", "best", "clearly worse"]
    assert marks["mean_length"] == ["", "", ""]
    assert float(lines["bold", "chair_s"]["difference_from_best"]) == pytest.approx(10 / 24)
    assert float(lines["short", "recall"]["difference_from_best"]) == pytest.approx(-10 / 48)
    assert [lines["bold", "chair_s"]["better"], lines["bold", "recall"]["better"]] == ["lower", "higher"]


def test_a_difference_that_goes_both_ways_is_not_clear_however_many_units_make_it(tmp_path):
    pope(tmp_path / "a", wrong=range(8))
    pope(tmp_path / "b", wrong=range(8, 15))
    lines, _ = lines_of(tmp_path / "a", tmp_path / "b", tmp_path=tmp_path)
    assert lines["b", "accuracy"]["mark"] == "best"
    assert lines["a", "accuracy"]["mark"] == "not clearly worse"
    assert float(lines["a", "accuracy"]["difference_low"]) < 0 < float(lines["a", "accuracy"]["difference_high"])


def test_one_model_alone_is_not_the_best_of_itself(tmp_path):
    lines, _ = lines_of(pope(tmp_path / "a", wrong=(1,)), tmp_path=tmp_path)
    assert {row["mark"] for row in lines.values()} == {""}


@pytest.mark.parametrize("lost", ["missing", "changed"])
def test_where_the_best_cannot_be_compared_nothing_is_marked_and_the_reason_is_given(tmp_path, lost):
    best, other = pope(tmp_path / "a", wrong=()), pope(tmp_path / "b", wrong=range(12))
    items = best / "items.jsonl"
    if lost == "missing":
        items.unlink()
    else:  # rows that do not give the numbers of the result
        rows = [json.loads(line) for line in items.read_text().splitlines()]
        items.write_text(
            "".join(json.dumps(row | {"read": "no", "correct": row["label"] == "no"}) + "\n" for row in rows)
        )
    lines, _ = lines_of(best, other, tmp_path=tmp_path)
    assert {lines[name, "accuracy"]["mark"] for name in ("a", "b")} == {"not compared"}
    assert "items.jsonl" in lines["a", "accuracy"]["notes"]
    assert "**" not in run(best, other, out=tmp_path / "t.md")


# --- what shares a column ---------------------------------------------------------------------------------------------


def test_protocols_have_columns_of_their_own(tmp_path):
    for name, protocol in (("a", "mmpref"), ("b", "official"), ("c", "mmpref")):
        pope(tmp_path / name, wrong=range(len(name)), options={"protocol": protocol})
    table = paper_table(load_models([str(tmp_path / name) for name in "abc"])[0])
    assert [(group.protocol, [member is not None for member in group.members]) for group in table.groups] == [
        ("mmpref", [True, False, True]), ("official", [False, True, False]),
    ]  # fmt: skip
    assert any("different rules (mmpref; official)" in note for note in table.notes)
    text = run(tmp_path / "a", tmp_path / "b", out=tmp_path / "t.md")
    assert text.splitlines()[2].count("not measured") == 4


def test_numbers_of_other_readers_have_columns_of_their_own(tmp_path):
    pope(tmp_path / "a", wrong=())
    pope(tmp_path / "b", wrong=(), reader={"revision": 999})
    pope(tmp_path / "c", wrong=(), reader=None)
    table = paper_table(load_models([str(tmp_path / name) for name in "abc"])[0])
    assert len(table.groups) == 3
    assert [group.protocol for group in table.groups][1:] == ["mmpref, reader 999", "mmpref, reader not recorded"]


def test_other_questions_have_columns_of_their_own_and_it_is_said(tmp_path):
    pope(tmp_path / "a", wrong=())
    pope(tmp_path / "b", wrong=range(9))
    pope(tmp_path / "c", wrong=(), images=29)  # one question less
    table = paper_table(load_models([str(tmp_path / name) for name in "abc"])[0])
    assert [group.n for group in table.groups] == [30, 29]
    assert [member is None for member in table.groups[0].members] == [False, False, True]
    assert any("2 sets of questions" in note and "not compared" in note for note in table.notes)
    (accuracy,) = [column for column in table.groups[1].columns if column.metric == "accuracy"]
    assert [cell.mark for cell in accuracy.cells] == ["", "", ""]


def test_a_split_of_many_is_compared_with_the_split_alone(tmp_path):
    splits = {"random": pope_questions(20), "popular": pope_questions(20, first=100, word="cat")}
    answers = [
        {"id": f"{split}/{row['question_id']}", "text": row["label"]} for split, rows in splits.items() for row in rows
    ]
    everything = {
        split: [{**row, "question_id": f"{split}/{row['question_id']}"} for row in rows]
        for split, rows in splits.items()
    }
    write_scored(tmp_path / "both", score("pope", everything, answers))
    pope(tmp_path / "one", wrong=range(9), questions=splits["random"])
    table = paper_table(load_models([str(tmp_path / "one"), str(tmp_path / "both")])[0])
    first, second = table.groups
    assert [group.n for group in table.groups] == [20, 40]
    accuracy = next(column for column in first.columns if column.metric == "accuracy")
    assert [cell.cell.value for cell in accuracy.cells] == [pytest.approx(11 / 20), 1.0]
    assert [cell.mark for cell in accuracy.cells] == ["clearly worse", "best"]
    assert second.members[0] is None
    lines, _ = lines_of(
        tmp_path / "one", tmp_path / "both", tmp_path=tmp_path, more=["--columns", "pope/random/accuracy"]
    )
    assert lines["one", "accuracy"]["mark"] == "clearly worse"
    assert lines["both", "accuracy"]["part"] == "random"


def test_different_limits_of_new_tokens_and_options_are_told(tmp_path):
    chair(tmp_path / "a", made_up=(1,), settings={"model": "m/one", "max_new_tokens": 64})
    chair(tmp_path / "b", made_up=(2,), settings={"model": "m/two", "max_new_tokens": 512})
    text = run(tmp_path / "a", tmp_path / "b", out=tmp_path / "t.md")
    assert "the answers had different limits of new tokens: 64 for m/one; 512 for m/two" in text
    chair(tmp_path / "c", made_up=(1,), scored={"answers": [], "options": ["synonyms=lists/ours.txt", "verdicts=a"]})
    chair(tmp_path / "d", made_up=(2,), scored={"answers": [], "options": ["verdicts=b"]})
    text = run(tmp_path / "c", tmp_path / "d", out=tmp_path / "t.md")
    assert "other options were given: synonyms=ours.txt for c; none for d" in text


def test_named_settings_have_columns_of_their_own_and_one_model_may_have_several(tmp_path):
    for setting in ("opera_512", "halc_64"):
        chair(tmp_path / "all" / "m" / setting, made_up=range(len(setting)), setting={"name": setting, "whole": True})
    chair(tmp_path / "all" / "n" / "x", made_up=(), setting={"name": "halc_64", "whole": True})
    table = paper_table(load_models([str(tmp_path / "all")])[0])
    assert {group.protocol: [member is not None for member in group.members] for group in table.groups} == {
        "mmpref, opera_512": [True, False], "mmpref, halc_64": [True, True],
    }  # fmt: skip


def test_verdicts_of_other_judges_have_columns_of_their_own(tmp_path):
    for name, judge in (("a", "gpt-4-0314"), ("b", "other"), ("c", "gpt-4-0314")):
        chair(tmp_path / name, made_up=(1,))
        file = tmp_path / name / "results.json"
        result = json.loads(file.read_text())
        file.write_text(json.dumps(result | {"benchmark": "mmhal", "notes": [f"judged by {judge}"]}))
    table = paper_table(load_models([str(tmp_path / name) for name in "abc"])[0])
    assert [group.protocol for group in table.groups] == ["mmpref, judged by gpt-4-0314", "mmpref, judged by other"]
    assert [member is not None for member in table.groups[0].members] == [True, False, True]


# --- what may not be left out -----------------------------------------------------------------------------------------


def test_chair_never_stands_without_recall_and_length_nor_yes_or_no_without_the_share_of_yes(tmp_path):
    for name in ("a", "b"):
        chair(tmp_path / name / "chair", made_up=(1,))
        pope(tmp_path / name / "pope", wrong=(1,), unread=(2, 3))
    table = run(tmp_path / "a", tmp_path / "b", out=tmp_path / "t.csv", more=["--columns", "pope/f1,chair/chair_i"])
    rows = [row for row in csv.DictReader(io.StringIO(table)) if row["model"] == "a"]
    assert [row["metric"] for row in rows] == [
        "f1", "yes_ratio", "unparsed", "chair_i", "chair_s", "recall", "mean_length",
    ]  # fmt: skip
    assert float(rows[2]["value"]) == pytest.approx(2 / 30)
    notes = [row["notes"] for row in csv.DictReader(io.StringIO(table)) if not row["model"]]
    assert any("chair_s, recall, mean_length stand beside" in note for note in notes)


def test_what_a_result_warns_of_is_a_footnote(tmp_path):
    pope(tmp_path / "a", wrong=[row["question_id"] for row in pope_questions(24) if row["label"] == "no"])
    pope(tmp_path / "c", wrong=[row["question_id"] for row in pope_questions(30) if row["label"] == "no"])
    pope(tmp_path / "b", wrong=(), unread=range(4))
    text = run(tmp_path / "a", tmp_path / "b", tmp_path / "c", out=tmp_path / "t.md")
    assert "one answer: 90 % of the answers are yes" in text
    assert "WARNING: 30 of 30 (100.0%) of the answers that could be read are 'yes'" in text
    assert "one answer: 100 %" not in text  # said already
    assert "WARNING: 4 of 30 (13.3%) of the answers could not be read" in text
    assert "4 of 30 answers (13.3%)" not in text  # the same, and it has a column
    assert "<sup>" in text
    page = run(tmp_path / "a", tmp_path / "b", out=tmp_path / "t.html")
    assert re.search(r'<a href="#note-1">1</a>', page)
    assert 'id="note-1"' in page


def test_what_is_said_of_one_result_has_one_sign_and_what_all_say_stands_over_the_columns(tmp_path):
    for name, own in (("a", ["x is so", "told of all"]), ("b", ["told of all"]), ("c", ["told of all", "y", "z"])):
        file = pope(tmp_path / name, wrong=()) / "results.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | {"notes": own, "warnings": []}))
    (group,) = paper_table(load_models([str(tmp_path / name) for name in "abc"])[0]).groups
    assert group.footnotes == ("told of all",)
    assert [cell.footnotes for cell in group.columns[0].cells] == [("x is so",), (), ("y; z",)]
    assert not any(cell.footnotes for column in group.columns[1:] for cell in column.cells)


def test_a_model_without_a_result_is_not_measured_and_an_undefined_metric_says_why(tmp_path):
    chair(tmp_path / "a" / "chair", made_up=())
    pope(tmp_path / "b" / "pope", wrong=[n for n in range(30) if n % 2 == 0])  # never yes
    lines, _ = lines_of(tmp_path / "a", tmp_path / "b", tmp_path=tmp_path)
    assert lines["a", "accuracy"]["value"] == ""
    assert lines["a", "accuracy"]["notes"] == "not measured"
    assert lines["b", "chair_s"]["notes"] == "not measured"
    more = ["--columns", "pope/precision"]
    lines, _ = lines_of(tmp_path / "a", tmp_path / "b", tmp_path=tmp_path, more=more)
    assert lines["b", "precision"]["notes"].startswith("undefined; precision: no answer was read as yes")


# --- which model ------------------------------------------------------------------------------------------------------


def test_models_are_named_by_the_argument_by_the_result_or_by_the_folder(tmp_path):
    pope(tmp_path / "all" / "x" / "pope", wrong=(), settings={"model": "org/one", "adapter": "/adapters/lora"})
    chair(tmp_path / "all" / "x" / "chair", made_up=(), settings={"model": "org/one", "adapter": "/adapters/lora"})
    pope(tmp_path / "all" / "two" / "pope", wrong=(1,))
    chair(tmp_path / "three" / "chair", made_up=())
    pope(tmp_path / "four.json", wrong=())
    pope(tmp_path / "five", wrong=(1, 2))
    models, problems = load_models(
        [str(tmp_path / "all"), f"Ours={tmp_path / 'three'}", str(tmp_path / "four.json"), str(tmp_path / "five")]
    )
    assert not problems
    assert {model.name: sorted(e.benchmark for e in model.evaluations) for model in models} == {
        "two": ["pope"], "org/one with lora": ["chair", "pope"], "Ours": ["chair"], "four": ["pope"], "five": ["pope"],
    }  # fmt: skip


def test_a_model_in_a_folder_is_called_as_on_the_command_line_while_that_tells_it_from_others(tmp_path):
    names = {}
    for place, (typed, path) in enumerate(
        (("runs/a", "/data/runs/a"), ("m", "/one/m"), ("m", "/two/m"), ("", "/x/tail"))
    ):
        more = {"model": typed} if typed else {}
        folder = pope(tmp_path / str(place), wrong=(), settings={"model": path, "adapter": "/y/lora"}, **more)
        names[path] = load_models([str(folder)])[0][0].name
    assert list(names.values()) == ["runs/a with lora", "m with lora", "m with lora", "tail with lora"]
    together = [model.name for model in load_models([str(tmp_path / f"{place}") for place in range(4)])[0]]
    assert together == ["runs/a with lora", "/one/m with /y/lora", "/two/m with /y/lora", "tail with lora"]
    runs = [
        pope(tmp_path / "runs" / f"{n}" / "x", wrong=(), settings={"model": f"/r/{n}/model"}) for n in ("dpo", "sft")
    ]
    assert [model.name for model in load_models([str(run) for run in runs])[0]] == ["dpo", "sft"]
    other = pope(tmp_path / "other" / "x", wrong=(), settings={"model": "/q/sft/model"})
    names = [model.name for model in load_models([*map(str, runs), str(other)])[0]]
    assert names == ["dpo", "r/sft", "q/sft"]
    (named,) = load_models([f"/my/name={tmp_path / '0'}"])[0]
    assert named.name == "/my/name"


def test_results_in_run_folders_are_of_the_run(tmp_path, demo_runs):
    models, _ = load_models([str(demo_runs[0].parent)])
    assert sorted(model.name for model in models) == sorted(run.name for run in demo_runs)
    assert all(len(model.evaluations) == 2 for model in models)


def test_one_model_has_one_result_of_the_same_questions(tmp_path, capsys):
    first = pope(tmp_path / "a", wrong=(), settings={"model": "m"})
    second = pope(tmp_path / "b", wrong=(1,), settings={"model": "m"})
    said = refused(first, second, tmp_path=tmp_path, capsys=capsys)
    assert str(first / "results.json") in said
    assert str(second / "results.json") in said
    advice = re.search(r"NAME=(\S+) NAME=(\S+)", said)
    lines, _ = lines_of(f"one={advice[1]}", f"two={advice[2]}", tmp_path=tmp_path)
    assert {model for model, _ in lines} == {"one", "two"}
    other = pope(tmp_path / "c", wrong=(1,), first=500, settings={"model": "m"})
    lines_of(first, other, tmp_path=tmp_path)  # other questions: both stand


def test_wrong_arguments_are_refused_with_what_to_write(tmp_path, capsys):
    one = pope(tmp_path / "a", wrong=())
    assert "more than once" in refused(one, one / "results.json", tmp_path=tmp_path, capsys=capsys)
    assert "does not exist" in refused(tmp_path / "nowhere", tmp_path=tmp_path, capsys=capsys)
    assert "NAME=PATH" in refused(f"={one}", tmp_path=tmp_path, capsys=capsys)
    (tmp_path / "empty").mkdir()
    assert "no result is in it" in refused(tmp_path / "empty", tmp_path=tmp_path, capsys=capsys)
    for column, words in (
        ("pope/f2", "they have accuracy"),
        ("chair/recall", "with one of pope"),
        ("pope/f1,,", "commas"),
    ):
        assert words in refused(one, tmp_path=tmp_path, capsys=capsys, more=["--columns", column])
    assert main(["report", str(one), "--out", str(tmp_path / "t.csv"), "--columns", "pope/f1"]) == 2
    assert "--table paper --columns pope/f1" in capsys.readouterr().err
    assert main(["report", str(one), "--out", str(tmp_path / "t.csv"), "--table", "papre"]) == 2
    assert "--table paper" in capsys.readouterr().err
    pope(tmp_path / "two" / "x", wrong=(), settings={"model": "m1"})
    pope(tmp_path / "two" / "y", wrong=(), settings={"model": "m2"})
    assert "results of 2 models" in refused(f"N={tmp_path / 'two'}", tmp_path=tmp_path, capsys=capsys)
    write = ["report", str(one), "--table", "paper", "--out", str(one / "items.jsonl")]
    assert main(write) == 2
    assert main([*write[:-1], str(one / "results.csv"), "--out", str(one / "results.json")]) == 2


# --- the files --------------------------------------------------------------------------------------------------------

HOSTILE = '=cmd|<b>&_%$#{~^\\"*a*`[x]'


def test_hostile_names_are_text_in_every_file(tmp_path):
    paths = [f"{HOSTILE}={pope(tmp_path / 'a', wrong=())}", f"+2={pope(tmp_path / 'b', wrong=range(9))}"]
    paths[0] = paths[0].removeprefix("=")  # an argument cannot begin with the sign
    page = run(*paths, out=tmp_path / "t.html", more=["--title", "<script>alert(1)</script>"])
    assert "<script>" not in page
    assert "&lt;b&gt;" in page
    rows = list(csv.reader(io.StringIO(run(*paths, out=tmp_path / "t.csv"))))
    assert {row[0][:2] for row in rows[1:]} >= {"'+"}
    markdown = run(*paths, out=tmp_path / "t.md")
    assert "<b>" not in markdown
    pipes = {line.count("|") for line in markdown.splitlines() if line.startswith("|")}
    assert len(pipes) == 1
    tex = run(*paths, out=tmp_path / "t.tex", more=["--title", "50 % & more_"])
    assert r"50 \% \& more\_" in tex
    assert tex.count(r"\begin{") == tex.count(r"\end{")
    for line in tex.splitlines():
        if re.search(r"\\\\(\[-?\dpt\])?$", line) and r"\multicolumn" not in line:
            assert len(re.findall(r"(?<!\\)&", line)) == 4


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="no LaTeX here")
@pytest.mark.parametrize("names", [(HOSTILE.removeprefix("="), "[x] --- `b'"), ("llava-1.5-7b", "Uni-DPO")])
def test_the_table_compiles_with_booktabs_alone(tmp_path, names):
    for place, (name, wrong) in enumerate({names[0]: (), names[1]: range(9)}.items()):
        pope(tmp_path / "x" / str(place) / "pope", wrong=wrong, unread=range(20, 24), settings={"model": name})
        chair(tmp_path / "x" / str(place) / "chair", made_up=wrong, settings={"model": name})
    run(tmp_path / "x", out=tmp_path / "t.tex")
    page = r"\hsize=469pt \textwidth=469pt \linewidth=469pt \columnwidth=469pt"  # letter with margins of an inch
    (tmp_path / "d.tex").write_text(
        rf"\documentclass{{article}}\usepackage{{booktabs}}\begin{{document}}{page}\input{{t.tex}}\end{{document}}"
    )
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "d.tex"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    if "booktabs.sty' not found" in done.stdout:
        pytest.skip("LaTeX without booktabs")
    assert done.returncode == 0, done.stdout[-2000:]
    assert names[0].startswith("cmd") or "Overfull" not in done.stdout


def test_a_change_is_in_the_unit_of_what_changes(tmp_path):
    """RePOPE's labels against POPE's: points of the same percentages."""
    rows = pope_questions(20)
    kept = [{**row, "label": "no"} if row["question_id"] == 0 else row for row in rows]
    said = [{"id": row["question_id"], "text": row["label"]} for row in rows]
    write_scored(tmp_path / "repope", score("repope", kept, said, pope=rows))
    text = run(tmp_path / "repope", out=tmp_path / "t.md", more=["--columns", "repope/change_accuracy"])
    assert "change_accuracy (%)" in text
    assert "−5.0" in text


def test_a_model_that_was_not_asked_takes_no_more_room_in_latex(tmp_path):
    paths = [chair(tmp_path / "a" / "chair", made_up=()), f"日本={pope(tmp_path / 'b' / 'pope', wrong=())}"]
    tex = run(*paths, out=tmp_path / "t.tex")
    assert tex.count(" & --") == 8
    assert tex.count("not measured") == 1  # in the caption
    assert "--: not measured.}" in tex
    assert "% pdflatex has no letters for some of the names" in tex
    assert "not measured" in run(*paths, out=tmp_path / "t.md")
    alone = run(paths[0], out=tmp_path / "alone.tex")
    assert not [part for part in (" & --", "not measured", "% pdflatex") if part in alone]


def test_wide_tables_go_on_below_in_latex(tmp_path):
    for name in ("a", "b"):
        chair(tmp_path / name / "chair", made_up=())
        pope(tmp_path / name / "pope", wrong=())
        pope(tmp_path / name / "more", wrong=(), first=400)
    tex = run(tmp_path / "a", tmp_path / "b", out=tmp_path / "t.tex")
    assert tex.count(r"\begin{tabular}") == 2
    assert all(len(columns) <= 9 for columns in re.findall(r"\\begin\{tabular\}\{(\w+)\}", tex))


def test_the_page_says_how_it_is_made_again(tmp_path):
    one, two = pope(tmp_path / "a", wrong=()), pope(tmp_path / "b b", wrong=range(9))
    page = run(f"A={one}", two, out=tmp_path / "t.html", more=["--columns", "pope/f1"])
    assert f"mmpref report A={one} &#39;{two}&#39; --table paper --out {tmp_path / 't.html'} --columns pope/f1" in page
    assert str(two / "results.json") in page


def test_columns_stand_in_the_order_that_was_asked_for(tmp_path):
    one = pope(tmp_path / "a", wrong=())
    evaluations = load_models([str(one)])[0][0].evaluations
    (wanted,) = wanted_columns(evaluations, ["pope/recall", "pope/accuracy"])
    assert wanted.metrics == ("recall", "accuracy", "yes_ratio")
    assert wanted_columns(evaluations)[0].metrics == ("accuracy", "f1", "yes_ratio")
    assert wanted_columns(evaluations, ["pope"])[0].metrics == ("accuracy", "f1", "yes_ratio")


def test_runs_are_compared_as_before(tmp_path):
    one, two = pope(tmp_path / "a", wrong=()), pope(tmp_path / "b", wrong=range(9))
    out = tmp_path / "t.csv"
    assert main(["report", str(one), str(two), "--out", str(out)]) == 0
    assert out.read_text().startswith("benchmark,protocol,part,metric,unit,better,run,baseline")
    assert Path(tmp_path / "t.csv").exists()
