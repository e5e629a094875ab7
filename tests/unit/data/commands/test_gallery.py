"""The gallery's file: complete, inert towards its data, and honest about what it leaves out."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import re

import numpy as np
import pytest
from PIL import Image

from mmpref.data.commands.gallery import THUMBNAIL_SIDE, build_gallery
from mmpref.data.images.loader import ImageLoader
from mmpref.data.quarantine import QuarantinedRow
from mmpref.records import ImageRef, PreferencePair, WeightSpan, user_turn

EVIL = "</script><script>document.title='bad'</script><img src=x onerror=alert(1)>\u2028 &amp; \x00\x1b[31m"


def pair(number: int = 0, **changes) -> PreferencePair:
    images = changes.get("images", ())
    given = {
        "id": f"p{number}",
        "images": (),
        "prompt": user_turn("What is it?", num_images=len(images)),
        "chosen": "A grey cat.",
        "rejected": "A grey dog.",
    }
    return PreferencePair(**{**given, **changes})


def content(page: str) -> dict:
    block = re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)
    return json.loads(block[1])


def write(tmp_path, pairs, quarantined=(), **options) -> tuple[str, dict]:
    options.setdefault("images", None)
    page = build_gallery(pairs, quarantined, out=tmp_path / "page.html", **options).read_text(encoding="utf-8")
    return page, content(page)


def test_the_page_refers_to_nothing_outside_itself(tmp_path):
    page, _ = write(tmp_path, [pair()])
    assert not re.search(r"https?:|url\(|@import|src=[\"']?//|fetch\(|XMLHttp", page)


def test_the_policy_allows_the_one_script_and_the_one_style(tmp_path):
    page, _ = write(tmp_path, [pair()])
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', page)[1]
    for name, kind in (("script", "script-src"), ("style", "style-src")):
        text = re.findall(rf"<{name}>(.*?)</{name}>", page, re.DOTALL)
        assert len(text) == 1
        wanted = base64.b64encode(hashlib.sha256(text[0].encode()).digest()).decode()
        assert f"{kind} 'sha256-{wanted}'" in policy
    assert policy.startswith("default-src 'none'")
    assert "unsafe" not in policy


def test_the_script_reads_no_data_as_markup():
    from importlib import resources

    script = resources.files("mmpref.data.commands").joinpath("gallery.js").read_text(encoding="utf-8")
    assert not re.search(
        r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|DOMParser|eval\(|new Function", script
    )


def test_hostile_text_stays_text_everywhere(tmp_path):
    row = QuarantinedRow(source=EVIL, file=EVIL, row=1, id=EVIL, reason=EVIL, detail=EVIL)
    hostile = pair(
        id=EVIL, prompt=user_turn(EVIL, num_images=0), chosen=EVIL, rejected="x", source=EVIL, response_prefix=EVIL,
        meta={EVIL: EVIL, "half": "\ud800"},
    )  # fmt: skip
    page, data = write(tmp_path, [hostile], [row], title=EVIL)
    assert page.count("<script") == 2
    assert page.count("</script>") == 2
    assert "<img" not in page
    assert data["cards"][0]["id"].startswith("</script>")
    assert "\x00" not in page
    assert "\x1b" not in page


def test_joined_characters_and_right_to_left_text_stay_whole(tmp_path):
    family = "\U0001f468\u200d\U0001f469 \u05e9\u05dc\u05d5\u05dd \u0646\u200c\u0645"
    _, data = write(tmp_path, [pair(chosen=family, rejected=family + " x")])
    assert "".join(text for _, text in data["cards"][0]["chosen"]) == family


def test_the_words_that_differ_are_marked(tmp_path):
    _, data = write(tmp_path, [pair()])
    assert data["cards"][0]["chosen"] == [[0, "A grey "], [1, "cat"], [0, "."]]
    assert data["cards"][0]["rejected"] == [[0, "A grey "], [1, "dog"], [0, "."]]


def test_answers_with_nothing_in_common_are_not_marked(tmp_path):
    _, data = write(tmp_path, [pair(rejected="No idea at all")])
    assert data["cards"][0]["unmarked"] is True
    assert data["cards"][0]["chosen"] == [[0, "A grey cat."]]


def test_lengths_scores_and_likeness_are_given(tmp_path):
    _, data = write(tmp_path, [pair(score_chosen=4.5, score_rejected=2.0, rejected="A grey cat and a dog.")])
    card = data["cards"][0]
    assert card["words"] == [3, 6]
    assert card["characters"] == [11, 21]
    assert card["scores"] == [4.5, 2.0]
    assert card["alike"] == pytest.approx(6 / 9, abs=1e-4)


def test_a_pair_without_scores_or_with_infinite_ones_has_none(tmp_path):
    _, data = write(tmp_path, [pair(), pair(score_chosen=float("inf"), score_rejected=1.0)])
    assert ["scores" in card for card in data["cards"]] == [False, False]


def test_a_demonstration_has_one_answer(tmp_path):
    _, data = write(tmp_path, [pair(rejected=None)])
    assert "rejected" not in data["cards"][0]


def test_images_are_made_small_and_stand_once(tmp_path):
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 255, (400, 800, 3), dtype=np.uint8)).save(tmp_path / "a.png")
    refs = (ImageRef(path="a.png"),)
    _, data = write(tmp_path, [pair(images=refs), pair(1, images=refs)], images=ImageLoader(tmp_path))
    assert len(data["images"]) == 1
    found = data["images"][0]
    assert (found["width"], found["height"], found["tiny"]) == (800, 400, False)
    kind, _, encoded = found["src"].partition(";base64,")
    assert kind == "data:image/jpeg"
    assert Image.open(io.BytesIO(base64.b64decode(encoded))).size == (THUMBNAIL_SIDE, THUMBNAIL_SIDE // 2)


def test_a_tiny_image_keeps_its_pixels(tmp_path):
    tiny = Image.fromarray(np.random.default_rng(0).integers(0, 255, (24, 24, 3), dtype=np.uint8))
    tiny.save(tmp_path / "a.png")
    _, data = write(tmp_path, [pair(images=(ImageRef(path="a.png"),))], images=ImageLoader(tmp_path))
    found = data["images"][0]
    assert found["tiny"] is True
    shown = Image.open(io.BytesIO(base64.b64decode(found["src"].partition(",")[2])))
    assert np.array_equal(np.asarray(shown.convert("RGB")), np.asarray(tiny))


def test_a_image_that_cannot_be_opened_says_why(tmp_path):
    refs = (ImageRef(path="gone.png"), ImageRef(data=b"not an image"))
    _, data = write(tmp_path, [pair(images=refs)], images=ImageLoader(tmp_path))
    assert [found["reason"] for found in data["images"]] == ["image_missing", "image_decode"]
    assert all("src" not in found for found in data["images"])


def test_without_a_loader_no_image_is_opened(tmp_path):
    _, data = write(tmp_path, [pair(images=(ImageRef(path="/etc/hostname"),))])
    assert data["images"] == [{"name": "/etc/hostname", "why": "images were not opened"}]


def test_the_images_of_the_rejected_side_are_shown_there(tmp_path):
    shown = pair(images=(ImageRef(data=b"a"),), rejected_images=(ImageRef(data=b"b"),))
    _, data = write(tmp_path, [shown])
    assert (data["cards"][0]["images"], data["cards"][0]["rejectedImages"]) == ([0], [1])


def test_what_is_said_to_the_loss_is_shown(tmp_path):
    shown = pair(
        images=(ImageRef(data=b"a"),),
        other_images=(ImageRef(data=b"b"),),
        weight=0.5,
        chosen="a red cup",
        chosen_weight=(WeightSpan(2, 5, 4.0), WeightSpan(6, 9, 0.0)),
    )
    single = pair(1, rejected=None, label=False)
    many = pair(2, chosen="abcdefgh", chosen_weight=tuple(WeightSpan(n, n + 1, 2.0) for n in range(7)))
    halved = pair(3, rejected_weight=0.5)
    page, data = write(tmp_path, [shown, single, many, halved, pair(4)])
    first, second, third, fourth, plain = data["cards"]
    assert (first["otherImages"], first["weight"]) == ([1], 0.5)
    assert first["answerWeights"] == ["'red' counts 4, 'cup' counts 0", None]
    assert (second["label"], "rejected" in second) == (False, False)
    assert third["answerWeights"][0].endswith("'e' counts 2, 2 more")
    assert fourth["answerWeights"] == [None, "tokens count 0.5"]
    assert not {"otherImages", "weight", "label", "answerWeights"} & plain.keys()
    for key in ("otherImages", "weight", "label", "answerWeights"):
        assert f"card.{key}" in page


def test_too_many_pairs_are_thinned_evenly_and_counted(tmp_path):
    _, data = write(tmp_path, [pair(number) for number in range(10)], limit=5)
    assert [card["id"] for card in data["cards"]] == ["p0", "p2", "p4", "p6", "p8"]
    assert data["numPairs"] == 10


def test_quarantined_rows_come_with_reason_and_place(tmp_path):
    row = QuarantinedRow(source="s", file="data/x.jsonl", row=7, id=None, reason="json", detail="broken")
    _, data = write(tmp_path, [], [row])
    card = data["cards"][0]
    assert (card["kind"], card["place"], card["reason"], card["detail"]) == (
        "quarantined", "data/x.jsonl, row 7", "json", "broken",
    )  # fmt: skip
    assert data["numQuarantined"] == 1


def test_a_very_long_answer_is_cut_and_says_so(tmp_path):
    _, data = write(tmp_path, [pair(chosen="word " * 50_000, rejected="word")])
    shown = "".join(text for _, text in data["cards"][0]["chosen"])
    assert len(shown) < 21_000
    assert "more characters" in shown
    assert data["cards"][0]["words"] == [50_000, 1]


def test_a_page_of_nothing_can_be_written(tmp_path):
    _, data = write(tmp_path, [])
    assert data["cards"] == []


def test_a_limit_below_one_is_refused(tmp_path):
    with pytest.raises(ValueError, match="limit"):
        write(tmp_path, [pair()], limit=0)
