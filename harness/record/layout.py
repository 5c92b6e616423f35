"""The files of a Record, and the version of their schema.

    manifest.json    what was run, with what, where, and how it ended
    steps.jsonl      events in the order in which they were observed, flushed one by one
    parameters.json  every parameter: shape, dtype, sharding, fingerprints
    graph.json       the compiled step, where it was dumped (`harness.compiler`)
    modules.json     the modules that a step executes, before optimizations, each in modules/
    compiled/        the step as the TPU's own compiler makes it, a file a target and compiler
    profile/         the device's profile of one window, on a TPU (xplane), and
    device_times.json  the seconds between its steps, read from it
    tensorboard/     event files under the same tags for every engine
    hosts.json       where the hosts of one run disagree, where it had several
    trainer.log      everything that the trainer printed
    saved/           what the trainer saved, where it was run to save, and
    loaded.json      what comes of loading that as a user would
    initial.npz      initial weights, and
    first.npz        the first batch, where the case is as shipped: the float64 reference's start

    SHA256SUMS       what each of these was when the run had ended (`harness.record.checksums`)

A Record is evidence: it is read, compared and moved, never edited. docs/record.md describes each
field. `harness.record.writer` writes it, `harness.record.reader` reads it, and
`harness.record.evidence` is what it is read into.
"""

from __future__ import annotations

SCHEMA = 2

MANIFEST = "manifest.json"
OBSERVED = "observed.json"
STEPS = "steps.jsonl"
PARAMETERS = "parameters.json"
GRAPH = "graph.json"
MODULES = "modules.json"
MODULE_FILES = "modules"
COMPILED = "compiled"
LOG = "trainer.log"
TENSORBOARD = "tensorboard"
PROFILE = "profile"
DEVICE_TIMES = "device_times.json"
HOSTS = "hosts.json"
INITIAL = "initial.npz"
FIRST_BATCH = "first.npz"

DUMP = "hlo"
"""Folder of a run's dumped modules, beside its Record until they are read."""
EXECUTIONS = "executions.log"
"""What torch_xla writes of every execution, beside the dump of its modules."""
SAVED = "saved"
LOADED = "loaded.json"
