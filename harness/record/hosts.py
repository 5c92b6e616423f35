"""Whether the hosts of one run agree, from its Record."""

from __future__ import annotations

from harness.record.evidence import Record


def host_findings(run: Record) -> tuple[str, ...]:
    """Why the Record of a run on several hosts cannot be taken for what all of them did.

    Empty for a run on one host, and where all hosts agree.
    """
    processes = run.observed.processes
    hosts = run.manifest.hosts
    if hosts is None:
        if processes in (None, 1):
            return ()
        return (f"the run had {processes} hosts, and this is the Record of only one of them",)
    found = list(hosts.disagreements)
    if processes not in (None, hosts.expected):
        found.append(f"the trainer saw {processes} hosts, the launcher {hosts.expected}")
    return tuple(found)
