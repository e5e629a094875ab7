"""What the texts of the pairs say: length bias, pairs that hardly differ, prompts and rows that repeat."""

from __future__ import annotations

import hashlib
import json
import re
from array import array
from collections import Counter
from dataclasses import dataclass

import numpy as np

from mmpref.data.audit.stats import Estimate, Floats, Quantiles, join_ids, mean_estimate, share_estimate
from mmpref.data.text_similarity import edit_similarity, jaccard, repeats_prompt, words
from mmpref.records import PreferencePair

NEARLY_IDENTICAL = 0.9
"""Edit similarity from which two answers count as nearly the same."""

NUM_EXAMPLES = 5

_MARKS = re.compile(
    r"<image>|<video>|<\|(?:image|video|vision|im|endoftext|eot|begin_of|start_header|end_header)\w*\|>"
    r"|</?s>|\[/?INST\]|<start_of_turn>|<end_of_turn>"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Lengths:
    """Is the better answer simply the longer one? Intervals count images, not rows."""

    num_compared: int
    longer: Estimate
    """Share of pairs whose chosen answer has more words."""
    equal: float | None
    """Share of pairs with equally many words."""
    difference_words: Estimate
    """Words of chosen minus words of rejected, mean."""
    difference_characters: Estimate
    chosen_words: Quantiles
    rejected_words: Quantiles
    spread_words: Quantiles
    """Words of chosen minus words of rejected."""

    def rows(self) -> list[tuple[str, str]]:
        """(question, answer) for the terminal."""
        if not self.num_compared:
            return []
        return [
            ("chosen has more words", f"{_percent(self.longer)}, as many in {self.equal or 0:.1%}"),
            ("words, chosen minus rejected", _number(self.difference_words)),
            ("characters, chosen minus rejected", _number(self.difference_characters)),
            ("words of chosen, rejected (median)", f"{self.chosen_words.median:g}, {self.rejected_words.median:g}"),
        ]

    def warnings(self) -> list[str]:
        """What the user should look at, in sentences."""
        if self.longer.interval is None or self.longer.value is None or self.equal is None:
            return []
        decided = 1 - self.equal
        shorter = decided - self.longer.value
        clear = self.longer.interval[0] > decided / 2 or self.longer.interval[1] < decided / 2
        if decided and clear and max(self.longer.value, shorter) > 0.6 * decided and self.num_compared >= 20:
            which, share = ("longer", self.longer.value) if self.longer.value > shorter else ("shorter", shorter)
            return [
                f"the chosen answer is the {which} one in {share / decided:.0%} of the pairs that differ in length: "
                "length alone predicts it; consider length_normalize, rdpo, or balancing the pairs"
            ]
        return []


@dataclass(frozen=True, slots=True, kw_only=True)
class Similarity:
    """How much chosen and rejected share."""

    edit: Quantiles
    """2 LCS / (n + m) over words, case ignored: 1 = the same words in the same order."""
    jaccard: Quantiles
    """Distinct words in both, over distinct words in either."""
    threshold: float
    num_near: int
    """Pairs whose edit similarity reaches the threshold."""
    near_examples: tuple[str, ...]
    num_one_continues_other: int
    """Pairs in which one answer begins with the whole other one."""

    def rows(self) -> list[tuple[str, str]]:
        """(question, answer) for the terminal."""
        if not self.edit.n:
            return []
        near = f"{self.num_near:,} ({self.num_near / self.edit.n:.1%})"
        return [
            ("edit similarity (5 %, median, 95 %)", f"{self.edit.p5:.2f}, {self.edit.median:.2f}, {self.edit.p95:.2f}"),
            (f"nearly identical (from {self.threshold:g})", near),
            ("one answer continues the other", f"{self.num_one_continues_other:,}"),
        ]

    def warnings(self) -> list[str]:
        """What the user should look at, in sentences."""
        if not self.edit.n or self.num_near <= 0.05 * self.edit.n:
            return []
        return [
            f"{self.num_near:,} pairs ({self.num_near / self.edit.n:.0%}) differ in few words (such as "
            f"{join_ids(self.near_examples)}): normal for answers corrected by hand, a fault elsewhere"
        ]


@dataclass(frozen=True, slots=True, kw_only=True)
class Repeats:
    """What appears more than once."""

    num_prompts: int
    """Distinct prompts, case and spaces ignored."""
    most_used_prompt: str
    most_used_count: int
    num_questions: int
    """Distinct prompts with their images."""
    num_same_pair: int
    """Rows whose prompt, images and both answers appeared before."""
    num_contradictions: int
    """Rows that prefer what another row of the same question rejects."""
    contradiction_examples: tuple[str, ...]
    num_with_control_text: int
    """Rows with a literal placeholder or control token (such as <image>, </s>) in a text."""
    control_texts: dict[str, int]
    num_repeat_prompt: int
    """Rows whose answers all begin with the whole question."""

    def rows(self) -> list[tuple[str, str]]:
        """(question, answer) for the terminal."""
        if not self.num_prompts:
            return []
        most = f", one of them in {self.most_used_count:,} rows" if self.most_used_count > 1 else ""
        rows = [
            ("distinct prompts", f"{self.num_prompts:,}{most}"),
            ("distinct prompts with images", f"{self.num_questions:,}"),
            ("rows that repeat a pair", f"{self.num_same_pair:,}"),
            ("rows that contradict another", f"{self.num_contradictions:,}"),
        ]
        if self.num_with_control_text:
            rows.append(("rows with control tokens as text", f"{self.num_with_control_text:,}"))
        if self.num_repeat_prompt:
            rows.append(("answers that begin with the question", f"{self.num_repeat_prompt:,}"))
        return rows

    def warnings(self) -> list[str]:
        """What the user should look at, in sentences."""
        found = []
        if self.num_same_pair:
            found.append(f"{self.num_same_pair:,} rows repeat a pair word for word")
        if self.num_contradictions:
            found.append(
                f"{self.num_contradictions:,} rows prefer the answer that another row of the same question rejects "
                f"(such as {join_ids(self.contradiction_examples)})"
            )
        if self.num_with_control_text:
            kinds = ", ".join(f"{name!r} {count:,}" for name, count in list(self.control_texts.items())[:5])
            found.append(f"{self.num_with_control_text:,} rows hold placeholders or control tokens as text ({kinds})")
        if self.num_repeat_prompt:
            found.append(
                f"the answers of {self.num_repeat_prompt:,} rows begin with the whole question: the model would learn "
                "to repeat it; cut it off"
            )
        return found


class TextTally:
    """Collects what is known of the texts, a few numbers and hashes per pair."""

    def __init__(self, *, seed: int) -> None:
        self.num_demonstrations = 0
        self._near, self._against = _Examples(seed), _Examples(seed)
        self._chosen, self._rejected = array("d"), array("d")
        self._characters = array("d")
        self._groups = array("q")
        self._edit, self._jaccard = array("d"), array("d")
        self._group_numbers: dict[str, int] = {}
        self._prompts: Counter[bytes] = Counter()
        self._most_used = (0, "")
        self._questions: set[bytes] = set()
        self._pairs: set[bytes] = set()
        self._num_continued = self._num_same = 0
        self._marks: Counter[str] = Counter()
        self._num_marked = self._num_repeat_prompt = 0

    def add(self, pair: PreferencePair, *, images: tuple[str, ...]) -> None:
        """Count one pair; ``images`` are the names of its images, equal for equal images."""
        question = self._add_question(pair, images)
        self._look_for_marks(pair)
        self._num_repeat_prompt += repeats_prompt(pair)
        if pair.rejected is None:
            self.num_demonstrations += 1
            return
        group = images[0] if images else question.hex()
        self._groups.append(self._group_numbers.setdefault(group, len(self._group_numbers)))
        chosen, rejected = words(pair.chosen.casefold()), words(pair.rejected.casefold())
        self._chosen.append(len(chosen))
        self._rejected.append(len(rejected))
        self._characters.append(len(pair.chosen) - len(pair.rejected))
        alike = edit_similarity(chosen, rejected)
        self._edit.append(alike)
        self._jaccard.append(jaccard(chosen, rejected))
        if alike >= NEARLY_IDENTICAL:
            self._near.add(pair.id)
        short, long = sorted((pair.chosen.strip(), pair.rejected.strip()), key=len)
        self._num_continued += len(short) < len(long) and long.startswith(short.rstrip(".!?…"))
        self._add_answers(pair, question)

    def word_differences(self) -> Floats:
        """Words of chosen minus words of rejected, per compared pair, in order."""
        return np.asarray(self._chosen, dtype=np.float64) - np.asarray(self._rejected, dtype=np.float64)

    def lengths(self) -> Lengths:
        """Lengths of the answers, over all pairs so far."""
        difference = self.word_differences()
        return Lengths(
            num_compared=difference.size,
            longer=share_estimate(difference > 0, self._groups),
            equal=float((difference == 0).mean()) if difference.size else None,
            difference_words=mean_estimate(difference, self._groups),
            difference_characters=mean_estimate(self._characters, self._groups),
            chosen_words=Quantiles.of(self._chosen),
            rejected_words=Quantiles.of(self._rejected),
            spread_words=Quantiles.of(difference),
        )

    def similarity(self) -> Similarity:
        """How alike the two answers of a pair are, over all pairs so far."""
        return Similarity(
            edit=Quantiles.of(self._edit),
            jaccard=Quantiles.of(self._jaccard),
            threshold=NEARLY_IDENTICAL,
            num_near=sum(value >= NEARLY_IDENTICAL for value in self._edit),
            near_examples=self._near.ids,
            num_one_continues_other=self._num_continued,
        )

    def repeats(self) -> Repeats:
        """What appears more than once among the pairs so far."""
        return Repeats(
            num_prompts=len(self._prompts),
            most_used_prompt=self._most_used[1],
            most_used_count=self._most_used[0],
            num_questions=len(self._questions),
            num_same_pair=self._num_same,
            num_contradictions=self._against.num_seen,
            contradiction_examples=self._against.ids,
            num_with_control_text=self._num_marked,
            control_texts=dict(self._marks.most_common()),
            num_repeat_prompt=self._num_repeat_prompt,
        )

    def _add_question(self, pair: PreferencePair, images: tuple[str, ...]) -> bytes:
        prompt = _hash(*(f"{message.role}:{_folded(message.text)}" for message in pair.prompt))
        self._prompts[prompt] += 1
        if self._prompts[prompt] > self._most_used[0]:
            self._most_used = (self._prompts[prompt], pair.prompt[-1].text[:200])
        given = "" if pair.template_kwargs is None else json.dumps(dict(pair.template_kwargs), sort_keys=True)
        question = _hash(prompt.hex(), _folded(pair.response_prefix), given, *images)
        self._questions.add(question)
        return question

    def _add_answers(self, pair: PreferencePair, question: bytes) -> None:
        chosen, rejected = _folded(pair.chosen), _folded(pair.rejected or "")
        key = _hash(question.hex(), chosen, rejected)
        if key in self._pairs:
            self._num_same += 1
        elif chosen != rejected and _hash(question.hex(), rejected, chosen) in self._pairs:
            self._against.add(pair.id)
        self._pairs.add(key)

    def _look_for_marks(self, pair: PreferencePair) -> None:
        texts = (*(message.text for message in pair.prompt), pair.response_prefix, pair.chosen, pair.rejected or "")
        found = {match for text in texts if "<" in text or "[" in text for match in _MARKS.findall(text)}
        self._marks.update(found)
        self._num_marked += bool(found)


class _Examples:
    """A few ids of many, each equally likely, the same for the same seed and ids."""

    def __init__(self, seed: int) -> None:
        self.num_seen = 0
        self._seed = seed
        self._kept: list[tuple[bytes, str]] = []

    def add(self, name: str) -> None:
        """Count one more."""
        self.num_seen += 1
        self._kept = sorted([*self._kept, (_hash(str(self._seed), name), name)])[:NUM_EXAMPLES]

    @property
    def ids(self) -> tuple[str, ...]:
        """The ids that were drawn."""
        return tuple(name for _, name in self._kept)


def _hash(*texts: str) -> bytes:
    found = hashlib.blake2b(digest_size=12)
    for text in texts:
        encoded = text.encode("utf-8", "surrogatepass")
        found.update(len(encoded).to_bytes(8, "little"))
        found.update(encoded)
    return found.digest()


def _folded(text: str) -> str:
    return " ".join(text.casefold().split())


def _percent(estimate: Estimate) -> str:
    if estimate.value is None or estimate.interval is None:
        return "-"
    low, high = estimate.interval
    return f"{estimate.value:.1%} [{low:.1%}, {high:.1%}]"


def _number(estimate: Estimate) -> str:
    if estimate.value is None:
        return "-"
    if estimate.interval is None:
        return f"{estimate.value:+.1f} (no interval: one image or prompt)"
    low, high = estimate.interval
    return f"{estimate.value:+.1f} [{low:+.1f}, {high:+.1f}]"
