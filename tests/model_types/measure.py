"""What becomes of a model folder: shared prefix right, plain right, refused with a message, or not built here."""

from __future__ import annotations

import dataclasses
import gc
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from mmpref.errors import MMPrefError
from mmpref.models import AdapterSettings, LoadedModel, Tuning, choose_layout, load, prepare, save_model
from mmpref.models.adapters.lora import attach, merged
from mmpref.models.adapters.weights import plain_name
from mmpref.models.logps.answer_logps import answer_logps
from mmpref.models.unwrap import base_model
from mmpref.processing import LayoutName, PairBatch
from mmpref.processing.errors import EncodeError
from mmpref.processing.family import PartName
from mmpref.records import ImageRef, PreferencePair
from tests.model_types.conversations import check_conversations
from tests.model_types.folders import NotBuiltError, Writer
from tests.model_types.rows import IMAGE_ROWS, TEXT_ROWS, group_of
from tests.model_types.sampling import check_sampling
from tests.plain_forward import (
    answers_of,
    by_hand,
    collator_for,
    gradient,
    relative,
    run_alone,
    stir,
    stock_sequences,
    stock_twin,
    worst,
)
from tests.recomputing import recompute

RIGHT = 1e-4
"""Nats a token between mmpref and the stock model on the stock processor's whole conversation."""
MATTERS = 1e-3
"""Nats a token by which another image must move some answer; else rows with images would prove nothing."""
State = Literal["shared prefix", "plain", "refused", "not built here"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What one type of model came to."""

    state: State
    reason: str = ""
    """Why it is plain, refused or not built."""
    refused_rows: tuple[str, ...] = ()
    """``row: message`` of rows that were refused while others were trained."""
    off: float = 0.0
    """The largest difference of any token's log-prob, in nats."""
    trained: tuple[PartName, ...] = ()
    """Parts whose weights got a gradient in a training step."""


def measure(write: Writer, folder: Path) -> Outcome:
    """Write a folder, and put its type in one of the four states by running it.

    Raises:
        AssertionError: a wrong number.
        Exception: whatever else than a message for the user ends it.
    """
    outcome = _measured(write, folder)
    reason, *rows = (text.replace(str(folder), "FOLDER") for text in (outcome.reason, *outcome.refused_rows))
    return dataclasses.replace(outcome, reason=reason, refused_rows=tuple(rows))


def _measured(write: Writer, folder: Path) -> Outcome:
    try:
        write(folder)
    except NotBuiltError as err:
        return Outcome(state="not built here", reason=str(err))
    try:
        loaded = load(folder)
    except MMPrefError as err:
        return _refused(err)
    rows = IMAGE_ROWS if loaded.family.has_vision else TEXT_ROWS
    taken, refusals = _taken(loaded, rows)
    said = tuple(f"{row}: {message}" for row, message in refusals.items())
    if not taken or (loaded.family.has_vision and not any(row.images for row in taken)):
        return Outcome(state="refused", reason=next(iter(refusals.values())), refused_rows=said)
    check_conversations(loaded, taken)
    check_sampling(loaded, taken)
    layout = choose_layout(loaded.model, loaded.family)
    twin = stock_twin(loaded.model)
    with torch.no_grad():
        want = by_hand(twin, loaded, taken)
        off = max(_off(loaded, taken, kind, want) for kind in dict.fromkeys(["plain", layout.name]))
        for row in taken:  # alone, so that a batch does not hide what one row needs
            off = max(off, _off(loaded, [row], layout.name, by_hand(twin, loaded, [row])))
        off = max(off, _off_as_a_group(loaded, next((row for row in taken if row.images), taken[0]), layout.name, twin))
        if any(row.images for row in taken):
            _assert_images_matter(twin, loaded, taken)
        if loaded.family.prefix_lm is None:
            _assert_reads_backwards_only(twin, loaded, taken[0])
    assert off < RIGHT, f"log-probs are {off:.3g} nats off ({layout.name})"
    del twin
    trained = _train_save_and_merge(folder, taken, layout.name)
    gc.collect()
    shares = layout.name == "shared_prefix"
    return Outcome(
        state="shared prefix" if shares else "plain",
        reason="" if shares else layout.explanation.partition("because ")[2],
        refused_rows=said,
        off=off,
        trained=trained,
    )


def _refused(err: MMPrefError) -> Outcome:
    return Outcome(state="refused", reason=_one_line(str(err)))


def _one_line(message: str) -> str:
    assert "\n" not in message, message
    assert len(message) < 600, message
    return message


def _taken(loaded: LoadedModel, rows: Sequence[PreferencePair]) -> tuple[list[PreferencePair], dict[str, str]]:
    """The rows that this model takes, and why it does not take the others."""
    collator = collator_for(loaded, "plain")
    taken, refusals = [], {}
    for row in rows:
        try:
            collator([row])
        except EncodeError as err:
            refusals[row.id] = _one_line(str(err))
        else:
            taken.append(row)
    return taken, refusals


def _batch(loaded: LoadedModel, rows: Sequence[PreferencePair], layout: LayoutName) -> PairBatch:
    return collator_for(loaded, layout)(rows)


def _off(loaded: LoadedModel, rows: Sequence[PreferencePair], layout: LayoutName, want: list[Tensor]) -> float:
    batch = _batch(loaded, rows, layout)
    return worst(answers_of(batch, answer_logps(loaded.model, batch)), want)


def _off_as_a_group(loaded: LoadedModel, row: PreferencePair, layout: LayoutName, twin: Any) -> float:
    """The same for a row's prompt with four answers in six pairs."""
    group = group_of(row)
    one, three, two, four = by_hand(twin, loaded, [group[0], group[-1]])  # the first two answers, and the others
    chosen, rejected = zip(*combinations((one, two, three, four), 2), strict=True)
    return _off(loaded, group, layout, [*chosen, *rejected])


def _assert_images_matter(twin: Any, loaded: LoadedModel, rows: Sequence[PreferencePair]) -> None:
    row = next(row for row in rows if row.images)
    other = dataclasses.replace(row, images=tuple(ImageRef(path=f"{ref.path[:-1]}9") for ref in row.images))
    moved = worst(by_hand(twin, loaded, [row]), by_hand(twin, loaded, [other]))
    assert moved > MATTERS, f"another image moves log-probs by {moved:.3g} only: this folder proves nothing"


def _assert_reads_backwards_only(twin: Any, loaded: LoadedModel, row: PreferencePair) -> None:
    """What comes after a place is no part of what is predicted there; else log-probs of answers would be no such."""
    written = stock_sequences(loaded, row)[0]
    other = written.inputs["input_ids"].clone()
    other[0, -1] = other[0, -3]
    changed = dataclasses.replace(written, inputs={**written.inputs, "input_ids": other})
    one, same = (run_alone(twin, sequence)[:-1] for sequence in (written, changed))
    moved = float((one - same).abs().max())
    assert moved < RIGHT, f"a token moves the log-probs of those before it by {moved:.3g} nats"


def _train_save_and_merge(folder: Path, rows: Sequence[PreferencePair], layout: LayoutName) -> tuple[PartName, ...]:
    """One step of LoRA on tower and language model beside a trained projector; the adapter saved, loaded and merged."""
    loaded = load(folder, trainable=True)
    has_tower, has_projector = (bool(loaded.family.paths_of(part)) for part in ("vision", "projector"))
    tuning = Tuning(
        vision="lora" if has_tower else "freeze", projector="full" if has_projector else "freeze", language="lora"
    )
    loaded = prepare(loaded, tuning, AdapterSettings(rank=4))
    stir(loaded.model)
    batch = _batch(loaded, rows, layout)
    answer_logps(loaded.model, batch).mean().backward()
    at_once = gradient(loaded.model)
    trained = _trained_parts(loaded)
    _assert_recomputed_alike(loaded.model, batch, at_once)
    of = {"vision": has_tower, "projector": has_projector, "language": True}
    assert trained == {part for part, is_there in of.items() if is_there}, f"only {sorted(trained)} trained"
    with torch.no_grad():
        for parameter in loaded.model.parameters():
            if parameter.grad is not None:
                parameter.sub_(parameter.grad, alpha=0.01)
    loaded.model.eval()
    with torch.no_grad():
        want = answers_of(batch, answer_logps(loaded.model, batch))
        out, whole = folder.parent / f"{folder.name}-adapter", folder.parent / f"{folder.name}-merged"
        save_model(loaded.model, folder, out)
        del loaded
        again = load(folder, adapter=out)
        got = answers_of(batch, answer_logps(again.model, batch))
        assert worst(got, want) < RIGHT, "a saved adapter gives other log-probs on its base"
        save_model(merged(attach(load(folder).model, out, trainable=False)), folder, whole)
        merged_again = load(whole)
        same = _batch(merged_again, rows, layout)
        assert torch.equal(same.input_ids, batch.input_ids)
        off = worst(answers_of(same, answer_logps(merged_again.model, same)), want)
        assert off < RIGHT, f"the merged model's log-probs are {off:.3g} nats off"
    return tuple(sorted(trained))


def _assert_recomputed_alike(model: Any, batch: PairBatch, at_once: Tensor) -> None:
    """Gradient checkpointing, with which most train: the gradient is the same, where the model can do it at all."""
    if not base_model(model).supports_gradient_checkpointing:
        return
    model.zero_grad()
    recompute(model)
    answer_logps(model, batch).mean().backward()
    off = relative(gradient(model), at_once)
    assert off < RIGHT, f"gradients are {off:.3g} off with gradient checkpointing"


def _trained_parts(loaded: LoadedModel) -> set[PartName]:
    """Parts with a gradient that is not zero; all gradients are finite."""
    found: set[PartName] = set()
    for name, parameter in loaded.model.named_parameters():
        if not parameter.requires_grad or parameter.grad is None:
            continue
        assert bool(parameter.grad.isfinite().all()), f"the gradient of {name} is not finite"
        if parameter.grad.any():
            found.add(loaded.family.part_of(plain_name(name).partition(".lora_")[0]))
    return found
