"""Words for the thing asked about: other names and narrower words assert it, a denied broader word denies it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache, lru_cache

from mmpref.evals.text.vocabulary import COCO, vocabulary_of

# Words of coco_words.txt that are broader than the category or name something else beside it: they serve to find what a
# caption means, and say too little where a question asks for the category.
_NOT_THE_SAME = {
    "dining table": "table, desk, coffee table, picnic table", "tv": "monitor, screen, computer monitor, "
    "computer screen",
    "handbag": "wallet, briefcase", "suitcase": "luggage, baggage", "sports ball": "ball", "chair": "stool, seat",
    "potted plant": "flowerpot", "bed": "mattress", "toilet": "urinal, toilet seat, toilet bowl",
    "remote": "game controller, wiimote", "cell phone": "phone, telephone", "laptop": "computer",
    "oven": "stove, stovetop, stove top",
    "toaster": "toaster oven", "sink": "basin", "refrigerator": "freezer", "book": "notebook, magazine",
    "clock": "clock tower", "vase": "urn", "scissors": "shears", "train": "tram, streetcar, subway",
    "boat": "ship, vessel, cruise ship, raft", "airplane": "aircraft", "bicycle": "tricycle", "motorcycle": "scooter",
    "car": "van", "traffic light": "street light, streetlight", "bench": "pew", "baseball bat": "bat",
    "baseball glove": "glove, mitt", "surfboard": "boogie board, bodyboard, paddleboard",
    "tennis racket": "racket, racquet", "wine glass": "goblet, champagne glass", "spoon": "ladle",
    "sandwich": "burger, hamburger, cheeseburger", "orange": "tangerine, clementine, mandarin", "hot dog": "corn dog",
    "cow": "buffalo, bison", "sheep": "goat", "bear": "cub", "cup": "paper cup", "horse": "mustang",
    "person": "cub", "bus": "", "skateboard": "", "kite": "",
}  # fmt: skip

# other names of the same thing, for words that are no category of COCO too
_SAME = [
    "couch, sofa, settee", "bicycle, bike", "tv, television, tv set, television set", "airplane, plane, aeroplane",
    "cell phone, cellphone, mobile phone, mobile", "refrigerator, fridge", "motorcycle, motorbike",
    "person, human, human being, individual, somebody, someone, anyone, anybody, people", "rock, stone", "sea, ocean",
    "child, kid", "woman, lady", "man, guy, gentleman", "car, automobile", "donut, doughnut",
    "trash can, garbage can, trash bin, garbage bin, dustbin", "sidewalk, pavement", "rug, carpet", "racket, racquet",
    "bag, sack", "shore, seashore", "hair drier, hair dryer, hairdryer", "remote, remote control",
    "sunglasses, sunglass", "tap, faucet", "lift, elevator", "tin, can", "forest, woods", "bin, trash bin",
    "wineglass, wine glass", "street lamp, streetlight, street light", "stove, cooker", "cup, mug", "hill, hillside",
]  # fmt: skip

# broader word: narrower ones (their own narrower words follow)
_NARROWER = {
    "animal": "bird, cat, dog, horse, sheep, cow, elephant, bear, zebra, giraffe, fox, deer, lion, tiger, "
    "leopard, rabbit, "
    "hare, monkey, gorilla, ape, fish, squirrel, pig, goat, donkey, mule, camel, llama, alpaca, wolf, rat, "
    "hamster, frog, "
    "turtle, tortoise, snake, lizard, crocodile, alligator, kangaroo, koala, rhino, rhinoceros, hippo, "
    "hippopotamus, whale, "
    "dolphin, shark, seal, otter, raccoon, hedgehog, antelope, moose, elk, buffalo, bison, crab, insect, "
    "butterfly, bee, "
    "cub, mustang, cheetah, jaguar, panther, badger, beaver, chimpanzee, guinea pig, yak, reindeer, gazelle, sea "
    "lion",
    "aircraft": "airplane, helicopter, jet, glider, drone", "luggage": "suitcase, backpack, trunk",
    "vessel": "boat, ship",
    "glove": "baseball glove, mitten", "bat": "baseball bat", "canine": "dog", "feline": "cat",
    "timepiece": "clock, watch",
    "mammal": "cat, dog, horse, sheep, cow, elephant, bear, zebra, giraffe, whale, dolphin, lion, tiger, rabbit, "
    "deer",
    "pet": "", "vehicle": "bicycle, car, motorcycle, bus, train, truck, van, tram, streetcar, scooter, tractor, "
    "ambulance, "
    "trailer, bulldozer, excavator, jeep", "furniture": "chair, couch, bed, dining table, table, desk, bench, stool, "
    "cabinet, bookshelf, bookcase, wardrobe, dresser, nightstand, cupboard, sideboard, coffee table, drawer",
    "food": "banana, apple, sandwich, orange, broccoli, carrot, hot dog, pizza, donut, cake, bread, rice, meat, "
    "fruit, "
    "vegetable, soup, salad, pasta, cheese, egg, noodle, steak, sushi, burger, hamburger, cookie, pie, french fries, "
    "chicken wings, bagel, croissant, pancake, waffle, potato, tomato, sausage, taco, burrito, dumpling",
    "fruit": "banana, apple, orange, pear, grape, lemon, lime, strawberry, mango, pineapple, watermelon, melon, "
    "peach, "
    "cherry, kiwi, blueberry, raspberry, plum, tangerine, clementine, mandarin, grapefruit",
    "vegetable": "broccoli, carrot, potato, tomato, onion, lettuce, cucumber, cabbage, spinach, pepper, cauliflower, "
    "celery, pea, zucchini, eggplant",
    "man": "businessman, policeman, fisherman, cowboy, father, groom, husband, dad, grandfather, fireman, salesman",
    "woman": "businesswoman, policewoman, bride, mother, waitress, mom, grandmother, housewife, saleswoman, actress",
    "child": "boy, girl, toddler, baby, infant", "boy": "schoolboy", "girl": "schoolgirl", "baby": "infant, newborn",
    "person": "man, woman, child, surfer, crowd, couple, family, fireman, policeman, lifeguard, cook, barista, "
    "actor, "
    "actress, singer, dancer, boxer, runner, jogger, climber, sailor, dad, husband, wife, bull rider, police "
    "officer, "
    "audience, team, schoolboy, schoolgirl, newborn, adult, elder, salesman, craftsman, carpenter, mechanic, "
    "cashier, pensioner, juggler, clown, monk, nun, priest, gardener, shepherd, painter, artist, photographer, "
    "reporter, politician, scientist, engineer, plumber, electrician, butcher, baker, hairdresser, barber, "
    "goalie, coach, "
    "skier, gymnast, wrestler, bull fighter, attendant, guard, guest, visitor, traveler, traveller, villager, "
    "drummer, "
    "guitarist, violinist, pianist, conductor, diver, rower, kayaker, camper, trekker, kid, mum, auntie, uncle",
    "adult": "man, woman", "plant": "tree, flower, bush, shrub, fern, cactus, houseplant, potted plant, grass, ivy",
    "tree": "palm tree, pine tree, oak, oak tree, palm, maple, birch, willow, christmas tree, pine, fir, cherry tree",
    "flower": "rose, tulip, daisy, sunflower, lily, orchid, daffodil, carnation, poppy",
    "building": "house, skyscraper, church, cathedral, barn, tower, castle, hotel, cottage, hut, mansion, "
    "temple, school, "
    "apartment building, office building, warehouse, clock tower",
    "house": "cottage, villa, mansion, bungalow, farmhouse", "bag": "handbag, backpack, purse, tote, shopping bag",
    "ball": "sports ball, soccer ball, football, basketball, baseball, tennis ball, volleyball, beach ball, golf "
    "ball",
    "sports ball": "soccer ball",
    "table": "dining table, coffee table, side table, picnic table, kitchen table, end table, wooden table, desk",
    "dining table": "kitchen table, dinner table, dining room table, dining room set",
    "phone": "cell phone, smartphone, iphone, telephone", "cell phone": "smartphone, smart phone, iphone, "
    "android phone",
    "ship": "cruise ship, ferry, "
    "warship, cargo ship, tanker, sailing ship", "plane": "jet, airliner", "hat": "cap, baseball cap, cowboy hat, "
    "sun hat, beanie, fedora, straw hat, top hat", "shirt": "t-shirt, tee shirt, blouse, polo shirt, dress shirt",
    "shoe": "sneaker, boot, sandal, high heels, loafer", "glasses": "sunglasses, eyeglasses", "fish": "salmon, tuna, "
    "trout, goldfish, koi, shark", "insect": "bee, butterfly, ant, beetle, fly, dragonfly, ladybug, wasp, moth",
    "boat": "sailboat, canoe, kayak, speedboat, rowboat", "computer": "laptop, desktop computer, macbook",
    "screen": "monitor, tv", "racket": "tennis racket", "glass": "wine glass", "light": "traffic light, lamp, "
    "street lamp, "
    "street light, streetlight, ceiling light", "bread": "baguette, toast, bun, bagel, loaf", "instrument": "guitar, "
    "piano, violin, drum, trumpet, cello, flute, saxophone", "weapon": "gun, sword, rifle, pistol",
    "toy": "teddy bear, doll, stuffed animal, toy car",
    "appliance": "microwave, oven, toaster, refrigerator, dishwasher, blender",
    "fruit tree": "apple tree, cherry tree", "utensil": "fork, knife, spoon", "cutlery": "fork, knife, spoon",
    "clothing": "shirt, dress, jacket, coat, pants, jeans, skirt, sweater", "drink": "coffee, tea, juice, wine, "
    "beer, soda",
    "cat": "siamese cat", "dog": "golden retriever, german shepherd, doggie, doggy, mutt, hound dog, puppy dog, "
    "bulldog",
    "water": "sea, ocean, lake, river, pond", "cloth": "towel, tablecloth", "car": "sports car, police car, suv, "
    "sedan",
    "rodent": "rat, squirrel, hamster, guinea pig, mouse", "apple": "green apple",
    "truck": "fire truck, pickup truck", "bus": "school bus, double-decker bus, "
    "double-decker",
}  # fmt: skip

# words that, with the asked one, name another thing
_OTHER_THINGS = (
    "hot dog, corn dog, dog bed, cat bed, pet bed, prairie dog, teddy bear, stuffed bear, gummy bear, "
    "rocking horse, sea horse, saw horse, "
    "pommel "
    "horse, sea lion, cable car, train car, bumper car, flower bed, river bed, truck bed, electric chair, wheel "
    "chair, "
    "toilet seat, mouse pad, bow tie, fire truck, tow truck, hair tie, paper plane, guinea pig, egg plant, power "
    "plant, "
    "zip tie, cat fish, cat nap, sail fish, book case, note book, hobby horse, eye glass, sun glass, looking glass, "
    "bird bath, cup cake, key board, sky light, sea gull, dream catcher, snow man, gingerbread man, scarecrow, "
    "railroad tie, train of thought, bird house, apple tree, orange tree, banana tree, hat trick, car seat, bean "
    "bag, "
    "bowling ball, meat ball, snow ball, wind kite, clothes horse, clock work, computer mouse, tennis court, bat "
    "mobile"
)


def _split(words: str) -> list[str]:
    return [word for word in (part.strip() for part in words.split(",")) if word]


@dataclass(frozen=True, slots=True)
class Words:
    """Words for one thing: those that assert it (narrower ones too), those whose denial denies it (broader ones too).

    ``compounds`` are names of several words for other things; ``starts`` has, for the first word of every name of
    several words, the most words of one.
    """

    asserting: frozenset[str]
    denying: frozenset[str]
    compounds: frozenset[str]
    starts: Mapping[str, int]


@cache
def _coco_lines() -> dict[str, frozenset[str]]:
    """Category of COCO to its words in coco_words.txt that mean it or something narrower."""
    own, _ = vocabulary_of(COCO, (), from_coco=True)
    lines: dict[str, set[str]] = {}
    for word, category in own.clean.items():
        lines.setdefault(category, set()).add(word)
    return {name: frozenset(words - set(_split(_NOT_THE_SAME.get(name, "")))) for name, words in lines.items()}


@cache
def other_compounds() -> frozenset[str]:
    """Entries of several words: each is one thing, and none of its words alone."""
    own, _ = vocabulary_of(COCO, (), from_coco=True)
    ours = [word for words in _NARROWER.values() for word in _split(words)]
    return frozenset(word for word in [*own.clean, *ours, *_split(_OTHER_THINGS)] if " " in word)


@cache
def _same() -> dict[str, frozenset[str]]:
    groups: dict[str, set[str]] = {}
    for line in _SAME:
        words = _split(line)
        for word in words:
            groups.setdefault(word, set()).update(words)
    return {word: frozenset(group) for word, group in groups.items()}


@lru_cache(maxsize=4096)
def narrower(name: str) -> frozenset[str]:
    """The word itself, its other names, and all narrower words, in the singular."""
    found: set[str] = set()
    waiting = [name]
    while waiting:
        word = waiting.pop()
        if word in found:
            continue
        found.add(word)
        waiting += _same().get(word, ())
        waiting += _coco_lines().get(word, ())
        waiting += _split(_NARROWER.get(word, ""))
    return frozenset(found)


@cache
def _broad_words() -> tuple[str, ...]:
    return (*(name for name, words in _NARROWER.items() if words),)


@cache
def known_words() -> frozenset[str]:
    """Single words that name a thing here, in the singular."""
    names = {*_same(), *_NARROWER, *(word for line in _coco_lines().values() for word in line)}
    names |= {word for line in _NARROWER.values() for word in _split(line)}
    return frozenset(part for name in names for part in name.split())


@lru_cache(maxsize=4096)
def words_for(name: str) -> Words:
    """Words for the thing of this name, in lower case and singular."""
    asserting = narrower(name)
    broader = {
        word for broad in _broad_words() if name in narrower(broad) and broad != name
        for word in _same().get(broad, frozenset({broad}))
    }  # fmt: skip
    denying = _same().get(name, frozenset()) | broader | {name}
    starts = dict(_compound_starts())
    for word in asserting | denying:
        if " " in word:
            first = word.split(" ", 1)[0]
            starts[first] = max(starts.get(first, 1), word.count(" ") + 1)
    return Words(asserting, denying, other_compounds(), starts)


@cache
def _compound_starts() -> dict[str, int]:
    starts: dict[str, int] = {}
    for word in other_compounds():
        first = word.split(" ", 1)[0]
        starts[first] = max(starts.get(first, 1), word.count(" ") + 1)
    return starts
