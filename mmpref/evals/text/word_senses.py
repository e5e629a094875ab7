"""Words that name an object in one sense and not in another: the colour orange, to tie a game, a bronze horse.

One rule for each such word, which looks at the words around it and at what else the caption speaks of. What holds for
every word, as in "toy car" and "bus stop", is in ``mention_context.py`` and ``lookalikes.txt``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import pairwise

from mmpref.evals.text import context_words as table
from mmpref.evals.text.noun_or_verb import VERBS, is_verb
from mmpref.evals.text.reasons import COMPOUND, DEPICTED, OTHER_MEANING
from mmpref.evals.text.singular import singular
from mmpref.evals.text.word_place import Place


def _set(text: str) -> frozenset[str]:
    return frozenset(text.split())


_COLOURS = _set(
    "white black red blue green yellow pink purple brown gray grey gold silver beige tan cream orange teal maroon"
)
_FRUITS = _set(
    "apple banana pear grape lemon lime strawberry peach mango kiwi fruit pineapple grapefruit melon watermelon plum "
    "cherry berry carrot broccoli vegetable tomato lettuce onion potato grapes"
)
_BASEBALL = _set(
    "baseball softball batter umpire catcher pitcher mound inning homerun ballgame ballpark swing swinging player "
    "ball pitch game team uniform field plate hit hitting bat"
)
_SNOW = _set("snow ski snowy snowboard winter mountain slope kitchen oven boxing boxer motorcycle garden gardening")
_SMALL_ONES = _set("calf cub foal baby mother lamb duckling gosling chick")
_MEALS = _set(
    "plate dish meal sauce rice salad vegetable broccoli noodle fries soup meat served restaurant sandwich pizza tray "
    "dinner lunch cheese potato bread cooked delicious"
)
_SEATED_IN = _set(
    "car bus train airplane plane motorcycle bicycle bike scooter boat truck toilet urinal van jet moped vehicle "
    "elephant carriage motorbike driver cockpit tractor subway aircraft cart"
)
_COMPUTING = _set("computer laptop keyboard monitor desk pad desktop mouse pc office screen")
_MUSIC = _set("piano pianist music musician synthesizer guitar band concert stage musical singer drum")
_ACTING_AFTER_COUPLE = _set(
    "share sit stand walk ride pose enjoy look hold have play cut kiss smile dance sleep wait rest eat sits stands "
    "walks rides poses enjoys looks shares holds has plays cuts kisses smiles dances posing who s lies sleeps waits "
    "rests cutting getting"
)
_INSIDE_WORDS = _set(
    "a an the one half whole sliced peeled fresh ripe cut each another this that single halved large small"
)
_AGENT_MACHINES = _set("record cd dvd music mp3 media cassette blu-ray video vcr")
_LEANS_ONANIMALS = _set("mother father adult parent male female individual friend family couple sibling")
_YOUNG = _set("baby infant newborn youngster child")
_PLACES = _set("store shop museum lover enthusiast showroom factory dealership exhibition")


def other_sense(place: Place, word: str, name: str) -> str:
    """Why a word does not count at its place: "depicted", "compound" or "other meaning"; "" if it counts.

    Args:
        word: the object's word as the list has it.
        name: the object's name.
    """
    after = singular(place.after())
    pictured = name in table.LIVING or name in table.VEHICLES or after not in _SURROUNDINGS
    if (
        after in table.DEPICTING_HEADS
        and pictured
        and name != "teddy bear"
        and not (name == "person" and after == "figure")
    ):
        return DEPICTED
    if name in table.ANIMALS and (
        after in _COSTUMES or (after == "racing" and place.after(2) in ("poster", "posters"))
    ):
        return DEPICTED
    if after in _PLACES:
        return COMPOUND
    if _is_made(place, name):
        return DEPICTED
    if word in VERBS and place.first == place.last and is_verb(place):
        return OTHER_MEANING
    rule = _SENSES.get(word)
    return OTHER_MEANING if rule is not None and rule(place) else ""


_LARGE_VEHICLES = table.VEHICLES - {"boat", "bicycle"}
_CAKES = frozenset({"cake", "cupcake"})
_SURROUNDINGS = _set("decoration design theme pattern picture image photo shaped sign")


def _is_made(place: Place, name: str) -> bool:
    """ "a bronze horse", "a model train", "a cow made of snow"."""
    before = (place.before(), place.before(2))
    if name in table.ANIMALS and not table.STATUE_MATERIALS.isdisjoint(before):
        return True
    if name in table.FOODS and "plastic" in before:
        return True
    if name in table.LIVING and not _CAKES.isdisjoint(place.one):  # "a cake with a bride and groom on top"
        near = [place.after(step) for step in (1, 2, 3, 4, 5)]
        if ("on", "top") in pairwise(near) and not _CAKES.isdisjoint(place.sentence()):
            return True
    if name in _LARGE_VEHICLES and not {"plastic", "wooden"}.isdisjoint(before):
        return True
    if name in table.VEHICLES and before[0] in ("model", "miniature") and before[1] not in (
        "older", "newer", "late", "latest", "new", "early", "old", "classic",
    ):  # fmt: skip
        return True
    if "made" not in place.one:
        return False
    made = [place.after(step) for step in (1, 2, 3, 4, 5, 6)]
    links = [n for n, word in enumerate(made[:5]) if word in ("of", "from")]
    if "made" not in made[:2] or not links:
        return False
    material = made[links[0] + 1]
    solid = name in table.VEHICLES and material not in ("wood", "metal", "plastic", "wire")
    return material in table.MADE_OF and (solid or name in table.LIVING)


# --- one rule for each word: whether it means something else here ----------------------------------------------------


def _colour(place: Place) -> bool:
    after = place.after()
    if place.written == "oranges" or len(place.words.raw) == 1:
        return False
    if singular(after) in ("slice", "wedge", "segment", "half", "piece", "quarter"):
        return False
    if after in ("and", "or") and place.after(2) in _COLOURS:
        return True
    if not place.ends_its_noun:
        return True
    if place.before() in _INSIDE_WORDS or (place.before() == "of" and singular(place.before(2)) in ("slice", "piece")):
        return False
    around = [
        *place.words.one[max(0, place.first - 5) : place.first],
        *place.words.one[place.last + 1 : place.last + 6],
    ]
    return _FRUITS.isdisjoint(around) or place.before() in ("is", "are", "bright", "in", "dark", "light", "deep")


def _needs(context: frozenset[str], unless: frozenset[str] = frozenset()) -> Callable[[Place], bool]:
    """A word that counts only in a caption that also speaks of ``context``, and of nothing in ``unless``."""

    def other(place: Place) -> bool:
        own = singular(place.written)
        spoken_of = any(word in place.one for word in context if word != own)
        return len(place.words.raw) > 2 and (not spoken_of or not unless.isdisjoint(place.one))

    return other


def _sport(place: Place) -> bool:
    """ "plays baseball" against "throws a baseball"."""
    if place.written != singular(place.written) or len(place.words.raw) == 1:
        return False
    before = place.before()
    article = before in ("a", "an", "the", "his", "her", "another") or before in _COLOURS
    return not (article and place.ends_its_noun)


def _adjective(place: Place) -> bool:
    """ "a remote village", "individual zebras"."""
    return not place.ends_its_noun


def _of_another_animal(place: Place) -> bool:
    """The calf of an elephant, the foal of a zebra."""
    own = {"foal": {"horse", "pony", "mare"}}.get(singular(place.written), {"cow", "cattle", "farm"})
    return not place.one.isdisjoint(
        {"elephant", "giraffe", "zebra", "whale", "hippo", "moose"}
    ) and place.one.isdisjoint(own)


def _far_away(place: Place) -> bool:
    """ "a remote village", "a remote or secluded place"."""
    if not place.ends_its_noun:
        return True
    return place.after() in ("and", "or") and _REMOTE_OF.isdisjoint(place.one)


def _two(place: Place) -> bool:
    """ "a couple of cups", "a couple more", but "a couple sits"."""
    after = place.after()
    if after == "of":
        return True
    return not place.ends_its_noun and after not in _ACTING_AFTER_COUPLE


def _family(place: Place) -> bool:
    if place.after() == "of" and not table.ANIMAL_WORDS.isdisjoint(place.words.one[place.last + 1 : place.last + 7]):
        return True
    return _of_animals(place)


def _of_animals(place: Place) -> bool:
    """Whether "the mother" is an elephant."""
    if table.ANIMAL_WORDS.isdisjoint(place.one):
        return False
    if singular(place.after()) in table.ANIMAL_WORDS or place.before() in ("its", "their"):
        return True
    return table.PEOPLE_WORDS.isdisjoint(place.one) and not (_SMALL_ONES - {singular(place.written)}).isdisjoint(
        place.one
    )


def _young_animal(place: Place) -> bool:
    if table.ANIMAL_WORDS.isdisjoint(place.one) or not table.PEOPLE_WORDS.isdisjoint(place.one):
        return False
    return place.before() == "its" or not (_SMALL_ONES - {place.written}).isdisjoint(place.one)


def _individual(place: Place) -> bool:
    return not place.ends_its_noun or _of_animals(place)


def _meat(place: Place) -> bool:
    return place.written == singular(place.written) and not _MEALS.isdisjoint(place.one)


def _vehicle_seat(place: Place) -> bool:
    return not _SEATED_IN.isdisjoint(place.one) or place.before() in ("take", "takes", "taking", "have")


def _no_dish(place: Place) -> bool:
    if not place.one.isdisjoint({"skate", "skateboarder", "skatepark", "halfpipe"}):
        return True
    sentence = place.sentence()
    return (
        place.written == "bowl"
        and ("toilet" in sentence or "urinal" in sentence)
        and ("porcelain" in sentence or "has" in sentence or "seat" in sentence or "lid" in sentence)
    )


def _instrument(place: Place) -> bool:
    return not _MUSIC.isdisjoint(place.one) and (_COMPUTING - {"keyboard", "screen"}).isdisjoint(place.one)


def _live_mouse(place: Place) -> bool:
    return not place.one.isdisjoint({"cat", "kitten", "owl", "snake", "hawk", "cheese"}) and (
        _COMPUTING - {"mouse"}
    ).isdisjoint(place.one)


def _dress(place: Place) -> bool:
    return (
        not place.one.isdisjoint({"dress", "gown", "bride", "veil"})
        and place.one.isdisjoint({"track", "station", "rail", "platform", "railroad", "locomotive", "conductor"})
        and place.before() in ("long", "a", "the", "white", "her", "lace", "whose")
        and place.after() in ("", "of", "behind", "is", "trails")
    )


def _machine(place: Place) -> bool:
    return place.before() in _AGENT_MACHINES


def _of_the_clock(place: Place) -> bool:
    return place.before() == "o"


def _teddy(place: Place) -> bool:
    """Bears in a caption of teddy bears are those."""
    return not place.one.isdisjoint({"teddy", "stuffed", "plush"}) and place.one.isdisjoint(
        {"cub", "grizzly", "polar", "wild", "zoo", "river", "real"}
    )


def _rail_car(place: Place) -> bool:
    """A car of a train, in a caption of a train and of no road."""
    if "train" not in place.one or not place.one.isdisjoint(_ROAD):
        return False
    return (place.written == "car" and place.before() == "the") or "train" in place.sentence()


def _no_traffic_light(place: Place) -> bool:
    """ "a red light" that nobody stops at."""
    return place.before(2) not in ("at", "for", "by")


def _flying(place: Place) -> bool:
    """The animal, unless the caption is about baseball."""
    return not _FLYING.isdisjoint(place.one) and not any(word in place.one for word in _BASEBALL if word != "bat")


_ROAD = _set(
    "road street parking parked lot highway traffic truck bus driveway vehicle drive driving sidewalk motorcycle"
)
_FLYING = _set("cave fly flying wing nocturnal mammal upside species animal ceiling hang hanging vampire roost insect")
_REMOTE_OF = _set("tv television couch sofa game wii control hand controller video laptop phone screen")
_CARAVANS = _set("camels horses elephants mules donkeys thought carts wagons ants ducks")
_COSTUMES = _set("suit onesie outfit hat slipper")
_SPECTATING = _set("game stadium stand crowd cheering match team player arena concert sport baseball field court")

_SENSES: Mapping[str, Callable[[Place], bool]] = {
    "orange": _colour,
    "bat": _flying,
    "chef": lambda place: place.after() == "s" and place.after(2) == "knife",
    "model": lambda place: place.after() not in ("wears", "wearing", "walks", "walking", "poses", "posing"),
    **dict.fromkeys(("glove", "mitt"), _needs(_BASEBALL - {"plate", "field", "game"}, unless=_SNOW)),
    "pitcher": _needs(_BASEBALL - {"plate"}),
    "batter": _needs(_BASEBALL - {"plate"}),
    "fan": lambda place: place.written != "fans" or _SPECTATING.isdisjoint(place.one),
    **dict.fromkeys(("baseball", "basketball", "football", "volleyball", "softball"), _sport),
    **dict.fromkeys(("calf", "bull", "foal"), _of_another_animal),
    "cub": lambda place: not place.one.isdisjoint({"lion", "tiger", "fox", "wolf", "leopard", "cheetah", "lioness"}),
    "remote": _far_away,
    "novel": lambda place: place.after() in ("way", "approach", "idea", "concept", "design", "use", "method"),
    "kite": lambda place: not place.one.isdisjoint({"prey", "talon", "beak", "feather", "raptor", "nest"}),
    "couple": _two,
    "family": _family,
    **dict.fromkeys(("mother", "father", "adult", "parent", "friend", "sibling"), _of_animals),
    **dict.fromkeys(("individual", "male", "female"), _individual),
    **dict.fromkeys(("baby", "infant", "newborn", "youngster", "child"), _young_animal),
    **dict.fromkeys(("chicken", "duck", "lamb", "goose", "quail", "hen"), _meat),
    "seat": _vehicle_seat,
    "bowl": _no_dish,
    "keyboard": _instrument,
    "sink": lambda place: place.before() in ("boat", "ship", "it", "vessel", "that", "sun"),  # "the ship sinks"
    "mouse": _live_mouse,
    "train": lambda place: _dress(place) or (place.after() == "of" and place.after(2) in _CARAVANS),
    "tie": lambda place: place.after() == "between",
    "bear": _teddy,
    "car": _rail_car,
    "computer": lambda place: "desktop" in place.one,
    **dict.fromkeys(("red light", "green light"), _no_traffic_light),
    "player": _machine,
    "clock": _of_the_clock,
    "cab": lambda place: place.after() == "of",
}
