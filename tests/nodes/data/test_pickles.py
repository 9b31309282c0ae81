"""Pickles as Python 2 and 3 write them, read as pickle reads them; crafted ones run nothing and take no memory."""

import os
import pickle
import struct
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nodes.data.pickles import unpickle
from nodes.errors import DataError

PIXELS = np.arange(6, dtype=np.uint8).reshape(2, 3)
# {"data": PIXELS, "labels": [5, 7]} as Python 2 and its numpy wrote it, by hand: protocol 2, texts as byte strings.
PYTHON2 = (
    b"\x80\x02}q\x00(U\x04dataq\x01cnumpy.core.multiarray\n_reconstruct\nq\x02cnumpy\nndarray\nq\x03K\x00\x85q\x04U\x01bq\x05"
    b"\x87q\x06Rq\x07(K\x01K\x02K\x03\x86q\x08cnumpy\ndtype\nq\x09U\x02u1q\x0aK\x00K\x01\x87q\x0bRq\x0c(K\x03U\x01|q\x0dNNN"
    b"J\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tq\x0eb\x89T\x06\x00\x00\x00\x00\x01\x02\x03\x04\x05q\x0ftq\x10b"
    b"U\x06labelsq\x11]q\x12(K\x05K\x07eu."
)
plain = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.binary(max_size=300), st.text(max_size=300)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=5),
        st.lists(inner, max_size=5).map(tuple),
        st.dictionaries(st.one_of(st.binary(), st.text(), st.integers()), inner, max_size=5),
    ),
    max_leaves=20,
)


def test_a_pickle_of_python_2() -> None:
    found = unpickle(PYTHON2)
    assert found[b"labels"] == pickle.loads(PYTHON2, encoding="bytes")[b"labels"] == [5, 7]
    assert (found[b"data"] == PIXELS).all()


@given(plain, st.integers(0, 5))
def test_plain_data_is_read_as_pickle_reads_it(value: object, protocol: int) -> None:
    assert unpickle(pickle.dumps(value, protocol)) == value


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("kind", ["u1", "i1", "<i4", "<i8"])
@pytest.mark.parametrize("order", ["C", "F"])
def test_arrays_are_read_as_pickle_reads_them(protocol: int, kind: str, order: str) -> None:
    array = np.asarray(np.arange(-3, 9).reshape(3, 4).astype(kind), order=order)
    found = unpickle(pickle.dumps({"array": array, "again": array}, protocol))
    assert (found["array"] == array).all()
    assert found["again"].dtype == array.dtype
    assert (unpickle(pickle.dumps(array, protocol)) == array).all()


class Runs:
    """Unpickled, it makes the folder ``path``."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("protocol", range(6))
def test_a_crafted_pickle_runs_nothing(tmp_path: Path, protocol: int) -> None:
    crafted = pickle.dumps({b"data": PIXELS, b"labels": [Runs(tmp_path / "made")]}, protocol)
    with pytest.raises(DataError, match=r"the pickle names (posix|nt)\.mkdir; expected plain data and arrays"):
        unpickle(crafted)
    assert not (tmp_path / "made").exists()
    pickle.loads(crafted)
    assert (tmp_path / "made").exists()


TEXT = b"X" + struct.pack("<I", 1000) + bytes(1000)
REPEATS = b"h\x00h\x01X\x06\x00\x00\x00latin1\x86R" * 50
NDARRAY = b"\x80\x02cnumpy\nndarray\n"


@pytest.mark.parametrize(
    ("crafted", "message"),
    [
        (b"\x80\x02(c_codecs\nencode\nq\x00" + TEXT + b"q\x01" + REPEATS + b"t.", "makes more bytes than it has"),
        (NDARRAY + b"J\xff\xff\xff\x7f\x85\x85R.", "the pickle has a call"),  # 2 GiB
        (b"\x80\x04\x8e" + struct.pack("<Q", 1 << 40) + b"abc.", "not a complete pickle"),
        (PYTHON2[:-40], "not a complete pickle"),
        (PYTHON2.replace(b"K\x02K\x03\x86", b"K\x02K\x7f\x86"), r"an array \(2, 127\) of 6 bytes; they must agree"),
        (PYTHON2.replace(b"U\x02u1", b"U\x02O8"), "an array of another type"),
        (PYTHON2.replace(b"U\x01|", b"U\x01>"), "an array in big-endian order"),
        (b"(cos\nsystem\nU\x01xo.", r"the pickle names os\.system"),
        (b"(U\x01xios\nsystem\n.", "the pickle has INST"),
        (b"Pid\n.", "the pickle has PERSID"),
        (b"\x80\x02\x82\x01.", "the pickle has EXT1"),
        (pickle.dumps(1.5), "the pickle has BINFLOAT"),
        (pickle.dumps({1, 2}), "the pickle has EMPTY_SET"),
        (b"\x80\x02]K\x01K\x02s.", "not a complete pickle"),
        (b"\x80\x02cnumpy\nndarray\n.", "the pickle has numpy ndarray by itself"),
        (b"\x80\x02]cnumpy\nndarray\na.", "the pickle has numpy ndarray by itself"),
        (b"\x80\x02K\x01(0.", "the pickle has POP"),
        (b"\x80\x02K\x01(\x86.", "not a complete pickle"),
        (b"", "not a complete pickle"),
    ],
)
def test_crafted_or_damaged_pickles_are_refused(crafted: bytes, message: str) -> None:
    with pytest.raises(DataError, match=message):
        unpickle(crafted)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of escapes in texts of protocol 0
@given(st.binary(max_size=60), st.integers(0, len(PYTHON2) - 2), st.binary(min_size=1, max_size=3))
def test_any_bytes_are_read_or_refused(data: bytes, place: int, changed: bytes) -> None:
    for crafted in (data, b"\x80\x02" + data + b".", PYTHON2[:place] + changed + PYTHON2[place + len(changed) :]):
        with suppress(DataError):
            assert type(unpickle(crafted)).__module__ in ("builtins", "numpy")
