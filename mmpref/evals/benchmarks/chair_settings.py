"""How recent papers ask CHAIR, by name: prompt, limit of new tokens, images. Read in their public repositories.

What none of them does here: their own ways of decoding. All settings are greedy, which is their baseline.
"""

from __future__ import annotations

from mmpref.evals.benchmarks.contract import Draw, NamedSetting

PROMPT = "Please describe this image in detail."
_OURS = "the authors' own images cannot be drawn again, because the script shuffles a folder in the file system's order"
_POPE = "neither the limit of new tokens nor how the 2,000 images were drawn is said there"


def _setting(
    name: str,
    source: str,
    *,
    tokens: int | None,
    draw: Draw | None,
    left_open: str,
    prompt: str = PROMPT,
    num: int | None = None,
) -> NamedSetting:
    return NamedSetting(
        name=name,
        source=source,
        options={"prompt": prompt},
        max_new_tokens=tokens,
        draw=draw,
        num=draw.num if draw is not None else num or 0,
        file_option="prompts",
        left_open=left_open,
    )


SETTINGS = (
    _setting(
        "opera_512",
        "shikiw/OPERA@61426ef chair_eval.py",
        tokens=512,
        draw=Draw(num=500, seed=42, of="val2014"),
        left_open=f"{_OURS}; the seed there is 42",
    ),
    _setting(
        "halc_64",
        "BillChan226/HALC@12ea8b5 run_scripts/caption_generation.py",
        tokens=64,
        draw=Draw(num=500, seed=0, of="val2014", by_name=False),
        left_open="the seed is an argument there (0 unless given), and the README does not say which was used",
    ),
    _setting(
        "pai_512",
        "LALBJ/PAI@9bbd8bd chair_eval.py",
        tokens=512,
        draw=Draw(num=500, seed=927, of="val2014"),
        left_open=f"{_OURS}; the seed there is 927",
        prompt="Please help me describe the image in detail.",
    ),
    _setting(
        "less_is_more_1024",
        "yuezih/less-is-more@f26e187 CHAIR-eval/eval.sh",
        tokens=1024,
        draw=None,
        num=500,
        left_open="its 500 images are those of CHAIR-eval/data/chair-500.jsonl of yuezih/less-is-more",
    ),
    _setting(
        "pope_short",
        "Li et al. 2023 (POPE), table of CHAIR",
        tokens=None,
        draw=Draw(num=2000, seed=0, of="val2014"),
        left_open=_POPE,
        prompt="Generate a short caption of the image.",
    ),
    _setting(
        "pope_brief",
        "Li et al. 2023 (POPE), table of CHAIR",
        tokens=None,
        draw=Draw(num=2000, seed=0, of="val2014"),
        left_open=_POPE,
        prompt="Provide a brief description of the given image.",
    ),
)
