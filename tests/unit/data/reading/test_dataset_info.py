"""LLaMA-Factory's ``dataset_info.json``: columns and tags are followed, and a choice is asked for."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from mmpref.data.commands.check import check
from mmpref.data.commands.convert import ConvertSettings, convert
from mmpref.data.loading import load_pairs
from mmpref.data.opening import open_pairs, recipe_sources
from mmpref.data.quarantine import Quarantine
from mmpref.data.reading.source import open_source
from mmpref.data.verification import verify
from mmpref.errors import ConfigError, DataError
from mmpref.recipe.sections import DataSection
from mmpref.records import PreferencePair

ALPACA: list[dict[str, Any]] = [
    {"q": "<image>What?", "more": "Look.", "good": "A cat.", "bad": "A dog.", "pics": ["a.png"], "input": "other"},
    {"q": "Hello?", "more": "", "good": "Hi.", "bad": "No.", "pics": None, "score_chosen": 4, "score_rejected": 1},
]
TALK: list[dict[str, Any]] = [
    {
        "said": [{"who": "sys", "what": "Be brief."}, {"who": "me", "what": "<image>What?"}],
        "good": {"who": "it", "what": "A cat."},
        "bad": {"who": "it", "what": "A dog."},
        "images": ["a.png"],
        "conversations": "not the talk",
    }
]
COLUMNS = {"prompt": "q", "query": "more", "chosen": "good", "rejected": "bad", "images": "pics"}
ALPACA_ENTRY = {"file_name": "alpaca.json", "ranking": True, "columns": COLUMNS}
TALK_ENTRY = {
    "file_name": "below/talk.jsonl",
    "ranking": True,
    "formatting": "sharegpt",
    "columns": {"messages": "said", "chosen": "good", "rejected": "bad", "images": "images"},
    "tags": {"role_tag": "who", "content_tag": "what", "user_tag": "me", "assistant_tag": "it", "system_tag": "sys"},
}


def described(folder: Path, **entries: Any) -> Path:
    (folder / "below").mkdir(exist_ok=True)
    (folder / "alpaca.json").write_text(json.dumps(ALPACA))
    (folder / "below" / "talk.jsonl").write_text("".join(json.dumps(row) + "\n" for row in TALK))
    index = folder / "dataset_info.json"
    index.write_text(json.dumps({"identity": {"file_name": "identity.json"}, **entries}))
    return index


def load(spec: Path | str, **options: Any) -> list[PreferencePair]:
    return load_pairs([spec], allow_demonstrations=False, quarantine=Quarantine(), **options)


def test_columns_are_read_by_the_names_that_the_entry_gives(tmp_path: Path) -> None:
    index = described(tmp_path, mine=ALPACA_ENTRY)
    for spec in (index, tmp_path, f"{tmp_path}:mine", f"{index}:mine"):
        imaged, plain = load(spec)
        assert imaged.prompt[0].text == "What?\nLook."
        assert [image.path for image in imaged.images] == ["a.png"]
        assert (imaged.chosen, imaged.rejected) == ("A cat.", "A dog.")
        assert imaged.meta == {"row_input": "other"}, "a column that is not named is not read as the default one"
        assert (plain.images, plain.score_chosen) == ((), 4.0)


def test_tags_tell_who_speaks_and_images_start_from_the_index(tmp_path: Path) -> None:
    index = described(tmp_path, talk=TALK_ENTRY)
    (pair,) = load(index)
    assert [(turn.role, turn.text) for turn in pair.prompt] == [("system", "Be brief."), ("user", "What?")]
    assert (pair.chosen, pair.rejected) == ("A cat.", "A dog.")
    assert pair.meta == {"row_conversations": "not the talk"}
    assert open_source(index).folder == tmp_path


def test_without_columns_the_default_names_are_read(tmp_path: Path) -> None:
    rows = [{"instruction": "Hi?", "input": "Now.", "chosen": "a", "rejected": "b"}]
    index = described(tmp_path, mine={"file_name": "rows.json", "ranking": True})
    (tmp_path / "rows.json").write_text(json.dumps(rows))
    assert load(index)[0].prompt[0].text == "Hi?\nNow."
    index = described(tmp_path, mine={"file_name": "rows.json", "ranking": True, "columns": {"prompt": "instruction"}})
    assert load(index)[0].prompt[0].text == "Hi?", "with columns, what is not named is not read"


def test_one_of_several_is_chosen_by_name(tmp_path: Path) -> None:
    index = described(tmp_path, mine=ALPACA_ENTRY, talk=TALK_ENTRY, sft={"file_name": "alpaca.json"})
    assert len(load(f"{index}:mine")) == 2
    assert len(load(f"{tmp_path}:talk")) == 1
    for spec in (index, tmp_path, f"{index}:nothing", f"{index}:sft"):
        with pytest.raises(ConfigError, match="mine, talk"):
            open_source(spec)
    sources, _, _ = recipe_sources(DataSection.model_validate({"train": [f"{index}:mine", f"{index}:talk"]}))
    assert [source.row_format for source in sources] == ["llamafactory_alpaca", "llamafactory_sharegpt"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"file_name": "absent.json"}, r"absent\.json does not exist, and 'mine' in .*names it"),
        ({"formatting": "openai"}, "formatting 'openai'; read are: alpaca, sharegpt"),
        ({"columns": {"promt": "q"}}, "unknown columns promt"),
        ({"columns": {"prompt": "q", "chosen": "good", "rejected": "good"}}, "'good' two meanings"),
        ({"num_samples": 10}, "num_samples"),
        ({"file_name": None, "ms_hub_url": "a/b"}, "lies at .*ms_hub_url, which is not read"),
    ],
)
def test_an_entry_that_cannot_be_followed_is_named(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    index = described(tmp_path, mine={**ALPACA_ENTRY, **changes})
    with pytest.raises(DataError, match=message):
        open_source(index)


def test_rows_with_tools_are_read(tmp_path: Path) -> None:
    rows = [{**ALPACA[1], "can": json.dumps([{"name": "zoom"}])}, {**ALPACA[1], "q": "Hi?", "can": ""}]
    index = described(tmp_path, mine={**ALPACA_ENTRY, "columns": {**COLUMNS, "tools": "can"}})
    (tmp_path / "alpaca.json").write_text(json.dumps(rows))
    assert [pair.template_kwargs for pair in load(index)] == [{"tools": [{"name": "zoom"}]}, None]


def test_uni_dpo_names_its_scores_in_the_entry(tmp_path: Path) -> None:
    rows = [{"q": "Hi?", "good": "a", "bad": "b", "w": 3.5, "l": 1}]
    columns = {"prompt": "q", "chosen": "good", "rejected": "bad", "score_chosen": "w", "score_rejected": "l"}
    index = described(tmp_path, mine={**ALPACA_ENTRY, "columns": columns})
    (tmp_path / "alpaca.json").write_text(json.dumps(rows))
    (pair,) = load(index)
    assert (pair.score_chosen, pair.score_rejected) == (3.5, 1.0)


@pytest.mark.parametrize(("column", "reason"), [("images", "unread_images"), ("system", "unread_system")])
def test_a_column_that_the_entry_forgets_is_refused_by_name(tmp_path: Path, column: str, reason: str) -> None:
    index = described(tmp_path, mine=ALPACA_ENTRY)
    value = ["a.png"] if column == "images" else "Be brief."
    (tmp_path / "alpaca.json").write_text(json.dumps([{**ALPACA[1], column: value}, {**ALPACA[1], column: None}]))
    quarantine = Quarantine()
    assert len(load_pairs([index], allow_demonstrations=False, quarantine=quarantine, max_bad_fraction=1)) == 1
    assert quarantine.counts == {reason: 1}
    assert f"column '{column}'" in quarantine.rows[0].detail


KTO_ALPACA = [{"q": "<image>What?", "a": "A cat.", "good": False, "pics": ["a.png"], "output": "kept apart"}]
KTO_TALK = [{"said": [{"who": "me", "what": "Hi"}, {"who": "it", "what": "Yes?"}], "good": True}]


def test_entries_with_a_kto_tag_are_single_answers(tmp_path: Path) -> None:
    (tmp_path / "kto.json").write_text(json.dumps(KTO_ALPACA))
    (tmp_path / "kto_talk.json").write_text(json.dumps(KTO_TALK))
    columns = {"prompt": "q", "response": "a", "kto_tag": "good", "images": "pics"}
    talk = {
        "file_name": "kto_talk.json",
        "formatting": "sharegpt",
        "columns": {"messages": "said", "kto_tag": "good"},
        "tags": TALK_ENTRY["tags"],
    }
    index = described(tmp_path, alpaca={"file_name": "kto.json", "columns": columns}, talk=talk)
    [pair] = load_pairs([f"{index}:alpaca"], allow_demonstrations="labelled", quarantine=Quarantine())
    assert (pair.chosen, pair.rejected, pair.label, len(pair.images)) == ("A cat.", None, False, 1)
    assert pair.meta == {"row_output": "kept apart"}
    [pair] = load_pairs([f"{index}:talk"], allow_demonstrations="labelled", quarantine=Quarantine())
    assert (pair.chosen, pair.label, pair.prompt[0].text) == ("Yes?", True, "Hi")
    with pytest.raises(DataError, match=r"loss\.name=kto"):
        load(f"{index}:talk")


@pytest.mark.parametrize("target", ["llamafactory_kto", "llamafactory_kto_sharegpt"])
def test_labelled_answers_are_written_with_their_entry(tmp_path: Path, target: str) -> None:
    rows = [{"prompt": "Hi", "completion": "Yes?", "label": number % 2 == 0, "id": f"r{number}"} for number in range(4)]
    given = (("rows", number, row) for number, row in enumerate(rows, start=1))
    settings = ConvertSettings(to=target, out=tmp_path / "rows.json")
    assert convert(given, settings, quarantine=Quarantine()).num_pairs == 4
    assert json.loads((tmp_path / "dataset_info.json").read_text())["rows"]["ranking"] is False
    found = load_pairs([tmp_path / "dataset_info.json"], allow_demonstrations="labelled", quarantine=Quarantine())
    assert [(pair.id, pair.chosen, pair.label) for pair in found] == [
        (f"r{number}", "Yes?", number % 2 == 0) for number in range(4)
    ]


def test_what_convert_writes_is_read_back_through_its_index(tmp_path: Path) -> None:
    described(tmp_path, talk=TALK_ENTRY)
    for target in ("llamafactory_sharegpt", "llamafactory_alpaca"):
        out = tmp_path / target / "pairs.json"
        rows = ((str(row.file), row.number, row.row) for row in open_source(tmp_path))
        settings = ConvertSettings(to=target, out=out)
        convert(rows, settings, source_format="llamafactory_sharegpt", quarantine=Quarantine())
        (first,), (again,) = load(tmp_path), load(out.parent)
        assert (first.id, first.prompt, first.images, first.chosen) == (
            again.id,
            again.prompt,
            again.images,
            again.chosen,
        )


def test_a_check_is_held_to_the_columns_it_was_made_with(tmp_path: Path) -> None:
    index = described(tmp_path, mine=ALPACA_ENTRY)
    rows = [{**row, "pics": None, "q": "What?"} for row in ALPACA]
    (tmp_path / "alpaca.json").write_text(json.dumps(rows))
    check([open_pairs(index)], out=tmp_path / "out", workers=1)
    verify(tmp_path / "out" / "data_report.json", [open_pairs(index)], demonstrations=False)
    index.write_text(
        index.read_text().replace('"chosen": "good", "rejected": "bad"', '"chosen": "bad", "rejected": "good"')
    )
    with pytest.raises(DataError, match="read this way"):
        verify(tmp_path / "out" / "data_report.json", [open_pairs(index)], demonstrations=False)


def test_an_index_that_datasets_wrote_is_not_taken_for_one(tmp_path: Path) -> None:
    (tmp_path / "dataset_info.json").write_text(json.dumps({"builder_name": "json", "features": {"file_name": {}}}))
    (tmp_path / "rows.jsonl").write_text(json.dumps({"prompt": "Hi?", "chosen": "a", "rejected": "b"}) + "\n")
    assert len(load(tmp_path)) == 1
    with pytest.raises(DataError, match="describes no data sets"):
        open_source(tmp_path / "dataset_info.json")
