"""Which namespaces count as left by a killed run, by their names alone."""

import os
from pathlib import Path

import pytest

from netem.kernel import namespace_owner


def test_a_namespace_of_another_pid_namespace_is_nobody_s_to_remove(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(namespace_owner, "FOLDER", tmp_path)
    here, dead = namespace_owner.pid_namespace(), 1 << 30  # a process id that no kernel gives
    started = Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19]
    left = f"splitmec-{dead}-{started}-{here}-0-ue"
    others = [
        f"splitmec-{dead}-{started}-{here + 1}-0-ue",  # in a container, where its owner lives
        f"splitmec-{os.getpid()}-{started}-{here}-0-ue",
        f"splitmec-{dead}-{started}-0-ue",
        "mine",
    ]
    for name in (left, *others):
        (tmp_path / name).touch()
    assert namespace_owner.orphaned() == [str(tmp_path / left)]
