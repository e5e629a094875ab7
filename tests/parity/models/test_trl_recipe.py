"""The recipe of a TRL config trains as DPOTrainer does with that config: the same losses, update after update."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from mmpref.cli.main import main
from mmpref.models import load
from mmpref.rundir.folder import RunDir
from tests.tiny_vlms import build, draw, pair

pytestmark = pytest.mark.filterwarnings(r"ignore:`gradient_checkpointing\w*` is deprecated:FutureWarning")

trl = pytest.importorskip("trl")

STEPS = 3
CONFIG: dict[str, Any] = {
    "loss_type": ["sigmoid"], "beta": 0.2, "learning_rate": 1e-3, "per_device_train_batch_size": 1, "max_steps": STEPS,
    "max_length": None, "bf16": False, "use_cpu": True, "gradient_checkpointing": False, "logging_steps": 1,
    "save_strategy": "no", "seed": 0, "report_to": "none", "disable_tqdm": True,
}  # fmt: skip
ROW = pair("one", images=("60x60-1",), chosen="a red square .", rejected="two yellow boxes and a dog .")


def losses_of_trl(model: Path, out: Path) -> list[float]:
    """The training's own log; the prompt is written by the template already, as its own way would count a newline after
    the turn."""
    from datasets import Dataset, Features, List, Value
    from datasets import Image as Image

    start, reference = load(str(model)), load(str(model))
    content = [{"type": "image"}, {"type": "text", "text": ROW.prompt[0].text}]
    prompt = start.processor.apply_chat_template(
        [{"role": "user", "content": content}], add_generation_prompt=True, tokenize=False
    )
    row = {"images": [draw(ref) for ref in ROW.images], "prompt": prompt,
           "chosen": f"{ROW.chosen}<|im_end|>", "rejected": f"{ROW.rejected}<|im_end|>"}  # fmt: skip
    kinds = {name: Value("string") for name in ("prompt", "chosen", "rejected")}
    data = Dataset.from_list([row], features=Features(images=List(Image()), **kinds))
    trainer = trl.DPOTrainer(
        model=start.model.requires_grad_(True), ref_model=reference.model, train_dataset=data,
        args=trl.DPOConfig(output_dir=str(out), **CONFIG), processing_class=start.processor,
    )  # fmt: skip
    trainer.train()
    return [line["loss"] for line in trainer.state.log_history if "loss" in line]


def test_the_recipe_of_a_config_trains_with_the_losses_of_the_dpo_trainer(tmp_path: Path) -> None:
    model = build("llava", tmp_path / "model")
    draw(ROW.images[0]).save(tmp_path / "image.png")
    said = [{"type": "image"}, {"type": "text", "text": ROW.prompt[0].text}]
    row = {"id": "one", "images": ["image.png"], "prompt": [{"role": "user", "content": said}],
           "chosen": ROW.chosen, "rejected": ROW.rejected}  # fmt: skip
    (tmp_path / "pairs.jsonl").write_text(json.dumps(row) + "\n")
    config = tmp_path / "trl.yaml"
    given = {"model_name_or_path": str(model), "dataset_name": str(tmp_path / "pairs.jsonl"),
             "output_dir": str(tmp_path / "run"), "dtype": "float32", **CONFIG}  # fmt: skip
    config.write_text(yaml.safe_dump(given))
    recipe = tmp_path / "recipe.yaml"
    assert main(["config", "--from", str(config), "--out", str(recipe)]) == 0
    assert main(["train", str(recipe)]) == 0
    lines = [json.loads(line) for line in RunDir(tmp_path / "run").metrics_file.read_text().splitlines()]
    ours = [line["loss"] for line in lines if "loss" in line]
    theirs = losses_of_trl(model, tmp_path / "trl")
    assert len(ours) == STEPS
    assert theirs[-1] < 0.9 * theirs[0]  # something was learnt, so that equal losses mean equal updates
    assert ours == pytest.approx(theirs, rel=2e-4)
