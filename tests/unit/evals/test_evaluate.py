import dataclasses
import json

import pytest

from mmpref.errors import ConfigError, DataError, EvalIncompleteError
from mmpref.evals import EvalSettings, evaluate, score
from mmpref.generation import ScriptedAnswerer
from mmpref.records import Answer

QUESTIONS = [
    {"question_id": n, "image": f"{n // 2}.png", "text": f"Is there a {n}?", "label": "yes" if n % 2 else "no"}
    for n in range(1, 13)
]


class Counting:
    """Answers as the script says and remembers what it was asked; dies after ``lives`` answers."""

    def __init__(self, lives=None):
        self.asked = []
        self.lives = lives

    def answer(self, samples):
        for sample in samples:
            if self.lives is not None and len(self.asked) >= self.lives:
                raise KeyboardInterrupt
            self.asked.append(sample.id)
            yield Answer(id=sample.id, text="Yes" if int(sample.id) % 3 else "no.")


def run(out, answerer, **more):
    names = {field.name for field in dataclasses.fields(EvalSettings)}
    settings = EvalSettings(**{name: more.pop(name) for name in names & more.keys()})
    given = {"questions": QUESTIONS, "images_root": None, "out": out, "answerer": answerer, **more}
    return evaluate("a-model", "pope", settings=settings, **given)


def saved_ids(out):
    return [json.loads(line)["id"] for line in (out / "answers.jsonl").read_text(encoding="utf-8").splitlines()]


def test_answers_are_scored_and_written(tmp_path):
    seen = []
    result = run(tmp_path, Counting(), progress=lambda done, total: seen.append((done, total)))
    assert result.n == 12
    assert seen == [(n, 12) for n in range(1, 13)]
    content = json.loads((tmp_path / "results.json").read_text(encoding="utf-8"))
    assert content["benchmark"] == "pope"
    assert content["protocol"] == "mmpref"
    assert (content["n"], content["n_unparsed"]) == (12, 0)
    assert content["metrics"] == dict(result.metrics)
    assert content["intervals"]["accuracy"] == list(result.intervals["accuracy"])
    assert content["model"] == "a-model"
    assert content["complete"] is True
    assert {"python", "mmpref", "torch"} <= content["versions"].keys()
    assert content["protocols"]["official"]["metrics"]["accuracy"] == pytest.approx(result.metrics["accuracy"])
    items = [json.loads(line) for line in (tmp_path / "items.jsonl").read_text(encoding="utf-8").splitlines()]
    assert items[0] == {
        "id": "1", "split": "", "image": "0.png", "question": "Is there a 1?", "text": "Yes", "read": "yes",
        "label": "yes", "correct": True,
    }  # fmt: skip
    assert score("pope", QUESTIONS, tmp_path / "answers.jsonl") == result


def test_a_killed_run_resumes_without_repeating(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, Counting(lives=5))
    assert len(saved_ids(tmp_path)) == 5
    assert not (tmp_path / "results.json").exists()
    second = Counting()
    resumed = run(tmp_path, second)
    assert second.asked == [str(n) for n in range(6, 13)]
    assert resumed == run(tmp_path / "whole", Counting())
    third = Counting()
    assert run(tmp_path, third) == resumed
    assert third.asked == []


@pytest.mark.parametrize(
    ("tail", "asked_again"), [('{"id": "5", "te', ["5"]), ('{"id": "5", "text": "é'.encode()[:-1], ["5"]), ("", [])]
)
def test_a_torn_last_line_is_asked_again(tmp_path, tail, asked_again):
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, Counting(lives=5))
    file = tmp_path / "answers.jsonl"
    lines = file.read_bytes().split(b"\n")
    # either half of line five, or all of it without the line end
    torn = [*lines[:4], tail if isinstance(tail, bytes) else tail.encode() or lines[4]]
    file.write_bytes(b"\n".join(torn))
    second = Counting()
    run(tmp_path, second)
    assert second.asked == [*asked_again, *(str(n) for n in range(6, 13))]
    assert sorted(map(int, saved_ids(tmp_path))) == list(range(1, 13))


def test_a_broken_line_in_the_middle_is_an_error(tmp_path):
    run(tmp_path, Counting())
    file = tmp_path / "answers.jsonl"
    lines = file.read_text(encoding="utf-8").splitlines()
    lines[3] = lines[3][:9]
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")
    with pytest.raises(DataError, match="line 4 is not JSON"):
        run(tmp_path, Counting())


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"max_new_tokens": 7}, r"max_new_tokens \(64 then, 7 now\)"),
        ({"questions": QUESTIONS[:5]}, "questions"),
        ({"prompt_suffix": " Answer in one word."}, "questions"),
        ({"answerer": ScriptedAnswerer(lambda sample: "yes")}, r"answerer \(Counting then, ScriptedAnswerer now\)"),
    ],
)
def test_answers_made_with_other_settings_are_refused(tmp_path, change, named):
    run(tmp_path, Counting())
    with pytest.raises(ConfigError, match=named):
        run(tmp_path, **{"answerer": Counting(), **change})


def test_a_model_that_changed_on_disk_is_refused(tmp_path):
    model = tmp_path / "model"
    model.mkdir()
    (model / "model.safetensors").write_bytes(b"one")
    ask = {"benchmark": "pope", "questions": QUESTIONS, "images_root": None, "out": tmp_path / "out"}
    evaluate(model, answerer=Counting(), **ask)
    (model / "model.safetensors").write_bytes(b"two")
    with pytest.raises(ConfigError, match="model_files"):
        evaluate(model, answerer=Counting(), **ask)


def test_labels_and_protocol_are_no_setting_of_the_answers(tmp_path):
    run(tmp_path, Counting())
    flipped = [{**row, "label": "yes"} for row in QUESTIONS]
    again = Counting()
    assert run(tmp_path, again, questions=flipped, protocol="official").protocol == "official"
    assert again.asked == []


def test_a_limited_run_can_be_widened(tmp_path):
    assert run(tmp_path, Counting(), limit=4).n == 4
    assert json.loads((tmp_path / "results.json").read_text(encoding="utf-8"))["complete"] is False
    second = Counting()
    assert run(tmp_path, second).n == 12
    assert second.asked == [str(n) for n in range(5, 13)]
    kept = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
    with pytest.raises(
        ConfigError, match="holds answers to 9 questions beyond the first 3, which are all that the limit"
    ):
        run(tmp_path, Counting(), limit=3)
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == kept
    with pytest.raises(ConfigError, match="limit must be >= 1"):
        run(tmp_path, Counting(), limit=0)


def test_answers_without_settings_are_refused(tmp_path):
    (tmp_path / "answers.jsonl").write_text('{"id": "1", "text": "yes"}\n', encoding="utf-8")
    with pytest.raises(ConfigError, match=r"answers but no settings\.json"):
        run(tmp_path, Counting())


class Forgetful(Counting):
    def answer(self, samples):
        yield from list(super().answer(samples))[:-2]


class Repeating(Counting):
    def answer(self, samples):
        for _ in range(2):
            yield from super().answer(samples)


def test_an_answerer_that_leaves_questions_out_is_incomplete(tmp_path):
    with pytest.raises(EvalIncompleteError, match=r"2 of 12 questions have no answer: '11', '12'"):
        run(tmp_path, Forgetful())
    assert len(saved_ids(tmp_path)) == 10


def test_an_answer_that_was_not_asked_for_is_refused(tmp_path):
    with pytest.raises(DataError, match="'1', which was not asked"):
        run(tmp_path, Repeating())


def test_chair_with_prompts_runs_the_same_way(tmp_path):
    truth = {f"s{n}": ["cup"] for n in range(4)}
    prompts = [{"image_id": name, "image": f"{name}.png", "text": "describe"} for name in truth]
    result = evaluate(
        "m",
        "chair",
        questions=truth,
        images_root=None,
        out=tmp_path,
        prompts=prompts,
        synonyms=["cup, mug"],
        answerer=ScriptedAnswerer(dict.fromkeys(truth, "a cup")),
    )
    assert result.metrics["recall"] == 1
    assert "official" in json.loads((tmp_path / "results.json").read_text(encoding="utf-8"))["protocols"]


def test_a_setting_that_is_given_as_an_option_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"limit is a setting and no option of pope: give settings=EvalSettings"):
        evaluate("m", "pope", questions=QUESTIONS, images_root=None, out=tmp_path, answerer=Counting(), limit=3)
    with pytest.raises(ConfigError, match="option of pope"):
        evaluate("m", "pope", questions=QUESTIONS, images_root=None, out=tmp_path, answerer=Counting(), batches=3)
