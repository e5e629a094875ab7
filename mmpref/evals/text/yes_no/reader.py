"""Reading yes or no from a model's answer as a careful person would who knows the question.

What a person would hesitate over is ``unparsed``: hedges that do not lean, refusals, contradictions, sentences about
another thing or another attribute. Nothing is ever turned round. The conventions, with examples and how far the reader
agrees with people, are in ``docs/reading_answers.md``.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

from mmpref.evals.text.singular import singular
from mmpref.evals.text.yes_no.claims_about import judged_claim, without_stance
from mmpref.evals.text.yes_no.clauses import BEGINNERS, Sentence, comma_parts, sentences_of, split_at_comma
from mmpref.evals.text.yes_no.contact import contact_says
from mmpref.evals.text.yes_no.contrasts import denial_says
from mmpref.evals.text.yes_no.covered import covered_says
from mmpref.evals.text.yes_no.echoes import echo_says, ellipsis_says
from mmpref.evals.text.yes_no.hedges import has_other_colour
from mmpref.evals.text.yes_no.languages import foreign_word_says
from mmpref.evals.text.yes_no.matching import SEEMS
from mmpref.evals.text.yes_no.phrases import (
    bare_word_says,
    denies_the_last,
    is_doubt,
    is_short_form,
    phrase_says,
    says_both,
    verdict_says,
    without_fillers,
)
from mmpref.evals.text.yes_no.presence import Said, presence_says
from mmpref.evals.text.yes_no.question import Asked, content_words, read_question
from mmpref.evals.text.yes_no.tools import YesNo
from mmpref.evals.text.yes_no.turns import turn_says
from mmpref.evals.text.yes_no.typos import put_right
from mmpref.evals.text.yes_no.unasked import doubts_unasked, read_unasked
from mmpref.evals.text.yes_no.words import ADVERBS, AUXILIARIES, DETERMINERS, NO_WORDS, PRESENT, YES_WORDS, word_set
from mmpref.evals.text.yes_no.wrapping import (
    first_turn,
    fold,
    plain,
    structured_answer,
    tagged_answer,
    without_thinking,
)

_OTHERS = frozenset({"or", "other", "another"})
_SIMPLE: dict[str, YesNo] = {"yes": "yes", "no": "no", "yes.": "yes", "no.": "no"}
_LABEL = re.compile(
    r"^(?:[\s\-•–—:.]*(?:the )?(?:final answer|yes (?:or|/) no|yes/no|answer|response|assistant|a|output|prediction"
    r"|verdict|ans|result)\s*[:=])+\s*"
)
_LIST_MARK = re.compile(r"^[^\w\s'\"(]*\s*(?:\(?(?:[a-d]|\d{1,2})[.):]\s+)?")
_SURE = re.compile(r"^\s*(?:(?:sure|well|ok|okay|alright|all right|hm+|um+|uh+|oh|ah)\s*,\s*)+", re.IGNORECASE)
"""Words before a comma that say nothing of their own: "Sure, there is no dog", and "Sure," that was cut there."""
_TICKS = "✅✓✔☑👍⭕"
_CROSSES = "❌✗✘✖❎👎🚫⛔"
_EMOJI = frozenset(_TICKS + _CROSSES)
_EMOJI_DRESS = re.compile("[\\s\ufe0e\ufe0f.!🏻-🏿]+")
_REASON_LINE = re.compile(
    r"^[ \t]{0,9}(?:reason|reasoning|explanation|rationale|confidence|thought|thoughts|analysis|evidence|caption"
    r"|description)[ \t]{0,3}:.*$",
    re.M,
)
_ANSWER_LINE = re.compile(
    r"(?:^|[\n.!?;:)\]]|\bso|\bthus|\btherefore|\bhence|,|\bmy|\bthe)\s{0,5}(?:the |my )?(?:final |correct |short "
    r"|overall )?(?:answer|verdict|conclusion|prediction)\s{0,5}"
    r"(?:(?:is|would be|must be|should be|will be|has to be)\b\s{0,5}:?|[:=]|(?<=\n)|to (?:the|this|your"
    r"|that) question (?:\"[^\"]*\" |of [^.?!]{0,80} |\([^)]*\) )?is\b\s{0,5}:?)\s{0,5}(?P<rest>[^\n]*)"
)
_OPTION = re.compile(
    r"^(?:the )?(?:correct )?(?:(?:final )?(?:answer|option|choice)\s*(?:(?:is|:)\s*)?)*\(?([a-d])\)?(?:[.):]"
    r"|\s*$)\s*(.*)$",
    re.S,
)
_CONCLUDES = word_set("so thus therefore hence consequently accordingly ultimately overall conclusively finally")
_CONCLUDES_TWO = {
    ("in", "conclusion"), ("to", "conclude"), ("in", "summary"), ("in", "short"), ("as", "a"), ("to", "summarize"),
    ("all", "in"), ("it", "follows"), ("final", "answer"), ("and", "so"), ("to", "sum"), ("bottom", "line"),
    ("we", "conclude"),
    ("i", "conclude"), ("which", "means"), ("this", "means"), ("that", "means"), ("we", "can"),
}  # fmt: skip
_CONCLUDING_REST = word_set("a result in all that up can conclude means follows line")
_CORRECTS = re.compile(
    r"\b(?:wait|scratch that|correction|i mean|i meant|on second thought|hold on|my mistake|i was wrong"
    r"|i stand corrected|let me correct"
    r"|oops|or-rather|let me reconsider|upon closer|on closer|looking closer|look closer|looking again"
    r"|a closer look|actually|sorry"
    r"|apologies|i misspoke|strike that|let me rephrase)\b"
)
_HELPS = re.compile(r"\b(?:help|assist|upload|provide|share|look at it|happy to)\b")
_QUOTED = re.compile(r"\"[^\"\n]*\?[^\"\n]*\"|'(?:is|are|does|do|can)\b[^'\n]*\?'")


@dataclass(frozen=True, slots=True)
class _Claim:
    """One thing that an answer says. ``kind``: a word that opens it, a conclusion, a plain word inside, a "
    "statement."""

    kind: str
    says: YesNo
    corrected: bool = False
    short: bool = False  # "there is one": of what was spoken of


def read_mmpref(text: str, question: str = "") -> YesNo:
    """What a careful person who knows the question takes the answer to claim, or "unparsed".

    A stated conclusion and a correction count above what stands before them; a yes or no that opens the answer counts
    where no statement contradicts it; else what the sentences say of the thing asked for counts. Only the first answer
    of a text that goes on with other questions is read. Without a question ("") only words of yes and no, conclusions
    and plain denials are read, because a sentence may be about anything.
    """
    asked = read_question(question)
    text = _SURE.sub("", text)
    simple = _SIMPLE.get(text.strip().lower())
    if simple is not None:
        return "unparsed" if asked.kind == "choice" else simple
    said = _read(put_right(fold(text), question), question, asked)
    return "unparsed" if asked.kind == "choice" else said


def says_unsure(text: str, question: str = "") -> bool:
    """Whether the answer says in so many words that it does not know, or refuses."""
    if read_mmpref(text, question) != "unparsed":
        return False
    if doubts_unasked(text):
        return True
    return any(is_doubt(sentence.words) for sentence in sentences_of(plain(without_thinking(fold(text))[0])))


def _read(folded: str, question: str, asked: Asked) -> YesNo:
    text, endless = without_thinking(folded)
    if endless:
        return _endless_says(text)
    structured = structured_answer(text, asked.names)
    if structured is not None:
        return _read_text(first_turn(structured), question, asked, folded=structured)
    tagged = tagged_answer(text)
    if tagged is not None:
        return _read_text(plain(tagged), question, asked, folded=tagged)
    return _read_text(plain(first_turn(text)), question, asked, folded=text)


def _endless_says(text: str) -> YesNo:
    """Thinking that never ended counts only for a conclusion in so many words at its end."""
    found = [*_ANSWER_LINE.finditer(plain(text))]
    sentences = sentences_of(found[-1]["rest"]) if found else []
    return bare_word_says(sentences[0].clauses[0]) if sentences else "unparsed"


def _read_text(text: str, question: str, asked: Asked, folded: str) -> YesNo:
    if not text:
        return "unparsed"
    if not _EMOJI.isdisjoint(text[:200]):
        emoji = _emoji_says(text, asked)
        if emoji is not None:
            return emoji
    body = _LIST_MARK.sub("", _LABEL.sub("", text), count=1) if not asked.options else _LABEL.sub("", text)
    if asked.options:
        chosen = _option_says(body, asked)
        if chosen is not None:
            return chosen
        body = _LIST_MARK.sub("", body, count=1)
    foreign = foreign_word_says(body.lstrip(" \"'¡¿(["))
    if foreign != "unparsed":
        return foreign
    if not question.strip():
        return read_unasked(_REASON_LINE.sub("", folded))
    return _decide(_claims(body, asked))


def _emoji_says(text: str, asked: Asked) -> YesNo | None:
    """A tick or cross that stands alone, or beside the name of what was asked for; None where words decide."""
    marks = {"yes" if char in _TICKS else "no" for char in text if char in _TICKS or char in _CROSSES}
    rest = _EMOJI_DRESS.sub(" ", "".join(char for char in text if char not in _TICKS + _CROSSES)).strip()
    rest = _LABEL.sub("", f"{rest}:" if rest in {"answer", "final answer"} else rest).strip(" :")
    if rest and rest not in asked.names:
        return None
    return "unparsed" if len(marks) > 1 else ("yes" if "yes" in marks else "no")


def _option_says(body: str, asked: Asked) -> YesNo | None:
    """The option that a letter names; None where no letter opens the answer."""
    found = _OPTION.match(body.strip())
    if found is None or found.group(1) not in asked.options:
        return None
    said = asked.options[found.group(1)]
    sentences = sentences_of(found.group(2))
    if sentences:
        word, _ = verdict_says(without_fillers(sentences[0].clauses[0]))
        if word not in {"unparsed", said}:
            return "unparsed"
    return said


# --- what the sentences say ------------------------------------------------------------------------------------------


def _claims(body: str, asked: Asked) -> list[_Claim]:
    """Everything that the answer says about the question, in its order."""
    claims: list[_Claim] = []
    text = _QUOTED.sub(" ", body)
    if "\n" in text:
        text = _REASON_LINE.sub("", text)
    concluded: list[_Claim] = []
    if "answer" in text or "verdict" in text or "conclusion" in text or "prediction" in text:
        for found in _ANSWER_LINE.finditer(text):
            said = _stated_answer(found["rest"], asked)
            if said != "unparsed":
                concluded.append(_Claim("conclusion", said))
    sentences = sentences_of(text)
    corrected = unrelated = False
    for index, sentence in enumerate(sentences):
        if len(sentences) > 1 and len(sentence.words) == 1 and sentence.words[0].isdigit():
            continue  # the number of a list
        if sentence.asks:
            if claims:
                break  # another question: the first answer ends here
            if _is_other_question(sentence, asked):
                break
            continue
        found_here, corrected = _sentence_claims(sentence, asked, index == 0, corrected)
        if unrelated:  # "there are two more" is about whatever was spoken of
            found_here = [claim for claim in found_here if not claim.short]
        own = any(word in asked.content or word in asked.names for word in sentence.words)
        unrelated = unrelated or not (found_here or claims or own or _is_courtesy(sentence))
        if not claims and index < len(sentences) - 1 and _is_courtesy(sentence):
            continue
        claims += found_here
        if len(claims) > 400:
            break
    return claims + concluded


def _is_courtesy(sentence: Sentence) -> bool:
    """ "Sure!", "Certainly!" before what the answer says."""
    words = set(sentence.words)
    return words <= _COURTESY


_IT_IS = {(subject, verb) for subject in ("it", "they", "he", "she") for verb in ("is", "are", "does", "do", "was")}
_COUNTED = frozenset({"number", "count", "total", "answer", "amount"})
_COURTESY = word_set("sure certainly of course well ok okay alright gladly right , thing")


def _stated_answer(rest: str, asked: Asked) -> YesNo:
    sentences = sentences_of(rest)
    if not sentences:
        return "unparsed"
    words = without_fillers(sentences[0].clauses[0])
    if asked.options and words and words[0] in asked.options:
        return asked.options[words[0]]
    said, _ = verdict_says(words)
    if said == "unparsed":
        said = (
            phrase_says(words, asked)
            if words and words[0] in {"true", "false", "correct", "incorrect", "affirmative", "negative"}
            else said
        )
    if said == "unparsed":
        said = bare_word_says(words)
    return said


def _is_other_question(sentence: Sentence, asked: Asked) -> bool:
    """Whether a question in the answer asks for something else than the question does."""
    words = {word for word in content_words(" ".join(sentence.words)) if word.isalpha() and len(word) > 2}
    own = asked.content
    names = asked.names
    new = [word for word in words if word not in own and word not in names and word not in _QUESTION_WORDS]
    return bool(new) and not words & own and len(sentence.words) > 2  # "Honestly? No."


_QUESTION_WORDS = word_set(
    "imag pictur photo scen see can you visibl present what about right question answer ask let look"
)


def _sentence_claims(sentence: Sentence, asked: Asked, first: bool, corrected: bool) -> tuple[list[_Claim], bool]:
    """What a sentence says, and whether it, or one before it, takes something back."""
    claims: list[_Claim] = []
    if says_both(sentence.clauses[0]):
        return [_Claim("opening", "yes"), _Claim("opening", "no")], corrected
    seen_correction = corrected
    corrects = _CORRECTS.search(" ".join(sentence.words[:400])) is not None
    helps = first and _HELPS.search(" ".join(sentence.words[:60])) is not None
    concludes = False
    seeming = False
    for place, clause in enumerate(sentence.clauses):
        starts = corrects and not seen_correction and _corrects(clause)
        seen_correction = seen_correction or starts
        if _only_leads(clause, sentence.clauses[place + 1 : place + 2]):
            concludes = concludes or not _CONCLUDES.isdisjoint(clause)
            continue
        before = (
            starts and verdict_says(without_fillers(clause))[1] > 0
        )  # "no, wait": the word stands before the correction
        if len(clause) == 1 and clause[0].isdigit() and len(sentence.clauses) > 1:
            counted = sentence.clauses[place - 1] if place else ()
            if not any(word in _COUNTED or singular(word) in asked.names for word in counted):
                continue  # "12:00", but "dogs: 3"
        if len(sentence.clauses) > 1 and set(clause) <= _COURTESY:
            continue  # "sure, there is a cat" says nothing of a dog
        if place and sentence.clauses[place - 1][:1] == ("not",) and set(sentence.clauses[place - 1][1:]) <= PRESENT:
            continue  # "not shown: a dog"
        if claims and clause in _IT_IS:
            continue  # "no, it is" adds nothing to the word
        made = _clause_claims(clause, asked, opens=place == 0)
        settled = any(claim.corrected for claim in claims)  # "wait, no, it is a cat"
        another = corrects and not settled and _names_another(clause)
        if not made and seen_correction and (is_doubt(clause) or "reconsider" in clause or another):
            claims.append(_Claim("doubt", "unparsed", corrected=True))
        if seeming and denies_the_last(clause):
            made = [("statement", "no")]  # "it appears straight but is not"
        seeming = any(kind == "seeming" and said == "yes" for kind, said in made)
        if place < len(sentence.clauses) - 1 and asked.compares:
            made = [(kind, said) for kind, said in made if kind != "seeming"]  # "looks longer, but ..."
        for kind, said in made:
            if helps and kind == "opening":
                continue
            if concludes:  # "so, there is no dog"
                kind = "conclusion"
            short = kind != "statement" and is_short_form(clause)
            claims.append(_Claim(kind, said, seen_correction and not (kind == "opening" and before), short))
    return claims, seen_correction


def _names_another(clause: tuple[str, ...]) -> bool:
    """ "Actually, that is a bag": what was said before is taken back, and no more is said of it."""
    words = [word for word in _without_correction(clause) if word not in ADVERBS and word != ","]
    starts = len(words) > 3 and words[0] in {"it", "that", "this"} and words[1] in {"is", "was"}
    return starts and words[2] in {"a", "an"} and words[3] not in {"bit", "little", "lot"} and words[-1] != "one"


def _only_leads(clause: tuple[str, ...], following: Sequence[tuple[str, ...]]) -> bool:
    """Whether a clause is an adverb before a statement: "apparently, there is no dog", "of course, it is a cat"."""
    said = comma_parts(without_fillers(clause))[-1]  # of "in this picture, apparently" the adverb
    lone = all(word in ADVERBS or word in _COURTESY or word in _CONCLUDES or word in {",", "so"} for word in said)
    if not lone or not following:
        return False
    return not _CONCLUDES.isdisjoint(clause) or following[0][0] in BEGINNERS | {"in", "nobody"}


def _corrects(clause: tuple[str, ...]) -> bool:
    line = " ".join(clause[:200])
    found = _CORRECTS.search(line)
    if found is None:
        return False
    return (
        found.start() == 0
        or line[: found.start()].endswith(", ")
        or found.group() not in {"actually", "sorry", "apologies"}
    )


def _clause_claims(clause: tuple[str, ...], asked: Asked, opens: bool) -> list[tuple[str, YesNo]]:
    """What one clause says: its opening word, and the statement after it."""
    stripped = _without_correction(clause)
    if clause[0] in {"although", "though"}:  # what is only conceded counts for nothing
        stripped = split_at_comma(clause)[1]
    words, concluding = _without_conclusion(stripped)
    words = without_fillers(words)
    kind = "conclusion" if concluding else ("opening" if opens else "inner")
    if not words:  # courtesy alone is an answer: "Sure!"
        said = phrase_says(stripped, asked)
        return [(kind, said)] if said != "unparsed" else []
    found: list[tuple[str, YesNo]] = []
    said, size = verdict_says(words)
    if kind == "inner" and (YES_WORDS | NO_WORDS) & {*asked.predicate}:
        said = "unparsed"  # "print('yes')", where the question speaks of a text that says no
    if said != "unparsed":
        found.append((kind, said))
        words = without_fillers(words[size:])
        while words and verdict_says(words)[0] == said and words[0] in {"yes", "no", "nope", "yeah"}:
            words = without_fillers(words[1:])
        taken_back = _without_correction(words)
        if taken_back is not words and verdict_says(without_fillers(taken_back))[0] not in {"unparsed", said}:
            return [(kind, verdict_says(without_fillers(taken_back))[0])]  # "no, wait, yes"
        if words and verdict_says(words)[0] not in {"unparsed", said}:
            found.append((kind, verdict_says(words)[0]))
        kind = "inner"
    if not words:
        return found
    whole = phrase_says(stripped, asked) if not found and not concluding else "unparsed"
    if whole == "unparsed":
        whole = phrase_says(words, asked)
    if whole == "unparsed":
        whole = _entry_says(words, asked)
    if whole == "unparsed" and asked.subject:
        whole = ellipsis_says(words, asked)
    if whole != "unparsed" and not (is_doubt(words) and whole == "yes"):
        return [*found, ("conclusion" if concluding else kind, whole)]
    return [*found, *_inner_claims(words, asked, "conclusion" if concluding else "", kind)]


def _inner_claims(words: Sequence[str], asked: Asked, concluding: str, kind: str) -> list[tuple[str, YesNo]]:
    """What a clause says that is neither a word nor a set phrase: a phrase before its comma, a word, a statement."""
    found: list[tuple[str, YesNo]] = []
    head, rest = split_at_comma(words)
    conditional = (
        {"if", "unless"} & set(words) and not {"look", "zoom", "ask", "mistaken"} & set(words)
    ) or "otherwise" in words
    part: YesNo = phrase_says(head, asked) if rest else "unparsed"
    if part != "unparsed" and all(word in ADVERBS or word in _COURTESY for word in head):
        # "clearly, there is no dog": the adverb says nothing of its own, but "definitely, right next to the door"
        stated = _statement_says(rest, asked)
        states = rest[0] in {"there", "i", "we", "it", "they", "in"} or (
            rest[0] in DETERMINERS
            and any(word in AUXILIARIES for word in rest)
            and not {"them", "those", "one", "ones"} & {*rest[:5]}
        )
        answers = not set(head) <= _COURTESY and not states
        part = part if stated == "unparsed" and answers else "unparsed"
    if part != "unparsed":
        found.append((concluding or kind, part))
        words = rest
    elif not conditional and not (YES_WORDS | NO_WORDS) & {*asked.predicate}:
        said = (bare_word_says(piece) for piece in comma_parts(words))
        part = next((each for each in said if each != "unparsed"), "unparsed")
        if part != "unparsed":
            found.append((concluding or "inner", part))
            if not rest:
                return found
    stated = _statement_says(words, asked)
    if stated == "weak":
        found.append(("weak", "no"))
    elif stated != "unparsed":
        seems = asked.kind == "statement" and not concluding and not SEEMS.isdisjoint(words)
        seems = seems and SEEMS.isdisjoint(asked.predicate)
        found.append((concluding or ("seeming" if seems else "statement"), stated))
    return found


def _entry_says(words: Sequence[str], asked: Asked) -> YesNo:
    """A row of a table or a key with its value: "toaster no", "dogs 0"."""
    if len(words) < 2 or len(words) > 5 or asked.kind != "presence" or len(asked.things) != 1:
        return "unparsed"
    denied = words[-2] == "not"
    named = words[:-2] if denied else words[:-1]
    if not named or " ".join([*named[:-1], singular(named[-1])]) not in asked.things[0].words.denying:
        return "unparsed"
    if denied:
        return "no" if words[-1] in {"found", "detected", "present", "visible"} else "unparsed"
    if words[-1] in {"0", "none", "absent", "false", "missing", "zero"}:
        return "no"
    if words[-1] in {"present", "true", "detected", "found"}:
        return "yes"
    return verdict_says(words[-1:])[0]


def _without_correction(clause: Sequence[str]) -> Sequence[str]:
    """A clause without the words that announce a correction."""
    words: Sequence[str] = clause
    for _ in range(4):
        if not words:
            break
        if words[0] in {"wait", "oops", "sorry", "correction", "oh", ",", "apologies", "actually"}:
            words = words[1:]
        elif tuple(words[:2]) in {
            ("i", "mean"),
            ("i", "meant"),
            ("hold", "on"),
            ("scratch", "that"),
            ("strike", "that"),
            ("my", "mistake"),
        }:
            words = words[2:]
        elif tuple(words[:3]) in {
            ("on", "second", "thought"),
            ("on", "closer", "inspection"),
            ("upon", "closer", "inspection"),
        }:
            words = words[3:]
        else:
            break
    return words


def _without_conclusion(words: Sequence[str]) -> tuple[Sequence[str], bool]:
    concluding = False
    while words:
        if words[0] in _CONCLUDES or (words[0] in {",", "and"} and len(words) > 1):
            concluding = concluding or words[0] in _CONCLUDES
            words = words[1:]
        elif tuple(words[:2]) in _CONCLUDES_TWO:
            concluding = True
            words = words[2:]
            while words and words[0] in _CONCLUDING_REST:
                words = words[1:]
        else:
            break
    return words, concluding


def _statement_says(words: Sequence[str], asked: Asked) -> Said:
    """What a clause states about what was asked for, with "I think", "it is not true that" and the like taken in."""
    line = " ".join(words[:200])
    judged = judged_claim(line)
    stance = (line, False, False) if judged is not None else without_stance(line)
    if stance is None:
        return "unparsed"
    line, flips, reverses = stance
    if judged is None and line:
        judged = judged_claim(line)
    if judged is not None:
        said = _statement_says(judged[0].split(), asked)
        turned = (judged[1] == "rejected") != (flips or reverses)
        if not turned or said in {"unparsed", "weak"}:
            return said if not turned else "unparsed"
        return "no" if said == "yes" else "yes"
    shortened = line.split() if len(line) < len(" ".join(words[:200])) else words
    if not shortened:
        return "unparsed"
    said = _plain_statement_says(shortened, asked)
    inverted = asked.negated and said != "unparsed"
    if said == "unparsed" and shortened is not words:
        said = phrase_says(shortened, asked)
    own = {*asked.subject, *asked.predicate}
    if said == "unparsed" or is_doubt([word for word in shortened if word not in own]):
        return "unparsed"
    if said == "weak":
        return "unparsed" if flips or reverses or inverted else said
    if flips:
        said = "no" if said == "yes" else "unparsed"
    if (reverses != inverted) and said != "unparsed":
        said = "no" if said == "yes" else "yes"
    return said


def _plain_statement_says(words: Sequence[str], asked: Asked) -> Said:
    said: Said
    if asked.kind == "presence":
        said = presence_says(words, asked)
        if said == "unparsed":
            said = denial_says(words, asked)
    elif asked.kind == "contact":
        said = contact_says(words, asked)
    elif asked.kind == "statement":
        if has_other_colour(words, asked.predicate):
            return "unparsed"
        said = echo_says(words, asked)
        if said == "unparsed" and asked.things and not _OTHERS & {*words} and presence_says(words, asked) == "yes":
            said = "yes"
        if said == "unparsed":
            said = covered_says(words, asked)
        if said == "unparsed":
            said = turn_says(words, asked)
    else:
        return "unparsed"
    return said


# --- one reading from all of it --------------------------------------------------------------------------------------


def _decide(claims: list[_Claim]) -> YesNo:
    if claims and claims[-1].kind == "doubt":
        return "unparsed"  # in the end it takes back what it said
    claims = [claim for claim in claims if claim.kind != "doubt"]
    for place, claim in enumerate(claims):
        if claim.corrected:
            before = {each.says for each in claims[:place]}
            if before and before != {claim.says}:
                return _decide([replace(each, corrected=False) for each in claims[place:]])
            break
    opening = _of(claims[:1], "opening")
    concluded = _of(claims, "conclusion")
    words = _of(claims, "opening") | _of(claims, "inner")
    stated = _of(claims, "statement") or _of(claims, "seeming")
    if opening:
        said = claims[0].says
        others = words | concluded | stated
        return "unparsed" if others - {said} else said
    if concluded:
        last = next(claim.says for claim in reversed(claims) if claim.kind == "conclusion")
        return "unparsed" if len(concluded) > 1 else last
    if words:
        return "unparsed" if len(words | stated) > 1 else next(iter(words))
    if not stated:
        return "no" if _of(claims, "weak") else "unparsed"
    return next(iter(stated)) if len(stated) == 1 else "unparsed"


def _of(claims: list[_Claim], kind: str) -> set[YesNo]:
    return {claim.says for claim in claims if claim.kind == kind}
