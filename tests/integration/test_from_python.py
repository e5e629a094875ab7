"""``PreferenceTrainer`` from a script: five lines with a path and a file, and what cannot be guessed is asked for."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from transformers import TrainerCallback, TrainingArguments

from mmpref import PreferenceTrainer
from mmpref.cli.main import main
from mmpref.data.pairs import pair_from_row
from mmpref.errors import ConfigError
from mmpref.models import AdapterSettings, load, load_model
from mmpref.records import PreferencePair
from mmpref.rundir.folder import RunDir
from mmpref.training.trainer.pair_log import read_pair_log
from tests.integration.conftest import Place


@pytest.fixture
def pairs(place: Place) -> Path:
    """Eight pairs beside the world's images."""
    file = place.world.root / "eight.jsonl"
    file.write_text("\n".join(place.world.pairs.read_text().splitlines()[:8]) + "\n")
    return file


def arguments(folder: Path, **more: object) -> TrainingArguments:
    settings = {"per_device_train_batch_size": 8, "max_steps": 4, "learning_rate": 1e-3, "use_cpu": True,
                "report_to": "none", "logging_steps": 1, "save_strategy": "no", "disable_tqdm": True}  # fmt: skip
    return TrainingArguments(str(folder), **{**settings, **more})  # type: ignore[arg-type]


def test_five_lines_train_a_model_and_save_it(place: Place, pairs: Path, tmp_path: Path) -> None:
    args, model, out = arguments(tmp_path / "out"), str(place.model), str(tmp_path / "trained")
    trainer = PreferenceTrainer(model, args, objective={"name": "uni_dpo", "uni": {"tau_good": 2.5}}, train_pairs=pairs)
    trainer.train()
    trainer.save_model(out)
    trainer.pair_log.write(tmp_path / "pairs.parquet")
    log = read_pair_log(tmp_path / "pairs.parquet")
    assert sum(margin for step, margin in zip(log["step"], log["rewards/margins"], strict=True) if step == 4) > 0
    assert load(out).processor is not None


def test_lora_and_sft_on_demonstrations_are_the_same_five_lines(place: Place, tmp_path: Path) -> None:
    trainer = PreferenceTrainer(
        str(place.model), arguments(tmp_path / "out", max_steps=2), objective={"name": "sft"},
        train_pairs=place.world.see, adapter=AdapterSettings(rank=4),
    )  # fmt: skip
    trainer.train()
    trainer.save_model(str(tmp_path / "adapter"))
    assert (tmp_path / "adapter" / "adapter_model.safetensors").is_file()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert len(losses) == 2


def test_held_out_pairs_are_told_by_source_and_score_gap(place: Place, pairs: Path, tmp_path: Path) -> None:
    rows = [json.loads(line) for line in place.world.pairs.read_text().splitlines()[8:20]]
    for number, row in enumerate(rows):
        row |= {"source": ("one", "two")[number % 2], "score_chosen": 3.0 + number, "score_rejected": 3.0}
    held_out = place.world.root / "held_out.jsonl"
    held_out.write_text("".join(json.dumps(row) + "\n" for row in rows))
    trainer = PreferenceTrainer(
        str(place.model), arguments(tmp_path, eval_strategy="steps", eval_steps=2, max_steps=2),
        objective={"name": "dpo"}, train_pairs=pairs, eval_pairs=held_out,
    )  # fmt: skip
    trainer.train()
    (found,) = [entry for entry in trainer.state.log_history if "eval_rewards/accuracies" in entry]
    for name in ("source/one", "source/two", "gap/low", "gap/mid", "gap/high"):
        assert 0 <= found[f"eval_{name}/rewards/accuracies"] <= 1
        assert f"eval_{name}/rewards/margins" in found
        assert found[f"eval_{name}/loss"] > 0
    by_gap = [found[f"eval_gap/{name}/rewards/margins"] for name in ("low", "mid", "high")]
    assert sum(by_gap) / 3 == pytest.approx(found["eval_rewards/margins"], abs=1e-5)
    assert (found["eval_gap/low_to"], found["eval_gap/mid_to"]) == (3.0, 7.0)


def test_what_a_bare_model_does_not_bring_is_asked_for(place: Place, pairs: Path, tmp_path: Path) -> None:
    bare = load_model(place.model)
    with pytest.raises(ConfigError, match="comes without its processor"):
        PreferenceTrainer(bare, arguments(tmp_path), objective={"name": "sft"}, train_pairs=pairs)
    with pytest.raises(ConfigError, match="there is no file of pairs"):
        PreferenceTrainer(str(place.model), arguments(tmp_path), objective={"name": "dpo"}, train_pairs="nothing.jsonl")
    with pytest.raises(ConfigError, match="are for a model given by its path"):
        PreferenceTrainer(bare, arguments(tmp_path), objective={"name": "sft"}, train_pairs=pairs,
                          adapter=AdapterSettings())  # fmt: skip


def test_sft_is_evaluated_on_demonstrations_and_on_pairs(place: Place, tmp_path: Path) -> None:
    lines = place.world.see.read_text().splitlines()
    train, held_out = place.world.root / "shown.jsonl", place.world.root / "shown_held_out.jsonl"
    train.write_text("\n".join(lines[:16]) + "\n")
    held_out.write_text("\n".join(lines[16:24]) + "\n")
    trainer = PreferenceTrainer(
        str(place.model), arguments(tmp_path), objective={"name": "sft"}, train_pairs=train, eval_pairs=held_out
    )
    found = trainer.evaluate()
    assert found["eval_loss"] > 0
    assert "eval_rewards/margins" not in found
    from_recipe = place.training("demo_see", tmp_path / "run", f"data.train={train}", f"data.eval={held_out}",
                                 "train.max_steps=1", "train.per_device_eval_batch_size=8")  # fmt: skip
    assert main(from_recipe) == 0
    logged = [json.loads(line) for line in RunDir(tmp_path / "run").metrics_file.read_text().splitlines()]
    assert [line["step"] for line in logged if "eval_loss" in line] == [0, 1]
    assert logged[0]["eval_loss"] == pytest.approx(found["eval_loss"], rel=1e-4)
    both = trainer.evaluate(some_pairs(place))
    assert "eval_rewards/margins" in both


def some_pairs(place: Place) -> list[PreferencePair]:
    """Held-out pairs with images relative to the world."""
    rows = [json.loads(line) for line in place.world.pairs_heldout.read_text().splitlines()]
    return [pair_from_row(row, source="held out", line=number) for number, row in enumerate(rows, start=1)]


def test_two_trainers_never_write_checkpoints_into_one_folder(place: Place, pairs: Path, tmp_path: Path) -> None:
    def trainer() -> PreferenceTrainer:
        args = arguments(tmp_path / "out", max_steps=1, save_strategy="steps", save_steps=1)
        return PreferenceTrainer(str(place.model), args, objective={"name": "dpo"}, train_pairs=pairs)

    class StartsAnother(TrainerCallback):
        refusal = ""

        def on_step_end(self, *_: object, **__: object) -> None:
            with pytest.raises(ConfigError) as refused:
                trainer().train()
            self.refusal = str(refused.value)

    (tmp_path / "out" / ".step-9.abcdefgh.tmp").mkdir(parents=True)  # of one that was killed
    (tmp_path / "out" / ".step-notes").mkdir()
    first, another = trainer(), StartsAnother()
    first.add_callback(another)
    first.train()
    assert "out is in use: process" in another.refusal
    assert {entry.name for entry in (tmp_path / "out").iterdir()} == {"step-1", ".step-notes"}
