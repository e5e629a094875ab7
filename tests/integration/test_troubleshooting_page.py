"""docs/troubleshooting.md: its messages are those of the code, and what can be said of a run has an entry there."""

from __future__ import annotations

import ast
import functools
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from mmpref import errors
from mmpref.doctor.needs import unmet
from mmpref.installation import Requirement
from mmpref.recipe.loading import load_recipe
from mmpref.report.health.section import _MEANINGS as ALARMS
from mmpref.report.health.verdicts import RULES
from tests.integration.test_docs import commands

ROOT = Path(__file__).resolve().parents[2]
FILE = ROOT / "docs" / "troubleshooting.md"
PAGE = FILE.read_text(encoding="utf-8")
FEWEST_LETTERS = 10
"""Letters of its own that a text of the code has, to be one that a sentence can be recognised by."""
WORDS_OF_AN_EXAMPLE = 6
"""A name, a number, a path or a few of them have fewer words; more are a sentence, which the code must have."""
SHARE_OF_THE_CODE = 0.4
"""Of the letters of a message, at least; the others are names and numbers."""
_PARTS = re.compile(r"; |, then |, or |\. (?=[A-Z])|: | -> | \((?=\d)|, ")
_WHERE = re.compile(r"^\S+, line \d+ \(id '.+?'\): \w+: (?:image \S+ )?|^rank \d+ (?=was)")
"""The row that a message is about, or the rank, before what the code says of it."""
_OF_A_LIBRARY = re.compile(r"(.+? cannot be loaded): .+ \.\.\.; (.+)")
"""What cannot be done, in words of another library that the page cuts, and what to do."""
ENTRY = re.compile(r"^#{2,3} (.+?)\n(.*?)(?=^#{2,3} |\Z)", flags=re.MULTILINE | re.DOTALL)
ENTRIES: dict[str, str] = {match[1]: match[2] for match in ENTRY.finditer(PAGE)}


def texts_of(tree: ast.AST) -> Iterator[str]:
    """Every text of a module, with NUL for what is filled in: f-strings, and the arguments of log calls."""
    for node in ast.walk(tree):
        match node:
            case ast.Constant(value=str() as text):
                yield re.sub(r"%[sd]", "\0", text)
            case ast.JoinedStr(values=values):
                yield "".join(str(one.value) if isinstance(one, ast.Constant) else "\0" for one in values)


@functools.cache
def templates() -> dict[str, re.Pattern[str]]:
    """Every text of mmpref that has words of its own -> a pattern of what it may become."""
    found = {}
    for file in sorted((ROOT / "mmpref").rglob("*.py")):
        for text in texts_of(ast.parse(file.read_text(encoding="utf-8"))):
            if sum(map(str.isalpha, text)) >= FEWEST_LETTERS and "\n" not in text:
                found[text] = re.compile("(.*?)".join(map(re.escape, text.split("\0"))), flags=re.DOTALL)
    return found


def letters(text: str) -> int:
    return sum(map(str.isalpha, text))


@functools.cache
def of_one_text(said: str) -> int | None:
    """How many of a sentence's letters are those of one text of the code and of what it is filled in with; None where
    there is none, or it is filled in with something that the code does not say.
    """
    found = []
    longest = max(said.split(), key=len, default="")
    for text, pattern in templates().items():
        if ("\0" in text or longest in text) and (match := pattern.fullmatch(said)) and match.groups() != (said,):
            inner = [filled_in(group) for group in match.groups()]
            if None not in inner:
                found.append(letters(text) + sum(filter(None, inner)))
    return max(found, default=None)


@functools.cache
def filled_in(said: str) -> int | None:
    """As :func:`of_one_text`, of what stands in a message: an example, a sentence of the code, or several in a row.

    An example is short, or ends with "...", as what another library says is shown on the page.
    """
    if len(said.split()) < WORDS_OF_AN_EXAMPLE or said.endswith("..."):
        return 0
    found = [of_one_text(said)]
    for cut in _PARTS.finditer(said):
        parts = filled_in(said[: cut.start()]), filled_in(said[cut.end() :])
        found.append(None if None in parts else sum(filter(None, parts)))
    found.append(of_one_text(said.partition(" ")[2]))  # behind a name
    return max((count for count in found if count is not None), default=None)


def is_of_the_code(said: str) -> bool:
    """Whether a message is a text of the code, filled in, and most of it no example."""
    said = _WHERE.sub("", said)
    if of_a_library := _OF_A_LIBRARY.fullmatch(said):  # errors.library_errors
        return all(of_one_text(part) for part in of_a_library.groups())
    found = of_one_text(said)
    return found is not None and found >= SHARE_OF_THE_CODE * letters(re.sub(r"`.*?`|'[^' ]+'", "", said))


def messages() -> list[str]:
    """Every message that the page shows: lines, each with the indented ones that continue it."""
    found: list[str] = []
    for block in re.findall(r"```text\n(.*?)```", PAGE, flags=re.DOTALL):
        for line in block.splitlines():
            if line.startswith("  "):
                found[-1] += f" {line.strip()}"
            else:
                found.append(line.removeprefix("mmpref: "))
    return [said.removesuffix(":") for said in found]


MESSAGES = messages()
NOT_INSTALLED = [said for said in MESSAGES if "which is not installed" in said]


def test_what_is_not_installed_is_said_as_the_page_shows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Requirement, "fault", lambda _: "is not installed")
    recipe = load_recipe("qwen2_5_vl_3b_uni_dpo_qlora", ["train.use_cpu=true"])
    assert len(NOT_INSTALLED) == 2
    assert set(NOT_INSTALLED) <= set(unmet(recipe, "zero3"))


@pytest.mark.parametrize("said", [said for said in MESSAGES if said not in NOT_INSTALLED], ids=lambda said: said[:60])
def test_a_message_is_one_of_the_code(said: str) -> None:
    assert is_of_the_code(said), said


def test_a_message_that_the_code_does_not_have_is_found_out() -> None:
    assert not is_of_the_code("the loss went up and nobody knows why, so take another one and try it again")
    assert not is_of_the_code(MESSAGES[0].replace("what would help most", "what helps most"))
    one = next(said for said in MESSAGES if "start-up check" in said)
    assert not is_of_the_code(one.replace("The model does not see its images", "Nothing of the images is seen by it"))


def test_every_alarm_and_every_check_of_a_run_has_an_entry() -> None:
    assert len(ALARMS) >= 7
    for alarm in ALARMS:
        assert f"`{alarm.removeprefix('alarm/')}`" in PAGE, alarm
    for check in RULES.keys() - {"alarms"}:
        assert f"`{check}`" in PAGE, check


def test_the_alarms_are_all_that_training_raises() -> None:
    """Their names as they are written in the code that raises them."""
    code = (ROOT / "mmpref" / "training" / "trainer" / "alarms.py").read_text(encoding="utf-8")
    look = code[code.index("def _look(") : code.index("def _chosen_falls(")]
    raised = {f"alarm/{name}" for name in re.findall(r'"(\w+)":', look)} | {"alarm/updates_swallowed"}
    assert raised == {alarm for alarm in ALARMS if alarm.startswith("alarm/")}


def test_every_start_up_check_has_a_line() -> None:
    found = start_up_checks()
    assert len(found) == 9
    table = ENTRIES["A start-up check failed"]
    for check in found:
        assert f"| {check} |" in table, check


def start_up_checks() -> set[str]:
    """Names that the code gives to its checks."""
    found = set()
    for name in ("preflight.py", "other_image_check.py"):
        tree = ast.parse((ROOT / "mmpref" / "training" / "trainer" / name).read_text(encoding="utf-8"))
        for node in ast.walk(tree):
            match node:
                case ast.Assign(targets=[ast.Name(id="name" | "GRADIENTS" | "OTHER_IMAGE")], value=value):
                    match value:
                        case ast.Constant(value=str() as text):
                            found.add(text)
                        case ast.JoinedStr():
                            text = next(texts_of(value))
                            found |= {text.replace("\0", kind) for kind in ("image", "video")}
    return found


def test_every_exit_code_of_an_error_is_in_the_table() -> None:
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, errors.MMPrefError)]
    table = PAGE[PAGE.index("| code | kind | see |") : PAGE.index("## Memory")]
    for kind in kinds:
        if kind not in (errors.MMPrefError, errors.StoppedError):
            assert re.search(rf"^\| {kind.exit_code} \| .*`{kind.__name__}`", table, flags=re.MULTILINE), kind
    assert "`StoppedError`" in table


def test_every_warning_of_a_result_is_named() -> None:
    code = (ROOT / "mmpref" / "evals" / "result_warnings.py").read_text(encoding="utf-8")
    names = re.findall(r"^- (.*?):", str(ast.get_docstring(ast.parse(code))), flags=re.MULTILINE | re.DOTALL)
    found = set(re.findall(r"``(\w+)``", " ".join(names)))
    assert len(found) == 10
    for name in found:
        assert f"`{name}`" in PAGE, name


def test_entries_say_why_what_to_do_and_how_to_see_that_it_helped() -> None:
    for title, text in ENTRIES.items():
        if "**Why.**" in text:
            assert "**Do" in text or "```bash" in text, title
            assert "**It helped**" in text or title == "another process writes there" or "costs too much" in title, (
                title
            )
    assert sum("**Why.**" in text for text in ENTRIES.values()) >= 28


def test_the_page_has_commands_and_reasons_of_rows_that_exist() -> None:
    assert len(commands(FILE)) >= 30
    table = ENTRIES["row N was refused"]
    reasons = {name for cell in re.findall(r"^\| (`.*?) \|", table, flags=re.MULTILINE)
               for name in re.findall(r"`(\w+)`", cell)}  # fmt: skip
    assert len(reasons) > 12
    texts = {text for file in (ROOT / "mmpref").rglob("*.py")
             for text in re.findall(r'"(\w+)"', file.read_text(encoding="utf-8"))}  # fmt: skip
    assert reasons - texts == {"image_crash"}  # which is made of two parts
