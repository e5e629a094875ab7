"""Models that read their prompt in both directions do so here: prompt and images as one block, answers forward."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest
import torch

from mmpref.errors import ConfigError
from mmpref.models import AdapterSettings, LoadedModel, Tuning, choose_reference, prepare
from mmpref.models.logps.answer_logps import answer_logps
from mmpref.models.logps.layout_choice import choose_layout
from mmpref.processing import LayoutName
from mmpref.records import PreferencePair
from mmpref.training.trainer.preflight import preflight
from tests.plain_forward import answers_of, build_deep, collator_for, gradient, relative, text_rows, worst
from tests.tiny_others import BARE, hrm_text, paligemma
from tests.tiny_vlms import CHATML, draw, pair

ROWS = [
    pair("one", chosen="a red square .", rejected="two yellow boxes and a dog ."),
    pair("edited", images=("60x120-6",), chosen="there is a red square .", rejected="there is a blue square . no"),
    pair("two", images=("90x60-2", "60x28-3"), question="describe it , please .", chosen="yes", rejected="no , it is"),
]
LAYOUTS: tuple[LayoutName, ...] = ("shared_prefix", "plain")
KINDS = [("gemma", CHATML), ("gemma", BARE), ("gemma2", CHATML)]


def stock(loaded: LoadedModel, row: PreferencePair, answer: str, **changed: Any) -> torch.Tensor:
    """Log-probs of an answer as PaliGemma's own processor writes prompt and suffix, and its own model reads them."""
    parts = [{"type": "image"} if p.kind == "image" else {"type": "text", "text": p.text} for p in row.prompt[0].parts]
    text = loaded.processor.apply_chat_template(
        [{"role": "user", "content": parts}], add_generation_prompt=True, tokenize=False
    )
    images = [[draw(ref) for ref in row.images]]
    inputs = dict(loaded.processor(images=images, text=[text], suffix=[answer], return_tensors="pt"))
    labels = inputs.pop("labels")[0]
    with torch.no_grad():
        logits = loaded.model(**{**inputs, **changed}, use_cache=False).logits[0].float()
    found = logits.log_softmax(-1)[:-1].gather(1, inputs["input_ids"][0, 1:, None])[:, 0]
    return found[labels[1:] != -100]


def by_stock(loaded: LoadedModel, rows: list[PreferencePair], **changed: Any) -> list[torch.Tensor]:
    chosen = [stock(loaded, row, row.chosen, **changed) for row in rows]
    return chosen + [stock(loaded, row, row.rejected or "", **changed) for row in rows]


def ours(loaded: LoadedModel, rows: list[PreferencePair], **options: Any) -> list[torch.Tensor]:
    batch = collator_for(loaded, **options)(rows)
    with torch.no_grad():
        return answers_of(batch, answer_logps(loaded.model, batch))


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(("text", "template"), KINDS)
def test_log_probs_are_those_of_the_stock_model_on_prompt_and_suffix(
    text: str, template: str, layout: LayoutName
) -> None:
    loaded = paligemma(text, template)
    assert worst(ours(loaded, ROWS, layout=layout), by_stock(loaded, ROWS)) < 1e-5
    alone = [ours(loaded, [row], layout=layout)[side] for side in (0, 1) for row in ROWS]
    assert worst(alone, by_stock(loaded, ROWS)) < 1e-5


@pytest.mark.parametrize("text", ["gemma", "gemma2"])
def test_gradients_of_both_layouts_are_the_same(text: str) -> None:
    found = []
    for layout in LAYOUTS:
        loaded = paligemma(text)
        loaded.model.requires_grad_(True)
        batch = collator_for(loaded, layout=layout)(ROWS)
        logps = answers_of(batch, answer_logps(loaded.model, batch))
        torch.stack([one.square().sum() for one in logps]).sum().backward()
        found.append(gradient(loaded.model))
    assert relative(*found) < 1e-5


def test_this_would_see_a_causal_prompt_and_an_answer_that_reads_ahead() -> None:
    loaded = paligemma()
    right = by_stock(loaded, ROWS[:1])
    assert worst(by_stock(loaded, ROWS[:1], token_type_ids=None), right) > 1e-2
    of_prompt = dataclasses.replace(loaded, family=dataclasses.replace(loaded.family, prefix_lm=(0, 0)))
    assert worst(ours(of_prompt, ROWS[:1]), right) > 1e-2


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_text_model_that_reads_its_prompt_in_both_directions_is_told_where_it_ends(layout: LayoutName) -> None:
    loaded = hrm_text()
    rows = [pair("a", images=(), question="is it red ?", chosen="yes it is", rejected="no"), *text_rows()[1:2]]
    rows += [pair("p", images=(), response_prefix="the picture", chosen=" shows a cat .", rejected=" is not it .")]
    wanted = []
    for side in (0, 1):
        for row in rows:
            prompt, answer = collator_for(loaded).encoder.encode(row, draw).sides()[side] or ((), ())
            ids = torch.cat([prompt.input_ids, answer])
            begun = len(loaded.tokenizer(row.response_prefix)["input_ids"])
            types = torch.cat([torch.ones(len(prompt) - begun), torch.zeros(begun + len(answer))]).long()
            with torch.no_grad():
                logits = loaded.model(input_ids=ids[None], token_type_ids=types[None], use_cache=False).logits[0]
            wanted.append(logits.log_softmax(-1)[:-1].gather(1, ids[1:, None])[len(prompt) - 1 :, 0])
    assert worst(ours(loaded, rows, layout=layout), wanted) < 1e-5
    causal = dataclasses.replace(loaded, family=dataclasses.replace(loaded.family, prefix_lm=None))
    assert worst(ours(causal, rows, layout=layout), wanted) > 1e-3


@pytest.mark.parametrize("make", [paligemma, hrm_text])
def test_its_pairs_share_a_prompt(make: Callable[[], LoadedModel]) -> None:
    loaded = make()
    assert choose_layout(loaded.model, loaded.family).name == "shared_prefix"


def test_it_passes_every_start_up_check_and_trains() -> None:
    loaded = prepare(paligemma(), Tuning(projector="full", language="lora"), AdapterSettings(rank=4))
    checks = preflight(loaded.model, collator_for(loaded), ROWS, choose_reference(loaded.model))
    assert "projector 2 of 2" in checks[-1].detail


def test_a_processor_whose_word_on_tokens_is_not_understood_stops_the_run() -> None:
    loaded = prepare(paligemma(), Tuning(language="lora"), AdapterSettings(rank=4))
    unknown = dataclasses.replace(loaded, family=dataclasses.replace(loaded.family, prefix_lm=(0, 0)))
    reference = choose_reference(unknown.model)
    with pytest.raises(ConfigError, match=r"last token of an answer moves.*both directions.*token_type_ids"):
        preflight(unknown.model, collator_for(unknown, layout="plain"), ROWS, reference)
    with pytest.raises(ConfigError, match=r"'shared prefix equals separate rows' failed"):
        preflight(unknown.model, collator_for(unknown), ROWS, reference)


@pytest.mark.parametrize("training", [False, True])
def test_images_that_are_read_in_both_directions_get_their_types(training: bool) -> None:
    """Gemma 3: images are blocks of their own, also in training mode, where its model insists on the types."""
    loaded = build_deep("gemma3")
    batch = collator_for(loaded)(ROWS[:2])
    types = batch.token_types["token_type_ids"]
    image = loaded.model.config.image_token_id
    assert torch.equal(types == 1, batch.input_ids == image)
    loaded.model.train(training)
    blocks = answers_of(batch, answer_logps(loaded.model, batch))
    flat = dataclasses.replace(batch, token_types={"token_type_ids": torch.zeros_like(types)})
    assert worst(blocks, answers_of(batch, answer_logps(loaded.model, flat))) > 1e-3
