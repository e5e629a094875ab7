"""The built site: every link and image leads somewhere, no network is needed, and nothing of the code is left out."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
import torch

pytest.importorskip("sphinx")

from site_pages import benchmark_pages, command_pages, error_pages, metric_pages, recipe_pages

from mmpref.cli.recipes import described_keys
from mmpref.data.card import list_cards
from mmpref.evals.benchmarks import BENCHMARKS
from mmpref.losses import PairLogps, build_objective
from mmpref.losses.presets import PRESETS
from mmpref.recipe.shipped import shipped_recipes

pytestmark = pytest.mark.site
ROOT = Path(__file__).resolve().parents[2]


@dataclass
class Html(HTMLParser):
    """What a page has that can lead somewhere."""

    links: list[str] = field(default_factory=list)
    resources: list[str] = field(default_factory=list)
    ids: list[str] = field(default_factory=list)
    without_alt: list[str] = field(default_factory=list)
    words: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        if "id" in given:
            self.ids.append(given["id"])
        if tag == "a" and "href" in given:
            self.links.append(given["href"])
        if tag == "img" and "alt" not in given:
            self.without_alt.append(given.get("src", ""))
        if tag in ("img", "script", "iframe", "source", "video", "audio", "embed") and "src" in given:
            self.resources.append(given["src"])
        if tag == "link" and given.get("rel") in ("stylesheet", "icon", "preload", "modulepreload"):
            self.resources.append(given["href"])

    def handle_data(self, data: str) -> None:
        self.words.append(data)


@cache
def parsed(file: Path) -> Html:
    page = Html()
    page.feed(file.read_text(encoding="utf-8"))
    return page


def pages(site: Path) -> Iterator[tuple[str, Html]]:
    for file in sorted(site.rglob("*.html")):
        if "_static" not in file.relative_to(site).parts:
            yield file.relative_to(site).as_posix(), parsed(file)


def ids(site: Path, name: str) -> set[str]:
    return set(parsed(site / name).ids)


def text(site: Path, name: str) -> str:
    return " ".join("".join(parsed(site / name).words).split())


def test_every_page_of_the_docs_is_built_and_in_the_navigation(site: Path) -> None:
    built = {name for name, _ in pages(site)}
    wanted = {file.relative_to(ROOT / "docs").with_suffix(".html").as_posix() for file in (ROOT / "docs").rglob("*.md")}
    wanted |= {f"notebooks/{file.stem}.html" for file in (ROOT / "docs" / "notebooks").glob("*.ipynb")}
    assert wanted <= built
    linked = {unquote(urlsplit(link).path) for link in parsed(site / "index.html").links}
    assert {name for name in wanted if not name.startswith("reference/cards/")} - linked <= {"index.html"}


def test_every_link_anchor_image_and_script_is_there(site: Path) -> None:
    broken = []
    for name, page in pages(site):
        for target in [*page.links, *page.resources]:
            found = urlsplit(target)
            if found.scheme or target.startswith("//"):
                continue
            place = (site / name).parent / unquote(found.path) if found.path else site / name
            if not place.is_file():
                broken.append(f"{name}: {target}")
            elif found.fragment and place.suffix == ".html" and not _has_anchor(place, unquote(found.fragment)):
                broken.append(f"{name}: {target} (no such anchor)")
    assert broken == []


def _has_anchor(place: Path, anchor: str) -> bool:
    return anchor in parsed(place).ids


def test_a_page_is_called_by_its_title_and_not_by_its_file(site: Path) -> None:
    named = re.compile(r'<a class="reference internal" href="[^"]+\.html[^"]*">(?:<span[^>]*>)*([\w/.]+\.md)<')
    found = {name: named.findall((site / name).read_text(encoding="utf-8")) for name, _ in pages(site)}
    assert {name: texts for name, texts in found.items() if texts} == {}


def test_an_anchor_leads_to_one_place(site: Path) -> None:
    twice = {name: [one for one, n in Counter(page.ids).items() if n > 1] for name, page in pages(site)}
    assert {name: found for name, found in twice.items() if found} == {}


def test_nothing_is_loaded_from_elsewhere(site: Path) -> None:
    away = [
        (name, one) for name, page in pages(site) for one in page.resources if urlsplit(one).scheme not in ("", "data")
    ]
    assert away == []
    styles = [
        file for file in site.rglob("*.css") if re.search(r"url\(\s*[\"']?(?:https?:)?//", file.read_text("utf-8"))
    ]
    assert styles == []


def test_every_image_has_a_text(site: Path) -> None:
    assert [(name, page.without_alt) for name, page in pages(site) if page.without_alt] == []


def test_links_to_other_sites_are_whole(site: Path) -> None:
    wrong = []
    for name, page in pages(site):
        for target in page.links:
            found = urlsplit(target)
            if found.scheme and not (
                (found.scheme == "https" and re.fullmatch(r"[\w-]+(\.[\w-]+)+", found.netloc) and " " not in target)
                or found.scheme == "mailto"
            ):
                wrong.append(f"{name}: {target}")
    assert wrong == []


def public_names() -> list[tuple[str, str]]:
    """Every exported name with its package, and the members of classes, as the kept list has them."""
    found, package, kind = [], "", ""
    for line in (ROOT / "tests" / "unit" / "public_api.txt").read_text(encoding="utf-8").splitlines():
        if line.startswith("# mmpref on the command line"):
            break
        if line.startswith("# "):
            package = line[2:]
        elif name := re.match(r"(?:class |def )?(\w+)[(:]", line):
            kind = name[1] if line.startswith("class ") else ""
            found.append((package, name[1]))
        elif kind and (name := re.match(r"    (?:def |classmethod |staticmethod )?(\w+)(?:\(|: property)", line)):
            found.append((package, f"{kind}.{name[1]}"))
    return found


def test_every_public_name_is_on_the_page_of_its_package(site: Path) -> None:
    names = public_names()
    assert len(names) > 100
    every = {one for file in (site / "api").glob("*.html") for one in parsed(file).ids}
    missing = []
    for package, name in names:
        page = parsed(site / "api" / f"{package.rpartition('.')[2]}.html")
        kind, sign, member = name.partition(".")
        elsewhere = [target for link in page.links if (target := urlsplit(link).fragment).rpartition(".")[2] == kind]
        if not any(f"{place}{sign}{member}" in every for place in (f"{package}.{kind}", *elsewhere)):
            missing.append(f"{package}.{name}")
    assert missing == []


def test_every_recipe_key_has_an_entry_with_its_type_and_default(site: Path) -> None:
    there, said = ids(site, "reference/recipe_keys.html"), text(site, "reference/recipe_keys.html")
    keys = described_keys()
    assert len(keys) > 200
    assert [key.name for key in keys if recipe_pages.key_anchor(key.name) not in there] == []
    absent = [
        key.name
        for key in keys
        if key.default != "required" and f"{key.name}{key.takes} · default {key.default}" not in said
    ]
    assert absent == []


def test_every_recipe_has_a_section_with_its_command_memory_and_result(site: Path) -> None:
    there, said = ids(site, "reference/recipes.html"), text(site, "reference/recipes.html")
    names = shipped_recipes()
    assert [name for name in names if name.replace("_", "-") not in there] == []
    assert said.count("Memory: ") >= len(names)
    heads = {
        name: recipe_pages.header((ROOT / "mmpref" / "recipes" / f"{name}.yaml").read_text("utf-8")) for name in names
    }
    assert [
        name for name, head in heads.items() if not (head.about and head.commands and head.memory and head.result)
    ] == []


def test_every_card_has_a_page_and_a_row(site: Path) -> None:
    cards = list_cards()
    said = text(site, "reference/data_cards.html")
    assert [card.name for card in cards if not (site / "reference" / "cards" / f"{card.name}.html").is_file()] == []
    assert [card.name for card in cards if card.name not in said] == []
    assert [card.name for card in cards if card.license not in text(site, f"reference/cards/{card.name}.html")] == []


def test_every_benchmark_metric_and_protocol_is_in_the_table(site: Path) -> None:
    there, said = ids(site, "reference/benchmark_table.html"), text(site, "reference/benchmark_table.html")
    for name, benchmark in BENCHMARKS.items():
        assert benchmark_pages.anchor(name) in there
        for metric in benchmark_pages.metrics(benchmark):
            assert f"{metric} {benchmark_pages.arrow(benchmark, metric)}" in said, (name, metric)
        assert all(protocol in said for protocol in benchmark.protocols)
        assert all(setting.name in said for setting in benchmark.settings)


def test_every_command_and_option_is_on_the_page(site: Path) -> None:
    there, said = ids(site, "reference/commands.html"), text(site, "reference/commands.html")
    commands = list(command_pages.every_command())
    assert len(commands) > 20
    for path, command in commands:
        assert command_pages.anchor(path) in there
        for parameter in command.params:
            if parameter.name != "help" and parameter.opts[0].startswith("-"):
                assert parameter.opts[0] in said, (path, parameter.opts[0])


def test_every_error_class_says_its_code_and_what_to_do(site: Path) -> None:
    there, said = ids(site, "reference/errors.html"), text(site, "reference/errors.html")
    classes = error_pages.error_classes()
    assert len(classes) > 10
    for kind in classes:
        assert error_pages.anchor(kind) in there
        assert f"exit code {error_pages.exit_code(kind)}" in said


def test_every_statistic_of_every_preset_is_among_the_metrics(site: Path) -> None:
    named = {name for names in metric_pages.TRAINING.values() for name in names}
    assert {name for preset in PRESETS for name in statistics_of(preset)} <= named
    said = text(site, "reference/metrics.html")
    assert [name for name in named if name not in said] == []
    assert [name for found in BENCHMARKS.values() for name in benchmark_pages.metrics(found) if name not in said] == []


def statistics_of(preset: str) -> set[str]:
    """What the loss of a preset writes down for two pairs, or for two single answers."""
    numbers = {"chosen": [-10.0, -12.0], "chosen_len": [8, 9], "ref_chosen": [-11.0, -12.0]}
    if preset == "kto":
        numbers |= {"kl": [0.1, 0.1], "desirable": [1.0, 0.0]}
        rest = {"rejected": None, "rejected_len": None}
    else:
        numbers |= {"rejected": [-13.0, -11.0], "rejected_len": [9, 7], "ref_rejected": [-12.0, -12.0]}
        numbers |= {"chosen_score": [4.0, 3.0], "rejected_score": [2.0, 1.0], "anchor_shift": [0.0, 0.0]}
        numbers |= {"other": [-14.0, -15.0], "ref_other": [-13.0, -15.0]}
        rest = {}
    logps = PairLogps(**{name: torch.tensor(values) for name, values in numbers.items()}, **rest)
    loss = {"name": preset, **({"uni": {"tau_good": 3.5}} if "uni" in preset else {})}
    return set(build_objective(loss)(logps).stats)


def test_the_search_knows_what_is_only_in_generated_pages(site: Path) -> None:
    index = (site / "searchindex.js").read_text(encoding="utf-8")
    known = json.loads(index.removeprefix("Search.setIndex(").rstrip(";").removesuffix(")"))
    assert {"reference/recipe_keys", "api/losses", "reference/cards/rlhf_v"} <= set(known["docnames"])
    assert "tau_good" in known["terms"]
