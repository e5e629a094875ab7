"""Which option of a multiple-choice question an answer takes, as a careful person reads it.

A letter ("B", "(b)", "B. a dog", "The answer is B", "答案是B"), the text of an option, or what follows the reasoning.
The rules, in the order in which they are tried:

- What a model marks as its answer (``<answer>``, ``\\boxed``, ``{"answer": ...}``) is the answer, and nothing else is
  read. Thinking (``<think>``) is not read. After a mark of the next turn ("Question:", "USER:") nothing is read.
- A letter at the beginning, a letter that is said to be the answer, and what follows "therefore" must agree; otherwise
  the answer is unparsed, unless a later one corrects the earlier ones ("wait", "actually", "final answer").
- A letter beside the text of another option is unparsed, and so are two letters ("A or B"), a letter that only might be
  right ("could be B"), and a letter that is only denied: nothing is ever turned round.
- Without a letter: the option whose text is said and not denied, where there is one such option.
- Where the options are yes and no, the reader of yes and no reads what is left.

"A" before a word is an article ("A dog is there"), and "I" a pronoun.
"""

from __future__ import annotations

import re

from mmpref.evals.text.choice_words import (
    AFTER_A_LETTER,
    BEFORE_A_LETTER,
    CORRECTS,
    DENIED,
    IS_RIGHT,
    IS_WRONG,
    LETTER,
    MARKUP,
    MIGHT,
    NEXT_TURN,
    NUMBERED,
    ORDINAL,
    PLACES,
    SAYS,
    SENTENCE,
    SEVERAL,
    THEREFORE,
    UNSURE_BUT,
)
from mmpref.evals.text.marked import marked_answer, without_courtesies, without_thinking
from mmpref.evals.text.options import Options, OptionWords, words_of
from mmpref.evals.text.yes_no import read_mmpref

UNPARSED = "unparsed"
_TWO = 2
_SHORT = 5  # words of an answer whose letter and text are about the same


def read_choice(text: str, options: Options, question: str = "") -> str:
    """The letter of the option that an answer takes, or "unparsed".

    Args:
        text: what the model wrote.
        options: the text of each option by its letter, from A on (``options_of`` reads them from a question).
        question: what was asked, without the options; words of it are no answer.
    """
    plain = without_thinking(text).strip()
    if not plain or not options:
        return UNPARSED
    marked = marked_answer(plain)
    said = NEXT_TURN.split(plain, maxsplit=1)[0] if marked is None else marked
    return _Reader(options, question).read(said)


class _Reader:
    """Reads answers to one question."""

    def __init__(self, options: Options, question: str) -> None:
        self._options = options
        self._question = question
        self._words = OptionWords.of(options)
        capitals = "".join(options)
        letters = f"[{capitals}{capitals.lower()}]"
        letter = LETTER.format(letters=letters)
        self._bare = re.compile(rf"\s*(?:option|choice|answer|letter)?\s*{letter}\s*[.):,;!]*\s*", re.I)
        self._opening = re.compile(
            rf"\s*(?:[-•>]\s*)?(?:(?:option|choice)\s+)?(?:[(\[]\s*({letters})\s*[)\]]\s*[.:,-]?|"
            rf"({letters})(?:\s*(?:\.(?!\w\.)|[):,;])|\s+[-–—]\s))(?P<rest>.*)",
            re.S,
        )
        self._said = re.compile(rf"(?:{SAYS}){letter}", re.I)
        self._right = re.compile(rf"(?<![\w'’])(?:(?:option|choice|answer)\s+)?{letter}{IS_RIGHT}", re.I)
        self._again = re.compile(rf"(?:{letter}[\s.,;!]*)+")
        self._alone = re.compile(rf"(?<![\w'’]){letter}")
        self._several = re.compile(SEVERAL.format(letters=letters, capitals=f"[{capitals}]"))
        self._another = re.compile(rf"(?<![\w'’])[(\[]?[{capitals}][)\]]?\s*(?:\b(?:or|and)\b|[/&])\s*$")

    def read(self, text: str) -> str:
        """The letter, or "unparsed"."""
        body = self._without_list(without_courtesies(MARKUP.sub(" ", text).strip()))
        if not body or (self._words.numbers and NUMBERED.fullmatch(body.strip(" ."))):
            return UNPARSED
        body = self._with_letters(body)
        if self._opening.match(body) is None and (whole := self._words.whole(words_of(body))):
            return whole
        if (found := self._bare.fullmatch(body)) is not None:
            return _letter(found)
        if self._again.fullmatch(body) and len(letters := {_letter(one) for one in self._alone.finditer(body)}) == 1:
            return letters.pop()
        by_letter = self._by_letter(body)
        if by_letter:
            return by_letter
        by_text = self._by_text(body)
        return by_text if by_text != UNPARSED else self._yes_or_no(body)

    def _with_letters(self, body: str) -> str:
        """The text with letters for "the second option", "option 2" and, of two options, "the latter"."""
        letters = list(self._options)

        def letter(found: re.Match[str]) -> str:
            name = (found[1] or found[2]).lower()
            if found[2] is not None and len(letters) != _TWO:
                return found[0]
            return f"option {letters[PLACES[name]]}" if PLACES[name] < len(letters) else found[0]

        def numbered(found: re.Match[str]) -> str:
            return f"option {letters[int(found[1]) - 1]}" if int(found[1]) <= len(letters) else found[0]

        body = ORDINAL.sub(letter, body)
        return body if self._words.numbers else NUMBERED.sub(numbered, body)

    def _without_list(self, body: str) -> str:
        """The text without lines that repeat the options, where there are several of them."""
        lines = body.split("\n")
        repeated = {}
        for number, line in enumerate(lines):
            place = self._opening.match(line)
            if place is not None and self._words.whole(words_of(place["rest"])) == _letter(place):
                repeated[number] = _letter(place)
        if len(set(repeated.values())) < 2:
            return body
        return "\n".join(line for number, line in enumerate(lines) if number not in repeated).strip()

    def _by_letter(self, body: str) -> str:
        """The letter that is said; "unparsed" where letters contradict each other or the text beside them, "" where
        there is none."""
        opening, rest = self._opens(body)
        sentences = [part for part in SENTENCE.split(rest) if part.strip()]
        said: list[tuple[str, bool]] = [(opening, False)] if opening else []
        for sentence in sentences:
            said += [(letter, CORRECTS.search(sentence) is not None) for letter in self._concludes(sentence)]
        if sentences and (last := self._bare.fullmatch(sentences[-1])) is not None:
            said.append((_letter(last), False))
        if not said or {letter for letter, _ in said} == {opening}:
            said += [(letter, False) for letter in self._listed(sentences)]
        if not said:
            return self._alone_in(body)
        last_letter, corrected = said[-1]
        if len({letter for letter, _ in said}) > 1:
            return last_letter if corrected else UNPARSED
        beside = self._states(sentences[0]) if opening and sentences else ""
        if not opening and len(sentences) == 1 and len(words_of(body)) <= _SHORT:  # "blue, option A"
            beside = "".join(self._affirmed(body))
        return UNPARSED if beside and beside != last_letter else last_letter

    def _listed(self, sentences: list[str]) -> list[str]:
        """The letters that later lines begin with, as in a list of options; not those that are denied."""
        found = []
        for sentence in sentences:
            place = self._opening.match(sentence)
            if place is not None and not IS_WRONG.match(place["rest"]):
                found.append(_letter(place))
        return found

    def _opens(self, body: str) -> tuple[str, str]:
        """The letter that an answer begins with, and what follows it; "" and all of it where it begins with none."""
        line, _, following = body.partition("\n")
        if (bare := self._bare.fullmatch(line)) is not None:
            return _letter(bare), following
        found = self._opening.match(body)
        if found is None:
            return self._opens_with_words(body)
        letter = _letter(found)
        more = self._several.match(body, found.end(1) if found[1] else found.end(2))
        return (UNPARSED if _other(more, letter) else letter), found["rest"]

    def _opens_with_words(self, body: str) -> tuple[str, str]:
        """ "B because it is open": a capital letter before a word that no article stands before, or its own text."""
        found = self._alone.match(body)
        if found is None or body[found.start()].islower():
            return "", body
        letter, rest = _letter(found), body[found.end() :]
        if _other(self._several.match(body, found.end()), letter):
            return UNPARSED, ""
        if IS_WRONG.match(rest) or re.match(IS_RIGHT, rest, re.I):
            return "", body
        following = rest.split()[0].strip(",.;:").casefold() if rest.split() else ""
        own = self._words.by_letter.get(letter, ())
        begins = bool(own) and tuple(words_of(rest)[: len(own)]) == own
        opens = following in AFTER_A_LETTER or (begins and letter not in "AI")
        return (letter, rest) if opens else ("", body)

    def _concludes(self, sentence: str) -> list[str]:
        """The letters that a sentence says are the answer."""
        found: list[str] = []
        for pattern in (self._said, self._right):
            for place in pattern.finditer(sentence):
                letter, end = _letter(place), place.end()
                before = UNSURE_BUT.sub(" ", sentence[: place.start()])
                if pattern is self._said and self._is_article(place, sentence):
                    continue
                several = _other(self._several.match(sentence, end), letter) or self._another.search(before)
                might = MIGHT.search(before) or MIGHT.search(place[0])
                if several or might or self._names_other(sentence[end:], letter):
                    found.append(UNPARSED)
                elif not DENIED.search(before) and not IS_WRONG.match(sentence, end) and not _is_told(place, sentence):
                    found.append(letter)
        starts = [THEREFORE.search(sentence) if not found else None, *reversed([*CORRECTS.finditer(sentence)])]
        for start in filter(None, starts[:2]):
            rest = sentence[start.end() :].strip(" ,:;-")
            if (bare := self._bare.fullmatch(rest)) is not None:
                found.append(_letter(bare))
        return list(dict.fromkeys(found))

    def _is_article(self, place: re.Match[str], sentence: str) -> bool:
        """Whether what looks like a letter is a word: "the answer is a dog", "it is A dog"."""
        letter = place[2]
        if letter is None:
            return False
        rest = sentence[place.end() :]
        if letter.islower() and letter not in "ai":
            return bool(re.match(r"\s+\w", rest)) and self._starts_other(rest, letter.upper())
        if letter.upper() not in "AI":
            return False
        words = rest.split()
        if not re.match(r"\s+\w", rest) or words[0].strip(",.;:").casefold() in AFTER_A_LETTER:
            return False
        own = self._words.by_letter.get(letter.upper(), ())
        return letter.islower() or not own or tuple(words_of(rest)[: len(own)]) != own

    def _names_other(self, rest: str, letter: str) -> bool:
        """Whether the text of another option follows a letter: "B: a dog" where that is A."""
        return bool(re.match(r"\s*[).:,–—-]", rest)) and self._starts_other(rest, letter)

    def _starts_other(self, rest: str, letter: str) -> bool:
        return any(other != letter and place == 0 for place, other in self._words.said_in(words_of(rest)))

    def _alone_in(self, body: str) -> str:
        """The one letter in brackets or in capitals that a text has, where nothing says what it is for."""
        found: dict[str, None] = {}
        for place in self._alone.finditer(body):
            if _other(self._several.match(body, place.end()), _letter(place)):
                return UNPARSED
            bracketed = place[1] is not None
            article = not bracketed and place[2] in "AI" and re.match(r"\s+\w", body[place.end() :]) is not None
            if article or (not bracketed and place[2].islower()):
                continue
            before = UNSURE_BUT.sub(" ", re.split(r"[.;\n]", body[: place.start()])[-1])
            if not bracketed and not BEFORE_A_LETTER.search(before):
                continue
            if DENIED.search(before) or IS_WRONG.match(body, place.end()):
                continue
            found.setdefault(UNPARSED if MIGHT.search(before) else _letter(place))
        if len(found) > 1:
            return UNPARSED
        return next(iter(found), "")

    def _by_text(self, body: str) -> str:
        """The option whose text is said and not denied."""
        sentences = [part for part in SENTENCE.split(body) if part.strip()]
        concluded = [part[found.start() :] for part in sentences if (found := THEREFORE.search(part))]
        for part in concluded[-1:]:
            if len(said := self._affirmed(part)) == 1:
                return said[0]
        everywhere = {letter for sentence in sentences for letter in self._affirmed(sentence)}
        if len(everywhere) == 1:
            return everywhere.pop()
        first = self._affirmed(sentences[0]) if sentences else []
        turned = any(
            re.search(r"\b(?:but|however|although|on the other hand|actually|wait)\b", s, re.I) for s in sentences[1:]
        )
        return first[0] if len(first) == 1 and not turned else UNPARSED

    def _affirmed(self, sentence: str) -> list[str]:
        """The options that a sentence says and does not deny; several where it says that either may be."""
        found: dict[str, None] = {}
        for clause in re.split(r"[,;]|\bbut\b|\bwhile\b|\bwhereas\b", sentence, flags=re.I):
            words = words_of(clause)
            for place, letter in self._words.said_in(words):
                before = " ".join(words[:place])
                own_negation = DENIED.search(" ".join(self._words.by_letter[letter])) is not None
                if not own_negation and DENIED.search(before):
                    continue
                if MIGHT.search(before):
                    return [UNPARSED]
                found.setdefault(letter)
        return list(found)

    def _states(self, sentence: str) -> str:
        """The option that a sentence after a letter ends or begins with; "" where that is none, or the question's own
        words."""
        words = words_of(sentence)
        affirmed = self._affirmed(sentence)
        if not words or len(affirmed) != 1 or affirmed[0] == UNPARSED:
            return ""
        letter = affirmed[0]
        own = self._words.by_letter[letter]
        at_edge = tuple(words[: len(own)]) == own or tuple(words[-len(own) :]) == own
        asked = {other for _, other in self._words.said_in(words_of(self._question))}
        return letter if at_edge and (letter not in asked or len(asked) == len(self._options)) else ""

    def _yes_or_no(self, text: str) -> str:
        """Where the options are yes and no: what the reader of yes and no says."""
        by_word = {" ".join(said): letter for letter, said in self._words.by_letter.items()}
        if set(by_word) != {"yes", "no"}:
            return UNPARSED
        return by_word.get(read_mmpref(text, self._question), UNPARSED)


def _letter(found: re.Match[str]) -> str:
    return str(next(group for group in found.groups() if group is not None)).upper()


def _other(more: re.Match[str] | None, letter: str) -> bool:
    """Whether what follows a letter is another letter."""
    return more is not None and _letter(more) != letter


def _is_told(place: re.Match[str], sentence: str) -> bool:
    """Whether an option is only told: "Option A says dog"."""
    rest = sentence[place.end() :]
    plain = re.match(r"\s*(?:says|states|shows|describes|mentions|reads|suggests|claims|refers|lists|\()", rest, re.I)
    return plain is not None
