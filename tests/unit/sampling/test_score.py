"""Scoring a source: what comes out, what is taken up again, and what one failing scorer does not lose."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from mmpref.cli.main import main
from mmpref.data.opening import open_pairs
from mmpref.data.quarantine import Quarantine
from mmpref.errors import ConfigError, DataError, EvalIncompleteError
from mmpref.records import Candidate, Candidates, ImageRef, Prompt, user_turn
from mmpref.sampling import score as scoring
from mmpref.sampling import score_run
from mmpref.sampling.candidate_files import read_candidates, write_candidates
from mmpref.sampling.score import score_source
from mmpref.sampling.score_settings import AskedScorer, ScoreSettings
from mmpref.sampling.score_source import ReadAs, open_score_source
from mmpref.sampling.scorers.contract import AnswerPlace, RawScore
from mmpref.sampling.steps import Step, read_step, write_step

CARDS = Path(__file__).resolve().parents[2] / "fixtures" / "cards"


def item(name, *texts, image="a.png"):
    prompt = Prompt(id=name, images=(ImageRef(path=image),), prompt=user_turn("What?", num_images=1), source="s")
    return Candidates(prompt=prompt, answers=tuple(Candidate(text=text) for text in texts))


class Scripted:
    """A scorer that says what it was told to: text -> score, a reason, or an error to raise."""

    version = "1"

    def __init__(self, says, scale=(None, None)):
        self.depends_on = {}
        self.says = says
        self.scale = scale
        self.asked = []

    def score(self, items: Sequence[Candidates]) -> Iterator[RawScore]:
        for found in items:
            for at, answer in enumerate(found.answers):
                self.asked.append(answer.text)
                said = self.says(answer.text) if callable(self.says) else self.says[answer.text]
                place = AnswerPlace(found.prompt.id, at)
                if isinstance(said, Exception):
                    raise said
                if isinstance(said, str):
                    yield RawScore(place=place, value=None, why=said.removeprefix("later:"), again="later:" in said)
                else:
                    yield RawScore(place=place, value=said)


@pytest.fixture
def scripted(monkeypatch):
    """Scorers by name, in the place of those that would be built."""
    known: dict[str, Scripted] = {}
    for module in (score_run, scoring):
        monkeypatch.setattr(module, "build_scorer", lambda name, kind, options, context: known[name])
    return known


def run(source: Path, out: Path, *names: str, **settings):
    asked = tuple(AskedScorer(name=name, kind="agreement") for name in names)
    read = settings.pop("read", ReadAs())
    return score_source(open_score_source(str(source), read), out, ScoreSettings(scorers=asked, **settings))


def scores(out: Path) -> dict[str, float | None]:
    return {
        answer.text: answer.score for found in read_candidates(out / "candidates.jsonl") for answer in found.answers
    }


def listed(out: Path) -> list[dict]:
    return [json.loads(line) for line in (out / "quarantine.jsonl").read_text().splitlines()]


@pytest.fixture
def source(tmp_path):
    write_candidates(tmp_path / "candidates.jsonl", [item("p", "a", "b", "c"), item("q", "d", "a", image="b.png")])
    return tmp_path / "candidates.jsonl"


# --- what comes out ---------------------------------------------------------------------------------------------------


def test_scores_are_mapped_averaged_and_kept_with_their_scorers(source, tmp_path, scripted):
    scripted["x"] = Scripted({"a": 1, "b": 3, "c": 5, "d": 2}, scale=(1.0, 5.0))
    scripted["y"] = Scripted({"a": -10, "b": 0, "c": 10, "d": 0}, scale=(-10.0, 10.0))
    outcome = run(source, tmp_path / "out", "x", "y", weights={"y": 3.0})
    assert outcome.failure is None
    assert scores(tmp_path / "out") == {"a": 0.0, "b": 2.5, "c": 5.0, "d": (1.25 + 3 * 2.5) / 4}
    first = next(read_candidates(tmp_path / "out" / "candidates.jsonl")).answers[1]
    assert [(score.scorer, score.version, score.scale, score.raw) for score in first.scores] == [
        ("x", "1", (1.0, 5.0), 3.0),
        ("y", "1", (-10.0, 10.0), 0.0),
    ]
    content = json.loads((tmp_path / "out" / "scores.json").read_text())
    assert content["scorers"]["x"]["mapping"]["low"] == 1.0
    assert content["weights"] == {"x": 1.0, "y": 3.0}
    assert content["agreement"][0]["same_order"] == 4
    step = read_step(tmp_path / "out")
    assert (step.complete, step.counts["scored"], step.image_root) == (True, 5, tmp_path)
    assert listed(tmp_path / "out") == []


def test_one_that_has_no_score_is_listed_and_the_other_scorer_s_score_kept(source, tmp_path, scripted):
    scripted["x"] = Scripted({"a": 1, "b": "no_image", "c": 5, "d": 9}, scale=(0.0, 5.0))
    scripted["y"] = Scripted(lambda text: 1.0, scale=(0.0, 1.0))
    outcome = run(source, tmp_path / "out", "x", "y")
    assert outcome.failure is None
    assert scores(tmp_path / "out")["b"] is None
    assert listed(tmp_path / "out") == [
        {"id": "p", "candidate": 1, "reason": "no_image", "detail": "x: no_image"},
        {"id": "q", "candidate": 0, "reason": "out_of_scale", "detail": "x: out_of_scale"},
    ]
    kept = [answer for found in read_candidates(tmp_path / "out" / "candidates.jsonl") for answer in found.answers]
    assert [(score.raw, score.why) for score in kept[1].scores] == [(None, "no_image"), (1.0, "")]
    assert kept[3].scores[0].detail == {"raw": 9.0}
    assert read_step(tmp_path / "out").counts["missing"] == {"x": {"no_image": 1, "out_of_scale": 1}}


def test_a_number_that_is_none_is_missing(source, tmp_path, scripted):
    scripted["x"] = Scripted({"a": float("nan"), "b": float("inf"), "c": 1, "d": 2})
    run(source, tmp_path / "out", "x")
    assert [row["reason"] for row in listed(tmp_path / "out")] == ["not_finite"] * 3


def test_a_declared_scale_holds_and_needs_no_new_scores(source, tmp_path, scripted):
    scripted["x"] = Scripted({"a": 0, "b": 1, "c": 2, "d": 4})
    read = open_score_source(str(source), ReadAs())
    for scale, expected in (((0.0, 4.0), 5.0), ((0.0, 2.0), None), ((0.0, 8.0), 2.5)):
        wanted = (AskedScorer(name="x", kind="agreement", scale=scale),)
        score_source(read, tmp_path / "out", ScoreSettings(scorers=wanted))
        assert scores(tmp_path / "out")["d"] == expected
    assert scripted["x"].asked == ["a", "b", "c", "d", "a"]


def test_a_later_round_takes_the_mapping_of_the_first(source, tmp_path, scripted):
    scripted["x"] = Scripted({"a": 0, "b": 1, "c": 2, "d": 4})
    run(source, tmp_path / "one", "x", range=(0.0, 10.0))
    scripted["x"] = Scripted({"a": 10, "b": 1, "c": 2, "d": 4})
    run(source, tmp_path / "two", "x", mapping=tmp_path / "one" / "scores.json")
    first, second = scores(tmp_path / "one"), scores(tmp_path / "two")
    assert first["b"] == second["b"]
    assert second["a"] == 10.0  # beyond what there was in the first round, so clipped
    with pytest.raises(ConfigError, match=r"maps to 0\.\.10 and --range says 0\.\.5"):
        run(source, tmp_path / "three", "x", mapping=tmp_path / "one", range=(0.0, 5.0))
    scripted["z"] = scripted["x"]
    scripted["z"].asked.clear()
    with pytest.raises(ConfigError, match="has no mapping for scorer 'z'; it has: x"):
        run(source, tmp_path / "three", "z", mapping=tmp_path / "one")
    assert scripted["z"].asked == []
    scripted["x"].version = "2"
    with pytest.raises(ConfigError, match="is of version 1, and this one is 2"):
        run(source, tmp_path / "four", "x", mapping=tmp_path / "one")


def test_a_mapping_is_of_a_kind_and_says_where_its_scores_were_another_model_s(source, tmp_path, scripted):
    scripted["x"] = Scripted({"a": 0, "b": 1, "c": 2, "d": 4})
    scripted["x"].depends_on = {"model": "one"}
    run(source, tmp_path / "one", "x")
    other = ScoreSettings(
        scorers=(AskedScorer(name="x", kind="gain", options={"model": "m"}),), mapping=tmp_path / "one"
    )
    with pytest.raises(ConfigError, match="scorer 'x' is a 'agreement' there and a 'gain' here"):
        score_source(open_score_source(str(source), ReadAs()), tmp_path / "two", other)
    assert run(source, tmp_path / "same", "x", mapping=tmp_path / "one").scored.notes == ()
    scripted["x"].depends_on = {"model": "two"}
    notes = run(source, tmp_path / "two", "x", mapping=tmp_path / "one").scored.notes
    assert [note for note in notes if "scores of another scorer (model differ)" in note]


def test_no_score_at_all_is_an_error_and_nothing_to_go_on_with(source, tmp_path, scripted):
    scripted["x"] = Scripted(lambda text: "no_claim")
    outcome = run(source, tmp_path / "out", "x")
    assert isinstance(outcome.failure, DataError)
    assert "no answer has a score (x: no_claim 5)" in str(outcome.failure)
    assert not any(line.startswith("next:") for line in outcome.lines())
    assert len(listed(tmp_path / "out")) == 5
    write_rows(tmp_path / "set.jsonl", pair("1", "a", "b"))
    scripted["x"] = Scripted({"a": 1, "b": "no_claim"}, scale=(0.0, 2.0))
    outcome = run(tmp_path / "set.jsonl", tmp_path / "pairs", "x")
    assert "no pair has two scores (x: no_claim 1)" in str(outcome.failure)


def test_a_further_scorer_on_a_scored_folder_is_added_and_one_of_the_same_name_refused(source, tmp_path, scripted):
    scripted["x"] = Scripted({"a": 0, "b": 1, "c": 2, "d": 4})
    scripted["y"] = Scripted(lambda text: 1.0, scale=(0.0, 1.0))
    run(source, tmp_path / "one", "x")
    run(tmp_path / "one", tmp_path / "two", "y")
    before, after = scores(tmp_path / "one"), scores(tmp_path / "two")
    assert after == {text: (score + 5) / 2 for text, score in before.items()}
    with pytest.raises(ConfigError, match="have scores of a scorer 'y' already; give this one another name"):
        run(tmp_path / "two", tmp_path / "three", "y")


def test_an_earlier_scorer_keeps_the_mapping_and_the_weight_that_it_had(source, tmp_path, scripted):
    scripted["x"] = Scripted({"a": 0, "b": 100, "c": 100, "d": 100})
    run(source, tmp_path / "first", "x")
    scripted["x"] = Scripted({"a": 0, "b": 10, "c": 20, "d": 50})
    run(source, tmp_path / "one", "x", mapping=tmp_path / "first", weights={"x": 3.0})
    scripted["y"] = Scripted(lambda text: 0.0, scale=(0.0, 1.0))
    run(tmp_path / "one", tmp_path / "two", "y")
    assert scores(tmp_path / "one")["d"] == pytest.approx(2.5)  # and not 5, as the highest score of its own step
    assert scores(tmp_path / "two")["d"] == pytest.approx(2.5 * 3 / 4)


def test_scores_of_two_versions_of_one_scorer_are_not_put_together(source, tmp_path, scripted):
    scripted["x"] = Scripted({"a": 0, "b": 1, "c": 2, "d": 4})
    scripted["y"] = scripted["x"]
    run(source, tmp_path / "one", "x")
    file = tmp_path / "one" / "candidates.jsonl"
    file.write_text(file.read_text().replace('"version": "1"', '"version": "0"', 1))
    with pytest.raises(DataError, match="scorer 'x' has scores of two versions or scales"):
        run(tmp_path / "one", tmp_path / "two", "y")


def test_answers_that_an_earlier_scorer_did_not_see_have_no_mean(source, tmp_path, scripted):
    scripted["x"] = Scripted({"a": 0, "b": 1, "c": 2, "d": 4}, scale=(0.0, 4.0))
    scripted["y"] = Scripted(lambda text: 1.0, scale=(0.0, 1.0))
    run(source, tmp_path / "one", "x")
    rows = [*read_candidates(tmp_path / "one" / "candidates.jsonl"), item("r", "e", image="c.png")]
    write_candidates(tmp_path / "more.jsonl", rows)
    run(tmp_path / "more.jsonl", tmp_path / "two", "y")
    assert scores(tmp_path / "two")["e"] is None
    assert listed(tmp_path / "two") == [{"id": "r", "candidate": 0, "reason": "not_scored", "detail": "x: not_scored"}]


# --- going on ---------------------------------------------------------------------------------------------------------


def test_a_second_run_asks_nothing_again_and_writes_the_same(source, tmp_path, scripted):
    scripted["x"] = Scripted({"a": 1, "b": 3, "c": 5, "d": 2})
    run(source, tmp_path / "out", "x")
    before = {file.name: file.read_bytes() for file in (tmp_path / "out").iterdir()}
    scripted["x"].asked.clear()
    run(source, tmp_path / "out", "x")
    assert scripted["x"].asked == []
    assert {file.name: file.read_bytes() for file in (tmp_path / "out").iterdir()} == before


def test_the_same_answer_to_the_same_prompt_under_another_id_is_scored_once(source, tmp_path, scripted):
    write_candidates(source, [item("p", "a", "b"), item("q", "b", "c"), item("r", "a", image="b.png")])
    scripted["x"] = Scripted({"a": 1, "b": 3, "c": 5}, scale=(0.0, 5.0))
    run(source, tmp_path / "out", "x")
    assert scripted["x"].asked == ["a", "b", "c", "a"]
    assert [
        [answer.score for answer in found.answers] for found in read_candidates(tmp_path / "out" / "candidates.jsonl")
    ] == [[1, 3], [3, 5], [1]]


def test_what_may_come_later_ends_with_exit_code_8_and_only_that_is_asked_again(source, tmp_path, scripted):
    scripted["x"] = Scripted({"a": 1, "b": "later:timeout", "c": 5, "d": 2})
    outcome = run(source, tmp_path / "out", "x")
    assert isinstance(outcome.failure, EvalIncompleteError)
    assert "1 of 5 scores are missing (timeout 1), of the prompts 'p'" in str(outcome.failure)
    assert not read_step(tmp_path / "out").complete
    assert scores(tmp_path / "out")["c"] is not None
    assert run(source, tmp_path / "out", "x", max_missing=0.2).failure is None
    scripted["x"] = Scripted({"b": 3})
    assert run(source, tmp_path / "out", "x").failure is None
    assert scripted["x"].asked == ["b"]
    assert read_step(tmp_path / "out").complete


def test_a_scorer_without_weight_that_lacks_scores_is_said_too(source, tmp_path, scripted):
    scripted["x"] = Scripted({"a": 1, "b": "later:timeout", "c": 5, "d": 2})
    scripted["y"] = Scripted(lambda text: 1.0, scale=(0.0, 1.0))
    outcome = run(source, tmp_path / "out", "x", "y", weights={"x": 0.0})
    assert "1 of 10 scores are missing (timeout 1), of the prompts 'p'" in str(outcome.failure)
    assert set(scores(tmp_path / "out").values()) == {5.0}


def test_a_scorer_that_fails_midway_loses_nothing(source, tmp_path, scripted):
    scripted["x"] = Scripted({"a": 1, "b": 3, "c": EvalIncompleteError("server gone"), "d": 2})
    scripted["y"] = Scripted(lambda text: 1.0, scale=(0.0, 1.0))
    outcome = run(source, tmp_path / "out", "x", "y")
    assert "scorer_stopped 3" in str(outcome.failure)
    assert "scorer 'x' stopped: server gone" in str(outcome.failure)
    # of "a" the score stands that the second prompt has
    assert [score is None for score in scores(tmp_path / "out").values()] == [True, False, True, True]
    assert len((tmp_path / "out" / "scores.y.jsonl").read_text().splitlines()) == 6
    scripted["x"] = Scripted({"a": 1, "b": 3, "c": 5, "d": 2})
    assert run(source, tmp_path / "out", "x", "y").failure is None
    assert scripted["x"].asked == ["c", "d", "a"]


def test_a_refused_key_keeps_its_exit_code(source, tmp_path, scripted):
    scripted["x"] = Scripted(lambda text: ConfigError("the key was refused"))
    assert type(run(source, tmp_path / "out", "x").failure) is ConfigError


def test_a_defect_of_a_scorer_shows_and_keeps_what_was_scored(source, tmp_path, scripted):
    scripted["x"] = Scripted({"a": 1, "b": RuntimeError("a defect")})
    with pytest.raises(RuntimeError, match="a defect"):
        run(source, tmp_path / "out", "x")
    assert len((tmp_path / "out" / "scores.x.jsonl").read_text().splitlines()) == 2


@pytest.mark.parametrize("cut", range(1, 60, 7))
def test_a_torn_last_line_is_asked_again(source, tmp_path, scripted, cut):
    scripted["x"] = Scripted({"a": 1, "b": 3, "c": 5, "d": 2})
    run(source, tmp_path / "out", "x")
    expected = scores(tmp_path / "out")
    log = tmp_path / "out" / "scores.x.jsonl"
    log.write_bytes(log.read_bytes()[:-cut])
    (tmp_path / "out" / "step.json").unlink()
    scripted["x"].asked.clear()
    run(source, tmp_path / "out", "x")
    assert scripted["x"].asked == ([] if cut == 1 else ["a"])
    assert scores(tmp_path / "out") == expected


def test_scores_made_with_something_else_are_refused(source, tmp_path, scripted):
    scripted["x"] = Scripted({"a": 1, "b": 3, "c": 5, "d": 2})
    run(source, tmp_path / "out", "x")
    scripted["x"].depends_on = {"model": "other"}
    with pytest.raises(ConfigError, match=r"model \(None then, other now\)"):
        run(source, tmp_path / "out", "x")
    scripted["x"].version, scripted["x"].depends_on = "2", {}
    with pytest.raises(ConfigError, match=r"version \(1 then, 2 now\)"):
        run(source, tmp_path / "out", "x")


def test_a_score_never_goes_to_another_text(source, tmp_path, scripted):
    scripted["x"] = Scripted({"a": 1, "b": 3, "c": 5, "d": 2, "B": 4, "z": 0})
    run(source, tmp_path / "out", "x")
    write_candidates(source, [item("p", "B", "a"), item("q", "d", image="b.png")])
    scripted["x"].asked.clear()
    run(source, tmp_path / "out", "x")
    assert scripted["x"].asked == ["B"]
    assert [
        [answer.scores[0].raw for answer in found.answers]
        for found in read_candidates(tmp_path / "out" / "candidates.jsonl")
    ] == [[4, 1], [2]]
    write_candidates(source, [item("p", "z")])
    with pytest.raises(ConfigError, match="has scores of other answers: none of its 6"):
        run(source, tmp_path / "out", "x")


def test_one_that_compares_answers_scores_anew_where_the_others_changed(source, tmp_path):
    arguments = ["sample", "score", str(source), "--scorer", "agreement", "--out", str(tmp_path / "out")]
    write_candidates(source, [item("p", "red dog", "a dog"), item("q", "yes", "no")])
    assert main(arguments) == 0
    assert scores(tmp_path / "out")["red dog"] == 2.5
    write_candidates(source, [item("p", "red dog", "a dog", "cats"), item("q", "yes", "no")])
    assert main(arguments) == 0
    assert scores(tmp_path / "out")["red dog"] == 1.25
    assert scores(tmp_path / "out")["yes"] == 0.0


def test_scores_of_two_contents_of_an_image_are_never_mixed(source, tmp_path, scripted):
    (tmp_path / "a.png").write_bytes(b"one")
    scripted["x"] = Scripted({"a": 1, "b": "later:busy", "c": 5, "d": 2})
    run(source, tmp_path / "out", "x")
    (tmp_path / "b.png").write_bytes(b"an image that was not there before")
    run(source, tmp_path / "out", "x")
    (tmp_path / "a.png").write_bytes(b"two")
    with pytest.raises(ConfigError, match=r"made from other images: 1 of 2 files differ \('a\.png'\)"):
        run(source, tmp_path / "out", "x")
    scripted["x"].looks_at_images = False
    run(source, tmp_path / "out", "x")


# --- pairs ------------------------------------------------------------------------------------------------------------


def pair(name, chosen, rejected, **more):
    content = [{"type": "image"}, {"type": "text", "text": "What?"}]
    return {
        "id": name,
        "images": ["a.png"],
        "prompt": [{"role": "user", "content": content}],
        "chosen": chosen,
        "rejected": rejected,
    } | more


def write_rows(file, *rows):
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def test_pairs_come_out_with_scores_and_each_answer_of_a_prompt_is_scored_once(tmp_path, scripted):
    rows = [
        pair("1", "a", "b", score_chosen=9, score_rejected=8, meta={"kept": 1}),
        pair("1", "a", "c"),
        pair("3", "a", "none"),
        pair("4", "a", "b", rejected_images=["b.png"]),
        pair("5", "a", "a"),
    ]
    write_rows(tmp_path / "set.jsonl", *rows)
    scripted["x"] = Scripted({"a": 1, "b": 2, "c": 0, "none": "no_claim"}, scale=(0.0, 2.0))
    outcome = run(tmp_path / "set.jsonl", tmp_path / "out", "x")
    assert scripted["x"].asked == ["a", "b", "c", "none"]
    quarantine = Quarantine()
    found = [
        one.pair for one in open_pairs(tmp_path / "out" / "pairs.jsonl").candidates(quarantine, demonstrations=False)
    ]
    assert [(one.id, one.score_chosen, one.score_rejected) for one in found] == [("1", 2.5, 5.0), ("1", 2.5, 0.0)]
    assert found[0].meta == {"kept": 1, "scores_before": [[9.0, 8.0]], "raw_scores": {"x": [1.0, 2.0]}}
    assert {row["id"]: row["reason"] for row in listed(tmp_path / "out")} == {
        "3": "no_claim",
        "4": "image_preference",
        "5": "identical_pair",
    }
    counts = outcome.step.counts
    assert (counts["pairs read"], counts["pairs"], counts["pairs whose rejected answer scores higher"]) == (3, 2, 1)
    assert outcome.step.image_root == tmp_path
    assert (outcome.step.facts["eta"], outcome.step.facts["tau_good"]) == (0.7, 2.5)
    assert outcome.lines()[-1].endswith(f"data.root={tmp_path} loss.uni.eta=0.7 loss.uni.tau_good=2.5")
    assert not (tmp_path / "out" / "candidates.jsonl").exists()


def test_embedded_images_and_other_formats_are_scored(tmp_path, scripted):
    rows = [
        {"image": {"bytes": "aGFsbG8="}, "question": "What?", "chosen": "a", "rejected": "b"},
        {"image": {"bytes": "aGFsbG8="}, "question": "What?", "chosen": "a", "rejected": "c"},
        {"image": {"bytes": "YW5kZXJz"}, "question": "What?", "chosen": "a", "rejected": "b"},
    ]
    write_rows(tmp_path / "set.jsonl", *rows)
    scripted["x"] = Scripted({"a": 1, "b": 2, "c": 0})
    run(tmp_path / "set.jsonl", tmp_path / "out", "x")
    assert scripted["x"].asked == ["a", "b", "c", "a", "b"]
    written = [json.loads(line) for line in (tmp_path / "out" / "pairs.jsonl").read_text().splitlines()]
    assert [row["images"] for row in written] == [[{"bytes": "aGFsbG8="}]] * 2 + [[{"bytes": "YW5kZXJz"}]]


def test_pairs_can_be_scored_again_from_the_folder(tmp_path, scripted):
    write_rows(tmp_path / "set.jsonl", pair("1", "a", "b"))
    scripted["x"] = Scripted({"a": 1, "b": 2}, scale=(0.0, 2.0))
    scripted["y"] = Scripted({"a": 2, "b": 1}, scale=(0.0, 2.0))
    run(tmp_path / "set.jsonl", tmp_path / "one", "x")
    run(tmp_path / "one", tmp_path / "two", "y")
    (row,) = [json.loads(line) for line in (tmp_path / "two" / "pairs.jsonl").read_text().splitlines()]
    assert (row["score_chosen"], row["score_rejected"]) == (5.0, 2.5)
    assert row["meta"]["scores_before"] == [[2.5, 5.0]]
    assert row["meta"]["raw_scores"] == {"x": [1.0, 2.0], "y": [2.0, 1.0]}
    assert read_step(tmp_path / "two").counts["pairs with scores from before, kept in meta"] == 1
    assert read_step(tmp_path / "two").image_root == tmp_path


@pytest.mark.parametrize("card", sorted(CARDS.iterdir()), ids=lambda file: file.stem)
def test_every_known_set_is_scored_and_no_row_lost(tmp_path, card):
    arguments = [
        "sample",
        "score",
        str(card),
        "--card",
        card.stem,
        "--scorer",
        "agreement",
        "--out",
        str(tmp_path / "out"),
    ]
    assert main(arguments) == 0
    quarantine = Quarantine()
    read = list(open_pairs(card, card=card.stem).candidates(quarantine, demonstrations=False))
    again = Quarantine()
    written = [one.pair for one in open_pairs(tmp_path / "out" / "pairs.jsonl").candidates(again, demonstrations=False)]
    assert len(read) + len(quarantine) == len(written) + len(listed(tmp_path / "out"))
    assert len(again) == 0
    left_out = {row["id"] for row in listed(tmp_path / "out")}
    for before, after in zip([one.pair for one in read if one.pair.id not in left_out], written, strict=True):
        assert (after.id, after.images, after.prompt, after.chosen) == (
            before.id,
            before.images,
            before.prompt,
            before.chosen,
        )
        assert after.score_chosen is not None


# --- bad input --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("", "has no answer to score"),
        ('{"id": "a", "images": [], "prompt": [{"role": "user", "content": "?"}], "candidates": []}\n', "no answer"),
        ('{"id": "a", "images": [], "prompt": [{"role": "user", "content": "?"}], "candidates": [7]}\n', "line 1"),
        ('{"candidates": [{"text": "a"}]}\n', "line 1"),
        ('{"id": "a", "images": [], "prompt": [{"role"', "line 1"),
        ("\xff\n", "line 1"),
        ("[" * 100_000 + "\n", "line 1"),
    ],
)
def test_hostile_candidates_are_named(tmp_path, scripted, content, said):
    (tmp_path / "candidates.jsonl").write_bytes(content.encode("latin-1"))
    scripted["x"] = Scripted(lambda text: 1)
    with pytest.raises(DataError, match=said) as caught:
        run(tmp_path / "candidates.jsonl", tmp_path / "out", "x")
    assert "candidates.jsonl" in str(caught.value)


def test_answers_of_all_kinds_are_scored(tmp_path, scripted):
    texts = ["", " ", "\u2028", "\U0001f600", "a" * 100_000, '"}\n{"', "\x00"]
    write_candidates(tmp_path / "candidates.jsonl", [item("p", *texts)])
    scripted["x"] = Scripted(lambda text: len(text))
    run(tmp_path / "candidates.jsonl", tmp_path / "out", "x")
    assert list(scores(tmp_path / "out")) == texts


@pytest.mark.parametrize(
    "line", ['{"answer": "x", "raw": NaN}', '{"answer": 3}', "[]", '{"answer": "x", "raw": "1"}', "\xff"]
)
def test_a_damaged_log_is_named_and_not_believed(source, tmp_path, scripted, line):
    scripted["x"] = Scripted(lambda text: 1)
    run(source, tmp_path / "out", "x")
    log = tmp_path / "out" / "scores.x.jsonl"
    log.write_bytes(log.read_bytes() + line.encode("latin-1") + b"\n")
    with pytest.raises(ConfigError, match=r"scores\.x\.jsonl, line 6?7?"):
        run(source, tmp_path / "out", "x")


def test_nothing_is_written_over_and_no_other_step_s_folder_taken(source, tmp_path, scripted):
    scripted["x"] = Scripted(lambda text: 1)
    with pytest.raises(ConfigError, match=r"would write over .*candidates\.jsonl, which is read here"):
        run(source, tmp_path, "x")
    other = tmp_path / "generated"
    other.mkdir()
    shutil.copy(source, other / "candidates.jsonl")
    with pytest.raises(ConfigError, match=r"has a candidates\.jsonl that no scoring has written"):
        run(source, other, "x")
    write_step(other, Step(name="generate", complete=True, image_root=None, made_from=(), settings={}, counts={}))
    with pytest.raises(ConfigError, match="has a finished step 'generate' in it"):
        run(source, other, "x")
    run(source, tmp_path / "out", "x")
    with pytest.raises(ConfigError, match=r"has the scores of .*candidates\.jsonl in it"):
        run(other, tmp_path / "out", "x")


def test_a_source_that_is_not_there_is_named(tmp_path):
    with pytest.raises(DataError, match="does not exist"):
        open_score_source(str(tmp_path / "none.jsonl"), ReadAs())


def test_an_incomplete_source_is_scored_and_said(source, tmp_path, scripted):
    write_step(tmp_path, Step(name="generate", complete=False, image_root=None, made_from=(), settings={}, counts={}))
    scripted["x"] = Scripted(lambda text: 1)
    outcome = run(tmp_path, tmp_path / "out", "x")
    assert outcome.step.facts["source complete"] is False
    said = "\n".join(outcome.lines())
    assert f"note: {tmp_path} is not complete" in said
    assert "2 of 2 prompts with two or more scored answers have equal scores only" in said


def test_weights_must_be_of_scorers_and_not_all_nothing(source, tmp_path, scripted):
    scripted["x"] = Scripted(lambda text: 1)
    with pytest.raises(ConfigError, match="names a scorer 'y' that is none of x"):
        run(source, tmp_path / "out", "x", weights={"y": 1.0})
    with pytest.raises(ConfigError, match="all weights are 0"):
        run(source, tmp_path / "out", "x", weights={"x": 0.0})
    assert scripted["x"].asked == []


# --- the command ------------------------------------------------------------------------------------------------------


def test_the_command_scores_says_what_it_made_and_what_is_next(source, tmp_path, capsys):
    (tmp_path / "truth.json").write_text('{"a.png": ["dog"]}')
    write_candidates(source, [item("p", "a dog", "a cat", "nothing")])
    arguments = ["sample", "score", str(source), "--scorer", "objects", f"objects.truth={tmp_path / 'truth.json'}"]
    arguments += [
        "--scorer",
        "agreement",
        "--weights",
        "agreement=0",
        "--range",
        "0..10",
        "--out",
        str(tmp_path / "out"),
    ]
    assert main([*arguments, "--dry-run"]) == 0
    assert "answers" in capsys.readouterr().out
    assert main(arguments) == 0
    said = capsys.readouterr().out
    assert "prompts 1, answers 3, scored 3" in said
    assert f"next: mmpref sample pair {tmp_path / 'out'} --out DIR" in said
    assert "objects, agreement" in said
    assert scores(tmp_path / "out") == {"a dog": 10.0, "a cat": 0.0, "nothing": 0.0}
    assert main(["sample", "score", str(source), "--scorer", "objects", "--out", str(tmp_path / "other")]) == 2
    assert not (tmp_path / "other").exists()
