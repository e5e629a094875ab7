"""Which model answers: a folder, a base with an adapter, an adapter alone; batches by budget; log-probs of pairs."""

import dataclasses
import json
import shutil

import pytest

torch = pytest.importorskip("torch")

from mmpref.cli.main import main  # noqa: E402
from mmpref.demo.tiny_models import build_tiny_llava  # noqa: E402
from mmpref.errors import ConfigError  # noqa: E402
from mmpref.evals import EvalSettings, evaluate  # noqa: E402
from mmpref.evals.scoring import load_samples  # noqa: E402
from mmpref.generation import AnswerSettings, LikelihoodAnswerer, ServerAnswerer, TransformersAnswerer  # noqa: E402
from mmpref.generation.api_server import Server  # noqa: E402
from mmpref.generation.model_source import ModelSource  # noqa: E402
from mmpref.models import AdapterSettings, Tuning, load, prepare, save_model  # noqa: E402
from mmpref.records import EvalSample, ImageRef, user_turn  # noqa: E402
from tests.tiny_others import write_mllama  # noqa: E402

COLOURS = ("red", "green", "blue", "yellow")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A small model, an adapter on it whose answers differ, and images."""
    from PIL import Image

    root = tmp_path_factory.mktemp("source")
    build_tiny_llava(root / "model", seed=0)
    loaded = prepare(load(root / "model"), Tuning(language="lora"), AdapterSettings(rank=4, alpha=64))
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in loaded.model.named_parameters():
            if "lora_" in name:
                parameter.copy_(0.3 * torch.randn(parameter.shape, generator=generator))
    save_model(loaded.model, root / "model", root / "adapter")
    for colour in COLOURS:
        Image.new("RGB", (70, 50), colour).save(root / f"{colour}.png")
    return root


@pytest.fixture(scope="module")
def samples():
    texts = ("is there a cup ?", "what is in the image ?", "is there a red fork and a blue pot and a green tree ?")
    return [
        EvalSample(id=f"{colour}/{n}", images=(ImageRef(path=f"{colour}.png"),), prompt=user_turn(text, num_images=1))
        for n, text in enumerate(texts)
        for colour in COLOURS
    ]


def answers(source, folder, samples, **more):
    made = TransformersAnswerer(source, AnswerSettings(max_new_tokens=6, **more), images_root=folder)
    return {answer.id: answer.text for answer in made.answer(samples)}


def test_questions_with_other_numbers_of_images_in_one_batch_are_answered_as_alone(tmp_path):
    """Llama 3.2 Vision: a row would attend to the empty images that make it as long as the others."""
    from PIL import Image

    write_mllama(tmp_path / "model")
    for colour in COLOURS:
        Image.new("RGB", (28, 56), colour).save(tmp_path / f"{colour}.png")
    samples = [
        EvalSample(
            id=f"{number} {text}", images=tuple(ImageRef(path=f"{colour}.png") for colour in COLOURS[:number]),
            prompt=user_turn(text, num_images=number),
        )
        for text in ("is there a cup ?", "what is it ?")
        for number in (0, 1, 2)
    ]  # fmt: skip
    together = answers(str(tmp_path / "model"), tmp_path, samples)
    assert together == {
        key: text for one in samples for key, text in answers(str(tmp_path / "model"), tmp_path, [one]).items()
    }
    assert len(set(together.values())) > 3


def test_an_adapter_folder_stands_for_its_base_with_it(folder, samples):
    base = answers(str(folder / "model"), folder, samples)
    given = answers(ModelSource(path=str(folder / "model"), adapter=folder / "adapter"), folder, samples)
    alone = answers(str(folder / "adapter"), folder, samples)
    assert given == alone
    assert given != base


def test_an_adapter_without_a_base_and_one_on_another_are_refused(folder, tmp_path):
    with pytest.raises(ConfigError, match="is an adapter itself"):
        ModelSource(path=str(folder / "adapter"), adapter=folder / "adapter").resolved()
    nameless = tmp_path / "nameless"
    shutil.copytree(folder / "adapter", nameless)
    settings = json.loads((nameless / "adapter_config.json").read_text())
    (nameless / "adapter_config.json").write_text(json.dumps({**settings, "base_model_name_or_path": None}))
    with pytest.raises(ConfigError, match="does not name a base model"):
        ModelSource(path=str(nameless)).resolved()


def test_the_settings_know_the_adapter(folder, tmp_path):
    ask = {"benchmark": "chair", "questions": {"red": {"objects": ["cup"], "image": "red.png"}}}
    ask |= {
        "images_root": folder,
        "out": tmp_path / "out",
        "prompt": "describe",
        "settings": EvalSettings(max_new_tokens=2),
    }
    evaluate(ModelSource(path=str(folder / "model")), **ask)
    with pytest.raises(ConfigError, match=r"model_files.*adapter \(None then"):
        evaluate(ModelSource(path=str(folder / "model"), adapter=folder / "adapter"), **ask)


def test_a_budget_of_tokens_makes_smaller_batches_and_changes_no_answer(folder, samples, monkeypatch):
    made = TransformersAnswerer(
        str(folder / "model"), AnswerSettings(max_new_tokens=6, tokens_per_batch=10**9), images_root=folder
    )
    sizes = []
    generate = made._generate_batch
    monkeypatch.setattr(
        made, "_generate_batch", lambda prompts: sizes.append(list(map(len, prompts))) or generate(prompts)
    )
    want = {answer.id: answer.text for answer in made.answer(samples)}
    assert len(sizes) == 1
    longest = max(sizes[0])
    made._batches.tokens = 5 * (longest + 6)
    sizes.clear()
    assert {answer.id: answer.text for answer in made.answer(samples)} == want
    assert len(sizes) > 1
    assert all(len(batch) * (max(batch) + 6) <= 5 * (longest + 6) for batch in sizes)
    assert all(sorted(batch, reverse=True) == batch for batch in sizes)
    made._batches.tokens = 1
    sizes.clear()
    list(made.answer(samples))
    assert {len(batch) for batch in sizes} == {1}


def test_beams_are_searched_when_they_are_wanted(folder, samples, monkeypatch):
    made = TransformersAnswerer(
        str(folder / "model"), AnswerSettings(max_new_tokens=4, num_beams=3), images_root=folder
    )
    seen = {}
    generate = made._loaded.model.generate
    monkeypatch.setattr(made._loaded.model, "generate", lambda **given: seen.update(given) or generate(**given))
    assert len(list(made.answer(samples[:2]))) == 2
    assert (seen["num_beams"], seen["do_sample"]) == (3, False)


@pytest.mark.parametrize("name", ["batch_size", "tokens_per_batch", "max_new_tokens", "num_beams"])
def test_sizes_below_one_are_refused(name):
    with pytest.raises(ConfigError, match=f"{name} must be >= 1"):
        AnswerSettings(**{name: 0})


# --- log-probs of pairs ----------------------------------------------------------------------------------------------


def pairs(count):
    return [
        {
            "id": f"p{n}",
            "images": [f"{COLOURS[n % 4]}.png"],
            "prompt": [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "describe"}]}],
            "chosen": "there is a cup" + " and a plate" * (n % 3),
            "rejected": "there is a tree .",
        }
        for n in range(count)
    ]


def test_held_out_pairs_are_answered_with_log_probs(folder, tmp_path):
    result = evaluate(
        folder / "model",
        "preference",
        questions=pairs(6),
        images_root=folder,
        out=tmp_path,
        settings=EvalSettings(batch_size=4),
    )
    assert result.n == 6
    assert result.n_unparsed == 0
    assert "compared by logp" in result.notes
    rows = [json.loads(json.loads(line)["text"]) for line in (tmp_path / "answers.jsonl").read_text().splitlines()]
    assert all(row["chosen"] < 0 and row["chosen_len"] >= 4 and "ref_chosen" not in row for row in rows)
    # by hand: the sum over the answer's tokens of the log-softmax of a plain forward pass
    from PIL import Image

    loaded = load(folder / "model")
    turns = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "describe"}]}]
    prompt = loaded.processor.apply_chat_template(turns, add_generation_prompt=True)
    image = Image.open(folder / "red.png").convert("RGB")
    start = loaded.processor(text=prompt, images=image, return_tensors="pt", add_special_tokens=False)
    whole = loaded.processor(
        text=f"{prompt} there is a cup <eos>", images=image, return_tensors="pt", add_special_tokens=False
    )
    with torch.inference_mode():
        logps = loaded.model(**whole).logits.log_softmax(-1)[0, :-1]
    ids = whole["input_ids"][0, 1:]
    begin = start["input_ids"].shape[1] - 1
    want = float(logps.gather(1, ids[:, None])[begin:].sum())
    found = {
        json.loads(line)["id"]: json.loads(json.loads(line)["text"]) for line in (tmp_path / "answers.jsonl").open()
    }
    assert found["p0"]["chosen"] == pytest.approx(want, abs=1e-3)


def test_an_adapter_gives_the_implicit_reward(folder, tmp_path):
    result = evaluate(folder / "adapter", "preference", questions=pairs(5), images_root=folder, out=tmp_path)
    assert "compared by implicit_reward" in result.notes
    base = LikelihoodAnswerer(str(folder / "model"), images_root=folder)
    plain = {a.id: json.loads(a.text) for a in base.answer(load_samples("preference", pairs(5)))}
    with_adapter = {
        json.loads(line)["id"]: json.loads(json.loads(line)["text"]) for line in (tmp_path / "answers.jsonl").open()
    }
    for name, row in with_adapter.items():
        assert row["ref_chosen"] == pytest.approx(plain[name]["chosen"], abs=1e-3)
        assert row["chosen"] != pytest.approx(row["ref_chosen"], abs=1e-3)


def test_the_beginning_and_the_other_images_of_a_pair_are_given_to_the_model(folder, tmp_path):
    plain = pairs(1)[0]
    begun = {**plain, "id": "begun", "response_prefix": "there is a tree and ", "rejected": "a pot"}
    other = {**plain, "id": "other", "rejected": plain["chosen"], "rejected_images": ["blue.png"]}
    made = LikelihoodAnswerer(str(folder / "model"), images_root=folder)
    samples = load_samples("preference", [plain, begun, other])
    found = {answer.id: json.loads(answer.text) for answer in made.answer(samples)}
    assert found["begun"]["chosen"] != pytest.approx(found["p0"]["chosen"], abs=1e-3)
    assert found["begun"]["chosen_len"] == found["p0"]["chosen_len"]
    assert found["other"]["chosen"] == pytest.approx(found["p0"]["chosen"], abs=1e-3)
    assert found["other"]["rejected"] != pytest.approx(found["other"]["chosen"], abs=1e-6)
    ask = {"images_root": folder, "out": tmp_path}
    evaluate(folder / "model", "preference", questions=[begun], **ask)
    with pytest.raises(ConfigError, match="questions"):
        evaluate(folder / "model", "preference", questions=[{**begun, "response_prefix": "there is "}], **ask)


def test_an_answerer_of_the_wrong_kind_is_refused_before_it_answers(folder, tmp_path):
    writes = TransformersAnswerer(str(folder / "model"), images_root=folder)
    measures = LikelihoodAnswerer(str(folder / "model"), images_root=folder)
    ask = {"images_root": folder, "out": tmp_path / "out"}
    with pytest.raises(ConfigError, match="preference needs log-probs of given answers, which TransformersAnswerer"):
        evaluate(folder / "model", "preference", questions=pairs(2), answerer=writes, **ask)
    truth = {"red": {"objects": ["cup"], "image": "red.png"}}
    with pytest.raises(ConfigError, match="chair needs answers as text, which LikelihoodAnswerer"):
        evaluate(folder / "model", "chair", questions=truth, answerer=measures, **ask)
    assert not (tmp_path / "out").exists()


def test_pairs_too_many_for_memory_are_halved(folder, monkeypatch):
    made = LikelihoodAnswerer(str(folder / "model"), AnswerSettings(batch_size=8), images_root=folder)
    logps, sizes = made._logps, []

    def small(batch):
        sizes.append(len(batch))
        if len(batch) > 2:
            raise torch.OutOfMemoryError("no memory")
        return logps(batch)

    monkeypatch.setattr(made, "_logps", small)
    assert len(list(made.answer(load_samples("preference", pairs(8))))) == 8
    assert sizes == [8, 4, 2, 2, 2, 2]


def test_other_answers_in_the_pairs_are_other_questions(folder, tmp_path):
    ask = {"images_root": folder, "out": tmp_path}
    evaluate(folder / "model", "preference", questions=pairs(2), **ask)
    changed = [{**row, "rejected": "there is a bench ."} for row in pairs(2)]
    with pytest.raises(ConfigError, match="questions"):
        evaluate(folder / "model", "preference", questions=changed, **ask)


def test_a_server_cannot_answer_pairs(folder, tmp_path):
    with pytest.raises(ConfigError, match="needs log-probs"):
        evaluate(
            "m", "preference", questions=pairs(2), images_root=folder, out=tmp_path,
            answerer=Server(url="http://127.0.0.1:9", model="m"),
        )  # fmt: skip
    assert dataclasses.is_dataclass(ModelSource)
    assert ServerAnswerer is not TransformersAnswerer


def test_a_run_folder_with_an_adapter_answers_from_the_command_line(folder, tmp_path, capsys):
    run = tmp_path / "run"
    run.mkdir()
    (run / "manifest.json").write_text(json.dumps({"state": "complete", "mmpref": "0.1.0"}))
    (run / "recipe.yaml").write_text("output: run\n")
    (run / "model").symlink_to(folder / "adapter")
    (tmp_path / "truth.json").write_text(json.dumps({c: {"objects": ["cup"], "image": f"{c}.png"} for c in COLOURS}))
    (tmp_path / "synonyms.txt").write_text("cup, mug\nbench\n")
    code = main(
        ["eval", "--model", str(run), "--benchmark", "chair", "--questions", str(tmp_path / "truth.json"),
         "--image-root", str(folder), "--out", str(tmp_path / "out"), "--max-new-tokens", "4", "prompt=describe",
         f"synonyms={tmp_path / 'synonyms.txt'}"]
    )  # fmt: skip
    said = capsys.readouterr()
    assert code == 0, said.err
    assert "official" in said.out, "the official numbers stand beside ours"
    samples = load_samples("chair", tmp_path / "truth.json", prompt="describe")
    here = TransformersAnswerer(str(folder / "adapter"), AnswerSettings(max_new_tokens=4), images_root=folder)
    rows = [json.loads(line) for line in (tmp_path / "out/answers.jsonl").read_text().splitlines()]
    assert {row["id"]: row["text"] for row in rows} == {a.id: a.text for a in here.answer(samples)}
