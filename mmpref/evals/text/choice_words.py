"""The patterns by which an answer's letter is found: what people write around the one they mean, and around others."""

from __future__ import annotations

import re

NEXT_TURN = re.compile(
    r"<\|(?:im_end|eot_id|endoftext|end)\|>|</s>|<\|im_start\|>|"
    r"(?:\n|\s{2,}|#{2,})\s*#*\s*(?:user|human|question|q|instruction|assistant)\s*(?:\d+\s*)?:",
    re.I,
)
MARKUP = re.compile(r"[*_`~#$]+|</?\w{2,}>")
SENTENCE = re.compile(r"(?<=[.!?。！？])(?<!\b[A-Za-z]\.)\s+|(?<=[。！？])|\n+")

LETTER = r"(?:[(\[{{\"'“‘]\s*({letters})\s*[)\]}}\"'”’]|({letters})(?![a-zA-Z0-9À-ɏ'’]))"
SAYS = (  # what people write before the letter that they mean, in the most used languages
    r"(?:answer|answers|ans|option|options|choice|letter|selection|response|"
    r"respuesta|opción|opcion|réponse|reponse|choix|antwort|lösung|option|resposta|opção|alternativa|risposta|opzione|"
    r"ответ|вариант|cevap|jawaban|đáp án|câu trả lời|उत्तर|विकल्प|الإجابة|الجواب|الخيار)"
    r"(?:\s+(?:correcta|correcto|correct|correta|corretta|right|best|finale?|final|الصحيحة|الصحيح))*"
    r"(?:\s*(?:is|would be|should be|must be|has to be|will be|es|est|ist|é|è|là|adalah|это|هي|هو|है))?"
    r"(?:\s*(?:clearly|definitely|probably|most likely|likely|therefore|thus|then|indeed|simply))?"
    r"\s*[:：=—–-]*\s*(?:option|choice|letter|la|le|die|a opção|la opción|a letra|la letra|la lettre|la lettera)?"
    r"\s*[:：]?\s*"
    r"|(?:choose|chose|select|selected|pick|picked|go with|going with|went with|opt for|say|elige|elijo|choisis|wähle)"
    r"\s+(?:for\s+)?(?:option|choice|letter|answer)?\s*"
    r"|(?:probably|most likely|likely|i think|i believe|i guess|i suppose|i'd say|i would say)\s+"
    r"(?:it(?:'s|\s+is)\s+)?(?:option|choice|letter|answer)?\s*"
    r"|(?:it|that|this|which)(?:'s|\s+is|\s+would be|\s+must be|\s+should be)\s+"
    r"(?:clearly|definitely|probably|most likely|likely)?\s*(?:option|choice|letter)?\s*"
    r"|(?:答案|正确答案|正確答案|答え|正解|정답|답|选项|選項|選択肢|선택지|应选|應選|选择|選擇|选|選)\s*(?:是|为|為|应为|は|은|는|이)?\s*[:：]?\s*"
)
IS_RIGHT = (
    r"\s*[.):]?\s*(?:is|are|would be|seems to be|appears to be|looks)\s+"
    r"(?:clearly |definitely |probably |most likely |likely )?"
    r"(?:the\s+)?(?:only\s+)?(?:(?:most|more)\s+)?(?:correct|right|best|true|answer|accurate|"
    r"appropriate|my answer|likely|plausible|fitting)\b"
)
IS_WRONG = re.compile(
    r"\s*[.):]?\s*(?:is|are|was|would be|can be|could be|must be)?(?:n't|\s*(?:not|never|clearly not|definitely not))\b"
    r"|\s*[.):]?\s*(?:is|are|was|would be|can be|seems|looks)\s+(?:clearly |definitely |also )?"
    r"(?:wrong|incorrect|false|ruled out|out|eliminated|excluded|unlikely)\b",
    re.I,
)
DENIED = re.compile(
    r"(?:n't|\b(?:not|cannot|never|neither|nor|no|than|rather than|instead of|unlike|without|except|"
    r"rule out|exclude|eliminate|other than))\b[^,;.]*$",
    re.I,
)
MIGHT = re.compile(
    r"\b(?:might|may|could|can|possibly|perhaps|maybe|hard to (?:say|tell)|guess(?:ing)? between)\b[^,;.]*$", re.I
)
UNSURE_BUT = re.compile(r"(?:\bnot|n't)\s+(?:\w+\s+){0,2}(?:sure|certain|clear|know)\b[^.;]*?(?:,|\bbut\b)", re.I)
SEVERAL = (  # after a letter: another one
    r"\s*[)\].:…]*\s*(?:and/or\b|(?:or|and|oder|ou|und|et|y|o)\b|[/&,、或和か])\s*(?:maybe |perhaps |possibly )?"
    r"(?:option\s+)?"
    r"(?:[(\[]\s*({letters})\s*[)\]]|({capitals})\b(?!\s+[a-z])|({letters})\b(?!\s*\w))"
)
THEREFORE = re.compile(
    r"\b(?:therefore|thus|hence|so|in conclusion|to conclude|in summary|overall|consequently|finally|"
    r"final answer|因此|所以|综上|したがって|よって|따라서)\b|(?:因此|所以|综上|したがって|よって|따라서)",
    re.I,
)
CORRECTS = re.compile(
    r"\b(?:wait|actually|correction|on second thought|sorry|let me correct|final answer|in fact|i was wrong|no,)", re.I
)
AFTER_A_LETTER = ("because", "since", "as", "is", "would", "seems", "looks", "was", "due", "given", "with", "based")
BEFORE_A_LETTER = re.compile(
    r"(?:^|[^\w\s]|\b(?:think|believe|guess|say|answer|is|be|so|therefore|thus|hence|then|sure|yes|ok|okay|well|clearly|"
    r"definitely|certainly|obviously|probably|likely|maybe|perhaps|possibly|with|by|for|to|me|like|option|choice|just|simply|"
    r"but|[A-Z]))"
    r"\s*$",
    re.I,
)

ORDINAL = re.compile(
    r"\b(?:the\s+)?(first|second|third|fourth|fifth|last)\s+(?:option|choice|one|answer)\b|\bthe\s+(former|latter)\b",
    re.I,
)
NUMBERED = re.compile(r"\b(?:option|choice)\s*(?:number\s*|no\.\s*|#\s*)?([1-9])\b", re.I)
PLACES = {"first": 0, "second": 1, "third": 2, "fourth": 3, "fifth": 4, "last": -1, "former": 0, "latter": 1}
