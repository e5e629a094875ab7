"""Singular forms of English nouns: a table of irregular plurals and a few endings, enough for object words.

Only nouns are meant. A word that is no plural comes back as it is ("bus", "grass", "tennis").
"""

from __future__ import annotations

from functools import lru_cache

_IRREGULAR = {
    "men": "man", "women": "woman", "children": "child", "people": "people", "persons": "person", "feet": "foot",
    "teeth": "tooth", "geese": "goose", "mice": "mouse", "oxen": "ox", "knives": "knife", "wives": "wife",
    "pocketknives": "pocketknife",
    "lives": "life", "leaves": "leaf", "loaves": "loaf", "shelves": "shelf", "calves": "calf", "halves": "half",
    "wolves": "wolf", "scarves": "scarf", "hooves": "hoof", "thieves": "thief", "selves": "self", "elves": "elf",
    "buses": "bus", "busses": "bus", "trolleys": "trolley", "potatoes": "potato", "tomatoes": "tomato",
    "mosquitoes": "mosquito", "heroes": "hero", "echoes": "echo", "buffaloes": "buffalo", "mangoes": "mango",
    "flamingoes": "flamingo", "ties": "tie", "pies": "pie", "bowties": "bowtie", "movies": "movie", "cookies": "cookie",
    "brownies": "brownie", "hoodies": "hoodie", "selfies": "selfie", "zombies": "zombie", "smoothies": "smoothie",
    "collies": "collie", "doggies": "doggie", "veggies": "veggie", "birdies": "birdie", "goalies": "goalie",
    "axes": "axe", "aircrafts": "aircraft", "sheeps": "sheep", "quizzes": "quiz", "vases": "vase", "mules": "mule",
    "canoes": "canoe", "shoes": "shoe", "toes": "toe", "oboes": "oboe", "throes": "throe", "foes": "foe",
    "lenses": "lens", "gases": "gas", "atlases": "atlas", "canvases": "canvas", "campuses": "campus",
    "octopuses": "octopus", "walruses": "walrus", "viruses": "virus", "bonuses": "bonus", "caches": "cache",
    "headaches": "headache", "moustaches": "moustache", "mustaches": "mustache", "avalanches": "avalanche",
    "airbuses": "airbus", "minibuses": "minibus", "cactuses": "cactus", "cacti": "cactus", "fungi": "fungus",
}  # fmt: skip

# words that end in s and are singular, or have no singular form
_UNCHANGED = {
    "scissors", "pants", "jeans", "shorts", "trousers", "tongs", "pliers", "goggles", "sunglasses", "eyeglasses",
    "binoculars", "headphones", "clothes", "skis", "series", "species", "news", "lens", "gas", "bus", "minibus",
    "airbus", "trolleybus", "atlas", "canvas", "campus", "virus", "octopus", "walrus", "cactus", "tennis", "chess",
    "this", "his", "its", "was", "has", "is", "as", "us", "yes", "thus", "plus", "always", "perhaps", "across",
    "various",
}  # fmt: skip
_SINGULAR_ENDINGS = ("ss", "us", "is")
# -es is dropped after these; elsewhere only the s is
_SIBILANTS = ("ches", "shes", "sses", "xes", "zzes")


@lru_cache(maxsize=50_000)
def singular(word: str) -> str:
    """The singular of a lower-case noun."""
    if word in _IRREGULAR:
        return _IRREGULAR[word]
    if word.endswith("men") and len(word) > 5:
        return word[:-2] + "an"  # policemen, gentlemen
    if len(word) < 3 or not word.endswith("s") or word in _UNCHANGED or word.endswith(_SINGULAR_ENDINGS):
        return word
    if word.endswith("ies") and len(word) > 4:
        return word[:-3] + "y"
    if word.endswith(_SIBILANTS):
        return word[:-2]
    return word[:-1]


_PATTERN_IRREGULAR = {
    "people": "person", "ties": "ty", "bowties": "bowty", "pies": "py", "brownies": "browny",
    "selfies": "selfy", "hoodies": "hoody", "smoothies": "smoothy", "canoes": "cano",
    "toes": "to", "shelves": "shelve", "skis": "ski", "busses": "buss",
    "sunglasses": "sunglass", "eyeglasses": "eyeglass", "slice": "slouse", "spaghetti": "spaghettus", "pasta": "pastum",
}  # fmt: skip
_PATTERN_KEEPS = {
    "scissors", "series", "species", "news", "pliers", "shears", "clippers", "headquarters", "innings", "debris",
    "swiss", "christmas", "cookies", "veggies", "collies", "doggies", "birdies",
}  # fmt: skip


@lru_cache(maxsize=50_000)
def singular_as_pattern(word: str) -> str:
    """What ``pattern.en.singularize`` (3.6) makes of object words, with its errors: "bus" gives "bu", "glass" "glas".

    The official CHAIR numbers were made with that library, so the ``official`` protocol reads words this way.
    """
    if word in _PATTERN_IRREGULAR:
        return _PATTERN_IRREGULAR[word]
    if word in _PATTERN_KEEPS:
        return word
    made = singular(word)
    return made[:-1] if made == word and word.endswith("s") and len(word) > 2 else made
