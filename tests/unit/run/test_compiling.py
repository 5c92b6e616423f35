"""What is compiled, and what a Record keeps of it."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
from builders import Trainer
from compiled_samples import sample_step

from harness.base.errors import BadInput
from harness.compiler.compiled import to_json
from harness.compiler.flags import CompilerFlags
from harness.compiler.libtpu import CompileLimits, digest_of
from harness.compiler.target import Target
from harness.config.compose import load
from harness.engines.command import Command
from harness.environments.compilers import TpuCompiler
from harness.environments.interpreters import Interpreter
from harness.inputs.prepared import Inputs
from harness.probe.spec import Spec
from harness.record import layout, writer
from harness.record.evidence import Record
from harness.record.reader import read_record
from harness.run import compiling
from harness.run.compiling import (
    Compiling,
    compiled_for,
    flags_of,
    keep_modules,
    kept_pairs,
    plan_compiling,
    step_modules,
)
from harness.run.plan import Plan

LOG = "".join(
    f"{kind} Analysis:   Graph Hash: {graph}\n"
    for kind, graph in (
        ("Compilation", "aa"), ("Execution", "aa"), ("Compilation", "bb"), ("Execution", "bb"),
        ("Execution", "aa"), ("Execution", "aa"), ("Execution", "bb"),
    )
)  # fmt: skip

COMPILER = TpuCompiler(Path("python"), Path("libtpu.so"), "0.0.52")
COMPILING = Compiling(
    COMPILER.release,
    lambda: COMPILER,
    (Target("v6e:2x2"),),
    CompileLimits(9, 9, 9),
)


FLAGS = CompilerFlags("--xla_x=1")


def ignore(text: str) -> None:
    return None


def dump(folder: Path) -> Path:
    """A dump of two modules, of which the second is the heaviest."""
    folder.mkdir()
    for number in (0, 27):
        module = b"\x0a\x04name" + bytes([number]) * 30
        path = folder / f"module_{number:04}.a.1.before_optimizations.hlo.pb"
        path.write_bytes(b"\x0a" + bytes([len(module)]) + module)
    return folder


def recorded(tmp_path: Path, name: str = "graph", log: str | None = LOG) -> Record:
    """The Record of a run that dumped its modules."""
    path = Trainer().write(tmp_path / name)
    log_file = tmp_path / f"{name}.log"
    if log is not None:
        log_file.write_text(log)
    keep_modules(dump(tmp_path / f"{name}-dump"), log_file, 1, path)
    return read_record(path)


class TestModules:
    def test_all_that_a_step_executes(self, tmp_path: Path) -> None:
        modules = step_modules(recorded(tmp_path))
        assert isinstance(modules, list)
        assert [m.executions for m in modules] == [2, 1]
        assert [m.proto.read_bytes()[-1] for m in modules] == [0, 27]

    @pytest.mark.parametrize("log", [None, "", LOG[:200], LOG.replace("bb", "cc", 1)])
    def test_a_log_that_does_not_tell(self, log: str | None, tmp_path: Path) -> None:
        problem = step_modules(recorded(tmp_path, log=log))
        assert isinstance(problem, str)

    def test_a_run_that_kept_none(self, tmp_path: Path) -> None:
        plain = read_record(Trainer().write(tmp_path / "plain"))
        assert isinstance(step_modules(plain), str)

    def test_a_run_that_crashed(self, tmp_path: Path) -> None:
        run = recorded(tmp_path)
        ended = dataclasses.replace(run.ended, status="failed", reason="SIGSEGV")
        manifest = dataclasses.replace(run.manifest, ended=ended)
        problem = step_modules(dataclasses.replace(run, manifest=manifest))
        assert isinstance(problem, str)
        assert "SIGSEGV" in problem


class TestCompiledFor:
    @pytest.fixture
    def made(self, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
        """What was compiled: the arguments of each call."""
        calls: list[Any] = []

        def compile_step(modules: Any, compiler: Any, target: Any, flags: Any, *_: Any) -> Any:
            calls.append((target.name, flags))
            return sample_step(
                digest=digest_of(modules), flags=flags.libtpu, xla_flags=flags.xla,
                unknown=self.unknown,
            )  # fmt: skip

        monkeypatch.setattr(compiling, "compile_step", compile_step)
        return calls

    unknown: str | None = None

    def get(self, subject: Record, run: Record, flags: CompilerFlags = FLAGS) -> Any:
        return compiled_for(subject, run, flags, COMPILING, COMPILING.targets[0], ignore)

    def test_once_for_each_module_and_compiler(self, tmp_path: Path, made: list[Any]) -> None:
        run = recorded(tmp_path)
        first = self.get(run, run)
        assert made == [("v6e:2x2", FLAGS.on("v6e"))]
        assert self.get(run, run) == first
        assert len(made) == 1
        (path,) = (run.directory / layout.COMPILED).iterdir()
        assert path.name == "v6e-2x2-libtpu-0.0.52.json"
        other = dataclasses.replace(COMPILING, release="0.0.21")
        compiled_for(run, run, FLAGS, other, COMPILING.targets[0], ignore)
        assert len(made) == 2

    def test_again_where_what_crosses_slices_was_not_kept(
        self, tmp_path: Path, made: list[Any]
    ) -> None:
        run = recorded(tmp_path)
        modules = step_modules(run)
        assert isinstance(modules, list)
        old = dataclasses.replace(sample_step().modules[0], exchanges=None)
        for number, target in enumerate((Target("v6e:2x2"), Target("v6e:1x2", 2))):
            kept = sample_step(
                target=target.name, digest=digest_of(modules), flags=FLAGS.on("v6e").libtpu,
                modules=(old,),
            )  # fmt: skip
            folder = run.directory / layout.COMPILED
            folder.mkdir(exist_ok=True)
            writer.write_json(folder / f"{target.file_name}-libtpu-0.0.52.json", to_json(kept))
            compiled_for(run, run, FLAGS, COMPILING, target, ignore)
            assert len(made) == number

    def test_what_is_compiled_needs_no_compiler(self, tmp_path: Path, made: list[Any]) -> None:
        run = recorded(tmp_path)
        first = self.get(run, run)

        def install() -> TpuCompiler:
            raise AssertionError("500 MB are downloaded for nothing")

        without = dataclasses.replace(COMPILING, compiler=install)
        assert compiled_for(run, run, FLAGS, without, COMPILING.targets[0], ignore) == first

    def test_another_module_is_compiled_again(self, tmp_path: Path, made: list[Any]) -> None:
        run = recorded(tmp_path)
        self.get(run, run)
        (run.directory / "modules" / "1.hlo.pb").write_bytes(b"another")
        self.get(run, run)
        assert len(made) == 2

    def test_other_flags_compile_it_again(self, tmp_path: Path, made: list[Any]) -> None:
        run = recorded(tmp_path)
        for flags in (FLAGS, CompilerFlags(), CompilerFlags(xla="--xla_y=1")):
            self.get(run, run, flags)
            self.get(run, run, flags)
        assert len(made) == 3

    def test_what_a_limit_stopped_is_tried_again(self, tmp_path: Path, made: list[Any]) -> None:
        run = recorded(tmp_path)
        self.unknown = "over its limit"
        self.get(run, run)
        self.get(run, run)
        assert len(made) == 2

    def test_without_a_module_nothing_is_compiled(self, tmp_path: Path, made: list[Any]) -> None:
        run = recorded(tmp_path, log="")
        step = self.get(run, run)
        assert (step.unknown is not None, step.modules, made) == (True, (), [])


IMAGE = "torchprime/launcher/Dockerfile"


class TestFlags:
    """Whose flags a step is compiled with."""

    def plan(
        self,
        tmp_path: Path,
        engine: str = "torchprime",
        own: dict[str, str] | None = None,
        mesh: dict[str, str] | None = None,
    ) -> Plan:
        """The plan of a run with variables of its `own`, and those of the `mesh` that it is on."""
        image = tmp_path / IMAGE
        image.parent.mkdir(parents=True, exist_ok=True)
        image.write_text('FROM x\nENV LIBTPU_INIT_ARGS "--xla_a=1 --xla_b=2"\n')
        return Plan(
            engine=engine,
            label=engine,
            case=load([]).case,
            command=Command((), Spec(steps=3, micro_batch=8), environment=own or {}),
            interpreter=Interpreter(Path("python"), (), {}, {}, "key"),
            inputs=Inputs(tmp_path),
            environment=mesh or {},
            origin={},
            source=tmp_path,
        )

    def test_those_of_its_own_launcher(self, tmp_path: Path) -> None:
        assert flags_of(self.plan(tmp_path)) == CompilerFlags("--xla_a=1 --xla_b=2")

    def test_a_trainer_that_sets_none(self, tmp_path: Path) -> None:
        assert flags_of(self.plan(tmp_path, "hf")) == CompilerFlags()

    def test_a_checkout_that_sets_none(self, tmp_path: Path) -> None:
        plan = self.plan(tmp_path)
        (tmp_path / IMAGE).unlink()
        assert flags_of(plan) == CompilerFlags()

    @pytest.mark.parametrize("value", ["--xla_c=3", ""])
    def test_the_users_come_first(self, value: str, tmp_path: Path) -> None:
        shell, own = {"LIBTPU_INIT_ARGS": "--xla_d=4"}, {"LIBTPU_INIT_ARGS": value}
        assert flags_of(self.plan(tmp_path, mesh=shell)).libtpu == "--xla_d=4"
        assert flags_of(self.plan(tmp_path, own=own, mesh=shell)).libtpu == value

    def test_flags_of_the_mesh_are_not_the_compilers(self, tmp_path: Path) -> None:
        mesh, own = {"XLA_FLAGS": "--xla_cpu=1"}, {"XLA_FLAGS": "--xla_e=5"}
        assert flags_of(self.plan(tmp_path, mesh=mesh)).xla == ""
        assert flags_of(self.plan(tmp_path, own=own, mesh=mesh)).xla == "--xla_e=5"

    def test_what_torch_xla_adds_gives_way(self) -> None:
        name = "xla_tpu_enable_flash_attention"
        assert f"--{name}=false" in CompilerFlags("--xla_x=1").on("v6e").libtpu
        mine = CompilerFlags(f"--{name}=true").on("v6e").libtpu
        assert (mine.count(name), f"--{name}=true" in mine) == (1, True)
        of_v5, of_v6 = (CompilerFlags().on(chip).libtpu for chip in ("v5p", "v6e"))
        assert set(of_v6.split()) < set(of_v5.split())


class TestStaged:
    """A trace lists what its trainer read; what is read within the step may have steered it."""

    def traced(self, tmp_path: Path, tracing: bool, known: bool = False) -> Record:
        path = Trainer().write(tmp_path / "staged")
        (path / "modules").mkdir()
        (path / "modules" / "0.hlo.pb").write_bytes(b"module")
        read = {"at": "trainer.py:7", "dtype": "bool", "tracing": tracing, "times": 1}
        read["known"] = known
        step = [{"file": "modules/0.hlo.pb", "executions": 1}]
        writer.write_json(path / layout.MODULES, {"step": step, "reads": [read]})
        return read_record(path)

    def test_a_read_within_the_step_says_nothing_of_it(self, tmp_path: Path) -> None:
        found = step_modules(self.traced(tmp_path, tracing=True))
        assert isinstance(found, str)
        assert "reads bool from the device at trainer.py:7" in found

    def test_another_read_changes_nothing(self, tmp_path: Path) -> None:
        assert isinstance(step_modules(self.traced(tmp_path, tracing=False)), list)

    def test_what_is_known_steers_it_as_it_should(self, tmp_path: Path) -> None:
        assert isinstance(step_modules(self.traced(tmp_path, tracing=True, known=True)), list)


class TestKeptPairs:
    def keep(self, tmp_path: Path, name: str, *steps: Any) -> Record:
        path = Trainer().write(tmp_path / name)
        (path / layout.COMPILED).mkdir()
        for number, step in enumerate(steps):
            writer.write_json(path / layout.COMPILED / f"{number}.json", to_json(step))
        return read_record(path)

    def test_none_is_no_pair(self, tmp_path: Path) -> None:
        plain = read_record(Trainer().write(tmp_path / "plain"))
        assert kept_pairs(plain, plain) == ()

    def test_what_both_have(self, tmp_path: Path) -> None:
        a = self.keep(tmp_path, "a", sample_step(), sample_step(target="v5e:2x2"))
        b = self.keep(tmp_path, "b", sample_step("0.0.21"), sample_step())
        assert kept_pairs(a, b) == ((sample_step(), sample_step()),)

    def test_nothing_in_common_is_not_silent(self, tmp_path: Path) -> None:
        a, b = self.keep(tmp_path, "a", sample_step()), self.keep(tmp_path, "b")
        for pair in (kept_pairs(a, b), kept_pairs(b, a)):
            ((x, y),) = pair
            assert {x.unknown is None, y.unknown is None} == {True, False}

    def test_a_damaged_file(self, tmp_path: Path) -> None:
        a = self.keep(tmp_path, "a", sample_step())
        (path,) = (a.directory / layout.COMPILED).iterdir()
        path.write_text(path.read_text()[:200])
        with pytest.raises(BadInput):
            kept_pairs(a, a)


class TestPlan:
    @pytest.fixture(autouse=True)
    def _no_libtpu(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(compiling, "tpu_compiler", lambda *_: COMPILER)
        monkeypatch.setattr(
            compiling, "devices_of", lambda target, _: 8 if "4x2" in target.name else 4
        )

    def test_no_target(self) -> None:
        assert plan_compiling(load([]), ignore) is None

    def test_one_and_several(self) -> None:
        for words, count in (("v6e:2x2", 1), ("[v6e:2x2,v5p:2x2x1]", 2)):
            planned = plan_compiling(load([f"target={words}"]), ignore)
            assert planned is not None
            assert len(planned.targets) == count
            assert planned.limits.memory == 16 * 2**30

    def test_a_mesh_that_does_not_fit(self) -> None:
        with pytest.raises(BadInput, match="8 devices"):
            plan_compiling(load(["target=v6e:4x2"]), ignore)

    @pytest.mark.parametrize(
        "words",
        [
            ["target=v6e"], ["target=v6e:2x2", "slices=0"], ["compiler.time_limit=0"],
            ["compiler.code_seconds=-1"], ["compiler.memory_limit=.nan"], ["compiler.release=1"],
        ],
    )  # fmt: skip
    def test_bad_input(self, words: list[str]) -> None:
        with pytest.raises(BadInput):
            plan_compiling(load(words), ignore)
