"""Tables of words by which ``mention_context.py`` and ``word_senses.py`` read what is around the name of an object."""

from __future__ import annotations


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


DETERMINERS = _words(
    "a an the this that these those his her its their our my your some any each every another one two three four five "
    "six seven eight nine ten several many few both all no"
)
INDEFINITE = _words("a an any some another one")
DEFINITE = _words("the this that these those his her its their our my your")

PREPOSITIONS = _words(
    "in on at by near beside behind under underneath beneath above over below with without within inside outside into "
    "onto through throughout across along around about against among amid between beyond toward towards from of off "
    "up down out for to as like next during before after until upon past via despite except besides"
)
CONJUNCTIONS = _words(
    "but while because since although though whereas so if when where which who whom whose that than and or nor yet "
    "just only instead rather then however making creating giving"
)
AUXILIARIES = _words(
    "is are was were be been being am has have had having do does did can could may might must shall should will "
    "would not appear appears seem seems looks there it he she they we you i"
)
AFTER_NOUNS = _words(
    "visible present nearby anywhere currently here around either aside apart also sits stands lies runs walks "
    "appears parked seated placed located positioned waiting"
)
VERBS = _words(
    "makes make gives give adds add creates create suggests suggest indicates indicate allows allow leaves leave "
    "shows show contains holds hold features includes looking take takes helps captures occupies dominates"
)
NOUN_PHRASE_ENDS = VERBS | PREPOSITIONS | CONJUNCTIONS | AUXILIARIES | AFTER_NOUNS
"""Words at which a noun with what is before it ("no big brown dogs | on the street") is over."""
QUANTITIES = _words(
    "bowl bowls bunch group groups pair pairs couple herd flock cup cups glass glasses vase plate basket slice slices "
    "lot lots number variety kind type row pile stack crowd team family box bottle bag piece pieces set sort few all "
    "any kinds types"
)
"""Before "of": "a painting of a bowl of apples" goes on."""
PERSONS = _words("person people man men woman women one child children pedestrian pedestrians boy girl player players")
IN_GENERAL = _words("can could may might often usually typically gather come go wait relax")
"""After "where people": nobody in particular."""
NOUNS_IN_ING = _words(
    "parking dining racing swimming rocking cutting living wedding building string flying fishing stuffing towing "
    "mixing vending folding dressing washing wing ring king sling railing ceiling clothing painting drawing carving"
)

# --- negation ---------------------------------------------------------------------------------------------------------
NOT_A_DENIAL_AFTER_NO = _words("doubt longer matter problem wonder question more fewer less idea need way exception")
"""After "no": "no doubt a dog"."""
SIGNS_OF = _words(
    "sign signs trace traces evidence indication indications presence hint hints glimpse view mention shortage hide"
)
"""Between a denial and "of": "no sign of a dog"."""
NOT_A_DENIAL_AFTER_NOT = _words(
    "only just merely simply solely necessarily far as so very too much sure quite enough entirely fully all always "
    "least unlike uncommon exactly yet one-sided being until to clear certain that"
)
"""After "not": "not only a dog but a cat"."""
AFTER_A_DENIED_VERB = _words("that there is are to be appear like see have show")
"""Between a denied verb and its object: "I do not think that there is a dog"."""
NOT_SEEN = _words(
    "allowed permitted visible present seen shown there pictured depicted included featured apparent evident "
    "discernible noticeable found"
)
"""After "is not": the subject is denied."""
LACKS = _words("lacks lacking lacked lack minus sans excluding without absent missing")
OF_LACK = {
    "absence": "of", "lack": "of", "devoid": "of", "free": "of from", "empty": "of", "void": "of", "bereft": "of",
    "clear": "of", "bare": "of", "instead": "of", "rather": "than", "opposed": "to", "lieu": "of",
    "unlike": "",
}  # fmt: skip
"""Word -> the words that must follow it: what comes after both is not there."""
GONE = _words("missing absent gone nowhere")
"""After "is" or "are": the subject is not there."""
REMOVED = _words("expected eaten removed replaced stolen sold demolished towed")
"""After "has been": the subject is not there."""
LEFT = _words("left gone checked stepped moved departed already just")
"""After "may have"."""
HAS_LEFT = _words("left gone vanished disappeared departed driven flown")
"""After "has": the subject is not there."""
ONCE = _words("stood was were had lay hung lived sat")
"""After "once": not any more."""
WISHING = _words(
    "expect expects expected wish wishes wished wishing wants want dreams pretends pretending pretend imagines"
)
GIVEN_UP = _words(
    "forbids prohibits bans forbidding prohibiting banning forgot forgotten lost stole declined refused refuses forgets"
)
"""Verbs of things that are not there."""
TELLING = _words(
    "book movie film poster flyer leaflet story article documentary song poem show video magazine lecture lesson news "
    "talk sign"
)
"""Before "about"."""
STANDS = _words("stands lies sits hangs is are stand lie sit hang was were")
"""After "the bottle that": it is there, whatever is supposed of it."""
HAVING = _words(
    "wearing holding carrying using riding having driving eating reading playing wear hold carry use have ride"
)
"""Between a denied person and an object: "nobody is wearing a hat", "no one with an umbrella"."""

# --- what is only possible --------------------------------------------------------------------------------------------
MODALS = _words("might may could would")
SEEN = _words("seen found spotted observed noticed visible")
"""After "could be": said to be there."""
MAYBE = _words("presumably possibly perhaps maybe potentially conceivably supposedly")
SUGGESTING = _words(
    "suggest suggests suggesting suggested indicate indicates indicating indicated imply implies implying hint hints "
    "hinting signify signifies signifying announces announcing warns warning promises hypothesize imagine imagining "
    "assume assuming"
)
WHETHER = _words("whether if unless")
SERVES = _words("serves serve serving used acts acting functions functioning doubles")
"""Before "as a table": the thing is something else."""
UNSURE = _words("unclear uncertain unsure")
AWAITED = {
    "waiting": "for", "wait": "for", "waits": "for", "waited": "for", "awaiting": "", "awaits": "", "await": "",
    "looking": "for", "searching": "for", "search": "of", "hoping": "for", "dreaming": "of", "thinking": "about of",
    "dreams": "of", "thinks": "about of", "talks": "about",
    "talking": "about", "reminiscent": "of", "reminds": "of", "need": "of", "suitable": "for", "ready": "for",
    "popular": "among with for",
    "designed": "for", "meant": "for", "intended": "for", "reserved": "for", "advertisement": "for",
    "advertising": "", "ad": "for", "ads": "for", "advertises": "", "promoting": "", "named": "after", "known": "for",
    "space": "for", "room": "for", "place": "for", "designated": "for", "accessible": "to", "appealing": "to",
    "symbol": "of", "yield": "to", "belonging": "to", "belongs": "to", "owned": "by", "left": "by", "used": "by",
    "made": "by",
    "taken": "by", "written": "by", "built": "by", "photo": "by", "picture": "by", "shot": "by", "recipe": "for",
    "closed": "to", "mistaken": "for",
}  # fmt: skip
"""Word -> the words of which one must follow: what comes after is not said to be there."""
READYING = _words("ready preparing prepares prepared waiting hoping planning wanting wants hopes plans used supposed")
"""Before "to" and a verb: a thing without "the" is not there yet."""
MEANT_FOR = _words(
    "transport carry park hold attract protect accommodate serve seat allow store feed house shelter help keep invite "
    "welcome guide alert warn remind inform prevent entertain"
)
"""After "to": a bare plural is nobody in particular."""
FOR_ANYBODY = _words(
    "entertain entertaining welcoming for allow allows allowing let lets letting enable enables enabling invite "
    "invites inviting encourage encourages encouraging help helps helping attract attracts attracting protect "
    "protects accommodate accommodates where"
)
"""Before a bare plural: "for people", "allowing passengers to"."""
ROLES = _words(
    "guest guests visitor visitors diner diners customer customers patron patrons passersby passerby someone anyone"
)
"""People who are more often thought of than seen: "a table for the guests"."""
CLAUSE_STARTS = _words(
    "and but while with which who as although though giving creating adding making because since whereas so there "
    "surrounded this it he she they"
)
"""After a comma: what was possible before it ends here."""
CLAUSE_BREAKS = _words("but yet because while whereas although though")

# --- nouns or verbs ---------------------------------------------------------------------------------------------------
AFTER_VERBS = _words("the a an his her their its for up down through over into together hard them him it")
"""After a verb: "they train for a race"."""
VERBS_AFTER_NOUNS = _words(
    "stop park show track station run race play board rest stand stall train ride fly block top press clip pump lock "
    "tag whip hook lift surf work mark match rank box seal stamp swing sign display shop wash set cross claim ring "
    "bite call case charge cover hold watch jump tow fight step walk paint side"
)
"""Second words of phrases that may be verbs: a "bus stop", but "the bus stops at the corner"."""

# --- comparisons ------------------------------------------------------------------------------------------------------
SEEMING = _words("look looks looking looked seems seem something is are feel feels smells sounds shaped more much")
"""Before "like a dog": more than a comparison, or the matter of another rule."""
TRACES = _words(
    "ghost tracks footprint footprints pawprint pawprints shadow shadows imprint outline juice smell sound "
    "crumbs leftovers"
)

# --- depictions -------------------------------------------------------------------------------------------------------
ARTWORKS = _words(
    "statue sculpture painting drawing sketch illustration cartoon poster mural figurine replica carving engraving "
    "portrait print logo emblem decal sticker tattoo graffiti cutout effigy doll toy puppet plush artwork clipart "
    "caricature depiction mosaic doodle stencil embroidery relief bust ornament tapestry magnet icon symbol rendering "
    "model figure form movie film video documentary carousel comic collage pattern animation image picture photo "
    "photograph costume float shape outline"
)
"""Things that show others: "a statue of a horse"."""
PHOTOS = _words("image picture photo photograph")
"""The caption's own picture, where the sentence is about it: "a photo of a bus"."""
WITHOUT_OF = _words(
    "model figure form movie film video documentary shape image picture photo photograph outline float pattern"
)
"""Not enough by themselves in "a model with a dog": "of" must follow."""
SHOWN_BY = _words(
    "depicting showing featuring portraying representing displaying depicts shows features portrays displays"
)
SHOWS = _words("depicts shows portrays displays features depict show portray display represents")
SURFACES = _words(
    "sign signs shirt shirts t-shirt t-shirts tshirt mug billboard flag banner hat cap sweater hoodie jersey badge "
    "label patch stamp coin advertisement ad blanket pillow bag plate card cover dress curtain rug plaque quilt "
    "wallpaper tie necktie sock socks scarf apron pajamas pyjamas jacket bib"
)
"""Things on which pictures are: "a shirt with a dog on it", "a plate with a dog painted on it"."""
BEARING = _words("flag banner coin stamp badge label patch wallpaper plaque billboard sticker tattoo")
"""Those that carry nothing but pictures: "a flag with a bear"."""
CARRIERS = _words("blanket pillow bag plate card cover rug quilt sign signs")
"""Those that also carry things: "a plate with a sandwich on it", "a sign with a bird on it"."""
SOLID = _words(
    "statue sculpture figurine toy doll costume carousel ornament bust puppet plush replica effigy float mosaic"
)
"""Works that may have real things on them: "a sculpture featuring a clock"."""
SCREENS = _words("tv television screen monitor laptop computer")
SCREEN_SHOWS = _words("showing displaying shows displays playing")
DRAWN = _words("carves sculpts drawn drew draws sketched sketches painted paints depicted")
"""Verbs whose object is a picture."""
DRAUGHT_ANIMALS = _words("horse horses pony ponies ox oxen donkey donkeys mule mules bull bulls carriage cart plow")
CANVAS = _words("canvas canvases easel paper watercolors brush")
PRINTED = _words(
    "painted drawn printed pictured depicted embroidered engraved carved tattooed stenciled etched illustrated written"
)
"""After a thing: "a bicycle painted on the road"."""
PRINTED_ON = _words("on onto in into upon along across over")
ARTIFACTS = _words("balloon toy cake cookie lamp kite robot cloud statue sculpture costume mask vase teapot")
"""Before \"that looks like a dog\": the dog is a shape."""
UPHOLSTERED = _words(
    "sofa sofas couch couches chair chairs armchair armchairs bed beds bench seat seats bedding headboard recliner"
)
"""After "plush": no toy."""
TOYS = _words("invisible toy toys plush cartoon animated lego origami fake pretend crocheted knitted imaginary carved")
"""Before a thing, also with a word between: "a toy fire truck"."""
STATUE_MATERIALS = _words(
    "plastic inflatable wooden bronze ceramic porcelain stone metal marble concrete paper cardboard wire stuffed iron "
    "brass clay wax papier-mache chocolate fondant marzipan sugar icing frosting gingerbread ice glass felt sculpted "
    "taxidermied sculptural decorative painted sandstone"
)
"""Before an animal: "a bronze horse"."""
MADE_OF = _words(
    "stone metal wood snow ice sand lego legos cake chocolate paper cardboard clay plastic bronze wire fruit food"
)
DEPICTING_HEADS = _words(
    "statue sculpture figurine figure painting drawing illustration cartoon poster mural logo emblem decal sticker "
    "tattoo print pattern toy costume mask cutout ornament balloon magnet keychain shape silhouettes replica design "
    "decoration picture image photo portrait theme motif symbol icon puppet doll sculpted carving head-mask plush "
    "topiary lantern shaped themed patterned engraving emoji character cookie topper sketch"
)
"""After a thing: "an elephant statue"."""
LIKENESS = _words("resembling resembles")
DRESSED = _words("dressed disguised costumed")
LIVING = _words("bird cat dog horse sheep cow elephant bear zebra giraffe person")
ANIMALS = LIVING - {"person"}
FOODS = _words("banana apple sandwich orange broccoli carrot pizza donut cake")
VEHICLES = _words("car truck bus train boat airplane motorcycle bicycle")
WRITTEN = _words(
    "read reads reading say says saying word words text phrase labeled labelled called titled spelling letters "
    "message name"
)
"""Before a quotation: what it says is text, not a thing."""

# --- what a caption is about ------------------------------------------------------------------------------------------
ANIMAL_WORDS = _words(
    "bird cat dog horse sheep cow elephant bear zebra giraffe calf cub kitten puppy duck goose swan lamb foal animal "
    "goat pony penguin duckling gosling lion tiger deer monkey"
)
PEOPLE_WORDS = _words(
    "man woman boy girl people person child player he she rider kid lady guy athlete passenger student tourist team"
)
