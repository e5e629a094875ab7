"""Answers that judge a claim: "the statement that there is a dog is false", "it is wrong to say there is a dog"."""

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
