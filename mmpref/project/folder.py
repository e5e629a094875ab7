"""The folder of a project, written as a whole or not at all."""

from __future__ import annotations

import os
import shlex
import shutil
from pathlib import Path
from typing import Final

from mmpref.errors import ConfigError
from mmpref.files.writing import replacing_folder, write_text
from mmpref.project.choices import CPU, Data, Model
from mmpref.project.recipe import RUN, project_tree, recipe_text
from mmpref.version import __version__

_EXAMPLE_PAIRS: Final = 32
_IGNORED: Final = ("runs/", "runs.reference/", "evals/", "data_check/", "*.html", ".mmpref.lock")
_OF_THE_WORLD: Final = (
    *("pairs.jsonl", "pairs_heldout.jsonl", "pope_random.jsonl", "pope_popular.jsonl", "pope_adversarial.jsonl"),
    *("chair_prompts.jsonl", "chair_objects.json", "synonyms.txt"),
)
"""Files of the drawn world that a project has a use for; images are kept as well."""


def refuse_used(folder: Path) -> None:
    """Refuse a folder that holds something.

    Raises:
        ConfigError: names it.
    """
    if folder.resolve() == Path.cwd():
        raise ConfigError(f"{folder} is the working directory; name a new folder in it")
    if os.path.lexists(folder) and not folder.is_dir():
        raise ConfigError(f"{folder} is there already and is no folder; choose another name")
    if folder.is_dir() and any(folder.iterdir()):
        raise ConfigError(f"{folder} is not empty; choose another name, or an empty folder")


def write_project(folder: Path, model: Model, data: Data, method: str, card: str | None) -> list[str]:
    """Write the folder atomically.

    Returns:
        What was changed for the card.

    Raises:
        ConfigError: the folder holds something, or the recipe does not fit the card.
        CheckpointError: it cannot be written.
    """
    refuse_used(folder)
    tree, changed = project_tree(model, data, method, card)
    head = [f"{method} on {model.path}: the recipe of this project.", "  mmpref train recipe.yaml",
            "Memory: see mmpref plan recipe.yaml.", "Result: not measured.", "",
            f"Made by mmpref {__version__} (mmpref new) from the shipped recipe "
            f"{model.recipe}." if model.recipe else f"Made by mmpref {__version__} (mmpref new).",
            *([f"For {card}: {', '.join(changed)}"] if changed else [])]  # fmt: skip
    text = recipe_text(tree, head)
    with replacing_folder(folder) as made:
        write_text(made / "recipe.yaml", text)
        write_text(made / "README.md", readme(folder.name, model, data, method, card))
        write_text(made / ".gitignore", "".join(f"{name}\n" for name in _IGNORED))
        _write_data(made / "data", data)
    return changed


def _write_data(folder: Path, data: Data) -> None:
    folder.mkdir()
    if data.kind not in ("example", "demo"):
        write_text(folder / "README.md", f"The pairs of this project are read from {data.source}.\n")
        return
    from mmpref.demo.world import WorldSizes, make_world

    nothing = {"see_images": 1, "see_captions": 1, "see_questions": 1, "see_inventories": 0, "habit_images": 1,
               "habit_captions": 1, "habit_questions": 1}  # fmt: skip
    small = {"pairs": _EXAMPLE_PAIRS, "validation": 8, "heldout": 8, "pairs_heldout": 8}
    whole = WorldSizes()
    sizes = WorldSizes(**nothing, **(small if data.kind == "example" else {"pairs": whole.pairs}))
    world = folder / ".world"
    make_world(world, seed=0, sizes=sizes)
    for name in _OF_THE_WORLD:
        shutil.move(world / name, folder / name)
    shutil.move(world / "images", folder / "images")
    shutil.rmtree(world)
    if data.kind == "example":
        write_text(folder / "README.md", _LAYOUT)


_LAYOUT: Final = """# Data

`pairs.jsonl`: one pair a line; put yours in its place. Image paths start from this folder; `score_chosen` and
`score_rejected` may be left out for methods that read none. `mmpref data check` reads the formats of TRL, LLaMA-Factory
and ms-swift as well.

`pairs_heldout.jsonl`: pairs that are never trained on. `pope_*.jsonl`: yes or no questions about other images.
"""


_OTHER_QUESTIONS: Final = """\
Whether it makes things up less is said by questions about images that were not trained on. With the files of a
benchmark, before and after:

```text
mmpref eval --model {model} --benchmark pope --questions FILES --image-root FOLDER --out before
mmpref eval --model {run} --benchmark pope --questions FILES --image-root FOLDER --out after
mmpref report before after --out compare.html
```

"""


def readme(name: str, model: Model, data: Data, method: str, card: str | None) -> str:
    """The project's own commands, in the order in which they are run."""
    source = ["mmpref", "data", "check", data.source] + (["--image-root", data.root] if data.root else [])
    audit = [*source[:2], "audit", *source[3:]]
    if data.card is not None:
        source, audit = [[*words, "--card", data.card] for words in (source, audit)]
    plan = ["mmpref", "plan", "recipe.yaml"]
    if card not in (None, CPU):
        plan += ["--gpu-memory" if str(card)[0].isdigit() else "--gpu", str(card)]
    steps: list[tuple[str, list[str]]] = [
        ("Every row and image once; what is wrong goes to data_check/quarantine.jsonl", [shlex.join(source)]),
        ("What would spoil the training: length bias, scores, repeats, leaks", [shlex.join(audit)]),
        ("Will it fit, and would it start?", [shlex.join(plan), "mmpref doctor recipe.yaml"]),
    ]
    has_questions = data.kind in ("example", "demo")
    ask = "mmpref eval --model {} --benchmark pope --questions data/pope_random.jsonl --image-root data --out evals/{}"
    if has_questions:
        steps.append(("Ask the model before it is trained", [ask.format(shlex.quote(model.path), "before")]))
    steps.append((f"Train; the run is in {RUN}, and --resume goes on where it stopped", ["mmpref train recipe.yaml"]))
    if has_questions:
        steps.append(("Ask it again", [ask.format(RUN, "after")]))
        steps.append(("What changed, with intervals", ["mmpref report evals/before evals/after --out report.html"]))
    else:
        steps.append(("How it went: curves, margins and examples", [f"mmpref report {RUN} --out report.html"]))
    steps.append(
        ("The same with another seed: how much of it is chance", [f"mmpref train recipe.yaml seed=1 output={RUN}_1"])
    )
    said = (
        f"{method} on {model.path}, trained on {data.card or data.source}. Its commands, run in this folder in order:"
    )
    lines = [f"# {name}", "", said, ""]
    for number, (title, commands) in enumerate(steps, 1):
        lines += [f"{number}. {title}" + ("" if title.endswith("?") else ":"), "", "```bash", *commands, "```", ""]
    if not has_questions:
        lines += _OTHER_QUESTIONS.format(model=model.path, run=RUN).splitlines()
    lines += ["Every key of `recipe.yaml`: `mmpref config --keys`. Any of them can be changed on the command line: "
              "`mmpref train recipe.yaml train.learning_rate=1e-5 output=runs/second`.", ""]  # fmt: skip
    return "\n".join(lines)
