"""Models: loading and saving, adapters, and the log-probs of a policy and its reference."""

from mmpref.models.adapters.lora import prepare
from mmpref.models.adapters.weights import count_parameters
from mmpref.models.load import LoadSettings, load, load_model, load_processor
from mmpref.models.loaded import LoadedModel
from mmpref.models.logps.layout_choice import Layout, choose_layout
from mmpref.models.logps.pair_logps import pair_logps
from mmpref.models.logps.reference import Reference, ReferencePolicy, choose_reference
from mmpref.models.save import save_model
from mmpref.models.tuning import AdapterSettings, Tuning

__all__ = [
    "AdapterSettings",
    "Layout",
    "LoadSettings",
    "LoadedModel",
    "Reference",
    "ReferencePolicy",
    "Tuning",
    "choose_layout",
    "choose_reference",
    "count_parameters",
    "load",
    "load_model",
    "load_processor",
    "pair_logps",
    "prepare",
    "save_model",
]
