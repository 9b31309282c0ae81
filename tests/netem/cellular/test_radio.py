"""Friis by hand, tables and peak rates against published values."""

import math

import numpy as np
import pytest

from netem.cellular.radio import CQI_EFFICIENCY, MCS_EFFICIENCY, MMWAVE, SUB6, cqi, data_rate_bps, mcs, path_loss_db


def test_path_loss_and_snr_by_hand():
    # At 28 GHz the wavelength is 10.71 mm; 4 pi 100 m / 10.71 mm = 117,368, of which 20 log10 is 101.39 dB.
    assert path_loss_db(100, 28e9) == pytest.approx(101.39, abs=0.01)
    # The formula in its usual form: 32.45 + 20 log10(f in MHz) + 20 log10(d in km).
    for distance_m, frequency_hz in ((10, 700e6), (250, 3.5e9), (1000, 28e9)):
        usual = 32.45 + 20 * math.log10(frequency_hz / 1e6) + 20 * math.log10(distance_m / 1e3)
        assert path_loss_db(distance_m, frequency_hz) == pytest.approx(usual, abs=0.01)
    assert path_loss_db(400, 28e9) - path_loss_db(200, 28e9) == pytest.approx(6.0206, abs=1e-4)
    # 132 blocks of 12 x 120 kHz are 190.08 MHz: -174 + 82.79 + 7 = -84.21 dBm of noise; 40 - 101.39 + 84.21.
    assert MMWAVE.noise_dbm == pytest.approx(-84.21, abs=0.01)
    assert MMWAVE.snr_db(100) == pytest.approx(22.82, abs=0.01)


def test_cqi_by_snr_in_tables_with_the_standard_s_efficiencies_and_the_mcs_of_its_code():
    published = [0, 0.1523, 0.2344, 0.3770, 0.6016, 0.8770, 1.1758, 1.4766, 1.9141, 2.4063, 2.7305, 3.3223, 3.9023]
    assert pytest.approx([*published, 4.5234, 5.1152, 5.5547], abs=5e-5) == CQI_EFFICIENCY
    assert len(MCS_EFFICIENCY) == 29
    for index, efficiency in {0: 0.2344, 9: 1.3262, 10: 1.3281, 16: 2.5703, 17: 2.5664, 28: 5.5547}.items():
        assert MCS_EFFICIENCY[index] == pytest.approx(efficiency, abs=5e-5)
    # From CQI 2 on the CQI table's codes at even places are MCS of the same modulation and rate.
    assert mcs(range(16)).tolist() == [-1, 0, 0, 2, 4, 6, 8, 11, 13, 15, 18, 20, 22, 24, 26, 28]
    assert cqi([-30.0, 60.0]).tolist() == [0, 15]
    assert (np.diff(cqi(np.arange(-20, 40, 0.1))) >= 0).all()
    # CQI 15 carries 5.5547 bits: 10 log10(2^5.5547 - 1) = 16.63 dB by Shannon, and 3 dB more.
    assert cqi([19.62, 19.65]).tolist() == [14, 15]


def test_published_peak_rates_and_table_i_s_capacity_which_falls_with_distance():
    # The usual example of TS 38.306's formula: 100 MHz at 30 kHz, 256-QAM, 4 layers, downlink FR1: 2.337 Gbit/s.
    assert data_rate_bps(8 * 948 / 1024, 273, 30e3, 0.14, layers=4) == pytest.approx(2.337e9, rel=1e-4)
    # 20 MHz at 30 kHz, 8 bits a symbol uncoded, 4 layers: 548.4 Mbit/s before the overhead, 472 with it.
    assert data_rate_bps(8, 51, 30e3, 0.14, layers=4) == pytest.approx(471.6e6, rel=1e-3)
    assert MMWAVE.rate_bps(50) == pytest.approx(200e6, rel=1e-3)
    assert SUB6.rate_bps(700) == pytest.approx(50e6, rel=1e-3)
    rates = MMWAVE.rate_bps([100, 200, 300, 600, 1e5])
    assert (np.diff(rates) < 0).all()
    assert rates[-1] == 0
    # 200 m: 16.80 dB, less 3 dB grants 4.64 bits, so CQI 13 (4.5234 of 5.5547 bits).
    assert rates[1] == pytest.approx(200e6 * 4.5234 / 5.5547, rel=1e-3)
