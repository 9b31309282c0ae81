"""Joules: of a power model, and of the kernel's counters, which return to zero."""

import pytest

from nodes.costs.energy import Radio, constant_power, rapl_counter


def test_a_power_model_is_power_times_time_and_a_faster_radio_spends_less_on_a_bit():
    times = iter([2.0, 5.0])
    joules = constant_power(4.0, lambda: next(times))
    assert -joules() + joules() == 12.0
    radio = Radio(base_w=2.0, w_per_bps=1e-8)
    assert radio.transfer_j(125_000, 1e6) == pytest.approx(1.0 * (2.0 + 0.01))
    assert radio.transfer_j(125_000, 1e8) == pytest.approx(0.01 * (2.0 + 1.0))


def zone(root, name: str, microjoules: int):
    folder = root / name
    folder.mkdir(exist_ok=True)
    (folder / "energy_uj").write_text(f"{microjoules}\n")
    (folder / "max_energy_range_uj").write_text("999999\n")


def test_counters_of_all_packages_are_added_and_their_returns_made_good(tmp_path):
    zone(tmp_path, "intel-rapl:0", 900_000)
    zone(tmp_path, "intel-rapl:1", 0)
    zone(tmp_path, "intel-rapl:0:0", 500)  # a part of package 0, counted in it
    joules = rapl_counter(tmp_path)
    before = joules()
    zone(tmp_path, "intel-rapl:0", 400_000)  # half a joule on, past the maximum
    zone(tmp_path, "intel-rapl:1", 250_000)
    zone(tmp_path, "intel-rapl:0:0", 900_000)
    assert joules() - before == pytest.approx(0.75)


def test_no_counter_where_none_can_be_read(tmp_path):
    assert rapl_counter(tmp_path) is None
    assert rapl_counter(tmp_path / "missing") is None
    (tmp_path / "intel-rapl:0").mkdir()
    assert rapl_counter(tmp_path) is None
