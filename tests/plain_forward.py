"""Preference pairs the plain way: the stock processor writes each whole conversation, the stock model runs it alone.

Nothing of mmpref's layouts, positions, attention or output head is used here, so that it can be compared with them.
Beside it, the tiny families at full depth of their code paths (``build_deep``).
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from mmpref.models import LoadedModel
from mmpref.models.load import family_of_config
from mmpref.processing import EncodedPrompt, LayoutName, PairBatch, PairCollator, PairEncoder
from mmpref.records import ImageRef, Message, Part, PreferencePair
from tests.tiny_vlms import TINY, draw, film, film_shape, pair, turn

SHARING = tuple(TINY)
SEE_VIDEOS = ("qwen2_vl", "qwen2_5_vl", "qwen3_vl", "llava_onevision")
LORA_SEED = 5


def deep_config(name: str) -> Any:
    """The tiny family's config with every branch of its forward in use."""
    config = copy.deepcopy(TINY[name].model().config)
    text = config.get_text_config()
    text.num_hidden_layers = 3
    if getattr(text, "layer_types", None):
        text.layer_types = [text.layer_types[0]] * 3
    if name == "gemma3":  # both kinds of layers, and a window that every row fills
        text.layer_types = ["sliding_attention", "full_attention", "sliding_attention"]
        text.sliding_window = 8
    vision = getattr(config, "vision_config", None)
    if name == "llava":
        vision.num_hidden_layers = 3
        config.vision_feature_layer = [-3, -1]  # features of two layers side by side
    if name == "qwen2_5_vl":
        vision.depth, vision.fullatt_block_indexes = 3, [2]  # the others look through windows
    if name == "qwen3_vl":
        vision.depth, vision.deepstack_visual_indexes = 3, [0, 1]
    if name in ("qwen2_vl", "text", "llava_onevision"):
        config.tie_word_embeddings = text.tie_word_embeddings = True
    return config


def build_deep(name: str, *, seed: int = 0, scale: float = 3.0) -> LoadedModel:
    """Model and processor with random weights, scaled up so that attention and images matter."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = type(TINY[name].model())(deep_config(name))
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.dim() > 1:
                    _ = parameter.mul_(scale) if parameter.any() else parameter.normal_(std=0.1)
                else:
                    parameter.add_(torch.randn_like(parameter) * 0.05)  # biases and norms that do something
    processor = TINY[name].processor()
    if name.startswith("qwen"):
        size = processor.image_processor.size
        edge = size["shortest_edge"]  # the area of one merged patch
        processor.image_processor.size = type(size)(shortest_edge=edge, longest_edge=20 * edge)
    model.eval().requires_grad_(False)
    return LoadedModel(model=model, processor=processor, family=family_of_config(model.config), path=name)


def rows_for(name: str) -> list[PreferencePair]:
    """Pairs of every shape a family takes; a text model gets those without images."""
    rows = [
        pair("none", images=(), question="is there a dog ?", chosen="there is no dog .", rejected="yes"),
        pair("one", chosen="a red square .", rejected="two yellow boxes and a dog ."),
        pair("two", images=("90x60-2", "60x28-3"), chosen="yes", rejected="no , it is not ."),
        pair(
            "turns",
            images=("120x120-4", "28x60-5"),
            prompt=(
                turn("system", "describe it ."),
                turn("user", None, "what is it ?"),
                turn("assistant", "a red square ."),
                turn("user", "and the background , please , of ", None, "?"),
            ),
            chosen="a blue background .",
            rejected="green .",
        ),
        pair("edited", images=("60x120-6",), chosen="there is a red square .", rejected="there is a blue square . no"),
        pair("begun", images=("60x60-7",), chosen="a cat", rejected="a cat and a dog ."),
        pair("prefixed", response_prefix="the image shows", chosen=" a red square .", rejected=" two boxes ."),
    ]
    if name == "llava_vicuna":  # its template writes every image at the start of a turn, whatever the order
        rows = [row for row in rows if row.id != "turns"]
    return [row for row in rows if not row.images] if name == "text" else rows


def video_rows() -> list[PreferencePair]:
    """Pairs with videos of every shape: alone, several, beside images, late in a conversation."""
    shown, film_first = Part("image"), Part("video")
    between = (
        turn("system", "describe it ."),
        Message("user", (film_first, Part("text", "what is it ?"))),
        turn("assistant", "a red square ."),
        Message("user", (Part("text", "and here , please :"), shown, Part("text", "or"), film_first)),
    )
    late = (
        turn("user", "is there a dog ?"),
        turn("assistant", "no ."),
        Message("user", (film_first, Part("text", "and here ?"))),
    )
    return [
        pair("film", images=(), videos=("90x60x4-1",), chosen="a red square .", rejected="two yellow boxes ."),
        pair("odd", images=(), videos=("60x60x5-3",), chosen="yes", rejected="no , it is not ."),
        pair("films", images=(), videos=("60x90x4-1", "120x60x4-2"), chosen="a cat", rejected="a cat and a dog ."),
        pair("late", images=(), videos=("60x60x6-4",), prompt=late, chosen="one cat .", rejected="no dog ."),
        pair(
            "both", images=("60x60-7",), videos=("60x60x4-5", "60x60x4-6"), prompt=between, chosen="red .", rejected="a"
        ),
    ]


def text_rows() -> list[PreferencePair]:
    """More pairs for text models: turns, common beginnings, a given start."""
    said = (turn("system", "please ."), turn("user", "is it red ?"), turn("assistant", "yes ."), turn("user", "why ?"))
    return [
        *rows_for("text"),
        pair("turns", images=(), prompt=said, chosen="it is not .", rejected="there is one cat ."),
        pair("edited", images=(), chosen="there is a red square .", rejected="there is a blue square . no"),
        pair("begun", images=(), chosen="a cat", rejected="a cat and a dog ."),
        pair("prefixed", images=(), response_prefix="the picture", chosen=" shows a cat .", rejected=" is not it ."),
    ]


def all_rows(name: str) -> list[PreferencePair]:
    return text_rows() if name == "text" else rows_for(name)


def collator_for(loaded: LoadedModel, layout: LayoutName | None = None, **options: Any) -> PairCollator:
    of_encoder = {
        key: options.pop(key) for key in ("max_length", "max_pixels", "budgets", "other_image") if key in options
    }
    encoder = PairEncoder(loaded.processor, loaded.family, **of_encoder)
    return PairCollator(encoder, draw, film, layout=layout, **options)


@dataclass(frozen=True)
class Written:
    """One conversation with one answer as the stock processor writes it, and where the counted answer begins."""

    inputs: dict[str, Tensor]
    start: int


def stock_sequences(loaded: LoadedModel, row: PreferencePair) -> list[Written]:
    """Chosen and rejected, each a conversation of its own. The ids are those that the encoder makes, to the last."""
    encoded = PairEncoder(loaded.processor, loaded.family).encode(row, draw, film)
    answers = [(row.chosen, row.images)]
    if row.rejected is not None:
        answers.append((row.rejected, row.images if row.rejected_images is None else row.rejected_images))
    found = []
    for (answer, images), side in zip(answers, encoded.sides(), strict=False):
        assert side is not None
        prompt, ids = side
        whole = row.response_prefix + answer
        inputs = _with_videos(loaded, row, whole, prompt) if row.videos else _written(loaded, row, whole, images)
        if not torch.equal(inputs["input_ids"][0, : len(prompt)], prompt.input_ids):
            inputs = _in_pieces(loaded, row, answer, images)
        assert inputs["input_ids"][0].tolist() == [*prompt.input_ids.tolist(), *ids.tolist()]
        if loaded.family.prefix_lm is not None and loaded.family.token_types and not loaded.family.has_vision:
            of_prompt, of_answer = loaded.family.prefix_lm  # which no tokenizer writes
            kinds = torch.full_like(inputs["input_ids"], of_answer)
            kinds[:, : len(prompt)] = of_prompt
            inputs[loaded.family.token_types] = kinds
        found.append(Written(inputs, len(prompt)))
    return found


def _in_pieces(
    loaded: LoadedModel, row: PreferencePair, answer: str, images: tuple[ImageRef, ...]
) -> dict[str, Tensor]:
    """Where a token would reach from the prompt into the answer: the answer's tokens behind those of the prompt, which
    is how they stand when the model has written them itself; so with a beginning that is given."""
    given = row.response_prefix
    asked, whole = _rendered(loaded, row, None), _rendered(loaded, row, given + answer)
    assert whole.startswith(asked + given)
    pieces = [given, whole[len(asked + given) :]]
    found = [loaded.tokenizer(piece, add_special_tokens=False)["input_ids"] for piece in pieces]
    ids = torch.tensor([[*found[0], *found[1]]])
    inputs = _processed(loaded, asked, images)
    for name, value in inputs.items():
        if value.shape == inputs["input_ids"].shape and name != "input_ids":
            inputs[name] = torch.cat([value, torch.full_like(ids, int(name == "attention_mask"))], dim=1)
    return {**inputs, "input_ids": torch.cat([inputs["input_ids"], ids], dim=1)}


def _with_videos(loaded: LoadedModel, row: PreferencePair, answer: str, prompt: EncodedPrompt) -> dict[str, Tensor]:
    """As the stock processor writes it, but for the pixels of videos, for which it would need torchvision.

    It is only told the sizes of patches, as its video part would tell it, and writes the text itself.
    """
    processor = copy.copy(loaded.processor)
    settings = processor.video_settings
    processor.video_processor = SimpleNamespace(
        merge_size=settings.merge_size, temporal_patch_size=settings.temporal_patch_size
    )
    shapes = [film_shape(video) for video in row.videos]
    films = {
        "video_grid_thw": prompt.vision.get("video_grid_thw"),
        "pixel_values_videos": [torch.empty(shape.num_frames, 0) for shape in shapes],
        "video_metadata": [
            SimpleNamespace(fps=2, frames_indices=[int(2 * t) for t in shape.times]) for shape in shapes
        ],
    }
    shown: dict[str, Any] = {}
    if row.images:
        shown = dict(processor.image_processor([[draw(ref) for ref in row.images]], return_tensors="pt").items())
    pieces, _ = processor.get_text_with_replacements(
        [_rendered(loaded, row, answer)],
        [processor.replace_image_token(shown, image_idx=at) for at in range(len(row.images))],
        [processor.replace_video_token(films, video_idx=at) for at in range(len(row.videos))],
    )
    inputs = dict(processor.tokenizer(pieces, return_tensors="pt").items())
    if loaded.family.token_types:
        types = processor.create_mm_token_type_ids(inputs["input_ids"].tolist())
        inputs[loaded.family.token_types] = torch.tensor(types)
    of_videos = {name: value for name, value in prompt.vision.items() if "video" in name or name.startswith("second")}
    return {**inputs, **shown, **of_videos}


def _written(loaded: LoadedModel, row: PreferencePair, answer: str, images: tuple[ImageRef, ...]) -> dict[str, Tensor]:
    if "PaliGemma" in type(loaded.processor).__name__:  # it takes the answer apart
        return _processed(loaded, _rendered(loaded, row, None), images, suffix=[answer])
    return _processed(loaded, _rendered(loaded, row, answer), images)


def _rendered(loaded: LoadedModel, row: PreferencePair, answer: str | None) -> str:
    """The conversation by the template, with its end of turn; without an answer up to where the model is asked."""
    sees = loaded.family.has_vision
    turns: list[dict[str, Any]] = []
    for message in row.prompt:
        parts = [{"type": p.kind} if p.kind != "text" else {"type": "text", "text": p.text} for p in message.parts]
        turns.append({"role": message.role, "content": parts if sees else message.text})
    if answer is not None:
        turns.append({"role": "assistant", "content": [{"type": "text", "text": answer}] if sees else answer})
    writer = loaded.processor
    if sees and writer.chat_template is None:  # its tokenizer has one, for strings
        writer = loaded.tokenizer
        for message in turns:
            texts = [part.get("text", loaded.processor.image_token) for part in message["content"]]
            message["content"] = "".join(texts)

    def render() -> str:
        return str(writer.apply_chat_template(turns, tokenize=False, add_generation_prompt=answer is None))

    text = render()
    if sees and "'type': 'text'" in text:  # a list printed as it is: the template takes strings from all but users
        for message in turns:
            if {"type": "image"} not in message["content"]:
                message["content"] = "".join(part["text"] for part in message["content"])
        text = render()
    if answer is None:
        return text
    text = text.rstrip()
    ends = tuple(token.content for token in loaded.tokenizer.added_tokens_decoder.values())
    if text.endswith(answer.rstrip()) or not text.endswith(ends):  # the template closes no answers, or with no token
        text += loaded.tokenizer.eos_token
    return text


def _processed(loaded: LoadedModel, text: str, images: tuple[ImageRef, ...], **inputs: Any) -> dict[str, Tensor]:
    """A text with its images as the processor writes them for the model."""
    bos = loaded.tokenizer.bos_token
    if bos is not None and text.startswith(bos):  # as apply_chat_template does where it tokenises
        inputs["add_special_tokens"] = False
    if not loaded.family.has_vision:
        return dict(loaded.processor(text, return_tensors="pt", **inputs))
    if loaded.family.token_types:
        inputs["return_mm_token_type_ids"] = True
    if not images:
        return dict(loaded.processor(text=[text], return_tensors="pt", **inputs).items())
    drawn = [draw(ref) for ref in images]
    try:
        return dict(loaded.processor(text=[text], images=[drawn], return_tensors="pt", **inputs).items())
    except ValueError:  # a processor that takes the images of all texts in one list
        return dict(loaded.processor(text=[text], images=drawn, return_tensors="pt", **inputs).items())


def run_alone(model: Any, sequence: Written) -> Tensor:
    """Log-probs of the answer's tokens, from all logits of one sequence: [L]."""
    dtype = next(model.parameters()).dtype  # Llama 4's processor gives bfloat16, whatever the model is
    inputs = {
        name: value.to(dtype) if isinstance(value, Tensor) and value.is_floating_point() else value
        for name, value in sequence.inputs.items()
    }
    logits = model(**inputs, use_cache=False).logits[0].float()
    targets = sequence.inputs["input_ids"][0]
    logps = logits.log_softmax(-1)[:-1].gather(1, targets[1:, None])[:, 0]
    return logps[sequence.start - 1 :]


def by_hand(model: Any, loaded: LoadedModel, rows: Sequence[PreferencePair]) -> list[Tensor]:
    """Token log-probs of every answer, chosen ones first, each sequence run alone by the stock model."""
    sides = [stock_sequences(loaded, row) for row in rows]
    order = [pair[0] for pair in sides] + [pair[1] for pair in sides if len(pair) > 1]
    return [run_alone(model, sequence) for sequence in order]


def answers_of(batch: PairBatch, values: Tensor) -> list[Tensor]:
    """[K] predictions of a batch as one tensor for each answer, chosen ones first."""
    by_answer = batch.by_answer(values)
    return [by_answer[i, : int(n)] for i, n in enumerate(batch.answer_lens)]


def worst(one: Sequence[Tensor], other: Sequence[Tensor]) -> float:
    """The largest difference of any token; the lengths must be the same."""
    assert [len(x) for x in one] == [len(x) for x in other]
    return max(float((x - y).abs().max()) for x, y in zip(one, other, strict=True))


def stock_twin(model: Any) -> Any:
    """A copy of a model (adapter and all) that runs as transformers wrote it: no frozen-tower shortcut, sdpa."""
    twin = copy.deepcopy(model)
    for module in twin.modules():
        module.__dict__.pop("forward", None)
    base = twin.get_base_model() if hasattr(twin, "get_base_model") else twin
    if base.config.get_text_config()._attn_implementation != "eager":  # which some models are left with
        base.set_attn_implementation("sdpa")
    return twin


def stir(model: Any, *, amount: float = 0.05, seed: int = LORA_SEED) -> None:
    """Move what trains away from where it started, LoRA's B included, so that policy and reference differ."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                spread = amount * max(float(parameter.std()) if parameter.numel() > 1 else 0.0, 0.2)
                parameter.add_(torch.randn(parameter.shape, generator=generator).to(parameter) * spread)


def gradient(model: Any) -> Tensor:
    """All gradients of what trains, in one [n] tensor; what got none counts as zero."""
    found = [p.grad if p.grad is not None else torch.zeros_like(p) for p in model.parameters() if p.requires_grad]
    return torch.cat([x.flatten() for x in found])


def relative(one: Tensor, other: Tensor) -> float:
    return float((one - other).norm() / other.norm())
