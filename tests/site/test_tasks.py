"""A stranger follows the pages: every block of the README, the quick start and the task pages, in order.

Nothing but the wheel and the page's text is used, in an environment that has neither this repository nor a hub nor a
home. What differs from a reader's machine is small and stands here: models and data sets are those of :mod:`places`,
commands that train get what :data:`shell.SMALLER` says, ``--launch`` gets two processes on the CPU in the place of
GPUs, and what :data:`PAGES` replaces. The output that a page shows is compared with what the commands said. Lines that
are not run are in :data:`NOT_RUN`, with the reason.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.installed_wheel import ROOT, Installed
from tests.site import places
from tests.site.pages import blocks, not_said
from tests.site.shell import Shell, forking

pytestmark = [pytest.mark.site, pytest.mark.timeout(900)]

Lay = Callable[[places.Small, Path], None]


@dataclass(frozen=True)
class Page:
    """What a page needs to be there before its first command."""

    lay: Sequence[Lay] = ()
    models: Sequence[str] = ()
    """Hub names. ``mmpref plan`` does not see them: a reader runs it before anything is downloaded, and its numbers are
    those of the real model."""
    replaced: Sequence[tuple[str, str]] = ()
    """What is written otherwise in its blocks, so that a command of many minutes, or a path of the reader's, can be run
    here."""
    given: str = ""
    """Python that stands before a Python block which takes what a reader has."""
    itself: bool = False
    """Whether ``mmpref`` is the installed program itself, and no fork of a process that has its libraries loaded."""


QWEN, LLAVA = "Qwen/Qwen2.5-VL-3B-Instruct", "llava-hf/llava-1.5-7b-hf"
SMALL_DEMO = ("mmpref demo\n", "mmpref demo --scale 0.02\n")
TENSORS = """
import torch
chosen, rejected, ref_chosen, ref_rejected = -9 * torch.rand(4, 2)
chosen.requires_grad_()
chosen_len, rejected_len = torch.tensor([[7, 9], [8, 5]])
score_chosen, score_rejected = torch.tensor([[4.0, 5.0], [2.0, 1.5]])
"""
PAGES = {
    "README.md": Page(
        lay=[places.own_pairs, places.coco],
        models=[QWEN],
        replaced=[
            ("/path/to/images", "images"),
            ("/path/to/val2014", "val2014"),
            ('evals/llava evals/dpo "Ours=runs/uni_dpo"', 'before "Ours=after"'),
        ],
        given=TENSORS,
    ),
    "docs/quickstart.md": Page(replaced=[SMALL_DEMO], itself=True),
    "docs/tasks/qwen_own_pairs.md": Page(lay=[places.own_pairs, places.coco], models=[QWEN]),
    "docs/tasks/llava_rlhf_v.md": Page(lay=[places.rlhf_v, places.coco], models=[LLAVA]),
    "docs/tasks/full_8_gpus.md": Page(lay=[places.own_pairs], models=["Qwen/Qwen2-VL-2B-Instruct"]),
    "docs/tasks/scored_pairs_rounds.md": Page(
        lay=[places.own_pairs, places.coco], models=[QWEN], replaced=[("--rounds 2", "--rounds 1")]
    ),
    "docs/tasks/image_in_the_loss.md": Page(lay=[places.own_pairs], models=[QWEN]),
    "docs/tasks/evaluate_compare.md": Page(lay=[places.own_pairs, places.coco], models=[QWEN, LLAVA]),
    "docs/tasks/paper_settings.md": Page(
        lay=[places.uni_dpo],
        models=["Qwen/Qwen2-VL-2B-Instruct", "Qwen/Qwen2.5-0.5B-Instruct", "Qwen/Qwen2.5-Math-7B"],
    ),
    "docs/tasks/move_here.md": Page(lay=[places.own_pairs], models=[QWEN]),
}
NOT_RUN = {
    "bash scripts/": "makes an environment of its own; CI runs these scripts",
    "pip install": "the wheel is installed already, from this working tree",
    "hf download": "no hub is reached; files of the same form are there",
}
"""How a line begins -> why it is not run."""


@pytest.fixture(scope="session")
def stranger(installed: Installed) -> Shell:
    return Shell.of(installed)


@pytest.fixture(scope="session")
def forks(stranger: Shell, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shell]:
    with forking(stranger, tmp_path_factory.mktemp("forks") / "server") as ready:
        yield ready


@pytest.fixture(scope="session")
def small(tmp_path_factory: pytest.TempPathFactory) -> places.Small:
    return places.Small(tmp_path_factory.mktemp("small"))


def test_the_stranger_has_the_wheel_and_not_this_repository(stranger: Shell, tmp_path: Path) -> None:
    said = stranger.run_python("import sys, mmpref; print(mmpref.__file__); print(sys.path)", tmp_path)
    assert said.returncode == 0, said.stdout
    file, path = said.stdout.splitlines()
    assert Path(file).is_relative_to(stranger.python.parent.parent)
    assert str(ROOT) not in path.replace(f"{ROOT}/.venv", "")
    assert "PYTHONPATH" not in stranger.env
    version = stranger.bash("mmpref --version; command -v mmpref; mmpref data list", tmp_path)
    assert version.returncode == 0, version.stdout
    assert str(stranger.python.parent / "mmpref") in version.stdout
    assert "vlfeedback" in version.stdout  # the cards are in the wheel


def test_every_page_is_followed() -> None:
    pages = {
        "README.md",
        "docs/quickstart.md",
        *(f"docs/tasks/{file.name}" for file in (ROOT / "docs/tasks").glob("*.md")),
    }
    assert pages == set(PAGES)


@pytest.mark.parametrize("name", PAGES)
def test_a_stranger_can_follow_the_page(
    name: str, stranger: Shell, request: pytest.FixtureRequest, small: places.Small, tmp_path: Path
) -> None:
    page = PAGES[name]
    machine = stranger if page.itself else request.getfixturevalue("forks")
    for lay in page.lay:
        lay(small, tmp_path)
    places.models(*page.models)(small, tmp_path)
    replaced = set()
    for block in blocks(ROOT / name):
        where = f"{name}, line {block.line}"
        lines = [line for line in block.text.splitlines(keepends=True) if not line.startswith(tuple(NOT_RUN))]
        text = "".join(lines)
        plans = text.startswith("mmpref plan")
        for old, new in page.replaced:
            if old in text:
                replaced.add(old)
                text = text.replace(old, new)
        with places.hidden(page.models if plans else (), tmp_path):
            done = (
                machine.bash(text, tmp_path)
                if block.kind == "bash"
                else machine.run_python(page.given + text, tmp_path)
            )
        assert done.returncode == 0, f"{where} ended with {done.returncode}:\n{text}\n{done.stdout[-4000:]}"
        assert "Traceback" not in done.stdout, f"{where}:\n{done.stdout[-4000:]}"
        lacking = not_said(block.shown, done.stdout, exact=plans)
        assert lacking is None, f"{where} shows {lacking!r}, and the command said:\n{done.stdout[-6000:]}"
    assert replaced == {old for old, _ in page.replaced}, f"{name}: nothing to replace any more"
