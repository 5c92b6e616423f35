"""What a workload and this machine exchange through object storage, by fsspec.

<artifact_dir>/store/<name>.tar     folders, by what is in them: sent once
<artifact_dir>/<workload>/          one run: `harness.launchers.host` describes it
"""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from harness.base.errors import BadInput
from harness.environments.folders import copy_code, state
from harness.launchers import host


class Artifacts:
    """The artifact directory of one workload.

    Raises BadInput, in every method, where the storage cannot be used.
    """

    def __init__(self, directory: str, workload: str) -> None:
        self.directory = directory.rstrip("/")
        self.url = f"{self.directory}/{workload}"

    def check(self) -> None:
        """See that the directory can be read."""
        with self._usable():
            system, path = host.storage(self.directory)
            system.exists(path)

    def store(self, name: str, folder: Path) -> str:
        """The URL of an archive of `folder`, which is sent unless `name` is there already."""
        url = f"{self.directory}/store/{name}.tar"
        with self._usable():
            system, path = host.storage(url)
            if not system.exists(path):
                # Under another name first: a half-sent archive must not pass for a whole one.
                partial = f"{path}.{Path(self.url).name}"
                with (
                    system.open(partial, "wb") as stream,
                    tarfile.open(fileobj=stream, mode="w|", dereference=True) as archive,
                ):
                    archive.add(folder, ".")
                system.mv(partial, path)
        return url

    def store_code(self, kind: str, folder: Path) -> str:
        """The same for a folder of code: without git's data, and what git ignores."""
        digest = hashlib.sha256(repr(state(folder)).encode()).hexdigest()[:16]
        with tempfile.TemporaryDirectory(prefix="parity-code-") as temporary:
            copy = Path(temporary) / "code"
            copy.mkdir()
            copy_code(folder, copy)
            return self.store(f"{kind}-{digest}", copy)

    def send(self, job: Mapping[str, Any], root: Path, files: Mapping[Path, str]) -> None:
        """Send the run's own part: job.json, and the texts of `files`, which are below `root`."""
        url = f"{self.url}/files.tar"
        with self._usable():
            system, path = host.storage(url)
            with system.open(path, "wb") as stream, tarfile.open(fileobj=stream, mode="w|") as tar:
                for file, text in files.items():
                    data = text.encode()
                    member = tarfile.TarInfo(file.relative_to(root).as_posix())
                    member.size, member.mode = len(data), 0o644
                    tar.addfile(member, io.BytesIO(data))
            fetch = {url: str(root), **job["fetch"]}
            system, path = host.storage(f"{self.url}/{host.JOB}")
            system.pipe_file(path, json.dumps({**job, "fetch": fetch}, indent=1).encode())

    def fetch_file(self, name: str, target: Path) -> bool:
        """Copy one file of the run, if it is there by now."""
        with self._usable():
            system, path = host.storage(f"{self.url}/{name}")
            system.invalidate_cache()
            if not system.exists(path):
                return False
            target.parent.mkdir(parents=True, exist_ok=True)
            system.get_file(path, str(target))
            return True

    def collect(self, target: Path) -> list[Path]:
        """Copy what every host observed into `target`/host-<index>; those folders, in order.

        What trainers themselves wrote stays where it is: checkpoints are large.
        """
        found = []
        with self._usable():
            system, root = host.storage(self.url)
            system.invalidate_cache()
            for path in system.find(root):
                name = path.removeprefix(root).lstrip("/")
                if not name.startswith("host-") or Path(name).parts[1] == host.OUTPUTS:
                    continue
                local = target / name
                local.parent.mkdir(parents=True, exist_ok=True)
                system.get_file(path, str(local))
                found.append(target / Path(name).parts[0])
        return sorted(set(found), key=lambda folder: int(folder.name.removeprefix("host-")))

    @contextmanager
    def _usable(self) -> Iterator[None]:
        try:
            yield
        except ImportError as error:
            raise BadInput(
                f"launcher.options.artifact_dir={self.directory}: {error}. For gs:// install "
                "gcsfs beside the harness (`uv pip install gcsfs`)"
            ) from None
        except BadInput:
            raise
        except Exception as error:
            # Object stores raise exceptions of many libraries; all mean that it cannot be used.
            raise BadInput(
                f"launcher.options.artifact_dir={self.directory} cannot be used "
                f"({type(error).__name__}: {str(error)[:300]}): name a folder in a bucket that you "
                "can write, and log in with `gcloud auth application-default login`"
            ) from None
