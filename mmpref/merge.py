"""A run's adapter merged into its base: one plain model folder, whose log-probs are compared with the adapter's.

The base is loaded as it was published, in bfloat16, never the 4-bit weights that QLoRA trained on: merging into those
rounds the adapter away. What was written is loaded again and compared, on pairs of the run's own data, with the base
that carries the adapter.
"""

from __future__ import annotations

import gc
import itertools
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mmpref.data.accepted import accepted_for
from mmpref.data.opening import frame_rule, recipe_sources, videos_of
from mmpref.data.quarantine import Quarantine
from mmpref.errors import CheckpointError, ConfigError, DataError
from mmpref.files.hashes import Say, content_hash
from mmpref.files.writing import folder_beside, real_path, write_json
from mmpref.models.adapters.lora import attach, merged
from mmpref.models.load import LoadSettings, load
from mmpref.models.loaded import LoadedModel
from mmpref.models.logps.pair_logps import pair_logps
from mmpref.models.quantize import QuantizationSettings
from mmpref.models.save import save_model
from mmpref.processing.collate import PairCollator
from mmpref.processing.encode import PairEncoder
from mmpref.processing.pixels import ImageSettings
from mmpref.processing.videos import LoadVideo
from mmpref.recipe.loading import load_recipe
from mmpref.recipe.sections import Recipe
from mmpref.records import PreferencePair
from mmpref.rundir.folder import RunDir, is_run_folder
from mmpref.training.loss_settings import objective_of
from mmpref.training.run.start_model import is_folder, start_files

BOUND = 0.02
"""Nats a token. Rounding W + BA to bfloat16 changes log-probs by a few thousandths; a wrong merge by far more."""
SAMPLES = 16
REPORT = "merge.json"
_ADAPTER = "adapter_model.safetensors"


@dataclass(frozen=True, slots=True)
class Drift:
    """How far the log-probs of answers differ, in nats a token: absolute change, mean and maximum over answers."""

    mean: float
    worst: float
    worst_pair: str
    answers: int


@dataclass(frozen=True, slots=True)
class Merged:
    """What :func:`merge` made.

    Attributes:
        path: the model folder.
        drift: between the base with the adapter, in the dtype of the merge, and the folder.
        trained_on: between the quantised base with the adapter, which is what was trained, and the folder; None where
            the base was not quantised.
    """

    path: Path
    drift: Drift
    trained_on: Drift | None


def merge(
    run: Path,
    out: Path,
    *,
    bound: float = BOUND,
    samples: int = SAMPLES,
    dtype: str = "bfloat16",
    device: str | None = None,
    say: Say | None = None,
) -> Merged:
    """Merge the adapter of a run into its base and write a plain model folder.

    Args:
        run: a complete run that trained an adapter.
        out: must not exist, or be an empty folder.
        bound: the largest mean drift that is allowed, in nats a token.
        samples: pairs of the run's training data that are compared.
        dtype: what the base is loaded, merged and written in.
        device: where the models run; None takes a GPU where there is one.
        say: called with each step.

    Raises:
        ConfigError: not such a run, or its base is not there any more.
        DataError: the run's data is not there any more.
        CheckpointError: the drift is above the bound, or ``out`` cannot be written; ``out`` is then left absent.
    """
    say = say or (lambda _: None)
    adapter, out = _adapter_of(run), real_path(out)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise CheckpointError(f"{out} already exists and is not empty; choose another folder or remove it")
    recipe = load_recipe(RunDir(run).recipe_file)
    _refuse_other_base(run, recipe, say)
    compared = _Compared(recipe, *_some_pairs(recipe, samples))
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    trained = None
    if (quantized := _quantization_of(recipe)) is not None:
        say(f"the {quantized.kind} base with the adapter, as it was trained")
        loaded = load(
            recipe.model.path, LoadSettings(dtype=recipe.model.dtype, quantization=quantized), adapter=adapter
        )
        trained = compared.log_probs(loaded)
        del loaded
        gc.collect()
    say(f"the base in {dtype} with the adapter")
    loaded = load(recipe.model.path, LoadSettings(dtype=dtype, device=device))
    with_adapter = attach(loaded.model, adapter, trainable=False).eval()
    before = compared.log_probs(_replaced(loaded, with_adapter))
    whole = merged(with_adapter)
    try:
        with folder_beside(out) as beside:
            unproved = beside / out.name
            save_model(whole, recipe.model.path, unproved)
            del loaded, with_adapter, whole
            gc.collect()
            say("the merged model, read back")
            after = compared.log_probs(load(unproved, LoadSettings(device=device)))
            trained_on = None if trained is None else _drift(trained, after)
            result = Merged(path=out, drift=_drift(before, after), trained_on=trained_on)
            _refuse_drift(result.drift, bound)
            adapter_hash = content_hash(adapter / _ADAPTER)
            facts = {"base": recipe.model.path, "adapter": adapter_hash, "dtype": dtype, "bound": bound}
            write_json(unproved / REPORT, {**facts, **_drifts(result)})
            if out.exists():
                out.rmdir()
            unproved.rename(out)
    except OSError as err:
        raise CheckpointError(f"{out} could not be written: {err}; check permissions and free space") from err
    return result


def _adapter_of(run: Path) -> Path:
    if not is_run_folder(run):
        raise ConfigError(f"{run} is not a run folder of mmpref train; give the folder with its manifest.json")
    state = RunDir(run).manifest()["state"]
    if state != "complete":
        raise ConfigError(f"the run in {run} has no result yet (state: {state}); finish it with mmpref train --resume")
    folder = RunDir(run).model
    if not (folder / "adapter_config.json").is_file():
        raise ConfigError(f"the run in {run} trained the weights themselves: {folder} is a whole model already")
    return folder


def _refuse_other_base(run: Path, recipe: Recipe, say: Say) -> None:
    """Refuse another base than the one that the adapter was trained on."""
    then = RunDir(run).manifest().get("start_files")
    if not isinstance(then, dict) or not then or not is_folder(recipe.model.path):
        return  # of an earlier version, or a hub model
    now = start_files(recipe.model.path, say)
    changed = [name for name in sorted({*then, *now}) if then.get(name) != now.get(name)]
    if changed:
        raise ConfigError(
            f"{recipe.model.path} is not the model that the run in {run} trained on: {', '.join(changed[:5])} differ; "
            "put the earlier model back"
        )


def _some_pairs(recipe: Recipe, count: int) -> tuple[list[PreferencePair], Any, LoadVideo]:
    sources, _, images = recipe_sources(recipe.data, frame_rule(recipe.processing))
    objective = objective_of(recipe)
    demonstrations = accepted_for(needs_rejected=objective.needs_rejected, needs_labels=objective.needs_labels)
    found = itertools.chain.from_iterable(
        source.pairs(Quarantine(), demonstrations=demonstrations) for source in sources
    )
    pairs = [candidate.pair for candidate in itertools.islice(found, count)]
    if not pairs:
        raise DataError(f"no usable pair in {', '.join(recipe.data.train_paths)} to compare the models on")
    return pairs, images, videos_of(sources)


def _replaced(loaded: LoadedModel, model: Any) -> LoadedModel:
    return LoadedModel(model=model, processor=loaded.processor, family=loaded.family, path=loaded.path)


def _quantization_of(recipe: Recipe) -> QuantizationSettings | None:
    """How the base was quantised for training; None where it was not."""
    section = recipe.adapter
    if section.stored_as is None:
        return None
    return QuantizationSettings(
        kind=section.stored_as, double_quant=section.double_quant, compute_dtype=section.compute_dtype
    )


@dataclass(frozen=True, slots=True)
class _Compared:
    """What the models are compared on."""

    recipe: Recipe
    pairs: Sequence[PreferencePair]
    images: Any
    videos: LoadVideo

    @torch.no_grad()
    def log_probs(self, loaded: LoadedModel) -> dict[str, tuple[float, int]]:
        """Log-prob and token count of every answer, by pair and side."""
        section = self.recipe.processing
        # without max_length: pairs that training cut or quarantined are as good for the comparison
        encoder = PairEncoder(
            loaded.processor,
            loaded.family,
            images=ImageSettings(min_pixels=section.min_pixels, max_pixels=section.max_pixels),
            video_max_pixels=section.video_max_pixels,
            template_kwargs=section.template_kwargs,
        )
        both = all(pair.rejected is not None for pair in self.pairs)
        collate = PairCollator(encoder, self.images.open, self.videos, layout="plain", need_rejected=both)
        device = next(parameter.device for parameter in loaded.model.parameters())
        found: dict[str, tuple[float, int]] = {}
        for pair in self.pairs:
            logps = pair_logps(loaded.model, collate([pair]).to(device))
            sides: dict[str, tuple[Tensor | None, Tensor | None]] = {
                "chosen": (logps.chosen, logps.chosen_len),
                "rejected": (logps.rejected, logps.rejected_len),
            }
            for side, (total, length) in sides.items():
                if total is not None and length is not None:
                    found[f"{pair.id} ({side})"] = (float(total), int(length))
        return found


def _drift(before: dict[str, tuple[float, int]], after: dict[str, tuple[float, int]]) -> Drift:
    changes = {name: abs(after[name][0] - total) / length for name, (total, length) in before.items()}
    worst = max(changes, key=lambda name: changes[name])
    return Drift(
        mean=sum(changes.values()) / len(changes), worst=changes[worst], worst_pair=worst, answers=len(changes)
    )


def _refuse_drift(drift: Drift, bound: float) -> None:
    if not drift.mean <= bound:  # NaN is above every bound
        raise CheckpointError(
            f"the merged model does not reproduce the adapter: log-probs differ by {drift.mean:.4f} nats a token on "
            f"average over {drift.answers} answers (worst {drift.worst:.4f}, {drift.worst_pair}), and {bound} is "
            "allowed. Merge in float32 with --dtype float32, or serve the adapter unmerged"
        )


def _drifts(result: Merged) -> dict[str, Any]:
    found: dict[str, Any] = {"drift": asdict(result.drift)}
    if result.trained_on is not None:
        found["drift_from_quantized_base"] = asdict(result.trained_on)
    return found
