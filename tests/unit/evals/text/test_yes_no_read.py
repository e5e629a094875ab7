"""The reader that knows the question: labelled answers, and what must hold for every answer."""

import json
import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmpref.evals import score
from mmpref.evals.text.yes_no import read_mmpref, says_unsure
from mmpref.evals.text.yes_no.clauses import clauses_of
from mmpref.evals.text.yes_no.question import read_question

Y, N, U = "yes", "no", "unparsed"
ROOT = Path(__file__).resolve().parents[4]
LABELLED = [
    json.loads(line)
    for line in (ROOT / "tests" / "fixtures" / "evals" / "read_answers.jsonl").read_text("utf-8").splitlines()
]
DOG = "Is there a dog in the image?"


def test_the_labelled_answers_are_read_as_people_read_them():
    read = [(row, read_mmpref(row["answer"], row["question"])) for row in LABELLED]
    other = [(row["id"], row["answer"], row["label"], said) for row, said in read if said != row["label"]]
    assert len(read) >= 300
    assert len(other) <= 0.03 * len(read), other
    assert [each for each in other if each[3] != U] == []  # nothing turned round, nothing invented


def test_the_labelled_answers_are_spread_over_kinds_and_labels():
    kinds = {row["kind"] for row in LABELLED}
    labels = [row["label"] for row in LABELLED]
    assert len(kinds) >= 20
    assert min(labels.count(label) for label in (Y, N, U)) > 80
    assert all(row["reason"] for row in LABELLED)
    assert len({(row["question"], row["answer"]) for row in LABELLED}) == len(LABELLED)


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        # asserted and denied in other words
        ("A Labrador is dozing beside the stove.", Y), ("This animal is a dog.", Y), ("It must be a dog.", Y),
        ("The dog is not sleeping.", Y), ("No collar can be seen on the dog.", Y), ("Nothing but a dog is here.", Y),
        ("There's no lack of dogs.", Y), ("There is no denying that a dog is present.", Y),
        ("You won't find a dog in this picture.", N), ("What I see isn't a dog.", N), ("No dogs, just cats.", N),
        ("A dog is conspicuous by its absence.", N), ("The only thing missing here is a dog.", N),
        ("Everything is here except a dog.", N), ("I looked for a dog in vain.", N), ("there aint no dog", N),
        ("No animals are visible.", N), ("Instead of a dog, there is a cat.", N), ("Number of dogs: 0", N),
        ("Honestly no", N), ("Sadly no.", N), ("Uh, yeah.", Y), ("Sure,", U), ("Well, yes and no.", U),
        ("Well, 没有。", N),
        ("The dog, however, is missing.", N), ("The dog is however missing.", N), ("There is, in fact, a dog.", Y),
        ("There are, to my knowledge, no dogs.", N), ("The picture does not, however, show a dog.", N),
        ("There is no cat, however, there is a dog.", Y), ("A cat is there, however, there is no dog.", N),
        ("I have no reason to believe that there is a dog.", N), ("A dog? None whatsoever.", U),
        # what says nothing about dogs that are there
        ("There is no puppy.", U), ("The owner calls the dog, which is out of frame.", U), ("Only cats.", U),
        ("A dog used to live here.", U), ("A shirt with a dog on it.", U), ("The carousel has wooden dogs.", U),
        ("It is either a dog or a fox.", U), ("Dogs like bones.", U), ("A dog's bowl is on the floor.", U),
        ("The cat that looks like a dog is asleep.", U), ("If that is a dog, then yes; otherwise no.", U),
        ("A horse-drawn cart, a dog-shaped cloud.", U), ("Somebody asked about the dog.", U),
        # taken back
        ("Yes. Actually, let me reconsider. Now I am unable to decide.", U), ("No, hold on. There is a dog.", Y),
    ],
)  # fmt: skip
def test_a_dog_is_said_to_be_there_or_not(answer, said):
    assert read_mmpref(answer, DOG) == said


@pytest.mark.parametrize(
    ("question", "answer", "said"),
    [
        ("Is the car red?", "The truck next to the car is red.", U), ("Is the car red?", "It's a red car.", Y),
        ("Is the car red?", "It is anything but red.", N), ("Is the car red?", "More orange than red.", U),
        ("Are all the birds white?", "Not all the birds are white.", N),
        ("Is bar A taller than bar B?", "Hence bar A is not taller.", N),
        ("Is bar A taller than bar B?", "Bar B is taller than bar A.", U),
        ("Does the man ride a horse in this image?", "The man is riding a horse.", Y),
        ("Does the man ride a horse in this image?", "The man is leading a horse.", U),
        ("Is the man wearing a tie?", "He has no tie on.", N), ("Is the man wearing a tie?", "He has no hat on.", U),
        ("Are there more than one car?", "Several cars are parked.", Y),
        ("Are there two cups?", "There are three cups.", U), ("Are there two cups?", "Fewer than two.", N),
        ("Is there a red couch?", "The couch by the wall is red.", Y), ("Is there a red couch?", "A blue couch.", U),
        ("Can you see a dog?", "I can.", Y), ("Can you see a dog?", "I cannot.", N), (DOG, "I cannot.", U),
        ("Is there any fruit in the bowl?", "The bowl is full of plums.", Y),
        ("Is this photo taken in a place of beach? Please answer yes or no.", "This is a photo of a beach.", Y),
        ("Is the actor called Tom Hanks?", "That's not Tom Hanks.", N),
        ("Does China have the largest share?", "China has the largest share.", Y),
        ("Does China have the largest share?", "China does not have the largest share.", N),
        ("Is there a dog?\nA. Yes\nB. No", "The answer is B.", N), ("Is there a dog?\nA. Yes\nB. No", "B. Yes", U),
    ],
)  # fmt: skip
def test_the_questions_own_words_count(question, answer, said):
    assert read_mmpref(answer, question) == said


@pytest.mark.parametrize(
    ("question", "kind"),
    [
        (DOG, "presence"), ("Is there a dining table in the imange?", "presence"), ("Do you see a dog?", "presence"),
        ("Does the picture show a dog?", "presence"), ("Is a dog visible in the image?", "presence"),
        ("There is a dog, isn't there?", "presence"), ("Is there direct contact between the cup and plate?", "contact"),
        ("Is the sky blue in this image?", "statement"), ("Is the sky blue or grey?", "choice"), ("", "unknown"),
        ("Are all the items in this figure vegetables or fruits?", "statement"),
        ("Is the sky blue or grey? Please answer yes or no.", "statement"),
    ],
)  # fmt: skip
def test_what_a_question_asks(question, kind):
    assert read_question(question).kind == kind


ASSERTED = [
    "There is {a} in the image.", "There is {a} on the left side of the image.", "The image shows {a}.",
    "The image contains {a}.", "In the image, {a} is visible.", "{A} can be seen in the background.",
    "{A} is present in the image.", "I can see {a} in this picture.", "In the background, there is {a}.",
    "The picture features {a} next to a wall.", "One can clearly see {a} in the photo.",
    "There appears to be {a} in the image.", "It looks like there is {a} in the picture.",
    "I believe there is {a} in the image.", "Based on the image, there is {a}.", "Looking at it, I notice {a}.",
    "The photo includes {a} among other things.", "{A} is visible near the center of the image.",
    "In this scene, {a} is clearly visible.", "There's {a} here.", "There is indeed {a} in the image.",
    "The {o} is in the foreground.", "You can see {a} on the right.", "The scene depicts {a}.",
    "The image does contain {a}.", "The image features {a} in the lower left corner.",
    "At the bottom of the image there is {a}.", "It is true that there is {a} in the image.",
    "Sure! In the image you can see {a}.", "Yes, there is {a} in the image.",
]  # fmt: skip
DENIED = [
    "There is no {o} in the image.", "There isn't {a} in the image.", "The image does not show {a}.",
    "The image doesn't contain any {o}.", "No {o} is visible in the image.", "{A} is not present in the image.",
    "I do not see {a} in this picture.", "I can't see any {o} in the image.", "The picture lacks {a}.",
    "There is no visible {o} in the scene.", "It does not appear that there is {a} in the image.",
    "I don't think there is {a} in the image.", "Based on the image, there is no {o}.",
    "Looking at the picture, I do not notice {a}.", "The photo does not include {a}.",
    "{A} is not visible in the image.", "{A} cannot be seen in this image.", "There's no {o} here.",
    "There is not {a} in the image.", "No {o} can be found in this image.", "You cannot see {a} in the photo.",
    "The scene does not depict {a}.", "The image contains no {o}.",
    "Neither {a} nor a unicorn is visible in the image.",
    "It is not true that there is {a} in the image.", "There is no sign of {a} in the image.",
    "No, there is no {o} in the image.", "The image shows a street without any {o}.",
]  # fmt: skip
ASIDE = [
    "There is a unicorn in the image.", "There is no unicorn in the image.", "There might be {a} in the image.",
    "It is unclear whether there is {a} in the image.", "If there were {a}, it would be visible.",
    "The image shows a statue of {a}.", "I cannot tell if there is {a} in the image.", "Perhaps there is {a}.",
    "There may or may not be {a} in the image.", "The question is whether there is {a} in the image.",
]  # fmt: skip
OBJECTS = [
    "dog", "person", "dining table", "hot dog", "traffic light", "umbrella", "tv", "knife", "bus", "teddy bear", "skis",
    "cell phone", "orange", "mouse", "wine glass", "sheep", "scissors", "tree", "cloud", "window",
]  # fmt: skip
QUESTIONS = ["Is there {a} in the image?", "Is there {a} in the imange?", "Can you see {a} in this picture?",
             "Does the image contain {a}? Please answer yes or no."]  # fmt: skip


def filled(template, thing):
    a = f"{'an' if thing[0] in 'aeiou' else 'a'} {thing}"
    return template.format(a=a, A=a.capitalize(), o=thing)


@pytest.mark.parametrize("thing", OBJECTS)
def test_assertions_denials_and_asides_in_every_form(thing):
    for number, (templates, said) in enumerate([(ASSERTED, Y), (DENIED, N), (ASIDE, U)]):
        question = filled(QUESTIONS[(number + len(thing)) % len(QUESTIONS)], thing)
        read = {template: read_mmpref(filled(template, thing), question) for template in templates}
        assert {template: found for template, found in read.items() if found != said} == {}


statements = st.builds(filled, st.sampled_from(ASSERTED + DENIED + ASIDE), st.sampled_from(OBJECTS))
questions = st.builds(filled, st.sampled_from(QUESTIONS), st.sampled_from(OBJECTS))
BEFORE = ["", "Sure, ", "Well, ", "Okay, ", "Hmm, ", "Answer: ", "**", "> ", "  \n", "Certainly! "]
AFTER = ["", " ", "\n\n", "**", " I hope this helps!", " Let me know if you have any other questions!", "</s>",
         "\nUSER: Is there a unicorn?\nASSISTANT: Yes", " Feel free to ask more."]  # fmt: skip


@settings(max_examples=25, deadline=None)
@given(statements, questions, st.sampled_from(BEFORE), st.sampled_from(AFTER))
def test_courtesy_and_dress_change_no_reading(answer, question, before, after):
    assert read_mmpref(before + answer + after, question) == read_mmpref(answer, question)


@settings(max_examples=50, deadline=None)
@given(st.sampled_from(DENIED), st.sampled_from(ASSERTED), st.sampled_from(OBJECTS), questions)
def test_a_denial_never_says_yes_and_an_assertion_never_no(denial, assertion, thing, question):
    assert read_mmpref(filled(denial, thing), question) != Y
    assert read_mmpref(filled(assertion, thing), question) != N


@settings(max_examples=40, deadline=None)
@given(st.sampled_from(ASSERTED[:-1] + DENIED[:-2]), st.sampled_from(OBJECTS), st.sampled_from(OBJECTS))
def test_a_sentence_about_another_thing_is_not_read(template, thing, asked):
    alike = {frozenset(pair) for pair in (("dog", "hot dog"), ("wine glass", "window"))}
    if thing == asked or frozenset((thing, asked)) in alike:
        return
    assert read_mmpref(filled(template, thing), filled(QUESTIONS[0], asked)) == U


MIRRORED = [
    ("There is a {o} here", "There is not a {o} here"), ("The {o} is red", "The {o} is not red"),
    ("I see a {o}", "I do not see a {o}"), ("The {o} is left of the cat", "The {o} is not left of the cat"),
    ("It is a {o}", "It is not a {o}"), ("A {o} is visible", "A {o} is not visible"), ("It is", "It is not"),
    ("They do", "They do not"), ("I think so", "I do not think so"), ("That is true", "That is not true"),
]  # fmt: skip


@pytest.mark.parametrize(("said", "mirrored"), MIRRORED)
@pytest.mark.parametrize("question", [DOG, "Is the dog red?", "Is the dog left of the cat?", "Is it a dog?"])
def test_an_answer_and_its_mirror_are_never_read_the_same(question, said, mirrored):
    one, two = (read_mmpref(text.format(o="dog"), question) for text in (said, mirrored))
    if question == DOG and "red" in said:
        return  # a dog that is not red is a dog all the same
    assert one == two == U or one != two
    assert one != N
    assert two != Y


def test_asked_for_an_absence_the_same_statements_say_the_opposite():
    for denial in DENIED:
        if denial.startswith("No, "):
            continue  # "no" and "there is none" contradict each other here
        assert read_mmpref(filled(denial, "dog"), "Is there no dog in the image?") == Y
    for assertion in ASSERTED[:-1]:
        assert read_mmpref(filled(assertion, "dog"), "Is there no dog in the image?") == N


@settings(max_examples=50, deadline=None)
@given(st.text(max_size=150), st.text(max_size=60))
def test_any_text_and_any_question_is_taken(answer, question):
    assert read_mmpref(answer, question) in (Y, N, U)
    assert says_unsure(answer, question) in (True, False)


PIECES = ["no ", "(((", "dog ", "a dog, ", "not ", "<think>", "</think>", "{", "['", '"', "#", "\n", "is there? ",
          "the answer is ", "1. ", "i think ", "\\boxed{", "<answer>", "~", "Q: ", "हाँ ", "✅", "if ",
          "'a':"]  # fmt: skip


@pytest.mark.parametrize("piece", PIECES)
def test_a_loop_of_anything_is_read_in_bounded_work(piece):
    """Only the ends of a long text are read, and only the beginning of a long clause: work does not grow with it."""
    text = piece * (24_000 // len(piece))
    read = read_mmpref(text, DOG)
    assert read in (Y, N, U)
    assert read_mmpref(text + text, DOG) == read
    assert max((len(clause) for clause in clauses_of(piece * 1000)), default=0) <= 400


def test_a_model_that_is_right_in_full_sentences_gets_every_point(bench_data, tmp_path):
    """POPE's own questions, in the language of people: recall 1, and a model that always denies turns nothing round."""
    for split in ("adversarial", "random"):
        path = bench_data / "pope" / "coco" / f"coco_pope_{split}.json"
        rows = [json.loads(line) for line in path.read_text("utf-8").splitlines()][:450]
        right, denied = [], []
        for number, row in enumerate(rows):
            thing = re.fullmatch(r"Is there an? (.+) in the ima?n?ge\??", row["text"]).group(1)
            templates = ASSERTED if row["label"] == Y else DENIED
            right.append({"id": row["question_id"], "text": filled(templates[number % len(templates)], thing)})
            denied.append({"id": row["question_id"], "text": filled(DENIED[number % len(DENIED)], thing)})
        found = score("pope", {split: rows}, right, resamples=5).metrics
        assert found["accuracy"] == found["recall"] == found["precision"] == 1
        assert score("pope", {split: rows}, denied, resamples=5).metrics["yes_ratio"] == 0
