import subprocess
import sys

SCRIPT = """
import sys
import mmpref.evals as evals
question = {"question_id": 1, "image": "a", "text": "?", "label": "yes"}
evals.score("pope", [question], [{"id": 1, "text": "yes"}])
heavy = [name for name in ("torch", "transformers", "datasets", "PIL") if name in sys.modules]
assert not heavy, heavy
"""


def test_scoring_loads_no_torch():
    subprocess.run([sys.executable, "-c", SCRIPT], check=True)
