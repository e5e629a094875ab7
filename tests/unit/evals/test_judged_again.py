"""Judging a second time: no verdict is deleted, and whose replies are taken from the cache is said."""

import json

import pytest

from mmpref.cli.main import main
from mmpref.errors import ConfigError
from mmpref.evals.benchmarks.judge_tasks import TASKS
from mmpref.generation.api_server import Server
from mmpref.judging.cache import read_cache
from tests.chat_server import ChatServer
from tests.unit.evals.test_judge import HALLUSION_ROWS, MMHAL_ROWS, command, plan, rates, rows_of
from tests.unit.evals.test_judged_content import HALLUSION_TEXTS, OTHERS, judges_both

BY_HAND = "".join(json.dumps({"id": row["image_id"], "score": 6, "judge": "me"}) + "\n" for row in MMHAL_ROWS)


def written(out, rows):
    out.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return out.read_bytes()


def test_verdicts_that_were_put_aside_stay_however_often_one_judges(tmp_path):
    out = tmp_path / "v.jsonl"
    out.write_text(BY_HAND)
    with ChatServer(rates).running() as server:
        first = plan(tmp_path, server).run(out)
        second = plan(tmp_path, server, texts=OTHERS).run(out)
        third = plan(tmp_path, server).run(out)
    names = ["v.jsonl.before", "v.jsonl.before2", "v.jsonl.before3"]
    assert [outcome.moved_aside for outcome in (first, second, third)] == [tmp_path / name for name in names]
    assert (tmp_path / names[0]).read_text() == BY_HAND
    assert rows_of(tmp_path / names[1]) == rows_of(out)
    assert rows_of(tmp_path / names[2]) != rows_of(out)


def test_a_link_that_leads_nowhere_is_no_free_name(tmp_path):
    out = tmp_path / "v.jsonl"
    out.write_text(BY_HAND)
    (tmp_path / "v.jsonl.before").symlink_to("elsewhere")
    with ChatServer(rates).running() as server:
        assert plan(tmp_path, server).run(out).moved_aside == tmp_path / "v.jsonl.before2"
    assert (tmp_path / "v.jsonl.before").is_symlink()


@pytest.mark.parametrize("change", [{"score": 5}, {"reason": "I looked"}, {"note": "sure"}, {"judge": "me"}])
def test_verdicts_on_the_same_answers_that_a_person_changed_are_kept(tmp_path, change):
    out = tmp_path / "v.jsonl"
    with ChatServer(rates).running() as server:
        plan(tmp_path, server).run(out)
        assert plan(tmp_path, server).run(out).moved_aside is None
        rows = rows_of(out)
        before = written(out, [*rows[:3], rows[3] | change, *rows[4:]])
        outcome = plan(tmp_path, server).run(out)
    assert outcome.moved_aside == tmp_path / "v.jsonl.before"
    assert outcome.moved_aside.read_bytes() == before
    assert rows_of(out) == rows


def test_the_verdicts_of_another_judge_are_kept(tmp_path):
    out = tmp_path / "v.jsonl"
    with ChatServer(rates).running() as server:
        plan(tmp_path, server).run(out)
        before = out.read_bytes()
        outcome = plan(tmp_path, server, model="another").run(out)
    assert outcome.moved_aside is not None
    assert outcome.moved_aside.read_bytes() == before


def test_an_earlier_try_is_gone_on_with_and_nothing_is_put_aside(tmp_path):
    out = tmp_path / "v.jsonl"
    with ChatServer(judges_both, {3: "400", 8: "400"}).running() as server:
        made = plan(tmp_path, server, "hallusionbench", HALLUSION_ROWS, HALLUSION_TEXTS, concurrency=1)
        first = made.run(out)
        assert first.missing
        assert first.not_compared
        second = plan(tmp_path, server, "hallusionbench", HALLUSION_ROWS, HALLUSION_TEXTS).run(out)
    assert (second.missing, second.not_compared, second.moved_aside) == ({}, {}, None)


def test_replies_of_another_server_are_taken_and_named(tmp_path, capsys):
    with ChatServer(rates).running() as first, ChatServer(rates).running() as second:
        assert main(command(tmp_path, first.url)[3:]) == 0
        assert main(command(tmp_path, first.url)[3:]) == 0
        assert f"from {first.url}" not in " ".join(capsys.readouterr().out.split())
        assert main(command(tmp_path, f"{second.url}/v1/")[3:]) == 0
        assert (len(first.requests), len(second.requests)) == (12, 0)
        said = " ".join(capsys.readouterr().out.replace("\u2502", "").split())
        outcome = plan(tmp_path, second, model="judge")
        assert outcome.estimate().elsewhere == {}
    assert "judged before 12 (12 from http" in said
    assert f"replies that were there before (12 from {first.url}/v1)" in said
    assert {row["server"] for row in rows_of(tmp_path / "v.cache.jsonl")} == {f"{first.url}/v1"}


def test_a_cache_of_before_is_still_read_and_its_server_is_unknown(tmp_path):
    out, cache = tmp_path / "v.jsonl", tmp_path / "cache.jsonl"
    with ChatServer(rates).running() as server:
        plan(tmp_path, server).run(out)
        rows = [{name: value for name, value in row.items() if name != "server"} for row in rows_of(cache)]
        written(cache, rows)
        assert {kept.server for kept in read_cache(cache, TASKS).values()} == {""}
        outcome = plan(tmp_path, server).run(out)
        assert len(server.requests) == 12
    assert outcome.elsewhere == {"": 12}


ADDRESSES = [
    "http://[::1", "http://[zz]", "http://h:abc", "http://h:99999", "http://h:-1", "http://h:0", "http://h h",
    "http://a..b", "http://.", "http://1.2.3.999", "http://*", "http://%41", "http://h\\x", "http://", "h:8000",
    "ftp://h", "http://" + "a" * 64, "http://" + "a." * 126 + "abc", "http://h?key=secret", "ftp://h?key=secret",
    "http://me:secret@h", "http://me:secret@h:abc", "http://h:abc/?key=secret", "http://[::1?secret",
]  # fmt: skip


@pytest.mark.parametrize("url", ADDRESSES)
@pytest.mark.parametrize("name", ["judge", "eval", "eval by judge"])
def test_an_address_that_is_none_is_one_line_before_anything_else(tmp_path, capsys, name, url):
    words = command(tmp_path, url)[3:]
    place = words.index("--answers")
    if name != "judge":
        words = ["eval", *words[1:place], *words[place + 2 :], "--image-root", str(tmp_path)]
    if name == "eval by judge":
        words[words.index("--server") + 1] = "http://127.0.0.1:9"
        words += ["--judge-server", url, "--judge-model", "j"]
    assert main(words) == 2
    err = capsys.readouterr().err
    assert "server address" in err
    assert err.count("\n") == 1
    assert "secret" not in err
    assert not (tmp_path / "v.jsonl").exists()


def test_a_judge_without_a_model_does_not_repeat_a_login(tmp_path, capsys):
    words = ["eval", "--benchmark", "mmhal", "--questions", "q.json", "--model", "m", "--out", str(tmp_path / "o")]
    assert main([*words, "--judge-server", "http://me:secret@h"]) == 2
    err = capsys.readouterr().err
    assert "name the model of the judge" in err
    assert "secret" not in err


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ("http://127.0.0.1:8000", "http://127.0.0.1:8000/v1"),
        ("http://[::1]:8000/v1/", "http://[::1]:8000/v1"),
        (" https://api.openai.com/v1/chat/completions ", "https://api.openai.com/v1"),
        ("http://my_host.local.", "http://my_host.local./v1"),
        ("http://xn--bcher-kva.example", "http://xn--bcher-kva.example/v1"),
        ("http://b\u00fccher.example/x", "http://b\u00fccher.example/x"),
        ("http://[fe80::1%25eth0]:80", "http://[fe80::1%25eth0]:80/v1"),
        ("http://localhost:65535", "http://localhost:65535/v1"),
    ],
)
def test_usual_addresses_stay_allowed(given, meant):
    try:
        assert Server(url=given, model="m").url == meant
    except ConfigError as err:
        pytest.fail(str(err))
