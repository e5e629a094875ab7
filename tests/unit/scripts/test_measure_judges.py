"""The script that measures judges: its rules, and its server through the judge of the product."""

import importlib.util
import json
import sys
from pathlib import Path

import pytest

FILE = Path(__file__).parents[3] / "scripts" / "measure_judges.py"


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("measure_judges", FILE)
    module = importlib.util.module_from_spec(spec)
    sys.modules["measure_judges"] = module
    spec.loader.exec_module(module)
    yield module
    del sys.modules["measure_judges"]


def rated(script, answer, human="There are four bikes near the wall.", question="How many bikes are there?"):
    sections = {"ANSWER TO RATE": answer, "ANSWER OF A PERSON": human, "QUESTION": question,
                "CONTENTS OF THE PICTURE": "Bicycle; Wall"}  # fmt: skip
    return script.by_rules("", "f", sections)


def test_the_rules_know_a_contradiction_from_an_agreement(script):
    assert rated(script, "There are four bikes near the wall.") >= 3
    assert rated(script, "There are two bikes near the wall.") < 3
    assert rated(script, "It is a sunny beach.") < 3
    assert rated(script, "") == 3


def test_the_judge_of_the_product_asks_the_server(script, tmp_path):
    template = tmp_path / "template.json"
    rows = [
        {"question_type": "other", "question_topic": "t", "image_id": f"i{k}", "image_src": f"http://h/{k}.jpg",
         "image_content": [thing], "question": f"What is on the {place}?", "gt_answer": f"A {thing} is on the {place}."}
        for k, (thing, place) in enumerate([("dog", "sofa"), ("lamp", "desk"), ("boat", "lake"), ("kite", "roof")])
    ]  # fmt: skip
    template.write_text(json.dumps(rows), encoding="utf-8")
    sets = {"constructed": script.constructed(template, tmp_path)}
    found = script.measured("rule", script.by_rules, sets, tmp_path)["constructed"]
    assert found.n == 8
    assert found.metrics["hallucination_agreement"] == 1
    assert script.table({"rule": {"constructed": found}}, ["constructed"])[2] == "| answers | 8 |"


def test_the_fitted_judge_was_not_fitted_to_the_question_that_it_judges(script, tmp_path):
    template = tmp_path / "template.json"
    places = {"dog": "sofa", "lamp": "desk", "boat": "lake", "kite": "roof", "chair": "lawn", "bottle": "shelf",
              "horse": "field"}  # fmt: skip
    rows = [
        {"question": f"What is on the {place}?", "gt_answer": f"A {thing} is on the {place}.", "image_content": [thing]}
        for thing, place in places.items()
    ]
    template.write_text(json.dumps(rows), encoding="utf-8")
    judge = script.by_fit(template)

    def rated(row, answer):
        known = {"ANSWER OF A PERSON": row["gt_answer"], "CONTENTS OF THE PICTURE": row["image_content"][0]}
        return judge("", "f", {"QUESTION": row["question"], "ANSWER TO RATE": answer, **known})

    for number, row in enumerate(rows):
        assert rated(row, row["gt_answer"]) > rated(row, rows[number - 1]["gt_answer"])
