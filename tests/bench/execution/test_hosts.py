"""``bench run --hosts``: what hosts cannot do is told with file, line and key, and a run on others goes on nowhere."""

from pathlib import Path

import msgspec
import pytest

from bench.execution import environment as conditions
from bench.execution.folder import open_output
from bench.execution.plan import Options, RunOutcome, make_plan
from bench.live.hosts.document import HostMeasurement
from bench.suite.document import InputError

SUITE = """name: mine
dataset: digits
experiments:
  - name: chain
    run: pipeline.chain
    parameters:
      model: nodes.zoo.small_cnn:small_cnn
      nodes: 3
      link: {trace: mine.csv}
  - name: here
    run: pipeline.chain
    mode: in-process
    parameters:
      model: nodes.zoo.small_cnn:small_cnn
      nodes: 5
  - name: federation
    run: edge_sl.course
    parameters:
      model: nodes.zoo.small_cnn:small_cnn
      clients: 2
      clients_per_process: 2
  - name: handover
    run: adaptive.handover
    dataset: none
    parameters:
      model: nodes.zoo.small_cnn:small_cnn
      model_compute_s: {ue: 0.2, mec: 0.1, cloud: 0.1}
      links:
        ue-mec: {rate_bps: 20e6, delay_s: 0.001}
        mec-cloud: {rate_bps: 20e6, delay_s: 0.001}
        ue-cloud: {rate_bps: 20e6, delay_s: 0.001}
      before: [ue, mec, cloud]
      after: [ue, cloud]
      dies: mec
  - name: links
    run: links.by_name
    dataset: none
"""
HOSTS = "nodes:\n  ue: {address: '127.0.0.1:4001', start: ssh, command: bench}\n"
MEC = "  mec: {address: '127.0.0.1:4002', start: ssh, command: bench}\n"
CLOUD = "  cloud: {address: '127.0.0.1:4003', start: ssh, command: bench}\n"


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    Path("mine.yaml").write_text(SUITE)
    Path("mine.csv").write_text("time_s,rate_bps\n0,1e6\n1,1e6\n")
    Path("hosts.yaml").write_text(HOSTS + MEC)
    return tmp_path


def options(*only: str, **more) -> Options:
    return Options(suites=("mine.yaml",), only=only, hosts=Path("hosts.yaml"), **more)


def test_what_hosts_cannot_do_is_told_with_file_line_and_key(folder):
    with pytest.raises(InputError) as refused:
        make_plan(options())
    assert [line.removeprefix("mine.yaml:").partition(";")[0] for line in refused.value.lines] == [
        "8: experiments[0].parameters.nodes: needs node cloud, which the file of --hosts has not",
        "9: experiments[0].parameters.link.trace: hosts do not have the file mine.csv",
        "20: experiments[2].parameters.clients: needs node client1, client2, which the file of --hosts has not",
        "18: experiments[2].parameters.edges: needs node edge1, which the file of --hosts has not",
        "21: experiments[2].parameters.clients_per_process: each client has a machine of its own",
        "32: experiments[3].parameters.before: needs node cloud, which the file of --hosts has not",
        "33: experiments[3].parameters.after: needs node cloud, which the file of --hosts has not",
        "34: experiments[3].parameters.dies: a run cannot kill a node on another machine",
    ]


def test_experiments_in_process_need_no_host_and_those_of_this_machine_say_so(folder):
    plan = make_plan(options("here", "links"))
    assert plan.hosts is not None
    assert plan.hosts.addresses == {"ue": "127.0.0.1:4001", "mec": "127.0.0.1:4002"}
    assert ["measures this machine" in note for note in plan.notes] == [True]


def test_hosts_are_a_condition_of_a_run_and_what_was_measured_of_them_is_kept(folder):
    run = options("here", out=Path("out"))
    plan = make_plan(run)
    with open_output(plan) as output:
        plan.hosts.measured["ue"] = HostMeasurement(3.5, 0.001, {"mec": 0.02})
        output.write_environment(RunOutcome(output.folder))
    kept = msgspec.json.decode(Path("out/environment.json").read_bytes())
    assert kept["hosts"] == plan.hosts.addresses
    assert kept["measured_hosts"]["ue"] == {
        "clock_offset_s": 3.5,
        "clock_uncertainty_s": 0.001,
        "round_trip_s": {"mec": 0.02},
    }
    again = msgspec.structs.replace(run, resume=True)
    with open_output(make_plan(again)) as output:
        assert output.environment["measured_hosts"] == kept["measured_hosts"]
    Path("hosts.yaml").write_text(HOSTS + MEC + CLOUD)
    for other in (None, Path("hosts.yaml")):
        elsewhere = make_plan(msgspec.structs.replace(again, hosts=other))
        with pytest.raises(InputError, match=r"hosts was .* is now"), open_output(elsewhere):
            pass


def test_the_kernel_shapes_no_link_between_hosts(folder, monkeypatch):
    monkeypatch.setattr(conditions, "shaping", lambda choice: "kernel")
    with pytest.raises(InputError, match="--shaping: kernel: links between hosts are emulated"):
        make_plan(options("here", shaping="kernel"))
