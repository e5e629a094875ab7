"""The settings of papers by name (``mmpref eval --setting opera_512``): options, length of answers and images."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mmpref.errors import ConfigError, DataError
from mmpref.evals.benchmarks.contract import Benchmark, Draw, NamedSetting
from mmpref.files.rows import choose
from mmpref.records import EvalSample


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What a setting comes to with what was given beside it: the options, and the limit of new tokens."""

    setting: NamedSetting | None
    options: Mapping[str, Any]
    max_new_tokens: int | None


def setting_named(benchmark: Benchmark[Any], name: str) -> NamedSetting:
    """The setting of a benchmark.

    Raises:
        ConfigError: it has none of this name.
    """
    if not benchmark.settings:
        raise ConfigError(f"{benchmark.name} has no named settings; leave --setting out")
    known = {setting.name: setting for setting in benchmark.settings}
    return known[choose(name, known, f"setting of {benchmark.name}")]


def with_setting(
    benchmark: Benchmark[Any], name: str | None, options: Mapping[str, Any], max_new_tokens: int | None
) -> Asked:
    """The options and the limit of new tokens under a setting.

    Args:
        name: of the setting; None: there is none, and everything is as it was given.
        options, max_new_tokens: what was given beside it.

    Raises:
        ConfigError: no such setting, or something was given that contradicts it.
    """
    if name is None:
        return Asked(setting=None, options=options, max_new_tokens=max_new_tokens)
    setting = setting_named(benchmark, name)
    wanted = dict(setting.options)
    for key, value in wanted.items():
        if key in options and options[key] != value:
            raise ConfigError(
                f"setting {name} of {benchmark.name} has {key}={value!r}, and {key}={options[key]!r} was given beside "
                f"it: leave one of both out"
            )
    tokens = setting.max_new_tokens
    if None not in (tokens, max_new_tokens) and tokens != max_new_tokens:
        raise ConfigError(
            f"setting {name} of {benchmark.name} has {tokens} new tokens, and --max-new-tokens {max_new_tokens} was "
            "given beside it: leave one of both out"
        )
    if setting.draw is None and options.get(setting.file_option) is None:
        raise ConfigError(
            f"setting {name} of {benchmark.name} asks about the images of a file: {setting.left_open}; pass "
            f"{setting.file_option}=FILE"
        )
    return Asked(
        setting=setting,
        options={**options, **wanted},
        max_new_tokens=max_new_tokens if tokens is None else tokens,
    )


def images_of_setting(
    samples: tuple[EvalSample, ...], setting: NamedSetting | None, options: Mapping[str, Any]
) -> tuple[EvalSample, ...]:
    """The questions about the images that a setting draws, or all where a file said which.

    Raises:
        DataError: there are fewer images than it draws, the file names another number of images, or asks otherwise.
    """
    if setting is None:
        return samples
    source = options.get(setting.file_option)
    if source is None and setting.draw is not None:
        return draw_images(samples, setting.draw, f"setting {setting.name}")
    images = {_image(sample) for sample in samples}
    if len(images) != setting.num:
        raise DataError(
            f"setting {setting.name} asks about {setting.num} images, and {setting.file_option} names {len(images)}; "
            "leave --setting out and give its prompt and --max-new-tokens instead"
        )
    prompt = setting.options.get("prompt")
    if prompt is not None and (other := next((s for s in samples if s.prompt[-1].text != prompt), None)):
        raise DataError(
            f"setting {setting.name} asks {prompt!r}, and {setting.file_option} asks {other.prompt[-1].text!r} about "
            f"image '{_image(other)}'; leave the text out of its rows, or --setting"
        )
    return samples


def draw_images(samples: Sequence[EvalSample], draw: Draw, what: str) -> tuple[EvalSample, ...]:
    """The samples about images that are drawn, in the order in which the images were drawn.

    Args:
        what: who draws, for the message.

    Raises:
        DataError: there are fewer images than are to be drawn.
    """
    by_image: dict[str, list[EvalSample]] = {}
    for sample in samples:
        by_image.setdefault(_image(sample), []).append(sample)
    names = [name for name in by_image if draw.of in name]
    if draw.by_name:
        names.sort()
    if len(names) < draw.num:
        of = f" with '{draw.of}' in their name" if draw.of else ""
        raise DataError(f"{what} draws {draw.num} images, and the questions are about {len(names)}{of}")
    return tuple(sample for name in random.Random(draw.seed).sample(names, draw.num) for sample in by_image[name])


def _image(sample: EvalSample) -> str:
    return str(sample.images[0].path) if sample.images and sample.images[0].path else sample.id


def setting_facts(setting: NamedSetting, options: Mapping[str, Any], limit: int | None) -> dict[str, Any]:
    """What ``results.json`` says of the setting; ``whole`` is false where a limit cut its questions."""
    source = options.get(setting.file_option)
    by_rule = setting.draw.rule if setting.draw is not None and source is None else None
    return {
        "name": setting.name if limit is None else f"part of {setting.name}",
        "source": setting.source,
        "images": by_rule or f"{setting.num} images of {setting.file_option}={source}",
        "left_open": setting.left_open,
        "whole": limit is None,
    }


def setting_note(facts: Mapping[str, Any]) -> str:
    """The same as one sentence for the notes."""
    if not facts["whole"]:
        return f"only {facts['name']} was asked (limit): these are not the numbers of that setting"
    return f"asked as setting {facts['name']} ({facts['source']}): {facts['images']}; {facts['left_open']}"
