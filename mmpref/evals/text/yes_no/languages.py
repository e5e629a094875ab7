"""Yes and no in other languages: the first word of an answer.

The ten with most speakers after English, and German, Japanese, Korean and Italian.

Only words that answer by themselves. "There is no ..." of another language is not read, because what there is none of
would have to be understood. Most words count where they stand alone or before a mark: "si" is also if, "ja" and "da"
are names, "no" before a noun denies only that noun.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable

from mmpref.evals.text.yes_no.tools import YesNo


def _each(said: YesNo, *lines: str) -> dict[str, YesNo]:
    return {word.strip(): said for line in lines for word in line.split(",")}


# Spanish, Portuguese, French, Italian, German, Russian, Indonesian, Chinese, Arabic, Bengali, Japanese, Korean: before
# a mark or alone
_BEFORE_A_MARK: dict[str, YesNo] = {
    **_each("yes", "sí, si, claro, claro que sí, por supuesto, por supuesto que sí, sim, claro que sim, com certeza"),
    **_each("yes", "oui, ouais, bien sûr, bien sûr que oui, sì, certo, certo che sì, ja, jawohl, natürlich, aber ja"),
    **_each("yes", "да, ага, конечно, ya, iya, benar, betul, ada, tentu, ya ada, sí hay, да есть"),
    **_each(
        "yes", "نعم, أجل, بلى, হ্যাঁ, হ্যা, জি, জ্বি, জি হ্যাঁ, 是, 是的, 对, 对的, 對, 有, 有的, 存在, 正确, 正確, 当然, 當然"
    ),
    **_each("yes", "没错, 沒錯, うん, ええ, そうです, 네, 예, 응, 그렇습니다, 맞습니다, 있습니다"),
    **_each("no", "non, não, nao, nein, nee, claro que no, por supuesto que no, claro que não, bien sûr que non"),
    **_each("no", "natürlich nicht, certo che no, нет, неа, конечно нет, tidak, bukan, nggak, tidak ada, belum"),
    **_each("no", "لا, كلا, না, জি না, নেই, 不, 不是, 没有, 沒有, 没, 否, 不对, 不對, 不存在, 无, 無, 不是的, 当然不是"),
    **_each("no", "いえ, いや, ううん, 아니, 아니요, 아니오, 아뇨, 없습니다, no hay, no lo hay, não há, não tem"),
}
# these answer before anything that is no letter of the word itself
_ALONE: dict[str, YesNo] = {
    **_each("yes", "हाँ, हां, जी हाँ, जी हां, ہاں, جی ہاں, نعم, হ্যাঁ"),
    **_each("no", "नहीं, नही, जी नहीं, نہیں, جی نہیں"),
}
# and these before anything
_BEFORE_ANYTHING: dict[str, YesNo] = {
    **_each("yes", "是的, 对的, はい, 네 , 예 "),
    **_each("no", "いいえ, 不是的, 아니요, 아니오, 아뇨"),
}
_DOUBT = tuple(
    _each(
        "unparsed",
        "不确定, 不清楚, 不知道, 无法, 無法, 也许, 可能, शायद, ربما, সম্ভবত, شاید, возможно, たぶん, かもしれ, 아마",
        "quizá, tal vez, peut-être, talvez, mungkin, vielleicht, forse, pas sûr, no estoy segur",
    )
)
_MARKS = ",.!;:—–-。،।，！؛、\n\"'()"
_FARTHEST = 60


def foreign_word_says(text: str) -> YesNo:
    """What an answer in another language says with its first words.

    Args:
        text: the folded answer, marks before it removed.
    """
    start = text[:_FARTHEST]
    words = _BY_FIRST_LETTER.get(start[:1])
    if words is None:
        return "unparsed"
    if start.isascii() and start.split(maxsplit=1)[0].strip(_MARKS) not in _ASCII_WORDS:
        return "unparsed"  # plain English
    said: YesNo = "unparsed"
    longest = 0
    for word, means, ends in words:
        if len(word) > longest and start.startswith(word) and (ends is None or ends(start[len(word) :])):
            said, longest = means, len(word)
    if said != "unparsed" and any(doubt in start for doubt in _DOUBT):
        return "unparsed"
    return said


_ASCII_WORDS = frozenset(word.split()[0] for word in _BEFORE_A_MARK if word.isascii())


def _before_a_mark(rest: str) -> bool:
    return not rest.strip() or rest[0] in _MARKS


def _ends_here(rest: str) -> bool:
    """Whether a word ends here; the marks of Indic vowels belong to the word."""
    return not rest or unicodedata.category(rest[0])[0] not in "LMN"


def _by_first_letter() -> dict[str, list[tuple[str, YesNo, Callable[[str], bool] | None]]]:
    """All words by their first letter, each with what it means and how it must end."""
    found: dict[str, list[tuple[str, YesNo, Callable[[str], bool] | None]]] = {}
    for table, ends in ((_BEFORE_A_MARK, _before_a_mark), (_ALONE, _ends_here), (_BEFORE_ANYTHING, None)):
        for word, means in table.items():
            found.setdefault(word[0], []).append((word, means, ends))
    return found


_BY_FIRST_LETTER = _by_first_letter()
