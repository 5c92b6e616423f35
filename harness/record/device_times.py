"""What the devices of several hosts took, as one: each host profiles its own."""

from __future__ import annotations

from collections.abc import Mapping

from harness.record.evidence import DeviceTimes


def joined(hosts: Mapping[str, DeviceTimes]) -> DeviceTimes:
    """The step times of all devices of a run, by the names of its hosts; at least one host.

    Hosts number their devices alike, so that a device is named with its host.

    >>> a, b = (DeviceTimes("step", {"/device:TPU:0": (t,)}, (), ()) for t in (0.25, 0.5))
    >>> joined({"host-0": a, "host-1": b}).seconds
    {'host-0/device:TPU:0': (0.25,), 'host-1/device:TPU:0': (0.5,)}
    """
    return DeviceTimes(
        next(iter(hosts.values())).module,
        {
            f"{h}{device}": gaps
            for h, times in hosts.items()
            for device, gaps in times.seconds.items()
        },
        tuple(f"{h}{device}" for h, times in hosts.items() for device in times.idle_devices),
        tuple(f"{h}: {text}" for h, times in hosts.items() for text in times.complaints),
    )
