"""Each reader against a table of answers worked out by hand from the rules of its tool."""

import re
import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmpref.evals.text.yes_no import (
    read_lmms_eval,
    read_mmpref,
    read_official,
    read_vlmevalkit,
    says_unsure,
)

Y, N, U = "yes", "no", "unparsed"


@pytest.mark.parametrize(
    ("answer", "verdict"),
    [
        ("Yes", Y), ("No", N), ("no", N), ("No.", N), ("No, there is none", N), ("The dog is not there.", N),
        ("NO", Y), ("No!", Y), ("No\nthere is none", Y), ("\tNo", Y), ('"No"', Y), ("**No**", Y), ("(no)", Y),
        ("Not", Y),
        ("Nope", Y), ("It isn't there", Y), ("I cannot see one", Y), ("None", Y), ("", Y), ("Unknown", Y), ("N/A", Y),
        ("Non", Y), ("no,there is", Y), ("A. no", Y), ("Mr. X says no.", Y), ("1. No", Y),
        ("Yes, not one but two", N), ("yes, but no", N), ("I'm not sure.", N), ("Yes. No.", Y), ("Yes no. ", N),
    ],
)  # fmt: skip
def test_official_keeps_the_quirks_of_the_script(answer, verdict):
    assert read_official(answer) == verdict


@pytest.mark.parametrize(
    ("answer", "verdict"),
    [("yes", Y), ("No", N), (" YES \n", Y), ("Yes.", U), ("No, there is none", U), ("", U), ("nope", U), ("y", U)],
)
def test_lmms_eval_takes_only_the_bare_word(answer, verdict):
    assert read_lmms_eval(answer) == verdict


@pytest.mark.parametrize(
    ("answer", "verdict"),
    [
        ("Yes.", Y), ("NO!", N), ("No, there is none", N), ("yes-no", U), ("Yes and no", U), ("", U), ("Nope", U),
        ("No:", U), ("**No**", U), ("'no'", U), ("“No”", U), ("no。", U), ('"No"', N), ("(no)", N),
        ("A. no", N), ("The dog is not there", U),
        # a mark that touches a space is deleted, so the words around it grow together
        ("no,there", N), ("no,there , is", U), ("no-one", N), ("no-one - really", U),
        # a comma between digits deletes every mark
        ("1,000 dogs/no", U), ("1000 dogs/no", N),
        # the 33rd full stop stays
        ("." * 32 + "no", N), ("." * 33 + "no", U), ("no.5", U),
        # and one that follows a digit is not looked at
        ("1. " * 40 + "no.", N),
    ],
)  # fmt: skip
def test_vlmevalkit_needs_one_whole_word_after_its_clean_up(answer, verdict):
    assert read_vlmevalkit(answer) == verdict


@pytest.mark.parametrize(
    ("answer", "verdict"),
    [
        # the word first, however it is dressed
        ("Yes.", Y), ("NO", N), ("**No**", N), ("No!", N), ("\tNo", N), ("“No”", N), ("(no)", N), ("ｎｏ", N),
        ("No\u200b", N),
        ("No\n\nThere is none.", N), ("> yes", Y), ("- **Answer:** No", N), ("1. No", N), ("(B) Yes", Y), ("A. no", N),
        ("\\boxed{No}", N), ("$\\text{No}$", N), ("✅ Yes", Y), ("y", Y), ("N", N), ("Nope", N),
        ("Yeah, two of them", Y), ("Yeah", Y), ("Actually yes", Y),
        ("Absolutely not", N), ("Definitely!", Y), ("True", Y), ("Incorrect.", N), ("None", N), ("Not really.", N),
        ("I can't see any dogs in this picture.", N),
        # what follows a clear verdict does not turn it
        ("Yes, but no dogs", Y), ("Yes, not one but two", Y), ("No, but there is a cat. It is not alone.", N),
        ("Yes, there is. However, the answer is not certain", Y),
        # conclusions and later sentences
        ("The answer is no.", N), ("The answer is: **Yes**", Y), ("Let me look.\n\nAnswer: No", N),
        ("<think>maybe no</think>Yes", Y), ("Is there a dog? No.", N), ("No problem! Yes, there is one.", Y),
        # inside the sentence
        ("Based on the image, no.", N), ("Mr. X says no.", N), ("I think yes", Y), ("not sure, but probably yes", Y),
        # plain denials
        ("The dog is not there", N), ("There is no dog.", N), ("There isn’t any dog", N),
        ("I don't see a dog in the image", N),
        ("The image does not contain a dog.", N), ("There are no dogs or cats", N),
        ("It isn't.", N), ("That is not correct.", N), ("I see no dog here", N), ("The scene has no people", N),
        ("A dog is not clearly visible in the image", N), ("It does not appear to have one", N), ("Hmm, no.", N),
        # a negation of something else
        ("There are two people on a bench, not far from a tree", U), ("A man with no hat is in the image", U),
        ("The people are not wearing helmets", U), ("There are several cars, none of which is red", U),
        # nothing was said, or both, or doubt
        ("", U), ("   ", U), ("There is a dog", U), ("yes/no", U), ("Yes and no", U), ("No.\nYes.", U),
        ("Yes. The answer is no", U), ("There is a cat but no dog", U), ("I'm not sure.", U), ("I can't tell", U),
        ("It is impossible to say yes or no", U), ("I cannot see the image.", U), ("N/A", U), ("Unknown", U),
        ("Não", N),
        ("I'm sorry, but I cannot help", U), ("There is no doubt that there is a dog", U), ("<think>hmm no", U),
        ("...", U),
        # a letter that more words follow answers nothing
        ("y it is", U), ("Y axis", U), ("n of them", U),
    ],
)  # fmt: skip
def test_mmpref_reads_what_a_person_would(answer, verdict):
    assert read_mmpref(answer) == verdict


@given(st.text(max_size=200))
def test_every_reader_takes_any_text(text):
    for read in (read_mmpref, read_official, read_lmms_eval, read_vlmevalkit):
        assert read(text) in (Y, N, U)


@given(
    st.sampled_from(["yes", "no"]), st.sampled_from(["", ".", "!", " **", "\n"]), st.sampled_from(["", " ", "**", "\n"])
)
def test_mmpref_ignores_case_and_dress(word, after, before):
    for form in (word, word.upper(), word.capitalize()):
        assert read_mmpref(before + form + after) == word


@given(st.text(alphabet=string.ascii_letters + " .,!?/-_()[]0123456789*'\"", max_size=60))
def test_vlmevalkit_agrees_with_the_rule_written_differently(text):
    lower = text.lower()
    digits = re.search("[0-9],[0-9]", lower)
    kept = [
        ("" if digits or f"{char} " in lower or f" {char}" in lower else " ")
        if char in ';/[]"{}()=+\\_-><@`,?!'
        else char
        for char in lower
    ]
    joined, stops = "".join(kept), 0
    words = ""
    for index, char in enumerate(joined):
        if char == "." and stops < 32 and not joined[index + 1 : index + 2].isdigit():
            stops += 1
        else:
            words += char
    found = {"yes", "no"} & set(words.split())
    assert read_vlmevalkit(text) == (found.pop() if len(found) == 1 else U)


@pytest.mark.parametrize(
    ("answer", "unsure"),
    [
        ("I'm not sure.", True),
        ("It is impossible to tell without an image.", True),
        ("Yes, though it is hard to tell", False),
        ("No doubt about it, yes.", False),
        ("a dog", False),
        ("", False),
    ],
)
def test_doubt_is_told_from_what_cannot_be_read(answer, unsure):
    assert says_unsure(answer) == unsure
