"""Pairs of scored candidates: which answers become a pair, what is said of the others, and what lies beside them."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mmpref.data.card import load_card
from mmpref.data.opening import open_pairs
from mmpref.data.quarantine import Quarantine
from mmpref.errors import ConfigError, DataError
from mmpref.records import (
    Candidate,
    Candidates,
    ImageRef,
    Message,
    Part,
    PreferencePair,
    Prompt,
    Score,
    VideoRef,
    user_turn,
)
from mmpref.sampling.candidate_files import write_candidates
from mmpref.sampling.pair import PairResult, make_pairs, open_scored
from mmpref.sampling.possible_pairs import PairSettings
from mmpref.sampling.steps import CANDIDATES, PAIRS, QUARANTINE, Name, Step, read_step, write_step

WHY = Score(scorer="objects", version="1", scale=(0.0, 1.0), raw=None, why="no_truth")


def answer(text: str, score: float | None, **more: Any) -> Candidate:
    scores = (WHY,) if score is None else (replace(WHY, raw=score / 5, why=""),)
    return Candidate(text=text, score=score, scores=more.pop("scores", scores), **more)


def prompt(name: str, *answers: Candidate, image: str = "") -> Candidates:
    shown = Prompt(
        id=name, images=(ImageRef(path=image or f"{name}.png"),), prompt=user_turn("What?", num_images=1), source="set"
    )
    return Candidates(prompt=shown, answers=answers)


def scored(folder: Path, found: Sequence[Candidates], *, name: Name = "score", complete: bool = True) -> Path:
    folder.mkdir(exist_ok=True)
    write_candidates(folder / CANDIDATES, found)
    step = Step(
        name=name,
        complete=complete,
        image_root=Path("/images"),
        made_from=("x",),
        settings={"range": [0, 5]},
        counts={},
    )
    write_step(folder, step)
    return folder


def made(tmp_path: Path, *found: Candidates, **given: Any) -> tuple[list[PreferencePair], PairResult]:
    source = scored(tmp_path / "scored", found)
    result = make_pairs(open_scored(source), tmp_path / "pairs", PairSettings(**given))
    return read(tmp_path / "pairs"), result


def read(folder: Path) -> list[PreferencePair]:
    """As training reads them."""
    quarantine = Quarantine()
    pairs = [found.pair for found in open_pairs(folder / PAIRS).candidates(quarantine, demonstrations=False)]
    assert len(quarantine) == 0
    return pairs


def sides(pairs: Sequence[PreferencePair]) -> list[tuple[str, str, str]]:
    return [(pair.id, pair.chosen, pair.rejected or "") for pair in pairs]


FOUR = (answer("good", 4), answer("bad", 1), answer("best", 5), answer("fair", 3))


def test_best_against_worst(tmp_path: Path) -> None:
    pairs, _ = made(tmp_path, prompt("a", *FOUR))
    assert sides(pairs) == [("a", "best", "bad")]
    pair = pairs[0]
    assert (pair.score_chosen, pair.score_rejected, pair.source) == (5, 1, "set")
    assert pair.images == (ImageRef(path="a.png"),)
    facts = {"times": 1, "scores": {"objects": 1.0}}
    assert pair.meta["sample"]["chosen"] == facts
    assert pair.meta["sample"]["candidates"] == 4


def test_all_pairs_of_a_margin_have_names_of_their_own(tmp_path: Path) -> None:
    others = prompt("a#1", answer("x", 5), answer("y", 1))
    pairs, result = made(tmp_path, prompt("a", *FOUR), others, choose="margin", min_margin=2)
    assert sides(pairs)[:2] == [("a#1_", "best", "bad"), ("a#2", "good", "bad")]  # the other prompt keeps its name
    assert {pair.id for pair in pairs} == {"a#1_", "a#2", "a#3", "a#4", "a#1"}
    assert sides(pairs)[4] == ("a#1", "x", "y")
    assert {(pair.chosen, pair.rejected) for pair in pairs[2:4]} == {("fair", "bad"), ("best", "fair")}
    assert result.step.counts["answer pairs left out"] == {"below_min_margin": 2}


def test_the_best_two_against_the_worst_two(tmp_path: Path) -> None:
    pairs, _ = made(tmp_path, prompt("a", *FOUR), choose="top_k")
    assert sides(made(tmp_path, prompt("a", *FOUR), choose="top_k", k=2)[0]) == sides(pairs)
    assert sides(made(tmp_path, prompt("a", *FOUR), choose="top_k", k=1)[0]) == [("a", "best", "bad")]
    assert {(pair.chosen, pair.rejected) for pair in pairs} == {
        ("best", "bad"),
        ("best", "fair"),
        ("good", "bad"),
        ("good", "fair"),
    }


@pytest.mark.parametrize(
    ("answers", "given", "reason"),
    [
        ((answer("x", 3), answer("y", 3)), {}, "tied"),
        ((answer("x", 1.1), answer("y", 0.1 * 11)), {}, "tied"),  # which differ in their last bit
        ((answer("x", 3), answer("y", 2)), {"min_margin": 1.5}, "below_min_margin"),
        ((answer("x", 3), answer("y", 2)), {"min_score": 4}, "below_min_score"),
        ((answer("x ", 3), answer("x", 2)), {}, "same_text"),
        ((answer("x", 3, cut=True), answer("y", 2)), {}, "cut"),
        ((answer("x", 3), answer("y", 2, cut=True)), {"cut": "drop"}, "one_answer"),
        ((answer("x", 3), answer("y y y", 2)), {"max_length_gap": 0.5}, "length_gap"),
        ((answer("x", 3), answer("y", None)), {}, "unscored"),
        ((answer("x", 3), answer(" ", 1)), {}, "one_answer"),
        ((), {}, "one_answer"),
    ],
)
def test_a_prompt_without_a_pair_is_listed_with_its_reason(
    tmp_path: Path, answers: tuple[Candidate, ...], given: dict[str, Any], reason: str
) -> None:
    pairs, result = made(tmp_path, prompt("a", *answers), prompt("b", answer("p", 5), answer("q", 1)), **given)
    assert sides(pairs) == [("b", "p", "q")]
    (row,) = map(json.loads, (tmp_path / "pairs" / QUARANTINE).read_text().splitlines())
    assert (row["id"], row["reason"]) == ("a", reason)
    assert result.step.counts["prompts without"] == {reason: 1}


def test_an_answer_that_was_cut_may_be_rejected_and_kept_where_it_is_asked_for(tmp_path: Path) -> None:
    found = prompt("a", answer("x", 3, cut=True), answer("y", 2), answer("z", 1, cut=True))
    assert sides(made(tmp_path, found)[0]) == [("a", "y", "z")]
    assert sides(made(tmp_path, found, cut="keep")[0]) == [("a", "x", "z")]


def test_an_image_with_many_prompts_has_the_pairs_of_the_highest_margins(tmp_path: Path) -> None:
    found = [prompt(name, answer("x", 5), answer("y", low), image="one.png") for name, low in (("a", 3), ("b", 1))]
    pairs, result = made(tmp_path, *found, max_per_image=1)
    assert [pair.id for pair in pairs] == ["b"]
    assert result.step.counts["prompts without"] == {"max_per_image": 1}


def test_lengths_are_balanced_and_the_bias_is_told(tmp_path: Path) -> None:
    long, short = "w " * 20, "w " * 4

    def of(number: int) -> Candidates:
        return prompt(
            str(number),
            answer(f"{short}{number}", 5),
            answer(f"{long}{number}", 1),
            answer(f"{long}a {number}", 4.5),
            answer(f"{short}a {number}", 1.5),
        )

    found = [of(number) for number in range(40)]
    _, plain = made(tmp_path, *found)
    assert plain.step.facts["lengths"]["of these pairs"]["difference"] == pytest.approx(-16)
    assert "--balance-length" in plain.warnings[0]
    pairs, balanced = made(tmp_path, *found, balance_length=True)
    lengths = balanced.step.facts["lengths"]
    assert abs(lengths["of these pairs"]["difference"]) <= 0.3
    assert lengths["without the balance"]["difference"] == pytest.approx(-16)
    assert len(pairs) == 40
    assert lengths["of these pairs"]["margin"] > 3.4
    assert [warning for warning in balanced.warnings if "images start" not in warning] == []


def test_a_balance_that_leaves_nothing_says_so(tmp_path: Path) -> None:
    found = prompt("a", answer("one two", 5), answer("one", 1))
    made(tmp_path, found)
    with pytest.raises(DataError, match=r"balance_length 1.*leave --balance-length out"):
        made(tmp_path, found, balance_length=True)
    assert "balance_length" in (tmp_path / "pairs" / QUARANTINE).read_text()
    assert [file.name for file in (tmp_path / "pairs").iterdir()] == [QUARANTINE]  # nothing of the run before


def test_the_card_is_a_data_card_with_eta_and_tau_good(tmp_path: Path) -> None:
    high = [3.0, 3.5, 4.0, 5.0]
    found = [prompt(str(place), answer("x", score), answer("y", 1)) for place, score in enumerate(high)]
    _, result = made(tmp_path, *found, prompt("none", answer("x", None), answer("y", None)))
    card = load_card(tmp_path / "pairs" / "card.md")
    assert card.scores is not None
    assert card.scores.kind == "objects 1 on 0..5"
    assert (card.scores.scale, card.scores.eta, card.scores.tau_good) == ((0, 5), 0.7, 3.75)
    assert (card.size, card.defects) == ({"pairs": 4}, {"unscored": "1 prompt gave no pair"})
    assert (card.images.kind, card.images.root) == ("paths", "/images")
    assert result.step.facts["eta"] == 0.7
    assert read_step(tmp_path / "pairs").facts["tau_good"] == 3.75
    _, low = made(tmp_path, *found, tau_quantile=1.0)
    assert low.step.facts["tau_good"] == 5
    pairs = open_pairs(tmp_path / "pairs" / PAIRS, card=str(tmp_path / "pairs" / "card.md"))
    assert len(list(pairs.candidates(Quarantine(), demonstrations=False))) == 4


def test_a_file_without_its_step_says_that_nobody_declared_a_range(tmp_path: Path) -> None:
    source = scored(tmp_path / "scored", [prompt("a", *FOUR), prompt("b", *FOUR)])
    (source / "step.json").unlink()
    opened = open_scored(source / CANDIDATES)
    assert (opened.range, opened.image_root) == (None, source)
    result = make_pairs(opened, tmp_path / "pairs", PairSettings())
    assert any("range" in warning for warning in result.warnings)
    assert read_step(tmp_path / "pairs").image_root == source


def test_what_cannot_be_made_pairs_of_is_refused(tmp_path: Path) -> None:
    found = [prompt("a", *FOUR)]
    with pytest.raises(ConfigError, match="mmpref sample score"):
        open_scored(scored(tmp_path / "generated", found, name="generate"))
    partial = scored(tmp_path / "partial", found, complete=False)
    with pytest.raises(DataError, match="--partial"):
        open_scored(partial)
    assert open_scored(partial, partial=True).file == partial / CANDIDATES
    source = scored(tmp_path / "scored", found)
    with pytest.raises(ConfigError, match="write over"):
        make_pairs(open_scored(source), source, PairSettings())
    with pytest.raises(ConfigError, match="another step"):
        make_pairs(open_scored(source), partial, PairSettings())
    made(tmp_path, *found)
    with pytest.raises(ConfigError, match="has pairs already"):
        open_scored(tmp_path / "pairs")
    with pytest.raises(ConfigError, match="does not exist"):
        open_scored(tmp_path / "none")


def test_pairs_that_nobody_made_here_are_not_written_over(tmp_path: Path) -> None:
    source = scored(tmp_path / "scored", [prompt("a", *FOUR)])
    (tmp_path / "mine").mkdir()
    for name in (PAIRS, "card.md"):
        (tmp_path / "mine" / name).write_text("mine")
        with pytest.raises(ConfigError, match=f"has a {name} that this step has not made"):
            make_pairs(open_scored(source), tmp_path / "mine", PairSettings())
        assert (tmp_path / "mine" / name).read_text() == "mine"
        (tmp_path / "mine" / name).unlink()
    make_pairs(open_scored(source), tmp_path / "mine", PairSettings())
    (tmp_path / "mine" / "step.json").unlink()  # as after a kill
    assert make_pairs(open_scored(source), tmp_path / "mine", PairSettings()).step.counts["pairs"] == 1


def test_images_that_are_not_there_are_said(tmp_path: Path) -> None:
    source = scored(tmp_path / "scored", [prompt("a", *FOUR)])
    warnings = make_pairs(open_scored(source), tmp_path / "pairs", PairSettings()).warnings
    assert [warning for warning in warnings if "start from /images, which is not there" in warning]
    there = make_pairs(open_scored(source, image_root=tmp_path), tmp_path / "pairs", PairSettings())
    assert (there.step.image_root, [text for text in there.warnings if "not there" in text]) == (tmp_path, [])
    with pytest.raises(ConfigError, match="none is no folder"):
        open_scored(source, image_root=tmp_path / "none")


def test_an_image_is_one_however_its_path_is_written(tmp_path: Path) -> None:
    found = [prompt("a", *FOUR, image="x/a.png"), prompt("b", *FOUR, image="./x//a.png")]
    pairs, _ = made(tmp_path, *found, max_per_image=1)
    assert len(pairs) == 1


@pytest.mark.parametrize(
    "given",
    [
        {"choose": "margin"},
        {"k": 2},
        {"choose": "top_k", "k": 0},
        {"choose": "best"},
        {"cut": "no"},
        {"min_margin": -1},
        {"min_margin": float("nan")},
        {"min_score": float("nan")},
        {"max_length_gap": 0},
        {"max_per_prompt": 2},
        {"max_per_image": 0},
        {"tau_quantile": 2},
    ],
)
def test_settings_that_cannot_be_are_refused(given: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        PairSettings(**given)


def test_the_same_candidates_give_the_same_bytes_and_a_prompt_does_not_ask_the_others(tmp_path: Path) -> None:
    equal = [answer(f"{letter} {letter}", score) for letter, score in zip("abcdef", (5, 5, 5, 1, 1, 1), strict=True)]
    found = [prompt(str(number), *equal) for number in range(12)]
    first, _ = made(tmp_path, *found)
    content = (tmp_path / "pairs" / PAIRS).read_bytes()
    again, _ = made(tmp_path, *found)
    assert (tmp_path / "pairs" / PAIRS).read_bytes() == content
    some, _ = made(tmp_path, *found[:5])
    assert some == first[:5] == again[:5]
    assert len({(pair.chosen, pair.rejected) for pair in first}) > 1  # not always the first of equal ones
    other, _ = made(tmp_path, *found, seed=1)
    assert [pair.chosen for pair in other] != [pair.chosen for pair in first]


texts = st.text(alphabet="ab c\n", max_size=8)
candidates = st.builds(
    answer, text=texts, score=st.none() | st.sampled_from([0.0, 1.0, 2.5, 2.5 + 1e-15, 5.0]), cut=st.booleans()
)
answers = st.lists(candidates, max_size=5, unique_by=lambda found: found.text)
choices = st.sampled_from(
    [
        {},
        {"balance_length": True},
        {"choose": "margin", "min_margin": 1.0, "max_per_prompt": 2},
        {"choose": "margin", "min_margin": 1.0, "max_per_image": 2, "balance_length": True},
        {"choose": "top_k", "k": 2, "max_length_gap": 0.5},
        {"min_score": 2.0, "cut": "drop"},
    ]
)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(found=st.lists(answers, min_size=1, max_size=5), given=choices)
def test_whatever_the_candidates_nothing_is_lost_and_every_pair_keeps_the_rules(
    tmp_path: Path, found: list[list[Candidate]], given: dict[str, Any]
) -> None:
    prompts = [prompt(str(place), *of_prompt, image=f"{place // 2}.png") for place, of_prompt in enumerate(found)]
    try:
        pairs, result = made(tmp_path, *prompts, **given)
    except DataError as fault:
        assert "gives a pair" in str(fault)  # noqa: PT017 - of some examples only
        lines = (tmp_path / "pairs" / QUARANTINE).read_text().splitlines()
        assert len(lines) == len(prompts)
        return
    counts, rules = result.step.counts, PairSettings(**given)
    lines = (tmp_path / "pairs" / QUARANTINE).read_text().splitlines()
    assert counts["prompts"] == counts["prompts with pairs"] + len(lines) == len(prompts)
    assert sum(counts["prompts without"].values()) == len(lines)
    assert sum(counts["answers"].values()) == sum(map(len, found))
    assert counts["answer pairs"] == counts["pairs"] + sum(counts["answer pairs left out"].values())
    assert counts["pairs"] == len(pairs) == len({pair.id for pair in pairs})
    by_text = {(of.prompt.images, of.prompt.id, one.text): one for of in prompts for one in of.answers}
    for pair in pairs:
        chosen, rejected = (
            by_text[pair.images, pair.meta["sample"]["prompt"], text] for text in (pair.chosen, pair.rejected or "")
        )
        assert (chosen.score, rejected.score) == (pair.score_chosen, pair.score_rejected)
        assert chosen.score is not None
        assert rejected.score is not None
        assert chosen.score - rejected.score > 1e-6
        assert chosen.score - rejected.score >= rules.min_margin
        assert not chosen.cut
        assert not (rejected.cut and rules.cut == "drop")
        assert chosen.score >= (rules.min_score or 0)


def test_text_prompts_need_no_image_root_and_videos_stay(tmp_path: Path) -> None:
    text = Candidates(prompt=Prompt(id="t", images=(), prompt=user_turn("Why?", num_images=0)), answers=FOUR)
    _, result = made(tmp_path, text)
    assert (result.step.image_root, load_card(tmp_path / "pairs" / "card.md").images.kind) == (None, "none")
    assert "data.root" not in result.next_command
    parts = (Part("video"), Part("text", "What happens?"))
    shown = Prompt(id="v", images=(), videos=(VideoRef(path="v.mp4"),), prompt=(Message("user", parts),))
    pairs, result = made(tmp_path, Candidates(prompt=shown, answers=FOUR))
    assert pairs[0].videos == shown.videos
    assert "data.root=/images" in result.next_command
    inside = Prompt(id="e", images=(ImageRef(data=b"\x89PNG"),), prompt=user_turn("What?", num_images=1))
    pairs, result = made(tmp_path, Candidates(prompt=inside, answers=FOUR), max_per_image=1)
    assert pairs[0].images == inside.images
    assert load_card(tmp_path / "pairs" / "card.md").images.kind == "bytes"


@pytest.mark.slow
def test_killed_at_any_moment_there_is_all_of_it_or_no_step(tmp_path: Path) -> None:
    found = [prompt(f"{number} {'é' * (number % 7)}", *FOUR) for number in range(3000)]
    expected = made(tmp_path, *found, choose="margin", min_margin=1)[1].step
    wanted = (tmp_path / "pairs" / PAIRS).read_bytes()
    out, random = tmp_path / "killed", Random(0)
    words = [sys.executable, "-m", "mmpref", "sample", "pair", str(tmp_path / "scored"), "--out", str(out)]
    words += ["--choose", "margin", "--min-margin", "1"]
    begin = time.monotonic()
    subprocess.run(words, check=True, capture_output=True)
    takes = time.monotonic() - begin
    for _ in range(8):
        process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        time.sleep(random.uniform(0.2, 1.0) * takes)
        process.kill()
        process.wait()
        if (out / "step.json").is_file():
            assert (read_step(out), (out / PAIRS).read_bytes()) == (expected, wanted)
        else:
            assert not (out / PAIRS).is_file() or (out / PAIRS).read_bytes() == wanted
    subprocess.run(words, check=True, capture_output=True)
    assert (read_step(out), (out / PAIRS).read_bytes()) == (expected, wanted)
