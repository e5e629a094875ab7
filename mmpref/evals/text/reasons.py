"""Why words that name an object do not count (docs/reading_captions.md)."""

NEGATED = "negated"
POSSIBLE = "possible"
DEPICTED = "depicted"
WRITTEN = "written"
COMPOUND = "compound"
OTHER_MEANING = "other meaning"
