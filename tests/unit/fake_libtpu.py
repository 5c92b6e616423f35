"""Stands in for libtpu_worker.py: what it does is in LIBTPU_INIT_ARGS, one word after the other.

Words: devices, dump, dump-cut, before, compiled, failed, unknown, sleep, abort, flag, kill,
exit. Of a module that is a text, a kernel's, it dumps the bundles: two.
"""

import json
import os
import shutil
import signal
import sys
import time
from pathlib import Path

request = json.loads(Path(sys.argv[1]).read_text())
dump = Path(request["dump"])
flags = os.environ["LIBTPU_INIT_ARGS"]
if str(request["module"]).endswith(".txt"):
    llo = Path(flags.partition("--xla_jf_dump_to=")[2])
    llo.mkdir()
    assert "tpu_custom_call" in Path(request["module"]).read_text()
    text = "   0x0   :  {}\n   0x1   :  {}\n" if "cut" not in flags else ""
    (llo / "1-k-71-final_bundles.txt").write_text(text)
    (llo / "1-k-70-schedule-analysis_final_bundles.txt").write_text("Schedule analysis" * 99)
    print(json.dumps({"event": "compiled", "seconds": 1.0}), flush=True)
    sys.exit(0)
for word in flags.split():
    if word == "devices":
        event = {"event": "devices", "count": 4, "kind": "TPU v6 lite", "version": "a\nb"}
        print(json.dumps(event), flush=True)
    elif word.startswith("dump"):
        # As new as a compiler's own, and not as old as the checkout.
        shutil.copytree(Path(request["module"]).read_text(), dump, copy_function=shutil.copyfile)
        if word == "dump-cut":
            (path,) = dump.glob("*after_buffer_assignment.txt")
            path.write_text(path.read_text()[:5000])
    elif word == "before":
        dump.mkdir()
        (dump / "module_0000.a.before_optimizations.txt").write_text("HloModule a")
    elif word == "compiled":
        print(json.dumps({"event": "compiled", "seconds": 1.0}), flush=True)
    elif word == "failed":
        print(json.dumps({"event": "failed", "error": "INTERNAL: no\nline 2"}), flush=True)
        sys.exit(1)
    elif word == "unknown":
        event = {"event": "failed", "error": "INVALID_ARGUMENT: what?", "known": ["v5e", "v6e"]}
        print(json.dumps(event), flush=True)
        sys.exit(1)
    elif word == "sleep":
        time.sleep(60)
    elif word == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    elif word == "abort":
        print("F1127 08:23:30.704825   29470 statusor.cc:89] NOT_FOUND: a file", file=sys.stderr)
        os.abort()
    elif word == "flag":
        at = "2026-11-27 19:16:02.081386: F external/xla/xla/parse_flags_from_env.cc:234]"
        print(f"{at} Unknown flag in XLA_FLAGS: --xla_no_such=1", file=sys.stderr)
        os.abort()
    elif word == "exit":
        print("ERROR: Unknown command line flag 'xla_nonsense'", file=sys.stderr)
        sys.exit(1)
