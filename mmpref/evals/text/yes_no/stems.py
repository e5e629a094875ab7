"""Stems of English words, rough ones: only to see that "riding" and "rides" are "ride"."""

from __future__ import annotations

from functools import lru_cache

from mmpref.evals.text.singular import singular

_IRREGULAR = {
    "sat": "sit", "sitting": "sit", "stood": "stand", "ran": "run", "running": "run", "lying": "lie", "lay": "lie",
    "lies": "lie", "laying": "lie", "held": "hold", "wore": "wear", "worn": "wear", "ate": "eat", "eaten": "eat",
    "flew": "fly", "flown": "fly", "flies": "fly", "swam": "swim", "swimming": "swim", "drove": "drive",
    "driven": "drive", "rode": "ride", "ridden": "ride", "slept": "sleep", "hung": "hang", "threw": "throw",
    "thrown": "throw", "caught": "catch", "made": "make", "written": "write", "wrote": "write", "shown": "show",
    "has": "have", "had": "have", "having": "have", "does": "do", "did": "do", "goes": "go", "went": "go",
    "opened": "open", "closed": "close", "tying": "tie", "dying": "die", "grew": "grow", "grown": "grow",
    "broken": "break", "broke": "break", "drawn": "draw", "took": "take", "taken": "take", "said": "say",
    "withered": "wither", "blew": "blow", "blown": "blow", "drank": "drink", "rose": "rise", "risen": "rise",
    "began": "begin", "begun": "begin", "gave": "give", "given": "give",
    "saw": "see", "seen": "see", "came": "come", "bought": "buy", "sold": "sell", "won": "win", "lost": "lose",
    "led": "lead",
    "built": "build", "spent": "spend", "kept": "keep", "left": "left", "brought": "bring", "spoke": "speak",
    "sent": "send",
    "chose": "choose", "chosen": "choose", "bitten": "bite", "bit": "bite", "hid": "hide", "hidden": "hide",
    "shone": "shine",
    "sang": "sing", "froze": "freeze", "frozen": "freeze", "stuck": "stick", "sank": "sink", "stole": "steal",
    "dug": "dig", "fell": "fall", "fallen": "fall",
}  # fmt: skip
_VOWELS = "aeiou"


@lru_cache(maxsize=20_000)
def stem(word: str) -> str:
    """The stem of a lower-case word."""
    if word in _IRREGULAR:
        return _without_e(_IRREGULAR[word])
    if len(word) > 5 and word.endswith("ing"):
        return _undoubled(word[:-3])
    if len(word) > 4 and word.endswith("ed") and not word.endswith("eed"):
        return _undoubled(word[:-2])
    return _without_e(singular(word))


def _without_e(word: str) -> str:
    return word[:-1] if len(word) > 3 and word.endswith("e") else word


def _undoubled(base: str) -> str:
    if len(base) > 3 and base[-1] == base[-2] and base[-1] not in "ls" + _VOWELS:
        return base[:-1]
    return _without_e(base)
