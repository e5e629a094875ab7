from __future__ import annotations

import pytest

from mmpref.report.compare import load_runs
from mmpref.report.examples import Piece, choose_examples, mark_words


def mention(word, span, *, hallucinated=True):
    return {"word": word, "object": word, "position": 0, "span": span, "hallucinated": hallucinated}


def test_hallucinated_words_are_marked_by_their_place():
    found = mark_words("a cup and a cup .", [mention("cup", [12, 15]), mention("cup", [2, 5], hallucinated=False)])
    assert found == (Piece("a cup and a "), Piece("cup", "hallucinated"), Piece(" ."))


def test_without_a_place_the_word_is_looked_for():
    found = mark_words("A Cup, cups, cup.", [mention("cup", None)])
    assert [piece.text for piece in found if piece.mark] == ["Cup", "cup"]


@pytest.mark.parametrize("span", [[-1, 3], [3, 99], [5, 2], ["0", 3], [True, 3], {}, [1]])
def test_a_place_that_is_not_in_the_text_is_not_trusted(span):
    assert "".join(piece.text for piece in mark_words("a red cup", [mention("cup", span)])) == "a red cup"


def test_overlapping_places_keep_the_text_whole():
    found = mark_words("hot dog stand", [mention("hot dog", [0, 7]), mention("dog", [4, 7])])
    assert found == (Piece("hot dog", "hallucinated"), Piece(" stand"))


def two_runs(folders, root):
    """Ten images of every case but the last two, which the second run makes by forgetting."""
    first, second = folders.write_run(root / "a"), folders.write_run(root / "b")
    before, after = [], []
    for number in range(40):
        truth = folders.scene(number)
        wrong = [*truth, folders.THINGS[(number + 1) % 8]]
        case = number % 5
        before.append(folders.caption_item(number, wrong if case in (0, 2) else truth))
        after.append(folders.caption_item(number, wrong if case in (1, 2) else truth[:-1] if case == 3 else truth))
    folders.write_chair(first, before)
    folders.write_chair(second, after)
    return load_runs([first, second])


def test_every_case_has_its_turn_and_is_counted(folders, tmp_path):
    runs = two_runs(folders, tmp_path)
    gallery = choose_examples(runs, count=7, seed=0, images_root=None)
    assert dict(gallery.counts) == {"fixed": 8, "broken": 8, "stayed": 8, "lost": 8, "same": 8}
    assert [example.case for example in gallery.examples] == [
        "fixed",
        "fixed",
        "broken",
        "broken",
        "stayed",
        "lost",
        "same",
    ]
    assert gallery.num_images == 40
    again = choose_examples(runs, count=7, seed=0, images_root=None)
    assert again == gallery
    other = choose_examples(runs, count=7, seed=1, images_root=None)
    assert [e.name for e in other.examples] != [e.name for e in gallery.examples]
    assert choose_examples(runs, count=0, seed=0, images_root=None).examples == ()


def test_images_stay_inside_their_root(folders, tmp_path):
    root = tmp_path / "world"
    (root / "images").mkdir(parents=True)
    (tmp_path / "secret.png").write_bytes(folders.png(0))
    (root / "images/plain.png").write_bytes(folders.png(1))
    (root / "images/text.png").write_text("not an image")
    (root / "images/large.png").write_bytes(folders.png(1) + bytes(2_000_000))
    (root / "images/link.png").symlink_to(tmp_path / "secret.png")
    wanted = {
        "images/plain.png": "",
        "../secret.png": "outside",
        str(tmp_path / "secret.png"): "outside",
        "images/link.png": "outside",
        "images/text.png": "not PNG",
        "images/large.png": "too large",
        "images/none.png": "not in the image folder",
        "": "name no image",
        "a\0b": "name no image",
    }
    run = folders.write_run(tmp_path / "run")
    items = [folders.caption_item(n, []) | {"image": path} for n, path in enumerate(wanted)]
    folders.write_chair(run, items)
    gallery = choose_examples(load_runs([run]), count=20, seed=0, images_root=root)
    found = {example.name: example for example in gallery.examples}
    for item, why in zip(items, wanted.values(), strict=True):
        example = found[item["id"]]
        assert why in example.why_no_image
        assert (example.data_uri is None) == bool(why)
    assert found[items[0]["id"]].data_uri.startswith("data:image/png;base64,")
    assert found[items[0]["id"]].tiny
