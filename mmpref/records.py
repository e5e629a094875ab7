"""The types that pass between packages: frozen, plain, and free of torch.

One way for data: rows -> ``PreferencePair`` -> (processing) -> losses -> metrics, and
``EvalSample`` -> ``Answer`` -> ``TaskResult`` -> report, and ``Prompt`` -> ``Candidates`` -> scored ``Candidates`` ->
``PreferencePair``.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

Role = Literal["system", "user", "assistant"]
ROLES: tuple[Role, ...] = ("system", "user", "assistant")


@dataclass(frozen=True, slots=True)
class ImageRef:
    """Where one image is: a path (relative to the data root, or absolute) or the encoded bytes. Never pixels."""

    path: str | None = None
    data: bytes | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        if (self.path is None) == (self.data is None):
            raise ValueError("an ImageRef has either a path or data, and not both")

    def describe(self) -> str:
        """How the image is named in a message to the user."""
        return self.path if self.path is not None else f"<{len(self.data or b'')} embedded bytes>"


@dataclass(frozen=True, slots=True)
class VideoRef:
    """Where one video is: a file, or its frames in order, each an image. Never pixels.

    ``fps`` is how many frames a second a list of frames has; None where nobody said, and always for a file, which says
    it itself.
    """

    path: str | None = None
    frames: tuple[ImageRef, ...] = ()
    fps: float | None = None

    def __post_init__(self) -> None:
        if (self.path is None) == (not self.frames):
            raise ValueError("a VideoRef has either a path or frames, and not both")
        if self.path is not None and self.fps is not None:
            raise ValueError("the fps of a video file are its own")

    def describe(self) -> str:
        """How the video is named in a message to the user."""
        return self.path if self.path is not None else f"<{len(self.frames)} frames>"


@dataclass(frozen=True, slots=True)
class VideoFrames:
    """The frames of one video that a model is shown, decoded, and when each of them is seen."""

    frames: tuple[Any, ...]  # PIL images in RGB, all of one size
    times: tuple[float, ...]  # seconds from the beginning, ascending

    def __post_init__(self) -> None:
        if not self.frames or len(self.frames) != len(self.times):
            raise ValueError(f"{len(self.frames)} frames and {len(self.times)} times: want one time for each frame")


@dataclass(frozen=True, slots=True)
class VideoShape:
    """What is known of the frames that a model is shown of one video before they are decoded."""

    width: int  # pixels of every frame, upright
    height: int
    times: tuple[float, ...]  # seconds from the beginning, ascending: those of the VideoFrames

    @property
    def num_frames(self) -> int:
        """How many frames the model is shown."""
        return len(self.times)


@dataclass(frozen=True, slots=True)
class Part:
    """One part of a message: an image place, a video place or a piece of text.

    Image places are filled in order from ``images``, and video places from ``videos``.
    """

    kind: Literal["image", "text", "video"]
    text: str = ""


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of the prompt with its ordered parts."""

    role: Role
    parts: tuple[Part, ...]

    @property
    def num_images(self) -> int:
        """Image places among the parts."""
        return sum(part.kind == "image" for part in self.parts)

    @property
    def num_videos(self) -> int:
        """Video places among the parts."""
        return sum(part.kind == "video" for part in self.parts)

    @property
    def text(self) -> str:
        """The text parts joined, image and video places left out."""
        return "".join(part.text for part in self.parts if part.kind == "text")


class WeightSpan(NamedTuple):
    """Characters of an answer, and how much each token that has some of them counts."""

    start: int
    end: int  # the first character behind them
    weight: float


AnswerWeight = float | tuple[WeightSpan, ...]
"""What the tokens of an answer count: one number for all, or one for each span; tokens outside all spans count 1."""


class PromptKey(NamedTuple):
    """What pairs of one prompt have in common, and other pairs have not: a key of dictionaries.

    Images count by path or, embedded, by their bytes.
    """

    images: tuple[ImageRef, ...]
    videos: tuple[VideoRef, ...]
    prompt: tuple[Message, ...]
    response_prefix: str
    template_kwargs: str  # JSON; "" for none


def prompt_key(shown: PreferencePair | Prompt) -> PromptKey:
    """What a model is shown before it answers, as a key of dictionaries."""
    own = dict(shown.template_kwargs or {})
    given = json.dumps(own, sort_keys=True, default=str) if own else ""
    return PromptKey(shown.images, shown.videos, shown.prompt, shown.response_prefix, given)


@dataclass(frozen=True, slots=True, kw_only=True)
class PreferencePair:
    """One prompt with a preferred and a dispreferred answer.

    ``rejected`` is None for a demonstration: a row with one good answer, which only the ``sft`` loss can train on.
    Scores are on both sides or on neither. ``response_prefix`` is the beginning of the assistant turn that both answers
    continue; it is given to the model and not counted by the loss. ``rejected_images`` replace ``images`` on the
    rejected side (image preference). ``template_kwargs`` are what this row gives the chat template beside the
    conversation, tools under ``tools``; they stand over the recipe's ``processing.template_kwargs``. Both sides have
    the same ``videos``.

    ``other_images`` stand in the place of ``images`` where a loss looks at the chosen answer under another image;
    None where they are made of ``images``, or where no loss asks. ``weight`` multiplies the pair's whole loss.
    ``chosen_weight`` and ``rejected_weight`` are those of the answers' tokens. ``label`` says of a single answer
    (``chosen``, without ``rejected``) whether it is desirable, for losses of single answers; ``mismatched`` is the
    answer of another row that such a loss shows under this prompt.
    """

    id: str
    images: tuple[ImageRef, ...]
    prompt: tuple[Message, ...]
    chosen: str
    rejected: str | None
    response_prefix: str = ""
    rejected_images: tuple[ImageRef, ...] | None = None
    score_chosen: float | None = None
    score_rejected: float | None = None
    source: str = ""
    meta: Mapping[str, Any] = field(default_factory=dict)
    template_kwargs: Mapping[str, Any] | None = field(default=None, hash=False)  # JSON values; they need no hash
    videos: tuple[VideoRef, ...] = ()
    other_images: tuple[ImageRef, ...] | None = None
    weight: float = 1.0
    chosen_weight: AnswerWeight | None = None
    rejected_weight: AnswerWeight | None = None
    label: bool | None = None
    mismatched: str | None = None

    @property
    def has_same_images(self) -> bool:
        """Whether both sides show the same images."""
        return self.rejected_images is None or self.rejected_images == self.images

    @property
    def prompt_key(self) -> PromptKey:
        """The same for pairs whose chosen answers continue the same prompt over the same images."""
        return prompt_key(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompt:
    """A question without an answer, as a model gets it: what candidates are sampled for.

    The fields mean what they mean in a ``PreferencePair``.
    """

    id: str
    images: tuple[ImageRef, ...]
    prompt: tuple[Message, ...]
    response_prefix: str = ""
    source: str = ""
    meta: Mapping[str, Any] = field(default_factory=dict)
    template_kwargs: Mapping[str, Any] | None = field(default=None, hash=False)  # JSON values; they need no hash
    videos: tuple[VideoRef, ...] = ()

    @property
    def key(self) -> PromptKey:
        """The same for prompts that show a model the same, and for the pairs that are made of them."""
        return prompt_key(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """What one scorer says of one answer.

    ``raw`` is on the scorer's own ``scale``, a bound of which is None where nothing bounds it. It is None where the
    scorer has nothing to say, and ``why`` says the reason. ``detail`` is evidence for people, as JSON: claims, or what
    a judge said.
    """

    scorer: str
    version: str
    scale: tuple[float | None, float | None]
    raw: float | None
    why: str = ""
    detail: Mapping[str, Any] = field(default_factory=dict, compare=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """An answer that a model wrote to a prompt.

    ``times`` is how many of the samples were this text, and ``seed`` that of the first of them; ``cut`` where the limit
    of tokens ended it. ``score`` is the mean of the ``scores`` on the range that was declared for all of them; None
    where it was not scored, or where one of its scorers has nothing to say.
    """

    text: str
    seed: int | None = None
    times: int = 1
    cut: bool = False
    scores: tuple[Score, ...] = ()
    score: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidates:
    """A prompt and its candidate answers, whose texts differ."""

    prompt: Prompt
    answers: tuple[Candidate, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class EvalSample:
    """One benchmark question as the model gets it. ``target`` is what the scorer compares with, if anything."""

    id: str
    images: tuple[ImageRef, ...]
    prompt: tuple[Message, ...]
    target: Any = None
    meta: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What a model said to the sample of the same id; ``cut`` where the limit of tokens ended it.

    ``served_as`` and ``server_state`` are what a server named as the model and its state (``system_fingerprint``).
    ``seed`` is that of a sampled answer; None where nothing was drawn, or where a server took no seed. ``place`` is the
    file and the row that it was read from, for messages; "" where it was just made.
    """

    id: str
    text: str
    cut: bool = field(default=False, compare=False)
    served_as: str = field(default="", compare=False)
    server_state: str = field(default="", compare=False)
    seed: int | None = field(default=None, compare=False)
    place: str = field(default="", compare=False)


@dataclass(frozen=True, slots=True)
class ResultWarning:
    """Why a number may say nothing about the model: a short ``code`` for programs, and a ``sentence`` for people."""

    code: str
    sentence: str


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskResult:
    """The outcome of one benchmark under one protocol.

    ``metrics`` maps a name to a value; a value that the answers leave undefined (no positive prediction, say) is None
    and ``undefined`` says why. ``intervals`` holds 95 % intervals for the metrics that have one. ``n_missing`` answers
    have no verdict of the judge and are in no number. ``items`` is one mapping per question, with at least ``id``: what
    was read from the answer and how it was judged. ``read_as`` says for people how the answers were read: in which
    layout, and by what each was matched with its question. ``warnings`` are about numbers that may mean nothing, as
    of answers that are all the same; ``notes`` are facts that belong beside every number.
    """

    benchmark: str
    protocol: str
    n: int
    n_unparsed: int
    metrics: Mapping[str, float | None]
    intervals: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    undefined: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    items: tuple[Mapping[str, Any], ...] = ()
    n_missing: int = 0
    read_as: str = field(default="", compare=False)
    warnings: tuple[ResultWarning, ...] = ()


def user_turn(text: str, *, num_images: int) -> tuple[Message, ...]:
    """A prompt of one user message: the image places first, then the text."""
    parts = (*(Part("image") for _ in range(num_images)), Part("text", text))
    return (Message("user", parts),)
