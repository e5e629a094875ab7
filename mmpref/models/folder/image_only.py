"""A processor class of transformers without its video part, which would need torchvision."""

from __future__ import annotations

import types
from functools import lru_cache
from typing import Any, cast

from transformers.processing_utils import ProcessorMixin


@lru_cache
def image_only(stock: type[ProcessorMixin]) -> type[ProcessorMixin]:
    """The processor class without its video part, which would need torchvision and is never used here.

    The class keeps its name, because transformers compares it with what the folder says; so it says itself how it is
    pickled, which a class made here could not be.
    """
    every = list(stock.get_attributes())
    kept = [name for name in every if "video" not in name]
    if kept == every:
        return stock
    body: dict[str, Any] = {
        "__module__": stock.__module__,
        "__doc__": stock.__doc__,
        "get_attributes": classmethod(lambda _cls: list(kept)),
        # some classes override it to read frame counts from the video part
        "apply_chat_template": ProcessorMixin.apply_chat_template,
        "__reduce__": lambda self: (_rebuild_image_only, (stock, self.__dict__)),
        "__init__": _with_optional_video(stock.__init__),
        "_every": every,
    }
    return cast(type[ProcessorMixin], type(stock.__name__, (stock, _WithoutVideo), body))


class _NoVideo:
    """Stands for the video part where a processor asks it for its settings, which it does with images alone as well:
    it is given those of the image part, and they are used for no video."""

    def __init__(self, images: Any = None) -> None:
        self._images = images

    def __get__(self, processor: Any, owner: Any = None) -> _NoVideo:
        return self if processor is None else _NoVideo(processor.__dict__.get("image_processor"))

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return getattr(self._images, name, None)


class _WithoutVideo(ProcessorMixin):
    """Between a stock processor and the constructor that it hands its parts to: leaves the video part out."""

    _every: list[str]
    video_processor = _NoVideo()

    @classmethod
    def _get_arguments_from_pretrained(cls, *args: Any, **kwargs: Any) -> list[Any]:
        """The parts in the order in which the stock constructor takes them."""
        found = dict(zip(cls.get_attributes(), super()._get_arguments_from_pretrained(*args, **kwargs), strict=True))
        return [found.get(name) for name in cls._every]

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        given = {**dict(zip(self._every, args, strict=False)), **kwargs}
        super().__init__(**{name: part for name, part in given.items() if "video_processor" not in name})


def _with_optional_video(init: Any) -> Any:
    """The same constructor, whose parts may be left out: with the video part gone, what follows is given by name.

    The code stays the original's, because transformers reads the names of its variables to learn what it takes.
    """
    names = init.__code__.co_varnames[1 : init.__code__.co_argcount]
    given = init.__defaults__ or ()
    defaults = (*(None,) * (len(names) - len(given)), *given)
    return types.FunctionType(init.__code__, init.__globals__, init.__name__, defaults, init.__closure__)


def _rebuild_image_only(stock: Any, state: dict[str, Any]) -> ProcessorMixin:
    kind: type[ProcessorMixin] = image_only(stock)
    processor: ProcessorMixin = object.__new__(kind)
    processor.__dict__.update(state)
    return processor
