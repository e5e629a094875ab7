"""Start-up checks: each one fails when its fault is there, says what that means, and changes nothing."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from transformers import TrainingArguments

from mmpref.errors import ConfigError
from mmpref.models import AdapterSettings, LoadedModel, Tuning, choose_reference, prepare
from mmpref.models.logps import answer_head as head_module
from mmpref.models.logps import shared_prefix_attention as attention_module
from mmpref.processing import LayoutName, PairCollator
from mmpref.processing import layout as layout_module
from mmpref.training.trainer.preflight import preflight, run_checks
from mmpref.training.trainer.start_check import Check
from tests.plain_forward import SEE_VIDEOS, SHARING, all_rows, build_deep, collator_for, stir, video_rows
from tests.tiers import checkerboard
from tests.tiny_vlms import TINY, pair

LORA = (Tuning(language="lora"), AdapterSettings(rank=4))
NAMES = (
    "image tokens and features",
    "the image changes the answer's log-probs",
    "shared prefix equals separate rows",
    "a batch equals its pairs alone",
    "policy equals reference before the first step",
    "gradients reach what trains",
)

VIDEO = "the video changes the answer's log-probs"


@functools.cache
def _deep(name: str) -> LoadedModel:
    return build_deep(name)


def fresh(name: str = "llava", tuning: Any = LORA) -> LoadedModel:
    return prepare(build_deep(name), *tuning)


def run(loaded: LoadedModel, layout: LayoutName | None = None, rows: Sequence[Any] = (), **options: Any) -> list[Check]:
    collator = collator_for(loaded, layout, **options)
    return preflight(loaded.model, collator, rows or all_rows(loaded.path), choose_reference(loaded.model))


@pytest.mark.parametrize("name", list(TINY))
def test_every_family_passes_every_check(name: str) -> None:
    loaded = prepare(build_deep(name), *LORA)
    layout: LayoutName = "shared_prefix" if name in SHARING else "plain"
    rows = all_rows(name)[1:]
    found = run(loaded, layout, rows)
    assert len(found) == len(NAMES)
    skipped = [check.name for check in found if check.passed is None]
    assert skipped == (list(NAMES[:2]) if name == "text" else [])
    assert all("FAILED" not in check.describe() and not check.meaning for check in found)
    if layout == "shared_prefix":
        assert tuple(check.name for check in found) == NAMES


@pytest.mark.parametrize("tuning", [LORA, (Tuning(vision="full", projector="full", language="full"), None)])
def test_nothing_is_changed(tuning: Any) -> None:
    loaded = fresh("qwen2_5_vl", tuning)
    model: Any = loaded.model
    model.get_submodule("base_model.model.model.visual" if tuning is LORA else "model.visual").eval()
    modes = [module.training for module in model.modules()]
    trained = [p for p in model.parameters() if p.requires_grad]
    for number, parameter in enumerate(trained[:5]):
        parameter.grad = torch.full_like(parameter, float(number))
    kept = [p.grad for p in trained]
    weights = {name: value.clone() for name, value in model.state_dict().items()}
    torch.manual_seed(7)
    state = torch.random.get_rng_state()
    run(loaded)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert [module.training for module in model.modules()] == modes
    assert all(after is before for after, before in zip([p.grad for p in trained], kept, strict=True))
    assert all(bool((g == number).all()) for number, g in enumerate(kept[:5]) if g is not None)
    assert all(torch.equal(value, weights[name]) for name, value in model.state_dict().items())
    assert torch.is_grad_enabled()


def refused(loaded: LoadedModel, check: str, *words: str, **options: Any) -> None:
    with pytest.raises(ConfigError) as caught:
        run(loaded, **options)
    text = str(caught.value)
    assert f"start-up check '{check}' failed" in text
    assert "preflight: false skips the checks" in text
    for word in words:
        assert word in text, text


@pytest.mark.parametrize("name", ["llava", "qwen2_vl", "internvl"])
def test_another_image_token_is_found(name: str) -> None:
    loaded = fresh(name)
    config = loaded.model.get_base_model().config  # type: ignore[operator]
    config.image_token_id = 17
    if hasattr(config, "image_token_index"):
        config.image_token_index = 17
    refused(loaded, NAMES[0], "looks for token 17", "use the tokenizer that belongs to it")


def test_an_image_token_that_stands_for_a_word_is_found() -> None:
    loaded = fresh("idefics3")
    ids = loaded.tokenizer("what is", add_special_tokens=False)["input_ids"]
    loaded.model.get_base_model().model.image_token_id = ids[0]  # type: ignore[operator]
    loaded.model.get_base_model().config.image_token_id = ids[0]  # type: ignore[operator]
    refused(loaded, NAMES[1], "the model refuses the images of 'one'", "tokens", "do not belong together")


@pytest.mark.parametrize(("name", "scale"), [("internvl", 1.0), ("idefics3", 1)])
def test_a_tower_whose_features_are_of_other_numbers_is_found(name: str, scale: float) -> None:
    loaded = fresh(name)
    config = loaded.model.get_base_model().config  # type: ignore[operator]
    if name == "internvl":
        config.vision_feature_select_strategy = "full"  # one token more, which no square has: only a shape says so
        loaded.model.get_base_model().model.config.vision_feature_select_strategy = "full"  # type: ignore[operator]
    else:
        loaded.model.get_base_model().model.connector.scale_factor = scale  # type: ignore[operator]
    refused(loaded, NAMES[1], "the model refuses the images of 'one'", "do not belong together")


@pytest.mark.parametrize("name", ["llava", "qwen3_vl", "llava_next"])
def test_a_projector_that_gives_the_same_for_every_image_is_found(name: str) -> None:
    base = build_deep(name)
    with torch.no_grad():
        for path in base.family.projector:
            for key, parameter in base.model.named_parameters():
                if key.startswith(path + "."):
                    parameter.zero_()
    refused(prepare(base, *LORA), NAMES[1], "moves no token", "The model does not see its images", "chat template")


@pytest.mark.parametrize("name", SEE_VIDEOS)
def test_rows_with_videos_are_looked_at_too(name: str) -> None:
    loaded = prepare(build_deep(name), *LORA)
    found = run(loaded, None, [*all_rows(name)[1:], *video_rows()])
    assert [check.name for check in found] == [*NAMES[:2], VIDEO, *NAMES[2:]]
    assert all(check.passed for check in found)
    assert "image tokens and " in found[0].detail
    assert "video tokens in 2 pairs" in found[0].detail
    alone = run(loaded, None, video_rows()[:2])
    assert [check.passed for check in alone] == [True, None, True, True, True, True, True]


def test_a_model_that_does_not_see_its_videos_is_found() -> None:
    loaded = fresh("qwen2_5_vl")
    inner: Any = loaded.model.get_base_model().model  # type: ignore[operator]
    stock = inner.get_video_features
    inner.get_video_features = lambda pixels, *args, **kwargs: stock(torch.zeros_like(pixels), *args, **kwargs)
    refused(loaded, VIDEO, "moves no token", "The model does not see its videos", rows=video_rows())


def test_another_video_token_is_found() -> None:
    loaded = fresh("qwen2_vl")
    loaded.model.get_base_model().config.video_token_id = 17  # type: ignore[operator]
    refused(loaded, NAMES[0], "looks for token 17 in place of a video", rows=video_rows())


def leaky(mask: Any, query: Any, key: Any, value: Any, attend: Any) -> Any:
    """Causal over the whole row: the second answer reads the first, and each pair the ones before it."""
    return attend(query, key, value, lambda: None, False)


def test_an_answer_that_reads_the_other_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention_module, "_by_segment", leaky)
    refused(fresh("qwen2_vl"), NAMES[2], "nats on average", "set model.attention: plain", rows=all_rows("qwen2_vl")[1:])


def test_a_third_answer_that_reads_the_others_is_found_where_pairs_share_a_prompt(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rows = [*all_rows("llava")[:2], pair("more", chosen="a cat", rejected="a red square .")]
    rows[2] = dataclasses.replace(rows[2], images=rows[1].images, prompt=rows[1].prompt)
    looked = next(check for check in run(fresh("llava"), rows=rows) if check.name == NAMES[2])
    assert looked.passed
    assert "2 pairs of one prompt" in looked.detail
    right = attention_module._by_segment
    monkeypatch.setattr(
        attention_module,
        "_by_segment",
        lambda mask, *rest: (leaky if len(mask.row.segments[0].branches) > 2 else right)(mask, *rest),
    )
    refused(
        fresh("llava"), NAMES[2], f"tokens of '{rows[1].id}' and 'more' differ", "model.attention: plain", rows=rows
    )


def test_positions_that_go_on_from_the_first_answer_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    def finish(self: Any) -> None:
        original(self)
        self.positions[-1] = self.positions[-1] + len(self.positions[-2])

    original = layout_module._PackedRow.finish
    monkeypatch.setattr(layout_module._PackedRow, "finish", finish)
    refused(fresh("llava"), NAMES[2], "attention, positions or output head", rows=all_rows("llava")[1:])


def test_an_output_head_that_is_not_the_whole_truth_is_found_in_either_layout(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a model that scales or caps its logits under a name that is not known here."""
    loaded = fresh("llava")
    inner: Any = loaded.model.get_base_model()  # type: ignore[operator]
    stock = type(inner).forward

    def scaled(self: Any, *args: Any, **kwargs: Any) -> Any:
        output = stock(self, *args, **kwargs)
        if output.logits.shape[1] > 1 or output.logits.shape[-1] == self.config.get_text_config().vocab_size:
            output.logits = output.logits * 0.25
        return output

    monkeypatch.setattr(type(inner), "forward", scaled)
    assert head_module.plain_head(loaded.model) is not None
    refused(loaded, NAMES[2], rows=all_rows("llava")[1:])
    refused(loaded, "log-probs equal those of the model's own logits", "after the output head", layout="plain")


def test_pairs_that_leak_into_each_other_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    right = attention_module._by_segment
    monkeypatch.setattr(
        attention_module,
        "_by_segment",
        lambda mask, *rest: (right if len(mask.row.segments) == 1 else leaky)(mask, *rest),
    )
    refused(fresh("llava"), NAMES[3], "leak into each other", "per_device_train_batch_size: 1")


def test_rows_of_a_padded_batch_that_leak_are_found() -> None:
    loaded = fresh("llava")
    layer = loaded.model.get_base_model().model.language_model.layers[0]  # type: ignore[operator]
    layer.register_forward_hook(lambda _m, _i, out: out + 0.3 * out.mean(0, keepdim=True) * (out.shape[0] > 2))
    refused(loaded, NAMES[3], "leak into each other", layout="plain")


def test_a_reference_that_is_another_model_is_found() -> None:
    loaded = fresh("llava", (Tuning(projector="full", language="full"), None))
    reference = choose_reference(loaded.model)
    stir(loaded.model)
    with pytest.raises(ConfigError, match=r"'policy equals reference before the first step' failed.*a stale cache"):
        preflight(loaded.model, collator_for(loaded), all_rows("llava"), reference)


def test_weights_that_nothing_reaches_are_found() -> None:
    loaded = fresh("llava_next", (Tuning(vision="full"), None))
    loaded.model.requires_grad_(False)
    # features are taken before this layer, so it can learn nothing
    last: nn.Module = loaded.model.model.vision_tower.encoder.layers[-1]
    last.requires_grad_(True)
    trained = sum(1 for _ in last.parameters())
    refused(loaded, NAMES[5], f"none of {trained} trained tensors gets a gradient", "Nothing would be learnt")


@pytest.mark.parametrize("turned", [False, True])
def test_a_tower_that_trains_is_judged_by_a_pair_with_a_image(turned: bool) -> None:
    loaded = fresh("llava", (Tuning(vision="full", projector="full", language="full"), None))
    rows = [pair("seen"), pair("text", images=())]
    found = run(loaded, rows=rows[::-1] if turned else rows)[-1]
    assert found.passed
    assert "vision" in found.detail
    refused(loaded, NAMES[5], "vision and projector shall train, and no training pair has an image", rows=rows[1:])


def test_a_gradient_that_is_not_finite_is_found() -> None:
    loaded = fresh("text")
    name, parameter = next((n, p) for n, p in loaded.model.named_parameters() if p.requires_grad)
    parameter.register_hook(lambda grad: grad * float("inf"))
    refused(loaded, NAMES[5], "not finite", name, "bf16 or float32")


def test_the_first_pair_with_a_image_is_looked_at_wherever_it_stands() -> None:
    loaded = fresh("llava")
    texts = [pair(f"t{i}", images=(), question=f"is it {i} ?") for i in range(5)]
    checks = run(loaded, rows=[*texts, pair("seen")])
    assert [check.passed for check in checks[:2]] == [True, True]
    unseen = run(loaded, rows=texts)
    assert [check.passed for check in unseen[:2]] == [None, None]
    assert "no pair with images" in unseen[0].describe()


def test_demonstrations_and_losses_without_a_reference_are_checked_as_far_as_they_go() -> None:
    loaded = fresh("qwen3_vl")
    rows = [pair("a", rejected=None), pair("b", images=("60x60-2",), rejected=None)]
    collator = collator_for(loaded, need_rejected=False)
    found = list(run_checks(loaded.model, collator, rows, None))
    assert [check.passed for check in found] == [True, True, True, True, None, True]
    alone = list(run_checks(loaded.model, collator, rows[:1], None))
    assert [check.passed for check in alone] == [True, True, True, None, None, True]


def test_half_precision_passes_within_its_own_bounds() -> None:
    loaded = fresh("qwen2_vl")
    collator: PairCollator = collator_for(loaded)
    autocast = functools.partial(torch.autocast, "cpu", torch.bfloat16)
    found = preflight(loaded.model, collator, all_rows("qwen2_vl"), choose_reference(loaded.model), autocast=autocast)
    assert all(check.passed for check in found)
    half = dataclasses.replace(loaded, model=build_deep("llava", scale=2.0).model.to(torch.bfloat16), path="llava")
    half = prepare(dataclasses.replace(_deep("llava"), model=half.model), *LORA)
    assert all(check.passed for check in run(half))


# ---- what acts on the policy alone ----------------------------------------------------------------------------------


def told_of_reference(loaded: LoadedModel, layout: LayoutName = "plain") -> Check:
    rows = all_rows(loaded.path)
    found = preflight(loaded.model, collator_for(loaded, layout), rows, choose_reference(loaded.model))
    return next(check for check in found if check.name == NAMES[4])


def drops(loaded: LoadedModel, share: float) -> LoadedModel:
    """As its config.json would have it: every attention of the language model drops a share while it trains."""
    config: Any = loaded.model.config
    config.get_text_config().attention_dropout = share
    for name, module in loaded.model.named_modules():
        if hasattr(module, "attention_dropout") and "vision" not in name:
            module.attention_dropout = share
    return loaded


@pytest.mark.parametrize(("name", "key"), [("text", "attention_dropout"), ("llava", "text_config.attention_dropout")])
def test_dropout_in_the_models_config_is_told_with_its_key(name: str, key: str) -> None:
    base = drops(build_deep(name), 0.3)
    modes = [module.training for module in base.model.modules()]
    found = told_of_reference(prepare(base, *LORA))
    assert found.passed
    assert "every margin starts at 0" not in found.describe()
    assert "0 nats per token when evaluated, and up to " in found.detail
    assert f"Margins do not start at 0: the model's config has dropout ({key} 0.3)" in found.meaning
    assert f"set {key} to 0 in the config.json of a local copy of the model" in found.meaning
    assert found.describe().startswith(f"check: {NAMES[4]}: WARNING (")
    assert not any(modes)
    assert all(module.training for module in base.model.modules() if "attention_dropout" in vars(module))


def test_noise_that_training_puts_on_is_told(tmp_path: Path) -> None:
    loaded = prepare(build_deep("text"), *LORA)
    args = TrainingArguments(str(tmp_path), neftune_noise_alpha=5, use_cpu=True, report_to="none")
    found = next(
        check
        for check in preflight(
            loaded.model, collator_for(loaded, "plain"), all_rows("text"), choose_reference(loaded.model), args=args
        )
        if check.name == NAMES[4]
    )
    assert found.passed
    assert "every margin starts at 0" not in found.describe()
    assert "Margins do not start at 0: train.extra.neftune_noise_alpha 5 adds noise" in found.meaning


def test_dropout_that_no_key_says_is_told_with_its_place() -> None:
    base = build_deep("text")
    for layer in base.model.model.layers:
        layer.mlp.down_proj = nn.Sequential(layer.mlp.down_proj, nn.Dropout(0.2))
    found = told_of_reference(prepare(base, *LORA))
    assert found.passed
    assert "the model has dropout in model.layers.*.mlp.down_proj.1 (3), up to 0.2" in found.meaning
    assert "every margin starts at 0" not in found.describe()


def test_what_computes_otherwise_in_training_mode_is_found_whatever_it_is() -> None:
    base = build_deep("text")
    base.model.model.norm.register_forward_hook(lambda module, _, out: out * (1.01 if module.training else 1.0))
    found = told_of_reference(prepare(base, *LORA))
    assert "something in the model computes in another way while it trains" in found.meaning


def test_dropout_of_the_adapter_was_asked_for_and_moves_a_trained_one_only() -> None:
    loaded = fresh("llava", (Tuning(language="lora"), AdapterSettings(rank=4, dropout=0.4)))
    found = told_of_reference(loaded)
    assert found.detail == "0 nats per token, so every margin starts at 0"
    stir(loaded.model)
    found = told_of_reference(loaded)
    assert found.passed
    assert not found.meaning
    assert "0 nats per token; adapter.dropout 0.4 moves the policy by up to " in found.detail


@pytest.mark.parametrize("name", checkerboard(TINY))
def test_without_dropout_every_margin_starts_at_0(name: str) -> None:
    found = told_of_reference(fresh(name))
    assert found.detail.endswith(", so every margin starts at 0")
