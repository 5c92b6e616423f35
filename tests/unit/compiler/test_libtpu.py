"""The compiler's process: each test is one way in which it can end, or not."""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock

from harness.base.errors import BadInput
from harness.base.progress import Progress
from harness.compiler import libtpu
from harness.compiler.compiled import CODE_FAILED, GENERATED, NOT_WAITED_FOR, CompiledStep
from harness.compiler.cycles import CycleStore, operations
from harness.compiler.flags import CompilerFlags
from harness.compiler.hlo_text import parse
from harness.compiler.libtpu import CompileLimits, StepModule, compile_step
from harness.compiler.target import Target
from harness.environments.compilers import TpuCompiler, tpu_compiler
from harness.environments.sources import default_cache_dir

HERE = Path(__file__).parent
DUMP = HERE / "data" / "hlo" / "libtpu-0.0.52"


@pytest.fixture(autouse=True)
def _fake(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(libtpu, "WORKER", HERE.parent / "fake_libtpu.py")
    monkeypatch.setattr(libtpu, "SETTLED", 0.0)


def compiled(
    words: str,
    tmp_path: Path,
    *,
    modules: int = 1,
    target: str = "v6e:2x2",
    xla: str = "",
    dump: Path = DUMP,
    progress: Progress = print,
    **limits: Any,
) -> CompiledStep:
    """What comes out where libtpu does what `words` say; its "module" is the dump that it makes."""
    allowed = CompileLimits(**{"seconds": 20.0, "code_seconds": 10.0, "memory": 2.0**33, **limits})
    compiler = TpuCompiler(Path(sys.executable), Path("libtpu.so"), "0.0.52")
    proto = tmp_path / "module.pb"
    proto.write_text(str(dump))
    return compile_step(
        [StepModule(proto, n + 1) for n in range(modules)],
        compiler,
        Target(target),
        CompilerFlags(words, xla),
        allowed,
        tmp_path / "lock",
        progress,
    )


def test_it_compiles(tmp_path: Path) -> None:
    step = compiled("devices dump compiled", tmp_path)
    assert (step.error, step.devices, step.device_kind) == (None, 4, "TPU v6 lite")
    assert (step.version, step.flags) == ("a b", "devices dump compiled")
    (module,) = step.modules
    assert module.code == GENERATED
    assert module.graph.flops > 0


def test_its_facts_are_there_before_it_dumps_the_module_again(tmp_path: Path) -> None:
    early = tmp_path / "early"
    shutil.copytree(DUMP, early)
    (path,) = early.glob("*_after_buffer_assignment.txt")
    path.rename(path.with_name(path.name.replace("_after_buffer_assignment", "")))
    step = compiled("devices dump sleep", tmp_path, dump=early, code_seconds=0.0)
    assert (step.error, step.unknown) == (None, None)
    assert step.modules[0].graph == compiled("devices dump", tmp_path).modules[0].graph
    (report,) = early.glob("*-memory-usage-report.txt")
    report.unlink()
    late = compiled("devices dump sleep", tmp_path, dump=early, code_seconds=0.0, seconds=2.0)
    assert late.unknown is not None


class TestTimed:
    """Code is waited for as long as an operation has no estimate."""

    def store(self, tmp_path: Path, release: str = "0.0.21") -> tuple[Path, CycleStore]:
        dump = HERE / "data" / "hlo" / f"libtpu-{release}"
        return dump, CycleStore(tmp_path / "cycles.json")

    def test_its_time_comes_with_its_code_and_is_kept(self, tmp_path: Path) -> None:
        dump, store = self.store(tmp_path)
        step = compiled("devices dump compiled", tmp_path, dump=dump, cycles=store)
        assert step.predicted is not None
        assert step.predicted.parts.seconds > 0
        assert len(store.known()) > 5

    def test_what_is_known_is_not_waited_for(self, tmp_path: Path) -> None:
        dump, store = self.store(tmp_path)
        module = parse(next(dump.glob("*_after_buffer*.txt")).read_text())
        store.add({signature: 1000 for _, _, signature in operations(module)})
        started = time.monotonic()
        step = compiled("devices dump sleep", tmp_path, dump=dump, cycles=store)
        assert time.monotonic() - started < 20
        assert step.modules[0].code == NOT_WAITED_FOR
        assert step.predicted is not None
        assert (step.predicted.missing, step.predicted.parts.seconds > 0) == ((), True)

    def test_code_that_takes_too_long(self, tmp_path: Path) -> None:
        dump, store = self.store(tmp_path)
        step = compiled("devices dump sleep", tmp_path, dump=dump, cycles=store, seconds=1.0)
        assert step.predicted is not None
        assert "have no estimate yet" in step.predicted.missing[0]

    def test_nobody_asked(self, tmp_path: Path) -> None:
        assert compiled("devices dump compiled", tmp_path).predicted is None


class TestKernels:
    """Each is compiled by itself, once, and its bundles are counted."""

    def dump(self, tmp_path: Path) -> Path:
        """Of a step with a kernel in it."""
        dump = tmp_path / "with kernel"
        shutil.copytree(HERE / "data" / "hlo" / "libtpu-0.0.21", dump)
        for path in dump.glob("*after_optimizations_after_buffer_assignment.txt"):
            entry, _, rest = path.read_text().partition("\nENTRY ")
            head, _, body = rest.partition("\n")
            kernel = '  %kernel = f32[8]{0} custom-call(), custom_call_target="tpu_custom_call"'
            path.write_text(f"{entry}\nENTRY {head}\n{kernel}\n{body}")
        return dump

    def test_its_time_is_known(self, tmp_path: Path) -> None:
        store = CycleStore(tmp_path / "cycles.json")
        dump = self.dump(tmp_path)
        step = compiled("devices dump compiled", tmp_path, dump=dump, kernels=store)
        assert step.least is not None
        assert step.least.missing == ()
        assert step.least.parts.kernels == pytest.approx(2 / 1.75e9)
        assert list(store.known().values()) == [2]
        assert step.predicted is None

    def test_with_the_time_of_all_else(self, tmp_path: Path) -> None:
        store, dump = CycleStore(tmp_path / "cycles.json"), self.dump(tmp_path)
        step = compiled("devices dump compiled", tmp_path, dump=dump, kernels=store, cycles=store)
        assert step.predicted is not None
        assert (step.predicted.missing, step.predicted.parts.kernels > 0) == ((), True)

    def test_one_that_cannot_be_followed(self, tmp_path: Path) -> None:
        store, dump = CycleStore(tmp_path / "cycles.json"), self.dump(tmp_path)
        step = compiled("devices dump-not compiled cut", tmp_path, dump=dump, kernels=store)
        assert step.least is not None
        assert "hand-written kernels have no estimate" in step.least.missing[0]
        assert list(store.known().values()) == [None]

    def test_nobody_asked(self, tmp_path: Path) -> None:
        step = compiled("devices dump compiled", tmp_path, dump=self.dump(tmp_path))
        assert step.least is not None
        assert "hand-written kernels have no estimate" in step.least.missing[0]


def test_each_module_of_a_step(tmp_path: Path) -> None:
    step = compiled("devices dump compiled", tmp_path, modules=2)
    assert [m.executions for m in step.modules] == [1, 2]


def test_code_is_not_waited_for(tmp_path: Path) -> None:
    started = time.monotonic()
    step = compiled("devices dump sleep", tmp_path, code_seconds=0.0)
    assert time.monotonic() - started < 20
    assert step.error is None
    assert [m.code for m in step.modules] == [NOT_WAITED_FOR]
    assert step.modules[0].compiler_bytes > 0 or step.modules[0].seconds < 0.2


def test_it_fails_before_the_facts(tmp_path: Path) -> None:
    step = compiled("devices failed", tmp_path, modules=2)
    assert step.error == "INTERNAL: no\nline 2"
    assert step.modules == ()


def test_it_fails_while_code_is_generated(tmp_path: Path) -> None:
    step = compiled("devices dump failed", tmp_path, modules=2)
    assert step.error == "INTERNAL: no\nline 2"
    assert [m.code for m in step.modules] == [CODE_FAILED]  # and the second was not tried


@pytest.mark.parametrize(
    ("words", "error"),
    [
        ("exit", "Unknown command line flag 'xla_nonsense'"),
        ("devices abort", "NOT_FOUND: a file"),
        ("devices flag", "Unknown flag in XLA_FLAGS: --xla_no_such=1"),
    ],
)
def test_it_ends_without_a_word_of_its_own(words: str, error: str, tmp_path: Path) -> None:
    assert compiled(words, tmp_path).error == error


def test_it_ends_as_if_all_were_well(tmp_path: Path) -> None:
    step = compiled("devices", tmp_path)
    assert step.error is not None
    assert step.modules == ()


def test_it_crashes_while_code_is_generated(tmp_path: Path) -> None:
    step = compiled("devices dump abort", tmp_path)
    assert step.error == "NOT_FOUND: a file"
    assert [m.code for m in step.modules] == [CODE_FAILED]


@pytest.mark.parametrize(
    ("words", "stage"), [("devices sleep", "reading"), ("devices before sleep", "optimizing")]
)
def test_over_its_time(words: str, stage: str, tmp_path: Path) -> None:
    step = compiled(words, tmp_path, seconds=1.0)
    assert step.error is None
    assert step.unknown is not None
    assert "limit of 1 s" in step.unknown
    assert stage in step.unknown


def test_over_its_memory(tmp_path: Path) -> None:
    step = compiled("devices sleep", tmp_path, memory=2.0**20)
    assert step.unknown is not None
    assert "GiB" in step.unknown


def test_the_system_ends_it(tmp_path: Path) -> None:
    step = compiled("devices kill", tmp_path)
    assert (step.error, step.modules) == (None, ())
    assert step.unknown is not None
    assert "memory" in step.unknown
    later = compiled("devices dump kill", tmp_path)  # while code was generated
    assert later.compiles
    assert [m.code for m in later.modules] == [NOT_WAITED_FOR]


def test_a_dump_that_is_cut_off_is_no_fact_and_ends_no_session(tmp_path: Path) -> None:
    step = compiled("devices dump-cut compiled", tmp_path, modules=2)
    assert (step.error, step.modules) == (None, ())
    assert step.unknown is not None
    assert "cut off" in step.unknown


def test_two_compilers_take_turns(tmp_path: Path) -> None:
    """The second says that it waits, and compiles when the first is done."""
    lock = FileLock(tmp_path / "lock")
    said: list[str] = []

    def progress(line: str) -> None:
        said.append(line)
        lock.release()

    lock.acquire()
    step = compiled("devices dump compiled", tmp_path, progress=progress)
    assert step.compiles
    assert said == ["waiting for another compilation with libtpu"]


def test_an_unknown_chip_names_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="v5e, v6e"):
        compiled("unknown", tmp_path, target="v9e:2x2")


def test_an_unknown_size_gives_the_compilers_words(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"v6e:3x3.*what\?"):
        compiled("unknown", tmp_path, target="v6e:3x3")


def test_no_module(tmp_path: Path) -> None:
    with pytest.raises(BadInput):
        compiled("devices dump compiled", tmp_path, modules=0)


def test_no_process_is_left(tmp_path: Path) -> None:
    compiled("devices sleep", tmp_path, seconds=0.5)
    left = [
        p for p in Path("/proc").glob("[0-9]*/cmdline")
        if str(tmp_path).encode() in _read(p) and b"fake_libtpu" in _read(p)
    ]  # fmt: skip
    assert left == []


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""


def test_the_flags_of_the_mesh_are_not_given_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: dict[str, Any] = {}
    original = subprocess.Popen

    def start(*arguments: Any, **options: Any) -> Any:
        seen.update(options["env"])
        return original(*arguments, **options)

    monkeypatch.setenv("XLA_FLAGS", "--xla_cpu=1")
    monkeypatch.setenv("PYTHONPATH", "/nowhere")
    monkeypatch.setattr(subprocess, "Popen", start)
    compiled("devices dump compiled", tmp_path)
    assert seen["LIBTPU_INIT_ARGS"] == "devices dump compiled"
    assert not seen.keys() & {"XLA_FLAGS", "PYTHONPATH"}
    step = compiled("devices dump compiled", tmp_path, xla="--xla_tpu=1")
    assert (seen["XLA_FLAGS"], step.xla_flags) == ("--xla_tpu=1", "--xla_tpu=1")


@pytest.mark.slow  # installs two releases of libtpu on first use: 1 GB
@pytest.mark.parametrize("release", ["0.0.21", "0.0.52"])
def test_the_real_compiler(release: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    compiler = tpu_compiler(release, default_cache_dir(), print)
    target = Target("v6e:2x2")
    assert libtpu.devices_of(target, compiler) == 4
    with pytest.raises(BadInput, match=r"knows.*v6e"):
        libtpu.devices_of(Target("v9e:2x2"), compiler)
    step = compile_step(
        [StepModule(HERE / "data" / "hlo" / "linear.hlo.pb", 1)],
        compiler, target, CompilerFlags(), CompileLimits(120.0, 120.0, 2.0**33),
        tmp_path / "lock", print,
    )  # fmt: skip
    assert (step.error, step.unknown, step.devices) == (None, None, 4)
    (module,) = step.modules
    assert module.code == GENERATED
    assert module.graph.flops == 3 * 2 * 8 * 16  # as in test_compiled.py
    assert 0 < module.memory.donated <= module.memory.arguments
    # Where a trainer reads what is constant, a module of a step has no arguments.
    constants = compile_step(
        [StepModule(HERE / "data" / "hlo" / "constants.hlo.pb", 1)], compiler, target,
        CompilerFlags(), CompileLimits(120.0, 120.0, 2.0**33), tmp_path / "lock", print,
    )  # fmt: skip
    assert (constants.error, constants.modules[0].memory.arguments) == (None, 0)
    for flags in (CompilerFlags("--xla_no_such=1"), CompilerFlags(xla="--xla_no_such=1")):
        rejected = compile_step(
            [StepModule(HERE / "data" / "hlo" / "linear.hlo.pb", 1)], compiler, target,
            flags, CompileLimits(120.0, 0.0, 2.0**33), tmp_path / "lock", print,
        )  # fmt: skip
        assert rejected.error is not None
        assert "xla_no_such" in rejected.error


@pytest.mark.slow
def test_the_real_compiler_ends_with_what_started_it(tmp_path: Path) -> None:
    """A session that is killed cannot end its compiler."""
    compiler = tpu_compiler("0.0.21", default_cache_dir(), print)
    folder = HERE.parents[2] / "harness" / "compiler"
    start = "import subprocess, sys, time; print(subprocess.Popen(sys.argv[1:]).pid, flush=True)"
    wait = "import sys, time; sys.path.insert(0, sys.argv[1]); import libtpu_worker as w"
    wait += "; w.end_with_parent(); print(1, flush=True); time.sleep(600)"
    child = [str(compiler.python), "-c", wait, str(folder)]
    with subprocess.Popen(
        [sys.executable, "-c", f"{start}; time.sleep(600)", *child], stdout=subprocess.PIPE
    ) as parent:
        assert parent.stdout is not None
        process = int(parent.stdout.readline())
        assert parent.stdout.readline() == b"1\n"
        assert Path(f"/proc/{process}").exists()
        parent.kill()
    deadline = time.monotonic() + 20
    while running(process) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not running(process)


def running(process: int) -> bool:
    """Whether a process is there, and no zombie."""
    try:
        return " Z " not in Path(f"/proc/{process}/stat").read_text()
    except OSError:
        return False
