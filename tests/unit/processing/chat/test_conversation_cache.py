"""Conversations that come again are not rendered again, and what is kept is bounded."""

from __future__ import annotations

from pathlib import Path

import pytest

from mmpref.models.load import load_processor
from mmpref.processing.chat import conversation as chat
from mmpref.processing.chat.conversation import ChatEncoder
from mmpref.records import user_turn
from tests.tiny_vlms import build


@pytest.fixture(scope="module")
def processor(tmp_path_factory: pytest.TempPathFactory) -> object:
    folder: Path = build("llava", tmp_path_factory.mktemp("m") / "llava")
    return load_processor(folder)


def test_a_conversation_that_comes_again_is_the_same_and_is_not_rendered_again(
    processor: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder = ChatEncoder(processor)
    first = encoder.encode("a", user_turn("what is it ?", num_images=1), ["a cat .", "no dog ."])
    monkeypatch.setattr(encoder, "_render", lambda *_: pytest.fail("rendered again"))
    assert encoder.encode("b", user_turn("what is it ?", num_images=1), ["a cat .", "no dog ."]) == first


def test_another_answer_prefix_or_number_of_images_is_another_conversation(processor: object) -> None:
    encoder = ChatEncoder(processor)
    turns = [
        encoder.encode("a", user_turn("what is it ?", num_images=1), ["a cat ."]),
        encoder.encode("a", user_turn("what is it ?", num_images=1), ["a dog ."]),
        encoder.encode("a", user_turn("what is it ?", num_images=2), ["a cat ."]),
        encoder.encode("a", user_turn("what is it ?", num_images=1), ["a cat ."], response_prefix="it is "),
    ]
    assert len(set(turns)) == 4
    fresh = ChatEncoder(processor).encode("a", user_turn("what is it ?", num_images=2), ["a cat ."])
    assert turns[2] == fresh


def test_the_oldest_is_forgotten_when_too_much_is_kept(processor: object, monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = ChatEncoder(processor)
    size = encoder.encode("0", user_turn("0 0 0", num_images=0), ["yes"]).num_tokens
    monkeypatch.setattr(chat, "KEPT_TOKENS", 3 * size)
    for number in range(1, 8):
        encoder.encode(str(number), user_turn(f"{number} {number} {number}", num_images=0), ["yes"])
    kept = [key[0][0].text for key in encoder._kept]
    assert kept == ["5 5 5", "6 6 6", "7 7 7"]
    assert encoder._kept_tokens == 3 * size


def test_a_row_that_is_refused_is_refused_again_by_its_own_name(processor: object) -> None:
    encoder = ChatEncoder(processor)
    for name in ("first", "second"):
        with pytest.raises(Exception, match=name):
            encoder.encode(name, user_turn("what ?", num_images=0), [" "])
