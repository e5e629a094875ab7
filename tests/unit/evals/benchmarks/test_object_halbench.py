"""Object HalBench: unique words per answer, from a judge's list or by our own extractor."""

import pytest

from mmpref.errors import ConfigError, DataError
from mmpref.evals import score

LIST = ["person, man", "dog, puppy", "dining table, table", "chair, seat", "toilet"]
ITEMS = [
    {"image_id": 1, "question": "Describe it.", "objects": ["dog", "person"]},
    {"image_id": 2, "question": "Describe it.", "objects": ["toilet"]},
    {"image_id": 3, "question": "Describe it.", "objects": []},
]
ANSWERS = [
    {"id": 1, "text": "A man, a puppy and another puppy at a wooden table."},
    {"id": 2, "text": "A toilet with a seat."},
    {"id": 3, "text": "Nothing much."},
]
METRICS = ("chair_s", "chair_s_refine", "chair_i", "recall")


def values(found):
    return {name: found.metrics[name] for name in METRICS}


@pytest.mark.parametrize(("content", "message"), [("5", "expected rows of JSON objects"), ('"a"', "expected")])
def test_a_file_without_rows_is_an_error_that_names_it(content, message, tmp_path):
    (tmp_path / "a.json").write_text(content, encoding="utf-8")
    with pytest.raises(DataError, match=rf"a\.json.*{message}"):
        score("object_halbench", ITEMS, tmp_path / "a.json")


def test_a_name_of_images_that_does_not_fit_the_ids_is_an_error():
    with pytest.raises(ConfigError, match=r"image_name '\{name\}.jpg' does not fit the image id '1'"):
        score("object_halbench", ITEMS, ANSWERS, synonyms=LIST, image_name="{name}.jpg")


def test_our_own_extractor_by_hand():
    """The table is made up: 1 of 3 answers, 1 of the 2 that name something, 1 of 4 words; all 3 objects are named."""
    found = score("object_halbench", ITEMS, ANSWERS, synonyms=LIST)
    assert values(found) == pytest.approx({"chair_s": 1 / 3, "chair_s_refine": 1 / 2, "chair_i": 1 / 4, "recall": 1})
    assert found.notes == ("no judge: objects found by our own extractor",)
    assert [m["word"] for m in found.items[0]["mentions"]] == ["man", "puppy", "table"]


def test_a_judges_list_is_taken_in_the_place_of_the_text():
    told = [
        {"id": 1, "objects": ["a man", "wooden tables", "man"], "judge": "j"},
        {"id": 2, "objects": ["toilet seat"], "judge": "j"},
        {"id": 3, "objects": [], "judge": "j"},
    ]
    found = score("object_halbench", ITEMS, ANSWERS, synonyms=LIST, verdicts=told)
    assert values(found) == pytest.approx(
        {"chair_s": 1 / 3, "chair_s_refine": 1 / 2, "chair_i": 1 / 3, "recall": 2 / 3}
    )
    assert found.notes == ("judged by j",)
    official = score("object_halbench", ITEMS, ANSWERS, "official", synonyms=LIST, verdicts=told)
    assert "without the script's tagger" in official.notes[1]


def test_the_scripts_result_file_is_questions_answers_and_verdicts():
    result = {
        "sentences": [
            {
                "image_id": 1,
                "caption": "Assistant: A man and a chair",
                "mscoco_gt_words": ["person"],
                "mscoco_generated_words": [["man", "person"], ["chair", "chair"]],
                "words": ["man", "chair", "sky"],
            }
        ],
        "overall_metrics": {},
    }
    found = score("object_halbench", result, result, "official", synonyms=LIST)
    assert values(found) == {"chair_s": 1, "chair_s_refine": 1, "chair_i": 0.5, "recall": 1}
    assert found.metrics["mean_length"] == 5


def test_the_ground_truth_may_come_apart():
    bare = [{key: row[key] for key in ("image_id", "question")} for row in ITEMS]
    truth = {str(row["image_id"]): row["objects"] for row in ITEMS}
    apart = score("object_halbench", bare, ANSWERS, synonyms=LIST, truth=truth)
    assert values(apart) == values(score("object_halbench", ITEMS, ANSWERS, synonyms=LIST))
    with pytest.raises(ConfigError, match="items, row 1 has no ground truth: pass truth=FILE"):
        score("object_halbench", bare, ANSWERS, synonyms=LIST)
    with pytest.raises(DataError, match="the ground truth has no image '3'"):
        score("object_halbench", bare, ANSWERS, synonyms=LIST, truth={"1": [], "2": []})


def test_answers_without_objects_leave_the_rates_undefined():
    found = score("object_halbench", ITEMS[2:], [{"id": 3, "text": "The sky."}], synonyms=LIST)
    assert values(found) == {"chair_s": 0, "chair_s_refine": None, "chair_i": None, "recall": None}
    assert found.undefined["chair_i"] == "no answer names a known object"
