"""English words by what they do in an answer: those that say yes or no, that leave open, that build a sentence."""

from __future__ import annotations

from mmpref.evals.text.yes_no.tools import YesNo


def word_set(words: str) -> frozenset[str]:
    """The words of a line."""
    return frozenset(words.split())


YES_WORDS = frozenset({"yes", "yeah", "yep", "yup", "yea", "yess", "aye", "uh-huh", "yah"})
NO_WORDS = frozenset({"no", "nope", "nah", "nay", "noo", "naw", "uh-uh", "nuh-uh"})

NUMBERS = {
    "one": 1, "two": 2, "three": 3, "four": 4, "five": 5, "six": 6, "seven": 7, "eight": 8, "nine": 9, "ten": 10,
    "eleven": 11, "twelve": 12, "single": 1, "pair": 2, "couple": 2, "both": 2, "dozen": 12,
}  # fmt: skip

IMAGE_WORDS = word_set(
    "image images picture pictures photo photos photograph photography scene frame view shot snapshot imange "
    "visual screenshot figure illustration here pic pics immage composition setting landscape artwork panorama "
    "snap"
)

ADVERBS = word_set(
    "also indeed clearly really actually certainly definitely still just only very quite so too apparently "
    "evidently probably likely presumably obviously visibly currently now both simply truly most surely sure "
    "fairly rather pretty well though there even already plainly undoubtedly absolutely again either then "
    "especially particularly extremely mostly mainly thankfully happily luckily fully completely entirely totally "
    "all somewhat"
)
DETERMINERS = word_set(
    "a an the this that these those his her their its my your our another each every some any several many few "
    "both all various multiple numerous more other such either most plenty lots enough countless dozens hundreds "
    "group herd flock bunch pack crowd lot number"
) | frozenset(NUMBERS)
PREPOSITIONS = word_set(
    "in on at by with near under over behind beside besides between among above below beneath inside outside into "
    "onto from to of for through across along around against before after up down off out next toward towards "
    "within about throughout underneath atop amid beyond via during per like as than without past opposite"
)
BE_WORDS = frozenset({"is", "are", "was", "were", "be", "been", "being", "am"})
AUXILIARIES = BE_WORDS | {
    "do", "does", "did", "has", "have", "had", "can", "could", "will", "would", "may", "might", "must", "should",
}  # fmt: skip
PRONOUNS = word_set("i you he she it we they them him me us who which what there someone everyone everything")
CONJUNCTIONS = word_set("and or nor but while whereas as because since if when where so yet although though")
VERBS = word_set(
    "sit sits sat stand stands stood lie lies lay lays run runs ran walk walks wear wears wore hold holds held "
    "look looks appear appears seem seems play plays ride rides rode eat eats ate sleep sleeps slept rest rests "
    "jump jumps fly flies flew swim swims drive drives chase chases watch watches wait waits hang hangs hung lean "
    "leans carry carries carried use uses face faces gather gathers line lines fill fills cover covers surround "
    "surrounds drink drinks cross crosses enjoy enjoys pose poses read reads talk talks smile smiles climb climbs "
    "graze grazes stare stares peek peeks perch crouch crouches occupy occupies dominate dominates take takes "
    "make makes reach reaches float floats travel travels move moves pass passes enter enters leave leaves turn "
    "turns remain remains show shows shown seen contain contains include includes feature features see sees made "
    "left right visible present alone together nearby ahead available here there exist exists works work shines "
    "stretches stretch rises rise towers drawn kept put set parked belongs belong begin begins catches catch "
    "throws throw kicks kick hits hit pulls pull pushes push"
)
NOUNS_IN_ING = word_set(
    "building painting drawing clothing ceiling railing crossing string ring wing king lighting training riding "
    "racing watching thing something nothing anything everything stuffing sling awning dressing surfing boarding"
)

# words that leave open what they speak of
OPEN_HEDGES = word_set(
    "chance possibility probability afraid scared fond allergic suggesting indicating implying suggests indicates "
    "implies inviting dream dreams dreaming dreamed imagines imagined remembers remembered story stories tale "
    "reminds remind reminiscent might may maybe perhaps possibly potentially conceivably if unless whether "
    "suppose supposing imagine hypothetically would should could possible potential uncertain unsure unclear "
    "unknown doubtful questionable usually often typically generally normally sometimes commonly popular "
    "yesterday earlier formerly previously ago thought initially ask asks asked asking wonder wonders mention "
    "mentioned mentions question search searching check checking verify determine determining confirm tell guess "
    "says say said reads labeled labelled named called titled spelled word words text caption letters letter "
    "phrase pretend pretending expect expected almost nearly longer forthcoming someday soon tomorrow unable "
    "blurry hope wish want wants need needs avoid prevent"
)
CARRIERS = word_set("shirt t-shirt tee sweater sweatshirt hoodie tapestry wallpaper stamp coin flag apron carousel")
"""What pictures are on: "a shirt with a dog on it" has no dog."""

MATERIALS = word_set(
    "wooden bronze stone marble clay metal knitted felt crocheted chocolate iron brass golden snow sand ice"
)
"""An animal or a person of these is none."""

NOT_REAL = word_set(
    "toy toys stuffed plush cartoon fake ceramic porcelain plastic inflatable animated fictional paper origami "
    "statue-like carved sculpted painted drawn artificial wooden-toy miniature lego model imaginary cardboard "
    "mechanical robotic robot virtual mock pretend"
)
DEPICTIONS = word_set(
    "statue statues sculpture sculptures painting paintings drawing drawings poster posters logo logos cartoon "
    "figurine figurines silhouette shadow print prints pattern patterns costume mask sticker stickers mural "
    "graffiti illustration sign signs toy toys doll plush picture pictures photo photos photograph image images "
    "portrait emblem symbol icon tattoo sketch carving model replica depiction reflection screen billboard banner "
    "postcard card magazine label caricature emoji outline shape bust advertisement ad mannequin mannequins "
    "figure ornament"
)


def word_says(word: str) -> YesNo:
    """What one English word says."""
    if word in YES_WORDS:
        return "yes"
    return "no" if word in NO_WORDS else "unparsed"


# --- words that say whether something is there ---

PRESENT = word_set(
    "visible present seen shown there here depicted pictured included featured found part evident apparent "
    "anywhere detected captured identified displayed discernible noticeable spotted observed existent existing"
)
GONE = word_set("flown gone left disappeared vanished fled departed escaped")
ABSENT = word_set("absent missing nowhere nonexistent non-existent lacking")
EXISTENCE_VERBS = word_set(
    "contain show have include feature depict display capture portray exist hold contains shows has includes "
    "features depicts displays showing containing"
)
PERCEPTION_VERBS = word_set(
    "see spot find notice observe detect identify recognize recognise locate discern perceive make seeing finding"
)
LACKING = word_set("lacks lack lacking lacked devoid absence zero 0 nor neither omits excludes nary sans")
SIGNS = word_set(
    "sign signs evidence trace traces indication indications presence instance instances hint proof kind type "
    "form sort glimpse reason indicator"
)
AFTER_SIGN = word_set("of that there is are to think believe suggest any such being a an the")
LIKE_NOTHING = word_set(
    "in photo image picture scene visible seen present i can see the this resembling like similar to that looks "
    "remotely even close resembles which is be a an any considered called"
)
NEUTRAL = word_set(
    "any visible single real actual such recognizable discernible apparent obvious clear identifiable living live "
    "the a an of one noticeable distinct other-than"
)
OTHERS = word_set("other more second another additional further third else extra longer")
NOT_OF_IT = word_set("for about like than as unlike except despite")
LOCATION = word_set(
    "left right foreground background corner top bottom middle center centre front side distance edge half"
)
PLACES = word_set(
    "square beach park hallway hall corridor court yard platform water sky ground sidewalk pavement room street "
    "kitchen bathroom bedroom area road field table"
)
MASS = word_set(
    "grass water sand snow food furniture sky bread rice meat fruit coffee tea smoke fire ice wood soil mud "
    "broccoli pizza cake sunlight light hair traffic dirt gravel luggage clothing cloud sea ocean forest cattle "
    "cheese soup wine beer juice vegetation foliage equipment ground sheep"
)
LACKING_OF = word_set("rather instead free void devoid absence lack empty bare bereft short shorn")
QUANTITIES = word_set(
    "pair couple group herd flock bunch pack crowd lot number dozen row pile stack bowl set few variety"
)
SUBJECTS = word_set("i we you it this that there one")
HUNG = word_set("wall hang hangs hanging hung shirt framed cover billboard poster mug package packaging box")
