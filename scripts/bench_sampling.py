"""How fast candidates are sampled.

    OMP_NUM_THREADS=1 python scripts/bench_sampling.py in-process [--model demo|qwen2_vl|DIR] [--prompts 32] [--n 8]

``in-process``: n sampled answers a prompt by ``SamplingAnswerer`` against what a plain script does for each of them:
open the image, processor, ``generate(do_sample=True)`` with a KV cache, decode. Answers have the full length, which is
the same work for both. A third way is ``SamplingAnswerer`` with each answer reading its own prompt. ``demo`` is the
demo's LLaVA, untrained, on scenes of its world; ``qwen2_vl`` a model of ``bench_models`` with a prompt of some 300
tokens. Rounds of all ways take turns; times are medians, and the ratios are what counts.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
import transformers
from PIL import Image

from mmpref.generation import AnswerSettings, SampleSettings, SamplingAnswerer
from mmpref.models.load import LoadSettings, load
from mmpref.models.loaded import LoadedModel
from mmpref.records import EvalSample, ImageRef, user_turn

_SIDE = 448  # of images for the larger model: 256 image tokens


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parts = parser.add_subparsers(required=True)
    local = parts.add_parser("in-process")
    local.set_defaults(measure=in_process)
    local.add_argument("--model", default="demo", help="demo, qwen2_vl, or a model folder")
    local.add_argument("--prompts", type=int, default=32)
    local.add_argument("--n", type=int, default=8, help="answers a prompt")
    local.add_argument("--new-tokens", type=int, default=32)
    local.add_argument("--batch-size", type=int, default=64)
    local.add_argument("--rounds", type=int, default=3)
    settings = parser.parse_args()
    versions = {"torch": torch.__version__, "transformers": transformers.__version__, "machine": platform.machine()}
    print(json.dumps({**settings.measure(settings), "versions": versions}, indent=2))


# ---- in process ----------------------------------------------------------------------------------------------------


def in_process(settings: argparse.Namespace) -> dict[str, object]:
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(temporary)
        folder = _model(settings.model, root)
        loaded = load(folder, LoadSettings(device="cuda" if torch.cuda.is_available() else None))
        loaded.model.generation_config.eos_token_id = None  # no answer ends early: all ways do the same work
        samples = _samples(settings, root)
        wanted = AnswerSettings(batch_size=settings.batch_size, max_new_tokens=settings.new_tokens)
        shared = SamplingAnswerer(loaded, wanted, sampling=SampleSettings(), images_root=root)
        apart = SamplingAnswerer(loaded, wanted, sampling=SampleSettings(), images_root=root, shares_prompts=False)
        ways: dict[str, Callable[[], dict[str, str]]] = {
            "one_at_a_time": lambda: _one_at_a_time(loaded, root, samples, settings.new_tokens),
            "shared": lambda: {answer.id: answer.text for answer in shared.answer(samples)},
            "not_shared": lambda: {answer.id: answer.text for answer in apart.answer(samples)},
        }
        texts: dict[str, dict[str, str]] = {}
        rates: dict[str, list[float]] = {name: [] for name in ways}
        for _ in range(settings.rounds):
            for name, run in ways.items():
                begun = time.perf_counter()
                texts[name] = run()
                rates[name].append(len(samples) / (time.perf_counter() - begun))
    alone = rates["one_at_a_time"]
    ratios = {
        f"{name}_against_one_at_a_time": round(
            statistics.median(rate / base for rate, base in zip(rates[name], alone, strict=True)), 2
        )
        for name in ("shared", "not_shared")
    }
    return {
        "model": settings.model,
        "prompts": settings.prompts,
        "answers_a_prompt": settings.n,
        "new_tokens": settings.new_tokens,
        **{f"{name}_answers_per_s": round(statistics.median(found), 2) for name, found in rates.items()},
        **ratios,
        "answers": len(samples),
        "same_answers_shared_and_not": sum(texts["shared"][key] == text for key, text in texts["not_shared"].items()),
        "facts": shared.facts,
        "threads": torch.get_num_threads(),
    }


def _model(name: str, root: Path) -> Path:
    if name == "demo":
        from mmpref.demo.tiny_models import build_tiny_llava

        build_tiny_llava(root / "model", seed=0)
        return root / "model"
    if name == "qwen2_vl":
        from bench_models import SCALED

        scaled = SCALED[name]()
        scaled.build().save_pretrained(root / "model")
        scaled.processor.save_pretrained(root / "model")
        return root / "model"
    return Path(name)


def _samples(settings: argparse.Namespace, root: Path) -> list[EvalSample]:
    if settings.model == "qwen2_vl":
        from bench_models import image

        for number in range(settings.prompts):
            image(ImageRef(path=str(number)), (_SIDE, _SIDE)).save(root / f"{number}.png")
        question = " ".join(f"w{number}" for number in range(40))
    else:
        from mmpref.demo.scenes import make_scenes
        from mmpref.demo.world import draw_scene

        for number, scene in enumerate(make_scenes(0, {"train": settings.prompts})["train"]):
            draw_scene(scene).save(root / f"{number}.png")
        question = "describe the image in detail ."
    return [
        EvalSample(
            id=f"{number}/{seed}",
            images=(ImageRef(path=f"{number}.png"),),
            prompt=user_turn(question, num_images=1),
            meta={"seed": seed},
        )
        for number in range(settings.prompts)
        for seed in range(settings.n)
    ]


def _one_at_a_time(loaded: LoadedModel, root: Path, samples: list[EvalSample], new_tokens: int) -> dict[str, str]:
    texts = {}
    for sample in samples:
        turns = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": sample.prompt[0].text}]}]
        prompt = loaded.processor.apply_chat_template(turns, add_generation_prompt=True)
        image = Image.open(root / str(sample.images[0].path)).convert("RGB")
        inputs = loaded.processor(text=prompt, images=image, return_tensors="pt", add_special_tokens=False)
        inputs = inputs.to(loaded.model.device)
        torch.manual_seed(sample.meta["seed"])
        with torch.inference_mode():
            ids = loaded.model.generate(**inputs, max_new_tokens=new_tokens, do_sample=True)
        assert ids.shape[1] == inputs["input_ids"].shape[1] + new_tokens
        texts[sample.id] = loaded.processor.decode(ids[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
    return texts


if __name__ == "__main__":
    main()
