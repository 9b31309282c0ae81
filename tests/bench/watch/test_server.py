"""The page's server: the stream of events, and requests that it refuses."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import aiohttp
import pytest
from aiohttp.test_utils import TestClient, TestServer

from bench.watch.server import Watch
from bench.watch.unwatched import lines_of_log

Write = Callable[[bytes], None]
Client = TestClient[aiohttp.web.Request, aiohttp.web.Application]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "events.jsonl"


@pytest.fixture
def write(path: Path) -> Write:
    """Appends to the file of events."""

    def append(data: bytes) -> None:
        with path.open("ab") as file:
            file.write(data)

    return append


@pytest.fixture
async def watch(path: Path) -> Watch:
    return Watch(path)


@pytest.fixture
async def client(watch: Watch) -> AsyncIterator[Client]:
    async with TestClient(TestServer(watch.app(), host="127.0.0.1")) as client:
        yield client
        watch.over.set()


async def next_event(response: aiohttp.ClientResponse) -> dict[str, str]:
    """The fields of the next server-sent event."""
    fields = {}
    while line := (await response.content.readline()).decode().rstrip("\n"):
        name, _, value = line.partition(": ")
        fields[name] = value
    return fields


async def test_the_stream_has_what_was_and_then_what_comes(client: Client, write: Write, watch: Watch) -> None:
    write(b'{"kind":"run"}\n{"kind":"started"}\n{"kind":"hal')
    async with client.get("/events") as response:
        assert response.content_type == "text/event-stream"
        assert await next_event(response) == {"id": "15", "data": '{"kind":"run"}'}
        assert await next_event(response) == {"id": "34", "data": '{"kind":"started"}'}
        write(b'f"}\n')
        assert await next_event(response) == {"id": "50", "data": '{"kind":"half"}'}
        watch.over.set()
        assert await next_event(response) == {"event": "over", "data": ""}
        assert await response.content.read() == b""


async def test_a_page_that_comes_back_gets_what_it_has_not(client: Client, write: Write) -> None:
    write(b'{"kind":"run"}\n{"kind":"started"}\n')
    async with client.get("/events", headers={"Last-Event-ID": "15"}) as response:
        assert await next_event(response) == {"id": "34", "data": '{"kind":"started"}'}


async def test_a_page_may_be_opened_before_the_first_event(client: Client, write: Write) -> None:
    async with client.get("/events") as response:
        write(b'{"kind":"run"}\n')
        assert (await next_event(response))["data"] == '{"kind":"run"}'


async def test_the_last_events_reach_the_page_when_the_run_ends(client: Client, write: Write, watch: Watch) -> None:
    async with client.get("/events") as response:
        write(b'{"kind":"end"}\n')
        watch.over.set()
        assert (await next_event(response))["data"] == '{"kind":"end"}'
        assert (await next_event(response))["event"] == "over"


async def test_of_a_run_that_was_killed_no_event_will_follow(path: Path, write: Write) -> None:
    write(b'{"kind":"run"}\n')
    running = iter([True, False])
    watch = Watch(path, ended=lambda: not next(running))
    async with TestClient(TestServer(watch.app(), host="127.0.0.1")) as client:
        async with client.get("/events") as response:
            assert (await next_event(response))["data"] == '{"kind":"run"}'
            assert (await next_event(response))["event"] == "over"
        async with client.get("/") as response:
            assert response.status == 200
    assert not watch.over.is_set()


@pytest.mark.parametrize("name", ["/", "/watch.css", "/watch.js"])
async def test_the_page_loads_nothing_from_elsewhere(client: Client, name: str) -> None:
    async with client.get(name) as response:
        assert response.status == 200
        text = await response.text()
        policy = dict(part.split(" ", 1) for part in response.headers["Content-Security-Policy"].split("; "))
    assert policy["default-src"] == "'none'"
    assert policy["script-src"] == policy["style-src"] == policy["connect-src"] == "'self'"
    assert "http" not in text.replace("http://www.w3.org/2000/svg", "")
    assert not {"innerHTML", "eval(", " style=", " onclick="} & {
        word for word in ("innerHTML", "eval(") if word in text
    }


@pytest.mark.parametrize(
    "headers",
    [
        {"Host": "attacker.example"},
        {"Host": "127.0.0.1"},
        {"Host": "127.0.0.1:1"},
        {"Origin": "http://attacker.example"},
        {"Origin": "null"},
    ],
)
async def test_requests_of_others_are_refused(client: Client, write: Write, headers: dict[str, str]) -> None:
    write(b'{"kind":"run"}\n')
    for name in ("/", "/events"):
        async with client.get(name, headers=headers) as response:
            assert response.status == 403
            assert "run" not in await response.text()


async def test_nothing_else_is_served_and_nothing_is_taken(client: Client) -> None:
    for name in ("/events.jsonl", "/../pyproject.toml", "/watch.html", "/page/watch.js"):
        async with client.get(name) as response:
            assert response.status == 404
    async with client.post("/", data=b"x") as response:
        assert response.status == 405


def test_a_run_that_was_not_watched_is_shown_by_its_log(tmp_path: Path) -> None:
    (tmp_path / "run.log").write_text(
        "2026-11-30T10:00:00Z INFO bench.execution.runner: run toy-1 started, 2 cases to run, scale smoke\n"
        "2026-11-30T10:00:01Z INFO bench.execution.progress: case started: toy/a, b seed 0\n"
        "2026-11-30T10:00:03Z WARNING py.warnings: careful\n"
        "  of something\n"
        "2026-11-30T10:00:04Z INFO bench.execution.progress: case ended: toy/a, b seed 0, 3.0 s\n"
        "2026-11-30T10:00:05Z INFO bench.execution.runner: run ended with exit code 3\n"
    )
    found = [json.loads(line) for line in lines_of_log(tmp_path).splitlines()]
    told = [event for event in found if event["kind"] != "log"]
    assert [event["kind"] for event in told] == ["run", "started", "ended", "end"]
    assert (told[0]["name"], told[0]["cases"], told[2]["case"], told[2]["seconds"]) == (
        "toy-1",
        2,
        "toy/a, b seed 0",
        3.0,
    )
    assert told[3]["exit_code"] == 3
    assert told[3]["at"] - told[0]["at"] == 5.0
    assert [event["level"] for event in found if event["kind"] == "log"] == ["info", "info", "warning", "info", "info"]


async def test_kept_lines_are_streamed_where_there_is_no_file(path: Path) -> None:
    watch = Watch(path, b'{"kind":"run"}\n')
    async with TestClient(TestServer(watch.app(), host="127.0.0.1")) as client, client.get("/events") as response:
        assert (await next_event(response))["data"] == '{"kind":"run"}'
        watch.over.set()
        await asyncio.wait_for(next_event(response), 30)
