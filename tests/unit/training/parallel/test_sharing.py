"""How pairs are dealt out to ranks, and what keeps ranks in step."""

from __future__ import annotations

import signal
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.distributed.checkpoint.api import CheckpointException

from mmpref.errors import CheckpointError, ConfigError, DistributedError, StoppedError
from mmpref.process.signals import heard, numbers
from mmpref.recipe.loading import load_recipe
from mmpref.rundir.claim import claim_output
from mmpref.rundir.folder import RunDir
from mmpref.rundir.train_log import TrainLog
from mmpref.training.parallel import sharded
from mmpref.training.parallel.batches import GlobalBatches, deal_by_cost
from mmpref.training.parallel.lockstep import dummy_batches_for
from mmpref.training.parallel.strategy import Strategy
from mmpref.training.parallel.watchdog import watching
from mmpref.training.parallel.world import World, is_of_communication
from mmpref.training.run.state import state_kept
from tests.plain_forward import build_deep, collator_for
from tests.tiny_vlms import pair


@given(count=st.integers(1, 60), batch=st.integers(1, 5), size=st.integers(1, 6), epoch=st.integers(0, 3))
@settings(max_examples=80, deadline=None)
def test_ranks_together_take_each_pair_once_in_the_updates_of_one(
    count: int, batch: int, size: int, epoch: int
) -> None:
    costs = [float((index * 7) % 11 + 1) for index in range(count)]
    alone = GlobalBatches(count, batch * size, seed=3)
    alone.set_epoch(epoch)
    ranks = [GlobalBatches(count, batch, rank=rank, size=size, seed=3, costs=costs) for rank in range(size)]
    for rank in ranks:
        rank.set_epoch(epoch)
    shares = [list(rank) for rank in ranks]
    assert {len(share) for share in shares} == {len(alone)}
    for number, together in enumerate(alone):
        parts = [share[number] for share in shares]
        assert Counter(index for part in parts for index in part) == Counter(together)
        assert max(map(len, parts)) <= batch
    assert sorted(index for share in shares for part in share for index in part) == list(range(count))


def test_every_epoch_has_an_order_of_its_own() -> None:
    batches = GlobalBatches(40, 40, seed=1)
    orders = []
    for epoch in (0, 1, 0):
        batches.set_epoch(epoch)
        orders.append(next(iter(batches)))
    assert orders[0] == orders[2] != orders[1]
    assert next(iter(GlobalBatches(40, 40, seed=2))) != orders[0]


def test_costly_pairs_are_spread() -> None:
    costs = [100.0, 90.0, 1.0, 1.0, 1.0, 1.0, 80.0, 70.0]
    shares = deal_by_cost(range(8), 2, 4, costs)
    assert shares == [[0, 2, 4, 7], [1, 3, 5, 6]] or sorted(sum(costs[i] for i in share) for share in shares) == [
        172,
        172,
    ]
    assert deal_by_cost([5, 6, 7], 4, 2) == [[5], [6], [7], []]


def test_the_imbalance_of_what_was_dealt_out_is_told_once() -> None:
    batches = GlobalBatches(4, 1, rank=0, size=2, seed=0, costs=[3.0, 1.0, 3.0, 1.0], shuffle=False)
    list(batches)
    assert batches.take_imbalance() == pytest.approx(0.5)  # 3 against a mean of 2
    assert batches.take_imbalance() is None


def test_the_watchdog_speaks_once_about_a_rank_that_does_not_move() -> None:
    told: list[str] = []
    world = World(rank=1, size=3)
    world._moves["at"] = time.monotonic() + 3600  # progress that no slow machine makes old
    with watching(world, 0.3, told.append):
        time.sleep(0.6)
        assert told == []
        world._moves["at"] = time.monotonic()
        limit = time.monotonic() + 20
        while not told and time.monotonic() < limit:
            time.sleep(0.05)
    assert len(told) == 1
    assert told[0].startswith("rank 1 of 3 has not moved for")


@pytest.mark.parametrize(
    "text",
    [
        "Application timeout caused pair closure",
        "Connection closed by peer [127.0.1.1]:4242",
        "[../third_party/gloo/gloo/transport/tcp/pair.cc:534] Connection reset by peer",
        "Read error [127.0.0.1]:4242: Connection reset by peer",
        "Timed out waiting 10000ms for recv operation to complete",
        "Socket unexpectedly closed [::1]:29500",
        "NCCL error in: ProcessGroupNCCL.cpp:1234",
    ],
)
def test_what_a_collective_says_of_a_lost_partner_is_known(text: str) -> None:
    assert is_of_communication(RuntimeError(text))


@pytest.mark.parametrize(
    "text",
    [
        "[enforce fail at inline_container.cc:595] . PytorchStreamWriter failed writing file data/1: file write failed",
        "No space left on device",
        "shape mismatch: value tensor of shape [3] cannot be broadcast",
        "CUDA out of memory. Tried to allocate 20.00 MiB",
        "Parent directory /runs/gloo-against-nccl does not exist.",
    ],
)
def test_another_failure_is_no_lost_partner(text: str) -> None:
    assert not is_of_communication(RuntimeError(text))


@pytest.mark.parametrize(
    ("first", "reported_by_other_rank"),
    [((0, "row 'a' is damaged", 3), True), ((1, "stopped by SIGTERM", 143), False), (None, False)],
    ids=["another failed", "this one was stopped first", "nobody said anything"],
)
def test_that_a_rank_was_stopped_because_another_failed_is_no_news(
    monkeypatch: pytest.MonkeyPatch, first: tuple[int, str, int] | None, reported_by_other_rank: bool
) -> None:
    monkeypatch.setattr(World, "_note_failure", lambda self, err: first)
    stopped = StoppedError("stopped by SIGTERM", 15)
    World(rank=1, size=2)._end_together(stopped)
    assert stopped.reported_by_other_rank is reported_by_other_rank


LOST = (
    "[/pytorch/third_party/gloo/gloo/transport/tcp/pair.cc:537] Read error [127.0.0.1]:61345: Connection reset by peer"
)


@pytest.fixture
def signals_back() -> Iterator[None]:
    """A rank that ends together with others ignores signals; the process of the tests goes on."""
    before = {number: signal.getsignal(number) for number in numbers()}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def ended_by_sigterm(lost: bool) -> None:
    """SIGTERM comes; if a partner is lost, while the error of its collective is on its way up."""
    try:
        if lost:
            raise RuntimeError(LOST)
    finally:
        signal.raise_signal(signal.SIGTERM)


@pytest.mark.usefixtures("signals_back")
@pytest.mark.parametrize("lost", [True, False])
def test_the_launchers_sigterm_does_not_take_the_place_of_what_it_is_sent_for(tmp_path: Path, lost: bool) -> None:
    claim = claim_output(load_recipe("demo_dpo", [f"output={tmp_path / 'run'}"]))

    def run() -> None:
        with World(size=2).propagate_failures(), heard(), state_kept(claim, World(), TrainLog()) as state:
            state.create()
            ended_by_sigterm(lost)

    with pytest.raises(DistributedError if lost else StoppedError) as caught:
        run()
    assert ("rank 0 of 2 waited in vain for another rank" in str(caught.value)) is lost
    assert RunDir(tmp_path / "run").manifest()["state"] == ("failed" if lost else "stopped")


@pytest.mark.usefixtures("signals_back")
def test_the_launchers_sigterm_may_come_when_the_state_is_written_already() -> None:
    with pytest.raises(DistributedError, match="waited in vain"), World(size=2).propagate_failures(), heard():
        ended_by_sigterm(True)


@pytest.mark.usefixtures("signals_back")
def test_the_launchers_sigterm_may_come_when_no_signal_is_to_be_heard_any_more(monkeypatch: pytest.MonkeyPatch) -> None:
    """Between the arrival of the error and that."""
    asked = []

    def interrupted() -> tuple[signal.Signals, ...]:
        asked.append(1)
        if len(asked) == 1:
            signal.raise_signal(signal.SIGTERM)
        return numbers()

    monkeypatch.setattr("mmpref.training.parallel.world.numbers", interrupted)
    with heard(), pytest.raises(DistributedError, match="waited in vain"), World(size=2).propagate_failures():
        raise RuntimeError(LOST)
    assert len(asked) == 2


@pytest.mark.parametrize(
    ("raised", "told"),
    [
        (RuntimeError(LOST), RuntimeError),
        (CheckpointException("write", {1: (RuntimeError(LOST), None)}), RuntimeError),  # type: ignore[dict-item]
        (OSError("No space left on device"), CheckpointError),
        (CheckpointException("write", {1: (OSError("No space left"), None)}), CheckpointError),  # type: ignore[dict-item]
    ],
    ids=["a partner is lost", "a partner is lost, by rank", "a full disk", "a full disk, by rank"],
)
def test_a_partner_that_is_lost_while_a_checkpoint_is_written_is_no_fault_of_the_disk(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, raised: BaseException, told: type[Exception]
) -> None:
    def fails(*_: object, **__: object) -> None:
        raise raised

    monkeypatch.setattr(sharded, "save", fails)
    model = torch.nn.Linear(2, 2)
    with pytest.raises(told) as caught:
        sharded.save_sharded(model, torch.optim.SGD(model.parameters(), lr=0.1), tmp_path)
    assert is_of_communication(caught.value) == (told is RuntimeError)


@pytest.mark.parametrize("strategy", ["fsdp2", "zero3"])
def test_images_and_videos_do_not_train_together_where_ranks_wait_in_the_tower(strategy: Strategy) -> None:
    loaded = build_deep("qwen2_vl")
    collator = collator_for(loaded)
    image, video, text = pair("i"), pair("v", images=(), videos=("60x60x4-1",)), pair("t", images=())
    world = World(size=2, strategy=strategy)
    with pytest.raises(ConfigError, match="rows with images and rows with videos cannot train together"):
        dummy_batches_for(world, loaded.model, collator, [image, video, text], [])
    for rows in ([image, text], [video, text]):
        dummies = dummy_batches_for(world, loaded.model, collator, rows, [])
        (part,) = dummies.collator.rows([text])
        assert part.has_videos == (video in rows)
        assert part.num_dummy_pairs == 1
    dummy_batches_for(World(size=2, strategy="ddp"), loaded.model, collator, [image, video, text], [])
