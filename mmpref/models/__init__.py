"""Models: loading and saving, adapters, and the log-probs of a policy and its reference."""

from mmpref.models.adapter import AdapterSettings, Tuning, count_parameters, prepare
from mmpref.models.layout_choice import Layout, choose_layout
from mmpref.models.load import LoadedModel, load, load_model, load_processor
from mmpref.models.policy import pair_logps
from mmpref.models.reference import Reference, ReferencePolicy, choose_reference
from mmpref.models.save import save_model

__all__ = [
    "AdapterSettings",
    "Layout",
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
