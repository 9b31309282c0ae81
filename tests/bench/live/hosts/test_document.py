"""``hosts.yaml``: what is read, and every error with its line and key."""

from pathlib import Path

import pytest

from bench.live.hosts.document import TOKEN_VARIABLE, read_hosts
from bench.suite.document import InputError

TOKEN = "correct horse battery staple"


def written(folder: Path, text: str) -> Path:
    path = folder / "hosts.yaml"
    path.write_text(text)
    return path


def errors(path: Path) -> list[str]:
    with pytest.raises(InputError) as found:
        read_hosts(path)
    return [line.removeprefix(f"{path}:") for line in found.value.lines]


def test_nodes_by_hand_and_by_a_command_have_their_addresses_and_command_lines(tmp_path, monkeypatch):
    monkeypatch.setenv(TOKEN_VARIABLE, TOKEN)
    text = "nodes:\n  ue: {address: '[2001:db8::2]:4000', start: ssh, command: ssh 'pi@ue' bench}\n"
    hosts = read_hosts(written(tmp_path, f"{text}  mec: {{address: 10.0.0.3:4001}}\nwait_s: 5\n"), insecure=True)
    assert hosts.nodes["ue"].address == ("2001:db8::2", 4000)
    assert hosts.nodes["ue"].command == ("ssh", "pi@ue", "bench")
    assert (hosts.nodes["mec"].by_hand, hosts.wait_s) == ("bench node mec --host 10.0.0.3 --port 4001", 5)
    assert hosts.addresses == {"ue": "[2001:db8::2]:4000", "mec": "10.0.0.3:4001"}
    assert hosts.token == TOKEN
    assert TOKEN not in repr(hosts)


def test_where_no_node_is_started_by_hand_no_token_is_needed(tmp_path, monkeypatch):
    monkeypatch.delenv(TOKEN_VARIABLE, raising=False)
    path = written(tmp_path, "nodes:\n  ue: {address: 127.0.0.1:4000, start: ssh, command: bench}\n")
    assert read_hosts(path).token is None
    path.write_text("nodes:\n  ue: {address: 127.0.0.1:4000}\n")
    with pytest.raises(InputError, match="BENCH_TOKEN: needs at least 16"):
        read_hosts(path)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("ue: {address: 127.0.0.1}", "2: nodes.ue.address: got '127.0.0.1', expected host:port"),
        ("ue: {address: '127.0.0.1:0'}", "2: nodes.ue.address: got '127.0.0.1:0', expected"),
        ("ue: {address: '::1:40'}", "2: nodes.ue.address: got '::1:40', expected"),
        ("ue: {address: 127.0.0.1:40, start: ssh}", "2: nodes.ue.command: start: ssh needs a command"),
        ("ue: {address: 127.0.0.1:40, command: x}", "2: nodes.ue.command: only used with start: ssh"),
        ('ue: {address: 127.0.0.1:40, start: ssh, command: "ssh \'x"}', "2: nodes.ue.command: is no command line"),
        ("ue: {address: 127.0.0.1:40, port: 3}", "2: nodes.ue.port: "),
        ("'a b': {address: 127.0.0.1:40}", "2: nodes.a b: "),
        ("ue: {address: 10.0.0.2:40}", "2: nodes.ue.address: without tls only loopback addresses"),
        ("ue: {address: 127.0.0.1:40, tls: certs}", "2: nodes.ue.tls: only used where the runner has tls"),
        ("ue: {address: 127.0.0.1:40}\ntls: here", "2: nodes.ue: needs tls, the folder on its machine"),
        ("ue: {address: 10.0.0.2:40, tls: x}\ntls: gone", "3: tls: "),
        ("ue: {address: 127.0.0.1:40}\n  mec: {address: 127.0.0.1:40}", "3: nodes.mec.address: 127.0.0.1:40 is"),
    ],
)
def test_errors_name_line_and_key(text, told, tmp_path, monkeypatch):
    monkeypatch.setenv(TOKEN_VARIABLE, TOKEN)
    found = errors(written(tmp_path, f"nodes:\n  {text}\n"))[0]
    assert found.startswith(told)
