"""How well judges of this machine agree with given verdicts on MMHal-Bench: the table of docs/evaluation.md.

    python scripts/measure_judges.py --template mmhal-bench_answer_template.json --work judges \
        [--answers answers.json --given reviews.json] [--model FOLDER]

All judges are asked by ``mmpref judge`` itself, over HTTP, with its own prompts, fences and schema; what differs is
who sits behind the server:

- ``rule``: text rules. It compares the words, numbers and yes or no of the answer with the human answer and the list of
  contents that the judge is shown.
- ``fitted``: a network of one hidden layer over ten figures of the same texts (shared words, letters, numbers,
  denials). It is fitted here to human answers (right), and to human answers to other questions or with one fact changed
  (wrong), five times, so that no question is judged by a network that was fitted to it.
- ``model``: a language model of this machine that says, of the seven replies that the schema allows, the likeliest.
  Without ``--model`` it is one of four layers with random weights: what no skill at all reaches.

They are measured on

- ``people``: the human answers of the template as answers; the given verdict is 6 by construction.
- ``exchanged``: to every question the human answer to the next question of the same type, where it is another; the
  given verdict is 0 by construction.
- ``--answers``, ``--given``: answers of a model and what the official judge, or people, said of them (the script's
  reviews, or verdicts), as any run of ``eval_gpt_mmhal.py`` leaves them.

``people`` and ``exchanged`` are measured together (``constructed``): where all given verdicts are the same, agreement
says nothing.
"""

from __future__ import annotations

import argparse
import json
import re
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from mmpref.cli.main import main as mmpref
from mmpref.evals.agreement import Agreement, agreement, agreement_cell
from mmpref.evals.text.content_words import content_words
from mmpref.files.rows import load_rows
from mmpref.files.writing import replacing

SHOWN = (
    "exact_agreement", "within_one", "mean_difference", "spearman", "weighted_kappa", "hallucination_agreement",
    "hallucination_kappa", "hallucination_rate_given", "hallucination_rate_judge",
)  # fmt: skip
Judge = Callable[[str, str, Mapping[str, str]], int]
"""Rates: the whole prompt, the fence, and the sections of the prompt by their titles -> 0 to 6."""


# --- the judge of rules ----------------------------------------------------------------------------------------------

_NUMBERS = {
    "one": "1", "two": "2", "three": "3", "four": "4", "five": "5", "six": "6", "seven": "7", "eight": "8",
    "nine": "9", "ten": "10", "no": "0", "zero": "0",
}  # fmt: skip
_DENIES = re.compile(r"\b(?:no|not|none|nobody|cannot|isn't|aren't|doesn't|there (?:is|are) no)\b", re.IGNORECASE)
_SAYS_YES = re.compile(r"\W*yes\b", re.IGNORECASE)


def by_rules(prompt: str, fence: str, sections: Mapping[str, str]) -> int:
    """How far an answer agrees with the human one, in words: 0, 1 or 2 with a contradiction, else 3 to 5."""
    answer, human = sections["ANSWER TO RATE"], sections["ANSWER OF A PERSON"]
    asked = content_words(sections["QUESTION"])
    known = content_words(sections["CONTENTS OF THE PICTURE"] + " " + human)
    said, new = content_words(answer), content_words(answer) - asked
    if not said and not re.search(r"\w", answer):
        return 3
    overlap = len(new & known) / len(new) if new else 0.0
    covered = len((content_words(human) - asked) & said) / max(1, len(content_words(human) - asked))
    contradicts = _numbers(answer) != _numbers(human) if _numbers(answer) and _numbers(human) else False
    turned = bool(_DENIES.search(human[:120])) != bool(_DENIES.search(answer[:120]))
    contradicts = contradicts or (turned and (_SAYS_YES.match(answer) or _DENIES.search(human[:120])) is not None)
    if contradicts or (new and not new & known):
        return min(2, round(2 * covered))
    if covered >= 0.5 or overlap >= 0.6:
        return 5 if covered >= 0.8 else 4
    return 3 if not new else (2 if covered >= 0.25 else 1)


def _numbers(text: str) -> set[str]:
    words = re.findall(r"[a-z]+|\d+", text.lower())
    return {_NUMBERS.get(word, word) for word in words if word in _NUMBERS or word.isdecimal()} - {"0"}


# --- the judge that is fitted ----------------------------------------------------------------------------------------

_FOLDS = 5
_EXCHANGED = [
    ("yes", "no"), ("two", "four"), ("three", "one"), ("red", "green"), ("white", "black"), ("blue", "yellow"),
    ("left", "right"), ("man", "woman"), ("sunny", "rainy"), ("open", "closed"), ("day", "night"), ("is", "is not"),
]  # fmt: skip


def _with_one_fact_changed(text: str) -> str | None:
    """The text with the first word of a list in the place of its partner; None where it has none of them."""
    for pair in _EXCHANGED:
        for word, other in (pair, pair[::-1]):
            changed, count = re.subn(rf"\b{word}\b", other, text, count=1, flags=re.IGNORECASE)
            if count:
                return changed
    return None


def _features(question: str, human: str, contents: str, answer: str) -> list[float]:
    """Ten figures of an answer beside what is known, each from about -1 to 1."""
    asked, known = content_words(question), content_words(f"{contents} {human}")
    said, told = content_words(answer), content_words(human)
    new, wanted = said - asked, told - asked

    def share(part: set[str], whole: set[str]) -> float:
        return len(part & whole) / len(part) if part else 0.5

    letters, own = ({text[k : k + 3] for k in range(len(text) - 2)} for text in (answer.lower(), human.lower()))
    both = letters | own
    yes, denied = ([bool(rule(text[:120])) for text in (answer, human)] for rule in (_SAYS_YES.match, _DENIES.search))
    numbers, others = _numbers(answer), _numbers(human)
    return [
        share(new, known), share(wanted, said), share(new, told), len(letters & own) / max(1, len(both)),
        float(yes[0] != yes[1]), float(denied[0] != denied[1]), float(bool(numbers and others and numbers != others)),
        float(bool(numbers & others)), min(1.0, len(answer) / max(1, len(human))), float(not new),
    ]  # fmt: skip


def by_fit(template: Path) -> Judge:
    """The rating of a network that was fitted to all questions but some, this one among them."""
    import torch

    rows = load_rows(template, "questions")
    fold = {" ".join(str(row["question"]).split()): number % _FOLDS for number, row in enumerate(rows)}
    cases: list[tuple[int, list[float], float]] = []
    for number, row in enumerate(rows):
        question, human = str(row["question"]), str(row["gt_answer"])
        contents = "; ".join(row["image_content"])
        wrong = [str(rows[(number + step) % len(rows)]["gt_answer"]) for step in (8, 16, 3)]
        for text, right in [(human, 1.0), *((text, 0.0) for text in (*wrong, _with_one_fact_changed(human)) if text)]:
            cases.append((fold[" ".join(question.split())], _features(question, human, contents, text), right))
        half = " ".join(human.split()[: max(3, len(human.split()) // 2)])  # right, and less of it
        cases.append((fold[" ".join(question.split())], _features(question, human, contents, half), 1.0))
    networks = []
    for left_out in range(_FOLDS):
        torch.manual_seed(left_out)
        shown = torch.tensor([figures for number, figures, _ in cases if number != left_out])
        labels = torch.tensor([[right] for number, _, right in cases if number != left_out])
        network = torch.nn.Sequential(torch.nn.Linear(shown.shape[1], 16), torch.nn.Tanh(), torch.nn.Linear(16, 1))
        optimizer = torch.optim.Adam(network.parameters(), lr=0.02, weight_decay=1e-3)
        for _ in range(300):
            optimizer.zero_grad()
            torch.nn.functional.binary_cross_entropy_with_logits(network(shown), labels).backward()
            optimizer.step()
        networks.append(network.eval())

    def rate(prompt: str, fence: str, sections: Mapping[str, str]) -> int:
        question = " ".join(sections["QUESTION"].split())
        figures = _features(
            question, sections["ANSWER OF A PERSON"], sections["CONTENTS OF THE PICTURE"], sections["ANSWER TO RATE"]
        )
        with torch.inference_mode():
            return round(6 * float(torch.sigmoid(networks[fold.get(question, 0)](torch.tensor([figures])))))

    return rate


# --- the judge that is a model ---------------------------------------------------------------------------------------


def by_model(folder: Path | None) -> Judge:
    """The likeliest of the seven replies that the schema allows; one at a time, on the CPU."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    lock = threading.Lock()
    if folder is None:
        sizes = {"hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 4, "num_attention_heads": 4}
        model = LlamaForCausalLM(LlamaConfig(vocab_size=256, max_position_embeddings=8192, **sizes))

        def ids(text: str) -> list[int]:
            return list(text.encode("utf-8"))[-8000:]

        def prompt_ids(prompt: str) -> list[int]:
            return ids(prompt)
    else:
        tokenizer = AutoTokenizer.from_pretrained(folder)
        model = AutoModelForCausalLM.from_pretrained(folder)

        def ids(text: str) -> list[int]:
            return list(tokenizer(text, add_special_tokens=False)["input_ids"])

        def prompt_ids(prompt: str) -> list[int]:
            if tokenizer.chat_template is None:
                return ids(prompt)
            turns = [{"role": "user", "content": prompt}]
            return ids(tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True))

    model.eval()

    def rate(prompt: str, fence: str, sections: Mapping[str, str]) -> int:
        shown = prompt_ids(f"{prompt}\n")
        start = ids(json.dumps({"fence": fence, "reason": ""})[:-1] + ', "score": ')
        with lock, torch.inference_mode():
            logits = model(torch.tensor([shown + start])).logits[0, -1].float().log_softmax(-1)
        return max(range(7), key=lambda score: float(logits[ids(str(score))[-1]]))

    return rate


# --- the server ------------------------------------------------------------------------------------------------------


@contextmanager
def serving(judge: Judge) -> Iterator[str]:
    """An OpenAI-compatible server on this machine, behind which the judge sits; gives its address."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            content = json.dumps(_reply(judge, request)).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/v1"
    finally:
        server.shutdown()
        server.server_close()


def _reply(judge: Judge, request: Mapping[str, Any]) -> dict[str, Any]:
    rules, texts = (message["content"] for message in request["messages"])
    found = re.findall(r"<<<(\w+) ([^\n]*)\n(.*?)\n\1>>>", texts, re.DOTALL)
    fence = found[0][0]
    score = judge(f"{rules}\n\n{texts}", fence, {title: text for _, title, text in found})
    said = json.dumps({"fence": fence, "reason": "", "score": score})
    used = {"prompt_tokens": len(texts) // 4, "completion_tokens": len(said) // 4}
    return {
        "id": "1", "object": "chat.completion", "model": request["model"],
        "choices": [{"index": 0, "message": {"role": "assistant", "content": said}, "finish_reason": "stop"}],
        "usage": {**used, "total_tokens": sum(used.values())},
    }  # fmt: skip


# --- what is judged --------------------------------------------------------------------------------------------------


def constructed(template: Path, work: Path) -> tuple[Path, Path, Path]:
    """Questions, answers and given verdicts: every question twice, with its human answer and with another's."""
    rows = [dict(row) for row in load_rows(template, "questions")]
    by_type: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        by_type.setdefault(str(row["question_type"]), []).append(row)
    asked, answers, given = [], [], []
    for same in by_type.values():
        for number, row in enumerate(same):
            other = same[(number + 1) % len(same)]
            for kind, text, score in (("people", row["gt_answer"], 6), ("exchanged", other["gt_answer"], 0)):
                if kind == "exchanged" and text == row["gt_answer"]:
                    continue
                name = f"{kind}-{row['image_id']}"
                asked.append({**row, "image_id": name, "model_answer": ""})
                answers.append({"id": name, "text": text})
                given.append({"id": name, "score": score, "judge": "by construction"})
    files = [work / f"constructed.{name}.json" for name in ("questions", "answers", "given")]
    for file, content in zip(files, (asked, answers, given), strict=True):
        with replacing(file) as stream:
            stream.write(json.dumps(content, ensure_ascii=False).encode("utf-8"))
    return files[0], files[1], files[2]


def measured(name: str, judge: Judge, sets: Mapping[str, tuple[Path, Path, Path]], work: Path) -> dict[str, Agreement]:
    """The agreement of one judge on every set."""
    found = {}
    with serving(judge) as url:
        for label, (questions, answers, given) in sets.items():
            out = work / f"{label}.{name}.jsonl"
            words = ["judge", "--benchmark", "mmhal", "--questions", str(questions), "--answers", str(answers)]
            if mmpref([*words, "--server", url, "--model", name, "--out", str(out)]):
                raise SystemExit(f"{name} did not judge {label}")
            found[label] = agreement("mmhal", questions, answers, given, out)
    return found


def main() -> None:
    """Judge, compare, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--template", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--answers", type=Path)
    parser.add_argument("--given", type=Path)
    parser.add_argument("--model", type=Path)
    args = parser.parse_args()
    if (args.answers is None) != (args.given is None):
        parser.error("--answers and --given go together")
    args.work.mkdir(parents=True, exist_ok=True)
    sets = {"constructed": constructed(args.template, args.work)}
    if args.answers is not None:
        sets["given"] = (args.template, args.answers, args.given)
    judges: Mapping[str, Judge] = {"rule": by_rules, "fitted": by_fit(args.template), "model": by_model(args.model)}
    found = {name: measured(name, judge, sets, args.work) for name, judge in judges.items()}
    print("\n".join(table(found, list(sets))))


def table(found: Mapping[str, Mapping[str, Agreement]], sets: Sequence[str]) -> list[str]:
    """The rows of the table of docs/evaluation.md."""
    columns = [(label, name) for label in sets for name in found]
    heads = " | ".join(f"{label}: {name}" for label, name in columns)
    counts = " | ".join(str(found[name][label].n) for label, name in columns)
    lines = [f"| | {heads} |", f"{'| --- ' * (len(columns) + 1)}|", f"| answers | {counts} |"]
    for metric in SHOWN:
        cells = [agreement_cell(found[name][label], metric) for label, name in columns]
        lines.append(f"| `{metric}` | " + " | ".join(cells) + " |")
    return lines


if __name__ == "__main__":
    main()
