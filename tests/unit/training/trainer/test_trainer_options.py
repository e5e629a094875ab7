"""How ``PreferenceTrainer`` is called from a script: options in one object, and a caller's arguments left alone."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from transformers import TrainerCallback, TrainingArguments

from mmpref.errors import ConfigError
from mmpref.models import LoadedModel, Tuning, choose_reference, prepare
from mmpref.processing import PairCollator, PairEncoder
from mmpref.training import PreferenceTrainer, TrainerOptions
from mmpref.training.trainer.inputs import Given, TrainerInputs
from mmpref.training.trainer.options import FormerKeywordWarning
from mmpref.training.trainer.own_arguments import own_arguments
from tests.plain_forward import build_deep
from tests.tiny_vlms import draw, pair

OBJECTIVE = {"base": "dpo", "beta": 0.3}


@pytest.fixture(scope="module")
def loaded() -> LoadedModel:
    return prepare(build_deep("text"), Tuning(language="full"), None)


def arguments(folder: Path) -> TrainingArguments:
    return TrainingArguments(str(folder), use_cpu=True, report_to=[], save_strategy="no", disable_tqdm=True)


def options(loaded: LoadedModel, **more: Any) -> dict[str, Any]:
    collator = PairCollator(PairEncoder(loaded.processor, loaded.family), draw)
    return {"collator": collator, "reference": choose_reference(loaded.model), **more}


class Seen(TrainerCallback):
    pass


def test_former_keywords_are_options_and_a_warning_says_so(loaded: LoadedModel, tmp_path: Path) -> None:
    given = options(loaded, callbacks=[Seen()], skip_nonfinite_steps=2, costs=[1.0])
    pairs = [pair("a")]
    new = PreferenceTrainer(
        loaded.model, arguments(tmp_path), objective=OBJECTIVE, train_pairs=pairs, options=TrainerOptions(**given)
    )
    words = r"options=TrainerOptions\(collator=..., reference=..., callbacks=..., skip_nonfinite_steps=..., costs=...\)"
    with pytest.warns(FormerKeywordWarning, match=words) as warned:
        old = PreferenceTrainer(loaded.model, arguments(tmp_path), objective=OBJECTIVE, train_pairs=pairs, **given)
    assert [
        one.filename for one in warned if one.category is FormerKeywordWarning and "options=" in str(one.message)
    ] == [__file__]
    for trainer in (new, old):
        assert trainer.reference is given["reference"]
        assert trainer.collator is given["collator"]
        assert any(isinstance(one, Seen) for one in trainer.callback_handler.callbacks)


def test_callbacks_may_be_none_as_before_and_a_keyword_that_is_no_option_is_refused(
    loaded: LoadedModel, tmp_path: Path
) -> None:
    with pytest.warns(FormerKeywordWarning, match="callbacks=..."):
        assert TrainerOptions().with_former_keywords({"callbacks": None}).callbacks == ()
    with pytest.raises(TypeError, match=r"unexpected keyword argument 'train_dataset'; its options are callbacks, "):
        PreferenceTrainer(
            loaded.model, arguments(tmp_path), objective=OBJECTIVE, train_pairs=[pair("a")], train_dataset=[]
        )


def test_an_option_given_both_ways_is_refused() -> None:
    with pytest.raises(TypeError, match="got 'image_root' twice, by itself and in options"):
        TrainerOptions(image_root=Path("a")).with_former_keywords({"image_root": Path("b")})
    with pytest.warns(FormerKeywordWarning):
        both = TrainerOptions(image_root=Path("a")).with_former_keywords({"skip_nonfinite_steps": 1})
    assert (both.image_root, both.skip_nonfinite_steps) == (Path("a"), 1)


def test_what_a_bare_model_needs_is_asked_for_by_its_option(loaded: LoadedModel, tmp_path: Path) -> None:
    def made(**given: Any) -> None:
        PreferenceTrainer(
            loaded.model, arguments(tmp_path), objective=OBJECTIVE, train_pairs=[pair("a")],
            options=TrainerOptions(**given),
        )  # fmt: skip

    with pytest.raises(ConfigError, match=r"pass options=TrainerOptions\(collator="):
        made()
    with pytest.raises(ConfigError, match=r"pass options=TrainerOptions\(reference=choose_reference"):
        made(collator=options(loaded)["collator"])


def test_the_callers_arguments_stay_as_they_were(loaded: LoadedModel, tmp_path: Path) -> None:
    args = arguments(tmp_path)
    before = copy.deepcopy(args.to_dict())
    trainer = PreferenceTrainer(
        loaded.model, args, objective=OBJECTIVE, train_pairs=[pair("a")], options=TrainerOptions(**options(loaded))
    )
    assert args.to_dict() == before
    assert args.remove_unused_columns
    assert trainer.args is not args
    assert not trainer.args.remove_unused_columns
    assert not trainer.args.logging_nan_inf_filter


def test_what_a_caller_says_of_ddp_stays(tmp_path: Path) -> None:
    args = arguments(tmp_path)
    assert (own_arguments(args).ddp_find_unused_parameters, own_arguments(args).ddp_broadcast_buffers) == (True, False)
    args.ddp_find_unused_parameters, args.ddp_broadcast_buffers = False, True
    assert (own_arguments(args).ddp_find_unused_parameters, own_arguments(args).ddp_broadcast_buffers) == (False, True)


def test_a_models_config_says_of_its_cache_what_it_said(loaded: LoadedModel, tmp_path: Path) -> None:
    """The stock Trainer switches it off there, and it would be saved with the model."""
    model: Any = loaded.model
    for value in (True, False):
        model.config.use_cache = value
        PreferenceTrainer(
            model, arguments(tmp_path), objective=OBJECTIVE, train_pairs=[pair("a")],
            options=TrainerOptions(**options(loaded)),
        )  # fmt: skip
        assert model.config.use_cache is value


@pytest.mark.parametrize("given", ["on", "Prompt", True, None])
def test_a_group_pairs_that_is_not_known_is_refused_and_does_not_mean_off(given: Any) -> None:
    with pytest.raises(ConfigError, match=r"group_pairs is .*, want 'off' or 'prompt'"):
        TrainerOptions(group_pairs=given)


@pytest.mark.parametrize("grouped", ["off", "prompt"])
@pytest.mark.parametrize("count", [1, 3])
def test_costs_of_other_pairs_than_those_that_train_are_refused(
    loaded: LoadedModel, tmp_path: Path, count: int, grouped: Any
) -> None:
    """With too many of them an epoch of grouped pairs had more updates than it has pairs for."""
    given = options(loaded, costs=[1.0] * count, group_pairs=grouped)
    pairs = [pair("a"), pair("b")]
    with pytest.raises(ConfigError, match=rf"costs are of {count} pairs, and 2 train"):
        PreferenceTrainer(
            loaded.model, arguments(tmp_path), objective=OBJECTIVE, train_pairs=pairs, options=TrainerOptions(**given)
        )


def test_held_out_images_below_another_folder_are_refused_and_not_those_of_the_training_shown(
    loaded: LoadedModel, tmp_path: Path
) -> None:
    files = []
    for name, shade in (("train", 10), ("held-out", 200)):
        folder = tmp_path / name
        folder.mkdir()
        Image.new("RGB", (28, 28), (shade, shade, shade)).save(folder / "0.png")
        row = {"id": name, "images": ["0.png"], "prompt": "is it red ?", "chosen": "yes", "rejected": "no"}
        files.append(folder / "pairs.jsonl")
        files[-1].write_text(json.dumps(row) + "\n", encoding="utf-8")
    train, held_out = files

    def inputs(eval_pairs: Path, **more: Any) -> TrainerInputs:
        given = Given(model=loaded, objective={"base": "simpo"}, train_pairs=train, eval_pairs=eval_pairs)
        return TrainerInputs.of(given, TrainerOptions(**more), autocast=None)

    with pytest.raises(ConfigError, match=r"eval_pairs have '0.png' below .*held-out, .*image_root"):
        inputs(held_out)
    beside = train.with_name("more.jsonl")
    beside.write_text(held_out.read_text(encoding="utf-8"), encoding="utf-8")
    assert len(inputs(beside).eval_pairs) == 1
    assert len(inputs(held_out, image_root=train.parent).eval_pairs) == 1
    assert len(inputs(held_out, collator=options(loaded)["collator"]).eval_pairs) == 1
