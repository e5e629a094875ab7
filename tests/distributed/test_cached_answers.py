"""Two processes compute the reference cache that one does: each distinct answer once, in shares of whole prompts."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from mmpref.cli.main import main
from tests.distributed.conftest import FSDP2, Place, run_together, torchrun
from tests.distributed.test_going_on import cut
from tests.tiers import corners

pytestmark = pytest.mark.distributed
LORA = ("adapter={kind: lora, rank: 4}", "tune={language: lora, projector: freeze, vision: freeze}")
CACHED = (*LORA, "reference.kind=cache", "train.per_device_train_batch_size=3")
COMPUTED = re.compile(r"reference cache: (\d+) answers of (\d+) pairs computed, (\d+) were there")


def entries(folder: Path) -> dict[str, torch.Tensor]:
    return {key: value for part in folder.glob("part-*.safetensors") for key, value in load_file(part).items()}


@pytest.mark.parametrize("strategy", corners(["ddp", "fsdp2"], "fsdp2"))
def test_two_processes_compute_each_answer_once_and_go_on_only_with_all_of_them(
    place: Place, tmp_path: Path, strategy: str, capfd: pytest.CaptureFixture[str]
) -> None:
    env = FSDP2 if strategy == "fsdp2" else {}
    rows = [json.loads(line) for line in (place.root / "several.jsonl").read_text(encoding="utf-8").splitlines()]
    answers = {
        (json.dumps(row["prompt"]), str(row["images"]), row[side]) for row in rows for side in ("chosen", "rejected")
    }
    assert len(answers) < 2 * len(rows)
    assert main(place.train(tmp_path / "one", *CACHED, pairs="several")) == 0
    told = str(len(answers)), str(len(rows)), "0"
    assert COMPUTED.findall(capfd.readouterr().out) == [told]
    line = place.train(tmp_path / "two", *CACHED, "train.save_steps=2", "train.save_total_limit=null", pairs="several")
    folder = tmp_path / "two.reference"
    others = ("loss.beta=0.3", "train.group_pairs=prompt", f"reference.cache={folder}")
    again = place.train(tmp_path / "again", *CACHED, *others, pairs="several")
    assert COMPUTED.findall(run_together([line, again], tmp_path, **env).stdout) == [told]  # and nothing for the second
    one, two = entries(tmp_path / "one.reference"), entries(folder)
    assert one.keys() == two.keys()
    assert len(two) == len(answers)
    for key, value in one.items():
        torch.testing.assert_close(two[key], value, atol=1e-5, rtol=1e-5)
    cut(tmp_path / "two", kept=2)
    lost = sorted(folder.glob("part-*"))[0]
    content = lost.read_bytes()
    lost.unlink()
    resumed = torchrun("-m", "mmpref", *line, "--resume", **env)
    if strategy == "ddp":  # the policy as it starts is there before the checkpoint is read
        assert resumed.returncode == 0, resumed.stderr[-3000:]
        [[computed, *_]] = COMPUTED.findall(resumed.stdout)
        assert 0 < int(computed) < len(answers)
        return
    assert resumed.returncode != 0
    assert re.search(r"lacks \d+ answers \(pairs '.*bring the cache back", " ".join(resumed.stderr.split()))
    lost.write_bytes(content)
    assert torchrun("-m", "mmpref", *line, "--resume", **env).returncode == 0
