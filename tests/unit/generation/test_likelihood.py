"""Log-probs of pairs that share their prompts: run together, and the numbers of each pair alone."""

from __future__ import annotations

import json
import random
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from mmpref.evals import evaluate  # noqa: E402
from mmpref.evals.benchmarks.preference import load_questions  # noqa: E402
from mmpref.files.rows import Row  # noqa: E402
from mmpref.generation import AnswerSettings, LikelihoodAnswerer  # noqa: E402
from mmpref.generation.contract import deal  # noqa: E402
from mmpref.generation.likelihood import _pair_of  # noqa: E402
from mmpref.generation.local_model import Batches  # noqa: E402
from mmpref.models import AdapterSettings, LoadedModel, Tuning, load, prepare  # noqa: E402
from mmpref.records import ImageRef  # noqa: E402
from tests.tiny_vlms import build, draw  # noqa: E402

ANSWERS = ("a red square .", "a red dog .", "there is no cat .", "two yellow boxes and a dog .")
NUMBERS = ("chosen", "rejected", "chosen_len", "rejected_len", "ref_chosen", "ref_rejected")


def six_pairs(name: str, question: str, image: str | None) -> list[dict[str, Any]]:
    """Six pairs of four answers to one question."""
    parts = [{"type": "image"}] if image else []
    prompt = [{"role": "user", "content": [*parts, {"type": "text", "text": question}]}]
    return [
        {"id": f"{name}{one}{other}", "images": [image] if image else [], "prompt": prompt,
         "chosen": ANSWERS[one], "rejected": ANSWERS[other]}
        for one, other in combinations(range(4), 2)
    ]  # fmt: skip


def shuffled_rows() -> list[dict[str, Any]]:
    rows = [
        *six_pairs("i", "what is in the image ?", "28x28-1"),
        *six_pairs("j", "describe it , please .", "60x60-2"),
        *six_pairs("t", "is there a dog ?", None),
    ]
    rows.append({**rows[0], "id": "other image", "rejected_images": ["56x28-3"]})
    rows.append({**rows[1], "id": "begun", "response_prefix": "it is"})
    random.Random(0).shuffle(rows)
    return rows


@pytest.fixture(scope="module", params=["llava", "qwen2_vl"])
def loaded(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> LoadedModel:
    found = load(build(request.param, tmp_path_factory.mktemp("model")))
    found = prepare(found, Tuning(language="lora"), AdapterSettings(rank=4))
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, weight in found.model.named_parameters():
            if "lora_B" in name:
                weight.copy_(0.1 * torch.randn(weight.shape, generator=generator))
    return found


def answerer(loaded: LoadedModel, **settings: Any) -> LikelihoodAnswerer:
    return LikelihoodAnswerer(loaded, AnswerSettings(**settings), load_image=draw)


def numbers(made: LikelihoodAnswerer, rows: list[Row]) -> dict[str, dict[str, float]]:
    return {answer.id: json.loads(answer.text) for answer in made.answer(load_questions(rows, {}))}


def test_pairs_of_one_prompt_have_the_numbers_of_each_alone(loaded: LoadedModel) -> None:
    rows = shuffled_rows()
    together, alone = numbers(answerer(loaded), rows), numbers(answerer(loaded, batch_size=1), rows)
    assert together.keys() == alone.keys() == {row["id"] for row in rows}
    plain = answerer(loaded)
    plain._collator = plain._collator.changed(layout="plain")
    in_rows = numbers(plain, rows)
    for name, found in together.items():
        assert set(found) == set(NUMBERS)
        assert found == pytest.approx(alone[name], rel=1e-6, abs=1e-5), name
        assert found == pytest.approx(in_rows[name], abs=1e-4), name
        assert found["chosen"] != pytest.approx(found["ref_chosen"], abs=1e-3)
    assert len({round(found["chosen"], 3) for found in together.values()}) > 8


def test_of_six_pairs_the_prompt_and_each_beginning_of_answers_are_run_once(loaded: LoadedModel) -> None:
    rows, widths = six_pairs("i", "what is in the image ?", "28x28-1"), []
    random.Random(1).shuffle(rows)
    made = answerer(loaded)
    encoded = made._collator.encoded([_pair_of(sample) for sample in load_questions(rows, {})])
    answers = [ids.tolist() for pair in encoded for ids in (pair.chosen_ids, pair.rejected_ids)]
    beginnings = {tuple(ids[:length]) for ids in answers for length in range(1, len(ids) + 1)}
    hook = lambda *given: widths.append(given[2]["input_ids"].numel())  # noqa: E731
    with loaded.model.register_forward_pre_hook(hook, with_kwargs=True):
        assert len(numbers(made, rows)) == 6
    assert widths == 2 * [len(encoded[0].prompt) + len(beginnings)]  # with the adapter, and without it


def test_results_stand_in_the_order_of_the_file(loaded: LoadedModel, tmp_path: Path) -> None:
    rows = [row for row in shuffled_rows() if not row["images"]]
    made = answerer(loaded, batch_size=4)
    result = evaluate("m", "preference", questions=rows, images_root=tmp_path, out=tmp_path / "out", answerer=made)
    assert [item["id"] for item in result.items] == [row["id"] for row in rows]


def test_a_batch_ends_where_a_prompt_does_and_a_large_prompt_is_divided() -> None:
    def sizes(groups: str, size: int) -> list[str]:
        found: list[str] = []

        def work(batch: list[str]) -> list[str]:
            found.append("".join(batch))
            return batch

        run = Batches(size, 1000).run(
            list(groups), tokens_of=lambda _: 1, work=work, too_large=str, group_of=lambda item: item
        )
        assert "".join(item for item, _ in run) == groups
        return found

    assert sizes("aaabbbccc", 5) == ["aaa", "bbb", "ccc"]
    assert sizes("aaabbbccc", 6) == ["aaabbb", "ccc"]
    assert sizes("abbbbbbbc", 3) == ["a", "bbb", "bbb", "bc"]
    assert sizes("aaaa", 9) == ["aaaa"]


def test_pairs_of_one_prompt_without_an_image_go_to_one_process() -> None:
    rows = [row for name in "abcdef" for row in six_pairs(name, f"{name} ?", None)]
    random.Random(0).shuffle(rows)
    shares = deal(load_questions(rows, {}), 3)
    assert [len(share) for share in shares] == [12, 12, 12]
    for share in shares:
        assert len({sample.prompt for sample in share}) == 2


def test_an_image_that_is_lost_is_told_with_its_pair(loaded: LoadedModel) -> None:
    from mmpref.errors import DataError

    def lost(ref: ImageRef) -> Any:
        if ref.path == "60x60-2":
            raise DataError("image 60x60-2 is gone")
        return draw(ref)

    made = LikelihoodAnswerer(loaded, load_image=lost)
    with pytest.raises(DataError, match=r"row 'j\d\d'.*60x60-2 is gone"):
        numbers(made, shuffled_rows())
