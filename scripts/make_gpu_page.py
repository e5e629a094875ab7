#!/usr/bin/env python3
"""Make docs/gpu.md, and every sentence about GPUs in README and docs, from the newest results in results/gpu/.

    python scripts/make_gpu_page.py            write them
    python scripts/make_gpu_page.py --check    only say whether they are as they would be written

Each part of ``scripts/gpu_check.py`` is shown from the newest file that has figures of it, with the card, driver,
versions, commit and date of that file; what no file has says "not measured". Sentences stand between marks,
``<!-- gpu:NAME -->...<!-- /gpu:NAME -->``, in README.md and docs/*.md.
"""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))  # mmpref as it stands here, installed or not

from gpu_parts.evidence import Evidence, newest_of_each_part  # noqa: E402
from gpu_parts.page import page  # noqa: E402
from gpu_parts.sentences import SENTENCES  # noqa: E402


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing; end with 1 where something would change")
    parser.add_argument("--root", type=Path, default=ROOT, help="of the checkout (default: this one)")
    options = parser.parse_args()
    try:
        texts = written(options.root, newest_of_each_part(options.root / "results" / "gpu"))
    except ValueError as err:
        print(err, file=sys.stderr)
        return 2
    stale = [path for path, text in texts.items() if not path.exists() or path.read_text(encoding="utf-8") != text]
    for path in stale:
        print(f"{path.relative_to(options.root)}: {'not as it would be written' if options.check else 'written'}")
        if not options.check:
            path.write_text(texts[path], encoding="utf-8")
    if options.check and stale:
        print("run: python scripts/make_gpu_page.py")
        return 1
    return 0


def written(root: Path, evidence: Evidence) -> dict[Path, str]:
    """Every file that results are written into, with the text it should have.

    Raises:
        ValueError: a mark that has no sentence, or no end; names the file.
    """
    texts = {root / "docs" / "gpu.md": page(evidence)}
    for path in [root / "README.md", *sorted((root / "docs").glob("*.md"))]:
        if path.name != "gpu.md":
            texts[path] = with_sentences(path.read_text(encoding="utf-8"), evidence, path)
    return texts


def with_sentences(text: str, evidence: Evidence, path: Path) -> str:
    """A text with what stands between its marks written anew."""
    for name in re.findall(r"<!-- gpu:(\w+) -->", text):
        if name not in SENTENCES:
            raise ValueError(f"{path}: no sentence is called '{name}'; known: {', '.join(SENTENCES)}")
        between = re.compile(rf"(<!-- gpu:{name} -->).*?(<!-- /gpu:{name} -->)", re.DOTALL)
        if not between.search(text):
            raise ValueError(f"{path}: the mark gpu:{name} has no end; write <!-- /gpu:{name} --> behind its sentence")
        sentence = SENTENCES[name](evidence)
        text = between.sub(lambda found: f"{found[1]}{sentence}{found[2]}", text)  # noqa: B023 - called here and now
    return text


if __name__ == "__main__":
    sys.exit(main())
