from __future__ import annotations

import json

import pytest

from mmpref.errors import ConfigError
from mmpref.evals import score
from mmpref.evals.results import write_items, write_result
from mmpref.report.compare import as_json, comparison_table, difference_between, load_runs
from mmpref.report.page import build_report
from mmpref.report.summary import baseline_sentence, summarise

CHAIR_COLUMNS = ("chair_s", "chair_i", "recall", "mean_length")


def two(folders, root, before, after, **options):
    runs = []
    for name, items in (("before", before), ("after", after)):
        run = folders.write_run(root / name, **options)
        if items is not None:
            folders.write_chair(run, items)
        runs.append(run)
    return load_runs(runs)


def test_golden_table(folders, tmp_path):
    """Four images, by hand: before has made-up things in 3 captions, after in 1, and after forgets one object."""
    scenes = [folders.scene(n) for n in range(4)]  # 2, 3, 3 and 2 things
    before = [
        folders.caption_item(n, [*scenes[n], *extra]) for n, extra in enumerate([["tree"], ["pot"], ["fork"], []])
    ]
    after = [
        folders.caption_item(n, said)
        for n, said in enumerate([[*scenes[0], "tree"], scenes[1], scenes[2][:-1], scenes[3]])
    ]
    first, second = comparison_table(two(folders, tmp_path, before, after)).lines
    assert [first.cells[c].value for c in CHAIR_COLUMNS] == [0.75, pytest.approx(3 / 13), 1.0, 13.0]
    assert [second.cells[c].value for c in CHAIR_COLUMNS] == [0.25, pytest.approx(1 / 10), 0.9, 10.0]
    assert second.cells["chair_s"].difference == pytest.approx(-0.5)
    assert second.cells["recall"].difference == pytest.approx(-0.1)
    assert second.cells["mean_length"].difference == pytest.approx(-3.0)
    assert second.cells["chair_s"].difference_text == "−50.0"
    assert (second.cells["chair_s"].verdict, second.cells["chair_s"].caution) == (
        "unclear",
        "too few units differ (2 of 4)",
    )
    assert first.cells["chair_s"].difference is None
    assert [flag.kind for flag in second.cells["recall"].flags] == ["says_less"]


def test_intervals_come_from_results_json(folders, tmp_path):
    run = folders.write_run(tmp_path / "run")
    items = folders.captions(10, made_up_every=2)
    folders.write_eval(run, "chair", items, folders.chair_metrics(items), intervals={"chair_s": [0.2, 0.8]})
    cell = comparison_table(load_runs([run])).lines[0].cells["chair_s"]
    assert cell.interval == (0.2, 0.8)
    assert (cell.text, cell.interval_text) == ("50.0", "[20.0, 80.0]")


def test_the_demo_like_table(demo_runs):
    table = comparison_table(load_runs(demo_runs))
    assert [line.label for line in table.lines] == ["habit", "sft_chosen", "dpo", "uni_dpo", "adadpo"]
    assert [line.is_baseline for line in table.lines] == [True, False, False, False, False]
    flagged = {line.label: {flag.kind for flag in line.flags} for line in table.lines}
    assert "says_less" in flagged["adadpo"]
    assert "says_less" not in flagged["dpo"]
    groups = list(dict.fromkeys(column.group for column in table.columns))
    assert groups == ["captions (CHAIR)", "POPE random", "POPE popular", "POPE adversarial", "change of log-prob"]
    dpo = table.lines[2]
    assert dpo.cells["chair_s"].verdict == "better"
    assert dpo.cells["logp_chosen"].value == pytest.approx(-0.07)
    assert dpo.cells["logp_chosen"].text == "−0.07"
    assert "held-out pairs at step 65" in dpo.drift_source
    assert table.lines[0].cells["logp_chosen"].text == "not measured"
    assert table.notes == ()


def test_the_table_is_text_and_json_too(demo_runs):
    table = comparison_table(load_runs(demo_runs))
    rows = table.text_rows()
    assert len(table.header()) == len(rows[0]) == 16
    assert rows[0][0] == "habit"
    assert "▼ says less" in rows[4][1]
    content = json.loads(json.dumps(as_json(table), allow_nan=False))
    cell = content["runs"][4]["cells"]["chair_s"]
    assert cell["flags"][0]["kind"] == "says_less"
    assert cell["difference_text"].startswith("−")


def test_difference_between_any_two_runs(demo_runs):
    runs = load_runs(demo_runs)
    forth, back = difference_between(runs[1], runs[2], "chair_s"), difference_between(runs[2], runs[1], "chair_s")
    assert forth.value == -back.value
    assert forth.num_units == 60


def test_items_that_do_not_give_the_stored_number_are_not_compared(folders, tmp_path):
    runs = [folders.write_run(tmp_path / name) for name in ("a", "b")]
    items = folders.captions(10, made_up_every=2)
    folders.write_chair(runs[0], items)
    folders.write_eval(runs[1], "chair", items, folders.chair_metrics(items) | {"chair_s": 0.1})
    table = comparison_table(load_runs(runs))
    assert table.lines[1].cells["chair_s"].difference is None
    assert any("items.jsonl of b gives other chair_s" in note for note in table.notes)


def test_protocols_and_questions_that_differ_are_said(folders, tmp_path):
    runs = [folders.write_run(tmp_path / name) for name in ("a", "b", "c")]
    folders.write_chair(runs[0], folders.captions(10, made_up_every=2))
    folders.write_chair(runs[1], folders.captions(10, made_up_every=2), protocol="official")
    folders.write_chair(runs[2], folders.captions(6, made_up_every=2))
    table = comparison_table(load_runs(runs))
    assert any("protocols differ (mmpref and official)" in note for note in table.notes)
    assert any("over the 6 that both answered (of 10 and 6)" in note for note in table.notes)
    assert table.lines[1].cells["chair_s"].difference is None
    assert table.lines[2].cells["chair_s"].difference == 0


def test_missing_items_leave_the_value_and_say_so(folders, tmp_path):
    runs = [folders.write_run(tmp_path / name) for name in ("a", "b")]
    for run in runs:
        folders.write_chair(run, folders.captions(10, made_up_every=2))
    (runs[1] / "evals/chair/items.jsonl").unlink()
    table = comparison_table(load_runs(runs))
    assert table.lines[1].cells["chair_s"].value == 0.5
    assert table.lines[1].cells["chair_s"].difference is None
    assert any("items.jsonl is missing" in note for note in table.notes)


def test_undefined_says_why(folders, tmp_path):
    run = folders.write_run(tmp_path / "run")
    metrics = {"chair_s": 0.0, "chair_i": None, "recall": 0.0, "mean_length": 0.0}
    items = [folders.caption_item(n, [], text="") for n in range(3)]
    folders.write_eval(run, "chair", items, metrics, undefined={"chair_i": "no caption mentions a known object"})
    cell = comparison_table(load_runs([run])).lines[0].cells["chair_i"]
    assert cell.text == "undefined: no caption mentions a known object"


def test_collapse_and_one_answer_are_flagged_in_the_table(folders, tmp_path):
    first, second = (folders.write_run(tmp_path / name) for name in ("a", "b"))
    folders.write_chair(first, folders.captions(20, made_up_every=2))
    folders.write_chair(second, [folders.caption_item(n, [], text="") for n in range(20)])
    honest = folders.yes_no(20, split="random", wrong_yes_every=5, wrong_no_every=5)
    always_no = folders.yes_no(20, split="random", wrong_yes_every=0, wrong_no_every=1)
    for run, items in ((first, honest), (second, always_no)):
        folders.write_eval(run, "pope_random", items, folders.pope_metrics(items))
    line = comparison_table(load_runs([first, second])).lines[1]
    assert {flag.kind for flag in line.cells["chair_s"].flags} == {"says_less", "collapse"}
    assert {flag.kind for flag in line.cells["pope/random/yes_ratio"].flags} == {"one_answer"}
    assert line.cells["pope/random/yes_ratio"].value == 0.0


def test_log_prob_changes_of_held_out_pairs_are_paired(folders, tmp_path):
    runs = []
    for name, fall in (("a", 0.5), ("b", 2.0)):
        run = folders.write_run(tmp_path / name)
        rows = [
            {
                "step": step,
                "pair_id": f"p{n}",
                "logps/chosen": -6.0 - n - (fall + 0.1 * n) * (step > 0),
                "logps/rejected": -9.0 - (step > 0),
                "len/chosen": 5.0,
            }
            for step in (0, 65)
            for n in range(8)
        ]
        folders.write_pairs(run / "pairs_eval.parquet", rows)
        runs.append(run)
    first, second = comparison_table(load_runs(runs)).lines
    assert first.cells["logp_chosen"].value == pytest.approx(-0.85)
    assert first.cells["logp_chosen"].interval[0] < -0.85 < first.cells["logp_chosen"].interval[1]
    assert second.cells["logp_chosen"].difference == pytest.approx(-1.5)
    assert second.cells["logp_chosen"].difference_interval is None  # all by the same 1.5: that is no interval
    assert second.cells["logp_chosen"].verdict == "changed"
    assert second.cells["logp_chosen"].caution == "all units changed by the same"
    assert second.cells["logp_rejected"].value == pytest.approx(-1.0)
    assert [flag.kind for flag in second.cells["logp_chosen"].flags] == ["collapse"]  # 2.35 nats over 5 tokens
    assert first.drift_source == "8 held-out pairs, step 65 against step 0"


def test_single_answers_are_told_by_their_label_and_weighted_ones_by_their_weights(folders, tmp_path):
    """Undesirable answers may fall without a collapse; a weighted sum is of so many weights, not of so many tokens."""
    single = [
        {"step": step, "pair_id": f"{label}{n}", "kto/kl": 0.1, "kto/share_desirable": label, "len/chosen": 5.0,
         "logps/chosen": -10.0 + step * (0.5 if label else -20.0), "ref_logps/chosen": -10.0}
        for step in (0, 1) for label in (0.0, 1.0) for n in range(8)
    ]  # fmt: skip
    weighted = [
        {"step": step, "pair_id": f"p{n}", "len/chosen": 5.0, "weights/effective_len": 20.0,
         "logps/chosen": -40.0 - 4.0 * step}
        for step in (0, 1) for n in range(8)
    ]  # fmt: skip
    runs = [folders.write_run(tmp_path / name) for name in ("single", "weighted", "not weighted")]
    plain = [{name: value for name, value in row.items() if "effective" not in name} for row in weighted]
    for run, rows in zip(runs, (single, weighted, plain), strict=True):
        folders.write_pairs(run / "pairs_eval.parquet", rows)
    first, second, third = comparison_table(load_runs(runs)).lines
    assert first.cells["logp_chosen"].value == pytest.approx(0.5)
    assert first.cells["logp_rejected"].value == pytest.approx(-20.0)
    assert [line.cells["logp_chosen"].value for line in (second, third)] == pytest.approx([-4.0, -4.0])
    assert [[flag.kind for flag in line.cells["logp_chosen"].flags] for line in (first, second, third)] == [
        [], [], ["collapse"],
    ]  # fmt: skip


def test_log_prob_changes_of_training_pairs_are_the_last_quarter(folders, tmp_path):
    run = folders.write_run(tmp_path / "run")
    rows = [
        {
            "step": step,
            "pair_id": f"p{step}",
            "logps/chosen": -5.0 - step,
            "ref_logps/chosen": -5.0,
            "logps/rejected": None,
        }
        for step in range(41)
    ]
    folders.write_pairs(run / "pairs.parquet", rows)
    cells = comparison_table(load_runs([run])).lines[0].cells
    assert cells["logp_chosen"].value == pytest.approx(-35.0)
    assert cells["logp_rejected"].text == "not measured"


def test_summary_is_honest(demo_runs):
    runs = load_runs(demo_runs)
    table = comparison_table(runs)
    assert baseline_sentence(table).startswith("habit is the baseline: 33.3\u00a0% of its captions")
    findings = {finding.label: finding for finding in summarise(table, runs)}
    assert findings["dpo"].tone == "better"
    assert findings["dpo"].sentences[0].startswith("Lowers CHAIR_s from 33.3 to 13.3\u00a0% (−20.0 points")
    assert findings["adadpo"].tone == "warning"
    assert "look twice" in findings["adadpo"].verdict
    assert findings["adadpo"].warnings[0].startswith("▼ says less: lower CHAIR while recall fell")
    between = " ".join(findings["Between the runs"].sentences)
    assert "Lowest CHAIR_s without a warning: sft_chosen" in between
    assert "Not clearly lower than dpo" in between
    assert "adadpo" in between
    assert "carries the warning says less" in between


def test_summary_says_when_nothing_changed_and_when_it_got_worse(folders, tmp_path):
    before, after = folders.captions(40, made_up_every=4), folders.captions(40, made_up_every=1)
    runs = two(folders, tmp_path / "x", before, after)
    (finding,) = summarise(comparison_table(runs), runs)
    assert finding.tone == "worse"
    assert finding.sentences[0].startswith("Raises CHAIR_s")
    runs = two(folders, tmp_path / "y", before, folders.captions(40, made_up_every=4, shift=1))
    (finding,) = summarise(comparison_table(runs), runs)
    assert finding.tone == "unclear"
    assert "no clear change" in finding.sentences[0]


def test_what_is_not_a_run_folder_is_refused(folders, tmp_path):
    run = folders.write_run(tmp_path / "run")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError, match="not a run folder"):
        load_runs([tmp_path / "empty"])
    with pytest.raises(ConfigError, match="does not exist"):
        load_runs([tmp_path / "nowhere"])
    with pytest.raises(ConfigError, match="more than once"):
        load_runs([run, tmp_path / "run/../run"])
    with pytest.raises(ConfigError, match="at least one"):
        load_runs([])


def test_damage_is_said_and_left_out(folders, tmp_path):
    run = folders.write_run(tmp_path / "run", recipe="a: [", state="stopped", log=[{"step": 5, "loss": 1.0}])
    folders.write_chair(run, folders.captions(4, made_up_every=2))
    with (run / "metrics.jsonl").open("a") as stream:
        stream.write('{"step": 10, "loss"\n[1]\n{"loss": NaN}\n')
    with (run / "evals/chair/items.jsonl").open("a") as stream:
        stream.write('{"id": 3}\n')
    (run / "evals/broken").mkdir()
    (run / "evals/broken/results.json").write_text("[]")
    (run / "pairs.parquet").write_bytes(b"not parquet")
    (loaded,) = load_runs([run])
    said = "; ".join(loaded.problems)
    for words in (
        "not complete (state: stopped)",
        "recipe.yaml is not valid YAML",
        "metrics.jsonl: 3 of 4 lines",
        "chair/items.jsonl: 1 of 5 lines",
        "evals/broken/results.json is damaged",
        "pairs.parquet cannot be read",
    ):
        assert words in said
    assert len(loaded.log) == 1
    assert comparison_table([loaded]).lines[0].cells["chair_s"].value == 0.5


def test_labels(folders, tmp_path):
    paths = [folders.write_run(tmp_path / place / "run") for place in ("x", "y")]
    assert [run.label for run in load_runs(paths)] == ["x/run", "y/run"]
    assert [run.label for run in load_runs(paths, labels={str(paths[0]): "DPO", str(paths[1]): "DPO"})] == [
        "DPO (1)",
        "DPO (2)",
    ]


def test_empty_captions_count_as_scoring_counts_them(folders, tmp_path):
    """``mmpref`` leaves them out of the rates and lets them cost recall: the report must find the same numbers."""
    truth = {str(number): ["cup", "dog"] for number in range(8)}
    said = {"a": ["a cup and a dog", "a cup and a tree"], "b": ["a cup", ""]}
    runs = []
    for name, texts in said.items():
        answers = [{"id": key, "text": texts[int(key) % 2]} for key in truth]
        result = score("chair", truth, answers)
        run = folders.write_run(tmp_path / name)
        folder = run / "evals" / "chair"
        folder.mkdir(parents=True)
        write_result(folder / "results.json", result)
        write_items(folder / "items.jsonl", result)
        runs.append(run)
    table = comparison_table(load_runs(runs))
    assert not [note for note in table.notes if "gives other" in note]
    second = table.lines[1]
    assert second.cells["mean_length"].value == 2
    assert second.cells["mean_length"].difference == pytest.approx(2 - 5)
    assert second.cells["recall"].difference == pytest.approx(0.25 - 0.75)


def test_a_folder_of_runs_is_refused_with_the_runs_it_holds(folders, tmp_path):
    for name in ("one", "two"):
        folders.write_run(tmp_path / "runs" / name)
    with pytest.raises(ConfigError, match=r"holds 2 run folders and is none itself; name those.*runs/one .*runs/two"):
        load_runs([tmp_path / "runs"])
    evaluated(tmp_path / "runs" / "base_chair", "base")  # which was shown, and the runs were not
    with pytest.raises(ConfigError, match="holds 2 run folders and is none itself"):
        load_runs([tmp_path / "runs"])


def evaluated(folder, model):
    """What ``mmpref eval`` leaves of a benchmark, as far as the report reads it."""
    folder.mkdir(parents=True)
    result = score("chair", {"1": ["cup"]}, [{"id": "1", "text": "a cup"}])
    write_result(folder / "results.json", result, model=model, settings={"model": model})


def test_results_of_several_models_are_no_one_column(tmp_path):
    for model in ("base", "tuned"):
        evaluated(tmp_path / "flat" / model, model)
        evaluated(tmp_path / "deep" / model / "chair", model)
    with pytest.raises(ConfigError, match=r"results of 2 models \(base, tuned\); name the folders .*base .*tuned"):
        load_runs([tmp_path / "flat"])
    with pytest.raises(ConfigError, match=r"deep holds 2 folders with results in them .*deep/base .*deep/tuned"):
        load_runs([tmp_path / "deep"])
    assert [len(run.evals) for run in load_runs([tmp_path / "flat" / "base", tmp_path / "deep" / "tuned"])] == [1, 1]


def pope_result(folder, images, said, *, asked="coco_pope_random.json", answers="a.jsonl", **more):
    """What ``mmpref score`` leaves of one split of POPE about ``images``, all answered with ``said``."""
    questions = [
        {"question_id": n, "image": image, "text": f"Is there a cup {n}?", "label": "yes" if n % 2 else "no"}
        for n, image in enumerate(images)
    ]
    result = score("pope", questions, [{"id": n, "text": said} for n in range(len(questions))])
    folder.mkdir(parents=True)
    write_items(folder / "items.jsonl", result)
    scored = {"questions": [asked], "answers": [answers], "options": []}
    write_result(folder / "results.json", result, scored=scored, **more)
    return folder


COCO, GQA = [f"COCO_{n}.jpg" for n in range(20)], [f"{n}.jpg" for n in range(20)]


def test_one_folder_does_not_hold_one_part_twice(tmp_path, folders):
    """The second was left out without a word."""
    many = tmp_path / "many"
    first, second = pope_result(many / "a", COCO, "Yes"), pope_result(many / "b", COCO, "No", answers="b.jsonl")
    with pytest.raises(ConfigError, match=r"two results of pope, random, protocol mmpref: \S+a/results.json and \S+b/"):
        load_runs([many])
    assert len(load_runs([first, second])) == 2  # the advice
    for benchmark, name in (("chair", "caps"), ("mmhal", "rated"), ("new_one", "new")):
        for place in "ab":
            folder = tmp_path / name / place
            folder.mkdir(parents=True)
            content = {"benchmark": benchmark, "protocol": "mmpref", "metrics": {"score": 0.5}}
            (folder / "results.json").write_text(json.dumps(content))
        with pytest.raises(ConfigError, match=f"two results of {benchmark}, protocol mmpref"):
            load_runs([tmp_path / name])
    run = folders.write_run(tmp_path / "run")
    for name in ("pope", "pope_again"):
        folders.write_pope(run, {"random": folders.yes_no(6, split="random", wrong_yes_every=2, wrong_no_every=3)})
        (run / "evals/pope").rename(run / f"evals/x{name}")
    with pytest.raises(ConfigError, match=r"two results of pope, random.*xpope/results.json and .*xpope_again/"):
        load_runs([run])


def test_no_form_of_a_result_in_a_folder_is_lost(tmp_path, folders):
    """Files of ``score`` beside folders of it, and results that lie where a run does not have them."""
    many = tmp_path / "many"
    pope_result(many / "evals" / "deep", COCO, "Yes", asked="coco_pope_adversarial.json")
    pope_result(many / "a", COCO, "Yes")
    pope_result(many / "b", COCO, "Yes", asked="coco_pope_popular.json")
    for name in ("results.json", "items.jsonl"):
        (many / "b" / name).rename(many / {"results.json": "b.json", "items.jsonl": "b.items.jsonl"}[name])
    assert list(load_runs([many])[0].pope()) == ["random", "popular", "adversarial"]
    pope_result(many / "c", COCO, "No")
    (many / "c" / "results.json").rename(many / "c.json")
    (many / "c" / "items.jsonl").rename(many / "c.items.jsonl")
    with pytest.raises(ConfigError, match=r"a/results.json and \S+c.json"):
        load_runs([many])
    run = folders.write_run(tmp_path / "run")
    pope_result(run / "pope", COCO, "Yes")
    (loaded,) = load_runs([run])
    assert loaded.problems == ("results outside evals/ are not read: pope/results.json; move them there",)
    assert any("pope/results.json" in told for told in comparison_table([loaded]).remarks)


def test_one_folder_holds_the_splits_of_one_model(tmp_path):
    pope_result(tmp_path / "all" / "r", COCO, "Yes", model="llava")
    pope_result(tmp_path / "all" / "p", COCO, "Yes", asked="coco_pope_popular.json", answers="p.jsonl", model="llava")
    assert list(load_runs([tmp_path / "all"])[0].pope()) == ["random", "popular"]
    pope_result(tmp_path / "all" / "a", COCO, "Yes", asked="coco_pope_adversarial.json", model="other")
    with pytest.raises(ConfigError, match=r"results of 2 models \(other, llava\)"):
        load_runs([tmp_path / "all"])


def test_other_questions_under_one_name_get_columns_of_their_own(tmp_path):
    """COCO's and GQA's splits have the same names, and their questions the same ids."""
    seem = "gqa_pope_seem_random.json"
    one, other = pope_result(tmp_path / "one", COCO, "Yes"), pope_result(tmp_path / "other", GQA, "No", asked=seem)
    table = comparison_table(load_runs([one, other]))
    groups = list(dict.fromkeys(column.group for column in table.columns))
    assert groups == ["POPE random (coco_pope_random)", "POPE random (gqa_pope_seem_random)"]
    second = table.lines[1].cells
    assert second["pope/random (coco_pope_random)/accuracy"].value is None
    assert second["pope/random (gqa_pope_seem_random)/accuracy"].value == 0.5
    assert any("2 sets of questions are called 'random'" in note for note in table.notes)
    both = tmp_path / "both"
    pope_result(both / "coco", COCO, "Yes"), pope_result(both / "gqa", GQA, "No", asked=seem)
    pope_result(both / "popular", COCO, "No", asked="coco_pope_popular.json")
    assert [name.partition(" (")[0] for name in load_runs([both])[0].pope()] == ["random", "random", "popular"]


def test_two_images_that_both_turn_are_not_clear_and_the_page_says_why(folders, tmp_path):
    wrong, right = ([folders.caption_item(n, [*folders.scene(n), *extra]) for n in range(2)] for extra in (["pot"], []))
    for name, items in (("before", wrong), ("after", right)):
        folders.write_chair(folders.write_run(tmp_path / name), items)
    runs = load_runs([tmp_path / "before", tmp_path / "after"])
    cell = comparison_table(runs).lines[1].cells["chair_s"]
    assert cell.difference == -1
    assert cell.difference_interval[0] < cell.difference_interval[1]
    assert cell.verdict == "unclear"
    (finding,) = summarise(comparison_table(runs), runs)
    assert "no clear change, too few units differ (2 of 2)" in finding.sentences[0]
    page = build_report([tmp_path / "before", tmp_path / "after"], tmp_path / "page.html").read_text(encoding="utf-8")
    assert "too few units differ (2 of 2)" in page
