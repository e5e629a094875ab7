"""Answer files as public scripts write them: which question a row answers, by which key, and when that is refused."""

import json
import random

import pandas as pd
import pytest

from mmpref.cli.main import main
from mmpref.errors import DataError
from mmpref.evals import export_answers, load_samples, score
from mmpref.evals.files.image_names import ImageIndex
from mmpref.evals.files.matching import match
from mmpref.evals.files.rows import answer_text
from mmpref.records import EvalSample, user_turn

TRUTH = {"0": ["cat"], "2239": ["dog"], "42": ["bus"]}
SUFFIX = "\nAnswer the question using a single word or phrase."


def lines(file, rows):
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return file


def chair(rows, truth=TRUTH, **options):
    return score("chair", truth, rows, resamples=10, **options)


# --- CHAIR: the image is the question ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "names",
    [
        {"image_id": 2239},
        {"image_id": "2239"},
        {"image_id": 2239.0},
        {"image_id": "COCO_val2014_000000002239.jpg"},
        {"image_id": "000000002239.jpg"},
        {"image": "val2014/COCO_val2014_000000002239.jpg"},
        {"image": "C:\\coco\\val2014\\COCO_val2014_000000002239.PNG"},
        {"image_path": "/data/COCO_train2014_000000002239.png"},
        {"file_name": "000000002239.jpg"},
        {"images": ["000000002239.jpg"]},
        {"images": [{"bytes": None, "path": "x/000000002239.jpg"}]},
        {"id": 2239},
        {"question_id": 2239},
        {"question_id": 0, "image_id": 2239},
        {"id": 0, "image_id": 2239},
        {"question_id": 0, "image": "COCO_val2014_000000002239.jpg"},
        {"idx": 0, "image_id": "000000002239.jpg", "answer_id": "x", "model_id": "m"},
        {"index": 42, "image": "000000002239.jpg"},
    ],
)
@pytest.mark.parametrize("key", ["caption", "text", "answer", "output", "response", "prediction"])
def test_a_caption_finds_its_image_under_every_name(names, key):
    found = chair([{**names, "prompt": "Describe it.", key: "A dog."}])
    assert [item["id"] for item in found.items] == ["2239"]
    assert found.metrics["chair_s"] == 0


def test_a_running_number_that_is_an_image_by_chance_is_not_taken():
    """A8: LLaVA's rows of captions have the number of the question and the image."""
    rows = [{"question_id": n, "image_id": name, "text": text}
            for n, (name, text) in enumerate([(2239, "A dog."), (0, "A cat."), (42, "A bus.")])]  # fmt: skip
    found = chair(rows)
    assert (found.metrics["chair_s"], found.metrics["recall"]) == (0, 1)
    assert "matched by image_id" in found.read_as


@pytest.mark.parametrize(
    "row",
    [
        {"image_id": 2239, "image": "COCO_val2014_000000000042.jpg", "text": "A dog."},
        {"image": "000000002239.jpg", "file_name": "000000000042.jpg", "text": "A dog."},
    ],
)
def test_two_images_in_one_row_are_refused(row):
    with pytest.raises(DataError, match="name two different questions"):
        chair([row])


def test_ids_that_are_no_count_contradict():
    rows = [{"id": 2239, "image_id": 42, "text": "a"}, {"id": 42, "image_id": 2239, "text": "a"}]
    with pytest.raises(DataError, match="image_id '42' and id '2239' name two different questions"):
        chair(rows)


def test_an_image_that_is_not_annotated_is_not_replaced_by_another_number():
    with pytest.raises(DataError, match="an id that no question has: '777'"):
        chair([{"image_id": 777, "question_id": 42, "text": "A bus."}])


def test_two_images_of_one_number_are_told_apart_or_nobody():
    index = ImageIndex([("COCO_val2014_000000000007.jpg", "a"), ("COCO_train2014_000000000007.jpg", "b")])
    assert index.find("train2014/COCO_train2014_000000000007.jpg") == "b"
    assert index.find("7") is None


def test_the_question_file_of_captions_gives_the_images_of_bare_numbers(tmp_path):
    """Rows of LLaVA's own script have no image, but its question file does."""
    prompts = [{"question_id": n, "image": f"{name:012d}.jpg", "text": "Describe.", "category": "detail"}
               for n, name in enumerate([2239, 0, 42])]  # fmt: skip
    rows = [{"question_id": n, "prompt": "Describe.", "text": text, "model_id": "m"}
            for n, text in enumerate(["A dog.", "A cat.", "A bus."])]  # fmt: skip
    found = chair(rows, prompts=lines(tmp_path / "q.jsonl", prompts))
    assert (found.metrics["chair_s"], found.metrics["recall"]) == (0, 1)


def test_results_of_the_scripts_are_read_as_captions(tmp_path):
    rows = [{"image_id": 2239, "caption": "A dog.", "metrics": {"CHAIRs": 0}}]
    for name, content in (
        ("maxlinn", {"sentences": rows, "overall_metrics": {}}),
        ("lisaanne", {"overall": {}, "imgToEval": {"2239": rows[0]}}),
        ("object", {"COCO_val2014_000000002239.jpg": "A dog."}),
    ):
        (tmp_path / name).write_text(json.dumps(content), encoding="utf-8")
        assert chair(tmp_path / name).metrics["chair_s"] == 0


# --- which key is the answer ------------------------------------------------------------------------------------------


def test_the_question_is_no_answer():
    row = {"question_id": 1, "image": "1.jpg", "text": "Is there a dog in the image?", "answer": "No"}
    question = {"question_id": 1, "image": "1.jpg", "text": "Is there a dog in the image?", "label": "no"}
    assert score("pope", [question], [row]).metrics["accuracy"] == 1


def test_two_different_answers_in_one_row_are_refused():
    with pytest.raises(DataError, match="text 'Yes' and response 'No' are two different answers"):
        answer_text({"text": "Yes", "response": "No"}, "row 1")
    assert answer_text({"text": "Yes", "response": "Yes", "answer": "No"}, "row 1") == "Yes"


# --- POPE -------------------------------------------------------------------------------------------------------------

_THINGS = {"random": "car", "popular": "chair", "adversarial": "backpack"}


def pope_rows(split, n=6):
    """Half of the questions are the same in all splits, as POPE's are."""
    return [
        {
            "question_id": k,
            "image": f"COCO_val2014_{k // 2:012d}.jpg",
            "text": f"Is there a {_THINGS[split] if k % 2 else 'dog'} in the image?",
            "label": "no" if k % 2 else "yes",
        }
        for k in range(1, n + 1)
    ]


@pytest.fixture
def pope(tmp_path):
    folder = tmp_path / "coco"
    folder.mkdir()
    for split in _THINGS:
        lines(folder / f"coco_pope_{split}.json", pope_rows(split))
    return folder


def llava(*, order=("adversarial", "random", "popular")):
    return [
        {
            "question_id": row["question_id"] + 10_000_000 * ("adversarial", "random", "popular").index(split),
            "prompt": row["text"] + SUFFIX,
            "text": row["label"].capitalize(),
            "answer_id": "x",
            "model_id": "llava",
            "metadata": {},
        }
        for split in order
        for row in pope_rows(split)
    ]


def test_llavas_answers_to_all_splits(pope, tmp_path, capsys):
    rows = random.Random(0).sample(llava(), 18)
    file = lines(tmp_path / "llava.jsonl", rows)
    found = score("pope", pope, file, resamples=10)
    assert (found.n, [found.metrics[f"{split}/accuracy"] for split in _THINGS]) == (18, [1, 1, 1])
    for split in _THINGS:
        command = ["score", "--benchmark", "pope", "--questions", str(pope / f"coco_pope_{split}.json")]
        assert main([*command, "--answers", str(file)]) == 0
        printed = " ".join(capsys.readouterr().out.split())
        assert "answers read as LLaVA's answers to its file of all splits" in printed
        assert "12 answers to other splits are left out" in printed
        assert "mmpref 0" in printed


def test_llavas_answers_to_another_revision_are_refused(pope):
    rows = llava()
    for row in rows[9:12]:
        row["prompt"] = "Is there a yak in the image?"
    with pytest.raises(DataError, match="3 of 18 rows show another question"):
        score("pope", pope, rows)
    with pytest.raises(DataError, match="none of its splits has just these 6 questions"):
        score("pope", pope / "coco_pope_random.json", rows)


def test_order_is_checked_by_what_the_rows_show(pope):
    """A9: our order of the splits is not LLaVA's."""
    with pytest.raises(DataError, match=r"splits in the order adversarial, random, popular: leave `pairing=order` out"):
        score("pope", pope, llava(), "official", pairing="order")
    ours = llava(order=("random", "popular", "adversarial"))
    assert score("pope", pope, ours, "official", pairing="order").metrics["accuracy"] == 1
    bare = [{"answer": row["text"]} for row in ours]
    assert score("pope", pope, bare, "official", pairing="order").metrics["accuracy"] == 1
    for key, value in (("image", "COCO_val2014_000000000003.jpg"), ("category", "popular")):
        odd = [{**row, "prompt": "Yes or no?"} for row in ours]
        odd[0][key] = value
        with pytest.raises(DataError, match="1 of 18 rows show another question"):
            score("pope", pope, odd, "official", pairing="order")


def test_a_row_of_another_split_or_image_is_refused_by_id_too(pope):
    questions = {split: pope_rows(split) for split in _THINGS}
    for key, value in (("image", "COCO_val2014_000000000003.jpg"), ("category", "popular")):
        rows = {split: [{"id": row["question_id"], "text": "yes"} for row in part] for split, part in questions.items()}
        rows["random"][0][key] = value
        with pytest.raises(DataError, match=r"row 1 \(id 'random/1'\) (has the image|is of the category)"):
            score("pope", questions, rows)


@pytest.mark.parametrize("order", [("random", "popular", "adversarial"), ("adversarial", "random", "popular")])
def test_llama_factory_has_no_ids_and_its_order_is_checked(pope, tmp_path, order):
    rows = [
        {"prompt": f"USER: <image>\n{row['text']} ASSISTANT:", "predict": row["label"], "label": row["label"]}
        for split in order
        for row in pope_rows(split)
    ]
    file = lines(tmp_path / "generated_predictions.jsonl", rows)
    found = score("pope", pope, file, resamples=10)
    assert [found.metrics[f"{split}/accuracy"] for split in _THINGS] == [1, 1, 1]
    assert "LLaMA-Factory's generated predictions" in found.read_as
    assert "taken in their order" in found.notes[0]
    for broken in ([*rows[1:], rows[0]], rows[:-1], [{**rows[0], "label": "yes"}, *rows[1:]]):
        with pytest.raises(DataError, match="rows without id and image are taken in the order of the questions"):
            score("pope", pope, broken)


def test_rows_of_ms_swift_are_found_by_message_and_image(pope):
    rows = [
        {
            "response": row["label"],
            "labels": row["label"],
            "messages": [{"role": "user", "content": f"<image>{row['text']}"}, {"role": "assistant", "content": "x"}],
            "images": [{"bytes": None, "path": f"/data/{row['image']}"}],
        }
        for row in pope_rows("random")
    ]
    random.Random(1).shuffle(rows)
    found = score("pope", pope / "coco_pope_random.json", rows, resamples=10)
    assert found.metrics["accuracy"] == 1
    assert found.read_as == "ms-swift's inference results, text under 'response', matched by question and image"


def test_rows_of_question_and_answer_are_taken_in_order(pope):
    rows = [{"question": row["text"], "answer": row["label"]} for row in pope_rows("random")]
    assert score("pope", pope / "coco_pope_random.json", rows).metrics["accuracy"] == 1


@pytest.mark.parametrize("end", ["json", "jsonl", "tsv", "xlsx"])
def test_rows_of_vlmevalkit_in_every_format_that_it_writes(pope, tmp_path, end):
    rows = [
        {
            "index": number,
            "category": "random",
            "question": row["text"],
            "answer": row["label"].capitalize(),
            "image_path": row["image"],
            "prediction": row["label"],
        }
        for number, row in enumerate(pope_rows("random"), 100)
    ]
    random.Random(3).shuffle(rows)
    file = tmp_path / f"m_POPE.{end}"
    if end in ("tsv", "xlsx"):
        pd.DataFrame(rows).to_csv(file, sep="\t", index=False) if end == "tsv" else pd.DataFrame(rows).to_excel(
            file, index=False
        )
    elif end == "json":
        file.write_text(json.dumps(rows, indent=4), encoding="utf-8")
    else:
        lines(file, rows)
    found = score("pope", pope / "coco_pope_random.json", file, resamples=10)
    assert (found.metrics["accuracy"], found.read_as.split(",")[0]) == (1, "VLMEvalKit's table")


def test_rows_of_ha_dpo_have_the_number_and_the_question(pope):
    rows = [{"question_id": r["question_id"], "question": r["text"], "answer": r["label"]} for r in pope_rows("random")]
    random.Random(4).shuffle(rows)
    assert score("pope", pope / "coco_pope_random.json", rows, resamples=10).metrics["accuracy"] == 1


# --- MME --------------------------------------------------------------------------------------------------------------


def mme_questions():
    rows = []
    for category, image in (("code_reasoning", "0020.png"), ("code_reasoning", "0007.png"), ("artwork", "14777.jpg")):
        for label in ("Yes", "No"):
            question = f"Is a {'python' if label == 'Yes' else 'c++'} code shown in the image?"
            told = {"category": category, "image": image, "answer": label}
            rows.append({**told, "question": f"{question} Please answer yes or no."})
    return rows


def mme_answers():
    """As ``model_vqa_loader`` answers ``llava_mme.jsonl``: two rows of one question_id."""
    return [
        {
            "question_id": f"{row['category']}/{'images/' if row['category'] == 'artwork' else ''}{row['image']}",
            "prompt": row["question"].replace(" Please answer yes or no.", SUFFIX),
            "text": row["answer"],
            "model_id": "llava",
        }
        for row in mme_questions()
    ]


def test_llavas_answers_to_mme():
    rows = random.Random(2).sample(mme_answers(), 6)
    found = score("mme", mme_questions(), rows, resamples=10)
    assert (found.metrics["code_reasoning"], found.metrics["artwork"]) == (200, 200)
    assert "matched by question and image" in found.read_as


def test_llavas_folder_for_mme_calls_images_by_their_text_files(tmp_path):
    for row in mme_questions():
        with (tmp_path / f"{row['category']}.txt").open("a", encoding="utf-8") as stream:
            cells = (row["image"].split(".")[0] + ".txt", row["question"], row["answer"], row["answer"])
            stream.write("\t".join(cells) + "\n")
    found = score("mme", mme_questions(), tmp_path, resamples=10)
    assert (found.metrics["code_reasoning"], found.metrics["artwork"]) == (200, 200)


def test_the_questions_of_mmes_release_are_read_from_its_folders(tmp_path):
    for row in mme_questions():
        folder = tmp_path / row["category"] / ("questions_answers_YN" if row["category"] == "artwork" else ".")
        folder.mkdir(parents=True, exist_ok=True)
        (folder / row["image"]).with_suffix(".txt").open("a").write(f"{row['question']}\t{row['answer']}\n")
        images = tmp_path / row["category"] / ("images" if row["category"] == "artwork" else ".")
        images.mkdir(parents=True, exist_ok=True)
        (images / row["image"]).touch()
    paths = {sample.images[0].path for sample in load_samples("mme", tmp_path)}
    assert paths == {"code_reasoning/0020.png", "code_reasoning/0007.png", "artwork/images/14777.jpg"}
    assert score("mme", tmp_path, mme_answers(), resamples=10).metrics["artwork"] == 200


# --- others -----------------------------------------------------------------------------------------------------------


def test_answers_to_object_halbench_have_a_number_and_an_image():
    items = [{"image_id": n, "question": "What is it?", "objects": ["dog"]} for n in (2, 0, 1)]
    rows = [{"question_id": k, "image_id": item["image_id"], "prompt": "What is it?", "text": text, "model_id": "m"}
            for k, (item, text) in enumerate(zip(items, ["A dog.", "a", "b"], strict=True))]  # fmt: skip
    random.Random(0).shuffle(rows)
    found = score("object_halbench", items, rows, resamples=10)
    assert {item["id"]: item["text"] for item in found.items} == {"2": "A dog.", "0": "a", "1": "b"}


def test_the_image_of_a_row_must_be_the_questions():
    samples = [
        EvalSample(id=str(n), images=(), prompt=user_turn("Describe.", num_images=0), meta={"image": f"AMBER_{n}.jpg"})
        for n in (1, 2, 3)
    ]
    rows = [{"id": n, "image": f"AMBER_{n}.jpg", "response": "x"} for n in (1, 2, 3)]
    assert [answer.id for answer in match(rows, samples, "a").answers] == ["1", "2", "3"]
    rows[1]["image"] = "AMBER_3.jpg"
    with pytest.raises(DataError, match=r"row 2 \(id '2'\) has the image 'AMBER_3.jpg' where 'AMBER_2.jpg'"):
        match(rows, samples, "a")


@pytest.mark.parametrize("to", ["jsonl", "llava", "lmms_eval", "official"])
def test_captions_come_back_from_every_layout(tmp_path, to):
    answers = [{"image_id": 2239, "caption": "A dog."}, {"image_id": 0, "caption": "A cat."}]
    export_answers("chair", TRUTH, answers, to, tmp_path / "there.json")
    assert chair(tmp_path / "there.json") == chair(answers)
