"""``mmpref sample score`` with a judge, from the outside: what comes out, what faults leave, a run that is killed."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time

import pytest
from PIL import Image

from mmpref.cli.main import main
from mmpref.sampling.steps import read_step
from tests.chat_server import ChatServer
from tests.unit.sampling.scorers.judges import answer_in, rates, verdict

KEY = "sk-very-secret-0123456789"
PROMPT = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "What is it?"}]}]
VALUES = {"cat": 5, "dog": 2, "cup": 1}


def by_animal(answer):
    return VALUES[answer.split()[1]]


def rows_of(file):
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


@pytest.fixture
def folder(tmp_path):
    """Eight prompts with three candidates each, and eight pairs, about one image."""
    Image.new("RGB", (64, 48), "red").save(tmp_path / "a.png")
    shared = [{"id": f"p{n}", "images": ["a.png"], "prompt": PROMPT} for n in range(8)]
    found = [{**row, "candidates": [{"text": f"A {name} {n}."} for name in VALUES]} for n, row in enumerate(shared)]
    pairs = [{**row, "chosen": f"A dog {n}.", "rejected": f"A cat {n}."} for n, row in enumerate(shared)]
    for name, rows in (("candidates", found), ("pairs", pairs)):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path


def arguments(folder, url, *more, source="candidates.jsonl"):
    named = ["--scorer", "q=judge", f"q.server={url}", "q.model=judge"]
    places = ["--image-root", str(folder), "--out", str(folder / "out")]
    return ["sample", "score", str(folder / source), *named, *places, *more]


def test_candidates_get_scores_with_the_judges_reason_and_a_second_run_asks_nothing(folder):
    with ChatServer(rates(by_animal)).running() as server:
        assert main(arguments(folder, server.url)) == 0
        assert main(arguments(folder, server.url)) == 0
        assert len(server.requests) == 24
    answers = rows_of(folder / "out" / "candidates.jsonl")[0]["candidates"]
    assert [answer["score"] for answer in answers] == [5.0, 1.25, 0.0]
    assert answers[0]["scores"][0]["scale"] == [1.0, 5.0]
    assert answers[0]["scores"][0]["detail"] == {"reason": "so it is", "judge": "judge-2026-01-01"}
    assert read_step(folder / "out").complete


def test_a_pair_set_comes_out_with_scores_and_says_how_often_the_judge_prefers_the_rejected_answer(folder, capsys):
    with ChatServer(rates(by_animal)).running() as server:
        assert main(arguments(folder, server.url, source="pairs.jsonl")) == 0
    row = rows_of(folder / "out" / "pairs.jsonl")[0]
    assert (row["score_chosen"], row["score_rejected"]) == (1.25, 5.0)
    assert "pairs whose rejected answer scores higher 8" in capsys.readouterr().out


def test_the_command_says_what_it_took(folder, capsys):
    with ChatServer(rates(by_animal)).running() as server:
        main(arguments(folder, server.url, "q.price_in=1", "q.price_out=2"))
    out = " ".join(capsys.readouterr().out.split())
    assert "scorer 'q' took in this run: known from the cache 0, calls 24, prompt tokens 24,000" in out
    assert read_step(folder / "out").facts["took"]["q"]["dollars"] == pytest.approx(24 * 1020 / 1e6)


def test_a_dry_run_says_what_the_judge_will_cost_and_sends_and_writes_nothing(folder, capsys):
    with ChatServer(rates(by_animal)).running() as server:
        assert main(arguments(folder, server.url, "--dry-run", "q.price_in=1", "q.price_out=2")) == 0
        shown = capsys.readouterr().out
        assert (
            main(arguments(folder, server.url, "--dry-run", "q.price_in=1", "q.price_out=2", "q.max_cost=0.001")) == 2
        )
        assert server.requests == []
    assert "24" in shown
    assert "about $0.0" in shown
    assert not (folder / "out").exists()


@pytest.mark.parametrize(
    ("says", "why", "asked_again"),
    [
        (lambda request: verdict(request, 9), "out_of_scale", 8),
        (lambda request: "A nice answer.", "no_verdict", 8),
        (lambda request: (400, {"error": {"message": "maximum context length is 9"}}), "over_limit", 0),
        (lambda request: (400, {"error": {"message": "no", "code": "content_filter"}}), "filtered", 0),
    ],
)
def test_answers_that_get_no_score_are_counted_and_listed_and_asked_again_where_that_may_help(
    folder, capsys, says, why, asked_again
):
    def partly(request):
        return says(request) if "dog" in answer_in(request) else verdict(request, by_animal(answer_in(request)))

    with ChatServer(partly).running() as server:
        assert main(arguments(folder, server.url)) == 8
        first = len(server.requests)
        server.answer = rates(by_animal)
        said = capsys.readouterr()
        listed = rows_of(folder / "out" / "quarantine.jsonl")
        assert ("no other run would score it" in " ".join(said.err.split())) == (not asked_again)
        assert main(arguments(folder, server.url)) == (0 if asked_again else 8)
        assert len(server.requests) - first == asked_again
        assert main([*arguments(folder, server.url), "--max-missing", "0.5"]) == 0
        assert len(server.requests) - first == asked_again
    assert [row["reason"] for row in listed] == [why] * 8
    assert listed[0]["candidate"] == 1
    assert len(listed[0]["detail"]) > len(f"q: {why}")
    assert f"{why} 8" in said.out + said.err


@pytest.mark.parametrize(
    ("status", "body", "code", "said"),
    [
        ("401", {"error": {"message": f"bad key {KEY}"}}, 2, "refuses the API key"),
        ("404", {"error": {"message": "no such model"}}, 2, "the model 'judge' is wrong"),
        ("429", {"error": {"message": "pay", "code": "insufficient_quota"}}, 2, "the quota is used up"),
    ],
)
def test_a_judge_that_takes_no_request_more_leaves_a_folder_that_goes_on(
    folder, capsys, monkeypatch, status, body, code, said
):
    monkeypatch.setenv("JUDGE_KEY", KEY)
    asked = arguments(folder, "{}", "q.key_env=JUDGE_KEY", "q.concurrency=1")
    with ChatServer(rates(by_animal), dict.fromkeys(range(6, 99), status)).running() as server:
        server.error_body = body
        command = [argument.replace("{}", server.url) for argument in asked]
        assert main(command) == code
        printed = capsys.readouterr()
        assert not read_step(folder / "out").complete
        server.faults = {}
        first = len(server.requests)
        assert main(command) == 0
        assert len(server.requests) - first == 19
    assert said in printed.err
    assert "put that right and run the same command again" in " ".join(printed.err.split())
    assert KEY not in printed.out + printed.err
    assert all(KEY.encode() not in file.read_bytes() for file in folder.rglob("*") if file.is_file())


def test_an_option_that_cannot_be_is_known_before_another_scorer_works(folder, capsys):
    more = ("--scorer", "agreement", "q.scale=5..1")
    assert main(arguments(folder, "http://127.0.0.1:9", *more)) == 2
    assert "scorer 'q': scale must be LOWEST..HIGHEST" in capsys.readouterr().err
    assert not (folder / "out").exists()


def test_a_killed_run_goes_on_without_asking_for_what_was_paid_for(folder):
    killed, seen = threading.Event(), []

    def waits_for_the_kill(request):
        seen.append(answer_in(request))
        if len(seen) > 6:
            killed.wait(250)
        return rates(by_animal)(request)

    cache = folder / "out" / "judge_cache.jsonl"
    with ChatServer(waits_for_the_kill).running() as server:
        command = [sys.executable, "-m", "mmpref", *arguments(folder, server.url, "q.concurrency=2")]
        with subprocess.Popen(command, stdout=subprocess.DEVNULL) as first:
            while not (cache.is_file() and cache.read_bytes().count(b"\n") >= 4):
                assert first.poll() is None
                time.sleep(0.01)
            first.kill()
        killed.set()
        kept = cache.read_bytes().count(b"\n")
        assert not (folder / "out" / "step.json").exists()
        assert main(arguments(folder, server.url)) == 0
    assert 4 <= kept <= 6
    assert len(seen) <= 24 + 4  # those under way at the kill, and what had come and was not written yet
    assert len(set(seen)) == 24
    assert read_step(folder / "out").counts["scored"] == 24
