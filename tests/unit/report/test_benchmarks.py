"""Any benchmark in the report: its paired differences, what they were bought with, who turned right or wrong."""

import json
import re

import pytest

from mmpref.errors import ConfigError
from mmpref.evals import compare, score
from mmpref.evals.results import write_items, write_result
from mmpref.report.benchmarks import benchmark_tables, direction
from mmpref.report.flips import choose_flips, count_turns, is_right
from mmpref.report.page import build_report
from mmpref.report.runs import load_runs
from mmpref.statistics import mcnemar

MME = [
    {"category": subtask, "image": f"{n}.png", "question": f"Is it {k}? Please answer yes or no.", "answer": label}
    for subtask in ("existence", "count")
    for n in range(12)
    for k, label in ((1, "Yes"), (2, "No"))
]
MMHAL = [
    {
        "question_type": ("attribute", "counting")[n % 2], "question_topic": "indoor", "image_id": f"i{n}",
        "image_src": f"https://h/{n}.png", "image_content": ["Bench"], "question": f"What is {n}?",
        "gt_answer": f"A bench, {n}.",
    }
    for n in range(30)
]  # fmt: skip


def save(folder, result, **more):
    folder.mkdir(parents=True)
    write_items(folder / "items.jsonl", result)
    write_result(folder / "results.json", result, **more)
    return folder


def mme(step):
    rows = []
    for number, row in enumerate(MME):
        name = f"{row['category']}/{row['image']}/{1 + number % 2}"
        right = row["answer"].lower()
        rows.append({"id": name, "text": {"yes": "no", "no": "yes"}[right] if number % step == 0 else right})
    return score("mme", MME, rows)


def mmhal(lowest, length, *, missing=()):
    texts = [
        {"id": row["image_id"], "text": " ".join(f"word{n % 7}x{k}" for k in range(length))}
        for n, row in enumerate(MMHAL)
    ]
    verdicts = [
        {
            "id": row["image_id"],
            "judge": "j",
            **({"error": "no"} if n in missing else {"score": min(6, lowest + n % 4)}),
        }
        for n, row in enumerate(MMHAL)
    ]
    return score("mmhal", MMHAL, texts, verdicts=verdicts)


@pytest.fixture
def two(tmp_path):
    """Two folders of one benchmark each."""

    def make(first, second, **more):
        return [save(tmp_path / "a" / "evals-x", first, **more), save(tmp_path / "b" / "evals-x", second, **more)]

    return make


def rows_of(table):
    return {(row.part, row.name): row for row in table.rows}


def test_folders_of_eval_are_compared_without_a_run(two):
    runs = load_runs(two(mme(3), mme(7)))
    assert [run.label for run in runs] == ["a/evals-x", "b/evals-x"]
    (table,) = benchmark_tables(runs)
    assert table.title == "MME"
    expected = compare(mme(3), mme(7))
    checked = 0
    for full, difference in expected.items():
        part, _, name = full.rpartition("/")
        cell = rows_of(table)[part, name].cells[1]
        if difference.value is None:
            continue
        assert cell.value == pytest.approx(difference.second)
        assert cell.difference == pytest.approx(difference.value)
        assert cell.difference_interval == pytest.approx(difference.interval)
        checked += 1
    assert checked >= 2


def test_scores_get_verdicts_by_their_direction(two):
    (table,) = benchmark_tables(load_runs(two(mmhal(0, 20), mmhal(3, 20))))
    rows = rows_of(table)
    assert rows["", "score"].cells[1].verdict == "better"
    assert rows["", "score"].cells[1].difference > 0
    assert rows["", "hallucination_rate"].cells[1].verdict == "better"
    assert rows["", "hallucination_rate"].cells[1].difference < 0
    assert rows["counting", "score"].cells[1].difference_interval is None
    assert rows["counting", "score"].cells[1].caution == "all units changed by the same"
    assert rows["", "hallucination_rate"].cells[1].difference_interval is not None
    assert rows["", "score"].cells[0].text == "1.43"
    assert rows["", "hallucination_rate"].cells[0].text.endswith(".7")


def test_directions_of_names():
    assert {name: direction(name) for name in ("hal", "accuracy", "yes_ratio", "mean_length", "figure_wrong")} == {
        "hal": "lower", "accuracy": "higher", "yes_ratio": None, "mean_length": None, "figure_wrong": "lower",
    }  # fmt: skip


def test_fewer_hallucinations_by_shorter_answers_are_flagged(two, tmp_path):
    paths = two(mmhal(0, 20), mmhal(3, 9))
    (table,) = benchmark_tables(load_runs(paths))
    rows = rows_of(table)
    assert rows["", "mean_length"].cells[1].value == pytest.approx(9)
    assert [flag.kind for flag in rows["", "hallucination_rate"].cells[1].flags] == ["says_less"]
    page = build_report(paths, tmp_path / "page.html").read_text(encoding="utf-8")
    assert "▼ says less" in page
    assert "better, but look twice" in page or "look twice" in page


def test_length_and_yes_stand_beside_metrics_that_do_not_tell_them(two):
    (table,) = benchmark_tables(load_runs(two(mme(3), mme(7))))
    rows = rows_of(table)
    assert rows["", "words per answer"].cells[0].value == 1.0
    assert rows["", "empty answers"].cells[0].value == 0.0
    assert ("", "says yes") not in rows  # MME tells its yes_ratio itself
    yes = rows["", "yes_ratio"].cells
    assert yes[0].value == pytest.approx(0.5)
    assert yes[1].difference == pytest.approx(sum(item["read"] == "yes" for item in mme(7).items) / 48 - 0.5)


def test_missing_verdicts_and_notes_are_told(two):
    rows = [*MMHAL]
    assert len(rows) == 30
    with pytest.raises(Exception, match="more than 2%"):
        mmhal(0, 20, missing=(3,))
    (table,) = benchmark_tables(load_runs(two(mmhal(0, 20), mmhal(1, 20))))
    assert any("judged by j" in note for note in table.notes)


def test_other_questions_leave_the_shared_ones(two, tmp_path):
    first, second = two(mme(3), mme(7))
    lines = (second / "items.jsonl").read_text().splitlines()
    kept = [line for line in lines if json.loads(line)["image"].endswith(("/0.png", "/1.png", "0.png", "1.png"))]
    (second / "items.jsonl").write_text("\n".join(kept))
    (table,) = benchmark_tables(load_runs([first, second]))
    assert any("the questions differ" in note for note in table.notes)
    # the numbers of the cut file are not those of its results.json, so nothing is claimed
    assert any("gives other" in note for note in table.notes)
    assert all(
        row.cells[1].difference is None
        for row in table.rows
        if row.name not in ("words per answer", "empty answers", "says yes")
    )


@pytest.mark.parametrize("damage", ['{"id": "x"}\n', "[1]\n", '{"id": "x", "category": 3, "image": null}\n'])
def test_damaged_items_are_a_note_and_no_crash(two, tmp_path, damage):
    first, second = two(mme(3), mme(7))
    with (second / "items.jsonl").open("a") as stream:
        stream.write(damage)
    page = build_report([first, second], tmp_path / "page.html").read_text(encoding="utf-8")
    assert "no paired difference" in page or "lines cannot be used" in page


def test_an_unknown_benchmark_is_shown_by_its_numbers(tmp_path):
    for name, value in (("a", 0.5), ("b", 0.75)):
        (tmp_path / name).mkdir()
        content = {"benchmark": "new_one", "protocol": "x", "metrics": {"accuracy": value, "points": 120.5}}
        (tmp_path / name / "results.json").write_text(json.dumps(content))
    (table,) = benchmark_tables(load_runs([tmp_path / "a", tmp_path / "b"]))
    assert [cell.text for cell in rows_of(table)["", "accuracy"].cells] == ["50.0", "75.0"]
    assert rows_of(table)["", "points"].cells[0].text == "120.50"
    assert "<b>" not in build_report([tmp_path / "a", tmp_path / "b"], tmp_path / "p.html").read_text()[:200]


def test_a_file_of_score_is_a_result_too(tmp_path):
    write_result(tmp_path / "one.json", mme(3))
    write_result(tmp_path / "two.json", mme(7))
    runs = load_runs([tmp_path / "one.json", tmp_path / "two.json"])
    assert [run.label for run in runs] == ["one", "two"]
    (table,) = benchmark_tables(runs)
    assert any("items.jsonl is missing" in note for note in table.notes)


def test_a_folder_with_neither_is_refused(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError, match="not a run folder"):
        load_runs([tmp_path / "empty"])


# --- turned right, turned wrong ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("item", "right"),
    [
        ({"correct": True}, True),
        ({"correct": False, "hallucinated": []}, False),
        ({"hallucinates": True}, False),
        ({"hallucinated": []}, True),
        ({"hallucinated": ["cat"]}, False),
        ({"missing": True, "correct": False}, None),
        ({"hallucinates": None}, None),
        ({"read": "yes"}, None),
    ],
)
def test_what_is_right(item, right):
    assert is_right(item) is right


def test_turns_are_counted_over_all_and_by_part():
    first = [{"id": str(n), "correct": n % 2 == 0, "t": "a" if n < 6 else "b"} for n in range(10)]
    second = [{"id": str(n), "correct": n % 3 == 0, "t": "a"} for n in range(9)]
    turns = count_turns("x", first, second, lambda item: (item["t"],))
    # of 0..8: both 0 6, turned wrong 2 4 8, turned right 3, both wrong 1 5 7
    everything = turns.counts["all questions"]
    assert (everything.both_right, everything.turned_wrong, everything.turned_right, everything.both_wrong) == (
        2,
        3,
        1,
        3,
    )
    assert everything.p == pytest.approx(mcnemar(3, 1))
    assert turns.counts["b"].turned_wrong == 1


def test_examples_are_chosen_by_case_and_never_by_who_wins():
    first = [{"id": str(n), "correct": n % 2 == 0} for n in range(40)]
    second = [{"id": str(n), "correct": n % 3 == 0} for n in range(40)]
    plan = choose_flips([first, second], count=6, seed=0)
    assert [case for case, _ in plan.chosen] == ["fixed", "fixed", "broken", "broken", "stayed", "stayed"]
    assert plan.counts == {"fixed": 7, "broken": 13, "stayed": 13, "same": 7}
    assert choose_flips([first[::-1], second], count=6, seed=0) == plan
    assert choose_flips([first, second], count=6, seed=1) != plan
    assert choose_flips([first], count=6, seed=0).chosen == ()


def test_flipped_examples_are_shown_with_their_images_and_answers(folders, two, tmp_path):
    world = folders.write_images(tmp_path / "world", 12)
    for n in range(12):
        (world / "images" / f"heldout_{n:06d}.png").rename(world / f"{n}.png")
    first, second = two(mmhal(0, 20), mmhal(3, 20), images=str(world))
    page = build_report([first, second], tmp_path / "page.html").read_text(encoding="utf-8")
    assert "Turned right, turned wrong" in page
    assert page.count("data:image/png;base64") >= 1
    assert re.search(r"fixed</span>.*?What is \d+\?.*?rated 0", page, re.DOTALL)
    assert "MMHal-Bench" in page
    assert "McNemar p" in page


def test_hostile_items_stay_text(two, tmp_path):
    def hostile(step):
        result = mme(step)
        evil = "<script>alert(1)</script>"
        items = tuple({**item, "text": evil, "question": evil, "image": "../../etc/passwd"} for item in result.items)
        return type(result)(**{f: getattr(result, f) for f in result.__dataclass_fields__} | {"items": items})

    page = build_report(two(hostile(3), hostile(7)), tmp_path / "page.html", images_root=tmp_path).read_text()
    assert "<script" not in page
    assert "outside the image folder" in page
