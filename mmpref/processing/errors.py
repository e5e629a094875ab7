"""The error of this package: a pair or prompt that cannot become tensors, with the reason code of the quarantine."""

from __future__ import annotations

from functools import partial

from mmpref.errors import DataError


class EncodeError(DataError):
    """One row cannot be encoded; made by :func:`fault`.

    It can be made from a message alone: that is how a DataLoader raises again what a worker raised, and a kind that
    could not be would become a RuntimeError with another exit code.

    Attributes:
        row_id: id of the pair or sample; empty after the way through a worker (the message names it).
        reason: one of ``too_long_prompt``, ``empty_response``, ``control_token``, ``placeholder_count``,
            ``images_in_text_model``, ``template``, ``unclosed_thought``, ``image_processing``, ``other_image``,
            ``video``, ``token_weights``, ``no_weight``; empty as ``row_id``.
    """

    def __init__(self, message: str, *, row_id: str = "", reason: str = "") -> None:
        super().__init__(message)
        self.row_id = row_id
        self.reason = reason

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return partial(EncodeError, row_id=self.row_id, reason=self.reason), (str(self),)


def fault(row_id: str, reason: str, detail: str) -> EncodeError:
    """The error for one row: what is wrong with it, and the code it is counted under."""
    return EncodeError(f"'{row_id}' {detail} [{reason}]", row_id=row_id, reason=reason)
