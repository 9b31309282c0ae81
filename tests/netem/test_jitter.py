"""Jitter distributions against tc's own tables, where iproute2 is installed, and closed forms."""

from pathlib import Path
from statistics import NormalDist, mean, stdev
from typing import get_args

import pytest

from netem.jitter import CUT, Distribution, quantile

TABLES = sorted(path for folder in ("/usr/lib", "/usr/share") for path in Path(folder).glob("**/tc/normal.dist"))
SHARES = [(number + 0.5) / 4096 for number in range(4096)]


@pytest.mark.skipif(not TABLES, reason="iproute2's tables are not installed")
@pytest.mark.parametrize("name", ["normal", "pareto", "paretonormal"])
def test_quantiles_are_those_of_tc_s_tables(name):
    lines = TABLES[0].with_name(f"{name}.dist").read_text().splitlines()
    table = sorted(int(number) / 8192 for line in lines if not line.startswith("#") for number in line.split())
    ours = [quantile(name, (index + 0.5) / len(table)) for index in range(len(table))]
    # At both ends tc's tables are at slightly different quantiles; that concerns half a per cent of all draws.
    inner = slice(len(table) // 400, -len(table) // 400)
    assert ours[inner] == pytest.approx(table[inner], abs=0.06)
    assert mean(ours) == pytest.approx(mean(table), abs=0.002)


def test_closed_forms():
    assert quantile("normal", 0.975) == pytest.approx(1.959964, abs=1e-6)
    assert [quantile("uniform", u) for u in (0.0, 0.25, 1.0)] == [-1.0, -0.5, 1.0]
    assert quantile("pareto", 1 - 1 / 27) == pytest.approx(4 / 3 * (3 - 1.5))  # the 26/27 quantile of shape 3 is 3
    assert [quantile(name, 1.0) for name in ("normal", "pareto", "paretonormal")] == [CUT] * 3 == [4.0] * 3
    assert quantile("pareto", 0.0) == pytest.approx(-2 / 3)
    assert quantile("paretonormal", 0.5) == pytest.approx(0.75 * 4 / 3 * (2 ** (1 / 3) - 1.5))
    assert stdev(quantile("normal", share) for share in SHARES) == pytest.approx(1, abs=0.002)
    assert NormalDist().cdf(quantile("normal", 0.1)) == pytest.approx(0.1)


@pytest.mark.parametrize("name", get_args(Distribution))
def test_all_are_increasing_and_cut(name):
    drawn = [quantile(name, share) for share in SHARES]
    assert drawn == sorted(drawn)
    assert -CUT <= quantile(name, 0.0) <= drawn[0]
    assert drawn[-1] <= quantile(name, 1.0) <= CUT
