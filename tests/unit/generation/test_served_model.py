"""The answers of one folder are of one served model, and say where the limit of tokens ended them."""

import json

import pytest

from mmpref.demo.tiny_models import build_tiny_llava
from mmpref.errors import ConfigError, EvalIncompleteError
from mmpref.generation import AnswerSettings, TransformersAnswerer
from mmpref.generation.api_server import Server
from mmpref.generation.chat_api import ChatClient
from mmpref.records import EvalSample, user_turn
from tests.chat_server import ChatServer, whole_reply
from tests.tiers import checkerboard
from tests.unit.generation.test_server import images, run, saved, yes_or_no

__all__ = ["images"]


class Serving(ChatServer):
    """A chat server with a list of models, all of which may change from one request to the next."""

    def __init__(self, name="m-1", root="/models/a", state=None, **listed):
        super().__init__(self.reply)
        self.name, self.state = name, state
        self.models = [{"id": "other"}, {"id": "m", "root": root, **listed}]
        self.change_at, self.change = 0, lambda: None

    def reply(self, request):
        if len(self.requests) == self.change_at:
            self.change()
        found = whole_reply(yes_or_no(request), "m") | {"model": self.name}
        return found | ({"system_fingerprint": self.state} if self.state else {})


@pytest.fixture
def serving():
    with Serving().running() as server:
        yield server


def stopped_half_way(out, server, images):
    server.change_at, server.change = 9, lambda: setattr(server, "faults", {0: "400"})
    with pytest.raises(EvalIncompleteError):
        run(out, server, images, concurrency=1)
    server.change_at, server.faults = 0, {}
    assert 5 <= len(saved(out)) < 20


@pytest.mark.parametrize(
    ("field", "value"),
    checkerboard(
        [("root", "/models/b"), ("parent", "m0"), ("created", 1_600_000_001), ("sha", "b"), ("meta", {"n_params": 2})]
    ),
)
def test_an_evaluation_is_not_taken_up_with_another_model_of_the_same_name(tmp_path, images, field, value):
    before = {"created": 1_600_000_000, "sha": "a", "meta": {"n_params": 1}}
    with Serving(**before).running() as server:
        stopped_half_way(tmp_path / "out", server, images)
        kept = saved(tmp_path / "out")
        server.models[1][field] = value
        with pytest.raises(ConfigError, match=rf"another served model, though its name is the same: {field} \("):
            run(tmp_path / "out", server, images)
        assert saved(tmp_path / "out") == kept
        server.models[1] |= {"root": "/models/a", "parent": None, **before}
        assert run(tmp_path / "out", server, images).n == 20


def test_an_evaluation_is_not_taken_up_with_replies_of_another_name(tmp_path, images, serving):
    stopped_half_way(tmp_path / "out", serving, images)
    kept = saved(tmp_path / "out")
    serving.name = "m-2"
    with pytest.raises(EvalIncompleteError, match="answers as 'm-2' now and as 'm-1' before"):
        run(tmp_path / "out", serving, images)
    assert saved(tmp_path / "out") == kept
    assert not (tmp_path / "out/results.json").exists()


def test_a_model_that_changes_its_name_meanwhile_ends_the_run(tmp_path, images, serving):
    serving.change_at, serving.change = 7, lambda: setattr(serving, "name", "m-2")
    with pytest.raises(EvalIncompleteError, match="of two models make no number"):
        run(tmp_path / "out", serving, images, concurrency=1)
    assert {row["served_as"] for row in saved(tmp_path / "out")} == {"m-1"}


def test_a_model_that_changes_behind_its_name_meanwhile_makes_no_result(tmp_path, images, serving):
    serving.change_at, serving.change = 7, lambda: serving.models[1].update(root="/models/b")
    with pytest.raises(EvalIncompleteError, match=r"changed its model while it answered: root \(/models/a then"):
        run(tmp_path / "out", serving, images, concurrency=1)
    assert not (tmp_path / "out/results.json").exists()
    for root in ("/models/b", "/models/a"):  # neither of the two may take the answers for its own
        serving.models[1]["root"] = root
        with pytest.raises(ConfigError, match="another served model"):
            run(tmp_path / "out", serving, images)
    (tmp_path / "out/answers.jsonl").unlink()  # as the message says
    assert run(tmp_path / "out", serving, images).n == 20


def test_another_state_of_the_server_is_noted(tmp_path, images):
    with Serving(state="fp_a").running() as server:
        server.change_at, server.change = 7, lambda: setattr(server, "state", "fp_b")
        result = run(tmp_path / "out", server, images)
    assert any("system_fingerprint fp_a, fp_b" in note for note in result.notes)
    told = json.loads((tmp_path / "out/results.json").read_text())
    assert told["answered_by"]["system_fingerprints"] == ["fp_a", "fp_b"]
    assert told["settings"]["served"]["root"] == "/models/a"


def test_a_time_that_is_only_that_of_the_question_is_no_change(tmp_path, images):
    import time

    with Serving(created=int(time.time())).running() as server:
        stopped_half_way(tmp_path / "out", server, images)
        server.models[1]["created"] += 5
        assert run(tmp_path / "out", server, images).n == 20


def test_a_server_that_tells_nothing_is_used_as_before(tmp_path, images):
    with ChatServer(yes_or_no).running() as server:
        client = ChatClient(Server(url=server.url, model="m"))
        assert client.served() == {}
        client.close()
        assert run(tmp_path / "out", server, images).n == 20
    client = ChatClient(Server(url="http://127.0.0.1:9", model="m"))
    assert client.served() is None
    client.close()


# --- cut answers ------------------------------------------------------------------------------------------------------


def test_an_answer_that_the_limit_ended_says_so_in_its_row(tmp_path, images):
    def cut_some(request):
        reply = whole_reply(yes_or_no(request), "m")
        if reply["choices"][0]["message"]["content"] == "no":
            reply["choices"][0] |= {"finish_reason": "length", "message": {"content": None, "reasoning": "hm"}}
        return reply

    with ChatServer(cut_some).running() as server:
        run(tmp_path / "out", server, images)
    rows = saved(tmp_path / "out")
    assert {row["text"]: row.get("finish_reason") for row in rows} == {"Yes.": None, "": "length"}
    assert sum(row["text"] == "" for row in rows) == 6
    assert len(server.requests) == 20  # a cut reply is one, and not asked for again


def test_a_model_in_this_process_says_which_answers_the_limit_ended(tmp_path):
    build_tiny_llava(tmp_path / "model", seed=0)
    samples = [EvalSample(id=str(n), images=(), prompt=user_turn(f"is {n} ?", num_images=0)) for n in range(3)]

    def answers(limit, end=None):
        here = TransformersAnswerer(str(tmp_path / "model"), AnswerSettings(max_new_tokens=limit))
        config = here._loaded.model.generation_config
        config.eos_token_id = end if end is not None else config.eos_token_id
        return here, list(here.answer(samples))

    _, found = answers(4)
    assert [answer.cut for answer in found] == [True] * 3  # random weights go on for ever
    here, _ = answers(1)
    every = list(range(here._loaded.model.get_input_embeddings().num_embeddings))
    _, found = answers(4, end=every)
    assert [answer.cut for answer in found] == [False] * 3


def test_cut_answers_keep_their_mark_when_an_evaluation_is_taken_up(tmp_path, images):
    from mmpref.generation.answer_log import AnswerLog, as_line
    from mmpref.records import Answer

    (tmp_path / "answers.jsonl").write_text(
        as_line(Answer(id="1", text="a", cut=True, served_as="m", server_state="fp"))
        + as_line(Answer(id="2", text="b"))
    )
    first, second = AnswerLog(tmp_path).read().values()
    assert (first.cut, first.served_as, first.server_state) == (True, "m", "fp")
    assert (second.cut, second.served_as, second.server_state) == (False, "", "")


def test_two_evaluations_do_not_write_one_folder(tmp_path, images):
    asked = []

    def second(request):
        if not asked:
            asked.append(request)
            with pytest.raises(ConfigError, match=r"is being written by process \d+ on .*choose another --out"):
                run(tmp_path / "out", server, images)
        return yes_or_no(request)

    with ChatServer(second).running() as server:
        assert run(tmp_path / "out", server, images, concurrency=1, timeout=60).n == 20
    assert asked
