"""Files of every kind, damaged by chance and by design, through the real commands: each ends well or with one line,
within a gigabyte and a minute."""

from __future__ import annotations

import gzip
import json
import os
import random
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.forked_commands import Ended, ForkedCommands
from tests.integration.test_odd_paths import USUAL, world
from tests.unit.report.folders import demo_like, write_pairs

RECIPE = """# a recipe
output: o/run
seed: 3
model: {path: m, dtype: float32}
data:
  train: [{path: pairs.jsonl, weight: 2.0}]
  root: images
  max_bad_fraction: 0.01
processing: {max_length: 512, template_kwargs: {enable_thinking: false}}
loss: {name: uni_dpo, uni: {tau_good: 3.5, eta: 0.7}}
tune: {vision: freeze, language: lora}
adapter: {kind: lora, rank: 8, alpha: 16}
train:
  learning_rate: 1.0e-6
  max_steps: 10
  report_to: [tensorboard]
  lr_scheduler_kwargs: {}
"""
DESCRIBED = {
    "mine": {
        "file_name": "alpaca.json",
        "ranking": True,
        "columns": {"prompt": "instruction", "chosen": "chosen", "rejected": "rejected"},
    }
}
ALPACA = [
    {"instruction": "What is two and two?", "chosen": "Four.", "rejected": "Five.", "id": str(n)} for n in range(3)
]
SCORE = ["score", "--benchmark", "pope", "--questions", "q.json", "--answers", "a.jsonl"]
CHAIR = [
    "score",
    "--benchmark",
    "chair",
    "--questions",
    "gt.json",
    "--answers",
    "captions.jsonl",
    "synonyms=synonyms.txt",
]
REPORT = ["report", "runs/base", "runs/uni", "--out", "o/r.html"]
CHECK = ["data", "check", "--workers", "1", "--out", "o/check"]

FILES: dict[str, list[str]] = {
    "recipe.yaml": ["config", "recipe.yaml"],
    "pairs.jsonl": [*CHECK, "pairs.jsonl", "--root", "images"],
    "alpaca.json": [*CHECK, "alpaca.json"],
    "dataset_info.json": [*CHECK, "dataset_info.json"],
    "pairs.parquet": [*CHECK, "pairs.parquet", "--root", "images"],
    "pairs.arrow": [*CHECK, "pairs.arrow", "--root", "images"],
    "povid.md": ["data", "show", "povid.md"],
    "checked/data_report.json": [
        "data", "verify", "pairs.jsonl", "--root", "images", "--report", "checked/data_report.json"
    ],
    "ids.json": ["data", "audit", "pairs.jsonl", "--root", "images", "--benchmark-ids", "pope=ids.json"],
    "q.json": SCORE,
    "a.jsonl": SCORE,
    "gt.json": CHAIR,
    "captions.jsonl": CHAIR,
    "synonyms.txt": CHAIR,
    "verdicts.jsonl": ["score", "--benchmark", "mmhal", "--questions", "mmhal.json", "--answers", "mmhal.jsonl",
                       "verdicts=verdicts.jsonl"],
    "mmhal.json": ["export", "--benchmark", "mmhal", "--questions", "mmhal.json", "--answers", "mmhal.jsonl",
                   "--to", "official", "--out", "o/x.json"],
    "runs/uni/manifest.json": REPORT,
    "runs/uni/metrics.jsonl": REPORT,
    "runs/uni/recipe.yaml": REPORT,
    "runs/uni/pairs.parquet": REPORT,
    "runs/uni/evals/chair/results.json": REPORT,
    "runs/uni/evals/chair/items.jsonl": REPORT,
}  # fmt: skip
OVERRIDES = ("train.learning_rate", "loss.beta", "model.path", "adapter", "data.train", "train.extra", "output", "seed")
ODD_VALUES = (
    "1e999", ".inf", "nan", "-0", "9" * 40, "9" * 5000, "null", "~", "true", "[]", "{}", "[" * 5000,
    "{a: " * 2000, "*a", "&a 1",
    "!!binary aGk=", "!!python/name:os.system x", "!!timestamp x", "? [a]", "{<<: {a: 1}}", "'", '"',
    '"\\uD800"', '"\\0"',
    '"\\UFFFFFFFF"', "|\n a", "a\tb", "\u2028", "a: b: c", "@x", "`x", "%x", "--- a", "# x", "x # y", "é" * 2000,
    "1_000", "0x10", "012", "1e-400", "{'a b': 1}", "{1: 2}", "{[a]: 2}", "- a", "x" * 100_000,
)  # fmt: skip
ODD_TEXTS = (
    b"\0", b"\xff\xfe", b"\xef\xbb\xbf", b"[" * 200_000, b"{" * 200_000, b'{"a":' * 100_000, b"9" * 5000,
    b"1e999", b"NaN",
    b"-Infinity", b'"\\ud800"', b"\r", b"\x1b[31m", b'"', b"\\", b",", b"null", b"[]", b"{}", b"true", b"---\n", b"\t",
    b"&a [*a]", b"*a", b"!!binary ", b"? ", b"<<: ", b"\x85", "\u2028".encode(), b"\n" * 3, b"1e400", b'"x" ' * 40,
)  # fmt: skip


def truncated(content: bytes, chance: random.Random) -> bytes:
    return content[: chance.randrange(len(content) + 1)]


def flipped(content: bytes, chance: random.Random) -> bytes:
    changed = bytearray(content)
    for _ in range(chance.choice((1, 3, 30))):
        changed[chance.randrange(len(changed))] = chance.randrange(256)
    return bytes(changed)


def inserted(content: bytes, chance: random.Random) -> bytes:
    place = chance.randrange(len(content) + 1)
    return content[:place] + chance.choice(ODD_TEXTS) + content[place:]


def replaced(content: bytes, chance: random.Random) -> bytes:
    """A word or a number gives way to something odd."""
    words = [
        part for part in content.replace(b'"', b" ").replace(b":", b" ").replace(b",", b" ").split() if len(part) > 1
    ]
    if not words:
        return chance.choice(ODD_TEXTS)
    return content.replace(chance.choice(words), chance.choice(ODD_TEXTS), chance.choice((1, -1)))


def shuffled(content: bytes, chance: random.Random) -> bytes:
    lines = content.splitlines(keepends=True)
    for _ in range(chance.choice((1, 4))):
        lines.insert(chance.randrange(len(lines) + 1), chance.choice(lines))
    if chance.random() < 0.5:
        chance.shuffle(lines)
    return b"".join(lines)


def encoded(content: bytes, chance: random.Random) -> bytes:
    text = content.decode("utf-8", "replace")
    ways: list[Callable[[], bytes]] = [
        lambda: text.encode("utf-16"),
        lambda: text.encode("utf-32"),
        lambda: b"\xef\xbb\xbf" + content,
        lambda: content.replace(b"\n", b"\r"),
        lambda: content.replace(b"\n", b"\r\n"),
        lambda: gzip.compress(content),
        lambda: b"PK\x03\x04" + content,
        lambda: b"PAR1" + content,
        lambda: content * 300,
        lambda: b"",
    ]
    return chance.choice(ways)()


def retyped(content: bytes, chance: random.Random) -> bytes:
    """A value of JSON, somewhere in it, becomes one of another type; of other files a line does."""
    odd = [
        None,
        True,
        7,
        -1,
        10**400,
        1e308,
        "x",
        "",
        "\ud800",
        [],
        {},
        [[]],
        [None],
        {"a": None},
        ["x"] * 1000,
        float("nan"),
    ]
    text = content.decode("utf-8", "replace")
    lines = [text] if text.lstrip()[:1] in "[{" and text.count("\n{") == 0 else text.split("\n")
    place = chance.randrange(len(lines))
    try:
        tree = json.loads(lines[place])
    except ValueError:
        lines[place] = f"{lines[place].partition(':')[0]}: {chance.choice(ODD_VALUES[:40])}"
        return "\n".join(lines).encode("utf-8", "surrogatepass")
    spots = list(spots_in(tree))
    if not spots:
        return inserted(content, chance)
    node, key = chance.choice(spots)
    node[key] = chance.choice(odd)
    lines[place] = json.dumps(tree)
    return "\n".join(lines).encode("utf-8", "surrogatepass")


def spots_in(tree: object) -> Iterator[tuple[dict[object, object] | list[object], object]]:
    items = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    for key, value in items:
        yield tree, key  # type: ignore[misc]
        yield from spots_in(value)


DAMAGES = (truncated, flipped, inserted, replaced, shuffled, encoded, retyped, retyped)


@dataclass(frozen=True)
class Damage:
    """One damaged file, made again from its number."""

    file: str
    number: int

    def content(self, whole: bytes) -> bytes:
        chance = random.Random(f"{self.file} {self.number}")
        for _ in range(chance.choice((1, 1, 2))):
            whole = DAMAGES[(self.number + chance.randrange(2)) % len(DAMAGES)](whole or b"\n", chance)
        return whole


@pytest.fixture(scope="module")
def run() -> Iterator[ForkedCommands]:
    modules = ("mmpref.data.opening", "mmpref.data.check", "mmpref.data.audit", "mmpref.evals", "mmpref.report.page")
    with ForkedCommands(*modules, "pyarrow.parquet") as commands:
        yield commands


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, run: ForkedCommands) -> Path:
    """The files as they should be, and the proof that each command works on them."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    folder = tmp_path_factory.mktemp("whole")
    before = Path.cwd()
    os.chdir(folder)
    try:
        world(folder)
    except PermissionError:
        pytest.skip("a device of its own needs the rights to make one")
    finally:
        os.chdir(before)
    pair = json.loads((folder / "pairs.jsonl").read_text())
    pairs = [{**pair, "id": str(n), "score_chosen": 4.0, "score_rejected": 2.0} for n in range(3)]
    (folder / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in pairs))
    table = pa.Table.from_pylist(pairs)
    pq.write_table(table, folder / "pairs.parquet")
    with pa.ipc.new_file(folder / "pairs.arrow", table.schema) as stream:
        stream.write_table(table)
    (folder / "recipe.yaml").write_text(RECIPE)
    (folder / "alpaca.json").write_text(json.dumps(ALPACA, indent=1))
    (folder / "dataset_info.json").write_text(json.dumps(DESCRIBED, indent=1))
    shutil.copy(Path(__file__).parents[2] / "data_cards" / "povid.md", folder / "povid.md")
    (folder / "ids.json").write_text(json.dumps([{"image": "COCO_val2014_000000000042.jpg"}, {"image_id": 7}]))
    mmhal = [{"question_type": "other", "question_topic": "x", "image_id": "a", "image_src": "http://x/a.jpg",
              "image_content": ["cat"], "question": "What?", "gt_answer": "A cat."}]  # fmt: skip
    (folder / "mmhal.json").write_text(json.dumps(mmhal))
    (folder / "mmhal.jsonl").write_text(json.dumps({"id": "0", "text": "A cat."}) + "\n")
    (folder / "verdicts.jsonl").write_text(json.dumps({"id": "0", "score": 5}) + "\n")
    demo_like(folder / "runs", count=12)
    for name, at in zip(("base", "uni"), sorted((folder / "runs").iterdir()), strict=False):
        at.rename(folder / "runs" / name)
    logged = [{"step": n, "pair_id": str(n), "rewards/margins": 0.1 * n, "uni/w_perf": None} for n in range(9)]
    write_pairs(folder / "runs" / "uni" / "pairs.parquet", logged)
    done = run([*CHECK[:-1], "checked", "pairs.jsonl", "--root", "images"], folder=folder)
    assert done.code == 0, done.err
    return folder


def fault_of(run: ForkedCommands, folder: Path, damage: Damage) -> tuple[str | None, Ended]:
    file = folder / damage.file
    good = file.read_bytes()
    file.write_bytes(damage.content(good))
    try:
        ended = run(FILES[damage.file], folder=folder, memory_mib=1024, seconds=60)
    finally:
        file.write_bytes(good)
        shutil.rmtree(folder / "o", ignore_errors=True)
        (folder / "o").mkdir()
    fault = ended.fault(*USUAL)
    return (None if fault is None else f"{damage}: {' '.join(FILES[damage.file])}: {fault}"), ended


def sweep(run: ForkedCommands, folder: Path, damages: list[Damage], capsys: pytest.CaptureFixture[str]) -> list[str]:
    found = [fault_of(run, folder, damage) for damage in damages]
    slowest, largest = max(ended.seconds for _, ended in found), max(ended.peak_mib for _, ended in found)
    with capsys.disabled():
        print(f"\n{len(found)} damaged files: longest {slowest:.2f} s, memory +{largest:.0f} MiB at most")  # noqa: T201
    return [fault for fault, _ in found if fault is not None]


@pytest.mark.slow
def test_commands_take_the_whole_files(run: ForkedCommands, whole: Path) -> None:
    for argv in {tuple(argv): argv for argv in FILES.values()}.values():
        ended = run(argv, folder=whole)
        assert ended.code == 0, ended.err


def test_damaged_files_are_one_line(run: ForkedCommands, whole: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert sweep(run, whole, [Damage(file, number) for number, file in enumerate(FILES) if number % 2], capsys) == []


def test_values_that_are_none_are_one_line(run: ForkedCommands, whole: Path) -> None:
    found = []
    for place, value in enumerate(ODD_VALUES):
        argv = ["config", "recipe.yaml", f"{OVERRIDES[place % len(OVERRIDES)]}={value}"]
        if fault := run(argv, folder=whole).fault(*USUAL):
            found.append(f"{argv[2][:80]!a}: {fault}")
    assert found == []


@pytest.mark.slow
@pytest.mark.parametrize("file", FILES)
def test_many_damaged_files_are_one_line(
    file: str, run: ForkedCommands, whole: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    count = 150 if file == "recipe.yaml" else 25
    assert sweep(run, whole, [Damage(file, number) for number in range(100, 100 + count)], capsys) == []


@pytest.mark.slow
@pytest.mark.parametrize("key", OVERRIDES)
def test_every_odd_value_of_a_key_is_one_line(key: str, run: ForkedCommands, whole: Path) -> None:
    faults = [run(["config", "recipe.yaml", f"{key}={value}"], folder=whole).fault(*USUAL) for value in ODD_VALUES]
    assert [fault for fault in faults if fault] == []


@pytest.mark.slow
def test_processes_of_their_own_end_as_forks_do(run: ForkedCommands, whole: Path) -> None:
    import subprocess
    import sys

    for damage in [Damage(file, 7) for file in list(FILES)[::4]]:
        file = whole / damage.file
        good = file.read_bytes()
        file.write_bytes(damage.content(good))
        try:
            alone = subprocess.run(
                [sys.executable, "-m", "mmpref", *FILES[damage.file]], cwd=whole, capture_output=True, check=False,
                env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}, text=True, stdin=subprocess.DEVNULL,
            )  # fmt: skip
            forked = run(FILES[damage.file], folder=whole)
        finally:
            file.write_bytes(good)
        assert alone.returncode == forked.code, (damage, alone.stderr, forked.err)
        assert "Traceback" not in alone.stderr
