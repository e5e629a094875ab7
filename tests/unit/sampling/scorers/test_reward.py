"""Reward models: the numbers of transformers' own forward on the whole conversation, whatever stands beside it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")

import transformers as tf  # noqa: E402
from safetensors.torch import load_file, save_file  # noqa: E402

from mmpref.errors import ConfigError, DataError  # noqa: E402
from mmpref.generation import AnswerSettings, ModelSource  # noqa: E402
from mmpref.generation.reward_model import RewardModel  # noqa: E402
from mmpref.records import Candidate, Candidates, ImageRef, Prompt, VideoRef, user_turn  # noqa: E402
from mmpref.sampling.scorers import build_scorer  # noqa: E402
from mmpref.sampling.scorers.contract import RawScore, ScoreContext  # noqa: E402
from mmpref.sampling.scorers.reward import RewardScorer  # noqa: E402
from tests.tiny_vlms import TINY, build, draw, refs, turn  # noqa: E402

TEXTS = ("a red square .", "there is no dog , there is one cat .", "yes")
CLASSES = {
    "qwen2": (tf.Qwen2ForSequenceClassification, tf.Qwen2Config),
    "llama": (tf.LlamaForSequenceClassification, tf.LlamaConfig),
}


def classifier(kind: str, folder: Path, *, labels: int = 1, **config: Any) -> Path:
    """A reward model for text with random weights."""
    tokenizer = TINY["text"].processor()
    model_class, config_class = CLASSES[kind]
    sizes = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4,
             "num_key_value_heads": 2, "max_position_embeddings": 256}  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = model_class(config_class(**sizes, vocab_size=len(tokenizer), num_labels=labels, **config))
        _stir(model)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def seeing_classifier(folder: Path) -> Path:
    """The one head for classes on a model with a vision tower that both supported transformers have as a decoder."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        config = TINY["gemma3"].model().config
        config.num_labels = 1
        model = tf.Gemma3ForSequenceClassification(config)
        _stir(model)
    model.save_pretrained(folder)
    TINY["gemma3"].processor().save_pretrained(folder)
    return folder


def _stir(model: Any) -> None:
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                _ = parameter.mul_(5) if parameter.any() else parameter.normal_(std=0.1)


def with_value_head(name: str, folder: Path, *, inside: bool = False, width: int | None = None) -> Path:
    """A model that writes text, and a value head as TRL names it, beside its weights or among them."""
    build(name, folder)
    config = tf.AutoConfig.from_pretrained(folder)
    generator = torch.Generator().manual_seed(3)
    shape = (1, width or config.get_text_config().hidden_size)
    head = {
        "v_head.summary.weight": torch.randn(shape, generator=generator),
        "v_head.summary.bias": torch.tensor([0.25]),
    }
    if inside:
        weights = folder / "model.safetensors"
        save_file({**load_file(weights), **head}, weights, metadata={"format": "pt"})
    else:
        save_file(head, folder / "value_head.safetensors")
    return folder


def asked(prompt_id: str, *images: str, texts: tuple[str, ...] = TEXTS, **rest: Any) -> Candidates:
    prompt = rest.pop("prompt", None) or user_turn("what is in the image ?", num_images=len(images))
    shown = Prompt(id=prompt_id, images=refs(*images), prompt=prompt, **rest)
    return Candidates(prompt=shown, answers=tuple(Candidate(text=text) for text in texts))


def scores(
    folder: Path, *items: Candidates, label: int | None = None, **settings: Any
) -> dict[tuple[str, int], RawScore]:
    model = RewardModel(ModelSource(path=str(folder)), AnswerSettings(**settings), label=label, load_image=draw)
    found = list(RewardScorer(model, facts={}).score(items))
    assert len(found) == len({score.place for score in found}) == sum(len(item.answers) for item in items)
    return {tuple(score.place): score for score in found}


def values(found: Mapping[tuple[str, int], RawScore]) -> dict[tuple[str, int], float]:
    return {place: score.value for place, score in found.items()}


def inputs_by_hand(processor: Any, item: Candidates, text: str) -> dict[str, Any]:
    """The whole conversation by the stock processor."""
    sees = hasattr(processor, "image_processor")
    turns: list[dict[str, Any]] = []
    for message in item.prompt.prompt:
        parts = [{"type": p.kind} if p.kind != "text" else {"type": "text", "text": p.text} for p in message.parts]
        turns.append({"role": message.role, "content": parts if sees else message.text})
    answer = item.prompt.response_prefix + text
    turns.append({"role": "assistant", "content": [{"type": "text", "text": answer}] if sees else answer})
    written = processor.apply_chat_template(turns, tokenize=False)
    if not sees:
        return dict(processor(written, add_special_tokens=False, return_tensors="pt"))
    images = [draw(ref) for ref in item.prompt.images]
    extra = {"images": [images]} if images else {}
    kinds = {"return_mm_token_type_ids": True} if "gemma" in type(processor).__name__.lower() else {}
    return dict(processor(text=[written], return_tensors="pt", **extra, **kinds).items())


def by_hand(folder: Path, items: list[Candidates], *, of: Any) -> dict[tuple[str, int], float]:
    """Each conversation alone, by the stock model: the logit of a class, or the value head on the last hidden state."""
    head = folder / "value_head.safetensors"
    model = of.from_pretrained(folder).eval()
    loader = tf.AutoTokenizer if not (folder / "processor_config.json").exists() else tf.AutoProcessor
    name = next((name for name in TINY if name in folder.name), "text")
    processor = loader.from_pretrained(folder) if loader is tf.AutoTokenizer else TINY[name].processor()
    found = {}
    for item in items:
        for at, answer in enumerate(item.answers):
            inputs = inputs_by_hand(processor, item, answer.text)
            with torch.no_grad():
                if not head.exists():
                    found[item.prompt.id, at] = float(model(**inputs).logits[0, 0])
                    continue
                hidden = model(**inputs, output_hidden_states=True).hidden_states[-1][0, -1]
                stored = load_file(head)
                value = stored["v_head.summary.weight"] @ hidden + stored["v_head.summary.bias"]
                found[item.prompt.id, at] = float(value[0])
    return found


def text_items() -> list[Candidates]:
    turns = (turn("system", "please ."), turn("user", "is it red ?"), turn("assistant", "yes ."), turn("user", "why ?"))
    return [
        asked("one", prompt=user_turn("is there a dog ?", num_images=0)),
        asked("turns", prompt=turns, texts=("it is not .", "there is one cat . " * 5)),
        asked("begun", response_prefix="the image", texts=(" shows a cat .", " is not it .")),
    ]


def image_items() -> list[Candidates]:
    return [
        asked("one", "28x28-1"),
        asked("other", "60x60-2"),
        asked("two", "28x28-3", "56x28-4", texts=("yes", "no , it is not .")),
        asked("none", texts=("a red square .", "there is a dog .")),
    ]


@pytest.mark.parametrize(("kind", "pad"), [("qwen2", "<pad>"), ("llama", "<|im_end|>"), ("llama", None)])
def test_a_classifier_gives_its_own_number_in_any_batch(kind: str, pad: str | None, tmp_path: Path) -> None:
    tokenizer = TINY["text"].processor()
    pad_id = None if pad is None else tokenizer.convert_tokens_to_ids(pad)
    folder = classifier(kind, tmp_path / kind, pad_token_id=pad_id)
    items = text_items()
    wanted = by_hand(folder, items, of=CLASSES[kind][0])
    together, alone = values(scores(folder, *items, batch_size=8)), values(scores(folder, *items, batch_size=1))
    assert together == pytest.approx(wanted, abs=1e-5)
    assert alone == pytest.approx(wanted, abs=1e-5)
    assert len({round(value, 4) for value in wanted.values()}) == len(wanted)


@pytest.mark.slow
def test_a_classifier_that_sees_gives_its_own_number_in_any_batch(tmp_path: Path) -> None:
    folder, items = seeing_classifier(tmp_path / "gemma3"), image_items()
    wanted = by_hand(folder, items, of=tf.Gemma3ForSequenceClassification)
    assert values(scores(folder, *items, batch_size=8)) == pytest.approx(wanted, abs=1e-4)
    assert values(scores(folder, *items, batch_size=1)) == pytest.approx(wanted, abs=1e-4)
    assert len({round(value, 4) for value in wanted.values()}) == len(wanted)


@pytest.mark.parametrize("name", ["qwen2_5_vl", pytest.param("llava", marks=pytest.mark.slow)])
def test_a_value_head_gives_the_number_of_the_last_token_in_any_batch(name: str, tmp_path: Path) -> None:
    folder, items = with_value_head(name, tmp_path / name), image_items()
    wanted = by_hand(folder, items, of=tf.AutoModelForImageTextToText)
    assert values(scores(folder, *items, batch_size=8)) == pytest.approx(wanted, abs=1e-4)
    assert values(scores(folder, *items, batch_size=1)) == pytest.approx(wanted, abs=1e-4)
    assert len({round(value, 4) for value in wanted.values()}) == len(wanted)


@pytest.mark.slow
def test_a_value_head_may_lie_among_the_weights(tmp_path: Path) -> None:
    beside = with_value_head("qwen2_5_vl", tmp_path / "beside")
    inside = with_value_head("qwen2_5_vl", tmp_path / "inside", inside=True)
    item = asked("p", "28x28-1")
    assert values(scores(inside, item)) == pytest.approx(values(scores(beside, item)), abs=1e-4)


def test_one_of_several_numbers_is_chosen_by_its_label(tmp_path: Path) -> None:
    folder = classifier("llama", tmp_path, labels=3, pad_token_id=0)
    item = asked("p", prompt=user_turn("why ?", num_images=0))
    found = [values(scores(folder, item, label=label)) for label in range(3)]
    assert len({value for of_label in found for value in of_label.values()}) == 9
    with pytest.raises(ConfigError, match=r"gives 3 numbers .* choose one with the option label: 0 \(LABEL_0\)"):
        scores(folder, item)
    with pytest.raises(ConfigError, match="label 3 is none of 0 to 2"):
        scores(folder, item, label=3)


def test_what_cannot_be_scored_has_no_score_and_ends_nothing(tmp_path: Path) -> None:
    folder = with_value_head("llava", tmp_path / "llava")

    def load(ref: ImageRef) -> Any:
        if ref.path == "56x28-9":
            raise DataError("image 56x28-9 is gone")
        return draw(ref)

    made = RewardModel(ModelSource(path=str(folder)), AnswerSettings(batch_size=4), load_image=load)
    film = asked("film", "28x28-1", texts=("yes",), videos=(VideoRef(path="60x60x4-1"),))
    rows = [
        asked("empty", "28x28-1", texts=("yes", " ")),
        asked("lost", "56x28-9", texts=("yes",)),
        asked("long", "28x28-1", texts=("yes", "a red square . " * 900)),
        film,
    ]
    found = {tuple(score.place): score for score in RewardScorer(made, facts={}).score(rows)}
    reasons = {place: score.why for place, score in found.items()}
    assert reasons == {
        ("empty", 0): "", ("empty", 1): "empty_response", ("lost", 0): "unreadable", ("long", 0): "",
        ("long", 1): "too_long", ("film", 0): "video",
    }  # fmt: skip
    assert "the model reads 2048" in found["long", 1].detail["why"]
    inner = made._logps
    made._logps = lambda pairs: _short_of_memory(inner, pairs)
    found = {tuple(score.place): score for score in RewardScorer(made, facts={}).score([asked("p", "28x28-1")])}
    assert {place: score.why for place, score in found.items()} == {
        ("p", 0): "", ("p", 1): "out_of_memory", ("p", 2): "",
    }  # fmt: skip
    made._logps = lambda pairs: [{"value": float("nan")} for _ in pairs]
    assert {score.why for score in RewardScorer(made, facts={}).score([asked("p", "28x28-1")])} == {"not_finite"}


def _short_of_memory(inner: Any, pairs: Any) -> Any:
    if any(len(pair.chosen_ids) > 15 for pair in pairs):
        raise torch.OutOfMemoryError("no memory")
    return inner(pairs)


def test_models_that_are_no_reward_models_are_refused(tmp_path: Path) -> None:
    plain = build("llava", tmp_path / "plain")
    with pytest.raises(ConfigError, match="is no reward model that is read here"):
        scores(plain)
    config = json.loads((plain / "config.json").read_text())
    odd = shutil.copytree(plain, tmp_path / "own")
    (odd / "config.json").write_text(json.dumps({**config, "auto_map": {"AutoModel": "own.RewardModel"}}))
    with pytest.raises(ConfigError, match="mmpref runs no code of models"):
        scores(odd)
    (odd / "config.json").write_text(json.dumps({**config, "model_type": "own", "auto_map": {"AutoConfig": "own.C"}}))
    with pytest.raises(ConfigError, match="'own' is code that comes with the folder"):
        scores(odd)
    narrow = with_value_head("llava", tmp_path / "narrow", width=8)
    with pytest.raises(ConfigError, match="takes hidden states of 8, and the model has 64"):
        scores(narrow)
    (plain / "value_head.bin").write_bytes(b"\0")
    with pytest.raises(ConfigError, match="is a pickle file"):
        scores(plain)


def test_a_classifier_without_its_head_or_its_template_is_refused(tmp_path: Path) -> None:
    folder = classifier("llama", tmp_path / "whole", pad_token_id=0)
    headless = shutil.copytree(folder, tmp_path / "headless")
    weights = load_file(headless / "model.safetensors")
    weights.pop("score.weight")
    save_file(weights, headless / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ConfigError, match=r"lack score\.weight"):
        scores(headless)
    mute = shutil.copytree(folder, tmp_path / "mute")
    (mute / "chat_template.jinja").unlink()
    with pytest.raises(ConfigError, match="chat template"):
        scores(mute)
    with pytest.raises(ConfigError, match="leave the quantization out"):
        RewardModel(ModelSource(path=str(folder), quantization="nf4"))


def test_it_is_built_from_options(tmp_path: Path) -> None:
    draw(ImageRef(path="28x28-1")).save(tmp_path / "a.png")
    folder = with_value_head("qwen2_5_vl", tmp_path / "model")
    made = build_scorer("r", "reward", {"model": str(folder)}, ScoreContext(image_root=tmp_path))
    assert made.scale == (None, None)
    assert made.depends_on["label"] == 0
    assert made.depends_on["model_files"]
    assert [score.value is not None for score in made.score([asked("p", "a.png")])] == [True] * 3
    with pytest.raises(ConfigError, match="scorer 'r': label must be a whole number from 0"):
        build_scorer("r", "reward", {"model": "m", "label": -1}, ScoreContext())
