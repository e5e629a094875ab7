"""DASH-B: the rows of its data set, the lists of its repository, and the answers of its script."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mmpref.errors import DataError
from mmpref.evals import load_samples, score

ROWS = [
    {"question_id": n, "img_id": image, "object": thing, "answer": label,
     "question": f"Can you see a {thing} in this image? Please answer only with yes or no."}
    for n, (image, thing, label) in enumerate(
        [("11.png", "dog", "no"), ("12.png", "tie", "no"), ("1.jpg", "dog", "yes"), ("1.jpg", "tie", "yes")]
    )
]  # fmt: skip
NEG = {"coco": {"dog": ["11.png"]}, "openimages_common": {"tie": ["12.png"]}}
POS = {"coco": {"dog": ["1.jpg"]}, "openimages_common": {"tie": ["1.jpg"]}}
SAID = ("No", "Yes", "Yes.", "yes")


def of_script(said):
    """The file that ``src/evaluate.py`` saves."""
    pairs = zip(ROWS, said, strict=True)
    return [
        {"img_id": r["img_id"], "object_name": r["object"], "gt": r["answer"], "response": s, "answer": None}
        for r, s in pairs
    ]


@pytest.fixture
def folder(tmp_path):
    for name, content in (("neg", NEG), ("pos", POS)):
        (tmp_path / f"dash_benchmark_{name}.json").write_text(json.dumps(content), encoding="utf-8")
    return tmp_path


def by_id(said):
    return [{"id": n, "text": text} for n, text in enumerate(said)]


def test_metrics_by_hand():
    """One of two without the object, both with it."""
    found = score("dash_b", ROWS, by_id(SAID), resamples=50)
    assert found.metrics == pytest.approx(
        {"accuracy": 3 / 4, "tnr": 1 / 2, "tpr": 1, "harmonic_mean": 2 / 3, "yes_ratio": 3 / 4}
    )


def test_what_is_neither_is_wrong_and_letters_are_read_by_the_script():
    said = ("I cannot tell", "...", "eyes", "hm")
    assert score("dash_b", ROWS, by_id(said), "official", resamples=5).metrics == pytest.approx(
        {"accuracy": 1 / 2, "tnr": 1 / 2, "tpr": 1 / 2, "harmonic_mean": 1 / 2, "yes_ratio": 1 / 4}
    )
    ours = score("dash_b", ROWS, by_id(("No", "...", "hm", "hm")), resamples=5)
    assert (ours.metrics["accuracy"], ours.metrics["harmonic_mean"], ours.n_unparsed) == (1 / 4, 0, 3)
    wrong = score("dash_b", ROWS, by_id(("Yes", "Yes", "No", "No")), "official", resamples=5)
    assert wrong.metrics["harmonic_mean"] is None
    assert "both zero" in wrong.undefined["harmonic_mean"]


def test_the_lists_of_the_repository_ask_as_its_script_does(folder):
    samples = load_samples("dash_b", folder)
    assert [sample.id for sample in samples] == [
        "neg/coco/dog/11.png", "neg/openimages_common/tie/12.png", "pos/coco/dog/1.jpg",
        "pos/openimages_common/tie/1.jpg",
    ]  # fmt: skip
    assert [sample.images[0].path for sample in samples] == [sample.id for sample in samples]
    assert samples[1].prompt[0].text == "Can you see a tie in this image? Please answer only with yes or no."
    assert samples == load_samples("dash_b", sorted(folder.iterdir()))


def test_one_image_name_is_another_image_with_each_object(folder):
    """Answers of the script name an image and an object, and are matched by both."""
    (folder / "answers").mkdir()
    file = folder / "answers" / "m_answers.json"
    file.write_text(json.dumps(of_script(SAID)[::-1]), encoding="utf-8")
    expected = score("dash_b", ROWS, by_id(SAID), resamples=5).metrics
    for questions in (folder, ROWS):
        assert score("dash_b", questions, file, resamples=5).metrics == expected
    other = [{**row, "object_name": "cow"} for row in of_script(SAID)]
    with pytest.raises(DataError, match=r"row 1: no question asks for 'cow' in the image '11.png'; so in 4 of 4 rows"):
        score("dash_b", ROWS, other)


def test_the_file_of_the_script_has_its_own_questions(tmp_path):
    file = tmp_path / "m_answers.json"
    file.write_text(json.dumps(of_script(SAID)), encoding="utf-8")
    found = score("dash_b", file, file, "official", resamples=5)
    assert found.metrics == score("dash_b", ROWS, by_id(SAID), "official", resamples=5).metrics
    assert [item["id"] for item in found.items][2:] == ["dog/1.jpg", "tie/1.jpg"]


def changed(number, **more):
    return [{**row, **more} if row["question_id"] == number else row for row in ROWS]


@pytest.mark.parametrize(
    ("rows", "says"),
    [
        (changed(1, answer="maybe"), "row 2: answer is 'maybe'; expected 'yes' or 'no'"),
        (changed(1, answer=None), "row 2: answer is None"),
        (changed(1, object=None), "row 2: object is None; expected text"),
        ([{k: v for k, v in row.items() if k != "object"} for row in ROWS], "row 1: object is missing"),
        (changed(1, question="Can you see it in this image?"), "row 2: question .* does not name the object 'tie'"),
        (changed(1, question_id=0), "row 2: question_id '0' stands in .*row 1 too; keep one"),
        (changed(3, img_id="12.png"), "row 4: image and object '12.png with tie' stands in .*row 2 too"),
        (ROWS[:2], "no question has the answer 'yes'.*dash_benchmark_pos.json"),
    ],
)  # fmt: skip
def test_rows_that_are_no_question_are_refused(rows, says, tmp_path):
    with pytest.raises(DataError, match=says):
        score("dash_b", rows, by_id(SAID))
    file = tmp_path / "rows.jsonl"
    file.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    with pytest.raises(DataError, match=rf"rows\.jsonl.*{says.partition(':')[2] or says}"):
        score("dash_b", file, by_id(SAID))


def test_parquet_files_have_the_images_in_them(tmp_path):
    """As the hub has them; the name that such an image has is another image's with another object."""
    shards = []
    for number, rows in enumerate((ROWS[:2], ROWS[2:])):
        held = [{**row, "image": {"bytes": bytes([9, row["question_id"]]), "path": row["img_id"]}} for row in rows]
        shards.append(tmp_path / f"test-0000{number}.parquet")
        pq.write_table(pa.Table.from_pylist(held), shards[-1])
    samples = load_samples("dash_b", tmp_path)
    assert samples == load_samples("dash_b", shards)
    assert [sample.images[0].data for sample in samples] == [bytes([9, number]) for number in range(4)]
    assert len({sample.meta["image"] for sample in samples}) == 4
    assert score("dash_b", tmp_path, by_id(SAID)) == score("dash_b", ROWS, by_id(SAID))
    pq.write_table(pa.Table.from_pylist([{**ROWS[2], "answer": "maybe"}]), shards[1])
    with pytest.raises(DataError, match=r"test-00001\.parquet, row 1: answer is 'maybe'"):
        load_samples("dash_b", tmp_path)


def test_a_file_without_rows_is_called_so(tmp_path):
    (tmp_path / "rows.jsonl").write_text("\n", encoding="utf-8")
    with pytest.raises(DataError, match="4 answers and no questions: the source of the questions is empty"):
        score("dash_b", tmp_path / "rows.jsonl", by_id(SAID))


def test_half_of_the_lists_and_other_files_are_refused(folder, tmp_path):
    with pytest.raises(DataError, match="no question has the answer 'yes'"):
        score("dash_b", folder / "dash_benchmark_neg.json", by_id(SAID))
    (folder / "dash_benchmark_pos.json").write_text('{"coco": ["1.jpg"]}', encoding="utf-8")
    with pytest.raises(DataError, match=r"dash_benchmark_pos\.json, coco, coco: expected an object and"):
        score("dash_b", folder, by_id(SAID))
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"no dash_benchmark_neg\.json and"):
        score("dash_b", tmp_path / "empty", by_id(SAID))
