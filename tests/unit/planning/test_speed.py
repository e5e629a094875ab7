"""Operations of a pair, against those that torch counts."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest

from mmpref.models.find_config import find_config
from mmpref.planning.architecture import describe
from mmpref.planning.memory import with_changes
from mmpref.planning.pair_shape import Shape
from mmpref.planning.plan import make_plan
from mmpref.planning.speed import flops_per_pair
from mmpref.recipe.loading import load_recipe
from mmpref.recipe.sections import Recipe
from mmpref.records import ImageRef, PreferencePair, user_turn
from tests.recomputing import recompute
from tests.tiny_vlms import build, draw


def recipe(name: str = "qwen2_5_vl_7b_uni_dpo_qlora", *changes: str) -> Recipe:
    return load_recipe(name, list(changes))


def test_a_reference_that_the_loss_does_not_need_costs_nothing() -> None:
    found = make_plan(recipe("qwen2_vl_2b_uni_dpo_full", "loss={name: simpo}"))
    assert found.memory.before["reference"] == 0
    assert found.flops_per_pair < make_plan(recipe("qwen2_vl_2b_uni_dpo_full")).flops_per_pair


CROP = ("data.other_image=made", "processing.other_image.kind=crop")


@pytest.mark.parametrize(("kind", "changes", "answers"), [
    ("text", ["adapter={kind: none}", "tune={language: full}", "train.gradient_checkpointing=false"], 2),
    ("text", ["adapter={kind: none}", "tune={language: full}", "loss={name: simpo}"], 2),
    ("text", ["adapter.rank=1", "train.gradient_checkpointing=false"], 2),
    ("llava", ["adapter={kind: none}", "tune={language: full}", "loss={name: dpo}"], 2),
    ("llava", ["adapter={kind: none}", "tune={language: full}", "loss={name: dpo}"], 4),
    ("llava", ["adapter={kind: none}", "tune={language: full}", "loss={name: mdpo}", *CROP], 2),
    ("llava", ["adapter={kind: none}", "tune={language: full}", "loss={name: mdpo}", *CROP], 3),
])  # fmt: skip
def test_operations_are_those_that_torch_counts(kind: str, changes: list[str], answers: int, tmp_path: Path) -> None:
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    from mmpref.losses import build_objective
    from mmpref.models import LoadSettings, choose_reference, load, pair_logps, prepare
    from mmpref.models.tuning import AdapterSettings, Tuning
    from mmpref.processing import OtherImageSettings, PairCollator, PairEncoder

    path = f"model.path={build(kind, tmp_path / 'model')}"
    wanted = recipe("qwen2_5_vl_3b_uni_dpo_lora", path, "processing.max_pixels=null", "loss={name: dpo}", *changes)
    pairs = answers * (answers - 1) // 2
    wanted = with_changes(wanted, train={"per_device_train_batch_size": pairs, "gradient_accumulation_steps": 1})
    adapter = None if wanted.adapter.kind == "none" else AdapterSettings(rank=wanted.adapter.rank)
    loaded = prepare(
        load(tmp_path / "model", LoadSettings(dtype="float32"), trainable=True),
        Tuning(**wanted.tune.model_dump()),
        adapter,
    )
    if wanted.train.gradient_checkpointing:
        recompute(loaded.model)
    objective = build_objective(wanted.loss.as_mapping())
    images = (ImageRef(path="28x28-0"),) if kind != "text" else ()
    texts = ["there is one cat . " * 25, *(f"{n} is not a red square , " * 20 for n in range(answers - 1))]
    rows = [
        PreferencePair(
            id=f"{chosen}{rejected}", images=images, chosen=chosen, rejected=rejected,
            prompt=user_turn("what is in the image ? " * 20, num_images=len(images)),
            other_images=(ImageRef(path=f"28x28-{number}"),) if objective.needs_other else None,
        )
        for number, (chosen, rejected) in enumerate(itertools.combinations(texts, 2), start=1)
    ]  # fmt: skip
    other_image = OtherImageSettings(source="column") if objective.needs_other else None
    encoder = PairEncoder(loaded.processor, loaded.family, other_image=other_image)
    encoded = encoder.encode(rows[0], draw)
    assert encoded.rejected_ids is not None
    image = sum(encoded.prompt.image_tokens)
    shape = Shape(
        prompt=len(encoded.prompt_ids) - image, image=image, patches=image + bool(image),
        chosen=len(encoded.chosen_ids), rejected=len(encoded.rejected_ids), answers=answers, pairs=pairs,
        other=objective.needs_other,
    )  # fmt: skip

    def product(a: Any, b: Any, c: Any, *_: Any, **__: Any) -> int:
        return 2 * int(b[0] * b[1] * c[1])

    def attention(query: Any, key: Any, *_: Any, **__: Any) -> int:
        return 2 * int(query[0] * query[1] * query[2] * key[2] * query[3])  # two products, half of each masked

    def attention_back(_: Any, query: Any, key: Any, *__: Any, **___: Any) -> int:
        return 2 * attention(query, key)

    aten = torch.ops.aten
    counted = {
        aten.addmm_: product, aten._scaled_dot_product_flash_attention_for_cpu: attention,
        aten._scaled_dot_product_flash_attention_for_cpu_backward: attention_back,
    }  # fmt: skip
    batch = PairCollator(encoder, draw, layout="plain", need_other=objective.needs_other)(rows)
    with FlopCounterMode(display=False, custom_mapping=counted) as counter:
        reference = choose_reference(loaded.model) if objective.needs_reference else None
        objective(pair_logps(loaded.model, batch, reference=reference)).per_pair.sum().backward()
    config, _ = find_config(str(tmp_path / "model"))
    found = flops_per_pair(describe(config, wanted, "plain"), wanted, shape, "plain")
    assert pairs * found == pytest.approx(counter.get_total_flops(), rel=0.1)
