"""The tokenizer of a model folder: its files looked at before they are loaded, and it before it is used."""

from __future__ import annotations

import gc
import importlib.util
import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import nn
from transformers import PretrainedConfig

from mmpref.errors import ConfigError, library_errors
from mmpref.models.folder.contents import AGAIN, MOST_TOKENIZER, read_object
from mmpref.models.folder.processors import small_file
from mmpref.processing.embedded_tokens import note_rows
from mmpref.processing.tokenizer_parts import GrowthError, refuse_steps


@contextmanager
def explain_tokenizer(path: str | Path) -> Iterator[None]:
    """Look at the tokenizer's files before they are loaded, and name them where loading stumbles: libraries do not.

    Raises:
        ConfigError: a tokenizer.json that no text is to be given to.
    """
    for file in _tokenizer_files(path):
        with _without_collector():
            content = read_object(file, most=MOST_TOKENIZER)
        try:
            refuse_steps(content)
        except GrowthError as err:
            raise ConfigError(f"{file} {err}; {AGAIN}") from err
    _refuse_sentencepiece_alone(path)
    try:
        with _one_line_each():
            yield
    except Exception:
        file = Path(path) / "tokenizer.json"
        if file.exists():
            with library_errors(ConfigError, f"{file} cannot be read", AGAIN):
                json.loads(file.read_bytes().decode("utf-8"))
        raise


def _tokenizer_files(path: str | Path) -> list[Path]:
    """tokenizer.json, and those for other versions of transformers (tokenizer.4.0.0.json)."""
    if Path(path).is_dir():
        return sorted(Path(path).glob("tokenizer.*json"))
    found = small_file(path, "tokenizer.json")
    return [] if found is None else [found]


def _refuse_sentencepiece_alone(path: str | Path) -> None:
    """Refuse a file that a library which is not there would be needed for; transformers then asks for another one."""
    file = Path(path) / "tokenizer.model"
    if file.is_file() and not _tokenizer_files(path) and importlib.util.find_spec("sentencepiece") is None:
        raise ConfigError(
            f"{Path(path) / 'tokenizer.json'} is missing, and {file.name} cannot be read without the package "
            "sentencepiece: download the folder again with its tokenizer.json, or write one where sentencepiece is "
            "installed (AutoTokenizer.from_pretrained, save_pretrained)"
        )


@contextmanager
def _one_line_each() -> Iterator[None]:
    """Warnings of transformers in one line each, and none where loading fails: then the error says what there is."""
    kept: list[logging.LogRecord] = []

    def keep(record: logging.LogRecord) -> bool:
        if record not in kept:  # every handler asks
            kept.append(record)
        return False

    handlers = list(logging.getLogger("transformers").handlers)
    for handler in handlers:
        handler.addFilter(keep)
    try:
        yield
    finally:
        for handler in handlers:
            handler.removeFilter(keep)
    for record in kept:
        record.msg, record.args = " ".join(record.getMessage().split()), ()
        for handler in handlers:
            handler.handle(record)


@contextmanager
def _without_collector() -> Iterator[None]:
    """Python's collector takes half the time of reading a large vocabulary, and finds nothing there."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def whole_tokenizer(tokenizer: Any, config: PretrainedConfig, path: str | Path) -> Any:
    """The tokenizer, where it can write text and give it back.

    Raises:
        ConfigError: transformers makes an empty one where files are missing, and says nothing.
    """
    with library_errors(ConfigError, f"the tokenizer of {path} cannot be used", AGAIN):
        ids = tokenizer("a cat", add_special_tokens=False)["input_ids"]
        text = tokenizer.decode(ids)
    unknown = getattr(tokenizer, "unk_token_id", None)
    if not ids or not str(text).strip() or (len(tokenizer.get_vocab()) < 32 and all(one == unknown for one in ids)):
        raise ConfigError(f"the tokenizer of {path} has no words: its tokenizer.json is missing or empty; {AGAIN}")
    return tokenizer


def refuse_ids_beyond(processor: Any, model: nn.Module, path: str | Path) -> None:
    """Refuse a tokenizer that writes tokens for which the model has no embedding.

    Some published tokenizers have special tokens beyond the model's, which users' text never becomes: they are refused
    where the template or the ends of turns use them, and where a row holds one
    (:mod:`mmpref.processing.embedded_tokens`).

    Raises:
        ConfigError: with the first such token.
    """
    tokenizer: Any = getattr(processor, "tokenizer", processor)
    embeddings: Any = model.get_input_embeddings()  # type: ignore[operator]
    rows = int(getattr(embeddings, "num_embeddings", 0) or embeddings.weight.shape[0])
    vocabulary = tokenizer.get_vocab()
    with library_errors(ConfigError, f"the tokenizer of {path} cannot be used", AGAIN):
        beyond = [number for number in tokenizer("a cat")["input_ids"] if rows and number >= rows]
    if beyond and beyond[0] not in vocabulary.values():
        raise ConfigError(
            f"the tokenizer of {path} puts a token of number {beyond[0]} around every text (post_processor in "
            f"tokenizer.json), and the model has embeddings for {rows} tokens only: {AGAIN}"
        )
    if not rows or max(vocabulary.values(), default=0) < rows:
        return
    template = str(getattr(processor, "chat_template", None) or tokenizer.chat_template or "")
    special = {str(token) for token in tokenizer.added_tokens_decoder.values() if token.special}
    used = set(tokenizer.special_tokens_map.values()) | {getattr(processor, "image_token", None)}
    for token, number in sorted(vocabulary.items(), key=lambda entry: entry[1]):
        if number >= rows and (token not in special or token in used or token in template):
            raise ConfigError(
                f"the tokenizer of {path} has the token {token[:40]!r} with the number {number}, and the model has "
                f"embeddings for {rows} tokens only: use the tokenizer that belongs to this model, or save the model "
                "after resize_token_embeddings"
            )
    note_rows(tokenizer, rows)
