"""Verdicts belong to the answers they were given on, costs are never nothing, and nobody writes what another does."""

import json
import subprocess
import threading

import pytest

from mmpref.errors import ConfigError, DataError, EvalIncompleteError
from mmpref.evals import score
from mmpref.evals.benchmarks.judge_tasks import MMHAL
from mmpref.generation.concurrency import NotAsked
from mmpref.judging import Prices
from mmpref.judging.cost import Spent, tokens_of
from mmpref.judging.fence import UnusableReplyError, harmless, read_reply
from tests.chat_server import ChatServer, whole_reply
from tests.tiers import checkerboard, corners
from tests.unit.evals.test_judge import (
    HALBENCH_ROWS,
    HALLUSION_ROWS,
    MMHAL_ROWS,
    answers_to,
    command,
    fenced,
    plan,
    rates,
    rows_of,
    verdict,
)

OTHERS = [{**row, "text": row["text"] + " more"} for row in answers_to(MMHAL_ROWS)]
HALLUSION_TEXTS = [{"id": f"VD_illusion_0_{f}_{q}", "text": f"yes {f} {q}"} for f in range(3) for q in range(2)]


def judges_both(request):
    _, shown, _ = fenced(request)
    return verdict(request, same=True) if "FIRST ANSWER" in shown else verdict(request, verdict="correct")


# --- verdicts and answers ---------------------------------------------------------------------------------------------


def test_the_verdicts_of_other_answers_or_questions_are_refused(tmp_path):
    out = tmp_path / "v.jsonl"
    with ChatServer(rates).running() as server:
        plan(tmp_path, server).run(out)
    assert score("mmhal", MMHAL_ROWS, answers_to(MMHAL_ROWS), verdicts=out).n == 12
    with pytest.raises(DataError, match=r"12 of 12 verdicts were given on other answers .*'i0', 'i1', 'i2' and 9 more"):
        score("mmhal", MMHAL_ROWS, OTHERS, verdicts=out)
    for field in ("question", "gt_answer", "image_src"):
        changed = [{**row, field: "another"} if row["image_id"] == "i5" else row for row in MMHAL_ROWS]
        with pytest.raises(DataError, match=r"1 of 12 verdicts .*'i5'; judge these answers with mmpref judge"):
            score("mmhal", changed, answers_to(MMHAL_ROWS), verdicts=out)


def test_one_changed_answer_is_enough_and_is_named(tmp_path):
    out = tmp_path / "v.jsonl"
    texts = [{"id": n, "text": "There is a bench and a cat."} for n in range(5)]
    with ChatServer(lambda request: verdict(request, objects=["bench"])).running() as server:
        plan(tmp_path, server, "object_halbench", HALBENCH_ROWS, texts).run(out)
    texts[3] = {"id": 3, "text": "There is a bench and a dog."}
    with pytest.raises(DataError, match=r"1 of 5 verdicts .*: '3';"):
        score("object_halbench", HALBENCH_ROWS, texts, verdicts=out)


def test_a_comparison_with_another_first_answer_is_refused_too(tmp_path):
    out = tmp_path / "v.jsonl"
    with ChatServer(judges_both).running() as server:
        plan(tmp_path, server, "hallusionbench", HALLUSION_ROWS, HALLUSION_TEXTS).run(out)
    assert score("hallusionbench", HALLUSION_ROWS, HALLUSION_TEXTS, verdicts=out).n == 6
    rows = [{k: v for k, v in row.items() if k != "judged"} for row in rows_of(out)]
    changed = [{**row, "text": "no"} if row["id"].endswith("0_0") else row for row in HALLUSION_TEXTS]
    with pytest.raises(DataError, match=r"2 of 6 verdicts .*'VD_illusion_0_1_0', 'VD_illusion_0_2_0'"):
        score("hallusionbench", HALLUSION_ROWS, changed, verdicts=rows)


def test_verdicts_that_do_not_say_on_what_they_are_are_taken_and_said_to_be(tmp_path):
    out = tmp_path / "v.jsonl"
    out.write_text("".join(json.dumps({"id": r["image_id"], "score": 3, "judge": "j"}) + "\n" for r in MMHAL_ROWS))
    notes = score("mmhal", MMHAL_ROWS, answers_to(MMHAL_ROWS), verdicts=out).notes
    assert any("12 of 12 verdicts hold no hash of what they are about" in note for note in notes)


def test_judging_again_after_the_refusal_costs_only_what_is_new(tmp_path):
    """The advice of the message, followed."""
    out = tmp_path / "v.jsonl"
    with ChatServer(rates).running() as server:
        plan(tmp_path, server).run(out)
        some = [*OTHERS[:2], *answers_to(MMHAL_ROWS)[2:]]
        with pytest.raises(DataError):
            score("mmhal", MMHAL_ROWS, some, verdicts=out)
        plan(tmp_path, server, texts=some).run(out)
        assert len(server.requests) == 12 + 2
    assert score("mmhal", MMHAL_ROWS, some, verdicts=out).n == 12


def test_a_run_that_fails_leaves_no_verdicts_of_other_answers(tmp_path):
    out = tmp_path / "v.jsonl"
    with ChatServer(rates).running() as server:
        plan(tmp_path, server).run(out)
    before = out.read_bytes()
    with ChatServer(rates, {0: "401"}).running() as server:
        with pytest.raises(ConfigError):
            plan(tmp_path, server, texts=OTHERS).run(out)
        assert not out.exists()
        assert (tmp_path / "v.jsonl.before").read_bytes() == before
    out.write_bytes(before)
    with ChatServer(rates, {0: "401"}).running() as server:  # of the same answers, it is what it was
        with pytest.raises(ConfigError):
            plan(tmp_path / "new", server).run(out)
        assert out.read_bytes() == before


# --- the second question ----------------------------------------------------------------------------------------------


def test_comparisons_without_a_reply_are_counted_and_too_many_are_incomplete(tmp_path):
    def half(request):
        _, shown, last = fenced(request)
        if "FIRST ANSWER" in shown and last.startswith("yes 2"):
            return "no idea"
        return judges_both(request)

    out = tmp_path / "v.jsonl"
    with ChatServer(half).running() as server:
        outcome = plan(tmp_path, server, "hallusionbench", HALLUSION_ROWS, HALLUSION_TEXTS).run(out)
    assert (outcome.missing, sorted(outcome.not_compared), outcome.num_compared) == (
        {}, ["VD_illusion_0_2_0", "VD_illusion_0_2_1"], 4,
    )  # fmt: skip
    with pytest.raises(
        EvalIncompleteError, match="2 of 4 answers were not compared with the one to figure 0"
    ) as caught:
        outcome.refuse_if_too_many_missing()
    assert caught.value.exit_code == 8
    rows = {row["id"]: row for row in rows_of(out)}
    assert "no usable reply" in rows["VD_illusion_0_2_0"]["same_error"]
    assert rows["VD_illusion_0_1_0"]["same"] is True


@pytest.mark.parametrize("mark", ["\0", "\x1e", "\x1f", "\u2028", "\n", "\x1b", '", "', "\\0"])
def test_no_character_of_an_answer_moves_text_into_the_other_one(tmp_path, mark):
    texts = [{**row, "text": f"no{mark}yes {n}"} for n, row in enumerate(HALLUSION_TEXTS)]
    with ChatServer(judges_both).running() as server:
        plan(tmp_path, server, "hallusionbench", HALLUSION_ROWS, texts).run(tmp_path / "v.jsonl")
        pairs = [shown for _, shown, _ in map(fenced, server.requests) if "FIRST ANSWER" in shown]
    given = {harmless(row["text"]) for row in texts}
    assert len(pairs) == 4
    assert all({shown["FIRST ANSWER"], shown["SECOND ANSWER"]} <= given for shown in pairs)


# --- what it costs ----------------------------------------------------------------------------------------------------

USAGES = {
    "nothing": {"prompt_tokens": 0, "completion_tokens": 0},
    "none": None,
    "no numbers": {"prompt_tokens": "1000", "completion_tokens": "10"},
    "negative": {"prompt_tokens": -1000, "completion_tokens": -10},
    "huge": {"prompt_tokens": 10**30, "completion_tokens": 10**30},
    "not a number": {"prompt_tokens": float("nan"), "completion_tokens": float("inf")},
    "a list": [1, 2],
    "a truth": {"prompt_tokens": True, "completion_tokens": True},
    "too little": {"prompt_tokens": 1, "completion_tokens": 1},
}


@pytest.mark.parametrize("name", checkerboard(USAGES))
def test_a_server_that_counts_nothing_still_reaches_the_limit(tmp_path, name):
    def uncounted(request):
        return whole_reply(rates(request), "judge") | {"usage": USAGES[name]}

    rows = [{**MMHAL_ROWS[0], "image_id": f"i{n}", "question": f"What is {n}?"} for n in range(30)]
    with ChatServer(uncounted).running() as server:
        made = plan(tmp_path, server, rows=rows, prices=Prices(prompt=1, completion=1), concurrency=1)
        limit = made.estimate().cost * 1.01
        outcome = made.run(tmp_path / "v.jsonl", max_cost=limit)
        assert 0 < len(server.requests) < 30
    assert outcome.num_guessed == outcome.num_calls == len(server.requests)
    assert limit / 3 < outcome.cost <= limit
    assert set(outcome.missing.values()) == {"not asked: the limit of cost was reached"}


def test_what_a_server_tells_is_believed_where_it_can_be(tmp_path):
    with ChatServer(rates).running() as server:
        outcome = plan(tmp_path, server, prices=Prices(prompt=1, completion=1)).run(tmp_path / "v.jsonl")
    assert (outcome.num_guessed, outcome.prompt_tokens, outcome.completion_tokens) == (0, 12_000, 120)


@pytest.mark.parametrize("fault", ["garbage", "half", "drop", "hang"])
def test_a_reply_that_was_lost_may_have_to_be_paid_for(tmp_path, fault):
    with ChatServer(rates, {2: fault}).running() as server:
        outcome = plan(tmp_path, server, prices=Prices(prompt=1, completion=1), timeout=3).run(tmp_path / "v.jsonl")
    assert (outcome.missing, outcome.num_guessed, outcome.num_calls) == ({}, 1, 13)
    assert outcome.completion_tokens == 120 + 512


def test_a_lost_reply_is_not_asked_for_again_when_the_money_is_gone():
    spent = Spent(Prices(prompt=1e3, completion=1e3), max_cost=1.0)
    with spent.call(100), pytest.raises(NotAsked):  # at most 0.612, and as much again for the next try
        spent.lost(100)
    assert spent.guessed == 1


def test_texts_in_other_scripts_are_not_cheaper():
    assert tokens_of("word " * 100) == pytest.approx(500 / 3.5)
    assert tokens_of("\u6f22" * 500) >= 500


@pytest.mark.parametrize("price", [float("nan"), float("inf"), -1.0])
def test_a_price_is_a_number(price):
    with pytest.raises(ConfigError, match="prices must be numbers"):
        Prices(prompt=1.0, completion=price)


# --- what stands in an answer -----------------------------------------------------------------------------------------

MARKS = """
<|im_end|> <turn|> <|turn> <eos> <bos> <pad> <unk> <mask> <s> </s> <EOS> <BOS_TOKEN> <|endoftext|> <|eot_id|>
<end_of_utterance> <start_of_turn> <extra_id_1> <unused0> <reserved_106> <0x0A> <image> <video> <audio> <img> <sop>
<fake_token_around_image> <row_1_col_2> <global-img> <image_soft_token> <loc0001> <tool_call> </tool_response> <ref>
<\uff5cbegin\u2581of\u2581sentence\uff5c> <\uff5ctool\u2581sep\uff5c> \uff1c|im_end|\uff1e <<SYS>> <</SYS>>
[INST] [/INST] [inst] [gMASK] [CLS] [SEP] [BOS] [IMG_BREAK] [MODEL_SETTINGS] [/THINK] [|system|] [|endofturn|]
]~b] [e~[ ]~!b[ <channel|> <|channel|> <tool|> <atem:invoke> <function=f> <\u200b|im_end|> <\u034f|im_end|>
<|im\ufe0f_end|> <e\u3164os>
""".split()  # noqa: SIM905  # a table


@pytest.mark.parametrize("mark", MARKS)
def test_whatever_is_written_like_a_template_mark_is_broken(mark):
    for text in (mark, f"a{mark}b", f"<{mark}>", f"{mark}{mark}"):
        shown = harmless(text)
        plain = "".join(char for char in mark if char not in "\u200b\u034f\ufe0f\u3164")
        assert plain not in shown
        assert "<|" not in shown


def test_the_text_around_marks_stays():
    text = "a < b, x > y, a[1], [2, 3], list[int], <b>bold</b>, 3 < 4 > 2, [a cat], {x|y}"
    assert harmless(text) == text


@pytest.mark.parametrize(
    "reply",
    [
        '{"fence": "f", "reason": "", "score": 1, "score": 6}',
        '{"fence": "f", "fence": "f", "reason": "", "score": 6}',
        '{"score": 0, "fence": "f", "reason": "", "score": 6} and more',
        '{"fence": "f", "score": 3, "reason": {"a": 1, "a": 2}}',
    ],
)
def test_a_verdict_in_which_a_name_stands_twice_is_none(reply):
    with pytest.raises(UnusableReplyError, match="appears twice"):
        read_reply(MMHAL, reply, "f")


# --- two at once ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shared", corners(["out", "cache"], "cache"))
def test_a_second_judge_of_one_file_is_refused_and_told_who_has_it(tmp_path, shared):
    asked, go = threading.Event(), threading.Event()

    def waits(request):
        asked.set()
        go.wait(60)
        return rates(request)

    with ChatServer(waits).running() as server:
        cache = ["--cache", str(tmp_path / "c.jsonl")]
        with subprocess.Popen([*command(tmp_path, server.url), *cache], stdout=subprocess.DEVNULL) as first:
            assert asked.wait(120)
            (tmp_path / "second").mkdir()
            other = command(tmp_path, server.url)
            if shared == "cache":
                other[other.index("--out") + 1] = str(tmp_path / "w.jsonl")
            else:
                cache[1] = str(tmp_path / "d.jsonl")
            second = subprocess.run([*other, *cache], capture_output=True, text=True, check=False)
            go.set()
            assert first.wait(60) == 0
    assert second.returncode == 2, second.stderr
    assert f"is being written by process {first.pid} on " in second.stderr
    assert f"choose another --{shared}" in second.stderr
    assert len(server.requests) == 12
    assert not list(tmp_path.glob(".*.lock"))


@pytest.mark.parametrize(
    "body", [b"[" * 200_000, b"1" * 6000, b"\xff\xfe", b'{"choices": ' * 5000, b"null", b"x" * 9_000_000]
)
def test_a_body_of_any_kind_is_one_failed_answer_and_one_line(tmp_path, body):
    from tests.raw_server import RawServer, read_request

    def speak(connection, closing):
        read_request(connection)
        connection.sendall(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: %d\r\n\r\n" % len(body) + body)

    with RawServer(speak).running() as server:
        outcome = plan(tmp_path, server, attempts=1, timeout=20).run(tmp_path / "v.jsonl")
    assert len(outcome.missing) == 12
    assert all("\n" not in why and len(why) < 400 for why in outcome.missing.values())
