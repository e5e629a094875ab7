"""Which rows with one answer are used: good ones by ``sft``, labelled ones by ``kto``, none by the losses of pairs."""

from __future__ import annotations

from typing import Literal

from mmpref.data.quarantine import RowError
from mmpref.errors import ConfigError
from mmpref.records import PreferencePair

Demonstrations = bool | Literal["labelled", "all"]
"""What is accepted beside pairs: nothing (False), answers that may be imitated (True: without a label, or desirable),
answers with a label, or ``all`` rows with one answer, where nobody trains on them."""


def refuse_single(pair: PreferencePair, accepted: Demonstrations) -> None:
    """Refuse a row with one answer that is not asked for. Pairs are always accepted.

    Raises:
        RowError: ``no_rejected`` or ``single_answer`` where pairs alone are asked for, ``no_label`` where a label is,
            ``undesirable`` for an answer that would be imitated and must not be; with the loss that trains on it.
    """
    if pair.rejected is not None or accepted == "all":
        return
    if accepted == "labelled":
        if pair.label is None:
            raise RowError(
                "has no 'rejected' answer and no 'label'; the kto loss trains on pairs, and on single answers with "
                "'label' true or false (good answers alone: `loss.name=sft`)",
                reason="no_label",
            )
    elif accepted:
        if pair.label is False:
            raise RowError(
                "its 'label' says that the answer is not desirable, and the sft loss would imitate it; "
                "`loss.name=kto` trains on both kinds",
                reason="undesirable",
            )
    elif pair.label is not None:
        raise RowError(
            "is a single answer with a 'label', which trains with `loss.name=kto` alone", reason="single_answer"
        )
    else:
        raise RowError(
            "has no 'rejected' answer; a single good answer trains only with the sft loss", reason="no_rejected"
        )


def check_option(accepted: Demonstrations) -> list[str]:
    """How ``mmpref data check`` and ``verify`` are told what is accepted."""
    return {False: [], True: ["--demonstrations"], "labelled": ["--labelled"]}.get(accepted, [])


def accepted_by(*, demonstrations: bool, labelled: bool) -> Demonstrations:
    """What the two options of these commands ask for.

    Raises:
        ConfigError: both.
    """
    if demonstrations and labelled:
        raise ConfigError("--demonstrations is for the sft loss and --labelled for kto; give one of them")
    return "labelled" if labelled else demonstrations


def accepted_for(*, needs_rejected: bool, needs_labels: bool) -> Demonstrations:
    """What a loss trains on beside pairs.

    Args:
        needs_rejected: it compares two answers.
        needs_labels: it trains on single answers that are desirable or not.
    """
    return "labelled" if needs_labels else not needs_rejected
