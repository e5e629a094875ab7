"""Log-probs in either layout are those of the model run by hand, one sequence at a time."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mmpref.models import LoadedModel, load, pair_logps
from mmpref.models.logps import answer_logps as answer_module
from mmpref.models.logps.answer_logps import answer_logps
from mmpref.processing import LayoutName, PairBatch, PairCollator, PairEncoder
from mmpref.records import PreferencePair
from tests.tiny_vlms import TINY, VISION, build, draw, pair, refs, turn

FAMILIES = tuple(name for name in TINY if name != "llava_vicuna")
PAIRS = (
    pair("one", score_chosen=4.0, score_rejected=2.0),
    pair("two", images=("40x60-2", "60x28-3"), chosen="yes", rejected="no , it is not ."),
    pair("none", images=(), question="is there a dog ?", chosen="there is no dog .", rejected="yes"),
    pair(
        "turns",
        images=("60x40-4",),
        prompt=(
            turn("system", "describe it ."),
            turn("user", None, "what is it ?"),
            turn("assistant", "a red square ."),
            turn("user", "and the background ?"),
        ),
        chosen="a blue background .",
        rejected="green .",
    ),
)


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Any:
    made: dict[str, LoadedModel] = {}

    def get(name: str) -> LoadedModel:
        if name not in made:
            made[name] = load(build(name, tmp_path_factory.mktemp("models") / name))
        return made[name]

    return get


def rows_for(name: str) -> list[PreferencePair]:
    return [p for p in PAIRS if not p.images] if name == "text" else list(PAIRS)


def collator_for(loaded: LoadedModel, layout: LayoutName | None = None) -> PairCollator:
    return PairCollator(PairEncoder(loaded.processor, loaded.family), draw, layout=layout)


def token_logps(model: Any, batch: PairBatch, **options: Any) -> torch.Tensor:
    return batch.by_answer(answer_logps(model, batch, **options))


def by_hand(loaded: LoadedModel, row: PreferencePair, answer: str) -> tuple[float, int]:
    """The stock processor over the whole conversation, the stock model over all positions, one sequence."""
    images = iter(draw(ref) for ref in row.images)
    conversation: list[dict[str, Any]] = []
    for message in row.prompt:
        content: Any = message.text
        if loaded.family.has_vision:
            content = [
                {"type": "image", "image": next(images)}
                if part.kind == "image"
                else {"type": "text", "text": part.text}
                for part in message.parts
            ]
        conversation.append({"role": message.role, "content": content})
    last: Any = [{"type": "text", "text": answer}] if loaded.family.has_vision else answer
    full = [*conversation, {"role": "assistant", "content": last}]

    def ids(turns: list[dict[str, Any]], **options: Any) -> Any:
        return loaded.processor.apply_chat_template(
            turns, tokenize=True, return_dict=True, return_tensors="pt", **options
        )

    start = ids(conversation, add_generation_prompt=True)["input_ids"].shape[1]
    inputs = ids(full)
    end = inputs["input_ids"].shape[1] - 1  # the template closes with "<|im_end|>\n": no model is asked for the newline
    with torch.no_grad():
        logps = loaded.model(**inputs).logits.float().log_softmax(-1)[0]
    targets = inputs["input_ids"][0]
    return sum(logps[t - 1, targets[t]].item() for t in range(start, end)), end - start


LAYOUTS = [(name, "plain") for name in FAMILIES] + [(name, "shared_prefix") for name in FAMILIES if name != "gemma3"]


@pytest.mark.parametrize(("name", "layout"), LAYOUTS)
def test_a_batch_equals_each_sequence_by_hand(name: str, layout: LayoutName, folder: Any) -> None:
    loaded = folder(name)
    rows = rows_for(name)
    batch = collator_for(loaded, layout)(rows)
    assert batch.shares_prefix == (layout == "shared_prefix")
    got = pair_logps(loaded.model, batch)
    for i, row in enumerate(rows):
        want, count = by_hand(loaded, row, row.chosen)
        assert got.chosen[i].item() == pytest.approx(want, abs=2e-5)
        assert got.chosen_len[i].item() == count
        want, count = by_hand(loaded, row, row.rejected or "")
        assert got.rejected is not None
        assert got.rejected[i].item() == pytest.approx(want, abs=2e-5)


@pytest.mark.parametrize(("name", "layout"), LAYOUTS)
def test_padded_and_packed_equal_single(name: str, layout: LayoutName, folder: Any) -> None:
    loaded = folder(name)
    rows = rows_for(name)
    collate = collator_for(loaded, layout)
    together = token_logps(loaded.model, collate(rows))
    for i, row in enumerate(rows):
        alone = token_logps(loaded.model, collate([row]))
        for part, whole in ((alone[0], together[i]), (alone[1], together[len(rows) + i])):
            torch.testing.assert_close(whole[whole != 0], part[part != 0], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", VISION)
def test_the_image_changes_the_answer(name: str, folder: Any) -> None:
    loaded = folder(name)
    collate = collator_for(loaded)
    seen = pair_logps(loaded.model, collate([pair(images=("28x28-1",))]))
    other = pair_logps(loaded.model, collate([pair(images=("28x28-5",))]))
    assert (seen.chosen - other.chosen).abs().item() > 1e-3


def test_a_text_row_through_a_vision_model_is_the_text_path(folder: Any) -> None:
    """Batched with an image row or run by the language model alone, a text row has the same log-probs."""
    loaded = folder("llava")
    mixed = pair_logps(loaded.model, collator_for(loaded)([PAIRS[0], PAIRS[2]]))
    batch = collator_for(loaded, "plain")([PAIRS[2]])
    assert not batch.vision
    with torch.no_grad():
        hidden = loaded.model.model.language_model(
            input_ids=batch.input_ids, attention_mask=batch.attention_mask
        ).last_hidden_state
        logps = loaded.model.lm_head(hidden).log_softmax(-1).flatten(0, 1)
    sums = batch.by_answer(logps[batch.predicts, batch.targets]).sum(1)
    assert mixed.chosen[1].item() == pytest.approx(sums[0].item(), abs=1e-5)


def test_different_images_on_the_rejected_side(folder: Any) -> None:
    loaded = folder("qwen2_vl")
    collate = collator_for(loaded)
    row = pair(images=("28x28-1",), rejected_images=refs("60x60-5"))
    got = pair_logps(loaded.model, collate([row]))
    plain = pair_logps(loaded.model, collate([pair(images=("60x60-5",))]))
    assert got.rejected is not None
    assert plain.rejected is not None
    assert got.rejected.item() == pytest.approx(plain.rejected.item(), abs=1e-5)
    assert got.chosen.item() == pytest.approx(
        pair_logps(loaded.model, collate([pair(images=("28x28-1",))])).chosen.item(), abs=1e-5
    )


def test_demonstrations_have_one_row_each(folder: Any) -> None:
    loaded = folder("llava")
    collate = PairCollator(PairEncoder(loaded.processor, loaded.family), draw, need_rejected=False)
    batch = collate([pair("a", rejected=None), pair("b")])
    assert batch.answers.shape[0] == len(batch) == 2
    got = pair_logps(loaded.model, batch)
    assert got.rejected is None
    assert got.rejected_len is None
    both = pair_logps(loaded.model, collator_for(loaded)([pair("b")]))
    assert got.chosen[1].item() == pytest.approx(both.chosen[0].item(), abs=1e-5)


def test_scores_ride_along_and_missing_ones_are_nan(folder: Any) -> None:
    loaded = folder("llava")
    got = pair_logps(loaded.model, collator_for(loaded)([PAIRS[0], PAIRS[2]]))
    assert got.chosen_score is not None
    assert got.rejected_score is not None
    assert got.chosen_score[0].item() == 4.0
    assert got.chosen_score[1].isnan()
    assert got.rejected_score[0].item() == 2.0
    assert pair_logps(loaded.model, collator_for(loaded)([PAIRS[2]])).chosen_score is None


@pytest.mark.parametrize("layout", ["plain", "shared_prefix"])
@pytest.mark.parametrize("name", ["llava", "qwen2_vl"])
def test_the_tiled_head_and_every_way_to_logits_agree(
    name: str, layout: LayoutName, folder: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Logits by mask; by position, as older releases take them; all of them, where a model takes neither."""
    loaded = folder(name)
    batch = collator_for(loaded, layout)(rows_for(name))
    want = token_logps(loaded.model, batch)
    torch.testing.assert_close(token_logps(loaded.model, batch, through_logits=True), want, atol=1e-5, rtol=1e-5)
    monkeypatch.setattr(answer_module, "_TAKES_MASK", False)
    torch.testing.assert_close(token_logps(loaded.model, batch, through_logits=True), want, atol=1e-5, rtol=1e-5)
    monkeypatch.setattr(answer_module, "_takes_logits_to_keep", lambda _: False)
    torch.testing.assert_close(token_logps(loaded.model, batch, through_logits=True), want, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", ["llava", "qwen2_vl"])
def test_gradient_equals_the_stock_loss(name: str, folder: Any) -> None:
    """The chosen side alone is the negative of transformers' own summed cross-entropy, gradients included."""
    loaded = folder(name)
    model = loaded.model
    encoder = PairEncoder(loaded.processor, loaded.family)
    batch = PairCollator(encoder, draw, layout="plain", need_rejected=False)([PAIRS[0], PAIRS[1]])
    weights = [p for n, p in model.named_parameters() if "language_model" in n or "lm_head" in n]
    for weight in weights:
        weight.requires_grad_(True)
    try:
        ours = torch.autograd.grad(-pair_logps(model, batch).chosen.sum(), weights)
        labels = torch.full_like(batch.input_ids, -100)
        labels.view(-1)[batch.predicts + 1] = batch.targets
        mean = model(**batch.model_inputs(), labels=labels).loss
        stock = torch.autograd.grad(mean * batch.answer_lens.sum(), weights)
    finally:
        model.requires_grad_(False)
    difference = torch.cat([(a - b).flatten() for a, b in zip(ours, stock, strict=True)]).norm()
    assert difference / torch.cat([b.flatten() for b in stock]).norm() < 1e-5


def test_autocast_gives_float32_sums(folder: Any) -> None:
    loaded = folder("llava")
    batch = collator_for(loaded)([PAIRS[0]])
    want = pair_logps(loaded.model, batch).chosen
    with torch.autocast("cpu", dtype=torch.bfloat16):
        got = pair_logps(loaded.model, batch).chosen
    assert got.dtype == torch.float32
    torch.testing.assert_close(got, want, atol=1.0, rtol=0.05)


WORDS = st.lists(
    st.sampled_from(["a", "red", "square", "blue", "cat", "dog", "is", "not", "."]), min_size=1, max_size=9
).map(" ".join)


@settings(
    max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@given(
    rows=st.lists(
        st.tuples(WORDS, WORDS, st.lists(st.sampled_from(["28x28-1", "60x30-2", "30x90-3"]), max_size=3)),
        min_size=1,
        max_size=3,
    ),
    name=st.sampled_from(["llava", "llava_next", "qwen2_5_vl"]),
    layout=st.sampled_from(["plain", "shared_prefix"]),
)
def test_any_lengths_and_images_batch_as_they_are_alone(
    rows: list[tuple[str, str, list[str]]], name: str, layout: LayoutName, folder: Any
) -> None:
    loaded = folder(name)
    collate = collator_for(loaded, layout)
    pairs = [
        pair(str(i), images=tuple(i_), chosen=c, rejected=r if r != c else f"{r} two")
        for i, (c, r, i_) in enumerate(rows)
    ]
    together = pair_logps(loaded.model, collate(pairs))
    for i, row in enumerate(pairs):
        alone = pair_logps(loaded.model, collate([row]))
        assert together.chosen[i].item() == pytest.approx(alone.chosen[0].item(), abs=5e-5)
        assert together.chosen_len[i] == alone.chosen_len[0]
