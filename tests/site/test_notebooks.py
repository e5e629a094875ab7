"""The notebooks of the site: executed with their assertions, stored without outputs, and tied to no machine."""

from __future__ import annotations

import json
import re
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOKS = sorted((ROOT / "docs" / "notebooks").glob("*.ipynb"))
pytestmark = pytest.mark.site


def run(notebook: nbformat.NotebookNode, folder: Path) -> nbformat.NotebookNode:
    client = NotebookClient(notebook, timeout=300, kernel_name="python3", resources={"metadata": {"path": str(folder)}})
    return client.execute()


@pytest.fixture(autouse=True)
def mmpref_of_this_tree(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


def test_there_are_two() -> None:
    assert [file.stem for file in NOTEBOOKS] == ["losses_on_paper_numbers", "pairs_to_report"]


@pytest.mark.parametrize("file", NOTEBOOKS, ids=lambda file: file.stem)
def test_it_is_stored_without_outputs_and_names_no_place_of_a_machine(file: Path) -> None:
    text = file.read_text(encoding="utf-8")
    notebook = json.loads(text)
    cells = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert len(cells) >= 6
    assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in cells)
    assert not re.search(r"/(home|root|work|tmp|Users)/|[A-Z]:\\\\", text)
    assert notebook["metadata"]["kernelspec"]["name"] == "python3"


@pytest.mark.parametrize("file", NOTEBOOKS, ids=lambda file: file.stem)
def test_it_runs_and_leaves_nothing_beside_it(file: Path, tmp_path: Path) -> None:
    done = run(nbformat.read(file, as_version=4), tmp_path)
    cells = [cell for cell in done.cells if cell.cell_type == "code"]
    assert all(cell.execution_count for cell in cells)
    asserted = [cell for cell in cells if "assert" in cell.source or "near(" in cell.source]
    assert len(asserted) >= 5
    shown = [
        output for cell in cells for output in cell.outputs if output.output_type in ("display_data", "execute_result")
    ]
    kinds = {kind for output in shown for kind in output.data}
    assert "image/png" in kinds if file.stem.startswith("losses") else "text/html" in kinds
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("right", "wrong"), [
    ("near(weight[100], 0.6682)", "near(weight[100], 0.6782)"),
    ('"adadpo": 0.2347', '"adadpo": 0.2247'),
    ('"AdaDPO, no ceiling": {"name": "adadpo", "ada": {"clip": None}}', '"AdaDPO, no ceiling": {"name": "adadpo"}'),
])  # fmt: skip
def test_another_number_ends_it(right: str, wrong: str, tmp_path: Path) -> None:
    text = NOTEBOOKS[0].read_text(encoding="utf-8")
    quoted, changed = json.dumps(right)[1:-1], json.dumps(wrong)[1:-1]
    assert text.count(quoted) == 1
    with pytest.raises(CellExecutionError, match="AssertionError"):
        run(nbformat.reads(text.replace(quoted, changed), as_version=4), tmp_path)
