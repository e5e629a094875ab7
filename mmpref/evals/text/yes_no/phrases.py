"""Set phrases that answer without the word: "that is correct", "of course not", "I don't think so", "it does"."""

from __future__ import annotations

import re
from collections.abc import Sequence

from mmpref.evals.text.yes_no.question import Asked
from mmpref.evals.text.yes_no.tools import YesNo
from mmpref.evals.text.yes_no.words import ADVERBS, AUXILIARIES, IMAGE_WORDS, NUMBERS, word_says, word_set

_VERY = (
    r"(?:very |absolutely |quite |most |indeed |definitely |certainly |entirely |completely |really |just "
    r"|actually |also |clearly |simply |exactly |in fact )*"
)
_IT = r"(?:that|this|it|the statement|the claim|the above|the answer)"
_AFFIRMED = re.compile(
    rf"(?:yes )?(?:{_IT} (?:is|was|would be|sounds|seems|appears|looks) {_VERY}(?:correct|right|true|accurate"
    rf"|the case|so|it|affirmative)"
    r"|correct|right|true|exactly|precisely|indeed|affirmative|positive|undoubtedly|unquestionably|affirmed"
    r"|confirmed|agreed"
    rf"|{_VERY}(?:definitely|certainly|absolutely|surely|for sure|likely|probably|correct|right|true|so)|sure"
    rf"|sure thing|of course|naturally|obviously|clearly"
    r"|presumably|apparently|evidently|in all likelihood|in all probability|all signs point to yes|by all means"
    r"|without doubt"
    r"|you bet|right you are|you bet (?:it is|there is|they are)|you are (?:absolutely |quite )?(?:right"
    r"|correct)|very much so"
    r"|totally|yes indeed"
    r"|i (?:do |certainly |would |really |definitely )?(?:think|believe|guess|suppose|assume|imagine|would say"
    r"|reckon|would think) (?:so|that is (?:correct|right|true|the case)|it is)"
    r"|i am (?:fairly |quite |pretty |very |almost |absolutely )?(?:sure|certain|positive|confident)(?: of it)?"
    r"|i agree|so (?:it|i) (?:seems|think|believe|appears)"
    r"|(?:it )?looks that way"
    r"|it (?:seems|appears|looks) so|seems so|looks so|seems like it|looks like it|it is (?:like )?that way"
    r"|it seems that way|that is what i see|ok|okay"
    r"|(?:the |that |this )?(?:statement|claim|premise|assertion) (?:holds(?: up| true)?|is (?:true|correct|right"
    r"|accurate))"
    r"|there sure (?:is|are)|it sure (?:is|does)|more than likely|as a matter of fact|damn right|that it is"
    r"|so it is|so there is)"
    r"(?: sir| madam| indeed| please| then)?"
)
_FILLERS = word_set("well okay ok alright hmm um uh oh ah so hello hi thanks hey gladly great erm")
_FILLERS_BEFORE_A_COMMA = word_set("sure certainly right honestly frankly basically actually sadly unfortunately")
_FILLER_PAIRS = [("of", "course"), ("let", "us"), ("in", "fact"), ("thank", "you"), ("all", "right"),
                 ("great", "question"),
                 ("good", "question"), ("happy", "to")]  # fmt: skip
_DENIED = re.compile(
    rf"(?:no )?(?:{_IT} (?:is|was|would be|does) not {_VERY}(?:correct|right|true|accurate|the case|so|it"
    rf"|seem so|appear so)|{_IT} (?:is|was|would be) "
    rf"{_VERY}(?:incorrect|false|wrong|untrue|inaccurate|not so)|incorrect|false|wrong|untrue|negative"
    rf"|not (?:true|correct|right|accurate|the case|so)"
    r"|of course not|(?:most |almost )?(?:certainly|definitely|absolutely|surely|obviously|clearly|evidently"
    r"|apparently|sadly|unfortunately|sure|honestly|actually) not"
    r"|not (?:at all|really|in the (?:least|slightest)|that i (?:can see|see|can tell|notice|am aware of)|likely"
    r"|a chance|here|any|a single one|one|anywhere|present|visible"
    r"|in (?:this|the) (?:image|picture|photo|scene|one)|in here|to my knowledge|even close|remotely|even one"
    r"|even remotely|exactly|quite|today|this time|in my view)"
    r"|by no means|no way|far from it|(?:quite |just )?the (?:contrary|opposite)|(?:quite|just) the (?:contrary"
    r"|opposite)|on-the-contrary|not|in no way|never|no chance"
    r"|(?:it (?:is|seems|appears|looks) )?(?:highly |very |quite |rather |most )?unlikely"
    r"|(?:highly |very )?improbable|i (?:highly |really "
    r"|very much |seriously )?doubt (?:it|that|so)|hardly|doubtful|nothing of the (?:sort|kind)|no such (?:thing"
    r"|luck)"
    r"|i (?:really |certainly |honestly )?(?:do|would|did) not (?:really )?(?:think|believe|say|suppose|imagine"
    r"|guess) (?:so|that is (?:the case|correct|right|true))"
    r"|i (?:think|believe|guess|suspect|suppose|would say|am afraid|would think|assume|fear|regret) not|probably not"
    r"|most (?:likely|probably) not|likely not|presumably not|it (?:seems|appears|looks) not"
    r"|it (?:does|do) not (?:seem|appear|look)(?: so| that way| like it| to)?|does not (?:seem|look)(?: so"
    r"| like it| that way)?|apparently not|seemingly not|denied"
    r"|(?!possibly|potentially|conceivably|necessarily)\w+ly not|not (?:as far as|from what) i (?:can"
    r"|could) (?:see|tell)"
    r"|(?:the )?(?:chances|odds) (?:are|is) (?:very )?(?:slim|low|small|remote)"
    r"|(?:the |that |this )?(?:statement|claim|premise|assertion) (?:does not hold(?: up| true)?|is not (?:true|correct"
    r"|right|accurate)|fails|is (?:false|wrong|incorrect|untrue|inaccurate)))"
    r"(?: sir| madam| then| unfortunately)?"
)
_SUBJECT = r"(?:it|they|he|she|there|i|we|you)"
_SURELY = r"(?!unlikely|hardly|scarcely|barely|rarely|only|nearly|possibly|potentially|conceivably|supposedly)\w+ly"
_ELLIPSIS = re.compile(
    rf"(?:yes |no )?(?P<subject>{_SUBJECT}) (?:{_SURELY} |sure |indeed |also |in fact |truly )*(?P<verb>is|are|does"
    rf"|do|did|was|were|has|have|can|could|will|am)"
    rf"(?: {_SURELY}| indeed| in fact| so| too)*(?P<not> not)?(?: {_SURELY}| really| indeed| at all| here| in (?:the"
    r"|this) (?:image|picture|photo|scene)| unfortunately| sadly| either| any)*"
)
_PLACE = (
    r"(?: (?:here|there|visible|present|in|on|at|near|by|under|behind|to|right|left"
    r"|next|over|inside|sitting|standing|lying|clearly|indeed|around|between|beside|shown|anywhere|at all|also"
    r"|too|that|which|who|with|from|,)\b.*)?"
)
_SOME_OF = r"\d{1,3}|some|several|many|a few|few|plenty|lots|at least one|a single one|a pair|a couple"
_COUNTS = "|".join((*NUMBERS, _SOME_OF))
_LOOKING = (
    r"(?:i|we|you|one)(?: can| could| do)?(?: clearly| definitely| also| certainly)? (?:see|spot|count"
    r"|find|notice|observe|identify|detect|recognize|make out)"
)
_THERE_IS = (
    rf"(?:there (?:is|are)|{_LOOKING}|(?:it|the (?:image|picture|photo|scene)) (?:clearly )?(?:shows"
    rf"|contains|has|features|includes|depicts))"
)
_SOME = re.compile(
    rf"(?:yes )?(?:{_THERE_IS} )?(?:indeed |clearly |also |just |only |exactly |actually |definitely "
    rf"|about )*(?P<count>{_COUNTS}|one or more|it|them)(?P<bare> of them| in total)?(?P<rest>{_PLACE})"
)
_NONE = re.compile(
    rf"(?:no )?(?:(?:there (?:is|are)|{_LOOKING.replace('(?:see', '(?:not )?(?:see')}|(?:i|we|you) (?:can|could"
    rf"|do|did) not (?:\w+ly )?(?:see|find|spot|detect|notice|identify|observe)|(?:it|the (?:image|picture|photo"
    rf"|scene)) "
    r"(?:shows|contains|has|features|includes|does not (?:show|contain|have|include|feature|depict))) )?"
    r"(?:not |clearly |actually |really )*(?P<none>none|nothing|any|one|it|them|zero|any of them|either"
    r"|either of them|any such thing|a single one|any in (?:this|the) (?:image|picture|photo|scene))"
    r"(?: (?:here|there|visible|present|in (?:the|this) (?:image|picture|photo|scene)|anywhere|at all|of (?:them"
    r"|those|these|that kind)|of the (?:sort|kind)|to be seen|shown|in sight|around|that i can see|are visible"
    r"|is visible|are present|is present|exist))*"
)
_NOBODY = re.compile(
    r"(?:there is |i (?:can )?(?:see|do not see) |we see |the (?:image|picture|photo|scene) shows )?(?:nobody"
    r"|anyone|anybody)(?: else)?(?: (?:is|can be))?"
    r"(?: (?:here|there|visible|present|around|shown|seen|to be seen|pictured|at all|in (?:the|this) (?:image"
    r"|picture|photo|scene)))*"
)

_DOUBT = re.compile(
    r"\b(?:not (?:\w+ )?(?:sure|certain|clear|possible|enough|known|applicable|provided|confident|necessarily"
    r"|determinable|specified)|not be (?:sure|certain|determined|answered|known|established)|un(?:sure|certain"
    r"|clear|known|determined|decided)"
    r"|(?:hard|difficult|impossible|tough|tricky) (?:for me )?to (?:say|tell|determine|know|see|judge|be sure"
    r"|make out)|n a\b|maybe|perhaps|possibly|either way|cannot tell|no (?:idea|clue|answer|comment|information"
    r"|opinion|way to (?:tell|know))"
    r"|(?:can|could|do|did|am|is) not (?:\w+ )?(?:able )?(?:to )?(?:tell|say|determine|know|answer|help|assist"
    r"|be (?:sure|certain|determined)|confirm|judge|verify|make out|identify (?:people|who|real|anyone"
    r"|any person|individuals)|provide|process|respond|discern|rule out|comment|comply|fulfill|speculate|make judg)"
    r"|unable to|i (?:can|could|do) not (?:\w+ )?(?:see|view|access|open|process|analy[sz]e|have|find"
    r"|receive)(?: access to| the ability to see| the ability)? (?:the |this |that |your |an |a "
    r"|any )?(?:attached |provided )?(?:image|picture|photo)s?"
    r"|no (?:image|picture|photo|photograph)s?(?: \w+)? (?:provided|attached|given|available|uploaded|found|was"
    r"|is|were|to look|in your|has been)|as an ai|language model|(?:image|picture|photo) (?:was "
    r"|is )?not (?:provided|attached|available|loaded|visible)"
    r"|too (?:\w+ )?to (?:say|tell|determine|see|make out|judge|know|be sure)|i (?:am "
    r"|was )?sorry (?:but )?i (?:can|am|do|could) not|without (?:seeing|access to|more|further)"
    r"|please (?:provide|upload|share|attach|answer)|could be either|in doubt|ambiguous|inconclusive|indeterminate)"
)


def is_short_form(words: Sequence[str]) -> bool:
    """Whether a clause leaves its noun to what was spoken of before: "there are two", "it does", "I see none"."""
    if len(words) > 24:
        return False
    line = " ".join(word for word in words if word not in {",", '"'} and word not in _EMPHATIC)
    return any(form.fullmatch(line.replace(" not ", " ")) for form in (_ELLIPSIS, _SOME, _NONE)) or (
        _ELLIPSIS.fullmatch(line) is not None
    )


def is_doubt(words: Sequence[str]) -> bool:
    """Whether these words refuse, or say that they cannot tell."""
    return _DOUBT.search(" ".join(words[:200])) is not None


def denies_the_last(clause: Sequence[str]) -> bool:
    """Whether a clause is only "is not", of what the one before it speaks of."""
    words = [word for word in clause if word not in ADVERBS and word != ","]
    return len(words) == 2 and words[0] in {"is", "are", "was", "were", "does", "do", "did"} and words[1] == "not"


def without_fillers(words: Sequence[str]) -> Sequence[str]:
    """A clause without the words of courtesy and hesitation that open it."""
    while words:
        ends = len(words) == 1 or words[1] == "," or word_says(words[1]) != "unparsed"
        if words[0] in _FILLERS or words[0] in {",", '"', "/"} or (ends and words[0] in _FILLERS_BEFORE_A_COMMA):
            words = words[1:]
        elif tuple(words[:2]) in _FILLER_PAIRS:
            words = words[2:]
        else:
            break
    return words


def phrase_says(words: Sequence[str], asked: Asked) -> YesNo:
    """What a whole clause says that is a set phrase or a short form."""
    if len(words) > 24:
        return "unparsed"
    while words and words[-1] in _SLANG:
        words = words[:-1]
    line = " ".join(word for word in words if word not in {",", '"', "us"})
    said = _phrase_says(line, asked)
    if said == "unparsed":
        shorter = " ".join(word for word in line.split() if word not in _EMPHATIC)
        if shorter != line and shorter:
            said = _phrase_says(shorter, asked)
    return said


_SLANG = word_set("lol mate haha tbh imo bro dude lmao btw bud pal")
_EMPHATIC = word_set(
    "simply clearly really actually definitely certainly also indeed surely most very obviously apparently "
    "plainly rather quite honestly evidently undoubtedly truly absolutely thankfully sadly unfortunately probably "
    "likely presumably though still just"
)


def _phrase_says(line: str, asked: Asked) -> YesNo:
    for drop in ("i see ", "based on the image ", "in the image ", "in this image ", "from the image "):
        if line.startswith(drop) and len(line) > len(drop):
            shorter = line[len(drop) :]
            if _AFFIRMED.fullmatch(shorter) or _DENIED.fullmatch(shorter):
                line = shorter
    if _DENIED.fullmatch(line):
        return "unparsed" if line == "not" else "no"
    if _AFFIRMED.fullmatch(line):
        return "yes"
    short = _ELLIPSIS.fullmatch(line)
    if short is not None:
        of_reader = short["subject"] in {"i", "we", "you"}
        if of_reader and (short["verb"] in {"am", "will", "have", "has"} or not asked.by_sight):
            return "unparsed"
        return "no" if short["not"] else "yes"
    if asked.kind != "presence":
        return "unparsed"
    return _amount_says(line, asked)


def _amount_says(line: str, asked: Asked) -> YesNo:
    """ "There are two", "I see none", "not a single one"."""
    counts = {thing.count for thing in asked.things}
    none = _NONE.fullmatch(line)
    if none is not None:
        denied = " not " in f" {line} "
        if none["none"] in {"none", "zero"} or (none["none"] == "nothing" and line != "nothing"):
            return "unparsed" if denied else "no"
        if denied:
            return "no" if none["none"] != "one" or counts <= {None, 1} else "unparsed"
    of_people = len(asked.things) == 1 and "person" in asked.things[0].words.denying
    if of_people and _NOBODY.fullmatch(line) and ("nobody" in line) != (" not " in f" {line} "):
        return "no" if counts == {None} or "nobody" in line else "unparsed"
    if line in {"neither", "neither of them", "neither one"} and len(asked.things) == 2:
        return "no"
    fewer = re.fullmatch(r"(?:there (?:is|are) )?(?:fewer|less) than (\w+)(?: of (?:them|those|these))?", line)
    if fewer is not None and NUMBERS.get(fewer[1]) is not None:
        return "no" if counts == {NUMBERS[fewer[1]]} else "unparsed"
    some = _SOME.fullmatch(line.replace(" not ", " "))
    if some is not None and " not " in f" {line} " and counts != {None}:
        said = some["count"]
        return (
            "no" if {NUMBERS.get(said.split()[-1]) or (int(said) if said.isdigit() else -1)} == counts else "unparsed"
        )
    if (
        some is None
        or " not " in f" {line} "
        or line.startswith("no ")
        or any(thing.modifiers or thing.tail for thing in asked.things)
    ):
        return "unparsed"
    said = some["count"]
    if set(some["rest"].split()) & AUXILIARIES:
        return "unparsed"
    if said == "0":
        return "no"
    if said in {"it", "them"}:
        return "yes" if line != said and counts == {None} and not some["rest"].strip() else "unparsed"
    if counts == {None}:
        return "yes"
    value = NUMBERS.get(said.split()[-1]) or (int(said) if said.isdigit() else {"a single one": 1}.get(said))
    return "yes" if {value} == counts and "about" not in line else "unparsed"


def says_both(words: Sequence[str]) -> bool:
    """Whether a clause opens with both words at once: "yes and no", "yes/no", "no no yes"."""
    said = {word_says(word) for word in words[:1]}
    for word in words[1:12]:
        if word_says(word) == "unparsed" and word not in {"and", "or", "/", ","}:
            break
        said.add(word_says(word))
    return {"yes", "no"} <= said and word_says(words[0]) != "unparsed" and "," not in words[:2]


def verdict_says(words: Sequence[str]) -> tuple[YesNo, int]:
    """A yes or no that opens a clause as a word of its own, and how many words it takes."""
    first = words[0] if words else ""
    said = word_says(first)
    if said == "unparsed":
        return "unparsed", 0
    after = words[1] if len(words) > 1 else ""
    if word_says(after) != "unparsed" and word_says(after) != said:
        return "unparsed", 0
    if after in {"or", "and", "/"} and len(words) > 2 and word_says(words[2]) not in {"unparsed", said}:
        return "unparsed", 0
    if said == "no" and first == "no" and after and not (after in _AFTER_NO or after in {",", '"', "/"}):
        return "unparsed", 0
    return said, 1


_AFTER_NO = word_set(
    "no nope nah there it they i we he she you this that the a an not none but because since as only just sadly "
    "unfortunately actually definitely absolutely neither never these those in on at from based according "
    "although though while sir madam sorry thanks thank please indeed certainly is are his her its my your their "
    "instead rather what if to where nothing nobody looking yes"
)


def bare_word_says(words: Sequence[str]) -> YesNo:
    """A clause that ends in yes or no after words that only lead to it: "I think yes", "the answer is no"."""
    turned = re.search(
        r"\b(?:answer|answering|reply|say|respond)\b.*\bin the (negative|affirmative)$", " ".join(words[:60])
    )
    if turned is not None:
        return "no" if turned.group(1) == "negative" else "yes"
    words = [word for word in words if word not in {",", '"'}]
    for end in (
        ("from", "me"),
        ("for", "me"),
        ("i", "think"),
        ("i", "believe"),
        ("i", "guess"),
        ("in", "this", "case"),
    ):
        if len(words) > len(end) and tuple(words[-len(end) :]) == end:
            words = words[: -len(end)]
    if not words or len(words) > 40:
        return "unparsed"
    said = word_says(words[-1])
    if said == "unparsed":
        return "unparsed"
    lead = words[:-1]
    if any(
        word in {"or", "and", "not", "either", "maybe", "perhaps", "possibly", "no", "yes", "if", "without", "none"}
        for word in lead
    ):
        return "unparsed"
    if all(word in ADVERBS or word in _LEADING or word in IMAGE_WORDS for word in lead):
        return said
    line = " ".join(lead)
    if _OF_OTHERS & {*lead}:
        return "unparsed"
    return (
        said
        if re.search(
            r"\b(?:answer|verdict|conclusion|response|reply|it|that)\b.{0,200}\b(?:is|be|as|says|was)(?: a"
            r"| an)?(?: clear| definite| simple| firm| definitive)?$|\b(?:says?|answers?|answered)(?: a| an)?$",
            line,
        )
        else "unparsed"
    )


_OF_OTHERS = word_set(
    "could might may sign man woman boy girl person people some others someone text label shirt board note caption he "
    "she"
)
"""Before a yes or no: it is not the answer's own, or open."""
_LEADING = word_set(
    "hard resounding firm definitive emphatic going that say saying still lean "
    "i think would believe that say my answer is the in based on this from image so well hmm um uh er oh ah "
    "leaning lean toward towards guess suppose going with a an definite clear big firm simple am it be must as "
    "final therefore thus hence here your to question for me seems appears all things considered overall "
    "conclusion most more of course assume saying goes probably"
)
