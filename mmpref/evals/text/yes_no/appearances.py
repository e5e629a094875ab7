"""What something only seems to be, put right: "it looks like a dog, but it is a fox" becomes "it is a fox, not a dog".

Works on the words of a sentence, joined by spaces and in lower case, before they are cut into clauses.
"""

from __future__ import annotations

import re

_HINTS = (
    "look",
    "seem",
    "appear",
    "resembl",
    "thought",
    "think",
    "mistake",
    "first",
    "initially",
    "suppos",
    "expect",
    "assum",
)
_SEEMS = (
    r"(?:(?:at|on) (?:first|a first|initial) (?:glance|sight|look) ,? ?)?"
    r"(?:(?:it|this|that|what|there) (?:(?:may|might|could|can|does|do|initially|first) )*"
    r"(?:looks?|looked|seems?|seemed|appears?|appeared) (?:(?:a bit|a lot|somewhat|much|very much|at first) )?"
    r"(?:like|to be|as if it is|as if it were) "
    r"|(?:at first ,? ?)?i (?:(?:first|initially|at first) )+(?:saw|spotted|read) "
    r"|(?:it|this|that) (?:(?:may|might|could) )?(?:resembles?|resembled) "
    r"|(?:at first ,? ?)?(?:i|you|we|one|some|someone|some people|people) "
    r"(?:(?:may|might|could|would|at first|initially|first|might first|originally) )*(?:think|thought|assume|assumed"
    r"|suppose|supposed|expect|expected|believe|believed)(?: that)? (?:it|this|that|there) (?:is|was|would be) "
    r"|(?:it|this|that) (?:(?:may|might|could|can|is|was) )?(?:easily )?(?:be )?(?:mistaken|taken) for )"
)
_THING = r"(?P<seems>(?:an?|the|some|any|another|one|two|three) [a-z' -]{1,60}?)"
_WHEN = r"(?: (?:at first(?: glance| sight)?|at a glance|on first sight|initially))?"
_IS = r"(?:it|this|that|they) (?:is|was|are|were)(?: (?:actually|really|in fact|just|only|indeed|clearly|simply))*"
_OTHER = r"(?P<other>(?:an?|the|some|merely an?) (?!bit\b|little\b|lot\b|few\b)[a-z' -]{1,60})"
_BUT = r" ?,? (?:but|however|yet|though|although) ,? ?"

_IS_ANOTHER = re.compile(
    rf"\b{_SEEMS}{_THING}{_WHEN}{_BUT}(?:actually |really |in fact ,? ?)?{_IS} {_OTHER}(?=$| [.,;:\"])"
)
_IS_NOT = re.compile(
    rf"\b{_SEEMS}{_THING}{_WHEN}{_BUT}"
    r"(?:(?:it|this|that) is not(?: one)?|there is not(?: one)?|there is none)(?=$| [.,;:\"])"
)
_WHAT = re.compile(
    r"\bwhat (?:(?:may|might|could|at first|initially) )*(?:looks?|looked|seems?|appears?|appeared) (?:like|to be) "
    rf"{_THING}{_WHEN} "
    rf"(?:is|turns out to be) (?:actually|really|in fact|just|only|merely) {_OTHER}(?=$| [.,;:\"])"
)
_SUPPOSED = re.compile(
    r"^the (?:supposed|alleged|apparent|presumed) (?P<seems>[a-z' -]{1,60}?) (?:is|turns out to be) "
    rf"(?:actually|really|in fact|just|only|merely) {_OTHER}(?=$| [.,;:\"])"
)


_SUBJECT = r"(?P<subject>\b(?:it|this|that|they|(?:the|his|her) (?:two |three |both |left |right )?[a-z]+))"

# "the road looks wet, but it is not", "it may look black, but it is actually blue"
_LOOKS = re.compile(
    rf"{_SUBJECT} (?P<may>(?:may|might|could) )?"
    r"(?:looks?|looked|seems?|appears?|appeared) (?P<seems>(?!like |to |as )[a-z]+)"
    rf"{_WHEN}{_BUT}(?:it|they|he|she|this|that) "
    r"(?:(?:is|are) not(?=$| [.,;:\"])"
    r"|(?:(?:is|are) )?(?:actually|really|in fact) (?!not |is |are )[a-z]+(?=$| [.,;:\"])"
    r"|(?(may)(?:is|are) [a-z]+(?=$| [.,;:\"])|$a))"
)
# "they do not look parallel, but they are"
_LOOKS_NOT = re.compile(
    rf"{_SUBJECT} (?:do|does) not "
    rf"(?:look|seem|appear) (?P<seems>(?!like |to |as )[a-z]+){_WHEN}{_BUT}(?:it|they|he|she) "
    r"(?:actually |really |in fact )?(?:is|are)(?: actually| really)?(?=$| [.,;:\"])"
)


# "not a cat, a dog"
_NOT_ONE = re.compile(r"^not (an? [a-z' -]{1,40}) , (?:just |only )?(an? [a-z' -]{1,40})$")


def without_appearances(line: str) -> str:
    """The line with what only seems so put as a denial."""
    if line.startswith("not a"):
        line = _NOT_ONE.sub(r"\2 , not \1", line)
    if not any(hint in line for hint in _HINTS):
        return line
    line = _IS_ANOTHER.sub(_put_right, line)
    line = _LOOKS.sub(lambda found: f"{found['subject']} is not {found['seems']}", line)
    line = _LOOKS_NOT.sub(lambda found: f"{found['subject']} is {found['seems']}", line)
    line = _IS_NOT.sub(lambda found: f"it is not {found['seems']}", line)
    line = _WHAT.sub(_put_right, line)
    return _SUPPOSED.sub(lambda found: f"it is {found['other']} , not a {found['seems']}", line)


def _put_right(found: re.Match[str]) -> str:
    if found["other"].split()[-1] in {"one", "though"} or found["seems"].split()[-1] in found["other"].split():
        return found.group()  # "it looks like a dog, but it is a small one"
    return f"it is {found['other']} , not {found['seems']}"
