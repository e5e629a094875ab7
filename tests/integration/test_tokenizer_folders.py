"""Tokenizers, templates and processors of model folders that take too much, or give the model what it does not have."""

from __future__ import annotations

import contextlib
import json
import logging
import pickle
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mmpref.errors import ConfigError
from mmpref.models.folder.tokenizer_files import explain_tokenizer
from mmpref.models.load import load, load_processor
from mmpref.processing import EncodeError, PairEncoder
from mmpref.processing.family import family_of
from tests.tiny_vlms import build, pair

Tree = dict[str, Any]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole folder of three kinds."""
    root = tmp_path_factory.mktemp("whole")
    for kind in ("llava", "qwen2_vl", "text"):
        build(kind, root / kind)
    return root


@pytest.fixture
def changed(whole: Path, tmp_path: Path) -> Callable[..., Path]:
    """``changed("llava", "tokenizer.json", change)``: a copy of a folder with another JSON file."""

    def copy(kind: str, name: str = "", change: Callable[[Tree], object] = lambda tree: None) -> Path:
        folder = tmp_path / "model"
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(whole / kind, folder)
        if name:
            tree = json.loads((folder / name).read_text())
            change(tree)
            (folder / name).write_text(json.dumps(tree))
        return folder

    return copy


# ---- tokenizers ----------------------------------------------------------------------------------------------------


def replace(old: str, new: str, kind: str = "String") -> Tree:
    return {"type": "Replace", "pattern": {kind: old}, "content": new}


def template(*pieces: Tree) -> Tree:
    special = {"<s>": {"id": "<s>", "ids": [1], "tokens": ["<s>"]}}
    pair = [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}]
    return {"type": "TemplateProcessing", "single": list(pieces), "pair": pair, "special_tokens": special}


A_TEXT = {"Sequence": {"id": "A", "type_id": 0}}
BYTES = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
DOUBLING = [replace("a", "aa")] * 40
GROWING: dict[str, tuple[str, Tree, str]] = {
    "doubled": ("normalizer", {"type": "Sequence", "normalizers": DOUBLING}, "can make more than 64 characters of one"),
    "inside": (
        "normalizer",
        {"type": "Sequence", "normalizers": [{"type": "Sequence", "normalizers": DOUBLING}]},
        "its normalizer and pre_tokenizer",
    ),
    "decoded": ("decoder", {"type": "Sequence", "decoders": DOUBLING}, r"its decoder, up to Replace"),
    "long": ("normalizer", replace("a", "b" * 10**6), "can make more than 64"),
    "long for a rare letter": ("normalizer", replace("\u00a7", "b" * 10**6), "can make more than 64"),
    "between letters": (
        "normalizer",
        {"type": "Sequence", "normalizers": [replace("x*", "b", "Regex")] * 40},
        "can make more than 64",
    ),
    "put before": ("normalizer", {"type": "Prepend", "prepend": "a" * 10**6}, "up to Prepend"),
    "bytes of bytes": ("pre_tokenizer", {"type": "Sequence", "pretokenizers": [BYTES] * 40}, "up to ByteLevel"),
    "written twice": (
        "post_processor",
        {"type": "Sequence", "processors": [template(A_TEXT, A_TEXT)] * 40},
        "writes a text more than once",
    ),
    "surrounded": (
        "post_processor",
        template(A_TEXT, *[{"SpecialToken": {"id": "<s>", "type_id": 0}}] * 1000),
        "puts 1,000 tokens around every text",
    ),
    "many steps": (
        "normalizer",
        {"type": "Sequence", "normalizers": [{"type": "NFC"}] * 100_000},
        "more than 64 steps",
    ),
    "going back": (
        "pre_tokenizer",
        {"type": "Split", "pattern": {"Regex": "(a+)+$"}, "behavior": "Isolated", "invert": False},
        "cannot tokenise plain text",
    ),
    "table that is none": (
        "normalizer",
        {"type": "Precompiled", "precompiled_charsmap": "AAAA"},
        "plain text",
    ),
    "table of 4 GiB": (
        "normalizer",
        {"type": "Precompiled", "precompiled_charsmap": "/////wAAAAAA"},
        "cannot tokenise plain text: it cannot be run",
    ),
}


@pytest.mark.parametrize("name", GROWING)
def test_a_tokenizer_that_writes_far_more_than_it_reads_is_refused_before_it_is_used(
    changed: Callable[..., Path], name: str
) -> None:
    part, step, words = GROWING[name]
    folder = changed("text", "tokenizer.json", lambda tree: tree.update({part: step}))
    with pytest.raises(ConfigError, match=f"tokenizer.json .*{words}") as caught:
        load_processor(folder)
    assert str(caught.value).isprintable()


STOCK: dict[str, Tree] = {
    "llama": {
        "normalizer": {"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": "▁"}, replace(" ", "▁")]},
        "pre_tokenizer": None,
        "decoder": {
            "type": "Sequence",
            "decoders": [
                replace("▁", " "),
                {"type": "ByteFallback"},
                {"type": "Fuse"},
                {"type": "Strip", "content": " ", "start": 1, "stop": 0},
            ],
        },
    },
    "clip": {
        "normalizer": {
            "type": "Sequence",
            "normalizers": [{"type": "NFC"}, replace(r"\s+", " ", "Regex"), {"type": "Lowercase"}],
        },
    },
    "albert": {
        "normalizer": {
            "type": "Sequence",
            "normalizers": [replace("``", '"'), replace("''", '"'), {"type": "NFKD"}, {"type": "StripAccents"}],
        },
    },
    "llama 3": {
        "pre_tokenizer": {
            "type": "Sequence",
            "pretokenizers": [
                {
                    "type": "Split",
                    "pattern": {
                        "Regex": r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| "
                        r"?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
                    },
                    "behavior": "Isolated",
                    "invert": False,
                },
                BYTES,
            ],
        },
        "post_processor": {
            "type": "Sequence",
            "processors": [BYTES, template({"SpecialToken": {"id": "<s>", "type_id": 0}}, A_TEXT)],
        },
    },
}


@pytest.mark.parametrize("name", STOCK)
def test_steps_that_models_are_published_with_pass(changed: Callable[..., Path], name: str) -> None:
    folder = changed("text", "tokenizer.json", lambda tree: tree.update(STOCK[name]))
    assert load_processor(folder)("a cat")["input_ids"]


def test_merges_without_the_prefix_are_one_line(
    changed: Callable[..., Path], capfd: pytest.CaptureFixture[str]
) -> None:
    folder = changed("text", "tokenizer.json", lambda tree: tree["model"].update(continuing_subword_prefix="x" * 99))
    with pytest.raises(ConfigError, match=r"tokenizer\.json merges tokens with .*no continuing_subword_prefix 'xx"):
        load_processor(folder)
    assert "panicked" not in capfd.readouterr().err


def test_a_tokenizer_that_draws_its_tokens_is_refused(changed: Callable[..., Path]) -> None:
    folder = changed("text", "tokenizer.json", lambda tree: tree["model"].update(dropout=0.5))
    with pytest.raises(ConfigError, match=r"tokenizer\.json says dropout: 0\.5"):
        load_processor(folder)


def added(content: str, *, special: bool) -> Callable[[Tree], None]:
    """Adds a token as one does who forgets to resize the embeddings."""
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)

    def change(tree: Tree) -> None:
        number = max(tree["model"]["vocab"].values()) + 1
        tree["added_tokens"].append({"id": number, "content": content, "special": special, **flags})

    return change


def test_an_added_token_that_text_becomes_needs_an_embedding(changed: Callable[..., Path]) -> None:
    folder = changed("llava", "tokenizer.json", added("cat", special=False))
    with pytest.raises(
        ConfigError, match=r"the token 'cat' with the number \d+, and the model has embeddings for \d+ .*resize_token"
    ):
        load(folder)


def test_a_token_around_every_text_needs_an_embedding(changed: Callable[..., Path]) -> None:
    around = {"type": "RobertaProcessing", "sep": ["<s>", 1], "cls": ["<s>", 99_999]}
    around |= {"trim_offsets": True, "add_prefix_space": False}
    folder = changed("llava", "tokenizer.json", lambda tree: tree.update(post_processor=around))
    with pytest.raises(ConfigError, match=r"puts a token of number 99999 around every text \(post_processor"):
        load(folder)


def test_a_special_token_without_an_embedding_is_refused_where_a_row_holds_it(changed: Callable[..., Path]) -> None:
    folder = changed("llava", "tokenizer.json", added("<|more|>", special=True))
    loaded = load(folder)
    encoder = PairEncoder(loaded.processor, loaded.family)
    encoder.encode_text(pair(chosen="it is <|more|> ."))  # as letters
    file = folder / "chat_template.jinja"
    file.write_text("{{ '<|mo' ~ 're|>' }}" + file.read_text())
    loaded = load(folder)
    encoder = pickle.loads(pickle.dumps(PairEncoder(loaded.processor, loaded.family)))  # as loader workers have it
    with pytest.raises(EncodeError, match=r"'p' is written with the token '<\|more\|>' of number \d+.*control_token"):
        encoder.encode_text(pair())


@pytest.mark.parametrize(
    ("steps", "given", "becomes"),
    [
        ([{"type": "Lowercase"}], "A Cat .", r"'A Cat \.' becomes 'a cat \."),
        ([replace(" +", " ", "Regex")], "a  cat .", r"'a  cat \.' becomes 'a cat \."),
        ([replace("\n", " ")], "a\ncat .", r"'a\\ncat \.' becomes 'a cat \."),
        ([{"type": "NFKC"}], "\u2460 cat .", r"' cat \.' becomes '1 cat \.|'\u2460 cat \.' becomes '1 cat \."),
        ([], "A  Cat\n.", None),
        ([{"type": "Strip", "strip_left": True, "strip_right": True}], "a cat .", None),
    ],
)
def test_answers_that_the_tokenizer_changes_are_told_once(
    changed: Callable[..., Path], steps: list[Tree], given: str, becomes: str | None
) -> None:
    normalizer = {"type": "Sequence", "normalizers": steps}
    folder = changed("llava", "tokenizer.json", lambda tree: tree.update(normalizer=normalizer if steps else None))
    encoder = PairEncoder(load_processor(folder), family_of("llava", has_vision=True))
    encoder.encode_text(pair(chosen=given, rejected="no ."))
    told = encoder.chat.notes.get("changed", "")
    assert re.search(becomes or "^$", told), told


def test_blanks_that_the_tokenizer_drops_are_told_once(changed: Callable[..., Path]) -> None:
    strip = {"type": "Strip", "strip_left": True, "strip_right": True}
    folder = changed("llava", "tokenizer.json", lambda tree: tree.update(normalizer=strip))
    encoder = PairEncoder(load_processor(folder), family_of("llava", has_vision=True))
    encoder.encode_text(pair())
    assert "drops blanks that the chat template writes" in encoder.chat.notes["joined"]
    assert "(first seen in 'p')" in encoder.chat.notes["joined"]


# ---- templates -----------------------------------------------------------------------------------------------------


@pytest.fixture
def encoder_with(changed: Callable[..., Path]) -> Callable[..., PairEncoder]:
    """``encoder_with("{{ 'x' }}")``: an encoder whose template writes more before the conversation."""

    def made(before: str) -> PairEncoder:
        folder = changed("llava")
        file = folder / "chat_template.jinja"
        file.write_text(before + file.read_text(), encoding="utf-8")
        return PairEncoder(load_processor(folder), family_of("llava", has_vision=True))

    return made


@pytest.mark.parametrize(
    ("before", "words"),
    [
        ("{{ '\\ud800' }}", r"\(chat_template\.jinja\) writes half a character \(U\+D800\)"),
        (
            "{{ 'ab ' * 330000 }}",
            r"\(chat_template\.jinja\) writes 990,\d+ characters .* are the most for so short",
        ),
        ("{{ 'a' * 25000 }}", r"\(chat_template\.jinja\) writes 25,\d+ characters"),
        ("{{ raise_exception }}", r"\(chat_template\.jinja\) writes an object that has no text"),
        ("{{ cycler('a', 'b') }}", r"\(chat_template\.jinja\) writes an object that has no text"),
        ("{{ raise_exception('\\ud800') }}", r"which refuses it: \\ud800"),
        ("\ufeff", r"\(chat_template\.jinja\) begins with a byte order mark"),
    ],
)
def test_a_template_that_writes_what_no_prompt_may_hold_is_named(
    encoder_with: Callable[..., PairEncoder], before: str, words: str
) -> None:
    with pytest.raises(ConfigError, match=words) as caught:
        encoder_with(before).encode_text(pair())
    assert str(caught.value).isprintable()


def test_long_texts_and_tools_of_rows_are_no_fault_of_the_template(
    encoder_with: Callable[..., PairEncoder], changed: Callable[..., Path]
) -> None:
    encoder = encoder_with("{{ 'a' * 15000 }}{{ tools | tojson(indent=4) if tools else '' }}")
    schema: Tree = {"type": "object", "properties": {f"p{n}": {"type": "string"} for n in range(300)}}
    tools = [{"type": "function", "function": {"name": "look", "description": "见" * 3000, "parameters": schema}}]
    turns = encoder.encode_text(pair(question="what ? " * 6000, template_kwargs={"tools": tools}))
    assert len(turns.text) > 60_000
    said = "<function f at 0x7f6680d89bc0> is an address"
    assert said in encoder.encode_text(pair(question=said)).text  # as users' texts may have it


def test_random_words_of_a_template_are_the_same_every_time(encoder_with: Callable[..., PairEncoder]) -> None:
    first, second = (
        encoder_with("{{ lipsum(n=1) }}{{ range(99999) | random }}").encode_text(pair()).text for _ in range(2)
    )
    assert first == second


def test_a_function_that_a_template_lacks_is_not_advised_as_a_setting(encoder_with: Callable[..., PairEncoder]) -> None:
    encoder = encoder_with("{{ now() }}")
    with pytest.raises(ConfigError, match="'now' is undefined; it has no switches"):
        encoder.encode_text(pair())
    with pytest.raises(EncodeError, match="calls 'now' as a function, and no value can be one"):
        encoder.encode_text(pair(template_kwargs={"now": "2026"}))


# ---- image processors ----------------------------------------------------------------------------------------------

ODD_SETTINGS: list[tuple[str, str, Tree, str]] = [
    ("llava", "", {"num_additional_image_tokens": "1"}, "num_additional_image_tokens: '1', and a whole number from 0"),
    ("llava", "", {"num_additional_image_tokens": 10**9}, "num_additional_image_tokens: 1000000000"),
    ("llava", "", {"num_additional_image_tokens": True}, "num_additional_image_tokens: True"),
    ("llava", "", {"patch_size": "14"}, "patch_size: '14'"),
    ("llava", "image", {"do_pad": True, "pad_size": {"height": 10**5, "width": 10**5}}, r"pad_size\.height: 100000"),
    ("llava", "image", {"crop_size": {"height": 8000, "width": 8000}}, r"crop_size: .*16,777,216 pixels at most"),
    ("llava", "image", {"size": [10**6, 28]}, r"size\.0: 1000000"),
    ("llava", "image", {"do_resize": "no"}, "do_resize: 'no', and true or false"),
    ("llava", "image", {"resample": 99}, "resample: 99"),
    ("llava", "image", {"image_grid_pinpoints": [[28, 10**7]]}, r"image_grid_pinpoints\.1: 10000000"),
    ("llava", "image", {"max_image_tiles": 10**6}, "max_image_tiles: 1000000"),
    ("qwen2_vl", "image", {"merge_size": 10**9}, "merge_size: 1000000000"),
    ("qwen2_vl", "image", {"temporal_patch_size": 2.0}, r"temporal_patch_size: 2\.0"),
    ("qwen2_vl", "image", {"size": {"shortest_edge": 10**8, "longest_edge": 10**8}}, r"size\.shortest_edge: 100000000"),
    ("qwen2_vl", "image", {"max_pixels": 10**12}, "max_pixels: 1000000000000"),
    ("qwen2_vl", "image", {"image_seq_length": -1}, "image_seq_length: -1"),
]


@pytest.mark.parametrize(("kind", "where", "settings", "words"), ODD_SETTINGS)
def test_numbers_of_image_processors_that_cannot_be_meant_are_refused_by_key(
    changed: Callable[..., Path], kind: str, where: str, settings: Tree, words: str
) -> None:
    folder = changed(
        kind,
        "processor_config.json",
        lambda tree: (tree["image_processor"] if where else tree).update(settings),
    )
    with pytest.raises(ConfigError, match=rf"processor_config\.json says {words}"):
        load_processor(folder)


@pytest.mark.parametrize("key", ["patch_size", "merge_size", "temporal_patch_size"])
def test_patches_of_another_tower_are_refused(changed: Callable[..., Path], key: str) -> None:
    folder = changed("qwen2_vl", "processor_config.json", lambda tree: tree["image_processor"].update({key: 1}))
    with pytest.raises(ConfigError, match=rf"has {key} 1, and its config\.json has \w+ \d+: the vision tower"):
        load_processor(folder)


# ---- one line that names the file ----------------------------------------------------------------------------------


@pytest.mark.parametrize("encoding", ["utf-16", "latin-1"])
@pytest.mark.parametrize("name", ["chat_template.jinja", "additional_chat_templates/z.jinja"])
def test_a_template_that_is_no_utf_8_is_named(changed: Callable[..., Path], name: str, encoding: str) -> None:
    file = changed("text") / name
    file.parent.mkdir(exist_ok=True)
    file.write_bytes("{{ 'é' }}".encode(encoding))
    with pytest.raises(ConfigError, match=rf"{name} is no UTF-8 text: .*save it as UTF-8"):
        load_processor(file.parent if "/" not in name else file.parent.parent)


def test_a_sentencepiece_file_alone_is_one_line(
    changed: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    folder = changed("text")
    (folder / "tokenizer.json").unlink()
    (folder / "tokenizer.model").write_bytes(b"\0rubbish")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"tokenizer\.json is missing, and tokenizer\.model cannot be read without"):
        load_processor(folder)
    monkeypatch.undo()
    monkeypatch.setattr("mmpref.models.folder.tokenizer_files._refuse_sentencepiece_alone", lambda path: None)
    with pytest.raises(ConfigError, match=str(folder)):  # as where the package is there
        load_processor(folder)
    assert capfd.readouterr().err == ""


def test_a_warning_of_several_lines_is_one_and_none_beside_an_error(changed: Callable[..., Path]) -> None:
    said: list[str] = []

    class Keep(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            said.append(record.getMessage())

    folder, logger, keep = changed("text"), logging.getLogger("transformers"), Keep()
    logger.addHandler(keep)
    try:
        with explain_tokenizer(folder):
            logger.warning("first %s\nthird", "second")
        with contextlib.suppress(KeyError), explain_tokenizer(folder):
            logger.warning("it is\nbroken")
            raise KeyError
    finally:
        logger.removeHandler(keep)
    assert said == ["first second third"]
