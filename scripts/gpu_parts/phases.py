"""How long the phases of a training step take, as the device reaches them; nothing waits in between."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from gpu_parts.clock import Clock
from gpu_parts.steps import language_model, vision_tower


class Phases:
    """Marks around the forward pass, the vision tower, the decoder and the backward pass of one library's steps.

    ``vision`` and ``decoder`` are all calls in the forward pass, the reference's too. What checkpointing recomputes of
    them is part of ``backward``, because it is done layer by layer while that runs. ``head`` is what is left of the
    forward pass: embeddings, projector where it is outside the tower, output head, loss, and the library's bookkeeping.

    Args:
        library: ``steps.Ours`` or ``steps.Trl``.
        family: of its model.
    """

    def __init__(self, library: Any, family: str, device: str) -> None:
        self.clock = Clock(device)
        self.open = False
        self._spans: dict[str, list[list[Any]]] = {"vision": [], "decoder": [], "backward": []}
        self._handles: list[Any] = []
        for name, module in (
            ("vision", vision_tower(library.model, family)),
            ("decoder", language_model(library.model)),
        ):
            self._handles.append(module.register_forward_pre_hook(lambda *_, name=name: self._begin(name)))
            self._handles.append(module.register_forward_hook(lambda *_, name=name: self._end(name)))
        accelerator = library.trainer.accelerator
        backward = accelerator.backward

        def marked(*args: Any, **kwargs: Any) -> None:
            self._begin("backward")
            backward(*args, **kwargs)
            self._end("backward")

        accelerator.backward = marked

    def measure(self, step: Callable[[], None]) -> dict[str, float]:
        """Milliseconds of a step and its phases; waits until the device is through with it."""
        for spans in self._spans.values():
            spans.clear()
        self.open = True
        start = self.clock.mark()
        try:
            step()
        finally:
            self.open = False
        end = self.clock.mark()
        between = self.clock.between
        found = {"ms": between(start, end)}
        (backward,) = self._spans["backward"]
        found["forward_ms"] = between(start, backward[0])
        found["backward_ms"] = between(*backward)
        for name in ("vision", "decoder"):
            found[f"{name}_ms"] = sum(between(*span) for span in self._spans[name])
        found["head_ms"] = found["forward_ms"] - found["vision_ms"] - found["decoder_ms"]
        return found

    def _begin(self, name: str) -> None:
        if self.open:
            self._spans[name].append([self.clock.mark()])

    def _end(self, name: str) -> None:
        if self.open:
            self._spans[name][-1].append(self.clock.mark())
