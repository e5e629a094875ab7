"""What every answerer with a model in this process needs: the model loaded, images opened, batches that fit."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from mmpref.errors import OutOfMemoryError
from mmpref.generation.model_source import Model, ModelSource
from mmpref.generation.settings import AnswerSettings
from mmpref.records import ImageRef

if TYPE_CHECKING:
    from torch import nn

    from mmpref.models.loaded import LoadedModel

T = TypeVar("T")
R = TypeVar("R")


@contextmanager
def in_eval_mode(model: nn.Module) -> Iterator[None]:
    """Without dropout inside, and in its own mode again afterwards."""
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)


@dataclass(slots=True)
class Batches:
    """Batches of at most ``size`` items and ``tokens`` tokens; one that does not fit in memory is halved, and so are
    those after it.

    ``instead`` gives the result of an item that does not fit in memory alone, from the message that says so; without
    it such an item is an error. Batches after it are as large as before it.
    """

    size: int
    tokens: int
    instead: Callable[[str], Any] | None = None

    def run(
        self,
        items: Sequence[T],
        *,
        tokens_of: Callable[[T], int],
        work: Callable[[list[T]], list[R]],
        too_large: Callable[[T], str],
        group_of: Callable[[T], object] = id,
    ) -> Iterator[tuple[T, R]]:
        """Each item with its result, a batch at a time.

        Args:
            items: in the order of falling ``tokens_of``.
            tokens_of: tokens that an item takes in a batch whose longest item it is.
            work: results of a batch, one for each item.
            too_large: the message for an item that does not fit in memory alone.
            group_of: the same for items that stand side by side and are cheaper together: they share a batch where one
                has space for all of them.

        Raises:
            OutOfMemoryError: an item does not fit in memory alone, and there is no ``instead``.
        """
        import torch

        waiting = list(items)
        size = self.size
        while waiting:
            most = max(1, min(self.size, self.tokens // tokens_of(waiting[0])))
            batch = waiting[: _at_border(list(map(group_of, waiting[: most + 1])), most)]
            results: list[R] | None = None
            try:
                results = work(batch)
            except torch.OutOfMemoryError as err:
                if len(batch) == 1 and self.instead is None:
                    raise OutOfMemoryError(too_large(batch[0])) from err
            if results is None:  # outside the handler, whose traceback holds the tensors
                torch.cuda.empty_cache()
                if len(batch) > 1:
                    self.size = len(batch) // 2
                    continue
                assert self.instead is not None  # else it was raised
                results = [self.instead(too_large(batch[0]))]
                self.size = size  # it was halved for this item
            size = self.size
            waiting = waiting[len(batch) :]
            yield from zip(batch, results, strict=True)


def _at_border(groups: Sequence[object], most: int) -> int:
    """How many items, ``most`` if there are more, end where a group does; ``most`` where the first group is larger."""
    if len(groups) <= most:
        return len(groups)
    borders = [count for count in range(1, most + 1) if groups[count] != groups[count - 1]]
    return borders[-1] if borders else most


class LocalAnswerer(ABC):
    """An answerer with a transformers model in this process.

    Args:
        model: a path or hub id, a ``ModelSource``, or a model that is loaded already.
        settings: batches, decoding, device, and torch's threads, which are set for the whole process.
        images_root: relative image paths start here.
        load_image: replaces the reader of images (``ImageRef`` -> RGB image).
    """

    def __init__(
        self,
        model: Model,
        settings: AnswerSettings | None = None,
        *,
        images_root: str | Path | None = None,
        load_image: Callable[[ImageRef], Any] | None = None,
    ) -> None:
        import torch

        self._settings = settings = settings or AnswerSettings()
        self._load_image = load_image or _image_opener(images_root)
        if settings.cpu_threads is not None:
            torch.set_num_threads(settings.cpu_threads)
        source = ModelSource(path=str(model)) if isinstance(model, str | Path) else model
        template_kwargs = None
        if isinstance(source, ModelSource):
            template_kwargs = source.template_kwargs
            source = source.load(settings.device or ("cuda" if torch.cuda.is_available() else None))
        self._loaded: LoadedModel = source
        self._batches = Batches(settings.batch_size, settings.tokens_per_batch)
        self._prepare(template_kwargs)

    @property
    def loaded(self) -> LoadedModel:
        """The model, for another answerer that is to share it."""
        return self._loaded

    @abstractmethod
    def _prepare(self, template_kwargs: Mapping[str, Any] | None) -> None:
        """What a kind of answerer needs beside the loaded model.

        Args:
            template_kwargs: what the chat template is to read beside the conversation.
        """


def _image_opener(images_root: str | Path | None) -> Callable[[ImageRef], Any]:
    from mmpref.data.images.loader import ImageLoader

    return ImageLoader(images_root).open
