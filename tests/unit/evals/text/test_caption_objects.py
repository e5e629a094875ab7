"""Which objects a caption says to be in the picture, under the protocol ``mmpref``."""

import itertools
import json
import random
import sys

import pytest

from mmpref.evals import score
from mmpref.evals.text.objects import extract_mmpref
from mmpref.evals.text.singular import singular
from mmpref.evals.text.vocabulary import _OWN_FILE, Vocabulary
from tests.unit.evals.cases import FIXTURES

WORDS = Vocabulary.read(_OWN_FILE)
EXTRACT = extract_mmpref(WORDS)
CATEGORIES = sorted(set(WORDS.clean.values()))
PLURALS = {
    "person": "people", "knife": "knives", "mouse": "mice", "sheep": "sheep", "skis": "skis", "scissors": "scissors",
    "bus": "buses", "bench": "benches", "toothbrush": "toothbrushes", "couch": "couches", "sandwich": "sandwiches",
    "wine glass": "wine glasses", "broccoli": "broccoli",
}  # fmt: skip


def rows(name):
    return [json.loads(line) for line in (FIXTURES / name).read_text(encoding="utf-8").splitlines()]


BY_KIND = rows("captions_by_kind.jsonl")


def objects(caption):
    return {mention.object for mention in EXTRACT(caption)}


def left_out(caption):
    return [(words.word, words.why) for words in EXTRACT.read(caption).not_counted]


@pytest.mark.parametrize("kind", sorted({row["kind"] for row in BY_KIND}))
def test_sentences_of_each_kind_are_read_as_people_read_them(kind):
    wrong = {
        row["caption"]: (sorted(objects(row["caption"])), row["objects"])
        for row in BY_KIND
        if row["kind"] == kind and objects(row["caption"]) != set(row["objects"])
    }
    assert wrong == {}


def test_real_captions_are_read_as_people_read_them():
    """302 captions of ten models, annotated by reading before the rules were run on them."""
    exact = found = said = true = 0
    captions = rows("captions_read.jsonl")
    for row in captions:
        got, want = objects(row["caption"]), set(row["objects"])
        exact += got == want
        found += len(got & want)
        said += len(got)
        true += len(want)
    assert len(captions) == 302
    assert exact / len(captions) > 0.97
    assert found / said > 0.98
    assert found / true > 0.98


@pytest.mark.parametrize(
    ("caption", "why"),
    [
        ("There is no dog.", [("dog", "negated")]),
        ("A dog might be outside.", [("dog", "possible")]),
        ("Is there a dog?", [("dog", "possible")]),
        ("A statue of a dog.", [("dog", "depicted")]),
        ("A toy car and an elephant statue.", [("car", "depicted"), ("elephant", "depicted")]),
        ('A sign that reads "No dogs".', [("dog", "written")]),
        ("A bus stop.", [("bus stop", "compound")]),
        ("An orange wall.", [("orange", "other meaning")]),
    ],
)
def test_what_does_not_count_says_why(caption, why):
    assert left_out(caption) == why
    assert objects(caption) == set()


def test_items_of_chair_have_what_was_left_out():
    text = "A man without a hat sits near a Bus Stop; there is no dog."
    found = score("chair", {"1": ["person"]}, [{"id": "1", "text": text}], synonyms="coco", resamples=10)
    (item,) = found.items
    assert [mention["object"] for mention in item["mentions"]] == ["person"]
    assert item["not_counted"] == [
        {"word": "bus stop", "object": "bus", "span": [32, 40], "why": "compound"},
        {"word": "dog", "object": "dog", "span": [54, 57], "why": "negated"},
    ]
    assert text[32:40] == "Bus Stop"
    official = score("chair", {"1": []}, [{"id": "1", "text": text}], "official", synonyms=["dog"], resamples=10)
    assert official.items[0]["not_counted"] == []
    assert official.metrics["chair_s"] == 1


def test_object_halbench_reads_answers_and_a_judges_phrases_alike():
    items = [{"image_id": 1, "question": "What?", "objects": ["person", "cake"]}]
    answer = [{"image_id": 1, "answer": "She cuts a cake with toy cars on it; there is no dog."}]
    options = {"synonyms": "coco", "resamples": 10}
    (item,) = score("object_halbench", items, answer, **options).items
    assert {mention["object"] for mention in item["mentions"]} == {"person", "cake"}
    verdicts = [{"id": "1", "objects": ["toy car", "orange", "a red bus"], "judge": "made up"}]
    (judged,) = score("object_halbench", items, answer, verdicts=verdicts, **options).items
    assert {mention["object"] for mention in judged["mentions"]} == {"orange", "bus"}


@pytest.mark.parametrize("name", CATEGORIES)
def test_each_category_is_found_and_denied(name):
    several = PLURALS.get(name, name + "s")
    for sentence in (f"There is a {name} in the picture.", f"The photo shows two {several}.", f"A large {name}.", name):
        assert objects(sentence) == {name}, sentence
    for sentence in (
        f"There is no {name} in the picture.",
        f"There are no {several} visible.",
        f"The picture has neither a {name} nor a lamp.",
        f"A room without {several}.",
        f"I do not see a {name}.",
        f"The scene lacks a {name}.",
        f"There might be a {name} nearby.",
    ):
        assert objects(sentence) == set(), sentence


def test_a_denial_of_something_else_changes_nothing():
    denials = ("There is no {} in the image.", "No {} can be seen.", "The scene is free of any {}.", "It lacks a {}.")
    rng = random.Random(3)
    for row in rows("captions_read.jsonl")[::3]:
        said = objects(row["caption"])
        other = rng.choice([name for name in CATEGORIES if name not in said])
        denial = rng.choice(denials).format(other)
        assert objects(f"{row['caption']} {denial}") == said, denial
        assert objects(f"{denial} {row['caption']}") == said, denial


def test_the_order_of_sentences_makes_no_difference():
    sentences = [
        "A man sits on a bench.", "There is no dog.", "A toy car lies on the grass.", "Two birds are on a bus stop.",
        "There might be a boat on the lake.",
    ]  # fmt: skip
    assert {frozenset(objects(" ".join(order))) for order in itertools.permutations(sentences)} == {
        frozenset({"person", "bench", "bird"})
    }


def test_spans_are_those_of_the_words():
    for row in rows("captions_read.jsonl"):
        reading = EXTRACT.read(row["caption"])
        found_words = [(found.word, found.span) for found in reading.mentions]
        for word, (start, end) in [*found_words, *((found.word, found.span) for found in reading.not_counted)]:
            text = row["caption"][start:end].lower().replace("-", " ").replace("'", " ")
            words = " ".join(singular(word) for word in text.split())
            assert word in (words, text) or words.split()[-1] == word, (words, word)


def test_tokens_of_the_caller_are_read_in_context_too():
    tokens = {
        "x": ["there", "is", "no", "dog", ".", "a", "cat", "is", "n't", "a", "bird", ",", "but", "a", "bus", "stop"]
    }
    extract = extract_mmpref(WORDS, tokens.__getitem__)
    assert [(mention.object, mention.position, mention.span) for mention in extract("x")] == [("cat", 6, None)]
    assert [words.why for words in extract.read("x").not_counted] == ["negated", "negated", "compound"]


def test_words_of_ones_own_win_over_phrases_that_look_like_objects():
    extract = extract_mmpref(Vocabulary.of_names(["bus", "bus stop", "mouse pad"]))
    assert [mention.object for mention in extract("A mouse pad at the bus stop; a bus.")] == [
        "mouse pad",
        "bus stop",
        "bus",
    ]


def lines_run(caption):
    """How many lines of Python reading a caption takes."""
    count = 0

    def trace(frame, event, arg):
        nonlocal count
        count += event == "line"
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        EXTRACT(caption)
    finally:
        sys.settrace(before)
    return count


@pytest.mark.parametrize(
    "words",
    ["no ", "no dog ", "possibly ", "a statue of a dog, ", "dog toy ", "the car ", "dog? ", '"dog" ', "not a ",
     "pitcher x{} ", "dog and cat, ", "the train car and the car ", "where people can ", "neither nor "],
)  # fmt: skip
def test_reading_takes_time_linear_in_the_caption(words):
    short, long = (lines_run("".join(words.format(n) for n in range(size))) for size in (150, 300))
    assert long < 2.4 * short


@pytest.mark.parametrize(
    ("caption", "there"),
    [
        ("A microwave, oven, and sink stand in a row.", {"microwave", "oven", "sink"}),
        ("A woman is waiting for the traffic light to change.", {"person", "traffic light"}),
        ("A woman is waiting for the bus to arrive.", {"person"}),
        ("A shepherd and two lambs.", {"person", "sheep"}),
        ("A german shepherd and two lambs.", {"dog", "sheep"}),
        ("The living room lacks a TV, but has a plush sofa.", {"couch"}),
        ("A plush dog lies on a bed.", {"bed"}),
        ("The bus has already left.", set()),
        ("The dog has run away.", set()),
        ("The dog has run across the road.", {"dog"}),
        ("Crumbs of a cake are left on the plate.", set()),
        ("The child is drawing a boat with crayons.", {"person"}),
        ("A girl is painting a horse on a canvas.", {"person"}),
        ("A man is painting a bench red.", {"person", "bench"}),
        ("A horse is drawing a truck out of the mud.", {"horse", "truck"}),
        ("A suitcase big enough to hold a person stands open.", {"suitcase"}),
        ("Apple's logo glows on a laptop.", {"laptop"}),
        ("The ship sinks in the sea.", {"boat"}),
        ("The bathroom has two sinks.", {"sink"}),
        ("A pianist plays the keyboard.", {"person"}),
        ("The chairman speaks to a reporter.", {"person"}),
    ],
)
def test_what_is_gone_drawn_or_only_fits(caption, there):
    assert objects(caption) == there
