"""What a folder of answers remembers: settings, images, shares of several processes, and who is writing."""

import json
import subprocess
import sys

import pytest

from mmpref.errors import ConfigError
from mmpref.evals import evaluate
from mmpref.generation import ScriptedAnswerer
from mmpref.generation.answer_log import AnswerLog, as_line
from mmpref.generation.fingerprint import of_file, of_images
from mmpref.generation.processes import deal
from mmpref.records import Answer, EvalSample, ImageRef, user_turn

QUESTIONS = [
    {"question_id": n, "image": f"{n % 3}.png", "text": f"Is there a {n}?", "label": "yes"} for n in range(1, 10)
]


@pytest.fixture
def images(tmp_path):
    root = tmp_path / "images"
    root.mkdir()
    for n in range(3):
        (root / f"{n}.png").write_bytes(b"picture %d" % n)
    return root


def run(out, images, **more):
    return evaluate(
        "m", "pope", questions=QUESTIONS, images_root=images, out=out,
        answerer=ScriptedAnswerer(lambda sample: "yes"), **more,
    )  # fmt: skip


def test_answers_made_from_other_images_of_the_same_names_are_refused(tmp_path, images):
    run(tmp_path / "out", images, limit=4)
    (images / "2.png").write_bytes(b"another 2")
    with pytest.raises(ConfigError, match=r"made from other images: 1 of 3 files differ \('2\.png'\)"):
        run(tmp_path / "out", images)


def test_the_same_images_elsewhere_are_the_same(tmp_path, images):
    run(tmp_path / "out", images, limit=4)
    images.rename(tmp_path / "moved")
    assert run(tmp_path / "out", tmp_path / "moved").n == 9


def test_a_image_of_a_question_not_yet_asked_may_change(tmp_path, images):
    run(tmp_path / "out", images, limit=1)  # about 1.png
    (images / "2.png").write_bytes(b"another 2")
    assert run(tmp_path / "out", images).n == 9
    (images / "2.png").write_bytes(b"a third 2")
    with pytest.raises(ConfigError, match="made from other images"):
        run(tmp_path / "out", images)


def test_scoring_again_needs_no_images(tmp_path, images):
    run(tmp_path / "out", images)
    assert run(tmp_path / "out", None, protocol="official").n == 9
    (images / "0.png").write_bytes(b"another 0")
    with pytest.raises(ConfigError, match="other images"):  # what was known is not forgotten
        run(tmp_path / "out", images)


def test_a_byte_anywhere_in_a_image_counts(tmp_path):
    file = tmp_path / "a.png"
    content = bytearray(300_000)
    file.write_bytes(content)
    before = of_file(file)
    for place in (0, 150_001, 299_999):
        content[place] ^= 1
        file.write_bytes(content)
        assert of_file(file) != before
        content[place] ^= 1


def test_a_change_in_any_part_of_a_large_file_counts(tmp_path):
    """Its head alone would be the same after more training."""
    file, size = tmp_path / "model.safetensors", (1 << 24) + 1_000_000
    with file.open("wb") as stream:
        stream.truncate(size)
    before = of_file(file)
    for part in range(16):
        with file.open("r+b") as stream:
            stream.seek(part * (size - (1 << 16)) // 15)
            stream.write(b"\1")
        after = of_file(file)
        assert after != before, f"part {part} of 16"
        before = after


def test_images_that_are_not_there_have_no_fingerprint(tmp_path, images):
    samples = [
        EvalSample(id=name, images=(ImageRef(path=name),), prompt=user_turn("?", num_images=1))
        for name in ("0.png", "9.png", "x\0y")
    ]
    assert set(of_images(samples, images)) == {"0.png"}
    assert of_images(samples, None) == {}


def test_what_several_processes_wrote_is_put_together_by_the_next(tmp_path, images):
    out = tmp_path / "out"
    run(out, images, limit=2)
    (out / "answers.rank0.jsonl").write_text(as_line(Answer(id="3", text="yes")) + as_line(Answer(id="5", text="no")))
    (out / "answers.rank1.jsonl").write_text(as_line(Answer(id="4", text="yes")) + '{"id": "6", "te')
    (out / "answers.rank2.jsonl").write_text("")
    asked = []
    evaluate(
        "m", "pope", questions=QUESTIONS, images_root=images, out=out,
        answerer=ScriptedAnswerer(lambda sample: asked.append(sample.id) or "yes"),
    )  # fmt: skip
    assert asked == ["6", "7", "8", "9"]
    assert not list(out.glob("answers.rank*"))
    answers = {answer.id: answer.text for answer in AnswerLog(out).read().values()}
    assert answers == {str(n): "no" if n == 5 else "yes" for n in range(1, 10)}


def test_two_runs_do_not_write_to_one_folder(tmp_path, images):
    script = (
        "import sys; from pathlib import Path; from mmpref.generation.answer_log import AnswerLog\n"
        "with AnswerLog(Path(sys.argv[1])).appending():\n    print('holding', flush=True); sys.stdin.read()"
    )
    out = tmp_path / "out"
    out.mkdir()
    with subprocess.Popen(
        [sys.executable, "-c", script, str(out)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout.readline() == "holding\n"
        with pytest.raises(ConfigError, match="another process is writing"):
            run(out, images)
        other.kill()
    assert run(out, images).n == 9


def test_the_shares_of_a_run_that_is_under_way_are_left_alone(tmp_path, images):
    script = (
        "import sys; from pathlib import Path; from mmpref.generation.answer_log import AnswerLog\n"
        "with AnswerLog(Path(sys.argv[1]), 1).appending() as stream:\n"
        '    stream.write(\'{"id": "3", "te\'); stream.flush()\n'
        "    print('holding', flush=True); sys.stdin.read()"
    )
    out = tmp_path / "out"
    out.mkdir()
    with subprocess.Popen(
        [sys.executable, "-c", script, str(out)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout.readline() == "holding\n"
        with pytest.raises(ConfigError, match="another process is writing"):
            run(out, images)
        assert (out / "answers.rank1.jsonl").read_text() == '{"id": "3", "te'
        other.kill()


def test_damaged_settings_are_an_error(tmp_path, images):
    run(tmp_path / "out", images, limit=2)
    for content in ("[1]", "{", ""):
        (tmp_path / "out/settings.json").write_text(content)
        with pytest.raises(ConfigError, match=r"settings\.json (cannot be read|is not JSON that can be read|is empty)"):
            run(tmp_path / "out", images)


def test_shares_hold_every_question_once_and_keep_those_about_an_image_together():
    samples = [
        EvalSample(id=str(n), images=(ImageRef(path=f"{n // 5}.png"),), prompt=user_turn("?", num_images=1))
        for n in range(33)
    ]
    shares = deal(samples, 4)
    assert sorted(int(sample.id) for share in shares for sample in share) == list(range(33))
    assert max(map(len, shares)) - min(map(len, shares)) <= 5
    homes = {sample.images: number for number, share in enumerate(shares) for sample in share}
    assert all(homes[sample.images] == number for number, share in enumerate(shares) for sample in share)
    assert deal(samples, 4) == shares
    assert [len(share) for share in deal(samples[:1], 3)] == [1, 0, 0]


def test_the_settings_tell_how_answers_are_made(tmp_path, images):
    run(tmp_path / "out", images)
    settings = json.loads((tmp_path / "out/settings.json").read_text(encoding="utf-8"))
    assert settings["num_beams"] == 1
    assert settings["max_new_tokens"] == 64
