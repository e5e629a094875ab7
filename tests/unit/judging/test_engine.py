"""The engine with a task of nobody's benchmark: equal cases once, replies kept, failures named, a limit held."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from mmpref.errors import ConfigError
from mmpref.generation.api_server import Server
from mmpref.judging import Case, Engine, JudgeTask, Prices, Spent, case_of
from mmpref.judging.cache import read_cache
from mmpref.judging.contract import ShownImage
from mmpref.records import ImageRef
from tests.chat_server import ChatServer, text_of


def _read(value: object) -> bool:
    if not isinstance(value, bool):
        raise ValueError(f"{value!r} is neither true nor false")
    return value


POLITE = JudgeTask(
    name="politeness",
    version=1,
    field="polite",
    instruction="Say whether the text is polite.",
    schema={"type": "boolean"},
    read=_read,
    sections=lambda text: (("TEXT", text),),
)


def says(request: dict[str, Any]) -> str:
    fence = re.search(r'"fence": "(\w+)"', request["messages"][0]["content"])
    assert fence is not None
    return json.dumps({"fence": fence[1], "reason": "so it is", "polite": "please" in text_of(request)})


def cases(*texts: str, task: JudgeTask = POLITE) -> tuple[Case, ...]:
    return tuple(case_of(str(n), task, task.sections(text), "judge") for n, text in enumerate(texts))


def engine(tmp_path: Path, url: str, found: tuple[Case, ...], prices: Prices | None = None) -> Engine:
    at = Server(url=url, model="judge", pause=0.01, timeout=60, attempts=2, concurrency=2)
    cache = tmp_path / "cache.jsonl"
    return Engine(cases=found, server=at, cache=cache, replies=read_cache(cache, [POLITE]), prices=prices)


def test_equal_cases_are_one_request_and_a_second_run_asks_nothing(tmp_path: Path) -> None:
    asked = cases("please", "go away", "please")
    seen = []
    with ChatServer(says).running() as server:
        first = engine(tmp_path, server.url, asked)
        assert (first.estimate().num_calls, first.estimate().num_cached) == (2, 0)
        with first.cache_locked([POLITE]):
            assert first.ask(Spent(None, None), lambda done, total: seen.append((done, total))) == {}
        assert [first.replies[case.key].value for case in asked] == [True, False, True]
        assert seen == [(1, 2), (2, 2)]
        again = engine(tmp_path, server.url, asked)
        assert (again.estimate().num_calls, again.estimate().num_cached) == (0, 3)
        assert again.ask(Spent(None, None)) == {}
        assert len(server.requests) == 2


def test_another_text_task_version_or_judge_is_another_case(tmp_path: Path) -> None:
    import dataclasses

    (known,) = cases("please")
    other = cases("Please") + cases("please", task=dataclasses.replace(POLITE, version=2))
    keys = {known.key, *(case.key for case in other), case_of("0", POLITE, known.sections, "another judge").key}
    assert len(keys) == 4
    assert case_of("another id", POLITE, known.sections, "judge").key == known.key


def test_the_key_of_a_case_without_images_is_the_one_of_caches_that_are_there() -> None:
    (known,) = cases("please")
    assert known.key == "cb880f653b717b7b19da9de42bf38f6cb39039c7536c98be90acf3c1b804884b"


def test_images_are_part_of_a_case_by_their_bytes_and_order_and_not_by_their_path() -> None:
    def key(*digests: str, path: str = "a.png") -> str:
        images = tuple(ShownImage(ref=ImageRef(path=path), digest=digest, tokens=85) for digest in digests)
        return case_of("0", POLITE, (("TEXT", "please"),), "judge", images).key

    keys = [key(), key("a"), key("b"), key("a", "b"), key("b", "a")]
    assert len(set(keys)) == len(keys)
    assert key("a") == key("a", path="moved/b.png")


def test_an_unusable_reply_is_asked_three_times_and_named(tmp_path: Path) -> None:
    with ChatServer(lambda request: "I would rather not say.").running() as server:
        found = engine(tmp_path, server.url, cases("please"))
        errors = found.ask(Spent(None, None))
        assert len(server.requests) == 3
    assert list(errors) == [found.cases[0].key]
    assert "no usable reply in 3" in errors[found.cases[0].key]
    assert found.replies == {}


def test_a_limit_of_cost_is_known_before_anything_is_sent(tmp_path: Path) -> None:
    asked = cases(*(f"text {n}" for n in range(50)))
    prices = Prices(prompt=10.0, completion=30.0)
    found = engine(tmp_path, "http://127.0.0.1:9", asked, prices)
    cost = found.estimate().cost
    assert cost is not None
    found.refuse_above(cost)
    found.refuse_above(None)
    with pytest.raises(ConfigError, match=r"judging would cost about .*50 calls.*nothing was sent"):
        found.refuse_above(cost * 0.99)
    with pytest.raises(ConfigError, match="needs the prices of the judge"):
        engine(tmp_path, "http://127.0.0.1:9", asked).refuse_above(1.0)


def test_only_one_process_has_the_cache(tmp_path: Path) -> None:
    found = engine(tmp_path, "http://127.0.0.1:9", cases("please"))
    other = engine(tmp_path, "http://127.0.0.1:9", cases("please"))
    with (
        found.cache_locked([POLITE]),
        pytest.raises(ConfigError, match="choose another --cache"),
        other.cache_locked([POLITE]),
    ):
        pass


def test_prices_come_in_pairs() -> None:
    assert Prices.given(None, None) is None
    assert Prices.given(1.0, 2.0) == Prices(prompt=1.0, completion=2.0)
    with pytest.raises(ConfigError, match="give both prices"):
        Prices.given(1.0, None)
