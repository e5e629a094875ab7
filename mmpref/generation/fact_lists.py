"""What a local model lists as the facts that a text states."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mmpref.errors import DataError
from mmpref.generation.contract import NO_MEMORY
from mmpref.generation.in_process import TransformersAnswerer
from mmpref.generation.settings import AnswerSettings
from mmpref.records import EvalSample, user_turn

if TYPE_CHECKING:
    from mmpref.models.loaded import LoadedModel

INSTRUCTION = (
    "List every fact that the following answer states about an image, one a line, each as a short complete sentence "
    "that can be understood alone. Do not add facts, and do not judge them. Write NONE if it states no fact."
    "\n\nAnswer: "
)
_TOO_LARGE = "\0"  # before the message; no tokenizer gives it back


@dataclass(frozen=True, slots=True, kw_only=True)
class FactList:
    """The list as the model wrote it; ``cut`` where the limit of tokens ended it. ``why`` and ``detail`` say the reason
    where there is none, in a word and in a sentence."""

    text: str = ""
    cut: bool = False
    why: str = ""
    detail: str = ""


class FactLister(TransformersAnswerer):
    """Asks for the facts of texts. One that cannot be asked about ends nothing: it gets the reason.

    Args:
        model: loaded.
        settings: batches, and the most tokens of a list.
        template_kwargs: what the chat template reads beside the conversation.
    """

    def __init__(
        self, model: LoadedModel, settings: AnswerSettings, *, template_kwargs: Mapping[str, Any] | None = None
    ) -> None:
        self._template_kwargs = template_kwargs
        super().__init__(model, settings)

    def _prepare(self, template_kwargs: Mapping[str, Any] | None) -> None:
        super()._prepare(self._template_kwargs)
        self._batches.instead = lambda message: (_TOO_LARGE + message, True)

    def lists(self, texts: Mapping[str, str]) -> Iterator[tuple[str, FactList]]:
        """The list of each text, by the text's id, as they come."""
        samples = []
        for text_id, text in texts.items():
            sample = EvalSample(id=text_id, images=(), prompt=user_turn(INSTRUCTION + text, num_images=0))
            try:
                self._encoder.encode_prompt(sample.id, sample.prompt, (), self._load_image)
            except DataError as err:
                yield text_id, FactList(why=getattr(err, "reason", "") or "unreadable", detail=str(err))
            else:
                samples.append(sample)
        for answer in self.answer(samples):
            if answer.text.startswith(_TOO_LARGE):
                yield answer.id, FactList(why=NO_MEMORY, detail=answer.text.removeprefix(_TOO_LARGE))
            else:
                yield answer.id, FactList(text=answer.text, cut=answer.cut)
