"""Which pairs share a prompt and which an answer, what grouping them saves, and where they do not agree.

Of each pair some numbers are kept and its id, never its texts.
"""

from __future__ import annotations

import hashlib
import json
import math
import unicodedata
from array import array
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

from mmpref.records import PreferencePair

LETTERS_A_TOKEN = 4
IMAGE_TOKENS = 576
"""Of one image (LLaVA-1.5's), for what grouping saves where no model was named."""
WORTH_GROUPING = 0.05
"""Share of the tokens that grouping must save to be advised."""
_EXAMPLES = 5
_SHOWN = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """How often something was found, and the first cases in words, with ids."""

    count: int = 0
    examples: tuple[str, ...] = ()

    def say(self, one: str, many: str) -> str:
        """``3 pairs ... (such as ...)``: the text that fits the count, and two cases."""
        return f"{self.count:,} {one if self.count == 1 else many} (such as {'; '.join(self.examples[:2])})"


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptGroups:
    """What the prompts and answers of some pairs have in common; every pair counts once, by its id.

    Prompts are one where training runs them as one: the same images by path (embedded ones by their bytes), the same
    conversation, response prefix and template arguments. What is found about answers compares images by content where
    that is known, and texts without the blanks around them and the ways to write an accent.
    """

    pairs: int
    prompts: int
    """Different prompts."""
    pairs_per_prompt: dict[int, int]
    """Pairs of a prompt -> prompts that have so many."""
    answers: int
    """Different answers, each counted once for each prompt."""
    saved: float
    """Estimated share of tokens that grouping by prompt saves."""
    not_grouped: Found
    """Prompts that say the same as another one and are not grouped with it."""
    copies: Found
    """Images whose bytes are also under another path."""
    repeated: Found
    """Pairs that say the same as an earlier one with another id."""
    contradicting: Found
    """Pairs that prefer the answer that an earlier pair of the same prompt rejects for the one that it chooses."""
    scored_twice: Found
    """Answers of a prompt that have different scores in different pairs."""
    differ_in_blanks: Found
    """Pairs whose answers differ in blanks alone."""

    def rows(self) -> list[tuple[str, str]]:
        """(label, text) for a table in the terminal."""
        if not self.pairs:
            return []
        sizes = [f"{pairs}: {prompts:,}" for pairs, prompts in self.pairs_per_prompt.items()]
        more = f" and {len(sizes) - _SHOWN} other numbers" if len(sizes) > _SHOWN else ""
        saved = "saves nothing: hardly any prompt has several pairs"
        if self.saved >= WORTH_GROUPING:
            counted = f"{LETTERS_A_TOKEN} letters a token, {IMAGE_TOKENS} tokens an image"
            saved = f"train.group_pairs=prompt saves about {self.saved:.0%} of the tokens ({counted})"
        return [
            ("prompts", f"{self.prompts:,} different"),
            ("prompts by pairs", ", ".join(sizes[:_SHOWN]) + more),
            ("answers", f"{self.answers:,} different"),
            ("grouped by prompt", saved),
        ]

    def warnings(self) -> list[str]:
        """What the user should look at, in sentences."""
        found = []
        if self.scored_twice.count:
            words = "answer of a prompt has", "answers of a prompt have"
            cases = self.scored_twice.say(*(f"{verb} different scores in different pairs" for verb in words))
            found.append(f"{cases}: each pair keeps its own")
        if self.contradicting.count:
            found.append(
                self.contradicting.say(
                    "pair prefers the answer that another one of its prompt rejects",
                    "pairs prefer the answer that another one of their prompt rejects",
                )
            )
        if self.repeated.count:
            found.append(
                self.repeated.say(
                    "pair says the same as another one with another id",
                    "pairs say the same as another one with another id",
                )
            )
        if self.differ_in_blanks.count:
            cases = self.differ_in_blanks.say("pair has answers", "pairs have answers")
            found.append(f"{cases} that differ in blanks alone: they train on blanks, if the tokenizer keeps them")
        if self.not_grouped.count:
            cases = self.not_grouped.say(
                "prompt is not grouped with another one that says the same",
                "prompts are not grouped with another one that says the same",
            )
            same = "image is the same bytes", "images are the same bytes"
            copies = self.copies.say(*(f"{one} as one under another path" for one in same))
            why = copies if self.copies.count else "they differ in blanks or in the way an accent is written"
            found.append(f"{cases}: {why}")
        return found


class PromptTally:
    """Collects what is known of prompts and answers: some 100 bytes a pair and its id."""

    def __init__(self) -> None:
        self._ids: dict[str, None] = {}
        self._prompts, self._alike = array("Q"), array("Q")  # as training groups them, and as a reader would
        self._sides = (array("Q"), array("Q"))  # what chosen and rejected say, and after which prompt
        self._answers = (array("Q"), array("Q"))  # the same of prompts as training groups them
        self._scores = (array("d"), array("d"))
        self._lengths = (array("Q"), array("Q"), array("Q"))  # tokens of the prompt, chosen and rejected, estimated
        self._own = array("Q")  # tokens of a rejected prompt with own images
        self._blanks = _Cases()
        self._paths: dict[str, str] = {}  # content of an image -> its first path
        self._known: set[str] = set()
        self._copies = _Cases()

    def add(self, pair: PreferencePair, images: Sequence[str], contents: Sequence[str] | None = None) -> None:
        """Count one pair; one whose id was counted before is left out.

        Args:
            images: names of all images, frames and videos (``pair_source.all_files``), the same for those that
                training takes for one.
            contents: likewise, the same for those of equal content; None where that is not known.
        """
        if pair.id in self._ids:
            return
        self._ids[pair.id] = None
        names, same = tuple(images), tuple(contents or images)
        if contents is not None:
            self._look_for_copies(names, same)
        has_own = pair.rejected is not None and not pair.has_same_images
        prompt = _prompt_hash(pair, _seen_by(pair, names, rejected=False), fold=False)
        alike = _prompt_hash(pair, _seen_by(pair, same, rejected=False), fold=True)
        other = _prompt_hash(pair, _seen_by(pair, same, rejected=True), fold=True) if has_own else alike
        self._prompts.append(prompt)
        self._alike.append(alike)
        letters = sum(len(message.text) for message in pair.prompt) + len(pair.response_prefix)
        self._lengths[0].append(letters // LETTERS_A_TOKEN + IMAGE_TOKENS * len(pair.images))
        own_images = len(pair.rejected_images or ())
        self._own.append(letters // LETTERS_A_TOKEN + IMAGE_TOKENS * own_images if has_own else 0)
        for number, (text, before) in enumerate(((pair.chosen, alike), (pair.rejected, other))):
            said = "" if text is None else folded(text)
            after = f"{prompt}/{pair.id}" if number and has_own else str(prompt)  # which is run for this pair alone
            self._sides[number].append(0 if text is None else _hash(str(before), said))
            self._answers[number].append(0 if text is None else _hash(after, said))
            self._lengths[number + 1].append(len(text or "") // LETTERS_A_TOKEN)
        for scores, score in zip(self._scores, (pair.score_chosen, pair.score_rejected), strict=True):
            scores.append(math.nan if score is None else score)
        if pair.rejected is not None and not has_own and _same_words(pair.chosen, pair.rejected):
            self._blanks.add(repr(pair.id))

    def finish(self) -> PromptGroups:
        """What was found in all pairs so far."""
        per_prompt = Counter(self._prompts)
        return PromptGroups(
            pairs=len(self._ids),
            prompts=len(per_prompt),
            pairs_per_prompt=dict(sorted(Counter(per_prompt.values()).items())),
            answers=len({answer for answers in self._answers for answer in answers if answer}),
            saved=self._saved(),
            not_grouped=self._not_grouped(),
            copies=self._copies.found(),
            repeated=self._repeated(),
            contradicting=self._contradicting(),
            scored_twice=self._scored_twice(),
            differ_in_blanks=self._blanks.found(),
        )

    def _look_for_copies(self, names: Sequence[str], contents: Sequence[str]) -> None:
        for name, content in zip(names, contents, strict=True):
            if name in self._known or name == content:
                continue
            self._known.add(name)
            if (first := self._paths.setdefault(content, name)) != name:
                self._copies.add(f"{first} and {name}")

    def _saved(self) -> float:
        alone = sum(map(sum, self._lengths)) + sum(self._own)
        prompts = dict(zip(self._prompts, self._lengths[0], strict=True))
        answers: dict[int, int] = {}
        for said, lengths in zip(self._answers, self._lengths[1:], strict=True):
            answers.update(zip(said, lengths, strict=True))
        together = sum(prompts.values()) + sum(answers.values()) + sum(self._own)
        return 1 - together / alone if alone else 0.0

    def _not_grouped(self) -> Found:
        ids, cases = list(self._ids), _Cases()
        first: dict[int, tuple[int, int]] = {}
        seen: set[int] = set()
        for place, (prompt, alike) in enumerate(zip(self._prompts, self._alike, strict=True)):
            if prompt in seen:
                continue
            seen.add(prompt)
            one, where = first.setdefault(alike, (prompt, place))
            if one != prompt:
                cases.add(f"{ids[where]!r} and {ids[place]!r}")
        return cases.found()

    def _repeated(self) -> Found:
        ids, cases = list(self._ids), _Cases()
        first: dict[tuple[int, int], int] = {}
        for place, sides in enumerate(zip(*self._sides, strict=True)):
            if (where := first.setdefault(sides, place)) != place:
                cases.add(f"{ids[where]!r} and {ids[place]!r}")
        return cases.found()

    def _contradicting(self) -> Found:
        ids, cases = list(self._ids), _Cases()
        first: dict[tuple[int, int], int] = {}
        for place, (chosen, rejected) in enumerate(zip(*self._sides, strict=True)):
            first.setdefault((chosen, rejected), place)
            if rejected and (where := first.get((rejected, chosen))) is not None:
                cases.add(f"{ids[where]!r} and {ids[place]!r}")
        return cases.found()

    def _scored_twice(self) -> Found:
        ids, cases, count = list(self._ids), _Cases(), len(self._ids)
        said = self._sides[0] + self._sides[1]
        scores = self._scores[0] + self._scores[1]
        scored = sorted((place for place, score in enumerate(scores) if score == score), key=said.__getitem__)
        for _, places in groupby(scored, key=said.__getitem__):
            one, *others = places
            if (other := next((place for place in others if scores[place] != scores[one]), None)) is not None:
                first, second = sorted((one, other), key=lambda place: place % count)
                where = f"{scores[first]:g} in {ids[first % count]!r} and {scores[second]:g} in {ids[second % count]!r}"
                cases.add(where, first % count)
        return cases.found()


class _Cases:
    """A number of cases, and the first ones."""

    def __init__(self) -> None:
        self._count = 0
        self._first: list[tuple[int, str]] = []

    def add(self, words: str, place: int | None = None) -> None:
        """One more, at this place of all (the last where none is given)."""
        self._first.append((self._count if place is None else place, words))
        self._count += 1
        if len(self._first) > 2 * _EXAMPLES:
            self._first = sorted(self._first)[:_EXAMPLES]

    def found(self) -> Found:
        return Found(count=self._count, examples=tuple(words for _, words in sorted(self._first)[:_EXAMPLES]))


def folded(text: str) -> str:
    """A text as a reader sees it: without blanks around it, and accents written in one way."""
    return text.strip() if text.isascii() else unicodedata.normalize("NFC", text).strip()


def _same_words(one: str, two: str) -> bool:
    return one.split(maxsplit=2)[:2] == two.split(maxsplit=2)[:2] and one.split() == two.split()


def embedded_name(data: bytes) -> str:
    """A name of embedded bytes within this process, the same for equal ones."""
    return f"bytes:{len(data)}:{hash(data)}"


def _seen_by(pair: PreferencePair, names: Sequence[str], *, rejected: bool) -> tuple[str, ...]:
    """Those of all names that the chosen side shows, or the rejected one: its images, and the frames and videos."""
    shown, both = len(pair.images), len(pair.images) + len(pair.rejected_images or ())
    return (*(names[shown:both] if rejected else names[:shown]), *names[both + len(pair.other_images or ()) :])


def _prompt_hash(pair: PreferencePair, images: Sequence[str], *, fold: bool) -> int:
    def parts() -> Iterator[str]:
        own = dict(pair.template_kwargs or {})
        yield json.dumps(own, sort_keys=True, default=str) if own else ""
        yield folded(pair.response_prefix) if fold else pair.response_prefix
        for video in pair.videos:
            yield f"{video.fps}/{len(video.frames)}"
        for message in pair.prompt:
            yield message.role
            for part in message.parts:
                yield part.kind
                yield folded(part.text) if fold else part.text

    return _hash(*images, *parts())


def _hash(*texts: str) -> int:
    found = hashlib.blake2b(digest_size=8)
    for text in texts:
        encoded = text.encode("utf-8", "surrogatepass")
        found.update(len(encoded).to_bytes(8, "little"))
        found.update(encoded)
    return int.from_bytes(found.digest(), "little")
