"""The reference cache: the same training as with a live reference, computed once, never stale."""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from mmpref.cli.main import main
from mmpref.errors import DataError
from mmpref.models import load
from mmpref.models.logps.reference import choose_reference
from mmpref.processing import PairCollator, PairEncoder, family_of
from mmpref.processing.encoded import answer_keys
from mmpref.records import PreferencePair
from mmpref.rundir.folder import RunDir
from mmpref.training.run.reference_cache import ReferenceCache
from mmpref.training.trainer.pair_log import read_pair_log
from tests.integration.conftest import Place
from tests.tiny_vlms import TINY, build, draw, pair, refs

ONE_EPOCH = ("train.num_train_epochs=1", "train.logging_steps=2")


def _log(run: Path) -> dict[str, list[Any]]:
    return read_pair_log(RunDir(run).pairs_file)


def test_a_cached_reference_trains_as_a_live_one_and_is_computed_once(
    place: Place, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    live = place.training("demo_uni_dpo", tmp_path / "live", *ONE_EPOCH)
    cached = place.training("demo_uni_dpo", tmp_path / "cached", *ONE_EPOCH, "reference.kind=cache")
    assert main(live) == 0
    capfd.readouterr()
    assert main(cached) == 0
    assert "120 answers of 60 pairs computed, 0 were there" in capfd.readouterr().out  # 48 for training, 12 held out
    one, other = _log(tmp_path / "live"), _log(tmp_path / "cached")
    assert one["pair_id"] == other["pair_id"]
    for name in ("rewards/margins", "logps/chosen", "uni/w_perf"):
        torch.testing.assert_close(torch.tensor(one[name]), torch.tensor(other[name]), atol=2e-4, rtol=1e-4)
    weights = [load_file(RunDir(tmp_path / name).model / "model.safetensors") for name in ("live", "cached")]
    for name, value in weights[0].items():
        torch.testing.assert_close(weights[1][name], value, atol=1e-4, rtol=1e-3)
    folder = tmp_path / "cached.reference"
    stored = {path: path.stat().st_mtime_ns for path in folder.iterdir()}
    again = place.training("demo_uni_dpo", tmp_path / "again", *ONE_EPOCH, "reference.kind=cache", "loss.beta=0.3")
    assert main([*again, f"reference.cache={folder}"]) == 0
    assert "pairs computed" not in capfd.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in folder.iterdir()} == stored


def test_a_stale_cache_is_refused_with_what_changed(
    place: Place, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    steps = ("train.max_steps=1", "data.eval=[]", "reference.kind=cache", f"reference.cache={tmp_path / 'cache'}")
    assert main(place.training("demo_dpo", tmp_path / "first", *steps)) == 0
    assert main(place.training("demo_dpo", tmp_path / "second", *steps, "processing.max_length=200")) == 2
    assert "processing.max_length: None then, 200 now" in capfd.readouterr().err.replace("\n", " ")
    changed = tmp_path / "model"
    shutil.copytree(place.model, changed)
    config = json.loads((changed / "config.json").read_text())
    (changed / "config.json").write_text(json.dumps({**config, "changed": 1}))
    other = place.training("demo_dpo", tmp_path / "third", *steps, f"model.path={changed}")
    assert main(other) == 2
    assert "is stale: model" in capfd.readouterr().err.replace("\n", " ")
    taken = tmp_path / "taken"
    taken.mkdir()
    (taken / "note.txt").write_text("mine")
    command = place.training("demo_dpo", tmp_path / "fourth", *steps, f"reference.cache={taken}")
    assert main(command) == 2
    assert (taken / "note.txt").read_text() == "mine"


def test_a_filling_that_stops_goes_on_and_every_entry_is_the_live_number(tmp_path: Path) -> None:
    loaded = load(build("qwen2_vl", tmp_path / "m"))
    encoder = PairEncoder(loaded.processor, loaded.family)
    collate = PairCollator(encoder, draw, keyed=True)
    pairs = [
        pair("a"),
        pair("b", images=("60x60-2",), chosen="a red square .", rejected="a red dog ."),
        pair("c", images=(), rejected="yes"),
        pair("d", rejected_images=refs("60x60-5")),
        pair("e", images=("90x30-1", "28x28-3")),
    ]
    told: list[str] = []
    device = torch.device("cpu")
    first = ReferenceCache.open(tmp_path / "cache", {"model": "m"})
    first.fill(loaded.model, collate, pairs[:2], device=device, say=told.append)
    second = ReferenceCache.open(tmp_path / "cache", {"model": "m"})
    second.fill(loaded.model, collate, pairs, device=device, say=told.append)
    assert len(second) == 9
    again = ReferenceCache.open(tmp_path / "cache", {"model": "m"})
    live = choose_reference(loaded.model, kind="frozen_copy")
    assert live is not None
    for layout in ("shared_prefix", "plain"):
        for rows in (pairs, pairs[::-1], pairs[3:]):
            batch = collate.changed(layout=layout)(rows)
            for got, want in zip(again.logps(batch)[:2], live.logps(batch)[:2], strict=True):
                assert got is not None
                assert want is not None
                torch.testing.assert_close(got, want, atol=2e-5, rtol=1e-5)
    again.fill(loaded.model, collate, pairs, device=device, say=told.append)
    assert sum("pairs computed" in line for line in told) == 2


def test_the_pixels_of_a_prompt_are_hashed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = PairEncoder(TINY["llava"].processor(), family_of("llava", has_vision=True))
    encoded = encoder.encode(pair("a"), draw)
    read: list[int] = []
    stock = hashlib.blake2b

    class Counting:
        def __init__(self, *before: bytes, **given: Any) -> None:
            self.inner = stock(*before, **given)

        def update(self, data: Any) -> None:
            read.append(memoryview(data).nbytes)
            self.inner.update(data)

        def digest(self) -> bytes:
            return self.inner.digest()

        def hexdigest(self) -> str:
            return self.inner.hexdigest()

    monkeypatch.setattr(hashlib, "blake2b", Counting)
    batch = PairCollator(encoder, draw, keyed=True).rows_of([encoded])[0]
    assert batch.keys == answer_keys(encoded.answers_alone(rejected=True), rejected=False)
    pixels = encoded.vision["pixel_values"]
    assert read.count(pixels.numel() * pixels.element_size()) == 1


def test_workers_fill_the_cache_with_the_same_numbers(tmp_path: Path) -> None:
    loaded = load(build("llava", tmp_path / "m"))
    collate = PairCollator(PairEncoder(loaded.processor, loaded.family), draw, keyed=True)
    pairs = [pair(str(number), images=(f"40x60-{number}",)) for number in range(9)]
    told: list[str] = []
    caches = [ReferenceCache.open(tmp_path / name, {"model": "m"}) for name in ("alone", "helped")]
    before = torch.random.get_rng_state()
    for cache, workers in zip(caches, (0, 2), strict=True):
        cache.fill(loaded.model, collate, pairs, device=torch.device("cpu"), say=told.append, workers=workers)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert told == [
        f"reference cache: 18 answers of 9 pairs computed, 0 were there ({cache.folder})" for cache in caches
    ]
    for one, other in zip(*(cache.logps(collate(pairs))[:2] for cache in caches), strict=True):
        assert one is not None
        assert other is not None
        assert torch.equal(one, other)
    for cache in caches:  # all there: nothing is computed, and no batch travels
        cache.fill(loaded.model, collate, pairs, device=torch.device("cpu"), say=told.append, workers=2)
    assert len(told) == 2


def test_a_row_that_a_worker_cannot_use_is_told_in_one_sentence(tmp_path: Path) -> None:
    loaded = load(build("llava", tmp_path / "m"))
    collate = PairCollator(PairEncoder(loaded.processor, loaded.family), draw, keyed=True)
    cache = ReferenceCache.open(tmp_path / "cache", {"model": "m"})
    bad = pair("bad", chosen="yes", rejected="yes")
    with pytest.raises(DataError, match="'bad' has two answers") as caught:
        cache.fill(loaded.model, collate, [pair("a"), bad], device=torch.device("cpu"), say=print, workers=1)
    assert "Traceback" not in str(caught.value)


def _killed_in_a_worker(ref: Any) -> Any:
    if multiprocessing.parent_process() is not None:
        os.kill(os.getpid(), signal.SIGKILL)
    return draw(ref)


def test_a_worker_that_dies_is_told_in_one_sentence_and_what_is_there_is_kept(tmp_path: Path) -> None:
    loaded = load(build("llava", tmp_path / "m"))
    encoder = PairEncoder(loaded.processor, loaded.family)
    cache = ReferenceCache.open(tmp_path / "cache", {"model": "m"})
    given: dict[str, Any] = {"device": torch.device("cpu"), "say": print}
    cache.fill(loaded.model, PairCollator(encoder, draw, keyed=True), [pair("a")], **given)
    dies = PairCollator(encoder, _killed_in_a_worker, keyed=True)
    with pytest.raises(DataError, match=r"ended while computing the reference cache .*dataloader_num_workers") as err:
        cache.fill(loaded.model, dies, [pair("a"), pair("b")], workers=1, **given)
    assert "\n" not in str(err.value)
    assert len(ReferenceCache.open(tmp_path / "cache", {"model": "m"})) == 2  # both answers of "a"


def test_another_image_or_text_is_another_answer(tmp_path: Path) -> None:
    loaded = load(build("qwen2_vl", tmp_path / "m"))
    collate = PairCollator(PairEncoder(loaded.processor, loaded.family), draw, keyed=True)

    def keys(*pairs: PreferencePair) -> tuple[str, ...]:
        return collate(pairs).keys

    others = (
        pair("a", images=("28x28-2",)),
        pair("a", question="what is it ?"),
        pair("a", chosen="yes"),
        pair("a", response_prefix="a red"),
    )
    chosen, rejected = keys(pair("a"))
    assert len({chosen, rejected, *(keys(one)[0] for one in others)}) == 6
    assert keys(pair("a", rejected="no"))[0] == chosen
    assert keys(pair("z", rejected_images=refs("28x28-2"))) == (chosen, keys(others[0])[1])
    swapped = pair("y", chosen="two yellow boxes and a dog .", rejected="a red square .")
    assert keys(swapped, pair("a")) == (rejected, chosen, chosen, rejected)  # chosen ones first, and no side in them
