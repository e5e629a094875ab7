"""From saved answers to a comparison, with nothing but files: ``mmpref score`` twice, then ``mmpref report``."""

import csv
import html
import json
import re
import shlex
from pathlib import Path

import pytest

from mmpref.cli.main import main

LABELS = ["yes" if number % 2 else "no" for number in range(60)]


def write_rows(path: Path, rows: list[dict[str, object]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.fixture
def scored(tmp_path: Path) -> list[Path]:
    """POPE answers of two models, the second right more often, each scored into a file."""
    questions = [
        {"question_id": n, "image": f"{n // 2}.jpg", "text": f"Is there a cup {n}?", "label": label}
        for n, label in enumerate(LABELS)
    ]
    asked = write_rows(tmp_path / "coco_pope_popular.json", questions)
    files = []
    for name, wrong in (("first", 3), ("second's & <b>", 12)):
        said = [
            {"id": n, "text": label if n % wrong else ("no" if label == "yes" else "yes")}
            for n, label in enumerate(LABELS)
        ]
        answers = write_rows(tmp_path / f"{name}.jsonl", said)
        out = tmp_path / f"{name}.json"
        command = ["score", "--benchmark", "pope", "--questions", str(asked), "--answers", str(answers)]
        assert main([*command, "--out", str(out)]) == 0
        files.append(out)
    return files


def text_of(page: Path) -> str:
    plain = re.sub(r"<style.*?</style>|<svg.*?</svg>", "", page.read_text(encoding="utf-8"), flags=re.S)
    return re.sub(r"\s+", " ", html.unescape(re.sub(r"<[^>]+>", " ", plain)))


def test_the_page_compares_what_was_only_scored(scored: list[Path], tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    assert main(["report", *map(str, scored), "--out", str(page)]) == 0
    text = text_of(page)
    assert "POPE accuracy: better on popular (+25.0 points, 95 % interval" in text
    assert "turned right" in text
    assert "fixed: wrong at the baseline" in text
    assert "POPE first" not in text  # a file's name is no split
    for absent in ("CHAIR not measured", "No training curves", "state not recorded", "mmpref eval"):
        assert absent not in text


def test_the_commands_that_the_page_gives_make_the_same_result(scored: list[Path], tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    main(["report", *map(str, scored), "--out", str(page)])
    commands = re.findall(r"<pre[^>]*>(mmpref score .*?)</pre>", page.read_text(encoding="utf-8"), flags=re.S)
    assert len(commands) == 2
    for command, file in zip(commands, scored, strict=True):
        before = file.read_bytes()
        file.unlink()
        assert main(shlex.split(html.unescape(command))[1:]) == 0
        assert file.read_bytes() == before


def test_a_folder_holds_result_and_items(scored: list[Path], tmp_path: Path) -> None:
    command = ["score", "--benchmark", "pope", "--questions", str(tmp_path / "coco_pope_popular.json")]
    assert main([*command, "--answers", str(tmp_path / "first.jsonl"), "--out", str(tmp_path / "kept")]) == 0
    assert {file.name for file in (tmp_path / "kept").iterdir()} == {"results.json", "items.jsonl"}
    page = tmp_path / "page.html"
    assert main(["report", str(tmp_path / "kept"), str(scored[1]), "--out", str(page)]) == 0
    assert "better on popular (+25.0 points" in text_of(page)


def test_tables_for_other_programs(scored: list[Path], tmp_path: Path) -> None:
    files = [tmp_path / f"table.{ending}" for ending in ("csv", "md", "tex")]
    outs = [part for file in files for part in ("--out", str(file))]
    assert main(["report", *map(str, scored), *outs]) == 0
    rows = list(csv.DictReader(files[0].read_text(encoding="utf-8").splitlines()))
    found = {(row["run"], row["metric"]): row for row in rows}
    second = found["second's & <b>", "accuracy"]
    result = json.loads(scored[1].read_text(encoding="utf-8"))
    assert float(second["value"]) == result["metrics"]["accuracy"]
    assert [float(second["low"]), float(second["high"])] == result["intervals"]["accuracy"]
    assert float(second["difference"]) == pytest.approx(0.25)
    assert (second["benchmark"], second["part"], second["verdict"]) == ("POPE", "popular", "better")
    assert found["first", "accuracy"]["difference"] == ""
    markdown = files[1].read_text(encoding="utf-8")
    assert "**POPE popular, protocol mmpref**" in markdown
    lines = [line for line in markdown.splitlines() if line.startswith("|")]
    assert len({line.count("|") for line in lines}) == 1
    assert "| second's & <b> | **91.7**" in markdown
    latex = files[2].read_text(encoding="utf-8")
    assert r"second's \& \textless{}b\textgreater{} & \textbf{91.7}" in latex
    assert not re.search(
        r"(?<!\\)[%&_#$](?![^\n]*needs)", re.sub(r" & |\$\\\w+\$|^% .*$|\$-\$", " ", latex, flags=re.M)
    )


@pytest.mark.parametrize(
    ("name", "says"), [("x.pdf", "give a file that ends in .html, .csv, .md, .tex"), ("x", "ends")]
)
def test_another_ending_is_refused_before_anything_is_written(
    scored: list[Path], tmp_path: Path, name: str, says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    outs = ["--out", str(tmp_path / "table.csv"), "--out", str(tmp_path / name)]
    assert main(["report", *map(str, scored), *outs]) == 2
    assert says in capsys.readouterr().err
    assert not (tmp_path / "table.csv").exists()


def test_score_does_not_write_over_what_it_reads(
    scored: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked, answers = tmp_path / "coco_pope_popular.json", tmp_path / "first.jsonl"
    command = ["score", "--benchmark", "pope", "--questions", str(asked), "--answers", str(answers)]
    for out in (asked, answers):
        before = out.read_bytes()
        assert main([*command, "--out", str(out)]) == 2
        assert "would write over" in capsys.readouterr().err
        assert out.read_bytes() == before
    assert main([*command, "--out", str(tmp_path / "table.csv")]) == 2
    advice = re.search(r"write (\S+), and then make the table with: mmpref (.*)", capsys.readouterr().err)
    assert advice is not None
    assert main([*command, "--out", advice[1]]) == 0
    assert main(advice[2].split()) == 0
    assert (tmp_path / "table.csv").read_text(encoding="utf-8").startswith("benchmark,")


def test_an_evaluation_that_a_model_answered_is_not_written_over(
    scored: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "evals"
    folder.mkdir()
    (folder / "settings.json").write_text("{}")
    command = ["score", "--benchmark", "pope", "--questions", str(tmp_path / "coco_pope_popular.json")]
    assert main([*command, "--answers", str(tmp_path / "first.jsonl"), "--out", str(folder)]) == 2
    assert "evaluation by mmpref eval" in capsys.readouterr().err


# --- reasons stand in every form --------------------------------------------------------------------------------------


def pope(folder: Path, name: str, said: list[dict[str, object]], asked: Path, out: str) -> Path:
    answers = write_rows(folder / f"{name}.jsonl", said)
    command = ["score", "--benchmark", "pope", "--questions", str(asked), "--answers", str(answers)]
    assert main([*command, "--out", str(folder / out)]) in (0, 8)  # 8: most could not be read, and the result stands
    return folder / out


def every_form(runs: list[Path], folder: Path) -> dict[str, str]:
    files = [folder / f"table.{ending}" for ending in ("html", "csv", "md", "tex")]
    assert main(["report", *map(str, runs), *(part for file in files for part in ("--out", str(file)))]) == 0
    plain = {file.suffix: file.read_text(encoding="utf-8") for file in files[1:]}
    plain[".tex"] = plain[".tex"].replace("\\%", "%").replace("\\_", "_")
    return {".html": text_of(files[0]), **plain}


def test_why_there_is_no_difference_stands_in_every_form(scored: list[Path], tmp_path: Path) -> None:
    items = scored[1].with_suffix(".items.jsonl")
    items.write_text("".join(items.read_text(encoding="utf-8").splitlines(keepends=True)[:20]), encoding="utf-8")
    for form, text in every_form(scored, tmp_path).items():
        assert "items.jsonl of second's" in text, form
        assert "gives other accuracy" in text, form
    rows = list(csv.DictReader((tmp_path / "table.csv").read_text(encoding="utf-8").splitlines()))
    assert all("no paired difference" in row["note"] for row in rows if row["run"].startswith("second"))


def test_how_many_answers_could_not_be_read_stands_in_every_form(scored: list[Path], tmp_path: Path) -> None:
    said = [{"id": n, "text": "Yes" if n < 4 else "I wonder."} for n in range(60)]
    asked = tmp_path / "coco_pope_popular.json"
    unread = pope(tmp_path, "unread", said, asked, "unread.json")
    for form, text in every_form([scored[0], unread], tmp_path).items():
        assert "56 of 60 answers (93.3%) could not be read" in text, form
    result = json.loads(unread.read_text(encoding="utf-8"))
    unread.write_text(json.dumps(result | {"notes": [], "warnings": []}), encoding="utf-8")  # an older file
    for form, text in every_form([scored[0], unread], tmp_path).items():
        assert "56 of 60 answers (93.3%) could not be read" in text, form


def test_a_split_alone_is_paired_with_the_same_split_of_several(tmp_path: Path) -> None:
    files, answers = [], {}
    for split in ("random", "popular", "adversarial"):
        rows = [
            {"question_id": n, "image": f"{n // 2}.jpg", "text": f"Is there a {split} cup {n}?", "label": label}
            for n, label in enumerate(LABELS)
        ]
        files.append(write_rows(tmp_path / f"coco_pope_{split}.json", rows))
        said = [{"id": n, "text": label if n % 5 else "no"} for n, label in enumerate(LABELS)]
        answers[split] = write_rows(tmp_path / f"a_{split}.jsonl", said)
    given = [part for file in files for part in ("--questions", str(file))]
    given += [part for file in answers.values() for part in ("--answers", str(file))]
    assert main(["score", "--benchmark", "pope", *given, "--out", str(tmp_path / "all.json")]) == 0
    one = pope(tmp_path, "b", [{"id": n, "text": label} for n, label in enumerate(LABELS)], files[0], "one.json")
    every_form([tmp_path / "all.json", one], tmp_path)
    rows = list(csv.DictReader((tmp_path / "table.csv").read_text(encoding="utf-8").splitlines()))
    found = {(row["part"], row["run"]): row for row in rows if row["metric"] == "accuracy"}
    assert float(found["random", "one"]["difference"]) == pytest.approx(0.1)
    assert found["popular", "one"]["value"] == ""


def test_a_run_without_the_questions_of_the_first_is_told(scored: list[Path], tmp_path: Path) -> None:
    rows = [{"question_id": n, "image": f"g{n}.jpg", "text": "Is there a cup?", "label": "yes"} for n in range(30)]
    asked = write_rows(tmp_path / "gqa_pope_popular.json", rows)
    other = pope(tmp_path, "gqa", [{"id": n, "text": "yes" if n % 2 else "no"} for n in range(30)], asked, "gqa.json")
    for form, text in every_form([scored[0], other], tmp_path).items():
        assert "2 sets of questions are called 'popular' and have no question in common" in text, form
        assert "no difference, first was not asked these questions" in text, form


def test_no_spreadsheet_runs_a_name_and_latex_prints_it(scored: list[Path], tmp_path: Path) -> None:
    names = ["=cmd|calc", "+1", "-1", "@SUM(1)", "*bold --- ``it'' \"q\" {} \\x | <a> ~^ ,,"]
    paths = []
    for place, name in enumerate(names):
        paths.append(tmp_path / f"{name}.json")
        paths[-1].write_bytes(scored[place % 2].read_bytes())
        write_rows(paths[-1].with_name(f"{name}.items.jsonl"), [])
    every_form(paths, tmp_path)
    text = (tmp_path / "table.csv").read_text(encoding="utf-8")
    assert text.startswith("benchmark,")
    for row in csv.DictReader(text.splitlines()):
        for key, value in row.items():
            if value[:1] in ("=", "+", "-", "@"):
                assert key in ("value", "low", "high", "difference", "difference_low", "difference_high"), (key, value)
                float(value)
    assert "'=cmd|calc," in text
    latex = (tmp_path / "table.tex").read_text(encoding="utf-8")
    spelt = (
        r"{*}bold -{}-{}- \textasciigrave{}\textasciigrave{}it'{}' {''}q{''} \{\} \textbackslash{}x \textbar{} "
        r"\textless{}a\textgreater{} \textasciitilde{}\textasciicircum{} ,{},"
    )
    assert spelt in latex
    assert "|" not in latex


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("mk.py", "import json\n"),
        ("answers.jsonl", '{"id": 1, "text": "yes"}\n{"id": 2, "text": "no"}\n'),
        ("one_answer.jsonl", '{"id": 1, "text": "yes"}\n'),
        ("rows.json", "[]"),
        ("other.json", '{"a": 1}'),
        ("numbers.json", '{"metrics": {"accuracy": 0.5}}'),
        ("empty.json", ""),
        ("other/results.json", '{"a": 1}'),
        ("app/manifest.json", '{"name": "an app"}'),
    ],
)
def test_what_holds_no_result_is_refused(
    scored: list[Path], tmp_path: Path, name: str, content: str, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / name
    file.parent.mkdir(exist_ok=True)
    file.write_text(content, encoding="utf-8")
    given = file.parent if "/" in name else file
    capsys.readouterr()
    assert main(["report", str(scored[0]), str(given), "--out", str(tmp_path / "x.md")]) == 2
    told = capsys.readouterr().err
    assert f"{given} holds nothing that report reads" in told
    assert "run folders of mmpref train, folders of mmpref eval, and files that mmpref score --out" in told
    assert not (tmp_path / "x.md").exists()


def test_answers_in_the_place_of_a_result_are_told_how_to_become_one(
    scored: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["report", str(tmp_path / "first.jsonl"), "--out", str(tmp_path / "x.md")]) == 2
    advice = re.search(r"make one: mmpref (score .*)", capsys.readouterr().err)
    assert advice is not None
    line = advice[1].replace("NAME", "pope", 1).replace("FILE", str(tmp_path / "coco_pope_popular.json"), 1)
    assert main(line.split()) == 0
    assert main(["report", line.split()[-1], "--out", str(tmp_path / "x.md")]) == 0
