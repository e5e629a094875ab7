"""Every data card as a page, and their index."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from mmpref.data.card import Card, list_cards
from site_pages.markdown import code, page, prose, table, toctree
from site_pages.repository import ROOT, moved_links

_LABELS = {
    "source": "where from",
    "license": "licence",
    "commercial_use": "commercial use",
    "leaks": "overlap with benchmarks",
    "expected": "counts that must hold",
    "fields": "our fields: theirs",
    "files": "files in the source",
}


def pages() -> dict[str, str]:
    """File below ``docs/`` -> its text."""
    cards = list_cards()
    return {"reference/data_cards.md": index(cards), **{f"reference/cards/{card.name}.md": one(card) for card in cards}}


def index(cards: list[Card]) -> str:
    """The page of all cards: a table, and the fields of a card."""
    readme = ROOT / "data_cards" / "README.md"
    fields = moved_links(readme.read_text(encoding="utf-8").partition("\n")[2], readme.parent, Path("reference"))
    rows = []
    for card in cards:
        _, kind, size, licence, commercial, scores = card.row()
        rows.append(
            [
                f"[{code(card.name)}](cards/{card.name}.md)",
                prose(card.summary),
                size,
                licence,
                commercial,
                scores,
                code(kind),
            ]
        )
    head = ["card", "what it is", "pairs", "licence", "commercial use", "scores", "format"]
    return page(
        "Data cards",
        f"What {len(cards)} preference data sets are, where they come from and what to watch for. In a terminal: "
        "`mmpref data list`, and `mmpref data show CARD`; how a set becomes pairs: [data](../data.md).",
        table(head, rows),
        "## What a card says\n",
        fields,
        toctree(f"cards/{card.name}" for card in cards),
    )


def one(card: Card) -> str:
    """The page of one card: its facts with how sure each is, then its text."""
    rows = []
    for name in type(card).model_fields:
        value = getattr(card, name)
        if name in ("name", "summary", "text", "sure") or value in ((), {}):
            continue
        rows.append([_LABELS.get(name, name), _shown(value), card.sure.get(name, "")])
    text = "\n".join(line for line in card.text.splitlines() if not line.startswith("# "))
    title = next((line[2:] for line in card.text.splitlines() if line.startswith("# ")), card.name)
    return page(
        title,
        prose(card.summary) + ".",
        f"`mmpref data show {card.name}` prints this card. [All cards](../data_cards.md).",
        table(["fact", "value", "how sure"], rows),
        moved_links(text, ROOT / "data_cards", Path("reference/cards")),
    )


def _shown(value: Any) -> str:
    if isinstance(value, BaseModel):
        return _shown({k: v for k, v in value.model_dump().items() if v not in (None, (), {})})
    if value is None:
        return "none"
    if isinstance(value, dict):
        return "<br>".join(f"{prose(str(key))}: {_shown(one)}" for key, one in value.items())
    if isinstance(value, (tuple, list)):
        return ", ".join(_shown(one) for one in value)
    if isinstance(value, bool):
        return json.dumps(value)
    return f"{value:,}" if isinstance(value, int) else prose(str(value), to_docs="../../")
