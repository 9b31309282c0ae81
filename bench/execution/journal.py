"""Journal of the recorded cases of a run: each is appended as a whole, so that a kill loses one at most.

``.cases.jsonl`` beside ``records.jsonl`` has a line for each case, with the length of ``records.jsonl`` after
that case. Whatever follows in either file was torn by a kill and is cut off.
"""

import errno
import os
import shutil
from collections.abc import Container, Iterable, Iterator
from contextlib import suppress
from pathlib import Path

import msgspec

from bench.suite.document import InputError
from bench.suite.schema import Case, key_of
from nodes.files import append
from reports.record import CaseValue, Record

RECORDS, CASES, REWRITE = "records.jsonl", ".cases.jsonl", ".rewrite"


class UnwritableError(RuntimeError):
    """The folder of a run cannot be written any more: nothing that is measured from now on would be kept."""

    def __init__(self, error: OSError) -> None:
        super().__init__(f"{error.filename}: {error.strerror}")


class Done(msgspec.Struct, frozen=True):
    """A recorded case."""

    suite: str
    experiment: str
    case: dict[str, CaseValue]
    seed: int
    sha256: str
    seconds: float
    records_bytes: int  # length of ``records.jsonl`` up to its last record
    definition: str = ""  # see Case; not in folders of version 0.2
    failure: str = ""  # why some of its measurements have no record; to run it again would change nothing

    @property
    def key(self) -> str:
        return key_of(self.suite, self.experiment, self.case, self.seed)


def cases_in(folder: Path) -> Iterator[tuple[Done, bytes]]:
    """The recorded cases of the run in ``folder`` with the lines of their records; changes nothing there."""
    path = folder / CASES
    if (folder / REWRITE).exists():
        raise InputError([f"{folder}: a run was killed here as it dropped cases; continue it by --resume first"])
    try:
        records = (folder / RECORDS).read_bytes()
        *lines, _torn = path.read_bytes().split(b"\n")
    except OSError as error:
        raise InputError([f"{error.filename}: {error.strerror}; give the output folder of `bench run`"]) from None
    begin = 0
    for number, line in enumerate(lines, start=1):
        try:
            done = msgspec.json.decode(line, type=Done)
        except msgspec.DecodeError as error:
            raise InputError([f"{path}:{number}: {error}"]) from None
        if done.records_bytes > len(records):
            raise InputError([f"{folder / RECORDS}:1: records: some are missing"])
        yield done, records[begin : done.records_bytes]
        begin = done.records_bytes


def write_cases(folder: Path, cases: Iterable[tuple[Done, bytes]]) -> None:
    """Write recorded ``cases`` into ``folder``, which has none."""
    records, lines = b"", b""
    for done, own in cases:
        records += own
        lines += _line(msgspec.structs.replace(done, records_bytes=len(records)))
    append(folder / RECORDS, records)
    append(folder / CASES, lines)


class Journal:
    """The recorded cases of the run in ``folder``, read at construction."""

    def __init__(self, folder: Path) -> None:
        self.records_path = folder / RECORDS
        self._cases_path = folder / CASES
        self.done: dict[str, Done] = {}
        self._cases_bytes = 0
        self._records_bytes = 0
        self._rewrite = folder / REWRITE
        self._finish_rewrite()
        self.records_path.touch()
        if self.records_path.stat().st_size and not self._cases_path.exists():
            raise InputError([f"{folder}: holds records but no {self._cases_path.name}; give another --out"])
        self._cases_path.touch()
        self._read()
        self._check_kept()
        self._cut()

    def drop(self, keys: Container[str]) -> None:
        """Take cases and their records out, both or, where this is killed, both when the journal is next read."""
        whole, begin = self.records_path.read_bytes(), 0
        records, cases = b"", b""
        for key, done in self.done.items():
            if key not in keys:
                records += whole[begin : done.records_bytes]
                cases += _line(msgspec.structs.replace(done, records_bytes=len(records)))
            begin = done.records_bytes
        unfinished = self._rewrite.with_suffix(".new")
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir()
        append(unfinished / self.records_path.name, records)
        append(unfinished / self._cases_path.name, cases)
        unfinished.rename(self._rewrite)
        self._finish_rewrite()
        self.done, self._cases_bytes, self._records_bytes = {}, 0, 0
        self._read()

    def _finish_rewrite(self) -> None:
        if self._rewrite.is_dir():
            for path in self._rewrite.iterdir():
                path.replace(self._rewrite.parent / path.name)
            self._rewrite.rmdir()

    def _read(self) -> None:
        *lines, _torn = self._cases_path.read_bytes().split(b"\n")
        for number, line in enumerate(lines, start=1):
            try:
                done = msgspec.json.decode(line, type=Done)
            except msgspec.DecodeError as error:
                raise InputError([f"{self._cases_path}:{number}: {error}; give another --out"]) from None
            self.done[done.key] = done
            self._cases_bytes += len(line) + 1
            self._records_bytes = done.records_bytes
        self._files = self._identities()

    def _check_kept(self) -> None:
        with self.records_path.open("rb") as file:
            kept = file.read(self._records_bytes)
        if len(kept) < self._records_bytes:
            raise InputError([f"{self.records_path}:1: records: some are missing; give another --out"])
        *lines, rest = kept.split(b"\n")
        decode = msgspec.json.Decoder(Record).decode
        for number, line in enumerate([*lines, rest] if rest else lines, start=1):
            try:
                decode(line)
            except msgspec.DecodeError as error:
                raise InputError([f"{self.records_path}:{number}: {error}; give another --out"]) from None

    def _cut(self) -> None:
        os.truncate(self.records_path, self._records_bytes)
        os.truncate(self._cases_path, self._cases_bytes)

    def _check_there(self) -> None:
        if self._identities() != self._files:
            raise FileExistsError(errno.EEXIST, "another file has taken its place", str(self.records_path))

    def _identities(self) -> list[tuple[int, int]]:
        files = (path.stat() for path in (self.records_path, self._cases_path))
        return [(file.st_dev, file.st_ino) for file in files]

    def add(self, case: Case, records: Iterable[Record], seconds: float, failure: str = "") -> None:
        """Record ``case`` as a whole: all of it is on the disk afterwards, or nothing where this raises.

        Raises UnwritableError, also if the files were moved, deleted or replaced: a new one would begin in the middle.
        """
        lines = b"".join(msgspec.json.encode(record) + b"\n" for record in records)
        suite, experiment = case.experiment.suite, case.experiment.spec.name
        length = self._records_bytes + len(lines)
        done = Done(suite, experiment, case.case, case.seed, case.sha256, seconds, length, case.definition, failure)
        line = _line(done)
        try:
            self._check_there()
            append(self.records_path, lines)
            append(self._cases_path, line)
        except BaseException as error:
            with suppress(OSError):  # it is cut when it is next read
                self._check_there()
                self._cut()
            if isinstance(error, OSError):
                raise UnwritableError(error) from error
            raise
        self.done[done.key] = done
        self._records_bytes, self._cases_bytes = done.records_bytes, self._cases_bytes + len(line)


def _line(done: Done) -> bytes:
    return msgspec.json.encode(done) + b"\n"
