"""The Python of an engine: made by the real uv from small wheels of our own, without a network."""

import os
import sys
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from harness.base.errors import BadInput
from harness.environments import interpreters as module
from harness.environments import inventory
from harness.environments.install import _root
from harness.environments.interpreters import (
    InstallFailed,
    Interpreter,
    base_interpreter,
    locked,
    named_interpreter,
    with_transformers,
)
from harness.environments.sources import Checkout, PathSource, PypiSource, resolve

BACKEND = """
import pathlib, zipfile
LINES = {lines!r}
def build_wheel(directory, config_settings=None, metadata_directory=None):
    pathlib.Path("left-by-the-build").write_text("")
    name = "transformers-4.99.0.dev0-py3-none-any.whl"
    info = "transformers-4.99.0.dev0.dist-info"
    with zipfile.ZipFile(pathlib.Path(directory) / name, "w") as wheel:
        wheel.write("code.py", "transformers/__init__.py")
        wheel.writestr(info + "/METADATA", LINES)
        wheel.writestr(info + "/WHEEL", "Wheel-Version: 1.0\\nTag: py3-none-any\\n")
        wheel.writestr(info + "/RECORD", "")
    return name
"""


def metadata(name: str, version: str, *lines: str) -> str:
    return "\n".join(["Metadata-Version: 2.1", f"Name: {name}", f"Version: {version}", *lines, ""])


def wheel(folder: Path, name: str, version: str, *lines: str) -> None:
    """A wheel that holds one empty module; ``lines`` are added to its METADATA."""
    info = f"{name}-{version}.dist-info"
    with zipfile.ZipFile(folder / f"{name}-{version}-py3-none-any.whl", "w") as archive:
        archive.writestr(f"{name}/__init__.py", f"__version__ = '{version}'\n")
        archive.writestr(f"{info}/METADATA", metadata(name, version, *lines))
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", "")


def transformers_wheel(folder: Path, version: str, tokenizers: str, accelerate: str) -> None:
    extra = "Provides-Extra: torch"
    needs = [
        f"Requires-Dist: tokenizers{tokenizers}",
        "Requires-Dist: torch>=2; extra == 'torch'",
        f"Requires-Dist: accelerate{accelerate}; extra == 'torch'",
    ]
    wheel(folder, "transformers", version, extra, *needs)


@pytest.fixture
def wheels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The only place from which uv can install."""
    folder = tmp_path / "wheels"
    folder.mkdir()
    for name, versions in {
        "torch": ["2.9.0", "2.10.0"],
        "torch_xla": ["2.9.0"],
        "numpy": ["2.4.6", "1.26.4"],
        "accelerate": ["0.34.2", "1.15.0", "1.16.0"],
        "tokenizers": ["0.20.3", "0.22.2", "0.23.1"],
    }.items():
        for version in versions:
            wheel(folder, name, version)
    transformers_wheel(folder, "4.57.6", ">=0.22,<0.23.1", ">=0.26")
    transformers_wheel(folder, "4.45.2", ">=0.20,<0.21", ">=0.26")
    for variable in [name for name in os.environ if name.startswith("UV_")]:
        monkeypatch.delenv(variable)
    monkeypatch.setenv("UV_FIND_LINKS", str(folder))
    monkeypatch.setenv("UV_OFFLINE", "1")
    monkeypatch.setenv("UV_NO_CONFIG", "1")
    monkeypatch.setenv("UV_CACHE_DIR", str(tmp_path / "uv-cache"))
    return folder


@pytest.fixture
def lock(tmp_path: Path, wheels: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A lock of seven small packages in the place of ours."""
    file = tmp_path / "lock.txt"
    pins = "torch==2.9.0 torch-xla==2.9.0 numpy==2.4.6 accelerate==1.15.0 tokenizers==0.22.2"
    file.write_text("\n".join([*pins.split(), "transformers==4.57.6"]))
    monkeypatch.setattr(module, "LOCK", file)
    return file


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


@pytest.fixture
def lines() -> list[str]:
    return []


@pytest.fixture
def base(lock: Path, cache: Path, lines: list[str]) -> Interpreter:
    return base_interpreter(cache, lines.append)


def release(version: str) -> Checkout:
    return resolve(PypiSource("transformers", version), Path())


def checkout(folder: Path, *needs: str) -> Path:
    """A source of transformers 4.99.0.dev0, which builds without a network."""
    folder.mkdir(exist_ok=True)
    needed = [f"Requires-Dist: {need}" for need in needs]
    lines = metadata("transformers", "4.99.0.dev0", "Provides-Extra: torch", *needed)
    (folder / "backend.py").write_text(BACKEND.format(lines=lines))
    build = '[build-system]\nrequires = []\nbuild-backend = "backend"\nbackend-path = ["."]\n'
    (folder / "pyproject.toml").write_text(build)
    (folder / "code.py").write_text("")
    return folder


# --- the base ---------------------------------------------------------------------------------


def test_the_base_is_made_from_the_lock_and_found_again(
    base: Interpreter, cache: Path, lines: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert base.packages == {
        "torch": "2.9.0",
        "torch-xla": "2.9.0",
        "numpy": "2.4.6",
        "accelerate": "1.15.0",
        "tokenizers": "0.22.2",
        "transformers": "4.57.6",
    }
    assert base.pythonpath == ()
    assert base.python.is_relative_to(cache / "environments")
    assert "creating the engine environment" in lines[0]
    assert any(line.startswith("Installed 6 packages") for line in lines)
    monkeypatch.setenv("UV_FIND_LINKS", "/nowhere")
    lines.clear()
    assert base_interpreter(cache, lines.append) == base
    assert lines == []


def test_without_xla_nothing_of_it_is_installed(base: Interpreter, cache: Path) -> None:
    other = base_interpreter(cache, print, xla=False)
    left_out = {"torch-xla"}
    assert other.packages == {k: v for k, v in base.packages.items() if k not in left_out}
    assert other.python != base.python


def test_a_torch_without_cuda_needs_none_of_its_libraries(monkeypatch: pytest.MonkeyPatch) -> None:
    """uv takes the torch of the lock's version from PyTorch's index then."""

    def names(xla: bool = True, **environ: str) -> set[str]:
        lines = (line for line in locked(xla, environ) if not line.lstrip().startswith("#"))
        return {line.partition("==")[0].partition("[")[0] for line in lines}

    gone = names() - names(UV_TORCH_BACKEND="cpu")
    assert {"triton", "nvidia-cudnn-cu12"} <= gone
    assert all(name == "triton" or name.startswith("nvidia-") for name in gone)
    assert names() - names(xla=False) == {"torch-xla", "libtpu", "jax", "jaxlib"}
    assert names(UV_TORCH_BACKEND="cu128") == names()


def test_another_lock_is_another_environment(base: Interpreter, lock: Path, cache: Path) -> None:
    lock.write_text(lock.read_text().replace("accelerate==1.15.0", "accelerate==1.16.0"))
    other = base_interpreter(cache, print)
    assert other.packages["accelerate"] == "1.16.0"
    assert other.python != base.python
    assert other.key != base.key


def test_an_environment_that_was_not_finished_is_made_again(
    lock: Path, wheels: Path, cache: Path
) -> None:
    missing = wheels / "tokenizers-0.22.2-py3-none-any.whl"
    missing.rename(wheels / "away")
    with pytest.raises(InstallFailed, match=r"The engine environment .*tokenizers==0\.22\.2"):
        base_interpreter(cache, print)
    environment = next(path for path in (cache / "environments").iterdir() if path.is_dir())
    (environment / "left-over").write_text("")
    (wheels / "away").rename(missing)
    assert base_interpreter(cache, print).packages["tokenizers"] == "0.22.2"
    assert not (environment / "left-over").exists()


def test_an_environment_whose_system_python_is_gone_is_made_again(
    base: Interpreter, cache: Path
) -> None:
    base.python.unlink()
    base.python.symlink_to("/removed/python3.11")
    assert base_interpreter(cache, print).packages == base.packages


def test_two_at_a_time_make_one_environment(lock: Path, cache: Path) -> None:
    lines: list[str] = []
    with ThreadPoolExecutor(3) as pool:
        made = list(pool.map(lambda _: base_interpreter(cache, lines.append), range(3)))
    assert made[0] == made[1] == made[2]
    assert sum("creating" in line for line in lines) == 1


def test_a_package_put_into_the_base_by_hand_is_seen(base: Interpreter, cache: Path) -> None:
    site = next((base.python.parent.parent / "lib").glob("python*/site-packages"))
    (site / "surprise-1.0.dist-info").mkdir()
    (site / "surprise-1.0.dist-info" / "METADATA").write_text(metadata("surprise", "1.0"))
    now = base_interpreter(cache, print)
    assert now.packages["surprise"] == "1.0"
    assert now.key != base.key


def test_the_lock_holds_what_the_requirements_ask_for_and_nothing_of_a_machine() -> None:
    text = module.LOCK.read_text()
    pins = {}
    for line in text.splitlines():
        if not line.lstrip().startswith("#"):
            pin = Requirement(line)
            (exact,) = pin.specifier
            assert exact.operator == "=="
            pins[pin.name] = exact.version
    requested = module.LOCK.with_name("base.txt").read_text().splitlines()
    for line in (line for line in requested if not line.startswith("#")):
        requirement, _, reason = line.partition("#")
        assert reason.strip(), f"{requirement} says no reason"
        wanted = Requirement(requirement)
        assert wanted.specifier.contains(pins[wanted.name.replace("_", "-")]), line
    assert not [sign for sign in ("://", "--index", "-i ", " /", "@") if sign in text]


# --- another transformers in front --------------------------------------------------------------


def test_only_what_must_differ_is_installed(base: Interpreter, cache: Path) -> None:
    found = with_transformers(base, release("4.45.2"), cache, print)
    assert found.packages == {**base.packages, "transformers": "4.45.2", "tokenizers": "0.20.3"}
    assert found.python == base.python
    (overlay,) = found.pythonpath
    assert sorted(path.name for path in overlay.glob("*.dist-info")) == [
        "tokenizers-0.20.3.dist-info",
        "transformers-4.45.2.dist-info",
    ]
    assert (overlay / "transformers" / "__init__.py").exists()
    assert found.key != base.key


def test_an_overlay_is_found_again(
    base: Interpreter, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines: list[str] = []
    first = with_transformers(base, release("4.45.2"), cache, lines.append)
    assert lines[0] == "installing transformers 4.45.2 from PyPI"
    monkeypatch.setenv("UV_FIND_LINKS", "/nowhere")
    assert with_transformers(base, release("4.45.2"), cache, print) == first


def test_the_release_that_the_base_has_needs_nothing(base: Interpreter, cache: Path) -> None:
    assert with_transformers(base, release("4.57.6"), cache, print) == base
    assert not (cache / "overlays").exists()


@pytest.mark.parametrize(
    ("requested", "chosen"), [("<1.0", "0.34.2"), (">=1.16", "1.16.0"), (">=1.0", "1.15.0")]
)
def test_an_accelerate_that_does_not_fit_is_chosen_to_fit(
    requested: str, chosen: str, base: Interpreter, wheels: Path, cache: Path
) -> None:
    transformers_wheel(wheels, "5.0.0", ">=0.22", requested)
    found = with_transformers(base, release("5.0.0"), cache, print)
    assert found.packages["accelerate"] == chosen
    assert found.packages["tokenizers"] == "0.22.2"


def test_what_both_sides_share_is_never_replaced(
    base: Interpreter, wheels: Path, cache: Path
) -> None:
    needs = ["Provides-Extra: torch", "Requires-Dist: numpy<2"]
    wheel(wheels, "transformers", "4.0.0", *needs)
    with pytest.raises(InstallFailed, match=r"transformers 4\.0\.0 .* beside torch 2\.9\.0.*numpy"):
        with_transformers(base, release("4.0.0"), cache, print)
    assert not list((cache / "overlays").glob("transformers-*/"))


def test_a_release_that_does_not_exist_fails_with_the_cause(base: Interpreter, cache: Path) -> None:
    with pytest.raises(InstallFailed, match=r"9\.9\.9 .*there is no version of") as caught:
        with_transformers(base, release("9.9.9"), cache, print)
    assert "\n" not in str(caught.value)


def test_a_checkout_is_built_from_a_copy_and_told_apart_by_its_content(
    base: Interpreter, cache: Path, tmp_path: Path
) -> None:
    folder = checkout(tmp_path / "check out", "tokenizers<0.21", "accelerate<1; extra == 'torch'")
    before = sorted(folder.iterdir())
    first = with_transformers(base, resolve(PathSource(folder), cache), cache, print)
    assert sorted(folder.iterdir()) == before
    assert first.packages["transformers"] == "4.99.0.dev0"
    assert first.packages["tokenizers"] == "0.20.3"
    assert first.packages["accelerate"] == "0.34.2"
    assert with_transformers(base, resolve(PathSource(folder), cache), cache, print) == first
    (folder / "code.py").write_text("edited = True")
    second = with_transformers(base, resolve(PathSource(folder), cache), cache, print)
    assert second.packages == first.packages
    assert second.key != first.key
    edited = second.pythonpath[0] / "transformers" / "__init__.py"
    assert edited.read_text() == "edited = True"


def test_an_overlay_serves_one_base_and_one_state_of_a_checkout(
    base: Interpreter, lock: Path, cache: Path, tmp_path: Path
) -> None:
    folder = checkout(tmp_path / "checkout")
    lock.write_text(lock.read_text().replace("accelerate==1.15.0", "accelerate==1.16.0"))
    states = [Checkout(folder, "c" * 40, dirty, "a checkout") for dirty in (None, "d" * 64)]
    made = [
        with_transformers(below, state, cache, print)
        for below in (base, base_interpreter(cache, print))
        for state in states
    ]
    assert len({one.pythonpath for one in made}) == 4
    assert len({one.key for one in made}) == 4


def test_a_folder_that_is_no_package_is_bad_input_and_no_failure(
    tmp_path: Path, base: Interpreter, cache: Path
) -> None:
    """The gate would blame the candidate, after it had trained the baseline."""
    with pytest.raises(BadInput, match=r"neither pyproject\.toml nor setup\.py") as raised:
        with_transformers(base, resolve(PathSource(tmp_path), cache), cache, print)
    assert not isinstance(raised.value, InstallFailed)


def test_a_checkout_that_does_not_build_fails_with_the_root_of_its_traceback(
    base: Interpreter, cache: Path, tmp_path: Path
) -> None:
    folder = checkout(tmp_path / "checkout")
    (folder / "backend.py").write_text("import no_such_module")
    with pytest.raises(InstallFailed, match=r"ModuleNotFoundError: No module named 'no_such_modul"):
        with_transformers(base, resolve(PathSource(folder), cache), cache, print)


def test_a_base_without_transformers_gets_that_of_the_checkout(
    lock: Path, cache: Path, tmp_path: Path
) -> None:
    lock.write_text("torch==2.9.0\ntorch-xla==2.9.0\n")
    base = base_interpreter(cache, print)
    folder = checkout(tmp_path / "checkout", "tokenizers<0.21")
    found = with_transformers(base, resolve(PathSource(folder), cache), cache, print)
    assert found.packages["transformers"] == "4.99.0.dev0"


def test_a_release_replaces_an_editable_install_of_the_same_number(
    base: Interpreter, cache: Path, tmp_path: Path
) -> None:
    editable(base, tmp_path / "checkout")
    changed = named_interpreter(base.python, cache)
    assert changed.packages["transformers"] == "4.57.6"
    found = with_transformers(changed, release("4.57.6"), cache, print)
    assert found.pythonpath
    assert found.origins == {}


# --- an interpreter that the user names ----------------------------------------------------------


def editable(interpreter: Interpreter, folder: Path) -> None:
    """Make the transformers of ``interpreter`` one that is imported from ``folder``."""
    folder.mkdir()
    (folder / "code.py").write_text("one")
    site = next((interpreter.python.parent.parent / "lib").glob("python*/site-packages"))
    direct = f'{{"url": "{folder.as_uri()}", "dir_info": {{"editable": true}}}}'
    info = site / "transformers-4.57.6.dist-info"
    (info / "direct_url.json").write_text(direct)
    (site / "__editable__.pth").write_text(str(folder))


def python_script(path: Path, site: Path, runs: Path) -> Path:
    """A Python that has nothing but ``site``, and notes each time that it runs."""
    path.write_text(
        f'#!/bin/sh\necho run >> {runs}\nPYTHONPATH={site} exec {sys.executable} -S "$@"\n'
    )
    path.chmod(0o755)
    return path


def add(site: Path, name: str, version: str) -> None:
    info = site / f"{name}-{version}.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(metadata(name, version))


@pytest.fixture
def site(tmp_path: Path) -> Path:
    folder = tmp_path / "site"
    add(folder, "torch", "2.9.0")
    add(folder, "torch_xla", "2.9.0+git1234")
    return folder


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    return tmp_path / "runs"


@pytest.fixture
def python(tmp_path: Path, site: Path, runs: Path) -> Path:
    return python_script(tmp_path / "python", site, runs)


def test_a_named_interpreter_is_asked_once(python: Path, runs: Path, cache: Path) -> None:
    first = named_interpreter(python, cache)
    assert first.packages == {"torch": "2.9.0", "torch-xla": "2.9.0+git1234"}
    assert first.python == python
    assert named_interpreter(python, cache) == first
    assert runs.read_text() == "run\n"


def test_what_is_installed_later_is_seen(python: Path, site: Path, runs: Path, cache: Path) -> None:
    first = named_interpreter(python, cache)
    add(site, "accelerate", "1.15.0")
    second = named_interpreter(python, cache)
    assert second.packages["accelerate"] == "1.15.0"
    assert second.key != first.key
    assert runs.read_text() == "run\nrun\n"


def test_an_interpreter_that_was_exchanged_is_asked_again(
    python: Path, runs: Path, cache: Path, tmp_path: Path
) -> None:
    named_interpreter(python, cache)
    other = tmp_path / "other"
    add(other, "torch", "2.8.0")
    add(other, "torch_xla", "2.8.0")
    python_script(python, other, runs)
    assert named_interpreter(python, cache).packages["torch"] == "2.8.0"


def test_a_memory_that_cannot_be_read_is_replaced(python: Path, runs: Path, cache: Path) -> None:
    first = named_interpreter(python, cache)
    (memory,) = (cache / "interpreters").glob("*.json")
    for rubbish in ("", "{}", '{"stamps": '):
        memory.write_text(rubbish)
        assert named_interpreter(python, cache) == first


def test_of_two_copies_the_one_that_is_imported_counts(
    site: Path, runs: Path, cache: Path, tmp_path: Path
) -> None:
    front = tmp_path / "front"
    add(front, "Torch", "2.7.0")
    python = python_script(tmp_path / "python", Path(f"{front}:{site}"), runs)
    assert named_interpreter(python, cache).packages["torch"] == "2.7.0"


def test_the_callers_folder_and_pythonpath_are_not_part_of_an_interpreter(
    base: Interpreter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    add(tmp_path / "here", "surprise", "1.0")
    add(tmp_path / "there", "surprise", "1.0")
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "there"))
    assert named_interpreter(base.python, tmp_path / "new-cache") == base


def test_half_of_a_removed_package_is_no_package(python: Path, site: Path, cache: Path) -> None:
    (site / "numpy-2.4.6.dist-info").mkdir()
    assert "numpy" not in named_interpreter(python, cache).packages


def test_the_key_tells_versions_apart_and_not_places(
    python: Path, site: Path, runs: Path, cache: Path, tmp_path: Path
) -> None:
    first = named_interpreter(python, cache)
    site.rename(tmp_path / "moved")
    elsewhere = python_script(tmp_path / "elsewhere", tmp_path / "moved", runs)
    assert named_interpreter(elsewhere, cache).key == first.key


def test_an_edit_of_an_editable_install_changes_the_key_at_once(
    base: Interpreter, cache: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "checkout"
    editable(base, folder)
    first = named_interpreter(base.python, cache)
    assert first.key != base.key
    (folder / "code.py").write_text("two")
    second = named_interpreter(base.python, cache)
    assert second.key != first.key
    assert second.packages == first.packages


@pytest.mark.parametrize(("missing", "named"), [("torch", "torch"), ("torch_xla", "torch_xla")])
def test_an_interpreter_without_torch_or_torch_xla(
    missing: str, named: str, python: Path, site: Path, cache: Path
) -> None:
    next(site.glob(f"{missing}-*")).rename(site.parent / "removed")
    with pytest.raises(BadInput, match=rf"{python} has no {named}, .*install it there"):
        named_interpreter(python, cache)


def test_what_is_no_interpreter(tmp_path: Path, cache: Path) -> None:
    text = tmp_path / "text"
    text.write_text("hello")
    script = tmp_path / "script"
    script.write_text("#!/bin/sh\necho hello; echo 'no such option: -c' >&2; exit 2\n")
    silent = tmp_path / "silent"
    silent.write_text("#!/bin/sh\n")
    number = tmp_path / "number"
    number.write_text("#!/bin/sh\necho 1\n")
    for path in (script, silent, number):
        path.chmod(0o755)
    for path, said in {
        tmp_path / "missing": "does not exist",
        tmp_path: "is a folder: name its bin/python",
        text: "Permission denied",
        script: "no such option: -c",
        silent: "no list of packages",
        number: "no list of packages",
    }.items():
        with pytest.raises(BadInput, match=rf"The interpreter {path} .*{said}") as caught:
            named_interpreter(path, cache)
        assert "\n" not in str(caught.value)
    assert not list(cache.glob("interpreters/*.json"))


def test_an_interpreter_that_does_not_answer(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inventory, "_SECONDS", 0.2)
    hanging = tmp_path / "hanging"
    hanging.write_text("#!/bin/sh\nexec sleep 20\n")
    hanging.chmod(0o755)
    with pytest.raises(BadInput, match=r"did not answer in 0\.2 s"):
        named_interpreter(hanging, cache)


# --- what uv says -------------------------------------------------------------------------------


def test_the_root_of_what_uv_says() -> None:
    new = ["Resolved 3 packages", "error: No solution", "  cause: Because A", "", "hint: try B"]
    assert _root(new) == "error: No solution cause: Because A"
    old = ["  × No solution found:", "  ╰─▶ Because there is no", "      version of A."]
    assert _root(old) == "No solution found: Because there is no version of A."
    build = [
        "error: Failed to build",
        "",
        "  Traceback:",
        "  ValueError: a",
        "  KeyError: 'b'",
        "x",
    ]
    assert _root(build) == "error: Failed to build KeyError: 'b'"
    assert _root(["killed"]) == "killed"
    assert _root([]) == "nothing at all"


def test_constraints_leave_out_what_no_index_has() -> None:
    packages = {"torch": "2.9.0+cpu", "numpy": "2.4.6", "tokenizers": "0.22.2"}
    assert module._constraints(packages) == ["torch==2.9.0", "numpy==2.4.6"]


def test_the_plan_of_uv() -> None:
    plan = """Resolved 3 packages in 1ms
 - transformers==4.57.6
 + transformers==4.99.0.dev0 (from file:///tmp/x)
 ~ numpy==2.4.6
 + tokenizers==0.20.3
"""
    assert module._planned(plan) == ["transformers==4.99.0.dev0", "tokenizers==0.20.3"]
