"""Words around a claim: "I think that", "it is unlikely that", and answers that judge one ("the claim is false")."""

from __future__ import annotations

import re
from typing import Literal

_CLAIM = r"(?:statement|claim|assertion|suggestion|assumption|notion|idea|premise|description|hypothesis|proposition)"
_FALSE = (
    r"(?:false|incorrect|wrong|untrue|mistaken|inaccurate|unfounded|invalid|misleading|a mistake|an error|a lie"
    r"|erroneous)"
)
_TRUE = r"(?:true|correct|right|accurate|valid|the case|justified|supported|fair|fine)"
_BE = r"(?:is|are|was|would be|will be|seems|appears|appears to be|must be)"
_VERY = r"(?:(?:simply|clearly|quite|just|certainly|definitely|completely|absolutely|therefore|thus|obviously) )*"
_SAY = r"(?:say|claim|think|state|conclude|believe|suggest|assume|assert|argue|suppose|imagine|deny)"

# the claim first: "(that there is a dog) is false"
_CLAIM_FIRST = re.compile(
    rf"^(?:(?:the|any|your|this) {_CLAIM} (?:that|of)|that|to {_SAY}(?: that)?|saying(?: that)?|claiming(?: that)?) "
    rf"(?P<claim>(?:there|a|an|the|it|this) .{{1,120}}?) {_BE} (?P<not>not )?{_VERY}(?:(?P<false>{_FALSE})|{_TRUE})"
    r"(?: here| in this case)?$"
)
# the judgement first: "it would be wrong to say (that there is a dog)"
_JUDGED_FIRST = re.compile(
    rf"^it (?:is|was|would be|seems|would) (?P<not>not )?(?:be )?{_VERY}(?:(?P<false>{_FALSE})|{_TRUE}) "
    rf"(?:to {_SAY}(?: that)?|that) (?P<claim>(?:there|a|an|the|it|this) .+)$"
)


def judged_claim(line: str) -> tuple[str, Literal["held", "rejected"]] | None:
    """The claim that the line judges, and how it does; None where it judges none, or denies a denial in other words.

    Args:
        line: the words of a clause in lower case, joined by spaces.
    """
    found = _CLAIM_FIRST.match(line) or _JUDGED_FIRST.match(line)
    if found is None:
        return None
    rejected = bool(found["false"]) != bool(found["not"])
    before = line[: found.start("claim")]
    if re.search(r"\bdeny\b", before):
        rejected = not rejected
    return found["claim"], ("rejected" if rejected else "held")


# "I do not think that", "it is unlikely that": what follows is denied
_FLIPS = re.compile(
    r"^i would be (?:very |quite |rather |really )?(?:surprised|amazed|astonished) (?:if|to (?:see|find)) |"
    r"^(?:i|we) (?:really |honestly |personally )?(?:do|would|did|can) not (?:really |actually )?(?:think"
    r"|believe|suppose|imagine|feel|see how)(?: that)? "
    r"|^(?:there is )?no (?:way|chance|indication|evidence|sign|reason to (?:think|believe)|proof"
    r"|hint)(?: that)? (?=there|a|an|any|the|it)"
    r"|^i (?:highly |really |very much |seriously )?doubt(?: that| if| whether)? "
    r"|^(?:i|we) would not (?:really |go so far as to )?(?:say|claim)(?: that)? "
    r"|^(?:there is )?nothing (?:in (?:the|this) \w+ )?"
    r"(?:to )?(?:suggests?|indicates?|implies|imply|proves?)(?: that)? "
    r"|^it (?:is|seems|appears|looks) (?:very |highly |quite "
    r"|rather |most )?(?:unlikely|improbable|doubtful)(?: that)? "
    r"|^it is not (?:very |at all )?(?:likely|probable)(?: that)? |^it (?:does|do) not (?:seem|appear"
    r"|look)(?: that| like| as if| as though)? "
)
# "it is not true that": what follows is turned round, a denial too
_REVERSES = re.compile(
    r"^(?:it|that|this) is (?:simply |just |certainly |definitely )?(?:not (?:true|correct|the case|right"
    r"|accurate)|false|incorrect|untrue|wrong|not so)(?: to (?:say|claim))?(?: that)? "
    r"|^i (?:can|could|would) not say(?: that)? (?=there (?:is|are) no)|^it would be (?:wrong|incorrect|false"
    r"|inaccurate|untrue) to (?:say|claim|state)(?: that)? "
    r"|^i would not (?:say|call it|claim)(?: that)? (?=there (?:is|are) an?)"
)
# "I think that", "based on the image,": what follows is said
_LEANS = re.compile(
    r"^(?:i|we) (?:do |really |would |can |also |strongly |certainly )*(?:suspect|wager|bet|venture|reckon|say|argue"
    r"|notice|note|think|believe|guess|suppose|assume"
    r"|reckon|confirm|conclude|presume|gather|tell)(?: that)? "
    r"|^(?:i am|we are) (?:fairly |quite |pretty |very |almost |absolutely |reasonably )*(?:sure|certain"
    r"|confident|convinced|positive)(?: that)? "
    r"|^it (?:really |certainly |also |rather )*(?:seems|appears|looks)(?: to me)?(?: that| like| as if"
    r"| as though)? (?=there|a|an|the|some|two|it|he|she|they|someone|one)"
    r"|^it is (?:very |quite |most |highly |rather )*(?:likely|probable|clear|obvious|evident|true|correct"
    r"|certain|safe to say|apparent|fair to say|right|accurate to say|plain)(?: that)? "
    r"|^(?:i|we) (?:am|are) (?:rather |very )?(?:inclined|tempted) to (?:say|think|believe)(?: that)? "
    r"|^(?:i am|we are) (?:afraid|sorry to say|happy to say|glad to say|pleased to say)(?: that)? "
    r"|^it must be (?:said|noted|pointed out)(?: that)? "
    r"|^i would like to (?:point out|note|add|say)(?: that)? "
    r"|^(?:apparently|undoubtedly|probably|likely|presumably|evidently|supposedly|seemingly) "
    r"|^(?:chances are|there is (?:a |every |some )?(?:very )?(?:good|high|strong|great|decent) (?:chance"
    r"|possibility|probability|likelihood|indication)(?: that)?|it would be (?:correct|right|accurate|fair"
    r"|safe) to (?:say|conclude)(?: that)?|my guess is|in my (?:opinion|view)|to me|the answer is|i would say"
    r"|as you can see"
    r"|you can see|one can see)(?: that)? ?,? "
    r"|^(?:based on|according to|looking|from|judging by|judging from|after|upon|given|considering|in|having"
    r"|to answer|to be|to tell)\b[^,]{0,120} , "
    r"|^(?:the )?(?:answer|verdict) : "
)


_ADVERBS = re.compile(r"^(?:(?:then|also|however|honestly|frankly|really|actually|still|though|,) )+(?=[a-z])")


def without_stance(line: str) -> tuple[str, bool, bool] | None:
    """What is left of a line without "I think" and the like, whether these deny it, and whether they turn it round.

    None where they deny it twice, which leaves open what is meant.
    """
    flips = reverses = False
    line = _ADVERBS.sub("", line)
    for _ in range(3):
        if (found := _REVERSES.match(line)) is not None:
            reverses = not reverses
        elif (found := _FLIPS.match(line)) is not None:
            if flips:
                return None
            flips = True
        else:
            found = _LEANS.match(line)
            if found is None:
                break
            lead = found.group().split()
            if lead[-1] == "," and {"if", "no", "not"} & {*lead}:
                break
        line = line[found.end() :].lstrip(" ,")
    return line, flips, reverses
