from __future__ import annotations

from csi_liqo.service.controller import ending


def test_what_was_seen_to_end_is_known_and_nothing_else() -> None:
    ended = ending.Ended()
    assert "a" not in ended
    ended.note("a")
    ended.note("a")
    assert "a" in ended
    assert "b" not in ended


def test_only_so_many_are_remembered_and_the_latest_of_them() -> None:
    ended = ending.Ended()
    for number in range(ending.REMEMBERED + 2):
        ended.note(str(number))
    assert "0" not in ended
    assert "1" not in ended
    assert "2" in ended
    assert str(ending.REMEMBERED + 1) in ended
