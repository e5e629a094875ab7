"""Model and adapter folders broken in every way that could be thought of, each from a whole one; seeded."""

from __future__ import annotations

import json
import os
import random
import shutil
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Break = Callable[[Path], None]
WEIGHTS = "model.safetensors"


@dataclass(frozen=True)
class Broken:
    """One way to break a folder; ``of`` says which kind of folder."""

    of: str
    name: str
    apply: Break

    def make(self, whole: Path, out: Path) -> Path:
        shutil.copytree(whole, out)
        self.apply(out)
        return out


# ---- whole files -------------------------------------------------------------------------------------------------


def _as(content: bytes) -> Callable[[Path], None]:
    def write(file: Path) -> None:
        file.write_bytes(content)

    return write


def _cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def _gone(file: Path) -> None:
    file.unlink()


def _pipe(file: Path) -> None:
    file.unlink()
    os.mkfifo(file)


def _folder(file: Path) -> None:
    file.unlink()
    file.mkdir()


def _loop(file: Path) -> None:
    file.unlink()
    file.symlink_to(file.name)


def _device(file: Path) -> None:
    file.unlink()
    file.symlink_to("/dev/zero")


def _endless(file: Path) -> None:
    with file.open("wb") as stream:
        stream.truncate(2**41)  # of nothing: the file system keeps no bytes of it


_FILES: dict[str, Callable[[Path], None]] = {
    "empty": _as(b""),
    "list": _as(b"[]"),
    "null": _as(b"null"),
    "text": _as(b'"model"'),
    "open": _as(b"{"),
    "pickle": _as(b"\x80\x04\x95\x0a\x00\x00\x00\x00\x00\x00\x00]\x94(K\x01K\x02e."),
    "latin": _as('{"name": "é"}'.encode("latin-1")),
    "deep": _as(b"[" * 100_000 + b"]" * 100_000),
    "deep object": _as(b'{"a":' * 100_000 + b"1" + b"}" * 100_000),
    "digits": _as(b'{"hidden_size": ' + b"9" * 5000 + b"}"),
    "cut": _cut,
    "pipe": _pipe,
    "folder": _folder,
    "loop": _loop,
    "device": _device,
    "endless": _endless,
}


# ---- values in a JSON file ---------------------------------------------------------------------------------------

# settings that make another whole model, which nothing in a folder contradicts
_ANOTHER_MODEL = (("vision_feature_layer", -1), ("lora_alpha", 1.5), ("dtype", None))
VALUES: tuple[Any, ...] = ("x", -1, 0, 10**12, 10**30, [], {}, None, True, 1.5, "\ud800", float("nan"), [[[]]])
_SHAPES = (
    "hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "intermediate_size",
    "vocab_size", "patch_size", "model_type", "image_token_index", "image_token_id", "vision_feature_layer", "dtype",
    "hidden_act", "depth", "embed_dim", "num_heads", "rope_parameters", "tie_word_embeddings", "architectures",
    "vision_config", "text_config", "quantization_config", "image_size", "vision_feature_select_strategy",
)  # fmt: skip


def _places(tree: Any, at: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    for key, value in tree.items():
        yield (*at, key)
        if isinstance(value, dict):
            yield from _places(value, (*at, key))


def _setter(file: str, place: tuple[Any, ...], value: Any) -> Break:
    def change(folder: Path) -> None:
        path = folder / file
        tree = json.loads(path.read_text())
        inner = tree
        for key in place[:-1]:
            inner = inner[key]
        inner[place[-1]] = value
        path.write_text(json.dumps(tree))

    return change


# ---- weights -----------------------------------------------------------------------------------------------------


def read_safetensors(file: Path) -> tuple[dict[str, Any], bytes]:
    raw = file.read_bytes()
    (size,) = struct.unpack("<Q", raw[:8])
    return json.loads(raw[8 : 8 + size]), raw[8 + size :]


def write_safetensors(file: Path, header: dict[str, Any], data: bytes) -> None:
    text = json.dumps(header).encode()
    file.write_bytes(struct.pack("<Q", len(text)) + text + data)


def _header(change: Callable[[dict[str, Any]], None], name: str) -> Break:
    def apply(folder: Path) -> None:
        header, data = read_safetensors(folder / name)
        change(header)
        write_safetensors(folder / name, header, data)

    return apply


def _tensor(header: dict[str, Any], number: int) -> str:
    names = sorted(name for name in header if name != "__metadata__" and len(header[name]["shape"]) == 2)
    return names[number % len(names)]


def _weights(name: str, number: int) -> dict[str, Break]:
    def of(change: Callable[[dict[str, Any], str], None]) -> Break:
        return _header(lambda header: change(header, _tensor(header, number)), name)

    def renamed(header: dict[str, Any], one: str) -> None:
        header[f"{one}x"] = header.pop(one)

    def turned(header: dict[str, Any], one: str) -> None:
        rows, columns = header[one]["shape"]
        header[one]["shape"] = [rows * columns, 1]

    def removed(folder: Path) -> None:
        from safetensors.torch import load_file, save_file

        tensors = load_file(folder / name)
        del tensors[sorted(tensors)[number % len(tensors)]]
        save_file(tensors, folder / name)

    def raw(change: Callable[[bytes], bytes]) -> Break:
        return lambda folder: (folder / name).write_bytes(change((folder / name).read_bytes())) and None  # type: ignore[func-returns-value]

    return {
        "cut data": raw(lambda content: content[:-100]),
        "cut header": raw(lambda content: content[:50]),
        "more data": raw(lambda content: content + b"0" * 64),
        "huge header": raw(lambda content: b"\xff" * 8 + content[8:]),
        "header of 10 GB": raw(lambda content: struct.pack("<Q", 10**10) + content[8:]),
        "zeros": raw(lambda content: bytes(len(content))),
        "header no JSON": raw(lambda content: content[:8] + b"}" + content[9:]),
        "unknown dtype": of(lambda header, one: header[one].update(dtype="F33")),
        "whole numbers": of(lambda header, one: header[one].update(dtype="I32")),
        "negative shape": of(lambda header, one: header[one].update(shape=[-1, 4])),
        "huge shape": of(lambda header, one: header[one].update(shape=[10**12, 10**12])),
        "offsets swapped": of(lambda header, one: header[one].update(data_offsets=header[one]["data_offsets"][::-1])),
        "other shape": of(turned),
        "other name": of(renamed),
        "one removed": removed,
        "no tensors": lambda folder: write_safetensors(folder / name, {}, b""),
    }


def _sharded(folder: Path, change: Callable[[dict[str, Any]], None]) -> None:
    header, _ = read_safetensors(folder / WEIGHTS)
    shard = "model-00001-of-00001.safetensors"
    (folder / WEIGHTS).rename(folder / shard)
    index: dict[str, Any] = {
        "metadata": {},
        "weight_map": {name: shard for name in header if name != "__metadata__"},
    }
    change(index)
    (folder / f"{WEIGHTS}.index.json").write_text(json.dumps(index))


def _index() -> dict[str, Break]:
    def of(change: Callable[[dict[str, Any]], None]) -> Break:
        return lambda folder: _sharded(folder, change)

    def first(value: Any) -> Callable[[dict[str, Any]], None]:
        return lambda index: index["weight_map"].update({next(iter(index["weight_map"])): value})

    def less(index: dict[str, Any]) -> None:
        index["weight_map"].pop(next(iter(index["weight_map"])))

    return {
        "index whole": of(lambda index: None),
        "index names a missing shard": of(first("model-00002-of-00002.safetensors")),
        "index leaves the folder": of(first("../../etc/passwd")),
        "index names a number": of(first(3)),
        "index names too much": of(lambda index: index["weight_map"].update(more="model-00001-of-00001.safetensors")),
        "index names too little": of(less),
        "index without a map": of(lambda index: index.pop("weight_map") and None),  # type: ignore[func-returns-value]
        "index map is a list": of(lambda index: index.update(weight_map=[])),
    }


def _other_formats() -> dict[str, Break]:
    def only(name: str) -> Break:
        return lambda folder: (folder / WEIGHTS).rename(folder / name) and None  # type: ignore[func-returns-value]

    return {
        "pickled .bin": only("pytorch_model.bin"),
        "pickled .pt": only("model.pt"),
        "pickled .pth": only("consolidated.00.pth"),
        "gguf": only("model-Q4_K_M.gguf"),
        "no weights": lambda folder: (folder / WEIGHTS).unlink(),
    }


# ---- tokenizer and template --------------------------------------------------------------------------------------


def _tokenizer(change: Callable[[dict[str, Any]], None]) -> Break:
    def apply(folder: Path) -> None:
        file = folder / "tokenizer.json"
        tree = json.loads(file.read_text())
        change(tree)
        file.write_text(json.dumps(tree))

    return apply


def _beyond(tree: dict[str, Any]) -> None:
    word = max(tree["model"]["vocab"], key=lambda key: tree["model"]["vocab"][key])
    tree["model"]["vocab"][word] = 999_999


_TOKENIZERS: dict[str, Break] = {
    "ids beyond the rows": _tokenizer(_beyond),
    "no vocabulary": _tokenizer(lambda tree: tree["model"].pop("vocab") and None),  # type: ignore[func-returns-value]
    "empty vocabulary": _tokenizer(lambda tree: tree["model"].update(vocab={}, merges=[])),
    "no model": _tokenizer(lambda tree: tree.pop("model") and None),  # type: ignore[func-returns-value]
    "unknown model": _tokenizer(lambda tree: tree["model"].update(type="Sorcery")),
    "a number too many": _tokenizer(lambda tree: tree["model"].update(vocab={"a": -1})),
    "merges of nothing": _tokenizer(lambda tree: tree["model"].update(merges=[["zz", "qq"]])),
}
TEMPLATES = {
    "large text": "{{ 'a' * 200000000 }}",
    "larger text": "{{ 'a' * 20000000000 }}",
    "doubling": "{% set n = namespace(x='a') %}{% for i in range(99) %}{% set n.x = n.x ~ n.x %}{% endfor %}",
    "nothing, for ever": "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
    "wide": "{{ 'a'.center(10**10) }}",
    "wide number": "{{ '%1000000000d' % 1 }}",
    "power": "{{ 9 ** (9 ** 9) }}",
    "macro in itself": "{% macro f(n) %}{{ f(n + 1) }}{% endmacro %}{{ f(0) }}",
    "list in itself": "{% set n = namespace(x=[1]) %}{% for i in range(60) %}{% set n.x = [n.x, n.x] %}{% endfor %}"
    "{{ n.x == n.x[:] }}{{ n.x }}",
    "replaced": "{% set a = 'a' * 10000000 %}{{ a.replace('a', a) }}",
    "brackets": "{{ " + "(" * 50_000 + "1" + ")" * 50_000 + " }}",
    "long": "a" * 50_000_000,
    "no template": "{% if %}",
    "empty": "",
    "many lines": "{% for i in range(99999) %}{% for j in range(99999) %}word {% endfor %}{% endfor %}",
}


def _template(text: str) -> Break:
    return lambda folder: (folder / "chat_template.jinja").write_text(text) and None  # type: ignore[func-returns-value]


# ---- all of them -------------------------------------------------------------------------------------------------


def ways(kind: str, whole: Path, *, seed: int = 0) -> list[Broken]:
    """Ways to break one whole folder.

    Args:
        kind: ``adapter``, or any name for a model folder.
    """
    draw = random.Random(f"{seed} {kind}")
    found: dict[str, Break] = {}
    is_adapter = kind == "adapter"
    weights = "adapter_model.safetensors" if is_adapter else WEIGHTS
    config = "adapter_config.json" if is_adapter else "config.json"
    files = [config, weights] if is_adapter else sorted(path.name for path in whole.iterdir() if path.is_file())
    for file in files:
        some = sorted(_FILES) if file == config else draw.sample(sorted(_FILES), 5)
        for name in some:
            found[f"{file}: {name}"] = lambda folder, file=file, name=name: _FILES[name](folder / file)  # type: ignore[misc]
        if file not in ("generation_config.json", "chat_template.jinja"):
            found[f"{file}: gone"] = lambda folder, file=file: _gone(folder / file)  # type: ignore[misc]
    found |= _weights(weights, draw.randrange(100))
    tree = json.loads((whole / config).read_text())
    if is_adapter:
        places = [
            ("r",),
            ("target_modules",),
            ("peft_type",),
            ("lora_alpha",),
            ("base_model_name_or_path",),
            ("task_type",),
        ]
    else:
        places = [place for place in _places(tree) if place[-1] in _SHAPES]
        found |= _index() | _other_formats() | _TOKENIZERS
        found |= {f"template: {name}": _template(text) for name, text in TEMPLATES.items()}
        for file, keys in {
            "generation_config.json": [("eos_token_id",), ("pad_token_id",), ("max_length",), ("temperature",)],
            "processor_config.json": [("processor_class",), ("image_processor",), ("patch_size",)],
            "tokenizer_config.json": [("tokenizer_class",), ("eos_token",), ("extra_special_tokens",)],
        }.items():
            for place in keys if (whole / file).exists() else ():
                for value in draw.sample(VALUES, 2):
                    found[f"{file}: {place[-1]} = {value!r}"[:60]] = _setter(file, place, value)
    for place in draw.sample(places, min(14, len(places))):
        for value in draw.sample(VALUES, 2):
            if (place[-1], value) in _ANOTHER_MODEL:
                continue
            found[f"{config}: {'.'.join(place)} = {value!r}"[:80]] = _setter(config, place, value)
    return [Broken(kind, name, apply) for name, apply in found.items()]
