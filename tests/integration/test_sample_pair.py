"""From scored candidates to a training run: what ``mmpref sample pair`` prints is carried out as it is printed."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest

from mmpref.cli.main import main
from mmpref.data.opening import open_pairs
from mmpref.data.quarantine import Quarantine
from mmpref.records import Candidate, Candidates, Prompt, Score
from mmpref.rundir.folder import RunDir
from mmpref.sampling.candidate_files import write_candidates
from mmpref.sampling.steps import CANDIDATES, Step, write_step
from tests.integration.conftest import Place

SCORE = Score(scorer="objects", version="1", scale=(0.0, 1.0), raw=1.0)


def candidates_of(place: Place) -> list[Candidates]:
    """Both answers of each pair of the world, as if a model had written and a scorer scored them."""
    found = []
    for number, (_, _, pair) in enumerate(open_pairs(place.world.pairs).candidates(Quarantine(), demonstrations=False)):
        answers = (Candidate(text=pair.chosen, seed=1, score=4.0 + number % 3 / 2, scores=(SCORE,)),
                   Candidate(text=pair.rejected or "", seed=2, score=2.0, scores=(SCORE,)))  # fmt: skip
        found.append(Candidates(prompt=Prompt(id=pair.id, images=pair.images, prompt=pair.prompt), answers=answers))
    return found


def test_the_command_that_is_printed_trains_on_the_pairs(
    place: Place, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    source = tmp_path / "my scores"
    source.mkdir()
    found = candidates_of(place)
    write_candidates(source / CANDIDATES, found)
    root = Path(place.world.root).absolute()
    given = {"made_from": ("x",), "settings": {"range": [0, 5]}, "counts": {}}
    write_step(source, Step(name="score", complete=True, image_root=root, **given))
    out = tmp_path / "my pairs"
    assert main(["sample", "pair", str(source), "--out", str(out), "--max-per-image", "1"]) == 0
    (command,) = re.findall(r"^  (mmpref .+)$", capfd.readouterr().out, re.MULTILINE)
    words = [word.replace("RECIPE", "demo_uni_dpo") for word in shlex.split(command)[1:]]
    here = [f"model.path={place.model}", "data.eval=[]", f"output={tmp_path / 'run'}", "train.max_steps=1"]
    assert main([*words, *here]) == 0
    manifest = RunDir(tmp_path / "run").manifest()
    rows = [json.loads(line) for line in (out / "pairs.jsonl").read_text().splitlines()]
    assert manifest["pairs"] == len(rows) == len({row["images"][0] for row in rows})
    assert manifest["quarantined"] == 0
    assert (manifest["loss"]["uni"]["eta"], manifest["loss"]["uni"]["tau_good"]) == (0.7, 4.5)

    capfd.readouterr()
    assert main(["data", "show", str(out / "card.md")]) == 0
    assert "objects 1 on 0..5" in capfd.readouterr().out
    card = json.dumps([{"path": str(out / "pairs.jsonl"), "card": str(out / "card.md")}])
    assert main(["data", "check", str(out / "pairs.jsonl"), "--card", str(out / "card.md"), "--image-root", str(root),
                 "--out", str(tmp_path / "check"), "--workers", "1"]) == 0  # fmt: skip
    assert main(["sample", "show", str(out)]) == 0
    assert main(["config", "demo_uni_dpo", f"data.train={card}"]) == 0
