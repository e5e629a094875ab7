"""One DPO step is TRL's: its DPOTrainer as it is, its collator, head and reference, on the same model and pairs."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest

from mmpref.losses import build_objective
from mmpref.models import AdapterSettings, LoadedModel, Tuning, choose_reference, pair_logps, prepare
from mmpref.records import PreferencePair
from tests.plain_forward import build_deep, collator_for, gradient, relative, stir
from tests.tiny_vlms import draw, pair

# TRL's settings are given by the name that transformers 5.17 knows, which newer releases call deprecated
pytestmark = pytest.mark.filterwarnings(r"ignore:`gradient_checkpointing\w*` is deprecated:FutureWarning")

trl = pytest.importorskip("trl")

BETA = 0.2
TUNINGS = {
    "full": (Tuning(vision="full", projector="full", language="full"), None),
    "lora": (Tuning(language="lora"), AdapterSettings(rank=4, alpha=8)),
}
ROWS = [
    pair("one", images=("60x60-1",), chosen="a red square .", rejected="two yellow boxes and a dog ."),
    pair("two", images=("120x60-2",), chosen="there is no dog , there is one cat .", rejected="yes"),
    pair("edited", images=("28x90-3",), chosen="there is a red square .", rejected="there is a blue square ."),
]


def example(loaded: LoadedModel, row: PreferencePair) -> dict[str, Any]:
    """The pair as TRL takes it, already written by the template: its own way would count a newline after the turn."""
    content = [{"type": "image"}, {"type": "text", "text": row.prompt[0].text}]
    prompt = loaded.processor.apply_chat_template(
        [{"role": "user", "content": content}], add_generation_prompt=True, tokenize=False
    )
    answers = {"chosen": f"{row.chosen}<|im_end|>", "rejected": f"{row.rejected}<|im_end|>"}
    return {"images": [draw(ref) for ref in row.images], "prompt": prompt, **answers}


def trl_trainer(
    loaded: LoadedModel, start: Any, reference: Any, tuning: str, examples: list[dict[str, Any]], folder: Path
) -> Any:
    from datasets import Dataset, Features, List, Value
    from datasets import Image as Image

    kinds = {name: Value("string") for name in ("prompt", "chosen", "rejected")}
    data = Dataset.from_list(examples, features=Features(images=List(Image()), **kinds))
    args = trl.DPOConfig(
        output_dir=str(folder), per_device_train_batch_size=len(examples), max_steps=1, beta=BETA, max_length=None,
        gradient_checkpointing=False, bf16=False, use_cpu=True, report_to=[], save_strategy="no", disable_tqdm=True,
    )  # fmt: skip
    adapter = {"peft_config": copy.deepcopy(loaded.model.peft_config["default"])} if tuning == "lora" else {}
    return trl.DPOTrainer(
        model=start, ref_model=reference, args=args, train_dataset=data, processing_class=loaded.processor, **adapter
    )


@pytest.mark.parametrize("tuning", ["full", "lora"])
@pytest.mark.parametrize("name", ["llava", "qwen2_vl"])
def test_loss_and_gradient_of_a_step_are_those_of_the_dpo_trainer(name: str, tuning: str, tmp_path: Path) -> None:
    loaded = prepare(build_deep(name), *TUNINGS[tuning])
    reference = choose_reference(loaded.model)
    stir(loaded.model)

    base = build_deep(name).model.requires_grad_(True)
    examples = [example(loaded, row) for row in ROWS]
    trainer = trl_trainer(
        loaded, base, build_deep(name).model if tuning == "full" else None, tuning, examples, tmp_path
    )
    theirs = trainer.model
    missing = theirs.load_state_dict(loaded.model.state_dict(), strict=True)
    assert not missing.missing_keys
    inputs = trainer.data_collator([dict(trainer.train_dataset[i]) for i in range(len(ROWS))])
    theirs.train()
    want = trainer.compute_loss(theirs, dict(inputs))
    want.backward()

    batch = collator_for(loaded, "shared_prefix")(ROWS)
    counted = inputs["completion_mask"].sum(1).tolist()
    assert batch.answer_lens.tolist() == counted
    objective = build_objective({"base": "dpo", "beta": BETA})
    got = objective(pair_logps(loaded.model, batch, reference=reference)).per_pair.mean()
    got.backward()

    assert abs(float(want) - 0.693147) > 1e-4
    assert abs(float(got) - float(want)) < 1e-5
    assert relative(gradient(loaded.model), gradient(theirs)) < 1e-5
