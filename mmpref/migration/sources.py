"""Where another tool's data is, as sources of ours."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from mmpref.data.reading.dataset_info import FILE_NAME, choose_entry, read_entries
from mmpref.errors import MMPrefError
from mmpref.files.reading import home_path, is_there
from mmpref.migration.contract import Draft

TO_SET: Final = "to-set.jsonl"
"""Stands where the data is not known; no such file should be there."""
_PARENTS: Final = 4


def near(path: str, file: Path | None) -> Path | None:
    """A folder or file that another tool names relative to where it was started: looked for here, then beside the
    config file and above it; None where it is not found."""
    given = home_path(path)
    beside = [] if file is None else list(file.resolve().parents)[:_PARENTS]
    return next((place for place in (given, *(above / given for above in beside)) if place.exists()), None)


def described_sources(draft: Draft) -> None:
    """LLaMA-Factory's data sets: names of entries of ``dataset_info.json``, which mmpref reads itself."""
    names, folder = draft.value("dataset") or [], draft.value("dataset_dir")
    place = None if str(folder) == "ONLINE" else near(str(folder), _file(draft))
    info = None if place is None else place / FILE_NAME if place.is_dir() else place
    if not names:
        draft.to_set.append("data.train: the file names no dataset")
        draft.same("dataset")
        draft.values["data.train"] = TO_SET
    for key, ours in (("dataset", "data.train"), ("eval_dataset", "data.eval")):
        wanted = draft.value(key) or []
        found = [_entry(info, name) for name in wanted]
        problems = [problem for _, problem in found if problem]
        if not wanted:
            draft.same(key)
        elif problems:
            draft.drop(key, f"{problems[0]}; set {ours}")
            draft.to_set.append(f"{ours}: {', '.join(wanted)} ({problems[0]})")
            if key == "dataset":
                draft.values["data.train"] = TO_SET
        else:
            specs = [spec for spec, _ in found]
            draft.carry(key, {ours: specs[0] if len(specs) == 1 else specs}, f"read through {FILE_NAME}")
    _folders(draft, place)


def _folders(draft: Draft, place: Path | None) -> None:
    media = draft.value("media_dir")
    if place is None:
        draft.drop("dataset_dir", f"no {FILE_NAME} is found there", matters=False)
    elif "dataset" in draft.findings and draft.findings["dataset"].ours:
        draft.carry("dataset_dir", {"data.train": draft.values["data.train"]})
    else:
        draft.same("dataset_dir")
    if media is not None:
        found = near(media, _file(draft))
        draft.carry("media_dir", {"data.root": str(found or media)})
    elif place is not None and place.is_dir():
        draft.values["data.root"] = str(place)
        draft.same("media_dir")
    else:
        draft.same("media_dir")


def _entry(info: Path | None, name: str) -> tuple[str, str]:
    """The source of one data set, or what is wrong with it."""
    if info is None or not is_there(info):
        return "", f"no {FILE_NAME} was found"
    try:
        entries = read_entries(info)
        if entries is None:
            return "", f"{info} describes no data sets"
        choose_entry(info, entries, name)
    except MMPrefError as err:
        return "", str(err)
    return f"{info}:{name}", ""


def _file(draft: Draft) -> Path | None:
    path = Path(draft.where)
    return path if path.is_file() else None
