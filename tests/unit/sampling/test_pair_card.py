"""What a data card says of pairs, by hand, and what it survives."""

from __future__ import annotations

import math
import shlex
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmpref.data.audit.scores import ScoreTally
from mmpref.data.card import parse_card
from mmpref.records import PreferencePair, user_turn
from mmpref.sampling.length_balance import PossiblePairs
from mmpref.sampling.pair_card import CardFacts, LengthBias, card_text, next_command
from mmpref.yaml_text import parse_value


def test_lengths_by_hand() -> None:
    pairs = PossiblePairs(
        prompt=np.array([0, 1, 2, 3]),
        margin=np.array([1.0, 2.0, 3.0, 9.0]),
        chosen_words=np.array([4.0, 6.0, 5.0, 99.0]),
        rejected_words=np.array([8.0, 4.0, 5.0, 1.0]),
    )
    found = LengthBias.of(pairs, np.array([0, 1, 2]), eta=0.7)
    assert (found.pairs, found.chosen, found.longer, found.margin) == (3, 5.0, 0.5, 2.0)
    assert found.rejected == pytest.approx(17 / 3)
    assert found.difference == pytest.approx(-2 / 3)
    weights = [1 / (1 + math.exp(-0.7 * margin)) for margin in (1, 2, 3)]
    assert found.weighted == pytest.approx((-4 * weights[0] + 2 * weights[1]) / sum(weights))
    assert found.correlation == pytest.approx(0.5)  # ranks 1 2 3 and 1 3 2
    assert LengthBias.of(pairs, np.array([], dtype=np.int64)).describe() == "no pairs"


def facts(made_from: str, root: str, reasons: dict[str, int]) -> CardFacts:
    tally = ScoreTally()
    pair = PreferencePair(id="a", images=(), prompt=user_turn("q", num_images=0), chosen="a", rejected="b")
    for number in range(3):
        tally.add(replace(pair, score_chosen=number + 1.0, score_rejected=0.5))
    return CardFacts(
        made_from=Path(made_from),
        scorers=["objects 1", "judge abc"],
        range=(0.0, 10.0),
        images="paths",
        image_root=Path(root),
        scores=tally.finish(eta=0.7, tau_good=None, scale=(0.0, 10.0), words=np.zeros(3)),
        tau_good=2.0,
        tau_quantile=0.5,
        without=reasons,
        lengths={},
        settings={},
        prompts=9,
        prompts_used=3,
    )


def test_eta_fits_the_range() -> None:
    card = parse_card(card_text(facts("s", "/i", {"tied": 1, "unscored": 5})), where="card")
    assert card.scores is not None
    assert (card.scores.eta, card.scores.tau_good, card.scores.scale) == (0.35, 2.0, (0.0, 10.0))
    assert card.scores.kind == "objects 1, judge abc on 0..10"
    assert card.defects == {"tied": "1 prompt gave no pair", "unscored": "5 prompts gave no pair"}


paths = st.text(min_size=1, max_size=20).map(lambda text: "/" + text.replace("\0", ""))


@given(made_from=paths, root=paths, reason=st.text(min_size=1, max_size=8))
def test_any_path_and_any_reason_of_a_scorer_make_a_card_that_is_read(made_from: str, root: str, reason: str) -> None:
    card = parse_card(card_text(facts(made_from, root, {reason: 2})), where="card")
    assert len(card.defects) == 1
    assert card.size == {"pairs": 3}


printable = st.text(st.characters(categories=["L", "N", "P", "S", "Zs"]), min_size=1, max_size=20)


@given(pairs=printable, root=printable)
def test_the_command_names_the_same_paths_when_it_is_typed(pairs: str, root: str) -> None:
    file, folder = Path(f"/{pairs}/pairs.jsonl"), Path(f"/{root}")
    words = shlex.split(next_command(file, folder, 0.7, 4.5))
    assert words[:3] == ["mmpref", "train", "RECIPE"]
    given = {key: parse_value(value, where=key) for key, _, value in (word.partition("=") for word in words[3:])}
    assert given == {
        "data.train": [str(file)],
        "data.root": str(folder),
        "loss.uni.eta": 0.7,
        "loss.uni.tau_good": 4.5,
    }
