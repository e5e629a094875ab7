"""The report's own statistics against the evaluation's: files written by one room, read and compared by the other."""

from __future__ import annotations

import pytest

from mmpref.evals.results import write_items, write_result
from mmpref.evals.scoring import compare, score
from mmpref.report.compare import comparison_table, load_runs
from mmpref.report.examples import choose_examples

OBJECTS = {f"img{n}": ["cup", "plate"] if n % 2 else ["tree", "bench", "kite"] for n in range(30)}
SPLITS = {
    split: [
        {"question_id": n, "image": f"img{n // 2}.png", "text": "Is there a cup?", "label": "yes" if n % 2 else "no"}
        for n in range(40)
    ]
    for split in ("random", "adversarial")
}


def captions(step: int) -> list[dict[str, str]]:
    rows = []
    for n, (image, objects) in enumerate(OBJECTS.items()):
        said = [*objects[: 3 - (n % (step + 2) == 0)], *(["ball", "fork"] if n % step == 0 else [])]
        rows.append({"id": image, "text": "There is a " + " and a ".join(said) + "."})
    return rows


def replies(step: int) -> dict[str, list[dict[str, str]]]:
    words = ["Yes, there is.", "No.", "yes", "no", "I cannot tell.", "No, there is not a cup."]
    return {
        split: [{"id": n, "text": words[(n * step + len(split) + n // 7) % len(words)]} for n in range(40)]
        for split in SPLITS
    }


@pytest.mark.parametrize("protocol", ["mmpref", "official", "lmms_eval", "vlmevalkit"])
def test_values_and_differences_agree(folders, tmp_path, protocol):
    chair_protocol = protocol if protocol == "official" else "mmpref"
    runs, results = [], []
    for step in (2, 5):
        run = folders.write_run(tmp_path / f"run{step}")
        chair = score(
            "chair",
            {**OBJECTS, "extra": ["ball", "fork"]},
            captions(step),
            protocol=chair_protocol,
            image_name="{id}.png",
            synonyms=sorted({name for names in OBJECTS.values() for name in names} | {"ball", "fork"}),
        )
        pope = score("pope", SPLITS, replies(step), protocol=protocol)
        for name, result in (("chair", chair), ("pope", pope)):
            (run / "evals" / name).mkdir(parents=True)
            write_items(run / "evals" / name / "items.jsonl", result)
            write_result(run / "evals" / name / "results.json", result)
        runs.append(run)
        results.append((chair, pope))
    table = comparison_table(load_runs(runs))
    assert table.notes == ()
    expected = compare(results[0][0], results[1][0])
    for split in SPLITS:
        names = ("accuracy", "f1", "yes_ratio")
        differences = compare(results[0][1], results[1][1])
        expected |= {f"pope/{split}/{name}": differences[f"{split}/{name}"] for name in names}
    checked = 0
    for key, difference in expected.items():
        cell = table.lines[1].cells.get(key)
        if cell is None:
            continue
        assert cell.value == pytest.approx(difference.second)
        assert cell.difference == pytest.approx(difference.value)
        assert cell.difference_interval == pytest.approx(difference.interval)
        checked += 1
    assert checked == 10


def test_words_are_marked_where_the_evaluation_found_them(folders, tmp_path):
    run = folders.write_run(tmp_path / "run")
    answers = [{"id": image, "text": "A Ball, and a tree."} for image in OBJECTS]
    result = score("chair", {**OBJECTS, "extra": ["ball", "fork"]}, answers, image_name="{id}.png")
    (run / "evals/chair").mkdir(parents=True)
    write_items(run / "evals/chair/items.jsonl", result)
    write_result(run / "evals/chair/results.json", result)
    gallery = choose_examples(load_runs([run]), count=2, seed=0, images_root=None)
    marked = [[piece.text for piece in example.said[0].pieces if piece.mark] for example in gallery.examples]
    assert all(words and words[0] == "Ball" for words in marked)
