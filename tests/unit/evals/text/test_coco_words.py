"""mmpref's own words for COCO's categories: CHAIR without a list of anybody else."""

import json

import pytest

from mmpref.cli.main import main
from mmpref.errors import ConfigError
from mmpref.evals import score, score_beside
from mmpref.evals.text.objects import extract_mmpref
from mmpref.evals.text.vocabulary import _OWN_FILE, OWN_LIST, Vocabulary

COCO = {
    "images": [{"id": 7, "file_name": "COCO_val2014_000000000007.jpg"}, {"id": 8}],
    "categories": [{"id": 1, "name": "dog"}, {"id": 2, "name": "person"}, {"id": 3, "name": "motorcycle"}],
    "annotations": [{"image_id": 7, "category_id": n} for n in (1, 2)] + [{"image_id": 8, "category_id": 3}],
}
CAPTIONS = [
    {"image_id": 7, "caption": "Two women walk their puppies past a fridge."},
    {"image_id": 8, "caption": "A motor bike."},
]


def test_chair_works_with_annotations_alone(tmp_path, capsys):
    for name, content in (("coco.json", COCO), ("captions.json", CAPTIONS)):
        (tmp_path / name).write_text(json.dumps(content), encoding="utf-8")
    command = ["score", "--benchmark", "chair", "--questions", str(tmp_path / "coco.json")]
    command += ["--answers", str(tmp_path / "captions.json"), "--out", str(tmp_path / "results.json")]
    assert main(command) == 0
    found = json.loads((tmp_path / "results.json").read_text(encoding="utf-8"))
    assert found["metrics"] == pytest.approx({"chair_s": 1 / 2, "chair_i": 1 / 4, "recall": 1, "mean_length": 5.5})
    assert OWN_LIST in found["notes"]
    assert found["protocols"] == {}  # no official number without the authors' list
    assert "answers read as CHAIR's captions" in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize("protocol", ["official", "lmms_eval"])
def test_a_protocol_of_the_authors_needs_the_authors_list(protocol):
    for truth in (COCO, {"7": ["dog"], "8": []}):
        with pytest.raises(ConfigError, match=f"protocol '{protocol}' of chair is made with its authors' synonyms"):
            score("chair", truth, CAPTIONS, protocol)
        with pytest.raises(ConfigError, match="authors' synonyms"):
            score("chair", truth, CAPTIONS, protocol, synonyms="coco")
    assert score_beside("chair", COCO, CAPTIONS, synonyms="coco", resamples=10)[1] == {}
    found, beside = score_beside("chair", COCO, CAPTIONS, synonyms=["dog, puppy", "person, woman"], resamples=10)
    assert list(beside) == ["official"]
    assert OWN_LIST not in found.notes


def test_the_official_protocol_of_object_halbench_needs_it_too():
    items = [{"image_id": 7, "question": "What?"}, {"image_id": 8, "question": "What?"}]
    with pytest.raises(ConfigError, match=r"pass synonyms=PATH, the list synonyms_refine\.txt of RLHF-V"):
        score("object_halbench", items, CAPTIONS, "official", truth=COCO)
    found = score("object_halbench", items, CAPTIONS, truth=COCO, resamples=10)
    assert OWN_LIST in found.notes
    assert found.metrics["chair_i"] == pytest.approx(1 / 4)


def test_a_list_can_be_named():
    """Objects of one's own are looked for by their names; COCO's words are there for the asking."""
    truth = {"7": ["dog"], "8": []}
    assert score("chair", truth, CAPTIONS, resamples=10).metrics["chair_i"] is None  # nobody says "dog"
    own = score("chair", truth, CAPTIONS, resamples=10, synonyms="coco")
    assert own.metrics["chair_i"] == pytest.approx(3 / 4)
    assert "only the object names" in score("chair", COCO, CAPTIONS, resamples=10, synonyms="names").notes[0]


def test_the_list_names_every_category_once_and_no_word_twice():
    lines = [line for line in _OWN_FILE.read_text(encoding="utf-8").splitlines() if not line.startswith("#")]
    words = [word for line in lines for word in line.split(", ")]
    assert len(lines) == 80
    assert len(words) == len(set(words))
    assert all(word == word.strip().lower() for word in words)


@pytest.mark.parametrize(
    ("text", "objects"),
    [
        ("A glass of wine by the wine glasses", ["wine glass", "wine glass"]),
        ("a couple of people playing baseball with bats and gloves", ["person", "baseball bat", "baseball glove"]),
        ("an iPhone, two TVs and a MacBook", ["cell phone", "tv", "laptop"]),
        ("doughnuts, a hot dog, cupcakes", ["donut", "hot dog", "cake"]),
        ("a toilet seat near the double-decker bus", ["toilet", "bus"]),
    ],
)
def test_words_of_descriptions_are_found(text, objects):
    extract = extract_mmpref(Vocabulary.read(_OWN_FILE))
    assert [mention.object for mention in extract(text)] == objects


def test_the_own_list_finds_what_the_authors_list_finds(bench_data):
    """On 500 published captions: of the objects of a caption, 98 % of ours are theirs and 99 % of theirs ours."""
    files = sorted((bench_data / "chair" / "pope_captions").glob("*.jsonl"))
    captions = [json.loads(line)["caption"] for file in files for line in file.read_text().splitlines()[:50]]
    extract = [extract_mmpref(Vocabulary.read(source)) for source in (_OWN_FILE, bench_data / "chair/synonyms.txt")]
    ours, theirs = [
        {(n, mention.object) for n, caption in enumerate(captions) for mention in find(caption)} for find in extract
    ]
    assert len(ours & theirs) / len(ours) > 0.96
    assert len(ours & theirs) / len(theirs) > 0.97


def test_the_ground_truth_of_the_public_file_is_known_as_cocos(bench_data):
    folder = bench_data / "chair"
    answers = [json.loads(line) for line in (folder / "pope_captions/pope_I2_llava.jsonl").read_text().splitlines()]
    found = score("chair", folder / "coco_chair_gt_subset.json", answers[:400], resamples=10)
    listed = score(
        "chair", folder / "coco_chair_gt_subset.json", answers[:400], resamples=10, synonyms=folder / "synonyms.txt"
    )
    assert OWN_LIST in found.notes
    assert found.metrics["chair_s"] == pytest.approx(listed.metrics["chair_s"], abs=0.03)
    assert found.metrics["chair_i"] == pytest.approx(listed.metrics["chair_i"], abs=0.02)
