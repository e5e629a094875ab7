"""Canonical rows written as the rows of other suites. A row that would change its meaning is refused, never bent.

``id``, ``source`` and the scores become further columns, which the suites ignore and our readers read back; ``meta``
becomes JSON text, because the suites infer one type per column.
"""

from __future__ import annotations

import json
from typing import Any

from mmpref.data.formats.contract import Row
from mmpref.data.formats.fields import fault, refuse_placeholders, text_of
from mmpref.data.formats.written_out import is_written_out

SHAREGPT_TAGS = {"user": "human", "assistant": "gpt", "system": "system"}


def to_trl(row: Row) -> dict[str, Any]:
    """TRL's conversational preference row with ordered parts."""
    written = _start(row, "response_prefix", "rejected_images", template_keys=None)
    _add_kwargs(written, row)
    written |= _media(row)
    written["prompt"] = [{"role": message["role"], "content": _parts(message)} for message in row["prompt"]]
    for message in written["prompt"]:
        text_of(message["content"])  # refuses a literal placeholder, which our reader of the row would refuse
    for side in ("chosen", "rejected"):
        written[side] = [{"role": "assistant", "content": [{"type": "text", "text": row[side]}]}]
    return _finish(written, row)


def to_trl_kto(row: Row) -> dict[str, Any]:
    """TRL's unpaired preference row."""
    written = _start(row, "response_prefix", template_keys=None, labels=True)
    _add_kwargs(written, row)
    written |= _media(row)
    written["prompt"] = [{"role": message["role"], "content": _parts(message)} for message in row["prompt"]]
    for message in written["prompt"]:
        text_of(message["content"])
    answer = [{"type": "text", "text": row["chosen"]}]
    written |= {"completion": [{"role": "assistant", "content": answer}], "label": row["label"]}
    return _finish(written, row)


def to_alpaca_kto(row: Row) -> dict[str, Any]:
    """LLaMA-Factory's alpaca row with a ``kto_tag``."""
    written = _start(row, "response_prefix", plain=True, labels=True) | _asked_alpaca(row)
    written |= {"output": refuse_placeholders(row["chosen"]), "kto_tag": row["label"], **_media(row)}
    return _finish(written, row)


def to_sharegpt_kto(row: Row) -> dict[str, Any]:
    """LLaMA-Factory's sharegpt row with a ``kto_tag``."""
    written = _start(row, "response_prefix", labels=True)
    system, turns = _system(row)
    turns = [*turns, ("assistant", refuse_placeholders(row["chosen"]))]
    written["conversations"] = [{"from": SHAREGPT_TAGS[role], "value": said} for role, said in turns]
    if system:
        written["system"] = system
    return _finish(written | {"kto_tag": row["label"], **_media(row)}, row)


def to_ms_swift_kto(row: Row) -> dict[str, Any]:
    """ms-swift's row with a ``label``."""
    written = _start(row, "response_prefix", labels=True)
    turns = [{"role": message["role"], "content": text_of(_parts(message))} for message in row["prompt"]]
    answer = {"role": "assistant", "content": refuse_placeholders(row["chosen"])}
    return _finish(written | {"messages": [*turns, answer], "label": row["label"], **_media(row)}, row)


def to_alpaca(row: Row) -> dict[str, Any]:
    """LLaMA-Factory's alpaca ranking row: the last question is ``instruction``, earlier turns are ``history``."""
    written = _start(row, "response_prefix", "rejected_images", plain=True) | _asked_alpaca(row)
    written |= {side: refuse_placeholders(row[side]) for side in ("chosen", "rejected")}
    written |= _media(row)
    return _finish(written, row)


def _asked_alpaca(row: Row) -> dict[str, Any]:
    system, turns = _system(row)
    written: dict[str, Any] = {"instruction": turns[-1][1], "input": ""}
    if system:
        written["system"] = system
    if len(turns) > 1:
        asked, answered = turns[:-1:2], turns[1::2]
        written["history"] = [[question, answer] for (_, question), (_, answer) in zip(asked, answered, strict=True)]
    return written


def to_sharegpt(row: Row) -> dict[str, Any]:
    """LLaMA-Factory's sharegpt ranking row."""
    written = _start(row, "response_prefix", "rejected_images")
    system, turns = _system(row)
    written["conversations"] = [{"from": SHAREGPT_TAGS[role], "value": said} for role, said in turns]
    if system:
        written["system"] = system
    written |= {side: {"from": "gpt", "value": refuse_placeholders(row[side])} for side in ("chosen", "rejected")}
    written |= _media(row)
    return _finish(written, row)


def to_ms_swift(row: Row) -> dict[str, Any]:
    """ms-swift's row; ``rejected_messages`` only where the rejected side has its own images."""
    written = _start(row, "response_prefix")
    turns = [{"role": message["role"], "content": text_of(_parts(message))} for message in row["prompt"]]
    chosen, rejected = (
        {"role": "assistant", "content": refuse_placeholders(row[side])} for side in ("chosen", "rejected")
    )
    written["messages"] = [*turns, chosen]
    if row.get("rejected_images") is None:
        written["rejected_response"] = rejected["content"]
    else:
        written["rejected_messages"] = [*turns, rejected]
        written["rejected_images"] = list(row["rejected_images"])
    written |= _media(row)
    if "rejected_messages" in written and "videos" in written:
        written["rejected_videos"] = written["videos"]
    return _finish(written, row)


def _start(
    row: Row,
    *not_held: str,
    template_keys: frozenset[str] | None = frozenset({"tools"}),
    plain: bool = False,
    labels: bool = False,
) -> dict[str, Any]:
    """What every row begins with; tools as JSON text, where the target takes them so. ``plain``: it has no messages,
    ``labels``: it is of single answers."""
    if labels:
        if row.get("rejected") is not None or row.get("label") is None:
            raise fault(
                "no_label",
                "the target has single answers with a 'label', and the row is "
                + ("a pair" if row.get("rejected") is not None else "an answer without one"),
            )
    elif row.get("label") is not None:
        raise fault(
            "single_answer",
            "the row is a single answer with a 'label', and the target has pairs: write trl_kto, ms_swift_kto, "
            "llamafactory_kto or llamafactory_kto_sharegpt",
        )
    elif row.get("rejected") is None:
        raise fault("no_rejected", "the row has no 'rejected' answer, and the target is a preference format")
    not_held = (*not_held, "other_images", "weight", "chosen_weight", "rejected_weight")
    prompt = [{"role": message["role"], "content": _parts(message)} for message in row["prompt"]]
    if is_written_out(prompt, row["chosen"], row.get("rejected"), plain=plain):
        raise fault(
            "literal_chat_markup",
            "the prompt or an answer holds marks of a chat template as text, and a reader of the written row would "
            "take them for marks; take them out",
        )
    for key in not_held:
        if row.get(key) is not None:
            raise fault(
                f"cannot_hold_{key}", f"the target has no place for {key!r}, and without it the pair is another"
            )
    kwargs = row.get("template_kwargs") or {}
    if template_keys is not None and (lost := sorted(kwargs.keys() - template_keys)):
        raise fault(
            "cannot_hold_template_kwargs",
            f"the target has no place for {', '.join(map(repr, lost))} of 'template_kwargs', and without it the prompt "
            "is another",
        )
    if template_keys is not None and "tools" in kwargs:
        return {"id": row["id"], "tools": json.dumps(kwargs["tools"], ensure_ascii=False)}
    return {"id": row["id"]}


def _add_kwargs(written: dict[str, Any], row: Row) -> None:
    """Tools, and what else the chat template is given, in columns of their own."""
    kwargs = dict(row.get("template_kwargs") or {})
    if "tools" in kwargs:
        written["tools"] = kwargs.pop("tools")
    if kwargs:
        written["chat_template_kwargs"] = kwargs


def _media(row: Row) -> dict[str, Any]:
    """The columns of images and of videos; the frames of a video as a list of images."""
    found = {"images": list(row["images"])} if row.get("images") else {}
    if row.get("videos"):
        found["videos"] = [_video(item) for item in row["videos"]]
    return found


def _video(item: Any) -> Any:
    if isinstance(item, str):
        return item
    if item.get("fps") is not None:
        raise fault(
            "cannot_hold_fps",
            "the target has no place for the 'fps' of a list of frames, and takes the frames for others in time; write "
            "null where all frames are shown",
        )
    return list(item["frames"])


def _finish(written: dict[str, Any], row: Row) -> dict[str, Any]:
    written |= {key: row[key] for key in ("score_chosen", "score_rejected", "source") if row.get(key) is not None}
    if row.get("meta"):
        try:
            written["meta"] = json.dumps(row["meta"], ensure_ascii=False, allow_nan=False, sort_keys=True)
        except (TypeError, ValueError) as error:
            raise fault("meta", f"'meta' cannot be written as JSON: {error}") from error
    return written


def _parts(message: Row) -> list[dict[str, Any]]:
    content = message["content"]
    return [{"type": "text", "text": content}] if isinstance(content, str) else [dict(part) for part in content]


def _system(row: Row) -> tuple[str, list[tuple[str, str]]]:
    turns = [(message["role"], text_of(_parts(message))) for message in row["prompt"]]
    if turns[0] == ("system", ""):
        raise fault(
            "cannot_hold_empty_system", "the target takes an empty system prompt for none, and writes its default one"
        )
    return (turns[0][1], turns[1:]) if turns[0][0] == "system" else ("", turns)
