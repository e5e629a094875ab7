"""Candidates from servers: what is asked, what is written, what is missing and why, and a run that goes on."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mmpref.cli.main import main
from mmpref.data.prompt_source import read_prompts
from mmpref.errors import ConfigError, DataError, EvalIncompleteError
from mmpref.generation import SampleSettings, Server
from mmpref.records import Answer, Prompt, user_turn
from mmpref.sampling.candidate_files import read_candidates
from mmpref.sampling.generate import GenerateSettings, candidates_of, generate
from mmpref.sampling.shards import seed_of
from mmpref.sampling.steps import read_step
from tests.chat_server import ChatServer, text_of, whole_reply
from tests.unit.sampling.asked_servers import (
    quarantined,
    rows_of,
    sample,
    says_its_seed,
    unless,
    write_prompts,
)

TOO_LONG = (400, {"error": {"message": "This model's maximum context length is 4096 tokens."}})
VIDEO = {"id": "v", "videos": ["a.mp4"], "prompt": [{"role": "user", "content": [{"type": "video"}]}]}


def test_every_prompt_gets_its_samples_and_equal_ones_are_one_candidate(tmp_path: Path) -> None:
    with ChatServer(says_its_seed).running() as server:
        step = sample(write_prompts(tmp_path / "in"), server, tmp_path / "out", n=5)
        assert len(server.requests) == 30
    assert all(sent["temperature"] == 0.7 and sent["top_p"] == 0.9 for sent in server.requests)
    assert len({sent["seed"] for sent in server.requests}) == 30
    assert sorted({sent["max_tokens"] for sent in server.requests}) == [256]
    found = list(read_candidates(tmp_path / "out/candidates.jsonl"))
    assert [one.prompt.id for one in found] == [str(n) for n in range(6)]
    for one in found:
        seeds = [seed_of(0, one.prompt.id, number) for number in range(5)]
        assert [answer.seed for answer in one.answers] == [
            next(seed for seed in seeds if f"Text {seed % 3} of" in answer.text) for answer in one.answers
        ]
        assert {answer.text: answer.times for answer in one.answers} == {
            f"Text {rest} of What is on number {one.prompt.id}?": sum(seed % 3 == rest for seed in seeds)
            for rest in {seed % 3 for seed in seeds}
        }
    assert step == read_step(tmp_path / "out")
    assert step.complete
    assert step.image_root == (tmp_path / "in").absolute()
    counts = step.counts
    assert (counts["samples"], counts["answered"], counts["missing"]) == (30, 30, 0)
    assert counts["candidates"] + counts["merged"] == 30
    assert step.facts["served_as"] == "m-2026-01-01"
    assert quarantined(tmp_path / "out") == []


def test_a_complete_folder_is_left_as_it_is_and_another_run_does_not_take_it(tmp_path: Path) -> None:
    source = write_prompts(tmp_path / "in")
    with ChatServer(says_its_seed).running() as server:
        first = sample(source, server, tmp_path / "out")
        written = (tmp_path / "out/step.json").stat().st_mtime_ns
        assert sample(source, server, tmp_path / "out") == first
        assert len(server.requests) == 18
        for other in ({"seed": 1}, {"n": 4}, {"sampling": SampleSettings(temperature=0.8, top_p=0.9)}):
            with pytest.raises(ConfigError, match="made with other settings"):
                sample(source, server, tmp_path / "out", **other)
        with pytest.raises(ConfigError, match=r"settings: source \(prompts \(6 then, 7 now\), ids"):
            sample(write_prompts(tmp_path / "in", 7), server, tmp_path / "out")
    assert sample(source=write_prompts(tmp_path / "in"), server=server, out=tmp_path / "out") == first  # and no server
    assert (tmp_path / "out/step.json").stat().st_mtime_ns == written


def test_images_that_were_moved_are_looked_for_where_they_are_now(tmp_path: Path) -> None:
    source = write_prompts(tmp_path / "in")
    with ChatServer(says_its_seed).running() as server:
        sample(source, server, tmp_path / "out")
        (tmp_path / "in").rename(tmp_path / "moved")
        step = sample(read_prompts(tmp_path / "moved/prompts.jsonl"), server, tmp_path / "out")
        assert len(server.requests) == 18
    assert step.image_root == tmp_path / "moved"
    assert read_step(tmp_path / "out") == step


def test_the_prompts_of_a_step_are_asked_again_by_its_folder_or_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with ChatServer(says_its_seed).running() as server:
        first = sample(write_prompts(tmp_path / "in"), server, tmp_path / "out")
        for number, spec in enumerate(("out", "out/candidates.jsonl")):
            again = tmp_path / f"again{number}"
            where = ["--server", server.url, "--model", "m", "--prompts", str(tmp_path / spec), "--out", str(again)]
            assert main(["sample", "generate", *where, "--n", "1", "--seed", "3"]) == 0
            assert f"next: mmpref sample score {again} --scorer NAME" in capsys.readouterr().out
            step = read_step(again)
            assert (step.image_root, step.settings["source"]) == (first.image_root, first.settings["source"])


def test_a_prompt_over_the_limit_is_sent_once_and_ends_nothing(tmp_path: Path) -> None:
    source = write_prompts(tmp_path / "in", 40)
    with ChatServer(unless(lambda number: number >= 4, TOO_LONG)).running() as server:
        with pytest.raises(EvalIncompleteError, match=r"144 of 160 samples are missing \(over_limit 144\)") as caught:
            sample(source, server, tmp_path / "out", n=4, at={"concurrency": 1})
        assert len(server.requests) == 16 + 36
    assert "'4#0'" in str(caught.value)
    assert "maximum context length is 4096" in str(caught.value)
    assert str(tmp_path / "out/quarantine.jsonl") in str(caught.value)
    assert [row["id"] for row in rows_of(tmp_path / "out")] == ["0", "1", "2", "3"]
    assert [(row["id"], row["samples"], row["reason"]) for row in quarantined(tmp_path / "out")] == [
        (str(n), [0, 1, 2, 3], "over_limit") for n in range(4, 40)
    ]
    step = read_step(tmp_path / "out")
    assert not step.complete
    assert step.counts["missing_by_reason"] == {"over_limit": 144}
    # a server that takes more: only what is missing is asked
    with ChatServer(says_its_seed).running() as server:
        assert sample(source, server, tmp_path / "out", n=4).complete
        assert len(server.requests) == 144
    assert len(rows_of(tmp_path / "out")) == 40


def test_a_share_of_missing_samples_can_be_accepted(tmp_path: Path) -> None:
    source = write_prompts(tmp_path / "in", 10)
    with ChatServer(unless(lambda number: number == 3, TOO_LONG)).running() as server:
        step = sample(source, server, tmp_path / "out", max_missing=0.1)
        assert (step.complete, step.counts["missing"]) == (True, 3)
        asked = len(server.requests)
        assert sample(source, server, tmp_path / "out", max_missing=0.1) == step
        assert len(server.requests) == asked
        with pytest.raises(EvalIncompleteError, match="3 of 30"):
            sample(source, server, tmp_path / "out", max_missing=0.09)


def test_a_server_that_refuses_everything_ends_the_run_after_a_few_prompts(tmp_path: Path) -> None:
    refused = (400, {"error": {"message": "image input is not supported"}})
    with ChatServer(lambda _: refused).running() as server:
        with pytest.raises(EvalIncompleteError, match="the last 16 requests all failed") as caught:
            sample(write_prompts(tmp_path / "in", 40), server, tmp_path / "out", at={"concurrency": 1})
        assert len(server.requests) == 16
    assert "bad_request" in str(caught.value)
    step = read_step(tmp_path / "out")
    assert sum(step.counts["missing_by_reason"].values()) == 120
    assert step.counts["missing_by_reason"]["not_asked"] > 60


def test_one_refused_prompt_with_many_samples_is_no_refusing_server(tmp_path: Path) -> None:
    refused = (400, {"error": {"message": "cannot read this one"}})
    server = ChatServer(unless(lambda number: number == 0, refused))
    with server.running(), pytest.raises(EvalIncompleteError, match=r"40 of 120 samples .* \(bad_request 40\)"):
        sample(write_prompts(tmp_path / "in", 3), server, tmp_path / "out", n=40, at={"concurrency": 40})
    assert read_step(tmp_path / "out").counts["answered"] == 80


def test_faults_that_pass_lose_nothing_and_repeat_nothing(tmp_path: Path) -> None:
    faults = {1: "429", 3: "garbage", 4: "hang", 6: "500", 8: "half", 9: "drop", 12: "503"}
    with ChatServer(says_its_seed, faults).running() as server:
        assert sample(write_prompts(tmp_path / "in"), server, tmp_path / "out", at={"timeout": 3.0}).complete
    assert len(server.requests) == 18 + len(faults)


@pytest.mark.parametrize(
    ("reply", "reason"),
    [({"choices": []}, "bad_reply"), ((500, {}), "server_error"), ((429, {}), "too_many_requests")],
)
def test_what_does_not_pass_is_counted_by_its_reason_and_asked_again(
    tmp_path: Path, reply: object, reason: str
) -> None:
    source = write_prompts(tmp_path / "in")
    server = ChatServer(unless(lambda number: number == 2, reply))
    with server.running(), pytest.raises(EvalIncompleteError, match=rf"3 of 18 samples are missing \({reason} 3\)"):
        sample(source, server, tmp_path / "out", at={"attempts": 2})
    with ChatServer(says_its_seed).running() as server:
        assert sample(source, server, tmp_path / "out").complete
        assert len(server.requests) == 3


def test_empty_answers_are_no_candidates_and_are_listed(tmp_path: Path) -> None:
    def often_empty(request):
        return "" if request["seed"] % 2 or "number 1?" in text_of(request) else "a cup"

    with ChatServer(often_empty).running() as server:
        step = sample(write_prompts(tmp_path / "in"), server, tmp_path / "out", n=8)
    assert step.complete
    rows = quarantined(tmp_path / "out")
    assert {row["reason"] for row in rows} == {"empty_answer"}
    assert sum(len(row["samples"]) for row in rows) == step.counts["empty"] > 8
    assert "1" not in [row["id"] for row in rows_of(tmp_path / "out")]
    assert step.counts["prompts_with_candidates"] == len(rows_of(tmp_path / "out")) < 6


@pytest.mark.parametrize("field", ["seed", "top_p"])
def test_a_server_that_does_not_know_a_field_is_asked_without_it_and_the_step_says_so(
    tmp_path: Path, field: str
) -> None:
    def refuses(request):
        if field in request:
            return 422, {"detail": f"Unexpected field: '{field}'"}
        return f"{text_of(request)} {len(server.requests)}"

    with ChatServer(refuses).running() as server:
        sampling = SampleSettings(temperature=0.7)
        step = sample(
            write_prompts(tmp_path / "in"), server, tmp_path / "out", sampling=sampling, at={"concurrency": 1}
        )
        assert len(server.requests) == 19  # one refusal, and it is remembered
    assert step.complete
    assert step.facts["asked_without"] == [field]
    assert step.counts["without_seed"] == (18 if field == "seed" else 0)
    seeds = {answer.get("seed") for row in rows_of(tmp_path / "out") for answer in row["candidates"]}
    assert (seeds == {None}) == (field == "seed")


def test_a_top_p_that_a_server_does_not_take_is_not_left_out_silently(tmp_path: Path) -> None:
    def refuses(request):
        return (400, {"error": {"message": "Unsupported parameter: 'top_p'"}}) if "top_p" in request else "a"

    server = ChatServer(refuses)
    with server.running(), pytest.raises(ConfigError, match=r"it takes no top_p of 0\.9; leave that at 1"):
        sample(write_prompts(tmp_path / "in"), server, tmp_path / "out")


def test_rows_that_cannot_be_asked_are_quarantined_and_the_others_go_on(tmp_path: Path) -> None:
    turn = [{"role": "user", "content": "what ?"}]
    rows = [
        {"id": "a#0", "image": "red.png", "question": "what ?"},
        {"id": "gone", "image": "no.png", "question": "what ?"},
        {"id": "begun", "prompt": turn, "response_prefix": "It is", "images": []},
        {"id": "own", "prompt": turn, "template_kwargs": {"thinking": True}, "images": []},
        {"id": "text", "prompt": turn, "images": []},
        VIDEO,
        {"id": "bad", "image": "red.png"},
        {"id": "a", "image": "blue.png", "question": "what ?"},
    ]
    with ChatServer(says_its_seed).running() as server:
        source = write_prompts(tmp_path / "in", rows=rows)
        with pytest.raises(EvalIncompleteError, match="12 of 21 samples are missing"):
            sample(source, server, tmp_path / "out")
        assert len(server.requests) == 9
    assert [row["id"] for row in rows_of(tmp_path / "out")] == ["a#0", "text", "a"]
    reasons = {row["id"]: row["reason"] for row in quarantined(tmp_path / "out")}
    assert reasons.pop("bad")
    assert reasons == {
        "gone": "image_missing",
        "begun": "response_prefix",
        "own": "template_kwargs",
        "v": "video",
    }
    step = read_step(tmp_path / "out")
    assert sum(step.counts["rows_quarantined"].values()) == 1
    assert step.counts["rows_read"] == 8
    # what is left cannot be asked: it is said again, and that an image root were wrong is not
    with ChatServer(says_its_seed).running() as server:
        with pytest.raises(EvalIncompleteError, match="image_missing 3"):
            sample(source, server, tmp_path / "out")
        assert server.requests == []


def test_a_wrong_image_root_and_a_source_without_prompts_are_said_before_anything_is_asked(tmp_path: Path) -> None:
    with ChatServer(says_its_seed).running() as server:
        rows = [{"id": "gone", "image": "no.png", "question": "what ?"}]
        with pytest.raises(DataError, match="none of the 1 images can be used"):
            sample(write_prompts(tmp_path / "in", rows=rows), server, tmp_path / "out")
        with pytest.raises(DataError, match="has no prompt"):
            sample(write_prompts(tmp_path / "in", rows=[{"id": "bad", "image": "red.png"}]), server, tmp_path / "out")
        assert server.requests == []


def test_another_model_is_refused_in_the_middle_and_when_a_run_is_taken_up(tmp_path: Path) -> None:
    def changes(request):
        name = "m-1" if len(server.requests) < 7 else "m-2"
        return whole_reply(says_its_seed(request), "m") | {"model": name}

    source = write_prompts(tmp_path / "in")
    with ChatServer(changes).running() as server:
        with pytest.raises(EvalIncompleteError, match=r"answers as 'm-2' now and as 'm-1' before"):
            sample(source, server, tmp_path / "out", at={"concurrency": 1})
        assert read_step(tmp_path / "out").counts["answered"] == 6
        with pytest.raises(EvalIncompleteError, match=r"answers as 'm-2' now and as 'm-1' before"):
            sample(source, server, tmp_path / "out", at={"concurrency": 1})
    assert read_step(tmp_path / "out").counts["answered"] == 6


def test_a_model_that_changes_behind_its_name_makes_no_candidates(tmp_path: Path) -> None:
    def changes(request):
        if len(server.requests) == 7:
            server.models = [{"id": "m", "root": "/b"}]
        return says_its_seed(request)

    with ChatServer(changes).running() as server:
        server.models = [{"id": "m", "root": "/a"}]
        with pytest.raises(EvalIncompleteError, match=r"changed its model while it answered: root"):
            sample(write_prompts(tmp_path / "in"), server, tmp_path / "out", at={"concurrency": 1})
        assert not (tmp_path / "out/candidates.jsonl").exists()
        with pytest.raises(ConfigError, match="another served model"):
            sample(write_prompts(tmp_path / "in"), server, tmp_path / "out")


def test_several_servers_share_the_prompts_and_one_that_is_down_loses_nothing(tmp_path: Path) -> None:
    source = write_prompts(tmp_path / "in", 30)
    with ChatServer(says_its_seed).running() as one, ChatServer(says_its_seed).running() as two:
        step = sample(source, [one, two], tmp_path / "both", at={"concurrency": 8})
        of_one, of_two = ({text_of(sent) for sent in server.requests} for server in (one, two))
        assert len(of_one | of_two) == 30
        assert min(len(of_one), len(of_two)) > 5
        assert len(of_one & of_two) < 15  # those of a prompt wait for their server, and all servers are busy meanwhile
    assert step.facts["servers"] == [f"{one.url}/v1", f"{two.url}/v1"]
    with ChatServer(says_its_seed).running() as one, ChatServer(says_its_seed, {0: "500"}).running() as two:
        step = sample(source, [one, two], tmp_path / "down", at={"attempts": 1, "concurrency": 2})
        assert step.complete
        assert len(one.requests) == 90
        assert len(two.requests) < 20
    assert rows_of(tmp_path / "both") == rows_of(tmp_path / "down")


def test_a_server_that_is_down_leaves_a_list_of_what_is_missing(tmp_path: Path) -> None:
    server = ChatServer(says_its_seed)  # never started
    server._http.server_close()
    with pytest.raises(EvalIncompleteError, match=r"18 of 18 samples are missing \(no_connection 1"):
        sample(write_prompts(tmp_path / "in"), server, tmp_path / "out", at={"attempts": 1, "concurrency": 1})
    step = read_step(tmp_path / "out")
    assert step.counts["missing_by_reason"] == {"no_connection": 16, "not_asked": 2}
    assert rows_of(tmp_path / "out") == []


def test_a_server_that_draws_nothing_is_noted(tmp_path: Path) -> None:
    with ChatServer(text_of).running() as server:
        step = sample(write_prompts(tmp_path / "in"), server, tmp_path / "out")
        assert step.counts["merged"] == 12
        assert "nothing seems to be drawn" in step.facts["note"]
        assert "note" not in sample(write_prompts(tmp_path / "few", 3), server, tmp_path / "three").facts
        assert "note" not in sample(write_prompts(tmp_path / "in"), server, tmp_path / "one", n=1).facts
    with ChatServer(says_its_seed).running() as server:
        assert "note" not in sample(write_prompts(tmp_path / "in"), server, tmp_path / "drawn").facts


def test_servers_with_different_models_under_one_name_are_refused(tmp_path: Path) -> None:
    with ChatServer(says_its_seed).running() as one, ChatServer(says_its_seed).running() as two:
        one.models, two.models = [{"id": "m", "root": "/a"}], [{"id": "m", "root": "/b"}]
        with pytest.raises(ConfigError, match="have different models under one name: root"):
            sample(write_prompts(tmp_path / "in"), [one, two], tmp_path / "out")
        with pytest.raises(ConfigError, match="given twice"):
            sample(write_prompts(tmp_path / "in"), [one, one], tmp_path / "out")
        assert one.requests == two.requests == []


def test_a_folder_of_something_else_is_not_written_over(tmp_path: Path) -> None:
    source = write_prompts(tmp_path / "in")
    with ChatServer(says_its_seed).running() as server:
        sample(source, server, tmp_path / "out")
        step = json.loads((tmp_path / "out/step.json").read_text())
        (tmp_path / "out/step.json").write_text(json.dumps(step | {"step": "score"}))
        with pytest.raises(ConfigError, match="is a folder of mmpref sample score"):
            sample(source, server, tmp_path / "out")
        (tmp_path / "in/prompts.jsonl").rename(tmp_path / "in/candidates.jsonl")
        with pytest.raises(ConfigError, match=r"candidates\.jsonl, a file of --out"):
            sample(read_prompts(tmp_path / "in/candidates.jsonl"), server, tmp_path / "in")
        with pytest.raises(ConfigError, match=r"has a candidates\.jsonl that this step has not made"):
            sample(write_prompts(tmp_path / "other"), server, tmp_path / "in")
        (tmp_path / "in/candidates.jsonl").rename(tmp_path / "in/prompts.jsonl")
        with pytest.raises(ConfigError, match="is the folder that the prompts are read from"):
            sample(read_prompts(tmp_path / "in"), server, tmp_path / "in")
        assert len(server.requests) == 18


def test_settings_that_make_no_sense_are_refused() -> None:
    with pytest.raises(ConfigError, match="4 samples would be one answer"):
        GenerateSettings(sampling=SampleSettings(temperature=0))
    assert GenerateSettings(n=1, sampling=SampleSettings(temperature=0)).n == 1


def test_one_sample_at_temperature_0_has_no_seed(tmp_path: Path) -> None:
    with ChatServer(says_its_seed).running() as server:
        sample(write_prompts(tmp_path / "in"), server, tmp_path / "out", n=1, sampling=SampleSettings(temperature=0))
        assert all(sent["temperature"] == 0 and "seed" not in sent for sent in server.requests)
    assert all("seed" not in row["candidates"][0] for row in rows_of(tmp_path / "out"))


def test_numbers_out_of_their_range_are_refused() -> None:
    with pytest.raises(ConfigError, match="max_missing is a share"):
        GenerateSettings(max_missing=5)
    with pytest.raises(ConfigError, match="n and processes"):
        GenerateSettings(n=0)


def test_torchrun_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ConfigError, match="take --processes on one machine"):
        generate("m", write_prompts(tmp_path / "in"), tmp_path / "out", servers=[Server(url="http://h", model="m")])


def test_candidates_are_in_the_order_of_their_first_sample_and_cut_where_that_was() -> None:
    prompt = Prompt(id="p", images=(), prompt=user_turn("what ?", num_images=0))
    answers = [
        Answer(id="p#0", text="b ", seed=5, cut=True),
        None,
        Answer(id="p#2", text=" "),
        Answer(id="p#3", text="a", seed=7),
        Answer(id="p#4", text="b", seed=8),
    ]
    found = candidates_of(prompt, answers).answers
    assert [(one.text, one.seed, one.times, one.cut) for one in found] == [("b", 5, 2, True), ("a", 7, 1, False)]


def test_an_answer_that_goes_on_with_a_given_beginning_keeps_its_first_blank() -> None:
    asked = user_turn("what is it ?", num_images=0)
    texts = (" a cup ", "a cup", "  ", " a cup")
    answers = [Answer(id=f"one#{number}", text=text, seed=number) for number, text in enumerate(texts)]
    plain = Prompt(id="one", images=(), prompt=asked)
    begun = Prompt(id="one", images=(), prompt=asked, response_prefix="it is")
    assert [(found.text, found.times) for found in candidates_of(plain, answers).answers] == [("a cup", 3)]
    assert [(found.text, found.times) for found in candidates_of(begun, answers).answers] == [
        (" a cup", 2),
        ("a cup", 1),
    ]
