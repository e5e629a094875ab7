#!/usr/bin/env python3
"""Write docs/model_types.md: what becomes of every type of model that the installed transformers maps.

python scripts/make_model_types.py             measure all types and write the page
python scripts/make_model_types.py gemma3 ...  measure these and print what was found
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
from tests.model_types.table import PAGE, written


def main(names: Sequence[str]) -> None:
    """Measure, and write or print."""
    warnings.filterwarnings("ignore")
    transformers.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    outcomes = {}
    for name in names or sorted(WRITERS):
        with tempfile.TemporaryDirectory() as folder:
            outcomes[name] = measure(WRITERS[name], Path(folder) / "model")
        print(name, outcomes[name], flush=True)
    if not names:
        outcomes |= {name: Outcome(state="not built here", reason=reason) for name, reason in NOT_BUILT.items()}
        PAGE.write_text(written(dict(sorted(outcomes.items())), transformers.__version__), encoding="utf-8")
        print(f"wrote {PAGE}")


if __name__ == "__main__":
    main(sys.argv[1:])
