"""From pairs to tensors: the model's own template and processor, one record per pair, one batch type."""

from mmpref.processing.batch import PairBatch
from mmpref.processing.chat.conversation import ChatEncoder, Turns
from mmpref.processing.collate import PairCollator, collate_pairs, collate_prompts
from mmpref.processing.encode import PairEncoder
from mmpref.processing.encoded import EncodedPair, EncodedPrompt
from mmpref.processing.errors import EncodeError
from mmpref.processing.family import FAMILIES, Family, family_of
from mmpref.processing.layout import LayoutName
from mmpref.processing.length_plan import FitPlan, plan_fit
from mmpref.processing.other_images import OtherImageSettings
from mmpref.processing.pixels import LoadImage
from mmpref.processing.token_weights import TokenWeightSettings
from mmpref.processing.videos import LoadVideo

__all__ = [
    "FAMILIES",
    "ChatEncoder",
    "EncodeError",
    "EncodedPair",
    "EncodedPrompt",
    "Family",
    "FitPlan",
    "LayoutName",
    "LoadImage",
    "LoadVideo",
    "OtherImageSettings",
    "PairBatch",
    "PairCollator",
    "PairEncoder",
    "TokenWeightSettings",
    "Turns",
    "collate_pairs",
    "collate_prompts",
    "family_of",
    "plan_fit",
]
