"""The server of the page that shows a run, while it lasts and afterwards, from the events in its folder.

It listens on 127.0.0.1 alone. Requests under another name are refused, since a name of an attacker may lead here, and
the page may load and reach nothing but this server. As a process of its own (``python -m bench.watch.server``) it takes
folder and port as a JSON line on standard input, says on standard output where it listens, and ends with its input.
"""

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from importlib import resources
from pathlib import Path

from aiohttp import web
from aiohttp.typedefs import Handler

from bench.events import FILE

HOST = "127.0.0.1"
POLL_S = 0.05  # between two looks at the file
READ_BYTES = 1 << 20
MOST_STREAMS = 32
FAREWELL_S = 1.0  # for the last events to reach the pages
TYPES = {"": "text/html", "watch.css": "text/css", "watch.js": "text/javascript"}
POLICY = "; ".join(
    [
        *("default-src 'none'", "script-src 'self'", "style-src 'self'", "connect-src 'self'", "img-src data:"),
        *("base-uri 'none'", "form-action 'none'", "frame-ancestors 'none'"),
    ]
)
HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}


class Watch:
    """The page of a run with its events in ``path``, or in ``lines`` if there is no such file.

    ``over`` is set when no event will follow and the server is to end. ``ended`` tells whether no event will follow,
    as the run has ended or was killed, while the server goes on.
    """

    def __init__(self, path: Path, lines: bytes = b"", ended: Callable[[], bool] = lambda: False) -> None:
        self.over, self._ended = asyncio.Event(), ended
        self._path, self._lines, self._streams = path, lines, 0

    def app(self) -> web.Application:
        app = web.Application(middlewares=[guard])
        app.router.add_get("/events", self.events)
        app.router.add_get("/{name:|watch\\.css|watch\\.js}", page)
        return app

    async def events(self, request: web.Request) -> web.StreamResponse:
        """All events so far as server-sent events, then each as it comes; an event's id is where the next begins."""
        if self._streams >= MOST_STREAMS:
            raise web.HTTPServiceUnavailable(text=f"{MOST_STREAMS} pages are open; close one")
        response = web.StreamResponse(headers={**HEADERS, "Content-Type": "text/event-stream"})
        await response.prepare(request)
        given = request.headers.get("Last-Event-ID", "")
        self._streams += 1
        try:
            async for block in self._blocks(int(given) if given.isdecimal() else 0):
                await response.write(block)
        except ConnectionError:
            pass  # the page was closed
        finally:
            self._streams -= 1
        return response

    async def _blocks(self, offset: int) -> AsyncIterator[bytes]:
        """Whole lines of the file from ``offset`` on, as server-sent events; b": " tells that the server lives."""
        quiet_s, looked = 0.0, -1
        while True:
            over = self.over.is_set()  # asked first: what was written before is read below
            if not over and int(quiet_s) != looked:  # once a second
                over, looked = self._ended(), int(quiet_s)
            whole, _, _ = self._read(offset).rpartition(b"\n")
            if whole:
                parts = []
                for line in whole.split(b"\n"):
                    offset += len(line) + 1
                    parts.append(b"id: %d\ndata: %s\n\n" % (offset, line))
                yield b"".join(parts)
                quiet_s = 0.0
            elif over:
                yield b"event: over\ndata: \n\n"
                return
            elif quiet_s >= 10:
                yield b": \n\n"
                quiet_s = 0.0
            else:
                with suppress(TimeoutError):
                    await asyncio.wait_for(self.over.wait(), POLL_S)
                quiet_s += POLL_S

    def _read(self, offset: int) -> bytes:
        try:
            with self._path.open("rb") as file:
                file.seek(offset)
                return file.read(READ_BYTES)
        except FileNotFoundError:  # before the first event, or of a run that was not watched
            return self._lines[offset:]


async def page(request: web.Request) -> web.Response:
    """The page, its style or its script."""
    name = request.match_info["name"]
    body = (resources.files("bench.watch") / "page" / (name or "watch.html")).read_bytes()
    return web.Response(body=body, content_type=TYPES[name], charset="utf-8", headers=HEADERS)


@web.middleware
async def guard(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Refuse requests that do not name this server as their host, or that come from another origin."""
    port = request.transport.get_extra_info("sockname")[1] if request.transport else 0
    hosts = {f"{name}:{port}" for name in (HOST, "localhost")}
    origin = request.headers.get("Origin")
    if request.host not in hosts or (origin is not None and origin.removeprefix("http://") not in hosts):
        return web.Response(status=403, text="this server answers to 127.0.0.1 only\n", headers=HEADERS)
    return await handler(request)


async def serve(watch: Watch, port: int, announce: Callable[[str], None]) -> None:
    """Serve until ``watch.over``; ``announce`` gets the page's address. Raises OSError if the port cannot be used."""
    runner = web.AppRunner(watch.app(), access_log=None, shutdown_timeout=FAREWELL_S)
    await runner.setup()
    try:
        site = web.TCPSite(runner, HOST, port)
        await site.start()
        announce(f"http://{HOST}:{runner.addresses[0][1]}/")
        await watch.over.wait()
    finally:
        await runner.cleanup()


async def _main() -> None:
    """Serve the page of a run that is going on, for the runner."""
    loop, commands = asyncio.get_running_loop(), asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(commands), sys.stdin)
    command = json.loads(await commands.readline())
    watch = Watch(Path(command["folder"]) / FILE)

    async def end_with_input() -> None:
        await commands.read()
        watch.over.set()

    ending = asyncio.create_task(end_with_input())
    try:
        await serve(watch, command["port"], lambda address: _say(address=address))
    except OSError as error:
        _say(error=os.strerror(error.errno) if error.errno else str(error))
    ending.cancel()


def _say(**event: str) -> None:
    print(json.dumps(event), flush=True)


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the runner decides
    asyncio.run(_main())
