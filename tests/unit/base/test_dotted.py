"""Nested values by dotted keys."""

from __future__ import annotations

from harness.base.dotted import dotted


def test_leaves_by_their_keys_in_order() -> None:
    values = {"b": 1, "a": {"c": {"d": None}, "e": [1]}, "dcn": {}}
    assert list(dotted(values)) == [("b", 1), ("a.c.d", None), ("a.e", [1]), ("dcn", {})]


def test_what_is_told_in_one_piece_at_any_depth() -> None:
    values = {"mesh": {"fsdp": 4}, "a": {"mesh": {"x": 1}}}
    assert dict(dotted(values, whole=("mesh",))) == {"mesh": {"fsdp": 4}, "a.mesh": {"x": 1}}
