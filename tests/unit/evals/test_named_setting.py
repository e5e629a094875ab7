"""Named settings: CHAIR asked as papers asked it, with their prompt, their length of answers and 500 drawn images."""

import json
import random

import pytest

from mmpref.cli.evals import SETTINGS_HELP
from mmpref.errors import ConfigError, DataError
from mmpref.evals import BENCHMARKS, EvalSettings, evaluate
from mmpref.evals.benchmarks.contract import Draw
from mmpref.evals.named_setting import draw_images, setting_named
from mmpref.generation import ScriptedAnswerer
from mmpref.records import Answer, EvalSample, ImageRef, user_turn

IMAGES = list(range(1000, 1560))
random.Random(4).shuffle(IMAGES)  # no order of names
COCO = {
    "images": [{"id": number, "file_name": f"COCO_val2014_{number:012d}.jpg"} for number in IMAGES]
    + [{"id": number, "file_name": f"COCO_train2014_{number:012d}.jpg"} for number in (1, 2)],
    "categories": [{"id": 1, "name": "dog"}],
    "annotations": [{"image_id": number, "category_id": 1} for number in [*IMAGES, 1, 2]],
}


class Describes:
    """Answers everything with one sentence, and remembers what it was asked."""

    def __init__(self):
        self.asked = []

    def answer(self, samples):
        for sample in samples:
            self.asked.append(sample)
            yield Answer(id=sample.id, text="A dog and a cat.")


def run(out, setting="opera_512", answerer=None, limit=None, max_new_tokens=None, **options):
    settings = EvalSettings(setting=setting, limit=limit, max_new_tokens=max_new_tokens)
    given = {"questions": COCO, "images_root": None, "out": out, "settings": settings}
    return evaluate("a-model", "chair", answerer=answerer or Describes(), **given, **options)


def content(out, name="results.json"):
    return json.loads((out / name).read_text(encoding="utf-8"))


def test_a_setting_asks_with_its_prompt_its_tokens_and_the_images_that_it_draws(tmp_path):
    answerer = Describes()
    result = run(tmp_path, "pai_512", answerer)
    names = sorted(f"COCO_val2014_{number:012d}.jpg" for number in IMAGES)
    assert [sample.images[0].path for sample in answerer.asked] == random.Random(927).sample(names, 500)
    assert {sample.prompt[0].text for sample in answerer.asked} == {"Please help me describe the image in detail."}
    assert result.n == 500
    assert content(tmp_path, "settings.json")["setting"] == "pai_512"
    assert content(tmp_path, "settings.json")["max_new_tokens"] == 512
    found = content(tmp_path)["setting"]
    assert (found["name"], found["whole"]) == ("pai_512", True)
    assert (
        "500 of the images with 'val2014' in their name in the order of their names, random.Random(927)"
        in found["images"]
    )
    assert any(
        "asked as setting pai_512 (LALBJ/PAI@9bbd8bd" in note and "seed there is 927" in note for note in result.notes
    )


def test_halc_draws_from_the_images_in_the_order_of_the_file_and_lets_64_tokens(tmp_path):
    answerer = Describes()
    run(tmp_path, "halc_64", answerer)
    names = [f"COCO_val2014_{number:012d}.jpg" for number in IMAGES]
    assert [sample.images[0].path for sample in answerer.asked] == random.Random(0).sample(names, 500)
    assert content(tmp_path, "settings.json")["max_new_tokens"] == 64


def test_the_same_setting_draws_the_same_images_and_goes_on_where_it_stopped(tmp_path):
    first = run(tmp_path / "a")
    again = Describes()
    assert run(tmp_path / "a", answerer=again).metrics == first.metrics
    assert again.asked == []
    assert run(tmp_path / "b", limit=5).items == first.items[:5]
    with pytest.raises(ConfigError, match="setting"):
        run(tmp_path / "a", "pai_512")
    with pytest.raises(ConfigError, match="setting"):
        run(tmp_path / "a", None)


def test_only_a_part_of_the_questions_is_no_longer_the_setting(tmp_path):
    result = run(tmp_path, limit=7)
    assert result.n == 7
    found = content(tmp_path)["setting"]
    assert (found["name"], found["whole"]) == ("part of opera_512", False)
    assert "only part of opera_512 was asked (limit): these are not the numbers of that setting" in result.notes


def test_what_contradicts_a_setting_is_refused_and_what_agrees_with_it_is_not(tmp_path):
    with pytest.raises(ConfigError, match=r"has 512 new tokens, and --max-new-tokens 64 was given beside it"):
        run(tmp_path / "a", max_new_tokens=64)
    with pytest.raises(ConfigError, match=r"has prompt='Please describe .*', and prompt='What\?' was given beside it"):
        run(tmp_path / "b", prompt="What?")
    assert not (tmp_path / "a").exists()
    assert run(tmp_path / "c", max_new_tokens=512, prompt="Please describe this image in detail.", limit=3).n == 3


def test_the_images_may_come_from_a_file(tmp_path):
    rows = [{"image": f"COCO_val2014_{number:012d}.jpg"} for number in IMAGES[:500]]
    file = tmp_path / "chair-500.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    answerer = Describes()
    run(tmp_path / "a", "less_is_more_1024", answerer, prompts=str(file))
    assert [sample.images[0].path for sample in answerer.asked] == [row["image"] for row in rows]
    assert content(tmp_path / "a")["setting"]["images"] == f"500 images of prompts={file}"
    assert run(tmp_path / "b", "opera_512", prompts=str(file), limit=2).n == 2
    with pytest.raises(ConfigError, match=r"asks about the images of a file: .* pass prompts=FILE"):
        run(tmp_path / "c", "less_is_more_1024")
    with pytest.raises(DataError, match="asks about 500 images, and prompts names 499"):
        run(tmp_path / "d", "opera_512", prompts=rows[1:])
    with pytest.raises(DataError, match=r"asks 'Please describe .*', and prompts asks 'What is it\?' about image"):
        run(tmp_path / "e", "opera_512", prompts=[{**rows[0], "text": "What is it?"}, *rows[1:]])


def test_too_few_images_unknown_names_and_benchmarks_without_settings_are_refused(tmp_path):
    few = {**COCO, "images": COCO["images"][:9], "annotations": COCO["annotations"][:9]}
    with pytest.raises(
        DataError, match="setting opera_512 draws 500 images, and the questions are about 9 with 'val2014'"
    ):
        evaluate(
            "m", "chair", questions=few, images_root=None, out=tmp_path, answerer=Describes(),
            settings=EvalSettings(setting="opera_512"),
        )  # fmt: skip
    with pytest.raises(ConfigError, match=r"unknown setting of chair 'opera' .*did you mean 'opera_512'\?"):
        run(tmp_path, "opera")
    rows = [{"question_id": 1, "image": "1.jpg", "text": "Is there a dog?", "label": "yes"}]
    with pytest.raises(ConfigError, match="pope has no named settings; leave --setting out"):
        evaluate(
            "m", "pope", questions=rows, images_root=None, out=tmp_path, answerer=ScriptedAnswerer({"1": "Yes"}),
            settings=EvalSettings(setting="opera_512"),
        )  # fmt: skip


def test_the_help_names_every_setting_of_every_benchmark():
    named = {name: [setting.name for setting in benchmark.settings] for name, benchmark in BENCHMARKS.items()}
    for name, settings in named.items():
        assert (f"{name}: {', '.join(settings)}" in SETTINGS_HELP) == bool(settings)
        for setting in settings:
            found = setting_named(BENCHMARKS[name], setting)
            assert set(found.options) | {found.file_option} <= set(BENCHMARKS[name].options)
            assert found.num > 0
            assert found.left_open
            assert found.source


def test_all_questions_about_a_drawn_image_are_asked():
    samples = [
        EvalSample(id=f"{image}/{n}", images=(ImageRef(path=f"{image}.jpg"),), prompt=user_turn("?", num_images=1))
        for image in "dcba"
        for n in (1, 2)
    ]
    found = draw_images(samples, Draw(num=2, seed=1), "this")
    images = random.Random(1).sample([f"{image}.jpg" for image in "abcd"], 2)
    assert [sample.images[0].path for sample in found] == [images[0], images[0], images[1], images[1]]
    assert [sample.id[-1] for sample in found] == ["1", "2", "1", "2"]
