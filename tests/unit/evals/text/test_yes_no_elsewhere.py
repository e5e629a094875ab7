"""Sentences that name the thing asked for and do not say that it is in the image, or take it back, by kind."""

import pytest

from mmpref.evals.text.yes_no import read_mmpref

QUESTION = "Is there a dog in the image?"

SAYS_NOTHING = {
    "a mind": [
        "The man claims that there is a dog.", "The man claims there is no dog.", "The cat thinks it is a dog.",
        "People think this is a dog.", "He wishes he had a dog.", "The man hopes to see a dog.",
        "She is thinking of a dog.", "A cat is afraid of dogs.",
        "The man on the phone is saying there is a dog outside.",
    ],
    "a comparison": [
        "Unlike a dog, the cat has long whiskers.", "Compared to a dog, the cat is small.", "It resembles a dog.",
        "It reminds me of a dog.", "The cat is about the size of a dog.", "A cookie in the form of a dog.",
    ],
    "a trace": [
        "Footprints of a dog are on the sand.", "Tracks left by a dog are on the sand.",
        "The noise of a dog can be heard.", "A leash that belongs to a dog is on the chair.",
        "This is a store that sells dogs.", "The sign prohibits dogs.", "It depends on what you call a dog.",
    ],
    "another picture": [
        "In another picture there is a dog.", "There was a dog in the previous image.", "The television shows a dog.",
        "On the TV screen, a dog can be seen.", "The mug has a dog on it.", "The wallpaper has dogs on it.",
        "The dog on his shirt is brown.", "The child is drawing a dog.", "The boy is painting a dog on a canvas.",
    ],
    "taken back": ["The dog turned out to be a cat.", "There is a dog. Actually, that's a bag."],
    "a rule": ["No dogs allowed sign, but a dog ignores it.", "No dog has ever looked so happy."],
    "a list of what is not there": ["The image shows: a cat, a sofa. Not shown: a dog."],
    "another time": ["There must have been a dog here.", "It is not impossible that there is a dog."],
}  # fmt: skip

DENIED = {
    "a judged claim": [
        "The claim that there is a dog is incorrect.", "The statement that there is a dog is false.",
        "It is a mistake to claim that there is a dog.", "It would be wrong to say there is a dog.",
        "To say there is a dog would be wrong.",
    ],
    "an appearance": [
        "It looks like a dog, but it's actually a cat.", "It may look like a dog, but it is a cat.",
        "It looks like a dog, but it isn't.", "What appears to be a dog is actually a cat.",
        "At first I thought it was a dog, but it's a cat.", "You might think it's a dog, but it is not.",
    ],
    "around the claim": [
        "I'm afraid there's no dog.", "It must be said that there is no dog.", "I haven't found any dog.",
        "There can't be a dog in this image.", "There is a lack of dogs.", "No dogs in this one.",
    ],
    "nowhere": ["Nowhere in the picture is there a dog.", "Nowhere is a dog to be seen."],
    "a number": ["The count of dogs is zero.", "The number of dogs in the image is 0.", "There are 0 dogs."],
    "one of several": [
        "There's no cat, no bird and no dog.", "I see a cat and a bird, neither of which is a dog.",
        "The room has no bed, no table, and certainly no dog.",
    ],
    "seems absent": ["A dog seems absent.", "The dog appears absent.", "Not a dog, a cat."],
    "taken away": ["The dog is gone.", "The dog was cropped out.", "The dog has been removed from the picture."],
    "an opening that says nothing": [
        "Apparently, there is no dog.", "As far as I can see, there's no dog.", "Of course, there is no dog.",
        "It's unlikely. Only a cat is there.",
    ],
}  # fmt: skip

ASSERTED = {
    "a judged claim": ["It would not be wrong to say there is a dog here.", "It is correct to say there is a dog."],
    "an appearance": ["It looks like a cat, but it is a dog.", "What looks like a cat is actually a dog."],
    "an exception": ["Apart from a dog, there is nothing in the image."],
    "taken back": ["No, wait, yes, there is one.", "No wait, yes.", "There is a dog. Actually, there are two dogs."],
    "what it is in the end": ["It turned out to be a dog.", "There is a dog. Actually, it's a big one."],
    "a number": ["The number of dogs is 3."],
    "an adjective that looks like a verb": ["A parked dog is visible on the left."],
    "not one but another": ["Not a cat, a dog.", "A dog - not a cat."],
    "in part": ["The dog is not fully visible."],
    "no doubt": ["Without doubt a dog.", "A dog, no doubt.", "Without any doubt, there is a dog."],
    "not to be missed": ["The dog cannot be missed.", "One cannot overlook the dog in the middle."],
}


def _all(groups):
    return [pytest.param(answer, id=f"{kind}: {answer}") for kind, answers in groups.items() for answer in answers]


@pytest.mark.parametrize("answer", _all(SAYS_NOTHING))
def test_what_is_elsewhere_says_nothing(answer):
    assert read_mmpref(answer, QUESTION) == "unparsed"


@pytest.mark.parametrize("answer", _all(DENIED))
def test_what_is_taken_back_is_denied(answer):
    assert read_mmpref(answer, QUESTION) == "no"


@pytest.mark.parametrize("answer", _all(ASSERTED))
def test_what_is_put_right_is_asserted(answer):
    assert read_mmpref(answer, QUESTION) == "yes"


@pytest.mark.parametrize("answer", _all(SAYS_NOTHING) + _all(DENIED) + _all(ASSERTED))
def test_sure_before_an_answer_changes_nothing(answer):
    assert read_mmpref(f"Sure, {answer}", QUESTION) == read_mmpref(answer, QUESTION)


@pytest.mark.parametrize(
    "wrapped", ['{"answer": "no"}', "<answer>no</answer>", "[0.1, 0.2]", "<unk><unk>", "Sure, no."]
)
def test_sure_before_an_answer_in_other_dress_changes_nothing(wrapped):
    assert read_mmpref(f"Sure, {wrapped}", QUESTION) == read_mmpref(wrapped, QUESTION)


@pytest.mark.parametrize("answer", ["The TV is next to a dog.", "A dog sits on the rug.", "The mug is beside a dog."])
def test_things_that_could_carry_a_picture_leave_a_real_dog_alone(answer):
    assert read_mmpref(answer, QUESTION) == "yes"


@pytest.mark.parametrize(
    ("answer", "reading"),
    [
        ("Everything except the cat is black.", "unparsed"), ("The man thinks the cat is black.", "unparsed"),
        ("The cat in another picture is black.", "unparsed"), ("The cat is either black or white.", "unparsed"),
        ("The cat is black or white.", "unparsed"), ("The cat was black before.", "unparsed"),
        ("It seems unlikely that the cat is black.", "no"), ("Nothing suggests that the cat is black.", "no"),
        ("I wouldn't say the cat is black.", "no"), ("The cat is by no means black.", "no"),
        ("The cat is not at all black.", "no"), ("The cat is neither black nor white.", "no"),
        ("While the dog is black, the cat is not black.", "no"), ("The cat looks black, but it isn't.", "no"),
        ("The cat may look black, but it is white.", "no"), ("The cat looks black, but it is big.", "yes"),
        ("While the dog is white, the cat is black.", "yes"),
    ],
)  # fmt: skip
def test_an_attribute_is_told_from_what_only_has_its_words(answer, reading):
    assert read_mmpref(answer, "Is the cat black in this image?") == reading


@pytest.mark.parametrize(
    ("question", "answer", "reading"),
    [
        ("Is the water clear?", "The water isn't clear, it is muddy.", "no"),
        ("Is the man wearing a hat?", "Everyone but the man is wearing a hat.", "unparsed"),
        ("Is the man wearing a hat?", "He is wearing glasses and a hat.", "yes"),
        ("Is the man wearing a hat?", "He is wearing glasses and holding a hat.", "unparsed"),
        ("Are the two lines parallel?", "The two lines look parallel at first, but they actually converge.", "no"),
        ("Are the two lines parallel?", "They don't look parallel, but they are.", "yes"),
        ("Are there two dogs in the image?", "There are two cats and a dog.", "unparsed"),
        ("Is the man to the left of the woman?", "The man stands to the left of the woman.", "yes"),
        ("Is the man to the left of the woman?", "The man stands to the left of the car.", "unparsed"),
        ("Is there a dog in the image?", "Clearly, a cat is sitting on the mat.", "unparsed"),
        ("Are there any birds in the image?", "Indeed, a few of them are on the wire.", "yes"),
        ("Is there a dog in the image?", "The sign says yes.", "unparsed"),
        ("Is there a dog in the image?", "The answer could be yes.", "unparsed"),
        ("Is the water clear?", "It is not clear whether the water is clear.", "unparsed"),
        ("Is there a clock in the image?", "1. What colour is the wall?\n2. Is there a window?", "unparsed"),
        ("Is there a clock in the image?", "It could be one. Anything else?\n\n**Final Answer**\n\nNo", "no"),
        ("Is the output of the code 'No'?", "`print('Yes')` runs.", "unparsed"),
        ("Is the output of the code 'No'?", "So the output is 'Yes'.", "unparsed"),
    ],
)
def test_words_of_the_question_are_no_verdict(question, answer, reading):
    assert read_mmpref(answer, question) == reading


@pytest.mark.parametrize("question", ["DOESNT", "Is", "Isn't?", "Does not", "'?", "Are there no"])
def test_questions_of_a_word_or_two_are_taken(question):
    assert read_mmpref("There is a dog.", question) == "unparsed"


LEADS = [
    "So, ",
    "Therefore, ",
    "In this photo, ",
    "To be honest, ",
    "Of course, ",
    "Looking closely, ",
    "Hmm, ",
]


@pytest.mark.parametrize("lead", LEADS)
@pytest.mark.parametrize(
    ("answer", "reading"),
    [
        ("just a tree and a house, no dog.", "no"), ("instead of a dog, there is a cat.", "no"),
        ("unfortunately, I could not find any dogs in the image.", "no"),
        ("as far as I can see, there's no dog.", "no"),
        ("the statement that there is a dog is false.", "no"), ("it is unlikely that there is a dog.", "no"),
        ("apart from a dog, there is nothing in the image.", "yes"), ("she is thinking of a dog.", "unparsed"),
        ("it is not clear that there is a dog.", "unparsed"), ("there is a dog.", "yes"), ("there is no dog.", "no"),
        ("although there is a cat, there isn't a dog.", "no"),
    ],
)  # fmt: skip
def test_words_that_lead_to_a_statement_change_no_reading(lead, answer, reading):
    assert read_mmpref(lead + answer, QUESTION) == reading
