"""Which warnings a user sees, and that none is lost to whoever keeps a log."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from mmpref.process.notices import passes

INSTALLED = """
import sys
from mmpref.process import notices
notices.install()
kept = []
"""
END = "\nprint(*kept, sep='\\n')\n"


def said(code: str, folder: Path, *options: str, **env: str) -> tuple[list[str], str]:
    """(what was kept for the log, what was shown) by some lines that run while a log is kept."""
    import os

    script = folder / "script.py"
    lines = "\n".join(f"    {line}" for line in code.strip().splitlines())
    script.write_text(f"{INSTALLED}with notices.kept_by(kept.append):\n{lines}\n{END}", encoding="utf-8")
    done = subprocess.run(
        [sys.executable, *options, str(script)], env={**os.environ, **env}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines(), done.stderr


OTHERS = """
import warnings, logging
warnings.warn("torch_dtype is deprecated", FutureWarning)
warnings.warn("a faster one is there", UserWarning)
logging.getLogger("transformers.models.llava").warning("Using a slow processor")
logging.getLogger("torch.distributed.elastic").warning("a banner")
"""


def test_warnings_of_other_libraries_go_to_the_log_alone(tmp_path: Path) -> None:
    kept, shown = said(OTHERS, tmp_path)
    assert shown == ""
    assert [line.partition(": ")[2] for line in kept] == [
        "torch_dtype is deprecated", "a faster one is there", "Using a slow processor", "a banner",
    ]  # fmt: skip


def test_who_asks_for_them_sees_them(tmp_path: Path) -> None:
    kept, shown = said(OTHERS, tmp_path, MMPREF_WARNINGS="1")
    assert len(kept) == 4
    for words in ("torch_dtype is deprecated", "a faster one is there", "Using a slow processor", "a banner"):
        assert words in shown
    _, shown = said(OTHERS, tmp_path, "-Wdefault")
    assert "torch_dtype is deprecated" in shown


def test_our_own_warnings_and_errors_of_others_are_always_shown(tmp_path: Path) -> None:
    code = """
import warnings, logging
from mmpref.errors import MMPrefError
class OurWarning(UserWarning): pass
OurWarning.__module__ = "mmpref.losses.settings"
warnings.warn("beta is large", OurWarning)
logging.getLogger("mmpref.models.load").warning("no processor")
logging.getLogger("transformers").error("cannot")
"""
    kept, shown = said(code, tmp_path)
    assert shown.splitlines() == ["mmpref: warning: beta is large", "mmpref: warning: no processor", "cannot"]
    assert len(kept) == 3


def test_a_warning_before_the_log_is_kept_is_not_lost(tmp_path: Path) -> None:
    code = "import warnings\nwarnings.warn('early')\n"
    script = tmp_path / "early.py"
    script.write_text(f"{INSTALLED}{code}with notices.kept_by(kept.append):\n    pass\n{END}", encoding="utf-8")
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("UserWarning of early.py: early\n", "")


@pytest.mark.parametrize("text", [
    "Some weights of LlavaForConditionalGeneration were newly initialized",
    "A decoder-only architecture is being used, but right-padding was detected!",
    "Token indices sequence length is longer than the specified maximum sequence length for this model",
    "None of the inputs have requires_grad=True. Gradients will be None",
    "Found missing adapter keys while loading the checkpoint: ['a']",
    "Flash attention is not available, falling back to eager",
    "overflow encountered in exp",
    "The following arguments are ignored: x",
])  # fmt: skip
def test_what_says_that_something_else_is_computed_is_shown(text: str) -> None:
    assert passes(text)


@pytest.mark.parametrize("text", [
    "The following generation flags are not valid and may be ignored: ['temperature']",
    "Failed to load CPU gemm_4bit_forward from kernels-community",
    "`use_cache=True` is incompatible with gradient checkpointing",
    "Setting `pad_token_id` to `eos_token_id`:2 for open-end generation.",
    "Using a slow image processor",
])  # fmt: skip
def test_what_says_nothing_of_the_result_is_not(text: str) -> None:
    assert not passes(text)
