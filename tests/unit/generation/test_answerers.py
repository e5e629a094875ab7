"""The in-process answerer with a small untrained model whose weights are widened until its answers differ."""

import json

import pytest

torch = pytest.importorskip("torch")

from mmpref.data.images.loader import ImageLoader  # noqa: E402
from mmpref.demo.tiny_models import build_tiny_llava  # noqa: E402
from mmpref.errors import OutOfMemoryError  # noqa: E402
from mmpref.evals import EvalSettings, evaluate  # noqa: E402
from mmpref.generation import AnswerSettings, ScriptedAnswerer, TransformersAnswerer, in_process  # noqa: E402
from mmpref.models.load import LoadSettings, load  # noqa: E402
from mmpref.records import EvalSample, ImageRef, user_turn  # noqa: E402
from tests.tiny_ropes import write_rope  # noqa: E402

COLOURS = ("red", "green", "blue", "yellow", "grey", "white")
TEXTS = ("is there a cup ?", "what is in the image ?", "is there a red fork and a blue pot ?")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    from PIL import Image

    root = tmp_path_factory.mktemp("answerer")
    build_tiny_llava(root / "model", seed=0)
    for colour in COLOURS:
        Image.new("RGB", (70, 50), colour).save(root / f"{colour}.png")
    return root


@pytest.fixture(scope="module")
def loaded(folder):
    """In float64, so that padding cannot turn a near tie."""
    found = load(folder / "model", LoadSettings(dtype="float32"))
    found.model.double()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in found.model.parameters():
            if parameter.ndim > 1:
                parameter.add_(0.15 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
    return found


@pytest.fixture(scope="module")
def samples():
    return [
        EvalSample(id=f"{colour}/{n}", images=(ImageRef(path=f"{colour}.png"),), prompt=user_turn(text, num_images=1))
        for n, text in enumerate(TEXTS)
        for colour in COLOURS
    ]


def answerer(loaded, folder, **more):
    settings = AnswerSettings(**{"batch_size": 4, "max_new_tokens": 8, **more})
    return TransformersAnswerer(loaded, settings, images_root=folder)


def texts_of(found):
    return {answer.id: answer.text for answer in found}


def test_batches_give_the_answers_of_one_at_a_time_generate(loaded, folder, samples):
    from PIL import Image

    together = texts_of(answerer(loaded, folder).answer(samples))
    processor = loaded.processor
    for sample in samples:
        turns = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": sample.prompt[0].text}]}]
        prompt = processor.apply_chat_template(turns, add_generation_prompt=True)
        image = Image.open(folder / sample.images[0].path).convert("RGB")
        inputs = processor(text=prompt, images=image, return_tensors="pt", add_special_tokens=False)
        out = loaded.model.generate(**inputs, max_new_tokens=8, do_sample=False)
        alone = processor.decode(out[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True).strip()
        assert together[sample.id] == alone
    assert len(set(together.values())) > 3  # the test would be empty if the model always said the same


def test_every_sample_is_answered_once_and_the_same_question_is_asked_once(loaded, folder, samples, monkeypatch):
    asked = []
    found = answerer(loaded, folder)
    generate = found._generate_batch
    monkeypatch.setattr(found, "_generate_batch", lambda prompts: asked.extend(prompts) or generate(prompts))
    twice = [*samples, *(EvalSample(id=f"again/{s.id}", images=s.images, prompt=s.prompt) for s in samples)]
    texts = texts_of(found.answer(twice))
    assert sorted(texts) == sorted(sample.id for sample in twice)
    assert len(asked) == len(samples)
    assert all(texts[f"again/{sample.id}"] == texts[sample.id] for sample in samples)


def test_each_image_is_opened_once(loaded, folder, samples):
    opened = []
    images = ImageLoader(folder)

    def load_image(ref):
        opened.append(ref.path)
        return images.open(ref)

    settings = AnswerSettings(batch_size=4, max_new_tokens=2)
    list(TransformersAnswerer(loaded, settings, load_image=load_image).answer(samples))
    assert sorted(opened) == sorted(f"{colour}.png" for colour in COLOURS)


def test_large_images_make_smaller_windows(loaded, folder, samples, monkeypatch):
    want = texts_of(answerer(loaded, folder).answer(samples))
    monkeypatch.setattr("mmpref.generation.in_process._WINDOW_BYTES", 1)
    found = answerer(loaded, folder)
    assert [len(window) for window in found._windows([[sample] for sample in samples])] == [4, 4, 4, 4, 2]
    assert texts_of(found.answer(samples)) == want


def test_the_first_window_is_one_batch_so_that_the_model_need_not_wait_for_more(loaded, folder, samples):
    found = answerer(loaded, folder, batch_size=1)
    assert [len(window) for window in found._windows([[sample] for sample in samples])] == [1, 2, 4, 8, 3]


def test_questions_about_one_image_share_its_pixels_on_the_device(loaded, folder, samples, monkeypatch):
    copied = []
    to = torch.Tensor.to
    monkeypatch.setattr(torch.Tensor, "to", lambda self, *a, **k: copied.append(self.shape) or to(self, *a, **k))
    found = answerer(loaded, folder, batch_size=6)
    about_red = [sample for sample in samples if sample.images[0].path == "red.png"]
    prompts = [found._encoder.encode_prompt(s.id, s.prompt, s.images, found._load_image) for s in about_red]
    pixels = prompts[0].vision["pixel_values"].shape
    copied.clear()
    on_device = in_process._vision_on(torch.device("cpu"), prompts)
    assert copied.count(pixels) == 1
    for one, other in zip(on_device, prompts, strict=True):
        assert one.vision.keys() == other.vision.keys()
        assert all(torch.equal(one.vision[name], other.vision[name]) for name in other.vision)


def test_a_batch_that_does_not_fit_is_halved(loaded, folder, samples, monkeypatch):
    found = answerer(loaded, folder, batch_size=18)
    want = texts_of(found.answer(samples))
    generate, sizes = found._generate_batch, []

    def small_memory(prompts):
        sizes.append(len(prompts))
        if len(prompts) > 5:
            raise torch.OutOfMemoryError("no memory")
        return generate(prompts)

    monkeypatch.setattr(found, "_generate_batch", small_memory)
    assert texts_of(found.answer(samples)) == want
    assert sizes == [18, 9, 4, 4, 4, 4, 2]


def test_a_single_question_that_does_not_fit_is_our_error(loaded, folder, samples, monkeypatch):
    found = answerer(loaded, folder)

    def no_memory(prompts):
        raise torch.OutOfMemoryError("no memory")

    monkeypatch.setattr(found, "_generate_batch", no_memory)
    with pytest.raises(OutOfMemoryError, match="'red/2' alone"):
        list(found.answer(samples[12:13]))


def test_the_model_is_left_in_its_mode(loaded, folder, samples):
    loaded.model.train()
    try:
        list(answerer(loaded, folder).answer(samples[:1]))
        assert loaded.model.training
    finally:
        loaded.model.eval()


def test_a_model_folder_answers_a_benchmark_and_resumes(folder, tmp_path):
    truth = {colour: {"objects": ["cup"], "image": f"{colour}.png"} for colour in COLOURS}
    ask = {"benchmark": "chair", "questions": truth, "images_root": folder, "out": tmp_path, "prompt": "describe"}
    seen = []

    def die(done, total):
        seen.append(done)
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        evaluate(folder / "model", **ask, settings=EvalSettings(max_new_tokens=4, batch_size=2, progress=die))
    assert evaluate(folder / "model", **ask, settings=EvalSettings(max_new_tokens=4, batch_size=2)).n == len(COLOURS)
    assert len((tmp_path / "answers.jsonl").read_text(encoding="utf-8").splitlines()) == len(COLOURS)
    assert json.loads((tmp_path / "results.json").read_text(encoding="utf-8"))["settings"]["max_new_tokens"] == 4


def test_a_scripted_answerer_takes_a_mapping_or_a_function(samples):
    assert texts_of(ScriptedAnswerer({samples[0].id: "yes"}).answer(samples[:1])) == {samples[0].id: "yes"}
    assert texts_of(ScriptedAnswerer(lambda sample: sample.id).answer(samples[:2])) == {s.id: s.id for s in samples[:2]}


@pytest.mark.parametrize("kind", ["dynamic", "longrope"])
def test_a_long_question_changes_no_answer_beside_it_or_behind_it(kind, tmp_path):
    found = load(write_rope(kind, tmp_path / "model"))
    asked = ("what is it ?" + " a dog" * 30, "is there a cup ?", "describe it ." + " a cat" * 12)
    questions = [EvalSample(id=str(n), images=(), prompt=user_turn(text, num_images=0)) for n, text in enumerate(asked)]
    settings = AnswerSettings(batch_size=3, max_new_tokens=40)
    together = texts_of(TransformersAnswerer(found, settings).answer(questions))
    for question in questions:
        fresh = load(tmp_path / "model")
        assert texts_of(TransformersAnswerer(fresh, settings).answer([question])) == {
            question.id: together[question.id]
        }
