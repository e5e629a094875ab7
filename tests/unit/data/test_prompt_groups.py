"""Pairs of one prompt are counted as training groups them, and what does not agree among them is named with its ids."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmpref.data.pair_source import all_files
from mmpref.data.prompt_groups import PromptGroups, PromptTally, embedded_name
from mmpref.records import ImageRef, PreferencePair, VideoRef, user_turn


def pair(
    name: str, chosen: str, rejected: str | None, scores: tuple[float, float] | None = None, *, image: str = "a.png",
    question: str = "What is it?", **rest: object,
) -> PreferencePair:  # fmt: skip
    low, high = scores or (None, None)
    return PreferencePair(
        id=name, images=(ImageRef(path=image),), prompt=user_turn(question, num_images=1), chosen=chosen,
        rejected=rejected, score_chosen=low, score_rejected=high, **rest,
    )  # type: ignore[arg-type]  # fmt: skip


def groups_of(*pairs: PreferencePair, contents: dict[str, str] | None = None) -> PromptGroups:
    tally = PromptTally()
    for one in pairs:
        names = [
            str(file.path) if file.path is not None else embedded_name(file.data or b"")  # type: ignore[union-attr]
            for file in all_files(one)
        ]
        tally.add(one, names, None if contents is None else [contents.get(name, name) for name in names])
    return tally.finish()


def test_prompts_pairs_and_answers_are_counted() -> None:
    texts = [f"Answer {letter}." for letter in "abcd"]
    rows = [pair(f"{i}{j}", texts[i], texts[j]) for i, j in itertools.combinations(range(4), 2)]
    found = groups_of(*rows, pair("other", texts[0], texts[1], question="And this?"), rows[0])
    assert (found.pairs, found.prompts, found.answers) == (7, 2, 6)
    assert found.pairs_per_prompt == {1: 1, 6: 1}
    assert found.warnings() == []
    prompt, answer = 576 + len("What is it?") // 4, len(texts[0]) // 4
    alone = 6 * (prompt + 2 * answer) + (576 + len("And this?") // 4 + 2 * answer)
    together = prompt + 4 * answer + (576 + len("And this?") // 4 + 2 * answer)
    assert found.saved == pytest.approx(1 - together / alone)
    assert "saves about 71%" in dict(found.rows())["grouped by prompt"]
    assert "saves nothing" in dict(groups_of(rows[0]).rows())["grouped by prompt"]
    assert groups_of().rows() == []


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 3), st.integers(0, 3)), max_size=12))
def test_prompts_are_those_of_the_key_by_which_training_groups(rows: list[tuple[int, int, int]]) -> None:
    pairs = [
        replace(pair(str(i), f"yes {a}", f"no {b}", image=f"{p}.png"), response_prefix=" " * (p == 1))
        for i, (p, a, b) in enumerate(rows)
    ]
    found = groups_of(*pairs)
    assert found.prompts == len({one.prompt_key for one in pairs})
    assert found.answers == len({(one.prompt_key, text) for one in pairs for text in (one.chosen, one.rejected)})
    assert sum(size * count for size, count in found.pairs_per_prompt.items()) == len(pairs)
    assert 0 <= found.saved < 1


def test_each_part_of_a_prompt_makes_another_one() -> None:
    base = pair("a", "x", "y")
    others = [
        replace(base, images=(ImageRef(path="b.png"),)),
        replace(base, prompt=user_turn("What is that?", num_images=1)),
        replace(base, response_prefix="It is "),
        replace(base, template_kwargs={"enable_thinking": False}),
        replace(base, videos=(VideoRef(path="v.mp4"),)),
        replace(base, videos=(VideoRef(frames=(ImageRef(data=b"1"),), fps=1.0),)),
        replace(base, videos=(VideoRef(frames=(ImageRef(data=b"1"),), fps=2.0),)),
    ]
    pairs = [replace(one, id=str(number)) for number, one in enumerate([base, *others])]
    assert groups_of(*pairs).prompts == len({one.prompt_key for one in pairs}) == len(pairs)


def test_an_answer_with_two_scores_is_named_with_both_pairs_and_scores() -> None:
    found = groups_of(
        pair("p1", "A cup.", "A dog.", (4, 2)), pair("p2", " A cup.\n", "A cat.", (4.5, 1)),
        pair("p3", "A dog.", "A hen.", (2, 1)), pair("p4", "A cup.", "A dog.", (9, 8), question="And now?"),
        pair("p5", "A cat.", "A cow.", None),
    )  # fmt: skip
    assert (found.scored_twice.count, found.scored_twice.examples) == (1, ("4 in 'p1' and 4.5 in 'p2'",))
    (line,) = found.warnings()
    assert "1 answer of a prompt has different scores" in line
    assert "4 in 'p1' and 4.5 in 'p2'" in line


def test_pairs_that_contradict_or_repeat_one_another_are_named() -> None:
    found = groups_of(
        pair("p1", "café", "tea"), pair("p2", "tea", "cafe\u0301"), pair("p3", "café ", "tea"),
        pair("p4", "tea", "café", image="b.png"), pair("p5", "milk", None), pair("p6", "milk", None),
    )  # fmt: skip
    assert found.contradicting.examples == ("'p1' and 'p2'", "'p2' and 'p3'")
    assert found.repeated.examples == ("'p1' and 'p3'", "'p5' and 'p6'")
    contradicting, repeated = found.warnings()
    assert contradicting.startswith("2 pairs prefer the answer that another one of their prompt rejects")
    assert repeated.startswith("2 pairs say the same as another one with another id (such as 'p1' and 'p3'")


def test_a_pair_that_a_weight_repeats_is_one_pair() -> None:
    row = pair("p1", "A cup.", "A dog.", (4, 2))
    found = groups_of(row, row, row)
    assert (found.pairs, found.repeated.count, found.pairs_per_prompt) == (1, 0, {1: 1})


def test_the_same_text_about_other_images_is_another_answer() -> None:
    other = (ImageRef(path="b.png"),)
    found = groups_of(
        pair("p1", "A cup.", "A cup.", (4, 1), rejected_images=other),
        pair("p2", "A cup.", "A dog.", (4, 2)),
        pair("p3", "A cup.", "A dog.", (2, 1), image="b.png"),
    )
    assert found.contradicting.count == found.repeated.count == found.differ_in_blanks.count == 0
    assert found.scored_twice.examples == ("1 in 'p1' and 2 in 'p3'",)  # of the image that both show
    assert found.answers == 5  # of the rejected images a prompt of its own
    same = groups_of(
        pair("p1", "A cup.", "A dog.", rejected_images=(ImageRef(path="a.png"),)), pair("p2", "A cat.", "A dog.")
    )
    assert (same.answers, same.prompts) == (3, 1)


def test_answers_that_differ_in_blanks_alone_are_named() -> None:
    found = groups_of(pair("p1", "A  cup.\nRed.", "A cup. Red."), pair("p2", "A cup.", "Acup."))
    assert found.differ_in_blanks.examples == ("'p1'",)
    assert "1 pair has answers (such as 'p1') that differ in blanks alone" in found.warnings()[0]


def test_prompts_that_only_look_alike_are_named_with_the_copies_of_their_images() -> None:
    rows = [
        pair("p1", "A cup.", "A dog."), pair("p2", "A cat.", "A dog.", image="./a.png"),
        pair("p3", "A cat.", "A hen.", image="b.png"), pair("p4", "A cow.", "A dog.", question="What is it? "),
    ]  # fmt: skip
    unknown = groups_of(*rows)
    assert unknown.not_grouped.examples == ("'p1' and 'p4'",)
    assert "blanks" in unknown.warnings()[0]
    known = groups_of(*rows, contents={"a.png": "red", "./a.png": "red", "b.png": "blue"})
    assert known.prompts == 4
    assert known.not_grouped.examples == ("'p1' and 'p2'", "'p1' and 'p4'")
    assert known.copies.examples == ("a.png and ./a.png",)
    assert "1 image is the same bytes as one under another path (such as a.png and ./a.png)" in known.warnings()[0]


def test_embedded_images_of_equal_bytes_are_one_image() -> None:
    rows = [
        replace(pair(str(number), "A cup.", f"A dog {number}."), images=(ImageRef(data=data),))
        for number, data in enumerate((b"12", b"1" + b"2", b"13"))
    ]
    assert groups_of(*rows).pairs_per_prompt == {1: 1, 2: 1}


def test_the_first_cases_are_shown_and_all_are_counted() -> None:
    rows = [pair(f"p{number:02}", "A cup.", "A dog.") for number in range(30)]
    found = groups_of(*rows)
    assert found.repeated.count == 29
    assert found.repeated.examples == tuple(f"'p00' and 'p{number:02}'" for number in range(1, 6))
    scored = [pair(f"p{number:02}", f"A {number % 15}.", f"B {number}.", (number, 0)) for number in range(30)]
    assert groups_of(*scored).scored_twice.count == 15
    assert groups_of(*scored).scored_twice.examples[0] == "0 in 'p00' and 15 in 'p15'"
