"""The words of a question or an answer that may name something."""

from __future__ import annotations

import re

from mmpref.evals.text.singular import singular

_WORD = re.compile(r"[^\W_]+")
_FUNCTION_WORDS = frozenset({
    "a", "an", "the", "is", "are", "was", "were", "be", "been", "being", "am", "do", "does", "did", "has", "have",
    "had", "can", "could", "may", "might", "will", "would", "there", "here", "it", "its", "this", "that", "these",
    "those", "they", "them", "he", "she", "him", "her", "his", "their", "i", "you", "we", "in", "on", "at", "of",
    "to", "for", "from", "by", "with", "as", "and", "or", "but", "not", "no", "yes", "any", "some", "if", "so",
    "than", "then", "what", "which", "who", "where", "when", "how", "why", "please", "answer", "using", "single",
    "word", "phrase", "image", "imange", "picture", "photo", "photograph", "question", "visible", "shown", "seen",
    "see",
})  # fmt: skip


_PRESENCE = frozenset({"there", "see", "seen", "shown", "visible", "image", "imange", "picture", "photo", "photograph"})


def lacks_object(question: str) -> bool:
    """Whether a question asks whether something is in the image and does not name it: "Is there a in the image?"."""
    return not content_words(question) and not _PRESENCE.isdisjoint(_WORD.findall(question.casefold()))


def content_words(text: str) -> set[str]:
    """The words of a text in the singular and in small letters, without those that name nothing: "dog" and "sofa" of
    "Is there a dog on the sofa in the image?"."""
    return {singular(word) for word in _WORD.findall(text.casefold())} - _FUNCTION_WORDS
