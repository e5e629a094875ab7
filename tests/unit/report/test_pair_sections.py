"""What the page says of pair logs: figures carry the numbers they claim, and what is missing or damaged is told."""

from __future__ import annotations

import base64
import math
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from mmpref.report.examples import Album
from mmpref.report.pairs.balance import balance_block
from mmpref.report.pairs.block import group_of
from mmpref.report.pairs.example_pairs import examples_of
from mmpref.report.pairs.held_out import onset_of
from mmpref.report.pairs.log import pair_runs
from mmpref.report.pairs.look import lift_block, lift_of, look_section
from mmpref.report.pairs.scores import scores_block
from mmpref.report.pairs.weights import weights_block
from mmpref.report.pairs.why import why_section
from mmpref.report.runs import Run

UNI = {"eta": 0.5, "tau_ref": 2.0, "gamma": 3.0, "perf_mode": "stabilized", "perf_detach": False}


def columns(count=40, *, steps=4, seed=0, shift=0.0):
    """A training log: every pair at each of four steps; rewards follow scores up to some noise."""
    rng = np.random.default_rng(seed)
    scores = rng.integers(0, 5, (count, 2)).astype(float)
    found = {"step": [], "pair_id": []}
    names = ("rewards/margins", "score/chosen", "score/rejected", "uni/w_qual", "uni/w_perf", "grad/ratio")
    found |= {name: [] for name in (*names, "len/chosen", "len/rejected", "logps/chosen", "logps/rejected")}
    for step in range(1, steps + 1):
        for pair in range(count):
            margin = 0.1 * step * (scores[pair, 0] - scores[pair, 1]) + 0.05 * rng.normal() + shift
            row = {
                "step": step, "pair_id": f"pair-{pair:03d}", "rewards/margins": margin,
                "score/chosen": scores[pair, 0], "score/rejected": scores[pair, 1],
                "uni/w_qual": 1 / (1 + math.exp(-0.5 * (scores[pair, 0] - scores[pair, 1]))), "uni/w_perf": 0.25,
                "grad/ratio": 2.0 ** (step - 1), "len/chosen": 5.0 + pair % 4, "len/rejected": 5.0,
                "logps/chosen": -6.0, "logps/rejected": -7.0,
            }  # fmt: skip
            for name, value in row.items():
                found[name].append(value)
    return found


def evaluations(losses, count=40, lifts=None):
    """A held-out log: the mean loss of each evaluation, one every 10 steps, with noise that stays with the pair."""
    found = {"step": [], "pair_id": [], "loss": [], "rewards/margins": [], "rewards/accuracies": []}
    found |= {name: [] for name in ("len/chosen", "len/rejected", "lift/chosen", "lift/rejected")}
    for at, loss in enumerate(losses):
        for pair in range(count):
            found["step"].append(10 * at)
            found["pair_id"].append(f"held-{pair:03d}")
            found["loss"].append(loss + 0.2 * math.sin(pair) + 0.01 * math.sin(17 * pair + at))
            found["rewards/margins"].append(0.1 * at + 0.01 * math.cos(pair))
            found["rewards/accuracies"].append(1.0)
            found["len/chosen"].append(6.0)
            found["len/rejected"].append(5.0)
            lift = math.nan if lifts is None else lifts[at] + 0.05 * math.sin(pair)
            found["lift/chosen"].append(lift)
            found["lift/rejected"].append(lift / 2)
    return found


def run(label="uni", *, data="one", texts=(), loss=None, pairs=None, eval_pairs=None):
    loss = loss if loss is not None else {"base": "dpo", "beta": 2.0, "length_normalize": True, "uni": UNI}
    manifest = {"state": "complete", "loss": loss, "data": {"pairs.jsonl": data}}
    return Run(
        label, Path(label), manifest, None, {}, (), (), pairs=columns() if pairs is None else pairs,
        eval_pairs={} if eval_pairs is None else eval_pairs, pair_texts=tuple(texts),
    )  # fmt: skip


def words(html):
    """The text of a page as it is read."""
    return re.sub(r"\s+", " ", re.sub(r"<svg.*?</svg>|<[^>]*>", " ", str(html), flags=re.DOTALL))


def text_rows(count=40):
    rng = np.random.default_rng(0)
    scores = rng.integers(0, 5, (count, 2)).astype(float)
    return [
        {
            "id": f"pair-{pair:03d}", "set": "train", "prompt": "<image> What is <b>there?", "chosen": f"good {pair}",
            "rejected": f"bad {pair}", "images": ["gone.png"], "score_chosen": scores[pair, 0],
            "score_rejected": scores[pair, 1],
        }
        for pair in range(count)
    ]  # fmt: skip


def test_the_scatter_has_every_pair_with_its_last_numbers_and_rho_is_in_words():
    source = columns()
    block = scores_block(group_of(pair_runs([run(pairs=source)])))
    last = {
        name: (chosen - rejected, margin)
        for name, chosen, rejected, margin in zip(
            source["pair_id"], source["score/chosen"], source["score/rejected"], source["rewards/margins"], strict=True
        )
    }
    (drawing,) = block.drawings
    assert {row[0]: row[1:] for row in drawing.rows} == {
        name: pytest.approx(two, rel=1e-5) for name, two in last.items()
    }
    assert re.match(r"uni: Spearman rho 0\.9\d \[0\.\d\d, (0\.9\d|1\.00)\]", block.lead[0])
    counts = [int(row[1]) for row in block.tables[1].rows]
    assert sum(counts) == 40


def test_bands_and_ends_carry_the_quantiles_of_the_log():
    group = group_of(pair_runs([run()]))
    drawn = {drawing.key: drawing for drawing in (*weights_block(group).drawings, *balance_block(group).drawings)}
    assert [row[1:] for row in drawn["grad-ratio"].rows] == [
        (float(step), 40, *[2.0 ** (step - 1)] * 5) for step in range(1, 5)
    ]
    w_qual = np.array(columns()["uni/w_qual"][:40])
    assert drawn["bands-w-qual"].rows[0][3:] == pytest.approx(
        np.quantile(w_qual, [0.05, 0.25, 0.5, 0.75, 0.95]), rel=1e-5
    )
    ends = [row for row in drawn["ends-w-total-0"].rows if "pairs: last" in str(row[0])]
    assert sum(row[3] for row in ends) == pytest.approx(1, abs=1e-4)
    curve = [row for row in drawn["curve-w-qual-0"].rows if row[0] == "line: w_qual"]
    assert all(row[3] == pytest.approx(1 / (1 + math.exp(-0.5 * row[1])), abs=1e-4) for row in curve)


def test_old_logs_give_their_score_margins_back_through_w_qual():
    source = columns()
    expected = scores_block(group_of(pair_runs([run(pairs=source)]))).drawings[0].rows
    old = {name: values for name, values in source.items() if not name.startswith("score/")}
    block = scores_block(group_of(pair_runs([run(pairs=old)])))
    assert any("read back from uni/w_qual with loss.uni.eta=0.5" in note for note in block.notes)
    assert [row[1] for row in block.drawings[0].rows] == pytest.approx([row[1] for row in expected], abs=1e-6)


def test_example_pairs_show_texts_escaped_and_say_why_there_is_no_image(tmp_path):
    found = run(texts=text_rows())
    examples, notes = examples_of(group_of(pair_runs([found])), Album(tmp_path))
    assert len({pair.name for pair in examples}) == len(examples) >= 4
    assert all(pair.why_no_image == "the image is not in the image folder" for pair in examples)
    assert "least hash" in notes[0]
    page = str(why_section([found], Album(tmp_path)))
    assert "<b>there" not in page
    assert "&lt;b&gt;there" in page


def test_example_pairs_show_the_images_of_their_own_run(tmp_path, folders):
    roots = [folders.write_images(tmp_path / name, 2) for name in ("one", "two")]
    image = "images/heldout_000000.png"
    (roots[1] / image).write_bytes(folders.png(1))
    texts = [row | {"images": [image]} for row in text_rows()]
    without = replace(run("first", data="other"), recipe={"data": {"root": str(roots[0])}})
    with_texts = replace(run(texts=texts), recipe={"data": {"root": str(roots[1])}})
    group = group_of(pair_runs([without, with_texts]))

    def shown(album):
        return {base64.b64decode(str(pair.image).partition(",")[2]) for pair in examples_of(group, album)[0]}

    assert shown(Album(roots[0])) == {folders.png(1)}  # the first run has another image under this path
    assert shown(Album(roots[0], is_given=True)) == {folders.png(0)}


def test_the_step_of_the_least_loss_is_named_only_where_the_rise_is_more_than_noise():
    def turn(losses):
        return onset_of(pair_runs([run(eval_pairs=evaluations(losses))])[0])

    found = turn([0.7, 0.4, 0.5])
    assert (found.step, found.last, found.clear) == (10, 20, True)
    assert found.rise.value == pytest.approx(0.1, abs=0.01)
    assert not turn([0.7, 0.4, 0.4005]).clear
    assert turn([0.7, 0.5, 0.4]) is None
    assert turn([0.7]) is None


def test_lift_is_drawn_with_its_paired_change():
    group = group_of(pair_runs([run(eval_pairs=evaluations([0.7, 0.5], lifts=[0.0, 0.3]))]))
    block = lift_block(group)
    assert lift_of(group.runs[0], "chosen").change.value == pytest.approx(0.3)
    rows = {drawing.key: drawing.rows for drawing in block.drawings}
    mean = np.mean([0.05 * math.sin(pair) for pair in range(40)])
    assert [row[2] for row in rows["lift-chosen"]] == pytest.approx([mean, 0.3 + mean], abs=1e-5)
    assert [row[2] for row in rows["lift-rejected"]] == pytest.approx([mean / 2, 0.15 + mean / 2], abs=1e-5)
    assert rows["lift-helps"][-1][2] == 1.0
    assert "it looks more than at first" in block.lead[0]


def test_without_lift_the_section_says_how_to_measure_it():
    assert "train.eval_image_lift=blank" in words(look_section([run()]))
    assert look_section([run(loss={"base": "sft"}, pairs={"step": [1], "pair_id": ["a"]})]) is None


def test_runs_on_other_data_are_shown_without_differences():
    first, same, other = run("first"), run("same", pairs=columns(shift=0.3)), run("other", data="two")
    group = group_of(pair_runs([first, same, other]))
    assert list(group.why_not) == ["other"]
    rows = {row[0]: row[-1] for row in scores_block(group).tables[0].rows}
    assert (rows["first"], rows["other"]) == ("–", "not compared")
    assert rows["same"].endswith("(40 training pairs)")
    told = words(why_section([first, other], Album(None)))
    assert "other was trained on other data than first: each is shown without differences" in told


def test_answers_of_other_lengths_under_the_same_ids_give_other_data_away():
    pairs = columns()
    pairs["len/chosen"] = [length + 1 for length in pairs["len/chosen"]]
    first, other = run("first", data=None), run("other", data=None, pairs=pairs)
    assert "answers of other lengths" in group_of(pair_runs([first, other])).why_not["other"]


@pytest.mark.parametrize(
    ("found", "said"),
    [
        (run(pairs={}), "no pair log"),
        (run(pairs={"step": [], "pair_id": []}), "its pair log has no usable row"),
        (
            replace(run(pairs={}, eval_pairs=evaluations([0.7])), recipe={"train": {"pair_log": 0}}),
            "keeps no training pairs (train.pair_log=0), only held-out ones",
        ),
        (replace(run(pairs={}), manifest={"state": "running"}), "no pair log yet"),
        (run(loss={"base": "kto"}), "trains on single answers (kto)"),
        (run(pairs=columns() | {"rewards/margins": ["x"] * 160}), "rewards/margins: 160 of 160 values are no numbers"),
        (run(pairs=columns() | {"len/chosen": [1.0]}), "len/chosen has 1 rows and step 160"),
        (run(pairs=columns() | {"score/chosen": [3.0] * 160, "score/rejected": [1.0] * 160}), "margins are equal"),
        (run(pairs={"step": [1], "pair_id": ["a"], "rewards/margins": [0.5]}), "no scores"),
        (run(pairs=columns(2)), "pairs with both: 2, 3 are needed"),
    ],
    ids=["no-log", "no-row", "none-kept", "running", "kto", "texts", "short", "equal", "one-pair", "two-pairs"],
)
def test_what_is_missing_or_damaged_is_told_and_the_rest_is_shown(found, said):
    assert said in words(why_section([found], Album(None)))


def test_only_trainings_have_the_section():
    assert why_section([Run("eval", Path("eval"), {}, None, {}, (), ())], Album(None)) is None
