"""Answers as single claims: sentences and joined clauses, and what is none."""

from __future__ import annotations

import pytest

from mmpref.sampling.scorers.claim_rules import claims_of, distinct, facts_of_list


@pytest.mark.parametrize(
    ("text", "claims"),
    [
        ("", ()),
        ("A dog sits on a mat.", ("A dog sits on a mat.",)),
        ("a red square . there is no dog .", ("A red square.", "There is no dog.")),
        ("It is 3.5 m tall. Two men stand by it!", ("It is 3.5 m tall.", "Two men stand by it.")),
        ("Mr. Smith holds a cup.", ("Mr. Smith holds a cup.",)),
        ("J. R. Smith is here. He waves.", ("J. R. Smith is here.", "He waves.")),
        ("There are cups, plates, etc. on it.", ("There are cups, plates, etc. on it.",)),
        ("There are cups, plates, etc. The table is red.", ("There are cups, plates, etc.", "The table is red.")),
        ("It is 9 a.m. on a Sunday.", ("It is 9 a.m. on a Sunday.",)),
        ("The clock shows 9 a.m. People walk by.", ("The clock shows 9 a.m.", "People walk by.")),
        ("The bus is No. 5. It is red.", ("The bus is No. 5.", "It is red.")),
        ("No. There is a dog.", ("There is a dog.",)),
        ("Yes, there is a dog.", ("There is a dog.",)),
        ("Yes", ()),
        ("Red.", ()),
        ("I am sorry.", ()),
        ("What is it? It is a cat.", ("It is a cat.",)),
        ("The image shows:\n- a red **car**\n- two dogs\n1. a `tree`", ("A red car.", "Two dogs.", "A tree.")),
        ("## Summary\n(1) A cat sleeps.\n\n• It is 2) of them", ("A cat sleeps.", "It is 2) of them.")),
        ("The cat sleeps. The cat sleeps. the cat sleeps!", ("The cat sleeps.",)),
        ("A man is riding a horse, and a dog is running behind him.",
         ("A man is riding a horse.", "A dog is running behind him.")),
        ("The sky is blue and there are two clouds, but the sea is grey.",
         ("The sky is blue.", "There are two clouds.", "The sea is grey.")),
        ("A man sits on a bench while a woman stands behind it.",
         ("A man sits on a bench.", "A woman stands behind it.")),
        ("There is a cat and a dog.", ("There is a cat.", "There is a dog.")),
        ("there are two cats , a red dog and no birds .",
         ("There are two cats.", "There is a red dog.", "There are no birds.")),
        ("A red car, two dogs and a tree.", ("A red car.", "Two dogs.", "A tree.")),
        ("There is a man between a car and a bus.", ("There is a man between a car and a bus.",)),
        ("There is a cup and a plate on the table.", ("There is a cup and a plate on the table.",)),
        ("There is a cat and a dog sleeping.", ("There is a cat and a dog sleeping.",)),
        ("There is a car or a bus and a tree.", ("There is a car or a bus and a tree.",)),
        ("A cat and it sleeps.", ("A cat and it sleeps.",)),
        ("A man and a woman are walking.", ("A man and a woman are walking.",)),
        ("A man is wearing a hat and holding a cup.", ("A man is wearing a hat and holding a cup.",)),
        ("It has a cup and a plate that is blue.", ("It has a cup and a plate that is blue.",)),
        ("The sign reads stop; the car is red.", ("The sign reads stop.", "The car is red.")),
        ('He says "go." She waves.', ('He says "go".', "She waves.")),
        ("<think>Is it a dog? It is a cat.</think>A dog runs.", ("A dog runs.",)),
        ("<think>It is a cat. It was cut", ()),
        ("图中有一只猫。它在睡觉。", ("图中有一只猫。", "它在睡觉。")),
    ],
)  # fmt: skip
def test_an_answer_is_divided_into_its_claims(text: str, claims: tuple[str, ...]) -> None:
    assert claims_of(text) == claims


def test_every_word_of_plain_sentences_is_in_a_claim() -> None:
    text = "A small dog lies on a mat, and a cat is beside it. There are 2.5 m of rope etc. on the floor; it is wet."
    words = [word.strip(".,;").lower() for word in text.split()]
    found = [word.strip(".,").lower() for claim in claims_of(text) for word in claim.split()]
    assert found == [word for word in words if word != "and"]


def test_a_list_that_a_model_wrote_is_read_by_lines_and_its_cut_end_is_left_out() -> None:
    text = "1. A dog sits, and a cat is near.\n\n- **A tree** stands.\nNONE\na dog sits, and a cat is near\nA half sen"
    whole = ("A dog sits, and a cat is near.", "A tree stands.")
    assert facts_of_list(text, cut=True) == whole
    assert facts_of_list(text) == (*whole, "A half sen.")
    assert facts_of_list("NONE") == facts_of_list("", cut=True) == ()


def test_claims_of_several_answers_are_asked_once() -> None:
    assert distinct([("A dog.", "A cat."), ("A Dog.",), ()]) == {"a dog.": "A dog.", "a cat.": "A cat."}
