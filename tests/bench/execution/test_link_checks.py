"""Links that those who are to shape them cannot make: told with file, line and key, before anything runs."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bench.execution import environment as conditions
from bench.execution.plan import misfits
from bench.experiments.hivemind.live_protocol import UpdateParameters
from bench.suite.parameter_types import ModelName
from netem.link import LinkProfile
from netem.profiles import Duplex
from reports.record import Mode, ShapingBackend

HALF, OVERTAKING = Duplex(half_duplex=True), Duplex(down=LinkProfile(delay_s=0.01, reorder=0.1))
FOLLOWED = Duplex(trace="5g-sub6", time_scale=0.1)  # changes after 10 ms
SUITE = """name: mine
dataset: digits
experiments:
  - name: chain
    run: pipeline.chain
    parameters:
      model: nodes.zoo.small_cnn:small_cnn
      nodes: 2
    grid:
      link:
        plain: wifi
        shared:
          up: {rate_bps: 1e6}
          half_duplex: true
  - name: virtual
    run: pipeline.chain
    mode: virtual
    parameters:
      model: nodes.zoo.small_cnn:small_cnn
      nodes: 2
      link: {half_duplex: true}
      devices:
        ue: {timing: {forward_s: 0.1}}
        cloud: {timing: {forward_s: 0.1}}
"""
Told = Callable[..., tuple[int, str]]


@pytest.mark.parametrize(
    ("link", "mode", "shaping", "key"),
    [
        (HALF, "live", "emulated", None),
        (HALF, "live", "kernel", ("links", 1, "half_duplex")),
        (HALF, "live", "tbf+emulated", ("links", 1, "half_duplex")),
        (HALF, "live", "none", None),
        (FOLLOWED, "live", "kernel", None),
        (OVERTAKING, "live", "kernel", None),
        (OVERTAKING, "live", "emulated", ("links", 1, "down")),
        (OVERTAKING, "live", "tbf+emulated", ("links", 1, "down")),
        (OVERTAKING, "virtual", "emulated", ("links", 1, "down")),
        (OVERTAKING, "in-process", "none", None),
    ],
)
def test_a_link_wherever_it_stands_is_held_against_who_shapes_it(
    link: Duplex, mode: Mode, shaping: ShapingBackend, key: tuple[str | int, ...] | None
) -> None:
    parameters = UpdateParameters(model=ModelName("nodes.zoo.small_cnn:small_cnn"), links=(Duplex(), link))
    assert [found for found, _ in misfits(parameters, mode, "none", shaping)] == ([] if key is None else [key])


@pytest.mark.parametrize(("shaping", "refused"), [("kernel", True), ("tbf+emulated", True), ("emulated", False)])
@pytest.mark.parametrize(
    ("trace", "told"),
    [
        ("1\n131\n131\n", "changes after 0.0001 s, and the kernel's links after 0.005 s; give --shaping emulated"),
        (
            "0 2.5\n1 0\n",
            "its rate is 0 at times, from which the kernel's links do not recover; give --shaping emulated",
        ),
    ],
)
def test_the_kernel_follows_neither_packets_nor_outages(
    folder: Path, trace: str, told: str, shaping: ShapingBackend, refused: bool
) -> None:
    (folder / "trace").write_text(trace)
    link = Duplex(trace=str(folder / "trace"))
    parameters = UpdateParameters(model=ModelName("nodes.zoo.small_cnn:small_cnn"), links=(link,))
    assert list(misfits(parameters, "live", "none", shaping)) == ([(("links", 0, "trace"), told)] if refused else [])


def test_a_half_duplex_link_of_the_kernel_s_is_unusable_input(folder: Path, told: Told, monkeypatch: Any) -> None:
    monkeypatch.setattr(conditions, "shaping", lambda choice: "tbf+emulated")
    (folder / "mine.yaml").write_text(SUITE)
    error = (
        "mine.yaml:14: experiments[0].grid.link.shared.half_duplex: the kernel's links have two directions of their"
        " own; give --shaping emulated\n"
    )
    assert told("run", "mine.yaml", "--shaping", "kernel", "--out", "out") == (2, error)
    assert not (folder / "out").exists()


def test_what_a_mode_lacks_is_unusable_input(folder: Path, told: Told) -> None:
    text = SUITE.replace("cloud: {timing: {forward_s: 0.1}}", "cloud: {slowdown: 2}")
    (folder / "mine.yaml").write_text(text + "      time_dilation: 3\n")
    code, error = told("validate", "mine.yaml")
    assert code == 2
    assert error.splitlines() == [
        "mine.yaml:24: experiments[1].parameters.devices.cloud: in virtual time a device needs a timing"
        " (at scale smoke)",
        "mine.yaml:25: experiments[1].parameters.time_dilation: only used in mode live; this one is"
        " virtual (at scale smoke)",
    ]
