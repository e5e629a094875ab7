"""How much faster answering in batches is than one question at a time, in one run.

    OMP_NUM_THREADS=1 python scripts/bench_eval.py [--model DIR] [--images 48] [--questions 6] [--new-tokens 24]

Without --model a small LLaVA of the demo's size with random weights answers drawn images; every answer has the full
length, which is the same work for both. One at a time is what a plain script does: open the image, processor,
``generate`` with a KV cache, decode. Rounds of both kinds take turns; times are medians, and the ratio is what counts.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import tempfile
import time
from pathlib import Path

import torch
import transformers
from PIL import Image, ImageDraw

from mmpref.generation import AnswerSettings, TransformersAnswerer
from mmpref.models.load import LoadSettings, load
from mmpref.models.loaded import LoadedModel
from mmpref.records import EvalSample, ImageRef, user_turn

THINGS = ("cup", "plate", "fork", "tree", "bench", "kite", "ball", "pot")


def draw(folder: Path, count: int) -> list[str]:
    names = []
    for number in range(count):
        image = Image.new("RGB", (320, 240), (40 + 3 * number % 200, 120, 90))
        ImageDraw.Draw(image).ellipse((number % 200, 40, number % 200 + 60, 120), fill=(220, 60, number % 255))
        names.append(f"{number}.png")
        image.save(folder / names[-1])
    return names


def ask(images: list[str], per_image: int) -> list[EvalSample]:
    return [
        EvalSample(
            id=f"{image}/{number}",
            images=(ImageRef(path=image),),
            prompt=user_turn(f"is there a {THINGS[number % len(THINGS)]} ?" + " please ." * (number % 3), num_images=1),
        )
        for image in images
        for number in range(per_image)
    ]


def one_at_a_time(loaded: LoadedModel, root: Path, samples: list[EvalSample], new_tokens: int) -> dict[str, str]:
    out = {}
    for sample in samples:
        turns = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": sample.prompt[0].text}]}]
        prompt = loaded.processor.apply_chat_template(turns, add_generation_prompt=True)
        image = Image.open(root / str(sample.images[0].path)).convert("RGB")
        inputs = loaded.processor(text=prompt, images=image, return_tensors="pt", add_special_tokens=False)
        inputs = inputs.to(loaded.model.device)
        with torch.inference_mode():
            ids = loaded.model.generate(**inputs, max_new_tokens=new_tokens, do_sample=False)
        text = loaded.processor.decode(ids[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
        out[sample.id] = text.strip()
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="a model folder; default: the demo's architecture, untrained")
    parser.add_argument("--images", type=int, default=48)
    parser.add_argument("--questions", type=int, default=6, help="per image")
    parser.add_argument("--new-tokens", type=int, default=24)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=3)
    settings = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(temporary)
        model = settings.model
        if model is None:
            from mmpref.demo.tiny_models import build_tiny_llava

            model = root / "model"
            build_tiny_llava(model, seed=0)
        loaded = load(model, LoadSettings(device="cuda" if torch.cuda.is_available() else None))
        loaded.model.generation_config.eos_token_id = None  # no answer ends early: both do the same work
        samples = ask(draw(root, settings.images), settings.questions)
        wanted = AnswerSettings(batch_size=settings.batch_size, max_new_tokens=settings.new_tokens)
        answerer = TransformersAnswerer(loaded, wanted, images_root=root)
        slow, fast, same = [], [], 0
        for _ in range(settings.rounds):
            begun = time.perf_counter()
            alone = one_at_a_time(loaded, root, samples, settings.new_tokens)
            middle = time.perf_counter()
            together = {answer.id: answer.text for answer in answerer.answer(samples)}
            fast.append(len(samples) / (time.perf_counter() - middle))
            slow.append(len(samples) / (middle - begun))
            same = sum(alone[sample.id] == together[sample.id] for sample in samples)
    print(
        json.dumps(
            {
                "questions": len(samples),
                "new_tokens": settings.new_tokens,
                "one_at_a_time_per_s": round(statistics.median(slow), 1),
                "batched_per_s": round(statistics.median(fast), 1),
                "ratio": round(statistics.median(f / s for f, s in zip(fast, slow, strict=True)), 2),
                "same_answers": same,
                "threads": torch.get_num_threads(),
                "versions": {"torch": torch.__version__, "transformers": transformers.__version__},
                "machine": platform.machine(),
            },
            indent=2,
        )
    )


if __name__ == "__main__":
    main()
