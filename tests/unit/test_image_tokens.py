"""Image tokens by arithmetic are those that the processors of transformers reserve; words by our rule are what people
call words; differences put together are the text."""

from __future__ import annotations

import random
from types import SimpleNamespace

import numpy as np
import pytest

from mmpref.data.text_similarity import Piece, count_words, edit_similarity, jaccard, mark_differences, words
from mmpref.image_tokens import IMAGE_TOKENS, RULES, gemma4, glm4v, llava_next, llava_onevision, mistral3, qwen


def sizes(number: int = 400) -> list[tuple[int, int]]:
    draw = random.Random(0)
    widths = [int(10 ** draw.uniform(1, 3.7)) for _ in range(number)]
    return [(width, max(10, int(width * 10 ** draw.uniform(-1.5, 1.5)))) for width in widths]


def test_llava_next_as_its_processor_counts():
    from transformers.models.llava_next.processing_llava_next import LlavaNextProcessor

    grid = [[336, 672], [672, 336], [672, 672], [1008, 336], [336, 1008]]
    processor = LlavaNextProcessor.__new__(LlavaNextProcessor)
    processor.image_processor = SimpleNamespace(image_grid_pinpoints=grid)
    processor.patch_size, processor.num_additional_image_tokens = 14, 0
    for width, height in sizes():
        assert llava_next(width, height) == processor._get_number_of_features(height, width, 336, 336), (width, height)


def test_llava_onevision_as_its_processor_counts():
    from transformers.models.llava_onevision.processing_llava_onevision import LlavaOnevisionProcessor

    processor = LlavaOnevisionProcessor.__new__(LlavaOnevisionProcessor)
    grid = [[384 * high, 384 * wide] for high in range(1, 7) for wide in range(1, 7)]
    processor.image_processor = SimpleNamespace(image_grid_pinpoints=grid)
    processor.num_image_tokens, processor.vision_aspect_ratio = 729, "anyres_max_9"
    for width, height in sizes():
        wanted = processor._get_number_of_features(height, width, 384, 384)
        assert llava_onevision(width, height) == wanted, (width, height)


@pytest.mark.parametrize(
    ("name", "step", "low", "high"),
    [("Qwen2-VL, Qwen2.5-VL", 28, 3136, 12845056), ("Qwen3-VL", 32, 65536, 16777216)],
)
def test_qwen_as_its_processor_resizes(name, step, low, high):
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import smart_resize

    for width, height in [*sizes(), (10, 10), (9000, 9000), (10, 1999)]:
        resized = smart_resize(height, width, step, low, high)
        assert IMAGE_TOKENS[name](width, height) == resized[0] * resized[1] // step**2, (width, height)


def test_glm_as_its_processor_resizes():
    from transformers.models.glm4v.image_processing_pil_glm4v import smart_resize

    refused = 0
    for width, height in [*sizes(), (10, 10), (9000, 9000), (10, 1999)]:
        try:
            resized = smart_resize(2, height, width, max_pixels=9633792)
        except ValueError:
            refused += 1
            assert glm4v(width, height) is None, (width, height)
        else:
            assert glm4v(width, height) == resized[0] * resized[1] // 28**2, (width, height)
    assert refused < 10
    assert glm4v(20, 5000) is None


def test_gemma_4_as_its_processor_resizes():
    from transformers.models.gemma4.image_processing_pil_gemma4 import get_aspect_ratio_preserving_size

    for width, height in [*sizes(), (10, 10), (9000, 9000), (3000, 10), (10, 9999)]:
        high, wide = get_aspect_ratio_preserving_size(height, width, 16, 2520, 3)
        assert gemma4(width, height) == high * wide // 48**2, (width, height)


def test_mistral_3_as_its_processor_resizes():
    from transformers.models.pixtral.image_processing_pil_pixtral import get_resize_output_image_size

    for width, height in [*sizes(), (10, 10), (9000, 9000)]:
        shown = np.zeros((3, height, width), dtype=np.bool_)
        high, wide = get_resize_output_image_size(shown, (1540, 1540), (28, 28))
        assert mistral3(width, height) == high // 28 * (wide // 28 + 1), (width, height)


def test_qwen_refuses_a_strip():
    assert qwen(2001, 10, step=28, min_pixels=3136, max_pixels=10**7) is None


def test_every_family_has_its_rule_in_words():
    assert IMAGE_TOKENS.keys() == RULES.keys()
    assert {rule(640, 480) for name, rule in IMAGE_TOKENS.items() if name == "LLaVA-1.5"} == {576}


# --- words -----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("A cat's tail, red-brown.", ["A", "cat's", "tail", "red", "brown"]),
        ("図に猫がいる", list("図に猫がいる")),
        ("고양이", list("고양이")),
        ("3.5 m", ["3", "5", "m"]),
        (" \n", []),
    ],
)
def test_words(text, found):
    assert words(text) == found
    assert count_words(text) == len(found)


def longest_common(left: list[str], right: list[str]) -> int:
    table = [[0] * (len(right) + 1) for _ in range(len(left) + 1)]
    for i, first in enumerate(left):
        for j, second in enumerate(right):
            table[i + 1][j + 1] = table[i][j] + 1 if first == second else max(table[i][j + 1], table[i + 1][j])
    return table[-1][-1]


def test_edit_similarity_is_that_of_the_textbook_table():
    draw = random.Random(0)
    for _ in range(200):
        left, right = ([draw.choice("abcde") for _ in range(draw.randrange(80))] for _ in range(2))
        total = len(left) + len(right)
        assert edit_similarity(left, right) == pytest.approx(2 * longest_common(left, right) / total if total else 1)


def test_jaccard_counts_each_word_once():
    assert jaccard(["a", "a", "b"], ["a", "c"]) == pytest.approx(1 / 3)
    assert jaccard([], []) == 1


def test_differences_joined_are_the_texts():
    draw = random.Random(1)
    for _ in range(300):
        left, right = (
            "".join(draw.choice(["cat", "dog ", " a", ".", "\n", "猫", "<b>"]) for _ in range(draw.randrange(20)))
            for _ in range(2)
        )
        marked = mark_differences(left, right)
        assert ["".join(piece.text for piece in side) for side in marked] == [left, right]
        shared = [["".join(p.text.split()) for p in side if not p.differs] for side in marked]
        assert "".join(shared[0]) == "".join(shared[1])


def test_the_changed_words_are_marked_and_chance_is_not_common():
    chosen, rejected = mark_differences("There is a red car on the left.", "There is a blue truck on the left.")
    assert chosen == (Piece("There is a "), Piece("red car", True), Piece(" on the left."))
    assert rejected == (Piece("There is a "), Piece("blue truck", True), Piece(" on the left."))
    first, second = mark_differences("yellow the bird", "round the clock")
    assert [piece.differs for piece in (*first, *second)] == [True, True]


def test_equal_and_empty_texts_have_no_difference():
    assert mark_differences("a b", "a b") == ((Piece("a b"),), (Piece("a b"),))
    assert mark_differences("", "") == ((), ())
    assert mark_differences("", "x") == ((), (Piece("x", True),))
