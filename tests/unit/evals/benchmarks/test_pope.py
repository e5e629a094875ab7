import json
import random
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmpref.errors import ConfigError, DataError
from mmpref.evals import compare, load_samples, score
from tests.tiers import checkerboard

PROTOCOLS = ("mmpref", "official", "lmms_eval", "vlmevalkit")
TEXTS = [
    "Yes", "No", "yes", "no", "Yes.", "No.", "YES", "NO", "Yes, there is.",
    "No, there is no such thing in the image.", "**No**",
    "**Yes**", "The image does not show one.", "There is a dog in the image.", "I'm not sure.", "",
    "No\nNothing.", "yes, but no",
    "Yes, not one but two", "Nope", "A. no", "Answer: yes", "no,there", "(no)", '"No"', "No:", "maybe", " yes ",
    "1,000/no", "n't",
]  # fmt: skip


def question(number, label, image=None, **more):
    return {
        "question_id": number,
        "image": image or f"{number}.jpg",
        "text": f"Is there a {number}?",
        "label": label,
        **more,
    }


def answers_of(texts):
    return [{"id": number, "text": text} for number, text in enumerate(texts, 1)]


def run(labels, texts, protocol="mmpref", **options):
    questions = [question(number, label) for number, label in enumerate(labels, 1)]
    return score("pope", questions, answers_of(texts), protocol, resamples=100, **options)


# --- by hand ---------------------------------------------------------------------------------------------------------


def test_metrics_by_hand():
    """2 of 3 yes found, 1 false yes, 1 right no: accuracy 3/5, precision 2/3, recall 2/3, yes 3/5."""
    found = run(["yes", "yes", "yes", "no", "no"], ["Yes", "Yes", "No", "Yes", "No"])
    assert found.metrics == pytest.approx(
        {"accuracy": 0.6, "precision": 2 / 3, "recall": 2 / 3, "f1": 2 / 3, "yes_ratio": 0.6}
    )
    assert (found.n, found.n_unparsed, found.benchmark, found.protocol) == (5, 0, "pope", "mmpref")


def test_unread_answers_count_as_each_tool_counts_them():
    labels, texts = ["yes", "yes", "no", "no"], ["Yes", "perhaps", "perhaps", "no"]
    ours, official, lmms, vlm = (run(labels, texts, protocol) for protocol in PROTOCOLS)
    assert [r.n_unparsed for r in (ours, official, lmms, vlm)] == [2, 0, 2, 2]
    assert ours.metrics == pytest.approx(
        {"accuracy": 0.5, "precision": 1, "recall": 0.5, "f1": 2 / 3, "yes_ratio": 0.25}
    )
    assert vlm.metrics == pytest.approx(ours.metrics)
    assert official.metrics == pytest.approx(
        {"accuracy": 0.75, "precision": 2 / 3, "recall": 1, "f1": 0.8, "yes_ratio": 0.75}
    )
    # the unread yes is in no denominator but accuracy's, and yes_ratio is that of the labels
    assert lmms.metrics == pytest.approx({"accuracy": 0.5, "precision": 1, "recall": 1, "f1": 1, "yes_ratio": 0.5})


def test_only_no_leaves_precision_undefined_with_a_reason():
    labels, texts = ["yes", "no"], ["No", "No"]
    ours = run(labels, texts)
    assert ours.metrics == {"accuracy": 0.5, "precision": None, "recall": 0.0, "f1": 0.0, "yes_ratio": 0.0}
    assert ours.undefined == {"precision": "no answer was read as yes"}
    official = run(labels, texts, "official")
    assert official.metrics["precision"] is None
    assert official.metrics["f1"] is None
    assert "zero" in official.undefined["f1"]
    for tool in ("lmms_eval", "vlmevalkit"):
        assert run(labels, texts, tool).metrics["precision"] == 0


def test_no_question_with_yes_leaves_recall_undefined():
    found = run(["no", "no"], ["No", "Yes"])
    assert found.metrics["recall"] is None
    assert found.undefined["recall"] == "no question has the label yes"


def test_no_questions_at_all_is_a_result_without_numbers():
    found = score("pope", [], [])
    assert found.n == 0
    assert set(found.metrics.values()) == {None}


def test_official_takes_every_label_but_a_lower_case_no_as_yes():
    assert run(["No"], ["Yes"], "official").metrics["accuracy"] == 1
    assert run(["No"], ["Yes"]).metrics["accuracy"] == 0


# --- pairing ---------------------------------------------------------------------------------------------------------


def test_order_of_answers_does_not_matter():
    questions = [question(n, "yes" if n % 2 else "no", image=f"{n % 5}.jpg") for n in range(1, 31)]
    answers = answers_of(TEXTS)
    shuffled = random.Random(0).sample(answers, len(answers))
    for protocol in PROTOCOLS:
        assert score("pope", questions, answers, protocol) == score("pope", questions, shuffled, protocol)


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        ([1, 2], r"1 of 3 questions have no answer: '3'"),
        ([1, 2, 3, 2], r"answers: 1 ids appear more than once: '2'; '2' is in answers, row 2 and answers, row 4"),
        ([1, 2, 3, 17], r"1 of 4 answers have an id that no question has: '17'"),
        ([1, 2, 3, 4, 5, 6, 7, 8], r"'4', '5', '6' and 2 more"),
    ],
)
def test_missing_duplicate_and_unknown_ids_are_named(ids, message):
    questions = [question(n, "yes") for n in (1, 2, 3)]
    with pytest.raises(DataError, match=message):
        score("pope", questions, [{"id": name, "text": "yes"} for name in ids])


def test_duplicate_question_ids_are_refused():
    with pytest.raises(DataError, match="questions, row 2: id '1' stands in questions, row 1 too"):
        score("pope", [question(1, "yes"), question(1, "no")], [{"id": 1, "text": "yes"}])


def test_official_order_scores_the_shorter_list_and_counts_every_answer():
    questions = [question(n, label) for n, label in enumerate(["yes", "no", "yes"], 1)]
    answers = [{"question": "?", "answer": text} for text in ("Yes", "No", "Yes", "Yes", "Yes")]
    found = score("pope", questions, answers, "official", pairing="order")
    assert found.metrics["accuracy"] == 1
    assert found.metrics["yes_ratio"] == pytest.approx(4 / 5)
    assert found.n == 3
    assert "3 questions and 5 answers" in found.notes[0]
    short = score("pope", questions, answers[:2], "official", pairing="order")
    assert (short.n, short.metrics["yes_ratio"]) == (2, 0.5)
    with pytest.raises(ConfigError, match="rule of protocol 'official'"):
        score("pope", questions, answers, "mmpref", pairing="order")


def test_llava_style_answer_rows_are_read():
    found = score(
        "pope", [question(1, "yes")], [{"question_id": 1, "prompt": "Is ...", "text": "Yes", "model_id": "m"}]
    )
    assert found.metrics["accuracy"] == 1


# --- splits ----------------------------------------------------------------------------------------------------------


def split_rows():
    return {
        "random": [question(1, "yes", image="a"), question(2, "no", image="b")],
        "popular": [question(1, "no", image="a"), question(2, "no", image="b")],
    }


def check_splits(found):
    assert found.metrics["random/accuracy"] == 1
    assert found.metrics["popular/accuracy"] == 0.5
    assert found.metrics["accuracy"] == found.metrics["overall/accuracy"] == 0.75
    assert found.undefined["popular/recall"] == "no question has the label yes"
    assert {"random/yes_ratio", "popular/f1", "overall/precision", "recall"} <= found.metrics.keys()


def test_splits_from_mapping_files_folder_and_rows(tmp_path):
    splits = split_rows()
    by_split = {"random": answers_of(["yes", "no"]), "popular": answers_of(["yes", "no"])}
    joined = [{"id": f"{s}/{row['id']}", "text": row["text"]} for s, rows in by_split.items() for row in rows]
    check_splits(score("pope", splits, by_split))
    check_splits(score("pope", splits, joined))
    files = []
    for split, rows in splits.items():
        files.append(tmp_path / f"coco_pope_{split}.json")
        files[-1].write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    check_splits(score("pope", files, joined))
    check_splits(score("pope", tmp_path, joined))
    flat = [
        {**row, "split": split, "question_id": f"{split}{row['question_id']}"}
        for split, rows in splits.items()
        for row in rows
    ]
    check_splits(score("pope", flat, [{"id": a["id"].replace("/", ""), "text": a["text"]} for a in joined]))
    with pytest.raises(DataError, match="an answer id is 'split/question_id'"):
        score("pope", splits, answers_of(["yes", "no"]))


def test_a_json_array_is_read_like_json_lines(tmp_path):
    file = tmp_path / "questions.json"
    file.write_text(json.dumps([question(1, "yes")]), encoding="utf-8")
    assert score("pope", file, [{"id": 1, "text": "yes"}]).metrics["accuracy"] == 1


# --- refusals --------------------------------------------------------------------------------------------------------


def test_names_and_options_that_are_unknown_are_refused_with_the_nearest():
    with pytest.raises(ConfigError, match="did you mean 'pope'"):
        score("popes", [], [])
    with pytest.raises(ConfigError, match="did you mean 'lmms_eval'"):
        score("pope", [], [], "lmms-eval")
    with pytest.raises(ConfigError, match="did you mean 'pairing'"):
        score("pope", [], [], pairings="id")


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"question_id": 1, "image": "a", "text": "?"}, "row 1: label is missing"),
        ({"question_id": 1, "image": "a", "text": "?", "label": "maybe"}, "label is 'maybe'"),
        ({"image": "a", "text": "?", "label": "yes"}, "questions, row 1: no id"),
    ],
)
def test_bad_question_rows_are_named(row, message):
    with pytest.raises(DataError, match=message):
        score("pope", [row], [])


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"id": 1}, "no text"),
        ({"text": "yes"}, "no id"),
        ({"id": 1, "text": None}, "text is None"),
        ({"id": 1.5, "text": ""}, "id is 1.5"),
    ],
)
def test_bad_answer_rows_are_named(row, message):
    with pytest.raises(DataError, match=f"answers, row 1.*{message}"):
        score("pope", [question(1, "yes")], [row])


def test_a_line_that_is_not_json_is_named(tmp_path):
    file = tmp_path / "answers.jsonl"
    file.write_text('{"id": 1, "text": "yes"}\n{"id": 2, "te\n', encoding="utf-8")
    with pytest.raises(DataError, match=r"answers.jsonl, line 2 is not JSON"):
        score("pope", [question(1, "yes")], file)


# --- properties ------------------------------------------------------------------------------------------------------


def accuracy(result):
    """Of answers of which none can be read there is none, which is less than any."""
    value = result.metrics["accuracy"]
    return -1 if value is None else value


@settings(deadline=None, max_examples=40)
@given(st.lists(st.tuples(st.sampled_from(["yes", "no"]), st.sampled_from(TEXTS)), min_size=1, max_size=20), st.data())
def test_an_unparsed_answer_never_raises_accuracy(pairs, data):
    labels, texts = [list(column) for column in zip(*pairs, strict=True)]
    before = run(labels, texts)
    extra = run([*labels, data.draw(st.sampled_from(["yes", "no"]))], [*texts, "hm"])
    assert accuracy(extra) <= accuracy(before)
    texts[data.draw(st.integers(0, len(texts) - 1))] = "hm"
    assert accuracy(run(labels, texts)) <= accuracy(before)


def test_compare_pairs_the_questions():
    labels = ["yes", "no"] * 20
    worse, better = run(labels, ["Yes"] * 40), run(labels, ["Yes", "No"] * 20)
    found = compare(worse, better)["accuracy"]
    assert found.value == 0.5
    assert found.clear
    with pytest.raises(DataError, match="answered on one side only"):
        compare(worse, run(labels[:-1], ["Yes"] * 39))
    with pytest.raises(DataError, match="under official"):
        compare(worse, run(labels, ["Yes"] * 40, "official"))


# --- parity on the public files ---------------------------------------------------------------------------------------


def tool_numbers(protocol, labels, texts):
    """The tools' arithmetic written out once more, straight from their published rules."""
    if protocol == "official":
        read = [
            "no" if set(t.split(".")[0].replace(",", "").split(" ")) & {"No", "not", "no"} else "yes" for t in texts
        ]
    elif protocol == "lmms_eval":
        read = [t.lower().strip() for t in texts]
    else:
        read = []
        for text in texts:
            out = low = text.lower()
            for mark in [
                ";",
                "/",
                "[",
                "]",
                '"',
                "{",
                "}",
                "(",
                ")",
                "=",
                "+",
                "\\",
                "_",
                "-",
                ">",
                "<",
                "@",
                "`",
                ",",
                "?",
                "!",
            ]:
                squeeze = mark + " " in low or " " + mark in low or re.search(r"(\d)(,)(\d)", low)
                out = out.replace(mark, "" if squeeze else " ")
            words = re.sub(r"(?<!\d)\.(?!\d)", "", out, count=32).split()
            read.append(
                "yes" if "yes" in words and "no" not in words else "no" if "no" in words and "yes" not in words else "?"
            )
    tp = sum(r == "yes" and g == "yes" for r, g in zip(read, labels, strict=True))
    fp = sum(r == "yes" and g == "no" for r, g in zip(read, labels, strict=True))
    fn = sum(
        g == "yes" and (r == "no" if protocol == "lmms_eval" else r != "yes") for r, g in zip(read, labels, strict=True)
    )
    precision, recall = tp / (tp + fp), tp / (tp + fn)
    return {
        "accuracy": sum(r == g for r, g in zip(read, labels, strict=True)) / len(labels),
        "precision": precision,
        "recall": recall,
        "f1": 2 * precision * recall / (precision + recall),
        "yes_ratio": sum(x == "yes" for x in (labels if protocol == "lmms_eval" else read)) / len(read),
    }


FILES = [
    *(f"coco/coco_pope_{split}.json" for split in ("random", "popular", "adversarial")),
    "coco_e3e3926_llava_pin/coco_pope_random.json",
    "seem/gqa_pope_seem_popular.json",
    "seem/aokvqa_pope_seem_adversarial.json",
]


@pytest.mark.parametrize(("file", "protocol"), checkerboard(FILES, ("official", "lmms_eval", "vlmevalkit")))
def test_every_number_equals_the_tool_on_whole_public_files(bench_data, file, protocol):
    path = bench_data / "pope" / file
    samples = load_samples("pope", path)
    assert len(samples) == (2910 if "llava_pin" in file else 3000)
    rng = random.Random(file)
    texts = [
        rng.choice(TEXTS) if rng.random() < 0.5 else rng.choice(["Yes", "No", sample.target]) for sample in samples
    ]
    answers = [{"id": sample.id, "text": text} for sample, text in zip(samples, texts, strict=True)]
    found = score("pope", path, answers, protocol, resamples=50)
    assert dict(found.metrics) == pytest.approx(tool_numbers(protocol, [s.target for s in samples], texts), abs=1e-12)


def test_three_public_splits_at_once(bench_data):
    samples = load_samples("pope", bench_data / "pope" / "coco")
    assert len(samples) == 9000
    assert samples[0].id == "random/1"
    assert len({(s.images, s.prompt) for s in samples}) == 5127
    found = score("pope", bench_data / "pope" / "coco", [{"id": s.id, "text": s.target} for s in samples])
    assert {found.metrics[f"{split}/f1"] for split in ("random", "popular", "adversarial", "overall")} == {1.0}
    assert 0.98 < found.intervals["accuracy"][0] < 1


def test_json_that_is_nested_without_end_is_an_error(tmp_path):
    (tmp_path / "a.jsonl").write_text("[" * 200_000, encoding="utf-8")
    with pytest.raises(DataError, match=r"a\.jsonl, line 1 is not JSON"):
        score("pope", [{"question_id": 1, "image": "a", "text": "?", "label": "yes"}], tmp_path / "a.jsonl")


def test_a_copy_of_a_split_is_not_counted_twice(tmp_path):
    rows = [
        {"question_id": n, "image": f"{n}.jpg", "text": f"Is there a {thing} in the image?", "label": label}
        for n, (thing, label) in enumerate([("dog", "yes"), ("cat", "no")], 1)
    ]
    files = [tmp_path / "coco_pope_random.json", tmp_path / "copy.json"]
    for file in files:
        file.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    with pytest.raises(DataError, match="splits 'random' and 'copy' have the same rows; give each split once"):
        score("pope", files, [{"question_id": 1, "text": "Yes"}])
