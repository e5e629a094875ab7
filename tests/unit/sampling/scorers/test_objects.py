"""Object faithfulness against hand-made truth, and against what CHAIR says of the same captions."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmpref.errors import ConfigError, DataError
from mmpref.evals import score as evaluate
from mmpref.records import Candidate, Candidates, ImageRef, Prompt, VideoRef, user_turn
from mmpref.sampling.scorers import build_scorer, check_options
from mmpref.sampling.scorers.contract import ScoreContext

TRUTH = {"a.png": ["dog", "cat"], "b.png": ["bird"], "empty.png": []}


def item(*texts, images=("a.png",), prompt_id="p", **prompt):
    refs = tuple(image if isinstance(image, ImageRef) else ImageRef(path=image) for image in images)
    shown = Prompt(id=prompt_id, images=refs, prompt=user_turn("Describe.", num_images=len(refs)), **prompt)
    return Candidates(prompt=shown, answers=tuple(Candidate(text=text) for text in texts))


def scorer(tmp_path, truth=TRUTH, **options):
    (tmp_path / "truth.json").write_text(json.dumps(truth))
    return build_scorer("objects", "objects", {"truth": str(tmp_path / "truth.json"), **options}, ScoreContext())


def values(found):
    return [score.value if score.value is not None else score.why for score in found]


@pytest.mark.parametrize(
    ("text", "f1", "faithfulness"),
    [
        ("a dog and a cat", 1.0, 1.0),
        ("a dog", 2 / 3, 1.0),  # says little and nothing wrong
        ("a dog and a bird", 0.5, 0.5),
        ("two dogs, a dog and a bird", 0.5, 2 / 3),  # an object counts once, a mention each time
        ("a bird", 0.0, 0.0),
        ("it is dark", 0.0, "names_no_object"),
    ],
)
def test_scores_by_hand(tmp_path, text, f1, faithfulness):
    assert values(scorer(tmp_path).score([item(text)])) == [pytest.approx(f1)]
    expected = faithfulness if isinstance(faithfulness, str) else pytest.approx(faithfulness)
    assert values(scorer(tmp_path, measure="faithfulness").score([item(text)])) == [expected]


def test_detail_names_the_objects(tmp_path):
    (found,) = scorer(tmp_path).score([item("a dog and a bird")])
    assert found.detail == {"mentioned": ["bird", "dog"], "hallucinated": ["bird"], "missing": ["cat"]}


def test_an_image_without_objects(tmp_path):
    answers = item("it is dark", "a dog", images=("empty.png",))
    assert values(scorer(tmp_path).score([answers])) == ["names_no_object", 0.0]
    assert values(scorer(tmp_path, measure="faithfulness").score([answers])) == ["names_no_object", 0.0]


def test_images_are_found_by_name_and_what_nothing_is_known_of_is_missing(tmp_path):
    found = scorer(tmp_path)
    assert values(found.score([item("a dog and a cat", images=("folder/a.jpg",))])) == [1.0]
    assert values(found.score([item("a dog", images=("c.png",))])) == ["no_truth"]
    assert values(found.score([item("a dog", images=("a.png", "c.png"))])) == ["no_truth"]
    assert values(found.score([item("a dog", images=())])) == ["no_truth"]
    clip = item("a dog", images=(), videos=(VideoRef(path="v.mp4"),))
    assert values(found.score([clip])) == ["no_truth"]


def test_several_images_have_the_objects_of_all(tmp_path):
    assert values(scorer(tmp_path).score([item("a dog, a cat and a bird", images=("a.png", "b.png"))])) == [1.0]


def test_an_embedded_image_is_called_as_its_row_calls_it(tmp_path):
    embedded = ImageRef(data=b"png")
    named = item("a dog and a cat", images=(embedded,), meta={"image_path": "somewhere/a.png"})
    assert values(scorer(tmp_path).score([named, item("a dog", images=(embedded,))])) == [1.0, "no_truth"]


def test_embedded_images_are_called_as_their_files_were(tmp_path):
    images = (ImageRef(data=b"png"), ImageRef(path="b.png"))
    asked = [
        item("a dog, a cat and a bird", images=images, meta={"image_names": names})
        for names in (["x/a.png"], [], ["a.png", "b.png"])
    ]
    found = list(scorer(tmp_path).score(asked))
    assert values(found) == [1.0, "no_truth", "no_truth"]
    assert found[1].detail["why"] == "the truth has nothing of <3 embedded bytes>"


def test_the_beginning_of_an_answer_that_was_given_counts(tmp_path):
    assert values(scorer(tmp_path).score([item("g and a cat", response_prefix="A do")])) == [1.0]


words = st.sampled_from(["a dog", "two cats", "the bird", "birds", "a tree", "dogs and cats", "nothing", "a bench."])


@given(st.lists(st.lists(words, max_size=5).map(" ".join), min_size=2, max_size=2))
def test_mentions_are_those_of_chair(tmp_path_factory, captions):
    folder = tmp_path_factory.mktemp("chair")
    rows = [{"image_id": name, "caption": text} for name, text in zip(("a.png", "b.png"), captions, strict=True)]
    judged = evaluate("chair", TRUTH, rows, resamples=10, image_name="{id}")
    items = [item(text, images=(name,)) for name, text in zip(("a.png", "b.png"), captions, strict=True)]
    whole, part = scorer(folder, measure="faithfulness").score(items), scorer(folder).score(items)
    for row, faithful, f1 in zip(judged.items, whole, part, strict=True):
        mentions = row["mentions"]
        made_up = sum(mention["hallucinated"] for mention in mentions)
        assert faithful.value == (pytest.approx(1 - made_up / len(mentions)) if mentions else None)
        assert f1.detail["hallucinated"] == row["hallucinated"]
        assert f1.detail["missing"] == row["missing"]


def test_coco_annotations_and_synonyms_are_those_of_chair(tmp_path):
    instances = {
        "images": [{"id": 8, "file_name": "COCO_val2014_000000000008.jpg"}, {"id": 9}],
        "categories": [{"id": 1, "name": "dog"}, {"id": 2, "name": "person"}],
        "annotations": [{"image_id": 8, "category_id": 1}, {"image_id": 9, "category_id": 2}],
    }
    captions = {"annotations": [{"image_id": 8, "caption": "A puppy on a sofa"}], "images": []}
    for name, content in (("instances", instances), ("captions", captions)):
        (tmp_path / f"{name}.json").write_text(json.dumps(content))
    files = [str(tmp_path / "instances.json"), str(tmp_path / "captions.json")]
    found = build_scorer("o", "objects", {"truth": files}, ScoreContext())
    # our own words know that a puppy is a dog, and a reference caption that there is a couch
    answers = [
        item("a puppy on a couch", images=("val2014/COCO_val2014_000000000008.jpg",)),
        item("a woman", images=("000000000009.jpg",)),
    ]
    assert values(found.score(answers)) == [1.0, 1.0]


def test_other_truth_words_or_measure_are_another_scorer(tmp_path):
    known = [
        scorer(tmp_path).depends_on,
        scorer(tmp_path, measure="faithfulness").depends_on,
        scorer(tmp_path, truth={**TRUTH, "a.png": ["dog"]}).depends_on,
        scorer(tmp_path, synonyms="names").depends_on,
    ]
    assert len({json.dumps(one, sort_keys=True) for one in known}) == 4
    assert scorer(tmp_path).depends_on == known[0]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({}, r"needs o\.truth=\.\.\."),
        ({"truth": "t.json", "measure": "f2"}, "scorer 'o': measure must be f1 or faithfulness, got 'f2'"),
        ({"truth": 3}, "truth must be the path of a file"),
        ({"truth": []}, "truth must be the path of a file"),
        ({"truth": "t.json", "synonyms": 3}, "synonyms must be a file, coco or names"),
    ],
)
def test_wrong_options_are_known_before_anything_is_read(options, said):
    with pytest.raises(ConfigError, match=said):
        check_options("o", "objects", options)


def test_a_ground_truth_that_is_not_there_is_named(tmp_path):
    with pytest.raises(DataError, match=r"none\.json"):
        build_scorer("o", "objects", {"truth": str(tmp_path / "none.json")}, ScoreContext())
