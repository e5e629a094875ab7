"""What every benchmark asks and how, frozen: a change of a prompt or a length changes numbers, so it is seen here."""

import json
from pathlib import Path

import pytest

from mmpref.evals import BENCHMARKS, load_samples

GOLDEN = Path(__file__).parent / "golden" / "asking.json"
PAIR = {
    "id": "1",
    "images": ["a.png"],
    "prompt": [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "What is on the sofa?"}]}],
    "chosen": "A cat.",
    "rejected": "A dog.",
}
HALLUSION = {
    "category": "VS", "subcategory": "chart", "visual_input": "1", "set_id": "0", "figure_id": "1", "question_id": "0",
    "question": "Is it rising?", "gt_answer_details": "It is.", "gt_answer": "1", "filename": "./VS/chart/0_1.png",
}  # fmt: skip


@pytest.fixture
def sources(tmp_path):
    """One question of each benchmark and its options."""
    amber = tmp_path / "amber"
    (amber / "query").mkdir(parents=True)
    (amber / "annotations.json").write_text(
        json.dumps(
            [
                {"id": 1, "type": "generative", "truth": ["cat"], "hallu": ["dog"]},
                {"id": 2, "type": "discriminative-attribute-state", "truth": "yes"},
            ]
        )
    )
    (amber / "query" / "query_all.json").write_text(
        json.dumps(
            [
                {"id": 1, "image": "AMBER_1.jpg", "query": "Describe this image."},
                {"id": 2, "image": "AMBER_1.jpg", "query": "Is the sky sunny in this image?"},
            ]
        )
    )
    (amber / "relation.json").write_text(json.dumps({"cat": ["kitten"]}))
    (amber / "safe_words.txt").write_text("light\n")
    (amber / "metrics.txt").write_text("chair_score=0.001\n")
    mme = [{"category": "OCR", "image": "1.jpg", "question": "Is it A? Please answer yes or no.", "answer": "Yes"}]
    mme.append({**mme[0], "question": "Is it B? Please answer yes or no.", "answer": "No"})
    mmhal = {
        "question_type": "attribute", "question_topic": "outdoor", "image_id": "x", "image_src": "https://h/1_o.jpg",
        "image_content": ["Bench"], "question": "What colour is it?", "gt_answer": "Red.",
    }  # fmt: skip
    natural = [
        {"Index": 0, "Question_0": "Is the cat black?", "Question_1": "Is the cat white?", "Question_Type": "yes_no",
         "Image_0_Question_0": "Yes", "Image_1_Question_0": "No",
         "Image_0_Question_1": "No", "Image_1_Question_1": "Yes"},
        {"Index": 1, "Question_0": "What is it?\nOption: A:cat; B:dog;", "Question_1": "Where?\nOption: A:in; B:out;",
         "Question_Type": "multiple_choice", "Image_0_Question_0": "A", "Image_1_Question_0": "B",
         "Image_0_Question_1": "B", "Image_1_Question_1": "A", "Image_0": "a.jpg", "Image_1": "b.jpg"},
    ]  # fmt: skip
    dash_b = [
        {"question_id": 1, "img_id": "1.png", "object": "dog", "answer": "no"},
        {"question_id": 2, "img_id": "2.png", "object": "dog", "answer": "yes"},
    ]
    crpe = [
        {
            "question_id": n, "image": "a.jpg", "correct_option": "ADCB"[n], "category": "exist",
            "text": "\n".join(["What?", *(f"{a}. {b}" for a, b in zip("ABCD", options, strict=True)), "Say it."]),
        }
        for n, options in enumerate(("wxyz", "xyzw", "yzwx", "zwxy"))
    ]  # fmt: skip
    mmvp = [
        {"Index": n, "Question": "Open?", "Options": "(a) Yes (b) No", "Correct Answer": label}
        for n, label in ((1, "(a)"), (2, "(b)"))
    ]
    finer = [
        {
            "image": "a.jpg", "qtype": f"multi_obj_{kind}", "question": f"Is it {kind}?", "gt_index": 0,
            **{f"choice{n}": f"c{n}" for n in range(1, 6)},
        }
        for kind in ("pos", "neg")
    ]  # fmt: skip
    return {
        "pope": ([{"question_id": 1, "image": "a.jpg", "text": "Is there a dog in the image?", "label": "yes"}], {}),
        "chair": ({"42": ["dog"]}, {}),
        "amber": (amber, {}),
        "hallusionbench": ([HALLUSION, {**HALLUSION, "visual_input": "0", "figure_id": "0", "filename": None}], {}),
        "mme": (mme, {}),
        "mmhal": ([mmhal], {}),
        "object_halbench": ([{"image_id": 42, "question": "Describe it.", "objects": ["dog"]}], {}),
        "repope": ([{"question_id": 1, "image": "a.jpg", "text": "Is there a dog in the image?", "label": "no"}], {}),
        "dash_b": (dash_b, {}),
        "naturalbench": (natural, {}),
        "crpe": (crpe, {}),
        "mmvp": (mmvp, {}),
        "finer": (finer, {}),
        "preference": ([PAIR], {}),
        "win_rate": ([{"instruction": "Say hi.", "output": "hi"}], {}),
    }


def asked(name, source, options):
    benchmark = BENCHMARKS[name]
    return {
        "max_new_tokens": benchmark.max_new_tokens,
        "num_beams": benchmark.num_beams,
        "by_likelihood": benchmark.by_likelihood,
        "questions": [
            {
                "id": sample.id,
                "images": [image.path for image in sample.images],
                "turns": [
                    [turn.role, [part.text or f"<{part.kind}>" for part in turn.parts]] for turn in sample.prompt
                ],
            }
            for sample in load_samples(name, source, **options)
        ],
    }


def test_every_benchmark_asks_what_it_always_asked(sources):
    found = {name: asked(name, *sources[name]) for name in BENCHMARKS if name in sources}
    # to accept a change on purpose: delete the file, run this test once, and read the diff
    if not GOLDEN.exists():
        GOLDEN.parent.mkdir(exist_ok=True)
        GOLDEN.write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        pytest.fail(f"wrote {GOLDEN}; read it and run again")
    assert json.loads(GOLDEN.read_text(encoding="utf-8")) == found


def test_no_benchmark_is_without_a_snapshot(sources):
    assert set(BENCHMARKS) == set(sources)
