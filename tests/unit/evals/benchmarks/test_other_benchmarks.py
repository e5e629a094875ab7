"""Answers of another benchmark, split or revision whose ids exist here too are refused by what their rows show."""

import json

import pytest

from mmpref.cli.main import main
from mmpref.errors import DataError
from mmpref.evals import score
from tests.unit.evals.cases import arguments

THINGS = ("dog", "cat", "car", "tennis racket")
IMAGES = [f"COCO_val2014_{n:012d}.jpg" for n in (310196, 2239, 42, 7000)]


def pope():
    return [
        {"question_id": n, "image": image, "text": f"Is there a {thing} in the image?", "label": "yes"}
        for n, (thing, image) in enumerate(zip(THINGS, IMAGES, strict=True), 1)
    ]


def rows(**shown):
    """An answer to every question, with what is shown beside it: a list, or one value for all."""
    return [
        {"question_id": n, "text": "Yes", **{key: v if isinstance(v, str) else v[n - 1] for key, v in shown.items()}}
        for n in range(1, 5)
    ]


def refused(answers, match, questions=None):
    with pytest.raises(DataError, match=match):
        score("pope", questions or pope(), answers, resamples=10)


def accepted(answers, questions=None):
    found = score("pope", questions or pope(), answers, resamples=10)
    assert found.metrics["accuracy"] == 1
    return " ".join(found.notes)


@pytest.mark.parametrize(
    ("shown", "says"),
    [
        (
            {"prompt": "Is the sky blue?"},
            r"no row shows .* row 1 \(id '1'\) shows 'Is the sky blue\?' where 'Is there a",
        ),
        ({"prompt": "Is the sky blue?", "image": "zzz.jpg"}, "leave 'prompt' out of the rows"),
        ({"image": "2405722.jpg"}, "has the image '2405722.jpg' where 'COCO_val2014_000000310196.jpg'"),
        ({"image": "zzz.jpg"}, "leave 'image' out of the rows"),
        ({"image_path": [f"gqa/{n}.png" for n in range(4)]}, "leave 'image_path' out of the rows"),
        ({"images": "x"}, None),  # no list of one
        ({"messages": [[{"role": "user", "content": [{"type": "text", "text": "Why?"}]}]] * 4}, "leave 'messages' out"),
        ({"conversations": [[{"from": "human", "value": "Why?"}, {"from": "gpt", "value": "Yes"}]] * 4}, "shows 'Why"),
        ({"image": [IMAGES[0], *["q.jpg"] * 3]}, r"3 of 4 rows have an image that no question has; row 2 \(id '2'\)"),
        ({"prompt": [f"Is there a {t} in the image?" for t in ("yak", *THINGS[1:])]}, "1 of 4 rows show another"),
    ],
)
def test_rows_that_show_something_else_are_refused(shown, says):
    """Their ids are these questions', and a number came out of them."""
    if says is None:
        accepted(rows(**shown))
    else:
        refused(rows(**shown), says)


def test_one_question_is_enough(tmp_path, capsys):
    question = {"question_id": 1, "image": "a.jpg", "text": "Is there a cat in the image?", "label": "yes"}
    (tmp_path / "q.json").write_text(json.dumps(question), encoding="utf-8")
    command = ["score", "--benchmark", "pope", "--questions", str(tmp_path / "q.json")]
    for shown, code in (
        ({"prompt": "Is the sky blue?", "image": "zzz.jpg"}, 3),
        ({"prompt": "Is the sky blue?"}, 3),
        ({"image": "zzz.jpg"}, 3),
        ({"prompt": "Is there a dog in the image?"}, 3),
        ({"prompt": "<image>\nIs there a cat in the image?", "image": "x/a.png"}, 0),
        ({}, 0),
    ):
        answer = json.dumps({"question_id": 1, "text": "Yes", **shown})
        (tmp_path / "a.jsonl").write_text(answer, encoding="utf-8")
        assert main([*command, "--answers", str(tmp_path / "a.jsonl")]) == code, shown
    assert "leave 'prompt' out of the rows" in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize(
    "shown",
    [
        {"prompt": [f"USER: <image>\nIs there a {t} in the image? Answer yes or no. ASSISTANT:" for t in THINGS]},
        {"prompt": [f"IS THERE A {t.upper()}\u00a0IN THE IMAGE" for t in THINGS]},
        {"prompt": [f"is there a {t} in the\u3000image\uff1f" for t in THINGS]},
        {"prompt": "Answer with yes or no.", "input": [f"Is there a {t} in the image?" for t in THINGS]},
        {"prompt": "..."},
        {"prompt": "Is there a..."},
        {"conversations": [[{"from": "human", "value": f"<image>Is there a {t} in the image?"}] for t in THINGS]},
        {"image": [f"/data/val2014/{name}" for name in IMAGES]},
        {"image": [name[13:] for name in IMAGES]},
        {"image_id": ["310196", "2239", "42", "7000"]},
        {"img_id": ["0", "1", "2", "3"]},  # a count of the rows
    ],
)
def test_rows_that_show_their_question_in_another_writing_are_scored_without_a_word(shown):
    assert accepted(rows(**shown)) == ""


def test_rewritten_prompts_are_believed_where_something_else_fits():
    told = [f"Do you see any {thing} here? Say yes or no." for thing in THINGS]
    assert "4 rows show their question in other words" in accepted(rows(prompt=told))
    foreign = [f"Siehst du Nummer {n}?" for n in range(4)]
    refused(rows(prompt=foreign), "or add the name of the image to each")
    assert "4 rows show their question in other words" in accepted(rows(prompt=foreign, image=IMAGES))
    assert accepted(rows()) == ""  # the column left out


def test_images_with_names_of_their_own_are_believed_by_their_prompts():
    told = [f"Is there a {thing} in the image?" for thing in THINGS]
    assert "no row names an image as the questions do" in accepted(rows(prompt=told, image=list("abcd")))
    same = [{**question, "text": "Is it so?"} for question in pope()]
    refused(rows(prompt="Is it so?", image=list("abcd")), "no row has the image of a question", same)


@pytest.mark.parametrize("name", ["amber", "hallusionbench", "mme", "mmhal"])
def test_answers_to_pope_are_no_answers_to_another_benchmark(name, tmp_path):
    """By the numbers of its rows an accuracy of 0.43 on HallusionBench and a score of 2.95 on MMHal-Bench."""
    questions, given, options = arguments(name, tmp_path)
    for shown in ({"prompt": "Is there a dog in the image?"}, {"image": "COCO_val2014_000000310196.jpg"}):
        ids = [answer["id"] for answer in given] if name == "amber" else range(len(given))
        answers = [{"question_id": n, "text": "Yes", **shown} for n in ids]
        with pytest.raises(
            DataError, match=r"no row (shows the question|has the image)|fits no question|no question has"
        ):
            score(name, questions, answers, resamples=10, **options)
