"""Several continuations of each prompt: the prompt and its images are run once, and rows that ended are left out.

transformers' ``generate`` prepares everything (positions, masks, the cache), and hands it to the loop here.

Shapes: B prompts, N rows (continuations of all prompts), T tokens of the prompts with padding on the left, V tokens of
the vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import Tensor

from mmpref.errors import MMPrefError
from mmpref.models.logps.image_inputs import as_lists
from mmpref.models.logps.layout_choice import tolerance

Pick: TypeAlias = Callable[[Tensor, Tensor, int], Tensor]
"""Logits [n, V] of the rows that go on, which rows those are [n], and the number of the token -> tokens [n]."""

_REMOVED_AT = 8
"""Rows are removed when one of so many has ended: the cache is copied for it, as it is for each new token."""
_TRIAL_TOKENS = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Continuations:
    """Rows as they came.

    Args:
        tokens: of each row, without an end token.
        cut: whether no end token came.
        ends: the end token of each row; None where none came.
    """

    tokens: list[list[int]]
    cut: list[bool]
    ends: list[int | None]


def continue_prompts(
    model: Any,
    inputs: Mapping[str, Tensor],
    pick: Pick,
    *,
    parents: Sequence[int] | None,
    max_new_tokens: int,
    pad_token_id: int,
) -> Continuations:
    """Continue prompts token by token.

    Args:
        inputs: keyword arguments of the model for B prompts, as ``collate_prompts`` makes them.
        pick: chooses tokens.
        parents: the prompt that each row continues: its cache is repeated for them, and rows that ended are removed.
            None continues each prompt once, and keeps all rows to the end.

    Raises:
        TypeError: what the model keeps of a prompt cannot be repeated.
    """

    def decode(
        model: Any,
        input_ids: Tensor,
        logits_processor: Any,
        stopping_criteria: Any,
        generation_config: Any,
        **kept: Any,
    ) -> Continuations:
        outputs = model(**model.prepare_inputs_for_generation(input_ids, is_first_iteration=True, **kept))
        kept = _after(model, outputs, kept)
        logits = outputs.logits[:, -1]
        del outputs
        if parents is not None:
            index = torch.tensor(parents, device=input_ids.device)
            vision = inputs.keys() - {"input_ids", "attention_mask"}
            kept = _selected(_read_again(model, input_ids, kept, vision), index, len(input_ids))
            input_ids, logits = input_ids[index], logits[index]
        found = torch.full((len(input_ids), max_new_tokens), pad_token_id, device=input_ids.device)
        rows = torch.arange(len(input_ids), device=input_ids.device)
        goes_on = torch.ones_like(rows, dtype=torch.bool)  # [n], of the rows that are left
        lengths = torch.full_like(rows, max_new_tokens)
        ends = _ends(generation_config, input_ids.device)
        for step in range(max_new_tokens):
            new = pick(logits_processor(input_ids, logits.to(copy=True, dtype=torch.float32)), rows, step)
            has_ended = torch.isin(new, ends) & goes_on
            found[rows, step] = new.masked_fill(~goes_on, pad_token_id)
            lengths[rows[has_ended]] = step
            goes_on = goes_on & ~has_ended
            left = int(goes_on.sum())
            if not left or step + 1 == max_new_tokens:
                break
            input_ids = torch.cat([input_ids, new.masked_fill(~goes_on, pad_token_id)[:, None]], dim=1)
            if parents is not None and (len(rows) - left) * _REMOVED_AT >= len(rows):
                stay = goes_on.nonzero()[:, 0]
                kept = _selected(kept, stay, len(rows))
                input_ids, rows, goes_on = input_ids[stay], rows[stay], goes_on[stay]
            one = 1 if kept.get("use_cache") else None
            outputs = model(**model.prepare_inputs_for_generation(input_ids, next_sequence_length=one, **kept))
            kept = _after(model, outputs, kept)
            logits = outputs.logits[:, -1]
            del outputs
        of_rows = lengths.tolist()
        written = list(zip(found.tolist(), of_rows, strict=True))
        return Continuations(
            tokens=[row[:length] for row, length in written],
            cut=[length == max_new_tokens for length in of_rows],
            ends=[None if length == max_new_tokens else row[length] for row, length in written],
        )

    # what a model keeps of a forward in inference mode, it cannot train on afterwards
    trains = any(parameter.requires_grad for parameter in model.parameters())
    with torch.no_grad() if trains else torch.inference_mode():
        done: Continuations = model.generate(
            **as_lists(model, inputs),
            custom_generate=decode,
            max_new_tokens=max_new_tokens,
            do_sample=False,
            num_beams=1,
            temperature=None,
            top_p=None,
            top_k=None,
            pad_token_id=pad_token_id,
        )
    return done


def _after(model: Any, outputs: Any, kept: dict[str, Any]) -> dict[str, Any]:
    """What is kept for the next token."""
    found: dict[str, Any] = model._update_model_kwargs_for_generation(
        outputs, kept, is_encoder_decoder=model.config.is_encoder_decoder
    )
    return found


def _read_again(model: Any, input_ids: Tensor, kept: dict[str, Any], vision: set[str]) -> dict[str, Any]:
    """Without what was read with the prompt only, as pixels are: it need not be repeated."""
    longer = torch.cat([input_ids, input_ids[:, -1:]], dim=1)
    asked = model.prepare_inputs_for_generation(longer, next_sequence_length=1, **kept)
    return {
        name: value
        for name, value in kept.items()
        if name in asked or (name not in vision and _has_rows_or_none(value))
    }


def _has_rows_or_none(value: Any) -> bool:
    return isinstance(value, Tensor | bool | int | float | str | None) or hasattr(value, "reorder_cache")


def _selected(kept: Mapping[str, Any], rows: Tensor, count: int) -> dict[str, Any]:
    """Some of ``count`` rows, any of them several times."""
    found: dict[str, Any] = {}
    for name, value in kept.items():
        if isinstance(value, Tensor):
            at = -2 if name.endswith("position_ids") else 0
            has_rows = value.ndim >= -at and value.shape[at] == count
            found[name] = value.index_select(at, rows) if has_rows else value
        elif hasattr(value, "reorder_cache"):
            value.reorder_cache(rows)
            found[name] = value
        elif _has_rows_or_none(value):
            found[name] = value
        else:
            raise TypeError(f"'{name}' is a {type(value).__name__}, whose rows cannot be selected")
    return found


def _ends(generation_config: Any, device: torch.device) -> Tensor:
    ends = generation_config.eos_token_id
    return torch.tensor([] if ends is None else ends, dtype=torch.long, device=device).reshape(-1)


def sharing_obstacle(
    model: Any, once: Mapping[str, Tensor], repeated: Mapping[str, Tensor], parents: Sequence[int], pad_token_id: int
) -> str | None:
    """Why a prompt cannot be run once for all its continuations; None where it can.

    There are too many kinds of caches, positions and masks to know them all: a few tokens are run both ways, on prompts
    of the run itself.

    Args:
        once: the model's arguments for B prompts.
        repeated: the same for N rows, each with its own prompt.
        parents: the prompt of each row.
    """
    ends = _ends(model.generation_config, model.device)
    tokens: list[Tensor] = []
    seen: dict[bool, list[Tensor]] = {True: [], False: []}

    def forced(logits: Tensor, rows: Tensor, step: int) -> Tensor:
        found = logits.log_softmax(dim=-1)
        is_shared = len(seen[False]) == _TRIAL_TOKENS
        seen[is_shared].append(found)
        if not is_shared:
            # another token in each row, so that rows in a wrong order would show
            known = ends[ends < found.shape[-1]]
            likely = found.index_fill(-1, known, -torch.inf).topk(min(len(rows), found.shape[-1] - len(known))).indices
            tokens.append(likely.gather(-1, (rows % likely.shape[-1])[:, None])[:, 0])
        return tokens[step]

    try:
        for inputs, prompts in ((repeated, None), (once, parents)):
            continue_prompts(
                model, inputs, forced, parents=prompts, max_new_tokens=_TRIAL_TOKENS, pad_token_id=pad_token_id
            )
    except (torch.OutOfMemoryError, MMPrefError):
        raise
    except Exception as err:  # a model without a cache of transformers' own may raise anything
        return f"a trial on a few tokens failed: {' '.join(str(err).split())[:200]}"
    off = max(float(_moved(one, other)) for one, other in zip(seen[True], seen[False], strict=True))
    if off <= tolerance(model):
        return None
    return f"a trial on a few tokens moved log-probs by {off:.2g} nats"


def _moved(one: Tensor, other: Tensor) -> Tensor:
    """By how much the log-prob of the most probable token differs, on average over rows; [N, V] each."""
    top = other.argmax(dim=-1, keepdim=True)
    return (one.gather(-1, top) - other.gather(-1, top)).abs().mean()
