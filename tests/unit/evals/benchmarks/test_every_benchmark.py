"""What holds for every benchmark, whatever it asks."""

import json
import random
import sys

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mmpref.errors import ConfigError, DataError
from mmpref.evals import BENCHMARKS, compare, load_samples, score, score_beside, scoring, write_items, write_result
from mmpref.evals.benchmarks.contract import Benchmark, Graded, ScoringProtocol, by_name, each
from mmpref.evals.files.rows import Saved, load_answers, pair_by_id
from mmpref.evals.scoring import benchmark_named
from mmpref.records import EvalSample, user_turn
from mmpref.statistics import Ratio
from tests.tiers import checkerboard
from tests.unit.evals.cases import NAMES, arguments, load

PROTOCOLS = [(name, protocol) for name in NAMES for protocol in BENCHMARKS[name].protocols]


def run(name, tmp_path, protocol="mmpref", answers=None, **more):
    questions, given_answers, options = arguments(name, tmp_path)
    if protocol == "vlmevalkit":
        options.pop("verdicts", None)
    return score(
        name, questions, given_answers if answers is None else answers, protocol, resamples=20, **options, **more
    )


@pytest.mark.parametrize(("name", "protocol"), checkerboard(PROTOCOLS))
def test_the_order_of_answers_changes_nothing(name, protocol, tmp_path):
    _, answers, _ = arguments(name, tmp_path / "a")
    shuffled = random.Random(name).sample(answers, len(answers))
    found = run(name, tmp_path / "b", protocol, shuffled)
    assert found == run(name, tmp_path / "c", protocol)
    assert found.protocol == protocol
    assert found.n > 0


@pytest.mark.parametrize("name", NAMES)
def test_an_answer_twice_is_refused(name, tmp_path):
    _, answers, _ = arguments(name, tmp_path / "a")
    with pytest.raises(DataError, match="answers: 1 ids appear more than once"):
        run(name, tmp_path / "b", answers=[*answers, answers[0]])


@pytest.mark.parametrize("name", [name for name in NAMES if name != "chair"])
def test_a_missing_answer_is_refused(name, tmp_path):
    _, answers, _ = arguments(name, tmp_path / "a")
    with pytest.raises(DataError, match=r"1 (?:of \d+ )?questions have no answer"):
        run(name, tmp_path / "b", answers=answers[1:])


@pytest.mark.parametrize("name", NAMES)
def test_an_answer_to_nothing_is_refused(name, tmp_path):
    _, answers, _ = arguments(name, tmp_path / "a")
    with pytest.raises(DataError, match="have an id that no question has: 'no-such-question'"):
        run(name, tmp_path / "b", answers=[*answers, {"id": "no-such-question", "text": "Yes"}])


@pytest.mark.parametrize(("name", "protocol"), PROTOCOLS)
def test_every_number_has_an_interval_around_it_or_a_reason(name, protocol, tmp_path):
    found = run(name, tmp_path, protocol)
    for metric, value in found.metrics.items():
        if value is None:
            assert found.undefined[metric]
        elif metric in found.intervals:
            low, high = found.intervals[metric]
            assert low < high
            assert low <= value + 0.05 * abs(value)
            assert value <= high + 0.05 * abs(value)


@pytest.mark.parametrize(("name", "protocol"), PROTOCOLS)
def test_a_result_is_written_with_its_items_and_versions(name, protocol, tmp_path):
    found = run(name, tmp_path, protocol)
    write_result(tmp_path / "results.json", found)
    write_items(tmp_path / "items.jsonl", found)
    content = json.loads((tmp_path / "results.json").read_text(encoding="utf-8"))
    assert {
        "protocol": protocol,
        "n": found.n,
        "n_unparsed": found.n_unparsed,
        "n_missing": 0,
    }.items() <= content.items()
    assert content["versions"]["mmpref"]
    lines = (tmp_path / "items.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line)["id"] for line in lines] == [str(item["id"]) for item in found.items]


@pytest.mark.parametrize(("name", "protocol"), PROTOCOLS)
def test_answers_that_say_nothing_give_a_result_and_no_crash(name, protocol, tmp_path):
    """Not one answer can be read, no object is named: metrics are numbers or undefined with a reason."""
    _, answers, _ = arguments(name, tmp_path / "a")
    found = run(name, tmp_path / "b", protocol, [{"id": answer["id"], "text": ""} for answer in answers])
    assert all(value is not None or found.undefined[metric] for metric, value in found.metrics.items())


@pytest.mark.parametrize(
    ("name", "word"),
    [("pope", "No"), ("pope", "Yes"), ("amber", "No"), ("mme", "Yes"), ("repope", "No"), ("dash_b", "Yes")],
)
def test_one_answer_to_everything_gives_a_result_under_every_protocol(name, word, tmp_path):
    _, answers, _ = arguments(name, tmp_path / "a")
    for number, protocol in enumerate(BENCHMARKS[name].protocols):
        found = run(name, tmp_path / str(number), protocol, [{"id": a["id"], "text": word} for a in answers])
        assert all(value is not None or found.undefined[metric] for metric, value in found.metrics.items())


READ_BY_RULE = {
    "pope": "accuracy", "amber": "accuracy", "mme": "perception", "hallusionbench": "a_acc", "repope": "accuracy",
    "dash_b": "harmonic_mean", "naturalbench": "group_accuracy",
    "crpe": "accuracy", "mmvp": "pair_accuracy", "finer": "paired_accuracy",
}  # fmt: skip


@pytest.mark.parametrize("name", READ_BY_RULE)
def test_an_answer_that_cannot_be_read_never_raises_a_score(name, tmp_path):
    questions, answers, _ = arguments(name, tmp_path)
    samples = [answer for answer in answers if name != "amber" or int(answer["id"]) > 120]
    before = score(name, questions, answers, resamples=5).metrics[READ_BY_RULE[name]]

    @settings(
        max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
    )
    @given(st.sampled_from(samples), st.sampled_from(["hm", "", "\n", "🤷", "…", "<think>yes</think>"]))
    def check(one, text):
        changed = [{"id": a["id"], "text": text} if a is one else a for a in answers]
        found = score(name, questions, changed, resamples=5)
        assert found.metrics[READ_BY_RULE[name]] <= before

    check()


def test_an_empty_description_never_improves_a_rate(tmp_path):
    """It is in no rate of hallucination, and what it leaves out counts."""
    case = load("chair")
    more = {**case["questions"], "9999": ["dog", "cat"]}
    options = {"synonyms": case["synonyms"], "resamples": 5}
    before = score("chair", case["questions"], case["answers"], **options)
    after = score("chair", more, [*case["answers"], {"id": "9999", "text": " "}], **options)
    assert after.n_unparsed == before.n_unparsed + 1
    assert (after.metrics["chair_s"], after.metrics["chair_i"]) == (
        before.metrics["chair_s"],
        before.metrics["chair_i"],
    )
    assert after.metrics["recall"] < before.metrics["recall"]


@pytest.mark.parametrize("name", NAMES)
def test_a_system_compared_with_itself_does_not_differ(name, tmp_path):
    found = run(name, tmp_path)
    for difference in compare(found, found, resamples=20).values():
        assert difference.value in (0, None)
        assert not difference.clear


def test_better_answers_differ_clearly():
    case = load("mme")
    right = [{"id": sample.id, "text": sample.target} for sample in load_samples("mme", case["questions"])]
    worse, better = (score("mme", case["questions"], a, resamples=200) for a in (case["answers"], right))
    found = compare(worse, better)
    assert better.metrics["perception"] == 2000
    assert found["perception"].clear
    assert found["perception"].value > 0


@pytest.mark.parametrize("name", NAMES)
def test_the_official_number_stands_beside_ours(name, tmp_path):
    questions, answers, options = arguments(name, tmp_path)
    ours, beside = score_beside(name, questions, answers, resamples=5, **options)
    assert ours.protocol == "mmpref"
    assert [result.protocol for result in beside.values()] == ["official"]
    assert set(beside["official"].metrics) & set(ours.metrics)


@pytest.mark.parametrize("name", ["dash_b", "mmvp", "naturalbench", "hallusionbench", "mmhal"])
def test_several_files_where_one_is_read_are_called_so(name, tmp_path):
    questions, answers, options = arguments(name, tmp_path)
    files = [tmp_path / "a.jsonl", tmp_path / "b.jsonl"]
    for file, half in zip(files, (answers[::2], answers[1::2]), strict=True):
        file.write_text("\n".join(map(json.dumps, half)), encoding="utf-8")
    with pytest.raises(DataError, match=r"answers: 2 files, .*a\.jsonl and others; this is one file: write their rows"):
        score(name, questions, files, **options)


def test_an_id_that_is_a_whole_text_is_cut_in_the_message():
    case = load("pope")
    with pytest.raises(DataError, match=r"an id that no question has: 'word word.*'?") as told:
        score("pope", case["questions"], [*case["answers"], {"id": "word " * 5000, "text": "Yes"}])
    assert len(str(told.value)) < 400


def test_the_questions_are_no_answers_to_themselves(tmp_path):
    """DASH-B's rows and VLMEvalKit's have the label under a name that answers have too."""
    rows = load("dash_b")["questions"]
    with pytest.raises(DataError, match=rf"'answer' is the label of the question in all {len(rows)} rows: these are"):
        score("dash_b", rows, rows)
    table = [
        {"index": n, "question": f"Which {(n + 1) // 2}?", "A": "dog", "B": "cat", "answer": "AB"[n % 2]}
        for n in range(1, 9)
    ]
    with pytest.raises(DataError, match="'answer' is the label of the question in all 8 rows"):
        score("mmvp", table, table)
    said = [{**row, "text": row["answer"]} for row in rows]  # a model that is always right
    assert score("dash_b", rows, said, resamples=5).metrics["accuracy"] == 1
    wrong = [{**rows[0], "answer": "hm"}, *rows[1:]]
    assert score("dash_b", rows, wrong, resamples=5).n_unparsed == 1


@pytest.mark.parametrize("name", BENCHMARKS)
def test_options_and_protocols_that_are_unknown_are_refused(name):
    with pytest.raises(ConfigError, match=f"unknown option of {name} 'no_such_option'"):
        score(name, [], [], no_such_option=1)
    with pytest.raises(ConfigError, match=f"unknown protocol of {name} 'paper'"):
        score(name, [], [], "paper")


@pytest.mark.parametrize(
    ("spelling", "name"),
    [
        ("POPE", "pope"),
        ("MMHal-Bench", "mmhal"),
        ("mmhal_bench", "mmhal"),
        ("HallusionBench", "hallusionbench"),
        ("Object HalBench", "object_halbench"),
        ("objhal", "object_halbench"),
    ],
)
def test_a_benchmark_is_found_under_the_names_that_people_write(spelling, name):
    assert benchmark_named(spelling).name == name


def toy_benchmark():
    """Says how many letters an answer has; a new benchmark is no more than this and its row in the table."""

    def load(source, options):
        return tuple(
            EvalSample(id=row["id"], images=(), prompt=user_turn(row["text"], num_images=0), meta={"image": ""})
            for row in source
        )

    def grade(samples, answers, protocol, options):
        return Graded.of(
            [
                {"id": sample.id, "text": text, "letters": len(text), "counted": bool(text)}
                for sample, text in pair_by_id(samples, answers)
            ]
        )

    return Benchmark(
        name="toy_bench",
        title="Letters",
        paper="none",
        official="none",
        protocols=by_name(ScoringProtocol(name="mmpref"), ScoringProtocol(name="tool", needs="words")),
        max_new_tokens=1,
        options={"words": None},
        load=load,
        load_answers=lambda source, samples, options: Saved(load_answers(source)),
        grade=grade,
        unit=lambda item: item["id"],
        counts=each(lambda item: {"answers": 1, "letters": item["letters"]}),
        metrics=lambda protocol, part, items: {
            "mean_letters": Ratio(top={"letters": 1}, bottom={"answers": 1}, why_empty="no answers", proportion=False)
        },
        how_to_get="write them",
        aliases=("letters",),
    )


def test_a_new_benchmark_is_one_object_and_one_row(monkeypatch):
    monkeypatch.setattr(scoring, "BENCHMARKS", {"toy_bench": toy_benchmark()})
    questions = [{"id": name, "text": "Say something."} for name in "abc"]
    answers = [{"id": name, "text": text} for name, text in zip("abc", ("x", "yy", ""), strict=True)]
    found = score("Letters", questions, answers, resamples=5)
    assert (found.benchmark, found.metrics, found.n, found.n_unparsed) == ("toy_bench", {"mean_letters": 1.0}, 3, 1)
    with pytest.raises(ConfigError, match=r"is made with its authors' words, .*: write them"):
        score("toy", questions, answers, "tool")
    assert score("toy", questions, answers, "tool", words="these", resamples=5).metrics == {"mean_letters": 1.0}


def calls_of(function):
    """How many functions of Python a call runs through."""
    counted = 0

    def count(frame, event, argument):
        nonlocal counted
        counted += event == "call"

    before = sys.getprofile()
    sys.setprofile(count)
    try:
        function()
    finally:
        sys.setprofile(before)
    return counted


def test_twice_as_many_answers_are_twice_the_work():
    def score_pope(n):
        numbers = range(10_000 * n, 10_000 * n + n)  # what is kept of a question that was read is of no use to others
        questions = [
            {"question_id": i, "image": f"{i // 18}.jpg", "text": f"Is there a {i}?", "label": "no" if i % 2 else "yes"}
            for i in numbers
        ]
        answers = [{"id": i, "text": "**No**, there is none." if i % 3 else "Yes, but"} for i in numbers]
        assert score("pope", questions, answers, resamples=5).n == n

    score_pope(10)  # what is done once
    assert calls_of(lambda: score_pope(600)) < 2.1 * calls_of(lambda: score_pope(300))


def test_twice_as_many_captions_are_twice_the_work():
    case = load("chair")
    words = " ".join(answer["text"] for answer in case["answers"]).split()
    rng = random.Random(0)
    texts = [" ".join(rng.choices(words, k=100)) for _ in range(200)]

    def score_chair(n):
        captions = [{"id": i, "text": text} for i, text in enumerate(texts[:n])]
        truth = {str(i): ["dog", "bus"] for i in range(n)}
        assert score("chair", truth, captions, synonyms=case["synonyms"], resamples=5).n == n

    score_chair(10)
    assert calls_of(lambda: score_chair(200)) < 2.1 * calls_of(lambda: score_chair(100))


ASKED = {
    "pope": ("Is there a cup in the image?", 64),
    "chair": ("Please describe this image in detail.", 512),
    "amber": ("Describe this image.", 512),
    "hallusionbench": ("Is illusion 0 like 0?", 128),
    "mme": ("Is it number 0 or 0? Please answer yes or no.", 16),
    "mmhal": ("What is 0?", 1024),
    "object_halbench": ("Describe it.", 1024),
    "repope": ("Is there a cat in the image?", 64),
    "dash_b": ("Can you see a tent in this image? Please answer only with yes or no.", 64),
    "naturalbench": ("Is thing 0 red?Please answer Yes or No.", 128),
    "crpe": (
        "Which of these is in the image?\nA. tree\nB. ball\nC. bird\nD. door\nAnswer with the option's letter from the "
        "given choices directly.",
        128,
    ),
    "mmvp": ("Is it open or closed in scene 0? (a) Open (b) Closed", 1024),
    "finer": (
        "Select the best answer for the multiple-choice question.\n"
        "\n"
        "Can you see a green dog, a car and a cup in this image?\n"
        "\n"
        "(A) No, but I can see a car alone.\n"
        "(B) Yes, I can see a green dog, a car and a cup.\n"
        "(C) No, there is nothing of it.\n"
        "(D) No, but I can see a brown dog, a car and a cup.\n"
        "(E) No, but I can see two lamps.\n"
        "\n"
        "Please answer with a single capital letter (A, B, C, D, or E):",
        2,
    ),
}


@pytest.mark.parametrize("name", NAMES)
def test_the_prompt_and_the_length_of_answers_do_not_change_unnoticed(name, tmp_path):
    """A number is only comparable with one made with the same words: change these with a line in the changelog."""
    questions, _, options = arguments(name, tmp_path)
    first = load_samples(name, questions, **options)[0]
    assert [part.kind for part in first.prompt[0].parts] == ["image", "text"]
    assert (first.prompt[0].text, BENCHMARKS[name].max_new_tokens) == ASKED[name]
