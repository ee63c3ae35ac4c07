"""A secret is pasted into command lines."""

import pytest

from upkeep.store import tokens


def test_a_secret_never_looks_like_an_option(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = iter(["-abc", "--token", "a-bc"])
    monkeypatch.setattr(tokens.secrets, "token_urlsafe", lambda size: next(drawn))
    assert tokens.new_secret() == "a-bc"
