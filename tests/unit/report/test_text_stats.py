from __future__ import annotations

import pytest

from mmpref.report.text_stats import most_common_share, repetition


def test_repetition():
    assert repetition("a red cup and a blue fork .") == 0
    assert repetition("red cup red cup red cup red cup") == pytest.approx(1 - 2 / 6)
    assert repetition("") == 0
    assert repetition("a cup") == 0


def test_most_common_share():
    assert most_common_share(["A cup .", "a  cup .", "a fork ."]) == pytest.approx(2 / 3)
    assert most_common_share([]) == 0
