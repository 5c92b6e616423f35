"""Manifests of Records, as they are written and as they are read."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

from harness.base.typed import typed_json
from harness.config.case import Case
from harness.record.evidence import Manifest
from harness.record.layout import SCHEMA
from harness.record.writer import encode

ENDED = {"status": "ok", "reason": "it ended by itself", "code": 0, "seconds": 1.0}


def raw(case: Case | dict[str, Any], **fields: Any) -> dict[str, Any]:
    """manifest.json of a run of `case` that ended well; `ended` is added to, not replaced."""
    return {
        "schema": SCHEMA,
        "harness": "0.1.0",
        "engine": "hf",
        "label": "hf",
        "role": "subject",
        "repeat": 0,
        "key": "0123456789ab",
        "case": dataclasses.asdict(case) if isinstance(case, Case) else case,
        "inputs": "0123456789abcdef",
        "origin": {},
        "interpreter": {"packages": {}},
        "started": 1e9,
        "observed": {},
        **fields,
        "ended": {**ENDED, **(fields.get("ended") or {})},
    }


def parsed(value: dict[str, Any]) -> Manifest:
    """The manifest, as it would be read from its file; `ended` may be told in part."""
    whole = {**value, "ended": {**ENDED, **value["ended"]}}
    return typed_json(Manifest, json.dumps(encode(whole), allow_nan=False).encode())


def plain(manifest: Manifest) -> dict[str, Any]:
    """The manifest as plain values, to be changed."""
    value = json.loads(json.dumps(encode(dataclasses.asdict(manifest))))
    assert isinstance(value, dict)
    return value
