"""AMBER by hand: a world of a few words."""

import json

import pytest

from mmpref.errors import ConfigError, DataError
from mmpref.evals import load_samples, score
from mmpref.evals.benchmarks.amber_words import own_nouns

RELATION = {"dog": ["puppy"], "tree": ["trees", "forest"], "sky": [], "cloud": [], "cat": []}
ANNOTATIONS = [
    {"id": 1, "type": "generative", "truth": ["dog", "tree", "dog"], "hallu": ["cat", "sky"]},
    {"id": 2, "type": "generative", "truth": ["sky"], "hallu": ["cloud"]},
    {"id": 3, "type": "discriminative-attribute-state", "truth": "yes"},
    {"id": 4, "type": "discriminative-attribute-number", "truth": "no"},
    {"id": 5, "type": "discriminative-hallucination", "truth": "no"},
    {"id": 6, "type": "relation", "truth": "no"},
]


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "query").mkdir()
    (tmp_path / "annotations.json").write_text(json.dumps(ANNOTATIONS), encoding="utf-8")
    (tmp_path / "relation.json").write_text(json.dumps(RELATION), encoding="utf-8")
    (tmp_path / "safe_words.txt").write_text("cloud\n", encoding="utf-8")
    queries = [
        {
            "id": a["id"],
            "image": f"AMBER_{a['id'] % 2}.jpg",
            "query": "Describe this image." if a["id"] < 3 else "Is it?",
        }
        for a in ANNOTATIONS
    ]
    (tmp_path / "query" / "query_all.json").write_text(json.dumps(queries), encoding="utf-8")
    return tmp_path


def texts(*values, first=1):
    return [{"id": number, "text": text} for number, text in enumerate(values, first)]


DESCRIBED = texts("Two puppies and a cat under a tree. A Cat!", "A cloud.")


def test_descriptions_by_hand(folder):
    """1: puppy and tree are true, two cats are not; the second dog of the list is not covered. 2: cloud is ignored, is
    in the denominator all the same, and does not count as tempting."""
    found = score("amber", folder, DESCRIBED)
    assert {name: found.metrics[name] for name in ("chair", "cover", "hal", "cog")} == pytest.approx(
        {"chair": 2 / 5, "cover": 2 / 4, "hal": 1 / 2, "cog": 1 / 3}
    )
    first, second = found.items
    assert first["nouns"] == [
        {"word": "puppy", "is": "true"},
        {"word": "cat", "is": "hallucinated"},
        {"word": "tree", "is": "true"},
        {"word": "cat", "is": "hallucinated"},
    ]
    assert (first["covered"], first["tempted"], first["hallucinated"]) == (["dog", "tree"], ["cat"], ["cat"])
    assert second["nouns"] == [{"word": "cloud", "is": "ignored"}]
    assert any("our own reader" in note for note in found.notes)
    assert any("when they are equal" in note for note in found.notes)


def test_the_script_knows_no_capitals_and_prints_one_decimal(folder):
    found = score("amber", folder, DESCRIBED, "official")
    assert found.metrics["chair"] == 0.25  # the second cat is another word
    assert found.metrics["cover"] == 0.5
    assert found.metrics["cog"] == 33.3 / 100


def test_similar_words_count_as_the_thing(folder):
    """A stand-in for word vectors that finds cats like dogs: strictly above the threshold."""

    def alike(first, second):
        return 0.9 if {first, second} == {"cat", "dog"} else float(first == second)

    found = score("amber", folder, DESCRIBED, similarity=alike)
    assert found.metrics["chair"] == 0
    assert found.items[0]["nouns"][1] == {"word": "cat", "is": "similar"}
    assert found.items[0]["tempted"] == ["cat"]
    at_the_threshold = score("amber", folder, DESCRIBED, similarity=alike, similarity_threshold=0.9)
    assert at_the_threshold.metrics["chair"] == pytest.approx(2 / 5)


def test_nouns_and_similarity_come_from_files_too(folder, tmp_path):
    nouns, table = tmp_path / "nouns.json", tmp_path / "similarity.json"
    nouns.write_text(json.dumps({"1": ["cat"], "2": []}), encoding="utf-8")
    table.write_text(json.dumps({"cat": {"dog": 0.95}}), encoding="utf-8")
    found = score("amber", folder, DESCRIBED, "official", nouns=str(nouns), similarity=str(table))
    assert [item["nouns"] for item in found.items] == [[{"word": "cat", "is": "similar"}], []]
    nouns.write_text(json.dumps({"1": ["cat"]}), encoding="utf-8")
    with pytest.raises(DataError, match="none for question '2'"):
        score("amber", folder, DESCRIBED, "official", nouns=str(nouns))


def test_own_nouns_sees_plurals_and_case():
    known = frozenset({"dog", "trees", "glass"})
    assert own_nouns("Dogs, trees; GLASSES and a hot-dog.", known, fold_case=True) == ["dog", "trees", "glass"]
    assert own_nouns("Dogs and dogs", known, fold_case=False) == ["dog"]
    words = frozenset({"can", "hot", "TV", "dog"})
    text = "A hot dog can be seen on the TV, and two cans. Can it?"
    assert own_nouns(text, words, fold_case=True) == ["dog", "TV", "can"]
    assert own_nouns(text, words, fold_case=False) == ["dog", "TV", "can"]


ASKED = texts("Yes", "**No**", "no, there is not", "Yes.", first=3)


def test_questions_by_hand(folder):
    """No is the positive class: two of three found, nothing wrongly called no."""
    found = score("amber", folder, ASKED)
    assert {
        name: found.metrics[name] for name in ("accuracy", "precision", "recall", "f1", "yes_ratio")
    } == pytest.approx({"accuracy": 0.75, "precision": 1, "recall": 2 / 3, "f1": 0.8, "yes_ratio": 0.5})
    assert found.metrics["attribute/accuracy"] == found.metrics["existence/accuracy"] == 1
    assert found.metrics["relation/recall"] == 0
    assert found.undefined["state/recall"] == "no question has the answer no"
    assert "chair" not in found.metrics


def test_the_script_reads_only_the_bare_words(folder):
    """Of the four answers it reads one, a yes: accuracy 1 of 4, and no answer is a no, which it prints as 0."""
    found = score("amber", folder, ASKED, "official")
    assert found.n_unparsed == 3
    assert {name: found.metrics[name] for name in ("accuracy", "precision", "recall", "f1")} == {
        "accuracy": 0.25,
        "precision": 0,
        "recall": 0,
        "f1": 0,
    }


def test_vlmevalkit_means_over_the_sections(folder):
    found = score("amber", folder, ASKED, "vlmevalkit")
    assert found.metrics["attribute/accuracy"] == 0.5  # **No** is no word to it
    assert found.metrics["accuracy"] == pytest.approx((0.5 + 1 + 0) / 3)


def test_the_paper_score_needs_both_halves(folder):
    found = score("amber", folder, DESCRIBED + ASKED)
    assert found.metrics["amber_score"] == pytest.approx((1 - 0.4 + 0.8) / 2)


def test_a_dimension_is_answered_as_a_whole(folder):
    with pytest.raises(DataError, match=r"1 questions have no answer: '4'; a dimension is answered as a whole"):
        score("amber", folder, [ASKED[0]])
    part = score("amber", folder, [ASKED[0]], subset=True)
    assert part.n == 1
    assert part.notes == ("1 of 6 questions are answered",)
    assert score("amber", folder, [ASKED[0]], "official").n == 1


def test_an_empty_description_is_unparsed_and_covers_nothing(folder):
    found = score("amber", folder, texts("", "The sky."))
    assert (found.n, found.n_unparsed) == (2, 1)
    assert {name: found.metrics[name] for name in ("hal", "cover")} == {"hal": 0, "cover": 0.25}
    assert score("amber", folder, texts("", "The sky."), "official").n_unparsed == 0


def test_a_protocol_that_covers_none_of_the_answers_says_so(folder):
    with pytest.raises(ConfigError, match="'lmms_eval' of AMBER covers only generative"):
        score("amber", folder, ASKED, "lmms_eval")
    with pytest.raises(ConfigError, match="'vlmevalkit' of AMBER covers only existence, attribute, relation"):
        score("amber", folder, DESCRIBED, "vlmevalkit")


def test_tasks_choose_the_questions(folder):
    assert [s.id for s in load_samples("amber", folder, task="generative")] == ["1", "2"]
    assert [s.id for s in load_samples("amber", folder, task="discriminative")] == ["3", "4", "5", "6"]
    assert [s.id for s in load_samples("amber", folder, task="attribute")] == ["3", "4"]
    with pytest.raises(ConfigError, match="did you mean 'generative'"):
        load_samples("amber", folder, task="generativ")


def test_what_is_not_the_data_folder_is_refused(folder, tmp_path):
    with pytest.raises(DataError, match="is no folder"):
        score("amber", folder / "annotations.json", [])
    (folder / "query" / "query_all.json").unlink()
    with pytest.raises(DataError, match=r"no query/query_all\.json"):
        score("amber", folder, [])


def test_the_public_folder_is_read(bench_data):
    samples = load_samples("amber", bench_data / "amber")
    assert len(samples) == 15220
    kinds = [sample.meta["dimension"] for sample in samples]
    assert {kind: kinds.count(kind) for kind in set(kinds)} == {
        "generative": 1004,
        "attribute": 7628,
        "existence": 4924,
        "relation": 1664,
    }
    answers = [{"id": s.id, "text": s.target.capitalize()} for s in samples if isinstance(s.target, str)]
    found = score("amber", bench_data / "amber", answers, "official", resamples=5)
    # the small numbers that soften f1 vanish in the script's one decimal
    assert {found.metrics[f"{s}f1"] for s in ("", "attribute/", "state/", "number/", "action/", "relation/")} == {1.0}
    assert found.metrics["existence/f1"] == found.metrics["accuracy"] == 1.0
