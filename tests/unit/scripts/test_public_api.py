"""What other programs rely on: public names with their signatures, commands with their options."""

from __future__ import annotations

import pytest

from tests.loaded_scripts import script


def test_public_names_signatures_and_options_are_those_of_the_list(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fails with the difference; ``python scripts/public_api.py --update`` writes the list where it is meant."""
    monkeypatch.setattr("sys.argv", ["public_api.py"])
    code = script("public_api").main()
    assert code == 0, capsys.readouterr().out
