"""What a resumed run must have in common with its checkpoint: a preset counts by what it means, not by its name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from mmpref.errors import CheckpointError
from mmpref.losses import resolve
from mmpref.recipe.loading import build_recipe
from mmpref.records import PreferencePair
from mmpref.rundir.folder import RunDir
from mmpref.training.run.facts import facts_of, pairs_fact
from mmpref.training.run.resume import check_pairs, choose_checkpoint
from mmpref.training.run.resume_differences import Differences
from mmpref.training.trainer.checkpoint import seal


def facts(tmp_path: Path, loss: dict, processing: Any = None, **train: Any) -> dict:
    model = tmp_path / "model"
    model.mkdir(exist_ok=True)
    (model / "config.json").write_text("{}")
    tree = {"output": "out", "model": {"path": str(model)}, "data": {"train": "p.jsonl"}, "loss": loss,
            "processing": processing or {}, "train": {"learning_rate": 1e-6, **train}}  # fmt: skip
    return facts_of(build_recipe(tree, where="test"), ["hash"])


def test_where_features_are_kept_moves_no_weight(tmp_path: Path) -> None:
    without = facts(tmp_path, {"name": "dpo"})
    assert facts(tmp_path, {"name": "dpo"}, processing={"feature_cache": "features"}) == without
    assert facts(tmp_path, {"name": "dpo"}, processing={"max_length": 99}) != without


def test_a_balance_counts_by_the_keys_it_resolves_to(tmp_path: Path) -> None:
    """A checkpoint of before, whose `adadpo` was another loss, has none of these facts and is refused."""
    named = facts(tmp_path, {"name": "adadpo"})
    assert named["loss.ada.share"] == 1.0
    assert named["loss.ada.clip"] == 2.0
    assert named["loss.ada.use_reference"] is True
    written = facts(tmp_path, {"name": "adadpo", "ada": {"share": 1.0}})
    assert written == named
    split = facts(tmp_path, {"name": "adadpo_split"})
    changed = {key for key in named if named[key] != split[key]}
    assert changed == {"loss.name", "loss.ada.share", "loss.ada.use_reference", "loss.ada.clip", "loss.ada.clip_mode"}


@pytest.mark.parametrize("loss", [{"name": "dpo"}, {"name": "uni_dpo", "uni": {"tau_good": 2.5}}], ids=str)
def test_without_a_balance_the_facts_are_what_was_written(tmp_path: Path, loss: dict) -> None:
    got = facts(tmp_path, loss)
    assert got["loss.ada"] is None
    assert got["loss.name"] == loss["name"]
    assert got["loss.beta"] is None


@pytest.mark.parametrize("allow_data_change", [False, True])
def test_another_source_of_other_images_is_another_loss_and_no_change_of_data(
    tmp_path: Path, allow_data_change: bool
) -> None:
    found = Differences(tmp_path / "step-4", RunDir(tmp_path / "run"))
    found.of_facts({"data.other_image": "made"}, {"data.other_image": "random_row"})
    told = r"data\.other_image: 'made' then, 'random_row' now -> `mmpref train .* --resume` goes on with the earlier"
    with pytest.raises(CheckpointError, match=told) as caught:
        found.refuse_unless(allow_data_change)
    assert "data.eval" not in str(caught.value)
    before_it_existed = Differences(tmp_path / "step-4", RunDir(tmp_path / "run"))
    before_it_existed.of_facts({}, {"data.other_image": None})
    before_it_existed.refuse_unless(False)


def test_pairs_that_traveled_by_prompt_go_on_so(tmp_path: Path) -> None:
    """Another order would train some pairs twice; a checkpoint of before there were groups had none."""
    run, told = RunDir(tmp_path / "run"), list[str]()
    run.checkpoints.mkdir(parents=True)
    (run.path / "recipe.yaml").write_text("")
    named = {how: facts(tmp_path, DPO, group_pairs=how) for how in ("off", "prompt")}
    before = {name: value for name, value in named["off"].items() if name != "train.group_pairs"}
    for number, (then, now) in enumerate([("prompt", "off"), ("off", "prompt"), (None, "prompt")], start=1):
        folder = run.checkpoints / f"step-{number}"
        folder.mkdir()
        seal(folder, named.get(then or "", before))
        with pytest.raises(CheckpointError, match=f"train.group_pairs: '{then or 'off'}' then, '{now}' now.* goes on"):
            choose_checkpoint(run, named[now], allow_data_change=True, say=told.append)
    assert choose_checkpoint(run, named["off"], allow_data_change=False, say=told.append) == folder


@pytest.mark.parametrize("loss", [{"name": "dpo"}, {"name": "orpo"}, {"name": "cpo"}, {"name": "adadpo"}], ids=str)
def test_a_checkpoint_from_before_there_were_weights_of_terms_goes_on(tmp_path: Path, loss: dict) -> None:
    run = RunDir(tmp_path / "run")
    run.checkpoints.mkdir(parents=True)
    (run.path / "recipe.yaml").write_text("")
    now = facts(tmp_path, resolve(loss))
    new = (
        "pair_weight",
        "image",
        "anchor",
        "kto",
        "token_weights",
        *(() if loss["name"] == "cpo" else ("nll_weight",)),
    )
    before = {name: value for name, value in now.items() if name.removeprefix("loss.") not in new}
    folder = run.checkpoints / "step-1"
    folder.mkdir()
    seal(folder, before)
    assert choose_checkpoint(run, now, allow_data_change=False, say=print) == folder
    other = facts(tmp_path, resolve({**loss, "pair_weight": 0.5}))
    with pytest.raises(CheckpointError, match=r"loss\.pair_weight: 1\.0 then, 0\.5 now"):
        choose_checkpoint(run, other, allow_data_change=False, say=print)


# ---- which pairs train ----------------------------------------------------------------------------------------------


def checkpoint_with(folder: Path, *pairs: PreferencePair, noted: bool = True) -> Path:
    folder.mkdir()
    seal(folder, {"seed": 0, **(pairs_fact(pairs) if noted else {})})
    return folder


A, B, C = (PreferencePair(id=name, prompt=(), images=(), chosen="c", rejected="r") for name in "abc")


def test_the_same_pairs_go_on_without_a_word(tmp_path: Path) -> None:
    told: list[str] = []
    check_pairs(
        checkpoint_with(tmp_path / "step-2", A, B), pairs_fact([A, B]), allow_data_change=False, say=told.append
    )
    assert told == []


@pytest.mark.parametrize("now", [[A], [A, B, C], [B, A], [A, C], [A, B, B]], ids=["fewer", "more", "turned", "other",
                                                                                "twice"])  # fmt: skip
def test_other_pairs_are_refused_until_allowed_and_their_new_order_is_told(
    tmp_path: Path, now: list[PreferencePair]
) -> None:
    start, told = checkpoint_with(tmp_path / "step-2", A, B), list[str]()
    with pytest.raises(CheckpointError, match=f"'2 pairs, .*then, '{len(now)} pairs, .*--allow-data-change goes on"):
        check_pairs(start, pairs_fact(now), allow_data_change=False, say=told.append)
    check_pairs(start, pairs_fact(now), allow_data_change=True, say=told.append)
    (line,) = told
    assert "their order is drawn anew, so in the epoch under way some pairs train twice" in line


def test_a_checkpoint_from_before_pairs_were_noted_says_so(tmp_path: Path) -> None:
    start, told = checkpoint_with(tmp_path / "step-2", A, B, noted=False), list[str]()
    with pytest.raises(CheckpointError, match=r"does not say which pairs it trained on .*--allow-data-change goes on"):
        check_pairs(start, pairs_fact([A, B]), allow_data_change=False, say=told.append)
    check_pairs(start, pairs_fact([A, B]), allow_data_change=True, say=told.append)
    assert "only if they are the same" in told[0]


# ---- settings that move no weight -----------------------------------------------------------------------------------


def resumed(tmp_path: Path, then: dict, now: dict) -> Path | None:
    folder = tmp_path / "run" / "checkpoints" / "step-1"
    folder.mkdir(parents=True)
    seal(folder, then)
    return choose_checkpoint(RunDir(tmp_path / "run"), now, allow_data_change=False, say=lambda _: None)


DPO = resolve({"name": "dpo"})
FREE = {
    "ddp_timeout": 60, "log_level": "info", "dataloader_prefetch_factor": 4, "logging_first_step": True,
    "torch_empty_cache_steps": 2,
}  # fmt: skip


@pytest.mark.parametrize("key", FREE)
def test_how_long_is_waited_and_what_is_told_may_change(tmp_path: Path, key: str) -> None:
    now = facts(tmp_path, DPO, extra={key: FREE[key]}, per_device_eval_batch_size=2)
    assert resumed(tmp_path, facts(tmp_path, DPO), now) is not None


def test_checkpoints_that_hold_such_settings_as_facts_go_on(tmp_path: Path) -> None:
    then = {**facts(tmp_path, DPO), "train.extra.ddp_timeout": 60, "train.per_device_eval_batch_size": 8}
    assert resumed(tmp_path, then, facts(tmp_path, DPO)) is not None


def test_what_moves_weights_may_not_change_and_nothing_else_is_named(tmp_path: Path) -> None:
    now = facts(tmp_path, DPO, extra={"neftune_noise_alpha": 5.0, "ddp_timeout": 60})
    with pytest.raises(CheckpointError) as caught:
        resumed(tmp_path, {**facts(tmp_path, DPO), "train.extra": {}}, now)
    assert "belongs to another run: train.extra.neftune_noise_alpha: None then, 5.0 now" in str(caught.value)
    assert "ddp_timeout" not in str(caught.value)
    assert "train.extra:" not in str(caught.value)
