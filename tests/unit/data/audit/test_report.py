"""The audit's numbers, by hand on small sets, and its silence where there is nothing to say."""

from __future__ import annotations

import io
import json
import math

import numpy as np
import pytest
from PIL import Image

from mmpref.data.audit import AuditSettings, audit
from mmpref.data.images.loader import ImageLoader
from mmpref.data.loss_facts import Range
from mmpref.records import ImageRef, PreferencePair, WeightSpan, user_turn


def pair(name: str, chosen: str = "a cat", rejected: str | None = "a dog", **changes) -> PreferencePair:
    images = tuple(
        ImageRef(data=item) if isinstance(item, bytes) else ImageRef(path=item) for item in changes.pop("images", ())
    )
    prompt = user_turn(changes.pop("question", "What?"), num_images=len(images))
    return PreferencePair(id=name, images=images, prompt=prompt, chosen=chosen, rejected=rejected, **changes)


def scored(*margins: float, base: float = 3.0) -> list[PreferencePair]:
    return [
        pair(str(place), score_chosen=base + margin, score_rejected=base, question=str(place))
        for place, margin in enumerate(margins)
    ]


def words(number: int, word: str = "w") -> str:
    return " ".join([word] * number)


# --- nothing to say --------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "pairs",
    [
        [],
        [pair("a")],
        [pair("a", rejected=None)],
        [pair("a", score_chosen=1.0, score_rejected=1.0)],
        [pair("a", "", "")],
        scored(1.0, 1.0, 1.0),
        [pair("a", score_chosen=1e308, score_rejected=-1e308)],
    ],
)
@pytest.mark.parametrize("loader", [None, ImageLoader(None)])
def test_every_small_set_gives_a_report_that_is_json(pairs, loader):
    report = audit(pairs, images=loader, settings=AuditSettings(tau_good=2.0, score_scale=(1.0, 5.0)))
    assert json.loads(json.dumps(report.as_json(), allow_nan=False))["num_pairs"] == len(pairs)
    assert all(isinstance(cell, str) and cell for row in report.rows() for cell in row)
    assert all("nan" not in cell and "None" not in cell for row in report.rows() for cell in row)


def test_progress_counts_pairs():
    done: list[int] = []
    audit((pair(str(number)) for number in range(3)), images=None, progress=done.append)
    assert done == [1, 2, 3]


def test_demonstrations_take_no_part_in_comparisons():
    report = audit([pair("a", rejected=None), pair("b", words(5), words(2))], images=None)
    assert report.num_demonstrations == 1
    assert report.lengths.num_compared == 1


# --- length ----------------------------------------------------------------------------------------------------------
def test_length_bias_by_hand():
    pairs = [
        pair("a", words(6), words(2), question="1"),
        pair("b", words(5), words(2), question="2"),
        pair("c", words(1), words(3), question="3"),
        pair("d", "one", "two", question="4"),
    ]
    found = audit(pairs, images=None).lengths
    assert found.longer.value == 0.5
    assert found.equal == 0.25
    assert found.difference_words.value == pytest.approx((4 + 3 - 2 + 0) / 4)
    assert found.difference_characters.value == pytest.approx((8 + 6 - 4 + 0) / 4)
    low, high = found.longer.interval
    assert low < 0.5 < high
    spread = np.array([4, 3, -2, 0]) - 1.25
    half = 1.959964 * math.sqrt((spread**2).sum() * 4 / 3) / 4
    assert found.difference_words.interval == pytest.approx((1.25 - half, 1.25 + half))


def test_rows_of_one_image_do_not_narrow_the_interval():
    def half_width(rows_per_image: int) -> float:
        pairs = [
            pair(f"{image}-{row}", words(3 if image % 2 else 1), words(2), images=(f"{image}.jpg",))
            for image in range(10)
            for row in range(rows_per_image)
        ]
        low, high = audit(pairs, images=None).lengths.longer.interval
        return (high - low) / 2

    assert half_width(20) == pytest.approx(half_width(1), rel=0.06)


def test_a_clear_length_bias_is_a_warning_and_its_mirror_too():
    longer = [pair(str(n), words(5), words(2), question=str(n)) for n in range(40)]
    shorter = [pair(str(n), words(2), words(5), question=str(n)) for n in range(40)]
    even = [pair(str(n), words(2 + n % 2), words(3 - n % 2), question=str(n)) for n in range(40)]
    told = [
        [line for line in audit(rows, images=None).warnings if "length alone" in line]
        for rows in (longer, shorter, even)
    ]
    assert "longer" in told[0][0]
    assert "shorter" in told[1][0]
    assert told[2] == []


# --- likeness and repetition -----------------------------------------------------------------------------------------
def test_similarity_and_nearly_identical_pairs():
    near = "the " + words(18) + " end"
    found = audit([pair("near", near, near.replace("end", "stop")), pair("far", "yes", "no")], images=None).similarity
    assert found.num_near == 1
    assert found.near_examples == ("near",)
    assert found.edit.max == pytest.approx(19 / 20)
    assert found.edit.min == 0
    assert found.jaccard.max == pytest.approx(2 / 4)


def test_case_does_not_count_as_a_difference():
    assert audit([pair("a", "A Cat", "a cat")], images=None).similarity.edit.median == 1


def test_an_answer_that_continues_the_other_is_counted():
    pairs = [pair("a", "A cat.", "A cat and a dog."), pair("b", "A cat.", "One cat.")]
    assert audit(pairs, images=None).similarity.num_one_continues_other == 1


def test_answers_that_begin_with_the_question_are_told():
    asked = "What stands on the table beside the window?"
    pairs = [
        pair("a", f"{asked} A cup.", f" {asked}\nA dog.", question=asked),
        pair("b", f"{asked} A cup.", "A dog.", question=asked),
        pair("c", "What? A cup.", "What? A dog.", question="What?"),  # short: said by chance
        pair("d", f"{asked} A cup.", rejected=None, question=asked, images=("x.jpg",)),
    ]
    report = audit(pairs, images=None)
    assert report.repeats.num_repeat_prompt == 2
    assert ("answers that begin with the question", "2") in report.rows()
    assert any(line.startswith("the answers of 2 rows begin with the whole question") for line in report.warnings)
    cut = [pair("a", "A cup.", "A dog.", question=asked)]
    assert not audit(cut, images=None).warnings


def test_repeats_and_contradictions():
    pairs = [
        pair("a", "yes", "no"),
        pair("b", "Yes ", "no"),  # the same pair
        pair("c", "no", "yes"),  # the opposite
        pair("d", "no", "yes", question="Other?"),
        pair("e", "no", "yes", images=("x.jpg",)),
    ]
    found = audit(pairs, images=None).repeats
    assert (found.num_prompts, found.most_used_count, found.most_used_prompt) == (2, 4, "What?")
    assert found.num_questions == 3
    assert found.num_same_pair == 1
    assert found.num_contradictions == 1
    assert found.contradiction_examples == ("c",)


def test_placeholders_and_control_tokens_as_text_are_counted():
    pairs = [pair("a", "<image> a cat</s>", "x"), pair("b", "a < b", "[1]"), pair("c", question="<|im_start|>hi")]
    found = audit(pairs, images=None).repeats
    assert found.num_with_control_text == 2
    assert found.control_texts == {"<image>": 1, "</s>": 1, "<|im_start|>": 1}


def test_examples_depend_on_the_seed_alone():
    pairs = [pair(str(n), words(30), words(30) + " x") for n in range(50)]
    first, again = (
        audit(pairs, images=None, settings=AuditSettings(seed=1)).similarity.near_examples for _ in range(2)
    )
    assert first == again
    assert len(first) == 5
    assert audit(pairs, images=None, settings=AuditSettings(seed=2)).similarity.near_examples != first


# --- scores ----------------------------------------------------------------------------------------------------------
def test_scores_by_hand():
    found = audit(scored(2.0, 1.0, 0.0, -1.0), images=None, settings=AuditSettings(eta=0.7, tau_good=4.0)).scores
    assert (found.num_scored, found.num_tied, found.num_inverted) == (4, 1, 1)
    assert found.inverted_examples == ("3",)
    assert found.margin.median == pytest.approx(0.5)
    assert found.gate_open == 0.5
    weights = [1 / (1 + math.exp(-0.7 * margin)) for margin in (2, 1, 0, -1)]
    assert found.w_qual.mean == pytest.approx(sum(weights) / 4)
    assert (found.w_qual.min, found.w_qual.max) == pytest.approx((weights[-1], weights[0]))


def test_the_gate_includes_its_edge():
    assert audit(scored(1.0), images=None, settings=AuditSettings(tau_good=4.0)).scores.gate_open == 1.0


@pytest.mark.parametrize(("scale", "eta"), [((0, 5), 0.7), ((1, 5), 0.88), ((1, 10), 0.39), ((0, 100), 0.035)])
def test_proposed_eta_keeps_the_weight_of_a_share_of_the_scale(scale, eta):
    found = audit(scored(1.0, 2.0), images=None, settings=AuditSettings(score_scale=scale)).scores
    assert found.proposed_eta == eta
    assert "0.7 x 5" in found.rule_eta


def test_without_a_scale_eta_comes_from_the_quantiles_and_tau_good_from_the_median():
    pairs = [pair(str(n), score_chosen=n / 1000, score_rejected=0.0) for n in range(301)]
    found = audit(pairs, images=None).scores
    both = np.concatenate([np.arange(301) / 1000, np.zeros(301)])
    width = np.quantile(both, 0.99) - np.quantile(both, 0.01)
    assert found.proposed_eta == float(f"{3.5 / width:.2g}")
    assert found.proposed_tau_good == pytest.approx(0.15)
    assert found.proposed_gate_open == pytest.approx(151 / 301)


def test_scores_that_never_differ_propose_no_eta():
    found = audit(scored(0.0, 0.0), images=None).scores
    assert found.proposed_eta is None
    assert found.proposed_tau_good == 3.0


def test_a_weight_that_weighs_nothing_and_a_gate_that_never_opens_are_warnings():
    told = audit(scored(0.01, 0.02, 0.05, base=0.1), images=None, settings=AuditSettings(tau_good=2.5)).warnings
    assert any("w_qual hardly differs" in line for line in told)
    assert any("never true" in line for line in told)
    fine = audit(scored(0.5, 1.0, 3.0), images=None, settings=AuditSettings(tau_good=3.7)).warnings
    assert not any("w_qual" in line or "gate" in line for line in fine)


def test_missing_inverted_and_outlying_scores_are_warnings():
    pairs = [*scored(-1.0, 4.0), pair("unscored")]
    told = "\n".join(audit(pairs, images=None, settings=AuditSettings(score_scale=(1.0, 5.0))).warnings)
    assert "1 of 3 pairs have no scores" in told
    assert "1 pairs (50.0%) have the higher score on the rejected answer (such as 0)" in told
    assert "1 pairs have a score outside 1..5" in told


def test_a_judge_that_pays_for_length_shows():
    pairs = [
        pair(str(n), words(n + 1), "w", score_chosen=float(n), score_rejected=0.0, question=str(n)) for n in range(10)
    ]
    assert audit([pair("unscored"), *pairs], images=None).scores.margin_and_length == pytest.approx(1.0)


def test_the_histogram_holds_every_score_once():
    found = audit(scored(0.0, 1.0, 2.0, 2.0), images=None).scores
    assert sum(found.histogram_chosen.counts) == 4
    assert found.histogram_chosen.edges == found.histogram_rejected.edges
    assert sum(found.histogram_margin.counts) == 4
    assert found.histogram_margin.counts[-1] == 2


# --- images --------------------------------------------------------------------------------------------------------
def drawn(seed: int, size: tuple[int, int] = (64, 48)) -> bytes:
    out = io.BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 255, (*size[::-1], 3), dtype=np.uint8)).save(out, "PNG")
    return out.getvalue()


def test_images_are_told_apart_by_content(tmp_path):
    for name, seed in (("a.png", 1), ("b.png", 1), ("c.png", 2)):
        (tmp_path / name).write_bytes(drawn(seed))
    pairs = [pair("1", images=("a.png",)), pair("2", images=("b.png",)), pair("3", images=("c.png", drawn(2)))]
    found = audit(pairs, images=ImageLoader(tmp_path)).images
    assert (found.num_places, found.num_distinct, found.num_copies) == (4, 2, 1)
    assert found.copy_examples == (("a.png", "b.png"),)
    assert found.rows_per_image.max == 2
    assert found.num_rows_sharing == 2
    by_path = audit(pairs, images=None).images
    assert (by_path.num_distinct, by_path.by_content) == (4, False)


def test_split_danger_is_the_share_of_held_out_rows_with_a_image_in_training():
    pairs = [pair(str(n), images=("same.jpg",)) for n in range(3)] + [pair("alone", images=("other.jpg",))]
    found = audit(pairs, images=None)
    assert found.images.split_danger == pytest.approx((3 * (1 - 0.05**2) + 0) / 4)
    assert any("hold out by image" in line for line in found.warnings)


def test_a_broken_image_is_counted_with_its_reason(tmp_path):
    (tmp_path / "bad.png").write_bytes(b"no image")
    pairs = [pair("1", images=("bad.png",)), pair("2", images=("gone.png",)), pair("3", images=("gone.png",))]
    found = audit(pairs, images=ImageLoader(tmp_path))
    assert found.images.faults == {"image_decode": 1, "image_missing": 1}
    assert found.images.num_places == 3
    assert any("cannot be used" in line for line in found.warnings)


def test_sizes_and_tokens_of_images_and_pairs():
    wide, high = drawn(1, (640, 480)), drawn(2, (48, 64))
    found = audit([pair("1", images=(wide, high)), pair("2", images=(wide,))], images=ImageLoader(None)).images
    assert (found.width.min, found.width.max) == (48, 640)
    tokens = found.tokens["LLaVA-1.5"]
    assert (tokens.per_image.n, tokens.per_image.max) == (2, 576)
    assert (tokens.per_pair.n, tokens.per_pair.min, tokens.per_pair.max) == (2, 576, 1152)
    assert found.tokens["Qwen2-VL, Qwen2.5-VL"].per_image.max == round(480 / 28) * round(640 / 28)


def test_the_keys_of_the_written_report_are_those_of_earlier_files():
    report = audit([pair("1", images=(drawn(1, (64, 48)),))], images=ImageLoader(None)).as_json()
    assert "spread_words" in report["lengths"]
    assert "rows_per_picture" in report["images"]
    assert all(
        list(tokens) == ["per_picture", "per_pair", "num_refused", "rule"]
        for tokens in report["images"]["tokens"].values()
    )
    assert "benchmark_pictures" in report["leak_summary"]


# --- what is said to the loss ----------------------------------------------------------------------------------------
def plain(width: int, color: int = 0) -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (width, 20), (color, 0, 0)).save(out, "PNG")
    return out.getvalue()


def test_labels_weights_and_other_images_are_counted():
    spans = (WeightSpan(0, 1, 0.0), WeightSpan(2, 5, 4.0))
    pairs = [
        pair("a", images=[plain(20)], other_images=(ImageRef(data=plain(20, 9)),), weight=0.5, chosen_weight=spans),
        pair("b", images=[plain(20, 1)], other_images=(ImageRef(data=plain(30)),), weight=0.0, rejected_weight=0.25),
        pair("c", images=[plain(20, 2)], weight=3.0),
        pair("good", rejected=None, label=True),
        pair("bad", rejected=None, label=False),
        pair("bad too", rejected=None, label=False),
        pair("demo", rejected=None),
    ]
    report = audit(pairs, images=ImageLoader(None))
    said = report.loss
    assert (said.labelled, said.desirable, said.other_images, said.with_images) == (3, 1, 2, 3)
    assert (said.weights, said.weights_of_nothing) == (Range(count=3, lowest=0.0, highest=3.0), 1)
    assert said.chosen_weights == Range(count=1, lowest=0.0, highest=4.0)
    assert said.rejected_weights == Range(count=1, lowest=0.25, highest=0.25)
    rows = dict(report.rows())
    assert rows["pairs"] == "7, 1 of them demonstrations"
    assert rows["single answers"] == "3 with a label, 1 desirable (33.3%)"
    assert rows["other images"] == "2 of 3 rows with images"
    assert rows["row weights"] == "0 to 3 in 3 rows, else 1"
    assert rows["chosen_weight of tokens"] == "0 to 4 in 1 rows"
    assert rows["rejected_weight of tokens"] == "0.25 in 1 rows"
    told = "\n".join(report.warnings)
    assert "1 of 2 rows have other_images of another size than their images (such as 'b')" in told
    assert "`processing.other_image.resize=true`" in told
    assert "1 rows with images have no other_images, and others have" in told
    assert "1 rows have weight 0" in told


def test_labels_that_are_all_the_same_are_told():
    for label, word in ((True, "true"), (False, "false")):
        report = audit([pair("a", rejected=None, label=label)], images=None)
        assert any(f"all 1 single answers is {word}" in line for line in report.warnings)


def test_other_images_make_no_row_share_an_image_and_are_looked_at():
    """Two rows whose other image is the image of a third: a split by row keeps their own images apart."""
    common = ImageRef(data=plain(20, 7))
    pairs = [pair(str(n), images=[plain(20, n)], other_images=(common,)) for n in range(3)]
    found = audit([*pairs, pair("third", images=[plain(20, 7)])], images=ImageLoader(None)).images
    assert (found.num_places, found.num_distinct, found.num_rows_sharing) == (7, 4, 0)
    assert (found.split_danger, found.num_with_others, found.num_other_sizes) == (0.0, 3, 0)
    broken = pair("b", images=[plain(20)], other_images=(ImageRef(data=b"no image"),))
    assert audit([broken], images=ImageLoader(None)).images.faults == {"image_decode": 1}
