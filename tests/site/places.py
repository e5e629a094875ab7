"""The folders in which the pages' commands run: the models and data sets that a page names, each in small.

Models have the architecture that the page names and two layers; what they know is how to answer in a few words, which
takes them a moment to learn, so that evaluations end as those of real models do. Images are those of the demo's drawn
world. The folders have the hub's names, so that ``Qwen/Qwen2.5-VL-3B-Instruct`` is read from the working directory, and
no command is changed.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch
import transformers as tf
from PIL import Image

from mmpref.demo.world import WorldFiles, WorldSizes, make_world
from tests import tiny_vlms
from tests.coco_layout import lay_out_coco, write_rows

CARDS = Path(__file__).resolve().parents[1] / "fixtures" / "cards"
SIZES = WorldSizes(
    see_images=12, see_captions=12, see_questions=12, habit_images=12, habit_captions=12, habit_questions=12, pairs=52,
    validation=12, heldout=12, pairs_heldout=8,
)  # fmt: skip
MODELS = {
    "Qwen/Qwen2.5-VL-3B-Instruct": "qwen2_5_vl",
    "Qwen/Qwen2-VL-2B-Instruct": "qwen2_vl",
    "llava-hf/llava-1.5-7b-hf": "llava_vicuna",
}

STEPS, LEARNING_RATE = 60, 3e-3
"""Of learning a model's lessons."""


@dataclass(frozen=True)
class Small:
    """What pages are laid out from, made once."""

    root: Path

    @cached_property
    def world(self) -> WorldFiles:
        return make_world(self.root / "world", seed=0, sizes=SIZES)

    def model(self, name: str) -> Path:
        """A folder of the architecture that ``name`` has on the hub."""
        folder = self.root / "models" / name
        if not folder.is_dir():
            if (family := MODELS.get(name)) is not None:
                _taught(tiny_vlms.build(family, folder), family, self.world)
            else:
                _text_model(name).save_pretrained(folder)
                tiny_vlms.TINY["text"].processor().save_pretrained(folder)
        return folder


def _taught(folder: Path, family: str, world: WorldFiles) -> None:
    """Captions and a yes or no to questions, learnt by heart: one batch, again and again."""
    processor = tiny_vlms.TINY[family].processor()
    model = tiny_vlms.build_model(family, scale=1.0)
    rows = [json.loads(line) for line in world.see.read_text(encoding="utf-8").splitlines()]
    captions = [row for row in rows if row["chosen"].startswith("a ")][:6]
    lessons = [(row["images"][0], row["prompt"][0]["content"][-1]["text"], row["chosen"]) for row in captions]
    for row, thing, said in zip(captions, ("dog", "cat", "cup"), ("Yes.", "No.", "No."), strict=False):
        lessons.append((row["images"][0], f"Is there a {thing} in the image?", said))
    lessons.append((captions[0]["images"][0], "Please describe this image in detail.", "A dog on a chair."))
    prompts, images = [], []
    for image, question, _ in lessons:
        parts = [{"type": "image"}, {"type": "text", "text": question}]
        prompts.append(processor.apply_chat_template([{"role": "user", "content": parts}], add_generation_prompt=True))
        images.append(Image.open(world.root / image).convert("RGB"))
    texts = [
        prompt + said + processor.tokenizer.eos_token for prompt, (_, _, said) in zip(prompts, lessons, strict=True)
    ]
    processor.tokenizer.padding_side = "right"
    batch = dict(processor(text=texts, images=images, padding=True, return_tensors="pt"))
    labels = batch["input_ids"].masked_fill(batch["attention_mask"] == 0, -100)
    asked = processor(text=prompts, images=images, padding=True, return_tensors="pt")["attention_mask"].sum(-1)
    for row, length in enumerate(asked.tolist()):
        labels[row, :length] = -100
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE)
    model.train()
    for _ in range(STEPS):
        model(**batch, labels=labels).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    model.eval().save_pretrained(folder)


def _text_model(name: str) -> tf.PreTrainedModel:
    tokenizer = tiny_vlms.TINY["text"].processor()
    sizes = {
        "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4,
        "num_key_value_heads": 2, "vocab_size": len(tokenizer), "pad_token_id": tokenizer.pad_token_id,
        "bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id,
    }  # fmt: skip
    torch.manual_seed(0)
    if name.startswith("Qwen/"):
        return tf.Qwen2ForCausalLM(tf.Qwen2Config(**sizes))
    return tf.LlamaForCausalLM(tf.LlamaConfig(**sizes))


def models(*names: str) -> Callable[[Small, Path], None]:
    """Puts model folders into the working directory."""

    def lay(small: Small, folder: Path) -> None:
        for name in names:
            shutil.copytree(small.model(name), folder / name)

    return lay


@contextmanager
def hidden(names: Iterable[str], folder: Path) -> Iterator[None]:
    """The working directory without these models, as before they are downloaded."""
    tops = {name.partition("/")[0] for name in names}
    for top in tops:
        (folder / top).rename(folder / f".{top}")
    yield
    for top in tops:
        (folder / f".{top}").rename(folder / top)


def own_pairs(small: Small, folder: Path) -> None:
    """``my_pairs.jsonl`` and ``images``: 16 pairs of the drawn world with scores, without those that the annotators
    mixed up."""
    rows = _pairs(small)
    shutil.copytree(small.world.root / "images", folder / "images")
    for row in rows:
        row["images"] = [Path(path).name for path in row["images"]]
    write_rows(folder / "my_pairs.jsonl", rows)


def rlhf_v(small: Small, folder: Path) -> None:
    """``RLHF-V-Dataset.parquet``: the hub's columns (``tests/fixtures/cards/rlhf_v.jsonl``), with images of the drawn
    world."""
    (form, *_) = (json.loads(line) for line in (CARDS / "rlhf_v.jsonl").read_text(encoding="utf-8").splitlines())
    rows = []
    for number, pair in enumerate(_pairs(small)):
        image = small.world.root / pair["images"][0]
        said = {
            "question": pair["prompt"][0]["content"][-1]["text"],
            "chosen": pair["chosen"],
            "rejected": pair["rejected"],
        }
        rows.append({**form, "idx": number, "text": json.dumps(said), "image_path": image.name,
                     "image": {"bytes": image.read_bytes(), "path": image.name}})  # fmt: skip
    pq.write_table(pa.Table.from_pylist(rows), folder / "RLHF-V-Dataset.parquet")


def uni_dpo(small: Small, folder: Path) -> None:
    """The data set of Uni-DPO's authors by its file names, with the rows of the cards' fixtures, and MM-RLHF's
    images."""
    published = folder / "Uni-DPO"
    for part in ("Multimodal", "Textual/FOLDER", "Math"):
        (published / part).mkdir(parents=True)
    image_only = published / "Multimodal" / "uni_dpo_image_only_mcq_short_long_50k.json"
    shutil.copy(CARDS / "uni_dpo_multimodal.json", image_only)
    shutil.copy(CARDS / "uni_dpo_textual.jsonl", published / "Textual" / "FOLDER" / "train.jsonl")
    in_order = (CARDS / "uni_dpo_math.jsonl").read_text(encoding="utf-8").splitlines()[:3]  # the last one is for tests
    write_rows(published / "Math" / "Train_Qwen_2_5_math_7B.jsonl", map(json.loads, in_order))
    drawn = sorted((small.world.root / "images").iterdir())
    for row, image in zip(json.loads(image_only.read_text(encoding="utf-8")), drawn, strict=False):
        place = folder / "MM-RLHF" / row["images"][0].partition("MM-RLHF/")[2]
        place.parent.mkdir(parents=True, exist_ok=True)
        Image.open(image).convert("RGB").save(place)


def _pairs(small: Small) -> list[dict[str, Any]]:
    rows = [json.loads(line) for line in small.world.pairs.read_text(encoding="utf-8").splitlines()]
    return [row for row in rows if row["score_chosen"] > row["score_rejected"]][:16]


def coco(small: Small, folder: Path) -> None:
    """Twelve images under the names of COCO's, with POPE questions about them and annotations for CHAIR."""
    lay_out_coco(folder, small.world.root / "images", 12)
    shutil.copy(folder / "POPE" / "output" / "coco" / "coco_pope_random.json", folder)
