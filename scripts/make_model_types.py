#!/usr/bin/env python3
"""Write docs/model_types.md: what becomes of every type of model that the installed transformers maps.

python scripts/make_model_types.py             measure all types and write the page
python scripts/make_model_types.py gemma3 ...  measure these, and write their rows into the page anew
"""

from __future__ import annotations

import sys
import tempfile
import warnings
from collections.abc import Sequence
from pathlib import Path

import transformers

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from tests.model_types.measure import Outcome, measure
from tests.model_types.registry import NOT_BUILT, WRITERS
from tests.model_types.table import PAGE, Row, read_table, row_of, written


def main(names: Sequence[str]) -> None:
    """Measure, and write."""
    warnings.filterwarnings("ignore")
    transformers.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    table = read_table()
    is_of_this_release = table.version == transformers.__version__
    rows: dict[str, Row] = dict(table.rows) if names and is_of_this_release else {}
    for name in names or sorted(WRITERS):
        with tempfile.TemporaryDirectory() as folder:
            outcome = measure(WRITERS[name], Path(folder) / "model")
        print(name, outcome, flush=True)
        rows[name] = row_of(outcome)
    rows |= {name: row_of(Outcome(state="not built here", reason=reason)) for name, reason in NOT_BUILT.items()}
    rows = {name: row for name, row in sorted(rows.items()) if name in WRITERS or name in NOT_BUILT}
    PAGE.write_text(written(rows, transformers.__version__), encoding="utf-8")
    print(f"wrote {PAGE}")


if __name__ == "__main__":
    main(sys.argv[1:])
