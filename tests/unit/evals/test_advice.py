"""What an error of the benchmarks tells to do is done here, as it is printed; a new advice needs a case."""

import ast
import json
import re
from pathlib import Path

import pytest

import mmpref.evals
from mmpref.cli.main import main
from mmpref.files.tables import write_table
from tests.unit.evals.cases import arguments, load

PARTS = Path(mmpref.evals.__file__).parent
_ADVICE = re.compile(r"`([^`{}]+(?:\{[^`]*)?)`|pass (\w+=)[A-Z]+")
COCO = {
    "images": [{"id": 7}],
    "categories": [{"id": 1, "name": "dog"}],
    "annotations": [{"image_id": 7, "category_id": 1}],
}


def written(tmp_path, name, rows):
    file = tmp_path / name
    file.write_text(json.dumps(rows), encoding="utf-8")
    return str(file)


def base(benchmark, tmp_path, questions, answers):
    if not isinstance(questions, Path):
        questions = written(tmp_path, "questions.json", questions)
    given = ["--questions", str(questions), "--answers", written(tmp_path, "answers.json", answers)]
    return ["score", "--benchmark", benchmark, *given]


def case(name, tmp_path):
    """The command that fails, and the files that stand for FILE and PATH in the advice."""
    caption = [{"image_id": 7, "caption": "A dog."}]
    truth = {"x1": ["dog"]}
    synonyms = written(tmp_path, "s.json", [])
    Path(synonyms).write_text("dog, puppy\n", encoding="utf-8")
    if name == "image_name":
        return [*base("chair", tmp_path, truth, [{"image_id": "x1", "caption": "A dog."}])], None
    if name == "image_name of mme":
        questions, answers, _ = arguments("mme", tmp_path)
        return [*base("mme", tmp_path, questions, answers), "image_name={id}"], None
    if name == "synonyms":
        return [*base("chair", tmp_path, COCO, caption), "--protocol", "official"], synonyms
    if name == "synonyms of object_halbench":
        items = [{"image_id": 7, "question": "What?", "objects": ["dog"]}]
        return [*base("object_halbench", tmp_path, items, caption), "--protocol", "official"], synonyms
    if name == "truth":
        items = [{"image_id": 7, "question": "What?"}]
        return base("object_halbench", tmp_path, items, caption), written(tmp_path, "t.json", {"7": ["dog"]})
    if name == "verdicts":
        found = load("mmhal")
        verdicts = [{"id": row["image_id"], "score": 4, "judge": "j"} for row in found["questions"]]
        return base("mmhal", tmp_path, found["questions"], found["answers"]), written(tmp_path, "v.json", verdicts)
    if name == "verdicts of win_rate":
        rows = [{"id": n, "prompt": f"p{n}", "output": "r"} for n in range(3)]
        verdicts = [{"id": n, "preference": 1.0, "judge": "j"} for n in range(3)]
        answers = [{"id": n, "text": "t"} for n in range(3)]
        return base("win_rate", tmp_path, rows, answers), written(tmp_path, "v.json", verdicts)
    if name == "verdicts of mmvp":
        found = load("mmvp")
        command = [*base("mmvp", tmp_path, found["questions"], found["answers"]), "--protocol", "official"]
        return command, written(tmp_path, "v.json", found["verdicts"])
    if name == "image_name of mmvp":
        found = load("mmvp")
        return [*base("mmvp", tmp_path, found["questions"], found["answers"]), "image_name={id}"], None
    if name == "subset":
        questions, answers, _ = arguments("amber", tmp_path)
        return base("amber", tmp_path, questions, answers[1:]), None
    if name == "by":
        pairs = [{"id": "1", "prompt": "p", "chosen": "a", "rejected": "b"}]
        return [*base("preference", tmp_path, pairs, [{"id": "1", "chosen": -1.0, "rejected": -2.0}]), "by=score"], None
    if name == "pairing":
        rows = [{"question_id": 1, "image": "1.jpg", "text": "Is there a dog?", "label": "yes"}]
        return [*base("pope", tmp_path, rows, [{"text": "yes"}]), "pairing=order"], None
    rows = [{"question_id": 1, "image": "1.jpg", "text": "Is there a dog?", "label": "yes"}]  # a table
    command = base("pope", tmp_path, rows, [{"id": 1, "text": "Yes\r\n"}])
    return ["export", *command[1:], "--to", "vlmevalkit", "--out", str(tmp_path / "t.xlsx")], None


CASES = {
    "image_name": ["image_name={id}.jpg", "image_name={id:012d}.jpg"],
    "image_name of mme": ["image_name={category}/{image}", "image_name={image}"],
    "synonyms": ["synonyms=", "--protocol mmpref"],
    "synonyms of object_halbench": ["synonyms=", "--protocol mmpref"],
    "truth": ["truth="],
    "verdicts": ["verdicts="],
    "verdicts of win_rate": ["verdicts="],
    "verdicts of mmvp": ["verdicts=", "--protocol mmpref"],
    "image_name of mmvp": ["image_name={index}.jpg"],
    "subset": ["subset=true"],
    "by": ["by=auto"],
    "pairing": ["--protocol official"],
    "table": ["--to jsonl"],
}
ELSEWHERE = {"pairing=order"}  # in test_real_layouts, with the splits that it is about


def followed(command, advice, file):
    """The command with one advice carried out: an option that was given is replaced."""
    words = [f"{advice}{file}"] if advice.endswith("=") else advice.split(" ", 1)
    option = words[0].partition("=")[0]
    kept = [word.replace(".xlsx", ".jsonl") for word in command] if advice == "--to jsonl" else list(command)
    if words[0].startswith("--"):
        if words[0] in kept:
            del kept[kept.index(words[0]) : kept.index(words[0]) + 2]
    else:
        kept = [word for word in kept if not word.startswith(f"{option}=")]
    return [*kept, *words]


@pytest.mark.parametrize("name", CASES)
def test_the_advice_works_as_it_is_printed(name, tmp_path, capsys):
    command, file = case(name, tmp_path)
    assert main(command) in (2, 3, 8)
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    found = [first or second for first, second in _ADVICE.findall(err)]
    assert [advice for advice in found if advice not in ELSEWHERE] == CASES[name]
    for advice in found:
        if advice == "image_name={id:012d}.jpg":  # for ids that are numbers
            numbered = base("chair", tmp_path, {"7": ["dog"]}, [{"image_id": 7, "caption": "A dog."}])
            assert main([*numbered, advice]) == 0
        else:
            assert main(followed(command, advice, file)) == 0, advice


def test_every_advice_of_the_benchmarks_has_a_case():
    known = {advice for advices in CASES.values() for advice in advices} | ELSEWHERE
    for file in sorted(PARTS.glob("*.py")):
        tree = ast.parse(file.read_text(encoding="utf-8"))
        docs = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
        for node in ast.walk(tree):
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docs:
                for first, second in _ADVICE.findall(node.value):
                    assert (first or second) in known, f"{file.name}: {first or second}"


def test_a_name_with_braces_is_text_on_the_command_line(tmp_path):
    """C6: once a mapping, as YAML reads it."""
    command = base("chair", tmp_path, {"x1": ["dog"]}, [{"image_id": "x1", "caption": "A dog."}])
    for option in ("image_name={id}", "image_name={id}.jpg", "image_name='{id}.jpg'", "prompt={x}: what?"):
        named = [] if option.startswith("image_name") else ["image_name={id}.jpg"]
        assert main([*command, option, *named]) == 0


def test_a_table_can_be_read_again(tmp_path):
    write_table(tmp_path / "t.tsv", [{"index": "1", "prediction": "x"}])
    assert (tmp_path / "t.tsv").read_text(encoding="utf-8").startswith('"index"')
