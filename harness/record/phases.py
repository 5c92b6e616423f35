"""Where the seconds of a run went, from its Record."""

from __future__ import annotations

from harness.record.evidence import Record


def phases(record: Record) -> dict[str, float]:
    """Seconds by phase, in the order of the run; together they are its wall clock time.

    Empty where the run did not come to its first step, or has no phases.

    start:       until the probe runs: an interpreter's start, or the wait for a fork server
    imports:     of torch, torch_xla and whatever else the run imports by itself
    preparing:   model, data, tokenizer, up to the first step
    step 0 …:    tracing and running the step that compiles …
    compiling:   … and XLA's compilation within it; the same for step 1
    other steps: all further steps, with what they compile
    probe:       what the probe reads and computes between timing windows, and in the end
    ending:      what the trainer does after its last step, and the end of its process
    """
    clock = record.observed.phases
    first = None if clock is None else clock.marks.get("first_window")
    if clock is None or first is None or not record.windows:
        return {}
    found = {
        "start": clock.began - record.manifest.started,
        "imports": clock.seconds.imports,
        "preparing": first.at - clock.began - first.imports - first.probe,
    }
    for window in record.windows[:2]:
        found[f"step {window.first}"] = window.seconds - window.compile_seconds
        found[f"compiling step {window.first}"] = window.compile_seconds
    found["other steps"] = sum(window.seconds for window in record.windows[2:])
    found["probe"] = clock.seconds.probe
    found["ending"] = record.ended.seconds - sum(found.values())
    return found
