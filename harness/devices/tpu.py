"""TPUs, without importing torch: what chips this machine has, who has them, what each can do.

`TPU_LIBRARY_PATH` names the PJRT plugin that torch_xla loads as a TPU's. Where that is not libtpu,
the device is whatever the plugin drives: nothing is known of it before a run.
"""

from __future__ import annotations

import fcntl
import math
import os
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from harness.devices.chips import Chip
from harness.devices.device import Device
from harness.record.termination import BUSY, GONE, Sign

GOOGLE = "0x1ae0"
"""PCI vendor of TPU chips."""

PCI = Path("/sys/bus/pci/devices")

# PJRT devices of a chip, by the PCI device ids by which torch_xla tells chips
# (torch_xla/_internal/tpu.py). A v2, v3 (0x0027) or TPU7x (0x0076) is two of them.
TPU_DEVICES = {
    "0x0027": 2, "0x0056": 1, "0x005e": 1, "0x0062": 1, "0x0063": 1, "0x006f": 1, "0x0076": 2,
}  # fmt: skip

LIBRARY = "TPU_LIBRARY_PATH"

LIBTPU_LOCKFILE = Path("/tmp/libtpu_lockfile")
"""What libtpu locks (lockf) for as long as a process has all chips of a host."""

METADATA = "http://metadata.google.internal/computeMetadata/v1/instance/attributes/tpu-env"
"""A TPU VM's own description of its slice: a line `NAME: 'value'` for each fact."""

# Chips of a slice: hosts (or processes) along x, y, z, and chips of each. GKE has the older names.
BOUNDS = (
    ("TPU_PROCESS_BOUNDS", "TPU_HOST_BOUNDS"),
    ("TPU_CHIPS_PER_PROCESS_BOUNDS", "TPU_CHIPS_PER_HOST_BOUNDS"),
)
VISIBLE = ("TPU_VISIBLE_CHIPS", "TPU_VISIBLE_DEVICES")

PJRT = "TPU"

GIB = 2**30

# Peak bf16 FLOP/s, HBM and bidirectional ICI bandwidth of v5e and later: the specification tables
# of Google's pages (`source`). Clocks are those at which the matrix units (MXU) that a page counts
# reach its peak: peak / (MXUs · side² · 2). v6e's page counts two MXUs of 256 × 256 in a chip; the
# bundles that libtpu compiles for it run at half of what that comes to, so that there are four.
# Between slices: the pages' 6.4 and 25.6 Tb/s for a pod of 256 chips.
CHIPS = {
    "tpu v4": Chip(
        275e12, 32 * GIB, 1200e9, 600e9, 1.05e9,
        "cloud.google.com/tpu/docs/v4; 6 links of 50 GB/s each way, 1050 MHz: Jouppi et al. 2023, "
        "arXiv:2304.01433, table 4",
    ),
    "tpu v5e": Chip(
        197e12, 16 * GIB, 819e9, 400e9, 1.5e9, "cloud.google.com/tpu/docs/v5e; 4 MXUs of 128 × 128",
        dcn_bandwidth=3.125e9,
    ),
    "tpu v5p": Chip(
        459e12, 95 * GIB, 2765e9, 1200e9, 1.75e9,
        "cloud.google.com/tpu/docs/v5p; 2 cores of 4 MXUs of 128 × 128",
    ),
    "tpu v6e": Chip(
        918e12, 32 * GIB, 1638e9, 800e9, 1.75e9, "cloud.google.com/tpu/docs/v6e",
        dcn_bandwidth=12.5e9,
    ),
    "tpu7x": Chip(
        2307e12, 192 * GIB, 7380e9, 1200e9, None,
        "cloud.google.com/tpu/docs/tpu7x; each of its two TensorCores is a PJRT device",
        devices=2,
    ),
}  # fmt: skip


def chip(name: str) -> Chip | None:
    """The chip that libtpu calls so ("v6e", "tpu7x"); None where it is not known here."""
    return CHIPS.get(f"tpu {name}") or CHIPS.get(name)


def clock_of(title: str) -> float | None:
    """Hz of the matrix units of the chip that a profile calls so ("TPU v6 Lite")."""
    words = title.lower().replace(" lite", "e")
    found = CHIPS.get(words)
    return None if found is None else found.clock


def init_args(chip: str) -> tuple[tuple[str, str], ...]:
    """What torch_xla adds to LIBTPU_INIT_ARGS on such a chip ("v6e"), where it is not there yet.

    torch_xla 2.9.0, `_setup_libtpu_flags` of its __init__.py. It turns off libtpu's own rewriting
    of attention into a kernel, for example.
    """
    own = (
        ("xla_tpu_use_enhanced_launch_barrier", "false"),
        ("xla_latency_hiding_scheduler_rerun", "1"),
        ("xla_tpu_prefer_async_allgather_to_allreduce", "true"),
        ("xla_tpu_enable_flash_attention", "false"),
    )
    of_v5 = (
        ("xla_enable_async_all_gather", "true"),
        ("xla_enable_async_collective_permute", "true"),
    )
    return (*own, *of_v5) if chip.startswith("v5") else own


# What accelerator types begin with (v5litepod-16), and the kind that each is. v5e and v6e are
# called both ways, by Cloud TPU and by GKE.
KINDS = {
    "v2": "TPU v2", "v3": "TPU v3", "v4": "TPU v4", "v5litepod": "TPU v5e", "v5e": "TPU v5e",
    "v5p": "TPU v5p", "v6e": "TPU v6e", "tpu7x": "TPU7x",
}  # fmt: skip


# Accelerator types whose number counts TensorCores of which two are one PJRT device.
MEGACORE = ("v4", "v5p")


def tpu_env(url: str = METADATA) -> dict[str, str]:
    """What the VM's metadata says of its slice; nothing where there is no metadata server."""
    import urllib.request  # it takes as long to import as the rest of the room

    request = urllib.request.Request(url, headers={"Metadata-Flavor": "Google"})
    try:
        with urllib.request.urlopen(request, timeout=2) as answer:
            lines = answer.read().decode().splitlines()
    except OSError:
        return {}
    pairs = (line.partition(":") for line in lines if ":" in line)
    return {name.strip(): value.strip().strip("'\"") for name, _, value in pairs}


def plugin(environ: Mapping[str, str] = os.environ) -> Path | None:
    """The PJRT plugin that is to be loaded in libtpu's place; None where libtpu is."""
    named = environ.get(LIBRARY)
    return None if not named or Path(named).name.startswith("libtpu") else Path(named)


def attached(pci: Path = PCI) -> list[str]:
    """PCI device ids of the TPU chips that are attached to this host."""
    found = []
    for device in pci.glob("*"):
        try:
            vendor = (device / "vendor").read_text().strip()
            kind = (device / "device").read_text().strip()
        except OSError:
            continue
        if vendor == GOOGLE and kind in TPU_DEVICES:
            found.append(kind)
    return found


def tpu_devices(
    pci: Path = PCI,
    environ: Mapping[str, str] = os.environ,
    metadata: Callable[[], Mapping[str, str]] = tpu_env,
) -> int | None:
    """PJRT devices of a run that is started here: those of its slice, on all hosts, and slices.

    None for a plugin that is not libtpu, whose devices it alone knows.
    """
    if plugin(environ) is not None:
        return None
    chips = attached(pci)
    if not chips:
        return 0
    known = environ if environ.get("TPU_SKIP_MDS_QUERY") else {**metadata(), **environ}
    bounds = [next((known[n] for n in names if known.get(n)), None) for names in BOUNDS]
    visible = next((environ[name] for name in VISIBLE if environ.get(name)), None)
    if None not in bounds:
        count = math.prod(int(size) for text in bounds for size in str(text).split(","))
    else:
        count = len(chips if visible is None else visible.split(","))
    return count * TPU_DEVICES[chips[0]] * int(known.get("MEGASCALE_NUM_SLICES") or 1)


def devices_of_type(accelerator_type: str) -> int | None:
    """PJRT devices of one slice of an accelerator type, None for one that is not known.

    >>> devices_of_type("v5litepod-16"), devices_of_type("v5p-16")
    (16, 8)
    """
    family, _, size = accelerator_type.lower().partition("-")
    if family not in KINDS or not size.isdecimal():
        return None
    return int(size) // 2 if family in MEGACORE else int(size)


def why_no_tpu(pci: Path = PCI, environ: Mapping[str, str] = os.environ) -> str | None:
    """Why nothing can run on a TPU here; None if something can."""
    named = environ.get(LIBRARY)
    if named and not Path(named).is_file():
        return (
            f"{LIBRARY}={named} is not a file: name a PJRT plugin, or leave the variable out for "
            "the libtpu of the engine's interpreter"
        )
    if plugin(environ) is not None or attached(pci):
        return None
    return (
        f"this machine has no TPU: no PCI device of vendor {GOOGLE} is in {pci}, and {LIBRARY} "
        "names no other PJRT plugin. Run on a TPU VM; the CPU mesh is what runs elsewhere (-m cpu)"
    )


def why_busy(
    lock: Path = LIBTPU_LOCKFILE,
    proc: Path = Path("/proc"),
    environ: Mapping[str, str] = os.environ,
) -> str | None:
    """Who has this host's TPU, so that libtpu would refuse to start; None if nobody has."""
    if plugin(environ) is not None:
        return None
    for process, path in _open_chips(proc):
        return f"process {process} has {path} open: end it, or wait for it, and run again"
    # A process that asks for some of the chips, or is told to, does without the lock.
    if environ.get("ALLOW_MULTIPLE_LIBTPU_LOAD") or environ.get("TPU_CHIPS_PER_PROCESS_BOUNDS"):
        return None
    if _can_lock(lock):
        return None
    return (
        f"{lock} is taken: another process has the TPU, or had it as another user. End it (`sudo "
        f"lsof -w {lock} /dev/accel* /dev/vfio/*` names it); where there is none, `sudo rm {lock}`"
    )


def why_undriven(
    python: Path, packages: Mapping[str, str], environ: Mapping[str, str] = os.environ
) -> str | None:
    """Why an interpreter's torch_xla cannot drive a TPU; None where it can."""
    if environ.get(LIBRARY):
        return None  # as the user says
    wanted = _wanted_libtpu(python, packages.get("torch-xla", ""))
    found = packages.get("libtpu")
    if found is not None and (wanted is None or found == wanted):
        return None
    has = "no libtpu" if found is None else f"libtpu {found}"
    needed = "one" if wanted is None else f"libtpu {wanted}"
    pin = "libtpu" if wanted is None else f"libtpu=={wanted}"
    return (
        f"{python} has {has}, and its torch_xla {packages.get('torch-xla')} needs {needed}: "
        f"install {pin} there, or name a library by {LIBRARY}"
    )


def _wanted_libtpu(python: Path, torch_xla: str) -> str | None:
    """The libtpu that a torch_xla is released with, by its own requirements (extra `tpu`)."""
    pattern = f"lib/python*/site-packages/torch_xla-{torch_xla}.dist-info/METADATA"
    for metadata in python.parent.parent.glob(pattern):
        pinned = re.search(r"^Requires-Dist: libtpu==([^\s;]+)", metadata.read_text(), re.M)
        return None if pinned is None else pinned[1]
    return None


def _open_chips(proc: Path) -> Iterator[tuple[str, str]]:
    """Processes with a chip's device file open, as far as this user may look."""
    for link in proc.glob("[0-9]*/fd/*"):
        try:
            path = os.readlink(link)
        except OSError:
            continue
        if re.fullmatch(r"/dev/(accel|vfio/)\d+", path):
            yield link.parents[1].name, path


def _can_lock(lock: Path) -> bool:
    """Whether the file is not there, or can be locked by this user, as libtpu would."""
    try:
        with lock.open("r+") as stream:
            fcntl.lockf(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except FileNotFoundError:
        return True
    except OSError:  # another user's, or locked
        return False
    return True


def environment(devices: int, fast_compile: bool, inherited: Mapping[str, str]) -> dict[str, str]:
    """Whatever chips the VM has. Never run on a chip."""
    return {"PJRT_DEVICE": PJRT}


def is_tpu(attributes: Mapping[str, Any]) -> bool:
    """A TPU has a place on its slice (`coords`) and in its chip (`core_on_chip`)."""
    return "coords" in attributes and "core_on_chip" in attributes


def kind_of(attributes: Mapping[str, Any], accelerator_type: str | None) -> str:
    """The kind by the VM's accelerator type, where the device is a TPU by its own attributes.

    Another device, whose PJRT plugin is loaded in libtpu's place, is called by the attributes that
    it has. Nothing is made up: an accelerator type that is not known is told as it is.

    >>> kind_of({"coords": [0, 0, 0], "core_on_chip": 0}, "v5litepod-16")
    'TPU v5e'
    """
    if is_tpu(attributes):
        if not accelerator_type:
            return "TPU of unknown type"
        family = accelerator_type.partition("-")[0]
        return KINDS.get(family.lower(), f"TPU {family}")
    own = {k: v for k, v in sorted(attributes.items()) if k != "name" and isinstance(v, str)}
    known = ", ".join(f"{key} {value}" for key, value in own.items())
    return f"PJRT plugin ({known or 'without attributes'})"


DEVICE = Device(
    name="tpu",
    title="TPU chips",
    pjrt=PJRT,
    environment=environment,
    count=tpu_devices,
    missing=why_no_tpu,
    busy=why_busy,
    undriven=why_undriven,
    of_type=devices_of_type,
    shared=False,
    kernels=True,
    # xla::PrecisionConfig::DEFAULT; torch_xla.backends.set_mat_mul_precision asks for more.
    matmul_precision="bfloat16",
    kind_of=kind_of,
    # The smallest that three launches a side confirm nearly always where launches differ by 0.6 %,
    # and six where they differ by 1 %, as on a quiet CPU mesh (docs/findings/step-time.md). By the
    # clock of a TPU they should differ by less; that was never measured.
    step_time=0.03,
    # From the environment or the VM's metadata, as torch_xla itself finds it to load libtpu.
    accelerator_type="torch_xla._internal.tpu:get_tpu_type",
    # SparseCores have planes of their own ("/device:TPU:0 SparseCore 0"): they do not run the step.
    planes=re.compile(r"/device:TPU:\d+"),
    plugin=plugin,
    is_own=is_tpu,
    signs=(
        # In libtpu 0.0.21, and as users saw them: jax-ml/jax#10192, google/gvisor#11545.
        Sign(
            (
                re.compile(
                    r"TPU is already in use by|libtpu\.so already in use"
                    r"|libtpu multi-process lockfile"
                    r"|open\(/dev/(vfio|accel)\S*\): Device or resource busy"
                ),
            ),
            BUSY,
            "another process has the TPU: `sudo lsof -w /dev/accel* /dev/vfio/*` names it. End it, "
            "or wait for it, and run again",
        ),
        # Memory that is gone before this process has asked for any is somebody else's.
        Sign(
            (
                re.compile("RESOURCE_EXHAUSTED"),
                re.compile(
                    r"TPU initialization failed|Failed to initialize TPU system"
                    r"|InitializePjRt|PJRT_Client_Create"
                ),
            ),
            BUSY,
            "the device had no memory left before the run used any: another process has it. End "
            "it, or wait for it, and run again",
        ),
        # libtpu's session master, of a slice of which it lost a chip or a host. Not the
        # coordination service's "heartbeat timeout": a trainer that crashes on another host gives
        # that too.
        Sign(
            (
                re.compile(
                    r"SLICE_FAILURE_(CHIP_DRIVER_ERROR|WORKER_UNAVAILABLE|FLAPPING_TASK_ERROR"
                    r"|INIT_ERROR)"
                    r"|Slice health check failed"
                ),
            ),
            GONE,
            "a chip or a host of the slice was lost while it was in use: run again on a healthy "
            "slice",
        ),
    ),
    chips=CHIPS,
)
