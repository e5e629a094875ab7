"""``mmpref train`` from the outside: the same weights by every road that must lead to them, and clear refusals."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from mmpref.cli.main import main
from mmpref.rundir.folder import RunDir
from mmpref.training.trainer.checkpoint import in_order
from mmpref.training.trainer.pair_log import read_pair_log
from tests.integration.conftest import Place

BATCH = (
    "train.per_device_train_batch_size=8",
    "train.learning_rate=1e-3",
    "train.warmup_steps=0",
    "train.logging_steps=1",
    "data.eval=[]",
)


def weights(place: Path) -> dict[str, torch.Tensor]:
    """The weights of a model folder, or of a run's result."""
    folder = place / "model" if (place / "model").is_dir() else place
    return load_file(folder / "model.safetensors")


def largest_difference(first: Path, second: Path) -> float:
    a, b = weights(first), weights(second)
    assert a.keys() == b.keys()
    return max(float((a[name] - b[name]).abs().max()) for name in a)


@pytest.fixture(scope="module")
def plain(place: Place, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six steps of DPO, undisturbed."""
    out = tmp_path_factory.mktemp("plain") / "run"
    assert main(place.training("demo_dpo", out, *BATCH)) == 0
    return out


def test_rows_that_do_not_fit_are_named_with_their_file_and_line(place: Place, tmp_path: Path) -> None:
    rows = [json.loads(line) for line in place.world.pairs.read_text().splitlines()]
    for number in (4, 30):
        rows[number]["prompt"][-1]["content"][-1]["text"] += " please" * 300
    first, second = tmp_path / "first.jsonl", tmp_path / "second.jsonl"
    first.write_text("".join(json.dumps(row) + "\n" for row in rows[:20]))
    second.write_text("\n" + "".join(json.dumps(row) + "\n" for row in rows[20:]))
    changes = (f"data.train=[{{path: {first}, weight: 2}}, {second}]", "processing.max_length=300", *BATCH[:-1])
    for name, more in (("run", "data.eval=[]"), ("held_out", "data.held_out=0.9")):
        again = (*changes, "data.eval=[]", more, "train.max_steps=1")
        assert main(place.training("demo_dpo", tmp_path / name, *again)) == 0
        aside = [json.loads(line) for line in RunDir(tmp_path / name).quarantine_file.read_text().splitlines()]
        found = {(row["file"], row["line"], row["id"], row["reason"]) for row in aside}
        assert found == {(str(first), 5, rows[4]["id"], "too_long_prompt"),
                         (str(second), 12, rows[30]["id"], "too_long_prompt")}  # fmt: skip


def test_a_finished_run_has_everything_a_run_folder_promises(place: Place, plain: Path) -> None:
    run = RunDir(plain)
    manifest = run.manifest()
    assert manifest["state"] == "complete"
    assert (manifest["pairs"], manifest["quarantined"], manifest["steps"]) == (48, 0, 6)
    lines = [json.loads(line) for line in run.metrics_file.read_text().splitlines()]
    assert [line["step"] for line in lines if "loss" in line] == [1, 2, 3, 4, 5, 6]
    log = read_pair_log(run.pairs_file)
    assert sorted(log["pair_id"]) == sorted(
        json.loads(line)["id"] for line in place.world.pairs.read_text().splitlines()
    )
    assert log["step"] == sorted(log["step"])


def test_the_first_step_starts_at_log_two_with_margins_of_zero(plain: Path) -> None:
    log = read_pair_log(RunDir(plain).pairs_file)
    first = [margin for step, margin in zip(log["step"], log["rewards/margins"], strict=True) if step == 1]
    assert first == [0.0] * 8


@pytest.mark.parametrize("recipe", ["demo_dpo", "demo_uni_dpo", "demo_adadpo"])
def test_training_on_few_pairs_learns_to_prefer_the_chosen_answers(place: Place, tmp_path: Path, recipe: str) -> None:
    pairs = tmp_path / "few.jsonl"
    pairs.write_text("\n".join(place.world.pairs.read_text().splitlines()[:8]) + "\n")
    changes = (*BATCH, f"data.train={pairs}", "train.num_train_epochs=12")
    assert main(place.training(recipe, tmp_path / "run", *changes)) == 0
    log = read_pair_log(RunDir(tmp_path / "run").pairs_file)
    last = [margin for step, margin in zip(log["step"], log["rewards/margins"], strict=True) if step == 12]
    assert sum(margin > 0 for margin in last) >= 7


def test_the_vision_tower_is_untouched_and_the_rest_is_not(place: Place, plain: Path) -> None:
    before, after = weights(place.model), weights(plain)
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed
    assert not any("vision_tower" in name for name in changed)


# Adam divides a gradient by its own size, so rounding in a tiny one becomes a visible step: these compare with SGD.
SGD = ("train.optim=sgd", "train.learning_rate=0.5")


def test_eight_pairs_at_once_are_one_pair_eight_times(place: Place, tmp_path: Path) -> None:
    one_by_one = ("train.per_device_train_batch_size=1", "train.gradient_accumulation_steps=8")
    assert main(place.training("demo_dpo", tmp_path / "whole", *BATCH, *SGD)) == 0
    assert main(place.training("demo_dpo", tmp_path / "split", *BATCH, *SGD, *one_by_one)) == 0
    assert largest_difference(place.model, tmp_path / "whole") > 1e-2
    assert largest_difference(tmp_path / "whole", tmp_path / "split") < 1e-5


def test_an_uneven_last_update_weighs_every_pair_alike(place: Place, tmp_path: Path) -> None:
    whole, split = tmp_path / "whole", tmp_path / "split"
    common = ("data.eval=[]", "train.warmup_steps=0", *SGD)
    assert main(place.training("demo_dpo", whole, *common, "train.per_device_train_batch_size=20")) == 0
    halves = ("train.per_device_train_batch_size=5", "train.gradient_accumulation_steps=4")
    assert main(place.training("demo_dpo", split, *common, *halves)) == 0
    assert RunDir(whole).manifest()["steps"] == RunDir(split).manifest()["steps"] == 3  # 20 + 20 + 8 pairs
    assert largest_difference(whole, split) < 1e-5


def test_checkpointing_activations_changes_nothing(place: Place, tmp_path: Path) -> None:
    for name in ("false", "true"):
        change = f"train.gradient_checkpointing={name}"
        assert main(place.training("demo_dpo", tmp_path / name, *BATCH, *SGD, change)) == 0
    assert largest_difference(tmp_path / "false", tmp_path / "true") < 1e-5


def test_loader_workers_change_nothing(place: Place, plain: Path, tmp_path: Path) -> None:
    assert main(place.training("demo_dpo", tmp_path / "run", *BATCH, "train.dataloader_num_workers=2")) == 0
    assert largest_difference(plain, tmp_path / "run") == 0


def test_the_same_seed_gives_the_same_bits_and_another_seed_does_not(place: Place, plain: Path, tmp_path: Path) -> None:
    assert main(place.training("demo_dpo", tmp_path / "same", *BATCH)) == 0
    assert main(place.training("demo_dpo", tmp_path / "other", *BATCH, "seed=1")) == 0
    assert largest_difference(plain, tmp_path / "same") == 0
    assert largest_difference(plain, tmp_path / "other") > 0


def test_lora_trains_an_adapter_that_loads_on_its_base(place: Place, tmp_path: Path) -> None:
    from mmpref.models.load import load

    changes = ("adapter.kind=lora", "tune.language=lora", "tune.projector=freeze", "train.learning_rate=1e-3")
    assert main(place.training("demo_dpo", tmp_path / "run", *BATCH, *changes)) == 0
    assert "adapter switched off" in RunDir(tmp_path / "run").manifest()["reference"]
    loaded = load(place.model, adapter=tmp_path / "run" / "model")
    assert any("lora_B" in name and bool(p.any()) for name, p in loaded.model.named_parameters())


def test_demonstrations_train_with_sft_and_are_refused_by_a_loss_that_compares(
    place: Place, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    changes = (f"data.train={place.world.see}", "train.max_steps=2")
    assert main(place.training("demo_dpo", tmp_path / "sft", *BATCH, *changes, "loss={name: sft}")) == 0
    assert main(place.training("demo_dpo", tmp_path / "dpo", *BATCH, *changes)) == 3
    assert "rejected" in capsys.readouterr().err
    assert RunDir(tmp_path / "dpo").manifest()["state"] == "failed"


# ---- stopping and resuming ------------------------------------------------------------------------------------


def test_a_resumed_run_ends_with_the_bits_of_an_uninterrupted_one(place: Place, plain: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    saving = ("train.save_steps=2", "train.save_total_limit=null")
    assert main(place.training("demo_dpo", run, *BATCH, *saving)) == 0
    assert largest_difference(plain, run) == 0
    pretend_it_died(run, keep=["step-2", "step-4"])
    assert main([*place.training("demo_dpo", run, *BATCH, *saving), "--resume"]) == 0
    assert largest_difference(plain, run) == 0
    assert read_pair_log(RunDir(run).pairs_file) == read_pair_log(RunDir(plain).pairs_file)
    steps = [json.loads(line)["step"] for line in RunDir(run).metrics_file.read_text().splitlines() if '"loss"' in line]
    assert steps == [1, 2, 3, 4, 5, 6]


def test_dropout_does_not_disturb_a_resume(place: Place, tmp_path: Path) -> None:
    lora = ("adapter={kind: lora, dropout: 0.3}", "tune={language: lora}", "train.save_steps=3", *BATCH)
    for name in ("whole", "resumed"):
        assert main(place.training("demo_dpo", tmp_path / name, *lora, "train.save_total_limit=null")) == 0
    pretend_it_died(tmp_path / "resumed", keep=["step-3"])
    arguments = place.training("demo_dpo", tmp_path / "resumed", *lora, "train.save_total_limit=null")
    assert main([*arguments, "--resume"]) == 0
    a, b = (load_file(tmp_path / n / "model" / "adapter_model.safetensors") for n in ("whole", "resumed"))
    assert all(torch.equal(a[name], b[name]) for name in a)


def pretend_it_died(run: Path, *, keep: list[str]) -> None:
    """Leave a finished run as a kill after the last kept checkpoint would have left it."""
    shutil.rmtree(run / "model")
    (run / "pairs.parquet").unlink()
    for folder in in_order(run / "checkpoints"):
        if folder.name not in keep:
            shutil.rmtree(folder)
    RunDir(run).set_state("running")


@pytest.mark.parametrize(("change", "named"), [
    ("train.learning_rate=1e-4", "train.learning_rate: 0.001 then, 0.0001 now"),
    ("seed=7", "seed: 0 then, 7 now"),
    ("loss.beta=0.2", "loss.beta: 0.1 then, 0.2 now"),
])  # fmt: skip
def test_a_resume_with_another_recipe_is_refused_and_the_key_named(
    place: Place, tmp_path: Path, capsys: pytest.CaptureFixture[str], change: str, named: str
) -> None:
    arguments = place.training("demo_dpo", tmp_path / "run", *BATCH, "train.save_steps=2", "train.max_steps=2")
    assert main(arguments) == 0
    RunDir(tmp_path / "run").set_state("running")
    assert main([*arguments, change, "--resume"]) == 6
    assert named in capsys.readouterr().err


def test_changed_data_is_refused_until_allowed(
    place: Place, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pairs = tmp_path / "pairs.jsonl"
    pairs.write_text(place.world.pairs.read_text())
    arguments = place.training("demo_dpo", tmp_path / "run", *BATCH, "train.save_steps=2", f"data.train={pairs}")
    assert main(arguments) == 0
    pretend_it_died(tmp_path / "run", keep=["step-4"])
    rows = pairs.read_text().splitlines()
    pairs.write_text("\n".join(rows[:-1]) + "\n")
    assert main([*arguments, "--resume"]) == 6
    assert "--allow-data-change goes on all the same" in capsys.readouterr().err
    assert main([*arguments, "--resume", "--allow-data-change"]) == 0


# ---- pairs that come and go while the files stay as they were -------------------------------------------------------


@dataclass
class Drawn:
    """A copy of the world's pairs, whose images may be taken away, and a run on them."""

    place: Place
    root: Path

    @property
    def pairs(self) -> Path:
        return self.root / self.place.world.pairs.name

    def image(self, number: int) -> Path:
        row = json.loads(self.pairs.read_text().splitlines()[number])
        return self.root / row["images"][0]

    def command(self, *changes: str) -> list[str]:
        given = (f"data.train={self.pairs}", f"data.root={self.root}", "train.save_steps=2")
        return self.place.training(
            "demo_dpo", self.root / "run", *BATCH, *given, "train.save_total_limit=null", *changes
        )

    def log(self) -> dict[str, list]:
        return read_pair_log(RunDir(self.root / "run").pairs_file)


@pytest.fixture
def drawn(place: Place, tmp_path: Path) -> Drawn:
    root = tmp_path / "world"
    shutil.copytree(place.world.root, root)
    return Drawn(place, root)


def said(capsys: pytest.CaptureFixture[str]) -> str:
    found = capsys.readouterr()
    return " ".join((found.out + found.err).split())


@pytest.mark.parametrize("returns", [True, False], ids=["an image comes back", "an image goes"])
def test_a_resume_with_other_pairs_is_refused_until_allowed(
    drawn: Drawn, capsys: pytest.CaptureFixture[str], returns: bool
) -> None:
    """The order of an epoch is drawn from the number of pairs: 5 pairs trained twice, and 5 never, without a word."""
    image, hidden = drawn.image(5), drawn.root / "hidden.png"
    command = drawn.command("data.max_bad_fraction=0.5")
    if returns:
        image.rename(hidden)
    assert main(command) == 0
    pretend_it_died(drawn.root / "run", keep=["step-2", "step-4"])
    hidden.rename(image) if returns else image.rename(hidden)
    kept = (drawn.root / "run" / "metrics.jsonl").read_bytes()
    said(capsys)
    assert main([*command, "--resume"]) == 6
    told = said(capsys)
    assert "pairs that train are not those of" in told
    assert re.search(r"'(\d+) pairs, \S+ .* then, '(\d+) pairs", told)
    assert "--allow-data-change goes on all the same, but draws their order anew" in told
    assert (drawn.root / "run" / "metrics.jsonl").read_bytes() == kept
    assert main([*command, "--resume", "--allow-data-change"]) == 0
    assert "in the epoch under way some pairs train twice and others not at all" in said(capsys)
    assert main([*command, "--overwrite"]) == 0
    assert max(Counter(drawn.log()["pair_id"]).values()) == 1


def test_a_torn_image_found_in_training_has_two_ways_on(
    drawn: Drawn, plain: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    late = read_pair_log(RunDir(plain).pairs_file)["pair_id"][-1]
    ids = [json.loads(line)["id"] for line in drawn.pairs.read_text().splitlines()]
    image = drawn.image(ids.index(late))
    whole = image.read_bytes()
    image.write_bytes(whole[: len(whole) * 2 // 3])
    assert main(drawn.command("data.check_images=header")) == 3
    assert "mmpref data check finds such rows" in said(capsys)
    shutil.copytree(drawn.root / "run", drawn.root / "kept")

    # what was said: the check puts the row aside, so there is one pair less
    report = drawn.root / "report"
    assert main(["data", "check", str(drawn.pairs), "--image-root", str(drawn.root), "--out", str(report)]) in (0, 3)
    checked = drawn.command(f"data.manifest={report / 'data_report.json'}", "data.max_bad_fraction=0.5")
    said(capsys)
    assert main([*checked, "--resume"]) == 6
    told = said(capsys)
    assert "'48 pairs, " in told
    assert "'47 pairs, " in told
    assert main([*checked, "--resume", "--allow-data-change"]) == 0
    assert "their order is drawn anew" in said(capsys)

    # or the image is put right in its own file: nothing has happened
    shutil.rmtree(drawn.root / "run")
    (drawn.root / "kept").rename(drawn.root / "run")
    image.write_bytes(whole)
    assert main([*drawn.command(), "--resume"]) == 0
    assert largest_difference(plain, drawn.root / "run") == 0


def test_a_damaged_checkpoint_is_passed_over_for_the_one_before(
    place: Place, plain: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    arguments = place.training("demo_dpo", run, *BATCH, "train.save_steps=2", "train.save_total_limit=null")
    assert main(arguments) == 0
    pretend_it_died(run, keep=["step-2", "step-4"])
    file = run / "checkpoints" / "step-4" / "trained.safetensors"
    content = bytearray(file.read_bytes())
    content[-5] ^= 4
    file.write_bytes(content)
    capsys.readouterr()
    assert main([*arguments, "--resume"]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "trained.safetensors is not what was written" in said
    assert largest_difference(plain, run) == 0


SIGNALLED = """
import os, sys
from mmpref.cli.main import entry_point
from mmpref.training.trainer.metrics import JsonlLogger

number, append = int(sys.argv.pop()), JsonlLogger._append

def signalled(logger, line):
    append(logger, line)
    if line["step"] == 2 and "loss" in line:
        os.kill(os.getpid(), number)

JsonlLogger._append = signalled
entry_point()
"""
"""``mmpref`` in a process that gets a signal in its second step, however fast it is."""


@pytest.mark.parametrize(
    ("number", "code"), [
        (signal.SIGINT, 130),
        pytest.param(signal.SIGTERM, 143, marks=pytest.mark.slow),  # the same way; killed runs end with the same bits
    ],
)  # fmt: skip
def test_a_signal_saves_a_checkpoint_and_the_resumed_run_ends_as_if_nothing_had_happened(
    place: Place, plain: Path, tmp_path: Path, number: signal.Signals, code: int
) -> None:
    run = tmp_path / "run"
    arguments = place.training("demo_dpo", run, *BATCH)
    done = subprocess.run(
        [sys.executable, "-c", SIGNALLED, *arguments, str(int(number))], capture_output=True, text=True, check=False,
        env={**os.environ, "COLUMNS": "200"},
    )  # fmt: skip
    assert "Traceback" not in done.stderr
    assert done.returncode == code, done.stderr
    assert "with a checkpoint; go on with --resume" in done.stderr
    assert RunDir(run).manifest()["state"] == "stopped"
    assert not (run / "model").exists()
    assert main([*arguments, "--resume"]) == 0
    assert largest_difference(plain, run) == 0


# ---- refusals -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("changes", "code", "message"), [
    (["train.learning_rat=1"], 2, "unknown key 'train.learning_rat', did you mean 'train.learning_rate'?"),
    (["train.bf16=yes"], 2, "'train.bf16'"),
    (["train.extra={lr: 1}"], 2, "'train.extra.lr' is not a name of transformers.TrainingArguments"),
    (["train.extra={seed: 1}"], 2, "'train.extra.seed' is set elsewhere in the recipe"),
    (["train.extra.eval_on_start=true"], 2, "held-out pairs are evaluated before the first step anyway"),
    (["train.extra.use_liger_kernel=true"], 2, "'train.extra.use_liger_kernel' is not for this trainer"),
    (["train.fp16=true", "train.use_cpu=true", "reference.kind=cache"], 2, "train.fp16 does nothing on a CPU"),
    (["processing.shrink_images=true", "processing.max_length=64"], 2, "the family 'llava' does not"),
    (["loss.uni=null", "loss.uni.eta=0.3"], 2, "'loss.uni' is null in 'loss.uni=null'"),
    (["train.lr_scheduler_type=cosin"], 2, "transformers refuses these settings"),
    (["loss.name=dppo"], 2, "dppo"),
    (["loss.beta=-1"], 2, "loss.beta"),
    (["model.path=/nowhere/at/all"], 2, "/nowhere/at/all"),
    (["data.train=/nowhere/pairs.jsonl"], 2, "data file /nowhere/pairs.jsonl does not exist"),
    (["tune={vision: freeze, projector: freeze, language: freeze}"], 2, "nothing would train"),
    (["tune.language=lora"], 2, "adapter"),
    (["reference.kind=adapter_off"], 2, "adapter_off is not possible"),
    (["data.root=/"], 3, "image"),
])  # fmt: skip
def test_what_cannot_be_used_is_one_clear_line_with_its_exit_code(
    place: Place, tmp_path: Path, capsys: pytest.CaptureFixture[str], changes: list[str], code: int, message: str
) -> None:
    assert main(place.training("demo_dpo", tmp_path / "run", *BATCH, *changes)) == code
    err = capsys.readouterr().err
    assert message in err
    assert "Traceback" not in err
    assert not (tmp_path / "run" / "model").exists()


def test_an_output_that_holds_a_run_is_refused_unless_told(
    place: Place, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = place.training("demo_dpo", tmp_path / "run", *BATCH, "train.max_steps=1")
    assert main(arguments) == 0
    assert main(arguments) == 2
    assert "contains a run already (state: complete)" in capsys.readouterr().err
    assert main([*arguments, "--resume"]) == 2
    assert "nothing to resume" in capsys.readouterr().err
    assert main([*arguments, "--overwrite"]) == 0


def test_an_output_that_cannot_be_written_ends_with_code_6(
    place: Place, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("in the way")
    assert main(place.training("demo_dpo", tmp_path / "file" / "run", *BATCH)) == 6
    assert "cannot write to" in capsys.readouterr().err


def test_a_loss_that_is_not_finite_stops_before_the_weights_move(
    place: Place, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    changes = ("train.learning_rate=1e30", "train.warmup_steps=0", "train.max_grad_norm=0")
    assert main(place.training("demo_dpo", tmp_path / "run", *BATCH, *changes)) == 4
    err = capsys.readouterr().err
    assert "step 2, pairs pair-" in err
    assert RunDir(tmp_path / "run").manifest()["state"] == "failed"
    assert not (tmp_path / "run" / "model").exists()


def test_a_process_of_several_that_does_not_know_its_number_is_refused(
    place: Place, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert main(place.training("demo_dpo", tmp_path / "run", *BATCH)) == 7
    assert "WORLD_SIZE=2 is set without RANK" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_pairs_without_scores_are_named_before_the_model_loads_when_the_loss_reads_scores(
    place: Place, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [json.loads(line) for line in place.world.pairs.read_text().splitlines()]
    for row in rows[3:5]:
        del row["score_chosen"], row["score_rejected"]
    bare = tmp_path / "bare.jsonl"
    bare.write_text("".join(json.dumps(row) + "\n" for row in rows))
    given = [f"data.train={bare}", "model.path=nobody/nothing"]
    assert main(place.training("demo_uni_dpo", tmp_path / "run", *BATCH, *given)) == 3
    err = capsys.readouterr().err
    assert f"2 of 48 pairs have no score_chosen and score_rejected (first id '{rows[3]['id']}')" in err
    neutral = ("loss.uni.on_missing_score=neutral", "train.max_steps=1")
    assert main(place.training("demo_uni_dpo", tmp_path / "run2", *BATCH, f"data.train={bare}", *neutral)) == 0


def test_evaluating_on_trained_pairs_is_refused(
    place: Place, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(place.training("demo_dpo", tmp_path / "run", f"data.eval={place.world.pairs}")) == 3
    assert "48 of the 48 pairs of data.eval are trained on too" in capsys.readouterr().err
