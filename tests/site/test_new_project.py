"""Every command of a new project's README, in order, with a tiny model of the architecture."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from mmpref.cli.main import main
from tests.site.places import Small

pytestmark = pytest.mark.site


@pytest.mark.parametrize(
    ("family", "method"), [("Qwen/Qwen2.5-VL-3B-Instruct", "uni_dpo"), ("llava-hf/llava-1.5-7b-hf", "mdpo")]
)
def test_the_readme_s_commands_work_in_order(
    family: str, method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    model = Small(tmp_path / "small").model(family)
    project = tmp_path / "project"
    given = ["--model", str(model), "--data", "example", "--gpu", "cpu", "--method", method]
    assert main(["new", str(project), *given]) == 0
    monkeypatch.chdir(project)
    blocks = re.findall(r"^```bash\n(.*?)^```", (project / "README.md").read_text(), re.MULTILINE | re.DOTALL)
    commands = [shlex.split(line) for block in blocks for line in block.splitlines()]
    assert [words[1] for words in commands] == [
        "data", "data", "plan", "doctor", "eval", "train", "eval", "report", "train",
    ]  # fmt: skip
    for words in commands:
        capsys.readouterr()
        assert words[0] == "mmpref"
        code = main(words[1:])
        said = capsys.readouterr()
        # a model of two layers cannot answer these questions, which the evaluation says with its own exit code
        unread = words[1] == "eval" and "answers could not be read" in said.err
        assert code == (8 if unread else 0), f"{shlex.join(words)}\n{said.out}\n{said.err}"
    for when in ("before", "after"):
        assert (project / "evals" / when / "results.json").is_file()
    assert (project / "report.html").stat().st_size > 10_000
    ignored = (project / ".gitignore").read_text().split()
    left = {path.name + ("/" if path.is_dir() else "") for path in project.iterdir()}
    assert {"runs/", "evals/", "data_check/"} <= left & {*ignored}
    assert left - {*ignored} <= {"recipe.yaml", "README.md", ".gitignore", "data/", "report.html", "data_audit/"}
