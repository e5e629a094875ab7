"""The made-up benchmarks of tests/fixtures/evals as arguments of ``score``: questions, answers and options by name."""

import json
from pathlib import Path

FIXTURES = Path(__file__).parents[2] / "fixtures" / "evals"


SHORTER = {"repope": 80, "dash_b": 80, "naturalbench": 20, "crpe": 60, "mmvp": 40, "finer": 60}
"""Questions of a case; NaturalBench has four answers to each of its rows."""


def load(name):
    return json.loads((FIXTURES / f"{name}.json").read_text(encoding="utf-8"))


def amber_folder(case, folder):
    """The case as AMBER's data folder."""
    (folder / "query").mkdir(parents=True)
    for name, content in (("relation", case["relation"]), ("annotations", case["annotations"])):
        (folder / f"{name}.json").write_text(json.dumps(content), encoding="utf-8")
    (folder / "safe_words.txt").write_text("\n".join(case["safe_words"]), encoding="utf-8")
    (folder / "query" / "query_all.json").write_text(json.dumps(case["queries"]), encoding="utf-8")
    return folder


def arguments(name, tmp_path):
    """Questions, answers and options of one case."""
    case = load(name)
    questions = amber_folder(case, tmp_path / "amber") if name == "amber" else case["questions"]
    options = {key: case[key] for key in ("synonyms", "verdicts") if key in case}
    if (most := SHORTER.get(name)) is not None:  # what holds for every benchmark holds for a part; parity takes all
        options = {key: value[:most] for key, value in options.items()}
        answers = most * len(case["answers"]) // len(questions)
        return questions[:most], case["answers"][:answers], options
    if name == "mmhal":  # the judge's words, as one would write them for mmpref
        options["verdicts"] = [
            {"id": row["image_id"], "score": number % 7, "judge": "made up"}
            for number, row in enumerate(case["questions"])
        ]
    return questions, case["answers"], options


NAMES = (
    "pope",
    "chair",
    "amber",
    "hallusionbench",
    "mme",
    "mmhal",
    "object_halbench",
    "repope",
    "dash_b",
    "naturalbench",
    "crpe",
    "mmvp",
    "finer",
)
