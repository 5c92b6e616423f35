"""Runs that are forked from a server: what they are, how they end, and that nothing stays."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from harness.launchers import forked, local
from harness.launchers.forked import Imports, Pool, Refused
from harness.launchers.invocation import Invocation
from harness.launchers.local import Limits, launch
from harness.record import termination
from harness.record.reader import Event
from harness.record.termination import Termination

ENOUGH = Limits(time_limit=30.0, silence=30.0)
IMPORTS = Imports(("decimal",), (), "interpreter", first=("json", "harness.probe.spec"))
EVENT = '{"event": "values", "step": 0, "losses": [1.0], "gradient_norm": null}'

LOOK = """
import gc, json, locale, os, resource, signal, sys, threading, warnings

warnings.warn("a warning", stacklevel=1)
main = sys.modules["__main__"]
status = open("/proc/self/status").read().split("\\n")
print(json.dumps({
    "argv": sys.argv,
    "orig_argv": sys.orig_argv,
    "shown": open("/proc/self/cmdline", "rb").read().rstrip(b"\\0").decode().split("\\0"),
    "path": sys.path,
    "environment": {k: v for k, v in os.environ.items() if k != "PARITY_RUN"},
    "cwd": os.getcwd(),
    "leads": [os.getpid() == os.getsid(0), os.getpid() == os.getpgid(0)],
    "descriptors": {
        n: os.readlink(f"/proc/self/fd/{n}") for n in sorted(os.listdir("/proc/self/fd"))
        if os.path.exists(f"/proc/self/fd/{n}")
    },
    "limits": {n: resource.getrlimit(getattr(resource, n)) for n in dir(resource)
               if n.startswith("RLIMIT_")},
    "signals": {n.name: str(signal.getsignal(n)) for n in signal.valid_signals()
                if isinstance(n, signal.Signals)},
    "masks": [line for line in status
              if line.startswith(("Umask", "SigB", "SigI", "SigC", "SigP", "Shd", "Threads"))],
    "flags": str(sys.flags),
    "executable": sys.executable,
    "main": [main.__name__, main.__spec__.name, main.__package__, main.__file__],
    "threads": threading.active_count(),
    "main_thread": threading.current_thread() is threading.main_thread(),
    "gc": [gc.isenabled(), gc.get_threshold()],
    "encoding": [sys.stdout.encoding, sys.stderr.encoding, locale.getlocale()],
    "buffering": [sys.stdout.line_buffering, sys.stdout.write_through, sys.stderr.write_through],
    "stdin": sys.stdin.read(),
    "recursion": sys.getrecursionlimit(),
    "meta_path": len(sys.meta_path),
}), flush=True)
"""


@pytest.fixture
def pool(monkeypatch: pytest.MonkeyPatch) -> Iterator[Pool]:
    """Servers of this test alone."""
    made = Pool()
    monkeypatch.setattr(forked, "POOL", made)
    monkeypatch.setattr(local, "POLL", 0.02)
    monkeypatch.setattr(local, "GRACE", 0.5)
    yield made
    made.close()


def write(tmp_path: Path, script: str, *arguments: str, **variables: str) -> Invocation:
    """A module in a folder of its own, as the probe is one, with `arguments`."""
    folder = tmp_path / f"run-{len(list(tmp_path.iterdir()))}"
    (folder / "path").mkdir(parents=True)
    (folder / "trainer.py").write_text(script)
    return Invocation(
        (sys.executable, "-m", "trainer", *arguments),
        {"PYTHONPATH": str(folder / "path"), "PYTHONUNBUFFERED": "1",
         **variables},
        folder,
    )  # fmt: skip


def run(invocation: Invocation, imports: Imports = IMPORTS, limits: Limits = ENOUGH) -> Termination:
    """Fork it; where that is refused, the test fails."""

    def never(reason: str) -> None:
        raise AssertionError(reason)

    return launch(
        invocation, invocation.cwd, limits, lambda event: None,
        start=lambda i, stream: forked.start(i, stream, imports, never),
    )  # fmt: skip


def log(invocation: Invocation) -> str:
    return (invocation.cwd / "trainer.log").read_text()


def seen(invocation: Invocation) -> dict[str, Any]:
    """What LOOK printed."""
    found = json.loads(log(invocation).splitlines()[-1])
    assert isinstance(found, dict)
    return found


def gone(pid: int) -> bool:
    """Whether a process is no more, or only waits to be asked how it ended."""
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline:
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
        except FileNotFoundError:
            return True
        if state in "ZX":
            return True
        time.sleep(0.02)
    return False


class TestIsAsIfLaunched:
    def test_in_everything_that_a_process_can_see_of_itself(
        self, tmp_path: Path, pool: Pool, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("INHERITED", "é")
        invocation = write(tmp_path, LOOK, "one", "two words", "", THEIRS="1")
        before, limits = os.umask(0o027), resource.getrlimit(resource.RLIMIT_CORE)
        try:
            resource.setrlimit(resource.RLIMIT_CORE, (0, limits[1]))
            assert run(invocation).status == termination.OK
            forked_log, by_fork = log(invocation), seen(invocation)
            assert (
                launch(invocation, invocation.cwd, ENOUGH, lambda e: None).status == termination.OK
            )
        finally:
            os.umask(before)
            resource.setrlimit(resource.RLIMIT_CORE, limits)
        by_launch = seen(invocation)
        assert by_launch["environment"]["INHERITED"] == "é"
        assert by_launch["limits"]["RLIMIT_CORE"][0] == 0
        assert by_fork == by_launch
        # To the letter, but for what the tests themselves make a warning name.
        assert forked_log.splitlines()[:-1] == log(invocation).splitlines()[:-1]

    def test_also_after_another_run_of_the_same_server(self, tmp_path: Path, pool: Pool) -> None:
        first, second = write(tmp_path, LOOK, "a" * 3000), write(tmp_path, LOOK, "b")
        assert run(first).status == run(second).status == termination.OK
        assert len(pool.interpreters) == 1
        assert seen(first)["cwd"] == str(first.cwd)
        assert launch(second, second.cwd, ENOUGH, lambda event: None).status == termination.OK
        by_launch = seen(second)
        assert run(second).status == termination.OK
        assert seen(second) == by_launch

    def test_but_for_what_is_imported(self, tmp_path: Path, pool: Pool) -> None:
        script = "import sys\nassert 'decimal' in sys.modules and 'json' in sys.modules"
        assert run(write(tmp_path, script)).status == termination.OK

    def test_which_no_collection_looks_through(self, tmp_path: Path, pool: Pool) -> None:
        script = "import gc, decimal\nassert decimal not in gc.get_objects(2)"
        assert run(write(tmp_path, script)).status == termination.OK

    def test_a_run_changes_nothing_for_the_next(self, tmp_path: Path, pool: Pool) -> None:
        spoil = "import decimal, os\ndecimal.SPOILT = 1\nos.environ['SPOILT'] = '1'\nos.chdir('/')"
        look = "import decimal, os\nassert not hasattr(decimal, 'SPOILT')\n"
        look += "assert 'SPOILT' not in os.environ"
        assert run(write(tmp_path, spoil)).status == termination.OK
        assert run(write(tmp_path, look)).status == termination.OK

    def test_what_imports_print_is_in_every_log(self, tmp_path: Path, pool: Pool) -> None:
        folder = tmp_path / "libraries"
        folder.mkdir()
        (folder / "noisy.py").write_text("import sys\nprint('deprecated', file=sys.stderr)")
        imports = Imports(("noisy",), (folder,), "interpreter", first=("json",))
        for _ in range(2):
            invocation = write(tmp_path, "import noisy\nprint('trained')")
            path = f"{invocation.environment['PYTHONPATH']}{os.pathsep}{folder}"
            environment = {**invocation.environment, "PYTHONPATH": path}
            invocation = Invocation(invocation.argv, environment, invocation.cwd)
            assert run(invocation, imports).status == termination.OK
            assert log(invocation).split() == ["deprecated", "trained"]


class TestEnds:
    @pytest.mark.parametrize("code", [0, 1, 3, 255])
    def test_with_its_exit_code(self, tmp_path: Path, pool: Pool, code: int) -> None:
        found = run(write(tmp_path, f"import sys\nsys.exit({code})"))
        assert found.code == code

    @pytest.mark.parametrize("number", [9, 11, 15])
    def test_with_its_signal(self, tmp_path: Path, pool: Pool, number: int) -> None:
        found = run(write(tmp_path, f"import os\nos.kill(os.getpid(), {number})"))
        assert (found.status, found.code) == (termination.KILLED, -number)

    def test_with_its_exception(self, tmp_path: Path, pool: Pool) -> None:
        found = run(write(tmp_path, "raise ValueError('no such key')"))
        assert (found.status, found.code) == (termination.FAILED, 1)
        assert found.reason == "ValueError: no such key"

    def test_after_its_time(self, tmp_path: Path, pool: Pool) -> None:
        script = "import time\nwhile True:\n    print('x')\n    time.sleep(0.01)"
        run(write(tmp_path, "pass"))  # the limit below is too short for imports
        found = run(write(tmp_path, script), limits=Limits(0.6, 30))
        assert (found.status, found.code) == (termination.TIMED_OUT, -signal.SIGTERM)

    def test_after_silence(self, tmp_path: Path, pool: Pool) -> None:
        run(write(tmp_path, "pass"))
        found = run(write(tmp_path, "import time\ntime.sleep(60)"), limits=Limits(30, 0.6))
        assert found.status == termination.TIMED_OUT
        assert "no sign of life" in found.reason

    def test_where_it_ignores_being_asked(self, tmp_path: Path, pool: Pool) -> None:
        run(write(tmp_path, "pass"))
        script = "import signal, time\nsignal.signal(15, signal.SIG_IGN)\ntime.sleep(60)"
        assert run(write(tmp_path, script), limits=Limits(30, 1.0)).code == -9

    def test_and_the_server_goes_on(self, tmp_path: Path, pool: Pool) -> None:
        run(write(tmp_path, "import os\nos.kill(os.getpid(), 9)"))
        (interpreter,) = pool.interpreters.values()
        assert run(write(tmp_path, "pass")).status == termination.OK
        assert list(pool.interpreters.values()) == [interpreter]


CHILD = "import os, subprocess, sys\nchild = subprocess.Popen(['sleep', '60'])\n"
SAY = "open('pids', 'w').write(f'{os.getpid()} {child.pid}')\n"


def pids(invocation: Invocation) -> list[int]:
    return [int(pid) for pid in (invocation.cwd / "pids").read_text().split()]


class TestLeavesNothing:
    def test_when_it_ends(self, tmp_path: Path, pool: Pool) -> None:
        invocation = write(tmp_path, CHILD + SAY)
        assert run(invocation).status == termination.OK
        assert all(map(gone, pids(invocation)))

    @pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
    def test_after_ctrl_c(self, tmp_path: Path, pool: Pool, error: type[BaseException]) -> None:
        script = CHILD + SAY + f"print('{EVENT}', file=open('steps.jsonl', 'w'), flush=True)\n"
        invocation = write(tmp_path, script + "import time\ntime.sleep(60)")

        def interrupted(event: Event) -> None:
            raise error

        with pytest.raises(error):
            launch(
                invocation, invocation.cwd, ENOUGH, interrupted,
                start=lambda i, stream: forked.start(i, stream, IMPORTS, print),
            )  # fmt: skip
        assert all(map(gone, pids(invocation)))

    def test_when_its_session_ends(self, tmp_path: Path, pool: Pool) -> None:
        run(write(tmp_path, "pass"))
        (interpreter,) = pool.interpreters.values()
        pool.close()
        assert gone(interpreter.process.pid)
        assert not interpreter.folder.exists()

    @pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
    def test_when_its_session_is_killed(self, tmp_path: Path, number: int) -> None:
        """Not even what a trainer has started: the servers see that they are alone."""
        invocation = write(tmp_path, CHILD + SAY + "import time\ntime.sleep(60)")
        session = tmp_path / "session.py"
        session.write_text(
            "import sys\nfrom pathlib import Path\n"
            "from harness.launchers import forked, local\n"
            "from harness.launchers.invocation import Invocation\n"
            f"invocation = Invocation({invocation.argv!r}, {dict(invocation.environment)!r}, "
            f"Path({str(invocation.cwd)!r}))\n"
            "imports = forked.Imports(('decimal',), (), 'interpreter', first=('json',))\n"
            "local.launch(invocation, invocation.cwd, local.Limits(60, 60), lambda event: None,\n"
            "    start=lambda i, s: forked.start(i, s, imports, print))\n"
        )
        process = subprocess.Popen([sys.executable, str(session)], stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + 30
        while not (invocation.cwd / "pids").exists() or len(pids(invocation)) < 2:
            assert time.monotonic() < deadline
            time.sleep(0.02)
        servers = _ancestors(pids(invocation)[0], process.pid)
        assert len(servers) == 2
        process.send_signal(number)
        process.wait(30)
        assert all(map(gone, [*pids(invocation), *servers]))

    def test_when_its_server_is_killed(self, tmp_path: Path, pool: Pool) -> None:
        script = f"import os, time\nprint('{EVENT}', file=open('steps.jsonl', 'w'), flush=True)\n"
        invocation = write(tmp_path, script + "time.sleep(60)")

        def kill(event: Event) -> None:
            (interpreter,) = pool.interpreters.values()
            interpreter.process.kill()

        found = launch(
            invocation, invocation.cwd, ENOUGH, kill,
            start=lambda i, stream: forked.start(i, stream, IMPORTS, print),
        )  # fmt: skip
        assert (found.status, found.code) == (termination.KILLED, -9)


def _ancestors(pid: int, last: int) -> list[int]:
    """The processes between `pid` and `last`, from whom it descends."""
    found: list[int] = []
    while True:
        pid = int(Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[1])
        if pid in (last, 1):
            return found
        found.append(pid)


class TestIsOffByItself:
    def reason(self, pool: Pool, invocation: Invocation, imports: Imports = IMPORTS) -> str:
        """Why it was launched by itself, which it was all the same."""
        said: list[str] = []
        found = launch(
            invocation, invocation.cwd, ENOUGH, lambda event: None,
            start=lambda i, stream: forked.start(i, stream, imports, said.append),
        )  # fmt: skip
        assert found.status == termination.OK
        (line,) = said
        return line

    def test_where_a_variable_names_a_folder_of_the_run(self, tmp_path: Path, pool: Pool) -> None:
        invocation = write(tmp_path, "pass")
        environment = {**invocation.environment, "CACHE": f"{invocation.cwd}/cache"}
        found = self.reason(pool, Invocation(invocation.argv, environment, invocation.cwd))
        assert "CACHE" in found

    def test_where_an_import_has_started_a_thread(self, tmp_path: Path, pool: Pool) -> None:
        folder = tmp_path / "libraries"
        folder.mkdir()
        text = "import threading, time\nthreading.Thread(target=time.sleep, args=(60,), "
        (folder / "busy.py").write_text(text + "daemon=True).start()")
        imports = Imports(("busy",), (folder,), "interpreter", first=("json",))
        assert "threads" in self.reason(pool, write(tmp_path, "pass"), imports)

    def test_where_an_import_fails(self, tmp_path: Path, pool: Pool) -> None:
        folder = tmp_path / "libraries"
        folder.mkdir()
        (folder / "broken.py").write_text("raise RuntimeError('no such device')")
        imports = Imports(("broken",), (folder,), "interpreter", first=("json",))
        reason = self.reason(pool, write(tmp_path, "pass"), imports)
        assert "broken" in reason
        assert "no such device" in reason

    def test_not_where_a_library_is_not_installed(self, tmp_path: Path, pool: Pool) -> None:
        imports = Imports(("none_such", "none_such.part"), (), "interpreter", first=("json",))
        assert run(write(tmp_path, "pass"), imports).status == termination.OK

    @pytest.mark.parametrize("name", ["decimal.py", "decimal/__init__.py"])
    def test_where_a_folder_of_the_run_has_a_module_of_that_name(
        self, tmp_path: Path, pool: Pool, name: str
    ) -> None:
        invocation = write(tmp_path, "import decimal\nassert decimal.OURS")
        module = invocation.cwd / "path" / name
        module.parent.mkdir(exist_ok=True)
        module.write_text("OURS = True")
        assert "decimal" in self.reason(pool, invocation)

    def test_where_it_has_one_that_an_import_has_looked_for(
        self, tmp_path: Path, pool: Pool
    ) -> None:
        folder = tmp_path / "libraries"
        folder.mkdir()
        (folder / "asks.py").write_text("try:\n    import extra\nexcept ImportError:\n    pass")
        imports = Imports(("asks",), (folder,), "interpreter", first=("json",))
        invocation = write(tmp_path, "pass")
        assert run(invocation, imports).status == termination.OK
        (invocation.cwd / "path" / "extra").mkdir()
        assert "extra" in self.reason(pool, invocation, imports)

    def test_a_refusal_ends_nothing_else(self, tmp_path: Path, pool: Pool) -> None:
        run(write(tmp_path, "pass"))
        (interpreter,) = pool.interpreters.values()
        broken = Imports(("harness.none_such.part",), (), "interpreter", first=IMPORTS.first)
        with (tmp_path / "log").open("wb") as stream:
            pool.fork(write(tmp_path, "pass"), stream, broken).wait(30)
            bad = write(tmp_path, "pass")
            (bad.cwd / "path" / "decimal.py").touch()
            with pytest.raises(Refused):
                pool.fork(bad, stream, IMPORTS)
        assert list(pool.interpreters.values()) == [interpreter]


class TestServers:
    def test_another_environment_has_another_server(
        self, tmp_path: Path, pool: Pool, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        run(write(tmp_path, "pass"))
        run(write(tmp_path, "pass", XLA_FLAGS="--other"))
        assert len(pool.interpreters) == 2
        monkeypatch.setenv("ANYTHING", "else")
        script = "import os\nassert os.environ['ANYTHING'] == 'else'"
        assert run(write(tmp_path, script)).status == termination.OK
        assert len(pool.interpreters) == 3

    def test_other_packages_have_another_server(self, tmp_path: Path, pool: Pool) -> None:
        run(write(tmp_path, "pass"))
        run(write(tmp_path, "pass"), Imports(IMPORTS.libraries, (), "changed", IMPORTS.first))
        assert len(pool.interpreters) == 2

    def test_the_test_that_runs_makes_no_difference(self, tmp_path: Path, pool: Pool) -> None:
        for name in ("a", "b"):
            script = f"import os\nassert os.environ['PYTEST_CURRENT_TEST'] == '{name}'"
            assert run(write(tmp_path, script, PYTEST_CURRENT_TEST=name)).status == termination.OK
        assert len(pool.interpreters) == 1

    def test_what_was_not_used_for_longest_is_ended_first(self, tmp_path: Path, pool: Pool) -> None:
        for i in range(forked.AT_MOST + 1):
            run(write(tmp_path, "pass", NUMBER=str(i)))
        assert len(pool.interpreters) == forked.AT_MOST
        assert not any('["NUMBER", "0"]' in key for key in pool.interpreters)

    def test_what_is_expected_is_imported_ahead(self, tmp_path: Path, pool: Pool) -> None:
        invocation = write(tmp_path, "pass")
        forked.expect(invocation, IMPORTS)
        (interpreter,) = pool.interpreters.values()
        assert list(interpreter.requested) == [IMPORTS.libraries]
        forked.expect(write(tmp_path, "pass"), IMPORTS)
        assert run(invocation).status == termination.OK
        assert list(pool.interpreters.values()) == [interpreter]
        assert list(interpreter.branches) == [IMPORTS.libraries]
        assert not interpreter.requested

    def test_what_is_expected_and_never_comes_ends_with_its_session(
        self, tmp_path: Path, pool: Pool
    ) -> None:
        forked.expect(write(tmp_path, "pass"), IMPORTS)
        (interpreter,) = pool.interpreters.values()
        pool.close()
        assert gone(interpreter.process.pid)

    def test_one_that_was_killed_is_replaced(self, tmp_path: Path, pool: Pool) -> None:
        run(write(tmp_path, "pass"))
        (first,) = pool.interpreters.values()
        first.process.kill()
        first.process.wait()
        said: list[str] = []
        invocation = write(tmp_path, "pass")
        found = launch(
            invocation, invocation.cwd, ENOUGH, lambda event: None,
            start=lambda i, stream: forked.start(i, stream, IMPORTS, said.append),
        )  # fmt: skip
        assert found.status == termination.OK
        assert "has ended" in said[0]
        assert run(write(tmp_path, "pass")).status == termination.OK
        assert list(pool.interpreters.values()) != [first]

    def test_two_runs_at_once(self, tmp_path: Path, pool: Pool) -> None:
        script = "import sys, time\ntime.sleep(0.3)\nsys.exit(int(sys.argv[1]))"
        with (tmp_path / "log").open("wb") as stream:
            processes = [pool.fork(write(tmp_path, script, c), stream, IMPORTS) for c in "35"]
        assert all(process.poll() is None for process in processes)
        assert [process.wait(10) for process in processes] == [3, 5]


def test_modules_that_hold_a_function_get_what_replaced_it(tmp_path: Path, pool: Pool) -> None:
    """As if they had been imported after it was replaced."""
    folder = tmp_path / "libraries"
    folder.mkdir()
    (folder / "holder.py").write_text("from json import dumps, loads\nimport json")
    imports = Imports(("holder",), (folder,), "interpreter", first=("json",))
    script = """
import json, holder, json.decoder
from harness.probe import preimported
original = json.dumps
json.dumps = lambda *a, **k: "replaced"
assert holder.dumps is original
preimported.hooks_installed()
assert holder.dumps is json.dumps and holder.json.dumps(1) == "replaced"
assert holder.loads is json.loads
"""
    found = run(write(tmp_path, script), imports)
    assert found.status == termination.OK, found
