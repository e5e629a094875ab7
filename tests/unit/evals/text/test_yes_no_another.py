"""Statements with most of the question's words that are about another thing: they answer nothing."""

import pytest

from mmpref.evals.text.yes_no import read_mmpref

CURRENT = "Does the Oyashio Current flow from the south to the north?"
MICHIGAN = "Is Michigan the only U.S. state that shares a border with Lake Huron?"
ACTOR = "Is the actor inside the red bounding box called Tom Hanks?"
MONET = "Is this artwork created by Monet?"
TOWER = "Is this a photo of the Eiffel Tower?"
CAT = "Is the cat black?"
APPLES = "Are all the apples red?"


@pytest.mark.parametrize(
    ("question", "answer"),
    [
        (CURRENT, "The Kuroshio Current flows from the south to the north."),
        (CURRENT, "The Oyashio Current flows from the north to the south."),
        (MICHIGAN, "Ohio is the only U.S. state that shares a border with Lake Huron."),
        (MICHIGAN, "Michigan is a U.S. state that shares a border with Lake Huron."),
        (ACTOR, "The actor outside the red bounding box is Tom Hanks."),
        (ACTOR, "The actor next to Tom Hanks is Meg Ryan."),
        (MONET, "This artwork was created by a student of Monet."),
        (TOWER, "This is a photo of a replica of the Eiffel Tower."),
        (CAT, "The cat is black and white."),
        (CAT, "The cat is next to the dog, which is black."),
        (CAT, "The cat is as black as the dog."),
        (CAT, "The cat is wearing something black."),
        (CAT, "The cat is becoming black."),
        (CAT, "The cat looks like something black."),
        (APPLES, "Some apples are red."),
        (APPLES, "One apple is red."),
        ("Are the two lines parallel?", "One line is parallel to the edge."),
        ("Is the man driving a car?", "The man is diving."),
        ("Is the man writing?", "The man is waiting."),
        ("Is this photo taken in Ireland?", "This photo is taken in Iceland."),
    ],
)
def test_another_thing_is_not_the_asked_one(question, answer):
    assert read_mmpref(answer, question) == "unparsed"


@pytest.mark.parametrize(
    ("question", "answer", "reading"),
    [
        (MICHIGAN, "Michigan is the only U.S. state that shares a border with Lake Huron.", "yes"),
        (MICHIGAN, "Michigan is not the only U.S. state that shares a border with Lake Huron.", "no"),
        (CURRENT, "The Oyashio Current flows from the south to the north.", "yes"),
        (ACTOR, "The actor inside the red bounding box is Tom Hanks.", "yes"),
        (CAT, "The cat is completely black.", "yes"),
        (APPLES, "All of the apples are red.", "yes"),
    ],
)
def test_the_asked_thing_still_answers(question, answer, reading):
    assert read_mmpref(answer, question) == reading
