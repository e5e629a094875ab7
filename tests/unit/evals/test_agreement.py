"""Agreement of a judge with given verdicts: numbers by hand and by a second way, missing verdicts, other answers."""

import json
import random
import statistics

import pytest

from mmpref.cli.main import main
from mmpref.errors import ConfigError, DataError
from mmpref.evals.agreement import agreement
from mmpref.evals.benchmarks import BENCHMARKS
from mmpref.evals.files.verdicts import content_hash
from mmpref.evals.scoring import load_samples, with_defaults
from tests.unit.evals.cases import arguments


def questions(n):
    return [
        {"question_type": "other", "question_topic": "t", "image_id": f"i{k}", "image_src": f"http://h/{k}.jpg",
         "image_content": ["Bench"], "question": f"What is {k}?", "gt_answer": "A bench."}
        for k in range(n)
    ]  # fmt: skip


def answers(n):
    return [{"id": f"i{k}", "text": f"It is {k}."} for k in range(n)]


def ratings(scores, judge="j"):
    return [{"id": f"i{k}", "score": score, "judge": judge} for k, score in enumerate(scores) if score is not None]


def compared(given, judged, **options):
    n = len(given)
    return agreement("mmhal", questions(n), answers(n), ratings(given, "person"), ratings(judged), **options)


def test_numbers_by_hand():
    """Hallucinated by the person: 4 of 8, by the judge: 3; both: 3. kappa = (7/8 - 1/2) / (1 - 1/2)."""
    found = compared([0, 1, 2, 2, 3, 4, 5, 6], [0, 1, 1, 3, 3, 5, 5, 4], resamples=50).metrics
    assert found["exact_agreement"] == 4 / 8
    assert found["within_one"] == 7 / 8
    assert found["mean_difference"] == pytest.approx((0 + 0 - 1 + 1 + 0 + 1 + 0 - 2) / 8)
    assert found["mean_absolute_difference"] == pytest.approx(5 / 8)
    assert found["hallucination_agreement"] == 7 / 8
    assert found["hallucination_rate_given"] == 4 / 8
    assert found["hallucination_rate_judge"] == 3 / 8
    assert found["hallucination_difference"] == pytest.approx(-1 / 8)
    assert found["hallucination_kappa"] == pytest.approx((7 / 8 - 1 / 2) / (1 - 1 / 2))


def ranks(values):
    ordered = sorted(values)
    return [statistics.mean(k for k, other in enumerate(ordered) if other == value) for value in values]


@pytest.mark.parametrize("seed", range(5))
def test_rank_and_weighted_kappa_are_those_of_their_definitions(seed):
    rng = random.Random(seed)
    given = [rng.randint(0, 6) for _ in range(30)]
    judged = [min(6, max(0, score + rng.randint(-2, 2))) for score in given]
    found = compared(given, judged, resamples=20).metrics
    assert found["spearman"] == pytest.approx(statistics.correlation(ranks(given), ranks(judged)))
    by_chance = statistics.mean((a - b) ** 2 for a in given for b in judged)
    seen = statistics.mean((a - b) ** 2 for a, b in zip(given, judged, strict=True))
    assert found["weighted_kappa"] == pytest.approx(1 - seen / by_chance)


def test_a_judge_that_turns_everything_round_and_one_that_says_one_thing():
    given = [0, 1, 2, 3, 4, 5, 6] * 3
    assert compared(given, [6 - score for score in given], resamples=20).metrics["spearman"] == pytest.approx(-1)
    alike = compared(given, [3] * 21, resamples=20)
    assert alike.metrics["spearman"] is None
    assert "says the same of all answers" in alike.undefined["spearman"]
    assert alike.metrics["hallucination_kappa"] == pytest.approx(0)


def test_intervals_are_wider_with_fewer_answers():
    rng = random.Random(0)
    given = [rng.randint(0, 6) for _ in range(400)]
    judged = [score if rng.random() < 0.6 else rng.randint(0, 6) for score in given]
    few, many = compared(given[:40], judged[:40]), compared(given, judged)
    for name in ("exact_agreement", "spearman", "weighted_kappa", "mean_difference"):
        low, high = many.intervals[name]
        assert low < many.metrics[name] < high
        assert few.intervals[name][1] - few.intervals[name][0] > high - low


def test_missing_verdicts_are_told_and_in_no_number():
    found = compared([0, 6, 3, None], [0, None, 3, 5], resamples=20)
    assert (found.n, found.missing, found.not_given) == (2, ("i1",), ("i3",))
    assert found.metrics["exact_agreement"] == 1
    assert (found.judge, found.given_by) == ("j", "person")
    errors = [*ratings([0, 6]), {"id": "i2", "error": "no reply", "judge": "j"}]
    found = agreement("mmhal", questions(3), answers(3), ratings([0, 6, 3]), errors, resamples=20)
    assert found.missing == ("i2",)


def test_verdicts_on_other_answers_are_refused():
    samples = load_samples("mmhal", questions(2))
    rows = [
        {**row, "judged": content_hash(sample, "It was.")} for row, sample in zip(ratings([1, 2]), samples, strict=True)
    ]
    with pytest.raises(DataError, match="2 of 2 verdicts were given on other answers"):
        agreement("mmhal", questions(2), answers(2), ratings([1, 2]), rows)
    rows = [
        {**row, "judged": content_hash(sample, answer["text"])}
        for row, sample, answer in zip(ratings([1, 2]), samples, answers(2), strict=True)
    ]
    assert agreement("mmhal", questions(2), answers(2), ratings([1, 2]), rows, resamples=20).n == 2


def test_reviews_of_the_official_judge_are_given_verdicts():
    reviews = [{"model": "gpt-4", "choices": [{"message": {"content": f"Fine.\nRating: {k}"}}]} for k in (6, 0, 3)]
    found = agreement("mmhal", questions(3), answers(3), reviews, ratings([6, 0, 4]), resamples=20)
    assert found.given_by == "gpt-4"
    assert found.metrics["exact_agreement"] == pytest.approx(2 / 3)


def test_hallusionbench_by_category(tmp_path):
    asked, given, options = arguments("hallusionbench", tmp_path)
    verdicts = options["verdicts"]
    turned = {"correct": "incorrect", "incorrect": "correct", "unclear": "unclear"}
    judged = [{**row, "verdict": turned[row["verdict"]]} if k < 5 else row for k, row in enumerate(verdicts)]
    same = agreement("hallusionbench", asked, given, verdicts, verdicts, resamples=20).metrics
    assert (same["exact_agreement"], same["kappa"], same["hallucination_kappa"]) == (1, 1, 1)
    found = agreement("hallusionbench", asked, given, verdicts, judged, resamples=20)
    changed = sum(row["verdict"] != "unclear" for row in verdicts[:5])
    assert changed
    assert found.metrics["exact_agreement"] == pytest.approx(1 - changed / len(verdicts))
    assert found.metrics["kappa"] < 1


def test_object_halbench_by_objects():
    asked = [{"image_id": k, "question": "What?", "objects": ["dog"]} for k in range(4)]
    said = [{"id": k, "text": "A dog and a cat in the park."} for k in range(4)]
    given = [{"id": k, "objects": ["dog", "cat"], "judge": "p"} for k in range(4)]
    judged = [{"id": k, "objects": ["dog"] if k < 2 else ["dog", "cat"], "judge": "j"} for k in range(4)]
    found = agreement("object_halbench", asked, said, given, judged, synonyms="coco", resamples=20).metrics
    assert found["object_precision"] == 1
    assert found["object_recall"] == 6 / 8
    assert found["object_f1"] == pytest.approx(2 * 0.75 / 1.75)
    assert (found["hallucination_rate_given"], found["hallucination_rate_judge"]) == (1, 0.5)
    assert found["hallucination_difference"] == -0.5


def test_every_benchmark_with_verdicts_of_an_answer_has_an_agreement():
    for name in ("mmhal", "hallusionbench", "object_halbench"):
        assert "verdicts" in with_defaults(BENCHMARKS[name], {})
    with pytest.raises(ConfigError, match="pope has no judge; these have: mmhal"):
        agreement("pope", [], [], [], [])


def test_the_command(tmp_path, capsys):
    files = {}
    for name, rows in (
        ("q", questions(6)), ("a", answers(6)), ("given", ratings([0, 1, 2, 4, 5, 6], "person")),
        ("first", ratings([0, 1, 2, 4, 5, 5], "one")), ("second", ratings([6, 5, None, 1, 0, 0], "two")),
    ):  # fmt: skip
        files[name] = tmp_path / f"{name}.jsonl"
        files[name].write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    words = ["agreement", "--benchmark", "mmhal", "--questions", str(files["q"]), "--answers", str(files["a"])]
    words += ["--given", str(files["given"]), "--verdicts", str(files["first"]), "--verdicts", str(files["second"])]
    out = tmp_path / "agreement.json"
    assert main([*words, "--out", str(out)]) == 0
    shown = capsys.readouterr().out
    for text in ("agreement with person", "one (first.jsonl)", "two (second.jsonl)", "exact_agreement", "0.833"):
        assert text in shown
    written = json.loads(out.read_text(encoding="utf-8"))["judges"]
    assert written[str(files["first"])]["metrics"]["within_one"] == 1
    assert (written[str(files["second"])]["n"], written[str(files["second"])]["missing"]) == (5, ["i2"])
    assert written[str(files["second"])]["items"][0] == {"id": "i0", "given": 0, "judge": 6}
    assert main([*words, "--out", str(files["given"])]) == ConfigError.exit_code
    assert main([*words, f"verdicts={files['given']}"]) == ConfigError.exit_code
    assert "pass the file here as `--verdicts FILE`" in " ".join(capsys.readouterr().err.split())
    files["second"].write_text(json.dumps({"id": "i0", "error": "?", "judge": "two"}) + "\n", encoding="utf-8")
    assert main(words) == DataError.exit_code
    assert "none of its verdicts is on an answer that has a given one" in " ".join(capsys.readouterr().err.split())
