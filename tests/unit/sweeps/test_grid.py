"""The cells of a sweep: what is parsed, what they are called, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmpref.errors import ConfigError
from mmpref.recipe.loading import with_names
from mmpref.sweeps.grid import (
    Arm,
    Axis,
    cells_of,
    parse_arm,
    parse_axis,
    parse_seeds,
    refuse_unused_names,
    unknown_names,
)

PLAIN = st.text("abcdefgXYZ0123456789.-+_é", min_size=1, max_size=8)
VALUES = st.one_of(
    PLAIN,
    st.lists(PLAIN, min_size=1, max_size=3).map(lambda parts: json.dumps(parts, ensure_ascii=False)),
    st.dictionaries(PLAIN, PLAIN, min_size=1, max_size=2).map(lambda found: json.dumps(found, ensure_ascii=False)),
)


@settings(max_examples=40)
@given(st.lists(VALUES, min_size=1, max_size=6, unique=True))
def test_values_come_back_as_they_were_written(values: list[str]) -> None:
    assert parse_axis(f"a.b={','.join(values)}") == Axis("a.b", tuple(values))


@settings(max_examples=40)
@given(
    st.lists(
        st.lists(st.text("aAb.,=[]é/ ", min_size=1, max_size=150), min_size=1, max_size=3, unique=True),
        min_size=1,
        max_size=3,
    ),
    st.lists(st.text("aA .é:-", min_size=1, max_size=100), max_size=3, unique=True),
)
def test_every_combination_is_one_cell_and_no_two_share_a_folder_on_any_file_system(
    values: list[list[str]], arms: list[str]
) -> None:
    axes = [Axis(f"k{number}", tuple(each)) for number, each in enumerate(values)]
    cells = cells_of((), [Arm(name, ()) for name in arms], axes)
    count = max(len(arms), 1)
    for each in values:
        count *= len(each)
    assert len({(cell.arm, tuple(cell.values.values())) for cell in cells}) == len(cells) == count
    names = [cell.name for cell in cells]
    assert len({name.lower() for name in names}) == count
    assert all(len(name) <= 121 and Path(name).name == name and not name.startswith(".") for name in names)
    assert not any(name.lower().endswith((".json", ".yaml")) for name in names)


@settings(max_examples=40)
@given(st.dictionaries(st.text("abc", min_size=1, max_size=3), st.text("abc{}", max_size=6), max_size=4))
def test_what_stands_for_a_name_is_not_looked_into_again(names: dict[str, str]) -> None:
    text = "-".join(f"{{{name}}}" for name in names)
    assert with_names(text, names) == "-".join(names.values())


def test_names_stay_what_running_sweeps_have() -> None:
    arms = [Arm("SFT on chosen", ("loss.name=sft",)), Arm("Uni-DPO", ("loss.name=uni_dpo",))]
    cells = cells_of((), arms, [Axis("train.learning_rate", ("6e-5",)), Axis("seed", ("0", "1"))])
    assert [cell.name for cell in cells] == [
        "SFT_on_chosen_learning_rate=6e-5_seed=0", "SFT_on_chosen_learning_rate=6e-5_seed=1",
        "Uni-DPO_learning_rate=6e-5_seed=0", "Uni-DPO_learning_rate=6e-5_seed=1",
    ]  # fmt: skip
    assert cells[1].changes == ("loss.name=sft", "train.learning_rate=6e-5", "seed=1")


def test_names_in_braces_get_the_value_of_their_cell() -> None:
    cells = cells_of(("data.train=p_{noise}.jsonl",), [Arm("A", ("output_note={arm}",))], [Axis("noise", ("0", "20"))])
    assert [cell.changes for cell in cells] == [
        ("data.train=p_0.jsonl", "output_note=A"),
        ("data.train=p_20.jsonl", "output_note=A"),
    ]


def test_an_apostrophe_inside_a_word_is_none_of_the_quotation_marks() -> None:
    assert parse_axis("q=what's,that").values == ("what's", "that")
    assert parse_axis("q='a,b',c").values == ("'a,b'", "c")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("train.learning_rate", "write KEY=VALUE,VALUE"),
        ("=1,2", "write KEY=VALUE,VALUE"),
        ("a.b=1,,2", "one of the values of a.b is empty"),
        ("a.b=", "is empty"),
        ("a.b=1,2,1", "1 is given twice"),
        ("a.b=[1,2", "] is missing"),
        ("a.b='x", "' is missing"),
    ],
)
def test_an_axis_that_cannot_be_read_is_refused(text: str, said: str) -> None:
    with pytest.raises(ConfigError) as err:
        parse_axis(text)
    assert said in str(err.value)


def test_seeds_are_whole_numbers() -> None:
    assert parse_seeds("0, 1,2") == Axis("seed", ("0", "1", "2"))
    for bad in ("0..2", "a", "1,", "-1"):
        with pytest.raises(ConfigError, match="--seeds"):
            parse_seeds(bad)


def test_an_arm_is_a_name_with_changes_or_the_name_of_a_loss() -> None:
    assert parse_arm("DPO: loss.name=dpo loss.beta=0.1") == Arm("DPO", ("loss.name=dpo", "loss.beta=0.1"))
    assert parse_arm("dpo") == Arm("dpo", ("loss.name=dpo",))
    assert parse_arm("X: loss={name: dpo, beta: 1}") == Arm("X", ("loss={name: dpo, beta: 1}",))
    with pytest.raises(ConfigError, match="'loud' is no KEY=VALUE"):
        parse_arm("X: loud")
    with pytest.raises(ConfigError, match="write NAME: KEY=VALUE"):
        parse_arm(": a=1")


@pytest.mark.parametrize(
    ("changes", "arms", "axes", "said"),
    [
        ((), [], [], "needs something to vary"),
        ((), [], [Axis("seed", ("0",)), Axis("seed", ("1",))], "given twice"),
        ((), [Arm("A", ()), Arm("A", ())], [], "two arms are called 'A'"),
        (("seed=1",), [], [Axis("seed", ("0",))], "seed is in --grid and in the changes"),
        ((), [Arm("A", ("seed=1",))], [Axis("seed", ("0",))], "in --grid and in arm 'A'"),
        (("output=x",), [Arm("A", ())], [], "choose the sweep's folder with --out"),
        ((), [Arm("A", ())], [Axis("arm", ("0",))], "give the axis another name"),
        ((), [], [Axis("a b", ("0",))], "letters, digits"),
        ((), [], [Axis("seed", tuple(map(str, range(101)))), Axis("k", tuple(map(str, range(100))))], "10,100 cells"),
    ],
)
def test_a_sweep_that_is_ambiguous_is_refused(changes: tuple, arms: list, axes: list, said: str) -> None:
    with pytest.raises(ConfigError) as err:
        cells_of(changes, arms, axes)
    assert said in str(err.value)


def test_an_axis_that_nothing_reads_is_refused_with_the_nearest_key() -> None:
    with pytest.raises(ConfigError, match=r"did you mean 'train\.learning_rate'"):
        refuse_unused_names([Axis("learning_rate", ("1",))], [])
    refuse_unused_names([Axis("noise", ("1",))], ["data.train: pairs_{noise}.jsonl"])


def test_a_name_in_braces_that_is_nearly_that_of_an_axis_is_told() -> None:
    assert unknown_names(["a_{sed}_{id}.jpg"], ["seed", "arm"]) == [
        "{sed} is the name of no axis, did you mean 'seed'?"
    ]
