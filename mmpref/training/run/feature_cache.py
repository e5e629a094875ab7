"""Image features of a frozen vision tower on disk (``processing.feature_cache``), for later epochs and later runs.

The folder has ``facts.json`` (what features depend on besides the images), ``outputs.json`` (how the tower's outputs
are made of what is kept) and one file for the images of each row, ``XX/KEY.safetensors``: the key is a hash of the
tensors that the tower is given, so another image, budget or image processor never finds a file. Each is written
atomically and has the hash of its content: a run that is killed leaves a cache that the next one goes on with, several
runs and ranks may use one folder at once, and a damaged file is told and written again. Files are read one by one as
batches need them, in the loader's workers: the cache may be far larger than memory.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load, save
from torch import Tensor

from mmpref.errors import CheckpointError, ConfigError, library_errors
from mmpref.files.hashes import Say
from mmpref.files.temporary import remove_abandoned
from mmpref.files.writing import replacing, write_json, writing_to
from mmpref.models.loaded import LoadedModel
from mmpref.models.tower_features import FAMILIES, Form, TowerFeatures, attach, kept_modules
from mmpref.processing.image_rows import ImageRow
from mmpref.recipe.sections import Recipe
from mmpref.records import PreferencePair
from mmpref.rundir.folder import versions
from mmpref.training.parallel.world import World
from mmpref.training.precision import dtype_fact
from mmpref.training.run.start_model import model_fingerprint
from mmpref.training.trainer.checkpoint import differences
from mmpref.training.trainer.train_mode import dropout_of

KEY = "processing.feature_cache"
FACTS, OUTPUTS = "facts.json", "outputs.json"
FORMAT = 1
_OF, _KEY, _HASH = "facts", "images", "sha256"
_WITHOUT = f"leave {KEY} out"


@dataclass(frozen=True, slots=True)
class FeatureFiles:
    """The files of a cache, as loader workers read them.

    Attributes:
        facts: hash of the cache's facts.
    """

    folder: Path
    facts: str

    def path(self, key: str) -> Path:
        """Where the features of a row's images are, or would be."""
        return self.folder / key[:2] / f"{key}.safetensors"

    def __call__(self, rows: Sequence[ImageRow]) -> dict[str, Tensor]:
        """Features of some rows, joined in their order; {} where they are not there and whole for all of them."""
        found: dict[str, Mapping[str, Tensor]] = {}
        for row in rows:
            if row.key not in found:
                one = self.read(row.key)
                if not isinstance(one, dict):
                    return {}
                found[row.key] = one
        names = [found[row.key].keys() for row in rows]
        if any(one != names[0] for one in names):  # some were kept before the model was seen to read more
            return {}
        return {name: torch.cat([found[row.key][name] for row in rows]) for name in names[0]}

    def read(self, key: str) -> dict[str, Tensor] | str | None:
        """Features of one row's images; None where there are none, and a text where they are not what was written."""
        path = self.path(key)
        try:
            content = path.read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as err:
            return f"cannot be read ({err.strerror or err})"
        try:
            tensors: dict[str, Tensor] = load(content)
            header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")]).get("__metadata__", {})
        except Exception:  # whatever safetensors and json say of damaged bytes
            return "is damaged"
        if header.get(_OF) != self.facts:
            return "was written for another cache"
        if header.get(_KEY) != key:
            return "is of other images than its name says"
        if header.get(_HASH) != _hash(tensors):
            return "has other bytes than were written (sha256 differs)"
        return tensors


class FeatureCache:
    """A ``models.tower_features.Store`` in a folder.

    Args:
        files: of the cache.
        say: called with what the user should know.
    """

    def __init__(self, files: FeatureFiles, say: Say) -> None:
        self.files = files
        self.say = say
        self._is_full = self._said_damaged = False

    @classmethod
    def open(cls, folder: Path, facts: Mapping[str, Any], say: Say) -> FeatureCache:
        """Open the cache in a folder, or create it.

        Raises:
            ConfigError: it was made with another model, in another precision or by other releases; names what changed.
            CheckpointError: it cannot be read or written.
        """
        facts = json.loads(json.dumps({**facts, "format": FORMAT}))
        digest = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()
        file, another = folder / FACTS, f"give {KEY} another folder, or delete this one"
        for abandoned, name in ((folder, FACTS), (folder, OUTPUTS)):
            remove_abandoned(abandoned, name)
        if not file.is_file():
            if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
                raise ConfigError(f"{folder} has other files than a feature cache; give {KEY} another folder")
            with writing_to(folder):
                folder.mkdir(parents=True, exist_ok=True)
            write_json(file, facts)
            return cls(FeatureFiles(folder, digest), say)
        with library_errors(CheckpointError, f"{file} cannot be read", another):
            before = json.loads(file.read_text(encoding="utf-8"))
        if not isinstance(before, dict):
            raise CheckpointError(f"{file} cannot be read: it has no JSON object; {another}")
        if changes := differences(before, facts):
            raise ConfigError(f"the feature cache in {folder} is stale: {'; '.join(changes)}; {another}")
        for part in sorted(folder.glob("??")):
            remove_abandoned(part, "*.safetensors")
        return cls(FeatureFiles(folder, digest), say)

    def read_form(self) -> Form | None:
        """How outputs are made of the files' tensors; None before any was written, or where that is damaged: then the
        next forward of the tower writes it again.

        Raises:
            CheckpointError: it cannot be read.
        """
        file = self.files.folder / OUTPUTS
        if not file.is_file():
            return None
        with library_errors(CheckpointError, f"{file} cannot be read", "delete the folder of the cache"):
            content = file.read_bytes()
        try:
            found = json.loads(content)
            form: Form = {"calls": found["calls"], "kept": found["kept"]}
            if found[_HASH] == self._form_hash(form):
                return form
        except (ValueError, KeyError, TypeError, RecursionError):  # whatever json says of damaged bytes
            pass
        if not self._said_damaged:
            self._said_damaged = True
            self.say(f"feature cache: {file} is damaged; it is written again")
        return None

    def write_form(self, form: Form) -> None:
        """Keep it for later runs."""
        self._writing(lambda: write_json(self.files.folder / OUTPUTS, {**form, _HASH: self._form_hash(form)}))

    def _form_hash(self, form: Form) -> str:
        return hashlib.sha256(json.dumps([self.files.facts, form], sort_keys=True).encode()).hexdigest()

    def write(self, key: str, tensors: Mapping[str, Tensor]) -> None:
        """Write the features of one row's images, unless they are there."""
        if self._is_full:
            return
        path = self.files.path(key)
        there = self.files.read(key)
        if isinstance(there, str):
            self.say(f"feature cache: {path} {there}; it is written again")
        elif there is not None and there.keys() >= tensors.keys():
            return
        content = save(dict(tensors), metadata={_OF: self.files.facts, _KEY: key, _HASH: _hash(tensors)})

        def replace() -> None:
            with replacing(path) as stream:
                stream.write(content)

        self._writing(replace)

    def _writing(self, write: Any) -> None:
        """A disk that is full ends no training: without the cache the tower runs."""
        try:
            write()
        except CheckpointError as err:
            self._is_full = True
            self.say(f"feature cache: {err}; training goes on, and no more features are written")


@dataclass(frozen=True, slots=True)
class KeptFeatures:
    """A cache in use."""

    files: FeatureFiles
    counts: TowerFeatures

    def summary(self, world: World) -> str:
        """What it did in this run, in one line; all ranks must call it together."""
        used, computed = (int(count) for count in world.sum_over_ranks([self.counts.used, self.counts.computed]))
        return (
            f"feature cache: the images of {used} rows were read and those of {computed} computed ({self.files.folder})"
        )


def open_features(
    recipe: Recipe, loaded: LoadedModel, pairs: Sequence[PreferencePair], *, world: World, say: Say
) -> KeptFeatures | None:
    """Open the recipe's cache and let the model use it; None where the recipe has none.

    Args:
        loaded: prepared for training.
        pairs: that will be trained and evaluated on.
        world: all its ranks must call this together.
        say: called with what will not be kept.

    Raises:
        ConfigError: features would be wrong or useless with this recipe or model.
        CheckpointError: the folder cannot be read or written.
    """
    folder = recipe.processing.feature_cache
    if folder is None:
        return None
    refuse_useless(recipe, loaded, world)
    with_videos = [pair.id for pair in pairs if pair.videos]
    if with_videos:
        named = ", ".join(with_videos[:3]) + (", ..." if len(with_videos) > 3 else "")
        say(f"feature cache: {len(with_videos)} pairs have videos ({named}); batches with them are not kept")
    facts = world.on_first_rank(lambda: feature_facts(recipe, loaded, world))
    world.on_first_rank(lambda: FeatureCache.open(folder, facts, say).files.facts)  # makes it, if it is new
    cache = FeatureCache.open(folder, facts, say)
    return KeptFeatures(cache.files, attach(loaded.model, cache))


def refuse_useless(recipe: Recipe, loaded: LoadedModel, world: World) -> None:
    """Refuse what a cache of features cannot be right or of use for.

    Raises:
        ConfigError: with the reason and the key to leave out.
    """
    family, model = loaded.family, loaded.model
    if not family.has_vision:
        raise ConfigError(f"{KEY} would do nothing: this model has no vision tower; {_WITHOUT}")
    if family.name not in FAMILIES:
        raise ConfigError(
            f"{KEY} is known to be right for {', '.join(sorted(FAMILIES))}, and this model is of the family "
            f"'{family.name}'; {_WITHOUT}"
        )
    if world.is_sharded:
        raise ConfigError(
            f"{KEY} needs the whole tower in each process: with {world.strategy} all ranks run it together; {_WITHOUT},"
            " or use --launch ddp"
        )
    if recipe.train.torch_compile:
        raise ConfigError(
            f"{KEY} looks at the tower's outputs, and train.torch_compile hides them; leave one of them out"
        )
    if not (modules := kept_modules(model)):
        raise ConfigError(
            f"{KEY} is for a vision tower that does not change, and here it trains or has an adapter; {_WITHOUT}, or "
            "set tune.vision=freeze"
        )
    dropped = [place for place in dropout_of(model).places if any(_is_below(place, path) for path in modules)]
    if dropped:
        raise ConfigError(
            f"{KEY} would keep what dropout made of images once: the vision tower has dropout in {dropped[0]}; "
            f"{_WITHOUT}, or set the dropout of vision_config to 0 in the model's config.json"
        )


def feature_facts(recipe: Recipe, loaded: LoadedModel, world: World) -> dict[str, Any]:
    """What features depend on besides the images, by name.

    The processor is none of them: its result is the key of a file. Neither is the language model's adapter, nor how
    long rows may be.
    """
    modules = kept_modules(loaded.model)
    weights = dict(loaded.model.named_parameters())
    dtypes = {str(weights[name].dtype) for name in weights if any(f".{path}." in f".{name}" for path in modules)}
    installed = versions()
    return {
        "model": model_fingerprint(recipe.model.path),
        "model.dtype": dtype_fact(recipe),
        "model.attn_implementation": recipe.model.attn_implementation,
        "dtypes of the tower": sorted(name.removeprefix("torch.") for name in dtypes),
        "modules": modules[0] if len(modules) == 1 else f"{len(modules)} from {modules[0]} to {modules[-1]}",
        "train.bf16": recipe.train.bf16,
        "train.fp16": recipe.train.fp16,
        "family": loaded.family.name,
        "device": world.device.type,
        **{f"versions.{name}": installed.get(name) for name in ("torch", "transformers")},
    }


def _is_below(name: str, path: str) -> bool:
    return name == path or name.startswith(f"{path}.")


def _hash(tensors: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name in sorted(tensors):
        value = tensors[name].contiguous()
        digest.update(f"{name}{tuple(value.shape)}{value.dtype}".encode())
        digest.update(value.flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()
