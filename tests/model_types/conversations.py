"""What must hold of every type's conversations, whatever its template and processor: asserted on a loaded model."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from mmpref.models import LoadedModel
from mmpref.processing import PairEncoder
from mmpref.processing.encoded import EncodedPrompt
from mmpref.processing.errors import EncodeError
from mmpref.records import Message, Part, PreferencePair
from tests.tiny_vlms import draw

LITERALS = ("<image>", "<|image_pad|>")
"""What users write; beside the model's own image token."""


def check_conversations(loaded: LoadedModel, rows: Sequence[PreferencePair]) -> None:
    """All checks.

    Args:
        rows: that this model takes.

    Raises:
        AssertionError: with the row.
    """
    encoder = PairEncoder(loaded.processor, loaded.family)
    for row in rows:
        encoded = encoder.encode(row, draw)
        _counted_as_it_is(encoder, row, encoded.prompt)
        _text_stays_text(encoder, row, encoded.prompt)
        for ids, answer in ((encoded.chosen_ids, row.chosen), (encoded.rejected_ids, row.rejected)):
            learnt = loaded.tokenizer.decode(ids, skip_special_tokens=True)
            assert learnt.strip().startswith(answer.strip()), f"{row.id}: {answer!r} is learnt as {learnt!r}"
            end = learnt.strip().removeprefix(answer.strip())  # signs with which a template ends turns, as "###"
            assert not any(letter.isalnum() for letter in end), f"{row.id}: {answer!r} is learnt as {learnt!r}"
            assert len(ids) > 1, f"{row.id}: no end of turn"
        _cut_in_the_answers_alone(loaded, row, encoded.prompt)


def _counted_as_it_is(encoder: PairEncoder, row: PreferencePair, prompt: EncodedPrompt) -> None:
    """Lengths are planned from the sizes of images, before any is decoded."""
    sizes = [draw(ref).size for ref in row.images]
    counted, _ = encoder.prompt_length(row, encoder.encode_text(row), sizes)
    assert counted == len(prompt), f"{row.id}: counted {counted} tokens, and they are {len(prompt)}"


def _text_stays_text(encoder: PairEncoder, row: PreferencePair, prompt: EncodedPrompt) -> None:
    """A place for an image that a user writes as text is no image; such a row is kept as text or refused."""
    token = encoder.chat.image_token_id
    own = [] if token is None else [encoder.chat.tokenizer.convert_ids_to_tokens(token)]
    for literal in dict.fromkeys([*LITERALS, *own]):
        last = row.prompt[-1]
        written = Message(last.role, (*last.parts, Part("text", f" what is {literal} ?")))
        try:
            other = encoder.encode(dataclasses.replace(row, prompt=(*row.prompt[:-1], written)), draw).prompt
        except EncodeError:
            continue
        if token is not None:
            found, want = (int(one.input_ids.eq(token).sum()) for one in (other, prompt))
            assert found == want, f"{row.id}: {literal!r} in a message became {found - want} image tokens"
        assert other.vision.keys() == prompt.vision.keys()


def _cut_in_the_answers_alone(loaded: LoadedModel, row: PreferencePair, prompt: EncodedPrompt) -> None:
    short = PairEncoder(loaded.processor, loaded.family, max_length=len(prompt) + 1)
    whole = short.encode_text(row)
    if short.answer_space(row.id, len(prompt)) == 1 and whole.answers[0][:1] == whole.answers[1][:1]:
        return  # cut where both answers are still alike: such a row is refused
    cut = short.encode(row, draw)
    assert cut.prompt.input_ids.equal(prompt.input_ids)
    assert len(cut.chosen_ids) == len(cut.rejected_ids) == 1
