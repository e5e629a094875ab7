"""The rule that says which frames of a video are shown."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmpref.data.videos.sampling import FrameRule

RULES = st.builds(FrameRule, fps=st.floats(0.1, 60), max_frames=st.integers(2, 768))
RATES = st.one_of(st.none(), st.floats(0.01, 240))


@given(rule=RULES, num_frames=st.integers(1, 100_000), fps=RATES)
def test_what_holds_for_every_video(rule: FrameRule, num_frames: int, fps: float | None) -> None:
    places, times = rule.sample(num_frames, fps)
    assert rule.sample(num_frames, fps) == (places, times)
    assert len(places) == len(times)
    assert len(places) % 2 == 0
    assert 2 <= len(places) <= rule.max_frames + rule.max_frames % 2
    assert len(places) <= rule.max_frames
    assert list(places) == sorted(places)
    assert list(times) == sorted(times)
    assert (places[0], places[-1], times[0]) == (0, num_frames - 1, 0.0)
    shown = sorted(set(places))
    assert len(shown) >= len(places) - 1  # none twice but the last one, where their number is odd
    assert len(shown) == len(places) or places[-1] == places[-2]
    gaps = np.diff(shown)
    assert not len(gaps) or gaps.max() - gaps.min() <= 1  # evenly spaced
    rate = rule.fps if fps is None else fps
    assert times == pytest.approx([place / rate for place in places])


@given(rule=RULES, num_frames=st.integers(2, 20_000), fps=st.floats(1, 120))
def test_the_number_is_that_of_qwens_published_rule(rule: FrameRule, num_frames: int, fps: float) -> None:
    """Frames a second times the length, within [4, the maximum] and what there is, made even downwards."""
    wanted = max(num_frames / fps * rule.fps, 4)
    wanted = min(wanted, rule.max_frames - rule.max_frames % 2, num_frames)
    assert len(rule.sample(num_frames, fps).places) == int(wanted) // 2 * 2


@pytest.mark.parametrize(
    ("num_frames", "fps", "places"),
    [
        (50, 10.0, (0, 5, 11, 16, 22, 27, 33, 38, 44, 49)),  # five seconds, two frames each
        (10, 10.0, (0, 3, 6, 9)),  # one second: four at least
        (4, 25.0, (0, 1, 2, 3)),
        (3, 25.0, (0, 2)),  # an even number of three
        (2, 25.0, (0, 1)),
        (1, 25.0, (0, 0)),
        (1, None, (0, 0)),
        (5, None, (0, 1, 2, 3, 4, 4)),  # a list is shown whole, the last one twice where that makes it even
        (16, None, tuple(range(16))),
    ],
)
def test_short_videos(num_frames: int, fps: float | None, places: tuple[int, ...]) -> None:
    assert FrameRule().sample(num_frames, fps).places == places


def test_the_maximum_bounds_files_and_lists() -> None:
    assert len(FrameRule().sample(100_000, 30.0).places) == 16
    listed = FrameRule(max_frames=5).sample(9, None)
    assert listed.places == (0, 3, 5, 8)
    assert listed.times == (0, 1.5, 2.5, 4)


def test_a_rule_that_makes_no_sense_is_refused() -> None:
    for settings in ({"fps": 0}, {"fps": float("nan")}, {"fps": float("inf")}, {"max_frames": 1}):
        with pytest.raises(ValueError, match=next(iter(settings))):
            FrameRule(**settings)
    with pytest.raises(ValueError, match="at least one frame"):
        FrameRule().sample(0, 1.0)
