"""Answers of a model in this process: in batches against one question at a time.

The models are random and never end an answer, so that each has exactly the tokens that were asked for. Time is that of
``mmpref eval``'s own answerer from questions to texts: images are prepared on the host meanwhile. Both ways answer the
same questions; how many answers are the same, token by token, stands beside the speed (in half precision a near tie may
turn with the size of a batch).
"""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from bench_models import image

from gpu_parts.case import GIB, Case, Context, Row
from gpu_parts.clock import Peak
from gpu_parts.random_models import LLAVA_7B, QWEN_3B, RandomModel, random_model
from mmpref.generation import BATCH_SIZE, AnswerSettings, TransformersAnswerer
from mmpref.models import LoadedModel
from mmpref.processing import PairEncoder
from mmpref.records import EvalSample, ImageRef, user_turn

TITLE = "answers in batches against one at a time"
BATCH = 16


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """How much is asked: ``batch`` questions in one batch, ``questions`` in batches as the answerer makes them, and the
    first ``alone`` of them one at a time.
    """

    batch: int
    questions: int
    alone: int
    new_tokens: int
    words: tuple[int, int]


REAL = Sizes(batch=BATCH, questions=32, alone=3, new_tokens=64, words=(20, 60))
TOY = Sizes(batch=3, questions=6, alone=4, new_tokens=6, words=(3, 12))


@dataclass(kw_only=True)
class Answers:
    """What one way of asking gave.

    Attributes:
        tokens: of each question's answer.
        batch: questions of the largest batch.
        seconds: from the questions to the last text.
        peak_gib: memory of the card at most, the weights with it.
    """

    tokens: dict[str, tuple[int, ...]] = field(default_factory=dict)
    batch: int = 0
    seconds: float = 0.0
    peak_gib: float = 0.0

    def figures(self) -> dict[str, Any]:
        count = sum(map(len, self.tokens.values()))
        return {
            "answers": len(self.tokens), "tokens": count, "answers_per_second": len(self.tokens) / self.seconds,
            "tokens_per_second": count / self.seconds, "peak_gib": self.peak_gib,
        }  # fmt: skip


def cases(context: Context) -> list[Case]:
    """The larger model last: it is left out where no time or no room is left."""
    return [
        Case(name=f"answers of {QWEN_3B}", run=partial(measure, QWEN_3B, context), seconds=12.0, needs_gib=14.0),
        Case(name=f"answers of {LLAVA_7B}", run=partial(measure, LLAVA_7B, context), seconds=12.0, needs_gib=20.0),
    ]


def measure(hub: str, context: Context) -> Iterator[Row]:
    """One row for batches of 16, one for batches as large as the answerer makes them by itself."""
    sizes = TOY if context.dry_run else REAL
    made = random_model(hub, tiny=context.dry_run)
    model = made.build(context.device, torch.float32 if context.dry_run else torch.bfloat16)
    model.generation_config.eos_token_id = None  # no answer ends by chance
    loaded = made.loaded(model)
    questions, images = ask(made, sizes)
    one_way = partial(answer, loaded, images, context=context, new_tokens=sizes.new_tokens)
    answer(loaded, images, questions[:2], batch_size=2, context=context, new_tokens=2)  # first-call work
    alone = one_way(questions[: sizes.alone], batch_size=1)
    for batch_size, count in ((sizes.batch, sizes.batch), (BATCH_SIZE, sizes.questions)):
        together = one_way(questions[:count], batch_size=batch_size)
        single, batched = alone.figures(), together.figures()
        yield {
            "case": f"{hub}, batches of {together.batch}", "model": hub, "batch": together.batch,
            "new_tokens": sizes.new_tokens, "image_tokens": made.image_tokens,
            "batched": batched, "one_at_a_time": single,
            "ratio": batched["answers_per_second"] / single["answers_per_second"],
            **agreement(alone.tokens, together.tokens),
            "host_ms_per_question": host_milliseconds(loaded, images, questions[: sizes.alone]),
        }  # fmt: skip


def ask(made: RandomModel, sizes: Sizes) -> tuple[list[EvalSample], dict[str, Any]]:
    """Questions of different lengths with an image each, and the images, drawn beforehand."""
    draw = random.Random(0)
    low, high = sizes.words
    questions = [
        EvalSample(
            id=str(number),
            images=(ImageRef(path=str(number)),),
            prompt=user_turn(" ".join(f"w{draw.randrange(100)}" for _ in range(draw.randint(low, high))), num_images=1),
        )
        for number in range(sizes.questions)
    ]
    return questions, {str(one.images[0].path): image(one.images[0], made.image) for one in questions}


def answer(
    loaded: LoadedModel,
    images: dict[str, Any],
    questions: Sequence[EvalSample],
    *,
    batch_size: int,
    context: Context,
    new_tokens: int,
) -> Answers:
    """All questions by mmpref's answerer; the tokens are read as they leave the model."""
    found = Answers()
    rows: list[tuple[int, ...]] = []
    model: Any = loaded.model
    generate = model.generate

    def read(**inputs: Any) -> Any:
        out = generate(**inputs)
        new = out[:, inputs["input_ids"].shape[1] :].tolist()
        found.batch = max(found.batch, len(new))
        rows.extend(map(tuple, new))
        return out

    settings = AnswerSettings(batch_size=batch_size, max_new_tokens=new_tokens)
    answerer = TransformersAnswerer(loaded, settings, load_image=lambda ref: images[str(ref.path)])
    model.generate = read
    try:
        with Peak(context.device) as peak:
            start = time.perf_counter()
            order = [one.id for one in answerer.answer(questions)]
            found.seconds = time.perf_counter() - start
    finally:
        del model.generate
    found.tokens = dict(zip(order, rows, strict=True))
    found.peak_gib = peak.peak / GIB
    return found


def agreement(alone: dict[str, tuple[int, ...]], together: dict[str, tuple[int, ...]]) -> dict[str, Any]:
    """Over the questions that both answered: the share of equal answers, and of tokens before the first difference."""
    pairs = [(alone[number], together[number]) for number in alone if number in together]
    same = [next((at for at, (a, b) in enumerate(zip(*pair, strict=True)) if a != b), len(pair[0])) for pair in pairs]
    return {
        "compared": len(pairs),
        "distinct": len(set(together.values())),
        "equal": sum(count == len(one) for count, (one, _) in zip(same, pairs, strict=True)) / len(pairs),
        "equal_tokens": sum(same) / sum(len(one) for one, _ in pairs),
    }


def host_milliseconds(loaded: LoadedModel, images: dict[str, Any], questions: Sequence[EvalSample]) -> float:
    """Milliseconds that the processor takes for one question with its image, one thread, the image in memory."""
    encoder = PairEncoder(loaded.processor, loaded.family)
    times = []
    for one in questions:
        start = time.perf_counter()
        encoder.encode_prompt(one.id, one.prompt, one.images, lambda ref: images[str(ref.path)])
        times.append(1000 * (time.perf_counter() - start))
    return statistics.median(times)


def line_of(row: Row) -> str:
    both = (row["batched"], row["one_at_a_time"])
    speeds = " and ".join(
        f"{one['answers_per_second']:.2f} answers/s ({one['tokens_per_second']:.0f} tokens/s)" for one in both
    )
    return (
        f"{row['case']}: {speeds} one at a time: x{row['ratio']:.1f}; {row['equal']:.0%} of {row['compared']} "
        f"answers equal; {row['host_ms_per_question']:.0f} ms of the host for a question"
    )
