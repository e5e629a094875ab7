"""What ``PreferenceTrainer`` relies on in transformers' Trainer beyond its public face, on the release installed here.

It overrides methods that are private there and calls others. Nothing warns when a release renames one, hands it other
arguments or calls it at another moment, so all of it is named below and tried out: this file runs alone, and is run
against the oldest and the newest release that are supported.
"""

from __future__ import annotations

import ast
import inspect
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from transformers import Trainer, TrainerCallback, TrainingArguments

import mmpref.training
from mmpref.training import PreferenceTrainer

# method -> its parameters in transformers, those with a default marked by "="
OVERRIDDEN = {
    # public
    "autocast_smart_context_manager": ("cache_enabled=",),
    "compute_loss": ("model", "inputs", "return_outputs=", "num_items_in_batch="),
    "create_optimizer": ("model=",),
    "evaluate": ("eval_dataset=", "ignore_keys=", "metric_key_prefix="),
    "floating_point_ops": ("inputs",),
    "get_eval_dataloader": ("eval_dataset=",),
    "get_train_dataloader": (),
    "log": ("logs", "start_time="),
    "save_model": ("output_dir=", "_internal_call="),
    "train": ("resume_from_checkpoint=", "trial=", "ignore_keys_for_eval="),
    "training_step": ("model", "inputs", "num_items_in_batch="),
    # private
    "_clip_grad_norm": ("model",),
    "_get_grad_norm": ("model", "grad_norm="),
    "_get_num_items_in_batch": ("batch_samples", "device"),
    "_load_from_checkpoint": ("resume_from_checkpoint", "model="),
    "_load_optimizer_and_scheduler": ("checkpoint",),
    "_load_rng_state": ("checkpoint",),
    "_prepare_inputs": ("inputs",),
    "_save_checkpoint": ("model", "trial"),
}
CALLED = {
    "_get_learning_rate": (),
    "_save_optimizer_and_scheduler": ("output_dir",),
    "_save_rng_state": ("output_dir",),
    "_save_scaler": ("output_dir",),
    "_wrap_model": ("model", "training=", "dataloader="),
    "compute_loss_context_manager": (),
    "get_optimizer_cls_and_kwargs": ("args", "model="),  # called on the class too, with arguments in place of a trainer
}
ATTRIBUTES = (
    "accelerator", "args", "callback_handler", "control", "data_collator", "eval_dataset", "is_deepspeed_enabled",
    "is_in_train", "lr_scheduler", "model", "model_accepts_loss_kwargs", "model_wrapped", "optimizer", "state",
    "train_dataset",
)  # fmt: skip
"""Of a stock trainer once it is made."""
WHILE_TRAINING = ("_tr_loss",)
"""Made when training begins: the sum of losses since the last log line, a tensor that is changed in place."""
OF_ARGUMENTS = ("_n_gpu",)
"""Private attributes of ``TrainingArguments``."""

SOURCES = sorted(Path(mmpref.training.__file__).parent.rglob("*.py"))


def parameters(method: Callable[..., Any]) -> tuple[str, ...]:
    """Names without self; those with a default marked by "="."""
    found = inspect.signature(method).parameters.values()
    return tuple(one.name + ("" if one.default is one.empty else "=") for one in found if one.name != "self")


@pytest.mark.parametrize("name", [*OVERRIDDEN, *CALLED])
def test_a_method_is_there_with_the_parameters_that_we_know(name: str) -> None:
    assert parameters(getattr(Trainer, name)) == (OVERRIDDEN | CALLED)[name]


@pytest.mark.parametrize("name", OVERRIDDEN)
def test_an_override_takes_whatever_the_method_takes(name: str) -> None:
    """Called as transformers may call it: by position or by name."""
    ours, theirs = (inspect.signature(getattr(cls, name)) for cls in (PreferenceTrainer, Trainer))
    if any(one.kind is one.VAR_KEYWORD for one in ours.parameters.values()):
        assert all(f"{one}=" in OVERRIDDEN[name] for one in theirs.parameters if one != "self")
        return
    positions = dict.fromkeys(theirs.parameters)
    ours.bind(*positions)
    ours.bind(None, **{key: None for key in positions if key != "self"})
    least = [one.name for one in theirs.parameters.values() if one.default is one.empty]
    ours.bind(*least)


def test_every_method_that_is_overridden_is_named_here() -> None:
    ours = {name for name in vars(PreferenceTrainer) if callable(getattr(PreferenceTrainer, name))}
    assert {name for name in ours if hasattr(Trainer, name)} - set(dir(object)) == set(OVERRIDDEN)


def private_uses() -> Iterator[tuple[str, str]]:
    """File and name of every private attribute of something called trainer or super(), in the training package."""
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Attribute) and node.attr.startswith("_") and not node.attr.startswith("__"):
                owner = ast.unparse(node.value)
                if owner in ("super()", "trainer", "self._trainer", "Trainer") or (
                    path.name == "trainer.py" and owner == "self" and hasattr(Trainer, node.attr)
                ):
                    yield path.name, node.attr
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "getattr" and len(node.args) > 1:
                name = node.args[1]
                if ast.unparse(node.args[0]) == "trainer" and isinstance(name, ast.Constant):
                    yield path.name, str(name.value)


def test_every_private_name_that_is_used_is_named_here() -> None:
    used = {name for _, name in private_uses()}
    assert used >= {"_save_rng_state", "_tr_loss", "_wrap_model", "_clip_grad_norm"}  # the search finds something
    assert used <= {*OVERRIDDEN, *CALLED, *WHILE_TRAINING, *OF_ARGUMENTS}
    assert {name for name in CALLED if name.startswith("_")} <= used


# ---- when they are called, and with what ----------------------------------------------------------------------------


class Line(nn.Module):
    """y = w x, with the loss that a stock Trainer reads from its output."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))

    def forward(self, x: torch.Tensor, labels: torch.Tensor, **_: Any) -> dict[str, torch.Tensor]:
        return {"loss": ((x * self.weight - labels) ** 2).mean()}


class Recorded(Trainer):
    """A stock Trainer that writes down which of the methods above is called, in which order, and with what."""

    def __init__(self, **given: Any) -> None:
        self.calls: list[tuple[str, dict[str, Any]]] = []
        super().__init__(**given)

    def names(self, *wanted: str) -> list[str]:
        return [name for name, _ in self.calls if name in wanted]

    def given(self, wanted: str) -> dict[str, Any]:
        return next(arguments for name, arguments in self.calls if name == wanted)


def _recorded(name: str) -> Callable[..., Any]:
    real = getattr(Trainer, name)

    def method(self: Recorded, *args: Any, **kwargs: Any) -> Any:
        bound = inspect.signature(real).bind(self, *args, **kwargs)
        found = real(self, *args, **kwargs)
        self.calls.append((name, {**bound.arguments, "returned": found, "_tr_loss": getattr(self, "_tr_loss", None)}))
        return found

    return method


for _name in OVERRIDDEN:
    if _name not in ("autocast_smart_context_manager", "train"):
        setattr(Recorded, _name, _recorded(_name))


def recorded(folder: Path, **options: Any) -> Recorded:
    rows = [{"x": torch.tensor([float(n)]), "labels": torch.tensor([2.0 * n])} for n in range(8)]
    settings: dict[str, Any] = {
        "per_device_train_batch_size": 2, "gradient_accumulation_steps": 2, "max_steps": 2, "logging_steps": 1,
        "save_steps": 1, "learning_rate": 0.1, "use_cpu": True, "report_to": "none", "disable_tqdm": True,
        "remove_unused_columns": False, "optim": "sgd", **options,
    }  # fmt: skip
    args = TrainingArguments(str(folder), **settings)
    return Recorded(model=Line(), args=args, train_dataset=rows)  # type: ignore[arg-type]


def test_a_trainer_that_is_made_has_the_attributes(tmp_path: Path) -> None:
    trainer = recorded(tmp_path)
    assert [name for name in ATTRIBUTES if not hasattr(trainer, name)] == []
    assert [name for name in OF_ARGUMENTS if not hasattr(trainer.args, name)] == []
    assert not any(hasattr(trainer, name) for name in WHILE_TRAINING)  # before training the default is taken


def test_an_update_calls_them_in_this_order(tmp_path: Path) -> None:
    """Pairs are counted before the first micro-batch; clipped and judged after the last, before the optimizer."""
    trainer = recorded(tmp_path, max_steps=1)

    class Steps(TrainerCallback):
        def on_pre_optimizer_step(self, *_: Any, **__: Any) -> None:
            trainer.calls.append(("optimizer", {}))

        def on_step_end(self, *_: Any, **__: Any) -> None:
            trainer.calls.append(("step end", {}))

    trainer.add_callback(Steps())
    trainer.train()
    others = ("create_optimizer", "get_train_dataloader", "save_model")
    names = [name for name, _ in trainer.calls if name not in others]
    micro = ["_prepare_inputs", "compute_loss", "training_step", "floating_point_ops"]
    update = ["_get_num_items_in_batch", *micro, *micro, "_clip_grad_norm", "_get_grad_norm", "optimizer", "step end"]
    assert names[: len(update)] == update
    assert names[len(update) :][:2] == ["log", "_save_checkpoint"]
    assert [trainer.given("training_step")["model"]] == [trainer.model]
    count = trainer.given("_get_num_items_in_batch")
    assert isinstance(count["batch_samples"], list)
    assert len(count["batch_samples"]) == 2
    norm = trainer.given("_get_grad_norm")
    assert norm["grad_norm"] is trainer.given("_clip_grad_norm")["returned"]
    assert isinstance(norm["_tr_loss"], torch.Tensor)


def test_without_clipping_the_norm_is_asked_for_all_the_same(tmp_path: Path) -> None:
    trainer = recorded(tmp_path, max_grad_norm=0.0, max_steps=1)
    trainer.train()
    assert trainer.names("_clip_grad_norm", "_get_grad_norm") == ["_get_grad_norm"]
    assert trainer.given("_get_grad_norm").get("grad_norm") is None


def test_what_fills_up_a_batch_in_place_is_run(tmp_path: Path) -> None:
    """``_get_num_items_in_batch`` replaces the content of the list that it is given; the new batches are trained on."""
    trainer = recorded(tmp_path, max_steps=1)
    seen = []

    def count(batch_samples: list[Any], device: torch.device) -> int:
        batch_samples[:] = [{**batch, "labels": batch["labels"] + 100} for batch in batch_samples]
        return 7

    def training_step(model: nn.Module, inputs: Any, num_items_in_batch: Any = None) -> torch.Tensor:
        seen.append((float(inputs["labels"].min()) >= 100, num_items_in_batch))
        return torch.zeros(())

    trainer._get_num_items_in_batch = count  # type: ignore[method-assign, assignment]
    trainer.training_step = training_step  # type: ignore[method-assign, assignment]
    trainer.train()
    assert seen == [(True, 7), (True, 7)]


def test_a_loss_over_the_whole_update_is_not_divided_again(tmp_path: Path) -> None:
    """Both names that releases have for it are set; the gradient of a constant loss of 1 for each micro-batch is 1."""
    trainer = recorded(tmp_path, max_steps=1)
    trainer.model_accepts_loss_kwargs = True
    trainer.loss_is_scaled_for_ga = True
    trainer.compute_loss = lambda model, *_, **__: model.weight.sum()  # type: ignore[method-assign, assignment]
    batch = {"x": torch.ones(2, 1), "labels": torch.ones(2, 1)}
    trainer.current_gradient_accumulation_steps = 2
    for _ in range(2):
        trainer.training_step(trainer.model, batch, 4)
    assert float(trainer.model.weight.grad) == 2.0


def test_a_checkpoint_is_read_in_this_order(tmp_path: Path) -> None:
    recorded(tmp_path).train()
    trainer = recorded(tmp_path)
    trainer.train(resume_from_checkpoint=str(tmp_path / "checkpoint-1"))
    loads = ("_load_from_checkpoint", "_load_optimizer_and_scheduler", "_load_rng_state")
    assert trainer.names(*loads, "training_step")[:3] == list(loads)
    for name in loads:
        assert next(iter(list(trainer.given(name).values())[1:])) == str(tmp_path / "checkpoint-1")
    assert trainer.state.global_step == 2


def test_an_optimizer_is_made_once_and_by_the_method(tmp_path: Path) -> None:
    trainer = recorded(tmp_path, max_steps=1)
    assert trainer.optimizer is None
    trainer.train()
    assert trainer.names("create_optimizer") == ["create_optimizer"]
    assert hasattr(trainer.optimizer, "optimizer")  # accelerate's, around torch's
