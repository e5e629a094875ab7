from __future__ import annotations

import re
import subprocess
import sys
from html.parser import HTMLParser

import pytest
from jinja2 import UndefinedError

from mmpref.errors import CheckpointError, ConfigError
from mmpref.report.compare import comparison_table, load_runs
from mmpref.report.figures.curves import Curve, curve_figure
from mmpref.report.figures.outcomes import result_figure
from mmpref.report.html import printable, render
from mmpref.report.page import build_report
from mmpref.report.table_files import write_table

VOID = {"meta", "link", "img", "br"}
HOSTILE = '<script>alert("x")</script><img src=https://evil.example/x onerror=alert(1)>\x00\x1b&amp;\'"'


class Outline(HTMLParser):
    """Checks that elements nest, and keeps what the tests ask about."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open, self.tags, self.ids, self.words = [], [], [], []
        self.feed(page)
        self.close()
        assert self.open == []

    def handle_starttag(self, name, attributes):
        self.tags.append((name, dict(attributes)))
        self.ids += [value for key, value in attributes if key == "id"]
        if name not in VOID:
            self.open.append(name)

    def handle_startendtag(self, name, attributes):
        self.tags.append((name, dict(attributes)))
        self.ids += [value for key, value in attributes if key == "id"]

    def handle_endtag(self, name):
        assert self.open.pop() == name

    def handle_data(self, data):
        if self.open[-1:] not in (["style"],):
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


@pytest.fixture(scope="session")
def page(demo_runs, world, tmp_path_factory):
    out = tmp_path_factory.mktemp("page") / "page.html"
    assert build_report(demo_runs, out, images_root=world, title="Demo", labels={"dpo": "DPO"}) == out
    return out


def no_outside_reference(outline: Outline, source: str) -> None:
    for name, attributes in outline.tags:
        assert name not in {"script", "iframe", "object", "embed", "base", "form", "audio", "video", "foreignobject"}
        for key, value in attributes.items():
            assert not key.startswith("on"), (name, key)
            if key in {"src", "href", "xlink:href", "srcset", "action", "data", "poster"}:
                assert value.startswith(("data:", "#")), (name, key, value)
    style = "".join(re.findall(r"<style>(.*?)</style>", source, re.DOTALL))
    assert "@import" not in style
    assert not re.findall(r"url\((?!#)", source.split("<body", 1)[0])


def test_the_page_is_whole_and_alone(page):
    source = page.read_text()
    outline = Outline(source)
    no_outside_reference(outline, source)
    assert "http://" not in source
    assert "https://" not in source
    assert len(outline.ids) == len(set(outline.ids))
    assert len(source) < 3_000_000
    for words in (
        "Demo",
        "DPO",
        "▼ says less",
        "CHAIR is lower than the baseline's",
        "none is corrected",
    ):
        assert words in outline.text
    for section in ("summary", "results", "training", "examples", "provenance"):
        assert section in outline.ids
    headers = [attributes for name, attributes in outline.tags if name == "th"]
    assert all("scope" in attributes for attributes in headers)
    images = [attributes for name, attributes in outline.tags if name == "img"]
    assert len(images) == 8 + 8  # captions, and questions that turned
    assert all(a["alt"].startswith(("Image heldout_", "Image of question")) and a["class"] == "tiny" for a in images)
    assert sum(name == "table" for name, a in outline.tags if a.get("class") == "results") == 1
    assert any(name == "mark" for name, _ in outline.tags)


def test_every_panel_is_told_in_words(page):
    outline = Outline(page.read_text())
    told = [a["aria-label"] for name, a in outline.tags if a.get("role") == "img" and name == "div"]
    assert len(told) == 14 + 2  # curves, and outcomes
    assert any("Reward margin. DPO from" in words for words in told)
    assert all(a.get("aria-hidden") == "true" for name, a in outline.tags if name == "svg")


def test_same_runs_same_bytes(demo_runs, world, page, tmp_path):
    out = page.with_name("again.html")
    build_report(demo_runs, out, images_root=world, title="Demo", labels={"dpo": "DPO"})
    assert out.read_text().replace("again.html", "page.html") == page.read_text()


def test_hostile_text_stays_text(folders, tmp_path):
    run = folders.write_run(tmp_path / "run", recipe=f"# {HOSTILE}\nseed: 0\n")
    items = [
        folders.caption_item(0, ["tree"], text=f"tree {HOSTILE}")
        | {"id": HOSTILE, "objects": [HOSTILE], "missing": [HOSTILE]}
    ]
    folders.write_chair(run, items, notes=[HOSTILE], protocol=HOSTILE)
    folders.write_eval(run, "pope", [], {f"{HOSTILE}/accuracy": 0.5})
    (run / "evals/bad").mkdir()
    (run / "evals/bad/results.json").write_text(HOSTILE)
    out = build_report([run], tmp_path / "page.html", title=HOSTILE, labels={"run": f"{HOSTILE} $x^$"})
    source = out.read_text()
    outline = Outline(source)
    no_outside_reference(outline, source)
    assert "alert" not in {name for name, _ in outline.tags}
    assert "\x00" not in source
    assert "\x1b" not in source
    assert '<script>alert("x")</script>' in outline.text


def test_missing_pieces_are_said(folders, tmp_path):
    run = folders.write_run(tmp_path / "bare", recipe=None)
    outline = Outline(build_report([run], tmp_path / "page.html").read_text())
    for words in (
        "None of these runs has been evaluated",
        "No training curves",
        "No examples",
        "Not evaluated.",
        "No recipe.yaml",
        "not measured",
    ):
        assert words in outline.text


def test_runs_without_evaluations_have_no_empty_table(folders, tmp_path):
    """Of captions and of POPE, which nobody was asked; what training logged has its columns."""
    bare = folders.write_run(tmp_path / "bare")
    trained = folders.write_run(tmp_path / "trained", log=folders.preference_log())
    outs = {runs: tmp_path / f"{len(runs)}.html" for runs in ((bare,), (bare, trained))}
    for runs, out in outs.items():
        outline = Outline(build_report(list(runs), out).read_text())
        assert "captions (CHAIR)" not in outline.text
        assert any(a.get("class") == "results" for n, a in outline.tags if n == "table") == (trained in runs)
        for ending in (".csv", ".md", ".tex"):
            write_table(load_runs(list(runs)), tmp_path / f"table{ending}")
            text = (tmp_path / f"table{ending}").read_text()
            assert "CHAIR" not in text
            assert ("none of these runs has been evaluated" in text) == (trained not in runs)


def test_a_run_with_evals_but_without_images(folders, tmp_path):
    run = folders.write_run(tmp_path / "run")
    folders.write_chair(run, folders.captions(6, made_up_every=2))
    outline = Outline(build_report([run], tmp_path / "page.html", examples=3).read_text())
    assert "no image folder was given" in outline.text
    assert "run is the baseline: 50.0" in outline.text


def test_images_are_found_through_the_recipe(folders, world, tmp_path):
    run = folders.write_run(tmp_path / "run", recipe=f"data:\n  root: {world}\n")
    folders.write_chair(run, folders.captions(6, made_up_every=2))
    assert build_report([run], tmp_path / "page.html").read_text().count("data:image/png") == 6


def test_errors(folders, tmp_path):
    with pytest.raises(ConfigError, match="not a run folder"):
        build_report([tmp_path], tmp_path / "page.html")
    run = folders.write_run(tmp_path / "run")
    (tmp_path / "folder").mkdir()
    with pytest.raises(CheckpointError):
        build_report([run], tmp_path / "folder")
    assert list((tmp_path / "folder").iterdir()) == []


def test_without_matplotlib_the_message_says_what_to_install(demo_runs, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ConfigError, match=r'pip install "mmpref\[report\]"'):
        build_report(demo_runs, tmp_path / "page.html")
    assert not (tmp_path / "page.html").exists()


def test_the_table_needs_neither_torch_nor_matplotlib():
    code = "import sys, mmpref.report.page; print([m for m in ('torch', 'matplotlib') if m in sys.modules])"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


def test_curves_are_deterministic_and_keep_their_ids_apart():
    curve = Curve("a <b> $c$", 1, (0.0, 5.0, 10.0), (0.1, 0.4, 0.2))
    one, again, other = (curve_figure([curve], name=n, y_label="loss", x_range=(0, 10)) for n in ("x", "x", "y"))
    assert one == again
    assert one.startswith("<svg ")
    assert "var(--run-1)" in one
    ids = [set(re.findall(r'id="([^"]+)"', svg)) for svg in (one, other)]
    assert not ids[0] & ids[1]
    for name in re.findall(r'(?:url\(#|href="#)([^")]+)', one):
        assert name in ids[0]


def test_result_figure_stands_alone(demo_runs):
    table = comparison_table(load_runs(demo_runs))
    svg = result_figure(table)
    assert svg == result_figure(table)
    outline = Outline(svg)
    assert outline.tags[0][1]["role"] == "img"
    assert "adadpo: CHAIR_s 0.0" in outline.text
    assert "▼ says less" in svg
    assert "prefers-color-scheme:dark" in svg
    assert "<script" not in svg
    assert set(re.findall(r"https?://[^\"' ]+", svg)) <= {
        "http://www.w3.org/2000/svg",
        "http://www.w3.org/1999/xlink",
    }


def test_result_figure_of_what_was_not_measured(folders, tmp_path):
    table = comparison_table(load_runs([folders.write_run(tmp_path / "run")]))
    assert "not measured" in result_figure(table)


def test_values_are_escaped_once_and_html_not_again():
    swatch = render("swatch", place=1, width='"<', dashes="")
    assert 'width="&#34;&lt;"' in swatch
    shown = render("training", drawings=[], lines=[], max_points=0)
    assert shown == render("training", drawings=[], lines=[], max_points=0)
    assert "&lt;section" not in shown
    assert printable(shown) is shown


def test_characters_that_html_forbids_become_a_visible_mark():
    assert printable("a\x00b\x7f\n") == "a\ufffdb\ufffd\n"
    assert printable("\ud800") == "?"


def test_a_value_that_a_template_names_and_nobody_gives_is_an_error():
    with pytest.raises(UndefinedError, match="drawings"):
        render("training", lines=[], max_points=0)


def test_what_losses_of_images_tokens_and_answers_log_is_drawn_where_it_is_there(folders, tmp_path):
    said = {
        "Image term: margin": {"image/margin": 0.2}, "What the image is worth": {"image/lift": 0.1},
        "Pairs that the image helps": {"image/helps": 0.7}, "Part of the loss: image": {"loss/image": 0.6},
        "Part of the loss: pair": {"loss/pair": 0.6}, "Part of the loss: anchors": {"loss/anchor": 0.6},
        "Part of the loss: NLL": {"loss/nll": 1.6},
        "Tokens in which the answers differ": {"weights/changed_share": 0.3},
        "Effective length of an answer": {"weights/effective_len": 31.0},
        "Anchor: chosen answers below it": {"anchor/below": 0.4}, "Anchor: running shift": {"anchor/shift": 0.05},
        "KTO: estimate of the drift": {"kto/kl": 0.2}, "KTO: desirable answers": {"kto/share_desirable": 0.5},
    }  # fmt: skip
    more = {name: value for entry in said.values() for name, value in entry.items()}
    runs = [
        folders.write_run(tmp_path / name, log=folders.preference_log(more=of_run))
        for name, of_run in (("plain", {}), ("image", more))
    ]
    pages = [
        Outline(build_report(given, tmp_path / f"{len(given)}.html").read_text()).text for given in (runs[:1], runs)
    ]
    assert not any(title in pages[0] for title in said)
    assert all(title in pages[1] for title in said)
