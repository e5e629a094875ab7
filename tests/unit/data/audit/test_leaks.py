"""A benchmark's image is found by number, by name and by look, and nothing else is taken for one."""

from __future__ import annotations

import io
import json

import numpy as np
import pytest
from PIL import Image, ImageEnhance

from mmpref.data.audit import AuditSettings, audit
from mmpref.data.audit.leaks import (
    MAX_BITS,
    LeakFinder,
    coco_ids,
    coco_ids_in,
    read_benchmark_ids,
    read_visual_genome,
)
from mmpref.data.images.derived import fingerprint
from mmpref.data.images.loader import ImageLoader
from mmpref.errors import DataError
from mmpref.records import ImageRef, PreferencePair, user_turn


def pair(*images: str | bytes, name: str = "p", **changes) -> PreferencePair:
    refs = tuple(ImageRef(data=item) if isinstance(item, bytes) else ImageRef(path=item) for item in images)
    given = {"id": name, "images": refs, "prompt": user_turn("What?", num_images=len(refs))}
    return PreferencePair(**{**given, "chosen": "a cat", "rejected": "a dog", **changes})


def scene(seed: int, size: tuple[int, int] = (320, 240)) -> Image.Image:
    """A smooth image with shapes, like a photograph in what a fingerprint sees."""
    coarse = np.random.default_rng(seed).integers(0, 255, (7, 9, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC)


def encoded(image: Image.Image, kind: str = "JPEG", **options) -> bytes:
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


# --- numbers ---------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("COCO_val2014_000000310196.jpg", {310196}),
        ("coco/train2014/COCO_train2014_000000000009.jpg", {9}),
        ("coco/train2017/000000033471.jpg", {33471}),
        ("000000033471.jpg.png", {33471}),
        ("llava_000000033471.png", {33471}),
        ("coco_val2014_000000310196", {310196}),
        ("VG_100K/2370799.jpg", set()),
        ("GCC_train_002582585.jpg", set()),
        ("sa_545504.jpg", set()),
        ("000453/004539375.jpg", set()),
        ("123000000033471.jpg", set()),
        ("000000033471999.jpg", set()),
        ("hash_a000000033471b.jpg", set()),
        ("x" * 5000 + "/000000033471.jpg", set()),
    ],
)
def test_ids_are_read_from_file_names(name, found):
    assert coco_ids_in(name) == found


@pytest.mark.parametrize(
    "meta",
    [
        {"coco_id": 1171},
        {"cocoid": "1171"},
        {"COCO_ID": 1171.0},
        {"image": {"info": {"coco_id": 1171}}},
        {"rows": [{"coco_id": 1171}]},
        {"image_path": "coco/val2014/COCO_val2014_000000001171.jpg"},
        {"origin_split": '{"file": "000000001171.jpg"}', "file_name": "000000001171.jpg"},
    ],
)
def test_ids_are_read_from_meta(meta):
    assert coco_ids(pair(b"x", meta=meta)) == {1171: "coco_id"}


@pytest.mark.parametrize(
    "meta", [{"coco_id": None}, {"coco_id": True}, {"image_id": 1171}, {"coco_id": 1.5}, {"id": 1171}]
)
def test_other_numbers_are_not_ids(meta):
    assert coco_ids(pair("a.jpg", meta=meta)) == {}


def test_the_images_of_the_rejected_side_count():
    shown = pair("a.jpg", rejected_images=(ImageRef(path="000000001171.jpg"),))
    assert set(coco_ids(shown)) == {1171}


def test_images_that_a_loss_compares_with_count():
    shown = pair("a.jpg", other_images=(ImageRef(path="000000001171.jpg"),))
    assert set(coco_ids(shown)) == {1171}


def test_meta_without_end_does_not_hang():
    meta: dict = {}
    meta["self"] = meta
    assert coco_ids(pair(meta=meta)) == {}


@pytest.mark.parametrize("path", ["VG_100K/2370799.jpg", "vg/VG_100K_2/2370799.jpg", "gqa/images/2370799.jpg"])
def test_visual_genome_images_are_looked_up(path):
    assert coco_ids(pair(path), visual_genome={2370799: 1171}) == {1171: "visual_genome"}
    assert coco_ids(pair(path), visual_genome={5: 1171}) == {}


# --- benchmark files -------------------------------------------------------------------------------------------------
def saved(tmp_path, content: str):
    path = tmp_path / "questions.json"
    path.write_text(content, encoding="utf-8")
    return path


@pytest.mark.parametrize(
    "content",
    [
        '{"question_id": 1, "image": "COCO_val2014_000000001171.jpg"}\n\n{"image": "COCO_val2014_000000000569.jpg"}\n',
        '[{"image": "COCO_val2014_000000001171.jpg"}, {"image": "000000000569.jpg"}]',
        '{"image_id": 1171, "caption": "one cat"}\n{"image_id": "569", "caption": "two"}',
        '{"569": ["kite"], "1171": ["bed"]}',
        '{"images": [{"file_name": "COCO_val2014_000000001171.jpg", "id": 1171}, {"coco_id": 569}], "annotations": []}',
        "[1171, 569]",
        "1171\n569\n",
        '\ufeff[{"image_path": "COCO_val2014_000000001171.jpg", "image": "aGVsbG8="}, {"image_id": 569}]',
    ],
)
def test_ids_of_every_usual_form_of_question_file(tmp_path, content):
    assert read_benchmark_ids(saved(tmp_path, content)) == {569, 1171}


def test_other_peoples_image_numbers_are_not_taken(tmp_path):
    path = saved(tmp_path, json.dumps([{"image": "2405722.jpg", "image_id": 2405722, "question_id": 1}]))
    with pytest.raises(DataError, match="names no COCO image"):
        read_benchmark_ids(path)


def test_a_question_file_that_is_not_json_is_refused_with_its_line(tmp_path):
    with pytest.raises(DataError, match=r"questions\.json, line 2 is not JSON that can be read"):
        read_benchmark_ids(saved(tmp_path, '{"image": "a"}\nnot json\n'))


def test_a_missing_question_file_is_named(tmp_path):
    with pytest.raises(DataError, match=r"gone\.json does not exist; check the path"):
        read_benchmark_ids(tmp_path / "gone.json")


def test_visual_genomes_table_is_read(tmp_path):
    rows = [{"image_id": 1, "coco_id": 1171}, {"id": 2, "coco_id": 569}, {"image_id": 3, "coco_id": None}]
    assert read_visual_genome(saved(tmp_path, json.dumps(rows))) == {1: 1171, 2: 569}
    with pytest.raises(DataError, match="image_data"):
        read_visual_genome(saved(tmp_path, "[]"))


# --- the look of an image -------------------------------------------------------------------------------------------
def apart(first: Image.Image, second: Image.Image) -> int:
    left, right = fingerprint(first), fingerprint(second)
    assert left is not None
    assert right is not None
    return (left ^ right).bit_count()


@pytest.mark.parametrize("seed", range(5))
def test_a_fingerprint_survives_rescaling_recompression_and_brightness(seed):
    image = scene(seed)
    again = Image.open(io.BytesIO(encoded(image.resize((200, 150)), quality=40))).convert("RGB")
    assert apart(image, again) <= MAX_BITS
    assert apart(image, ImageEnhance.Brightness(image).enhance(0.8)) <= MAX_BITS


def test_different_images_are_far_apart():
    images = [scene(seed) for seed in range(40)]
    distances = [apart(left, right) for place, left in enumerate(images) for right in images[:place]]
    assert min(distances) > 2 * MAX_BITS


def test_an_even_image_has_no_fingerprint():
    assert fingerprint(Image.new("RGB", (64, 64), (200, 10, 10))) is None


# --- pairs against benchmarks ----------------------------------------------------------------------------------------
def test_a_pair_is_found_by_id_and_dropped():
    pairs = [pair("COCO_train2014_000000001171.jpg", name="a"), pair("000000000012.jpg", name="b"), pair(name="c")]
    report = audit(pairs, images=None, settings=AuditSettings(benchmark_ids={"POPE": {1171}, "CHAIR": [569, 1171]}))
    assert report.leaks == ("a",)
    assert {(leak.benchmark, leak.how) for leak in report.found_leaks} == {("POPE", "coco_id"), ("CHAIR", "coco_id")}
    assert report.leak_summary.num_with_coco_id == 2
    assert [found.id for found in pairs if found.id not in report.leaks] == ["b", "c"]
    assert any("POPE" in line for line in report.warnings)


def test_a_file_name_of_amber_is_a_leak_even_when_nothing_was_named():
    report = audit([pair("images/AMBER_12.jpg", name="a"), pair("AMBERLEY_12.jpg", name="b")], images=None)
    assert report.leaks == ("a",)


def test_images_are_compared_by_bytes_and_by_look(tmp_path):
    bench, root = tmp_path / "bench", tmp_path / "root"
    bench.mkdir(), root.mkdir()
    for seed in range(3):
        scene(seed).save(bench / f"AMBER_{seed}.jpg", quality=92)
    (bench / "broken.jpg").write_bytes(b"no image")
    (root / "copy.jpg").write_bytes((bench / "AMBER_0.jpg").read_bytes())
    scene(1).resize((160, 120)).save(root / "small.png")
    scene(77).save(root / "other.jpg")
    pairs = [pair("copy.jpg", name="a"), pair("small.png", name="b"), pair("other.jpg", name="c")]
    pairs.append(pair(encoded(scene(2), quality=50), name="d"))
    report = audit(pairs, images=ImageLoader(root), settings=AuditSettings(benchmark_images={"AMBER": bench}))
    assert [(leak.pair_id, leak.how) for leak in report.found_leaks] == [
        ("a", "same_file"), ("b", "looks_alike"), ("d", "looks_alike"),
    ]  # fmt: skip
    assert report.leak_summary.num_unreadable == 1
    assert report.leak_summary.benchmark_images == {"AMBER": 4}
    assert any("could not be opened" in line for line in report.warnings)


def test_ids_in_the_names_of_benchmark_images_count_too(tmp_path):
    scene(0).save(tmp_path / "COCO_val2014_000000001171.jpg")
    finder = LeakFinder(folders={"POPE": tmp_path})
    assert finder.ids == {"POPE": {1171}}


def test_benchmark_images_need_the_pairs_images(tmp_path):
    with pytest.raises(DataError, match="set their root"):
        audit([], images=None, settings=AuditSettings(benchmark_images={"AMBER": tmp_path}))


def test_a_folder_without_images_is_refused(tmp_path):
    with pytest.raises(DataError, match="no image"):
        audit([], images=ImageLoader(tmp_path), settings=AuditSettings(benchmark_images={"AMBER": tmp_path}))


def test_a_split_name_is_a_warning_and_no_leak():
    report = audit([pair("val2014/000000001171.jpg")], images=None)
    assert report.leaks == ()
    assert report.leak_summary.num_val_names == 1
    assert any("name those benchmarks" in line for line in report.warnings)
