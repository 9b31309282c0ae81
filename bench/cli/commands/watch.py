"""``bench watch``: the page of a run, from the events in its folder."""
# ruff: noqa: PLC0415 - so that --help needs no aiohttp

from argparse import ArgumentParser, Namespace

from bench.cli.command import OK, Command, folder_argument, whole_number


def _add_watch(command: ArgumentParser) -> None:
    folder_argument(command)
    port = "port on 127.0.0.1 (default: a free one, which is shown)"
    command.add_argument("--port", type=whole_number(0, 65535), default=0, metavar="PORT", help=port)


def _watch(arguments: Namespace, _words: list[str]) -> int:
    import asyncio
    import os

    from bench.events import FILE
    from bench.execution.lock import in_use
    from bench.suite.document import InputError
    from bench.watch.server import HOST, Watch, serve
    from bench.watch.unwatched import LOG, lines_of_log

    folder, port = arguments.folder, arguments.port
    kept = folder / FILE
    try:
        lines = b"" if kept.exists() else lines_of_log(folder)
    except OSError:
        raise InputError([f"{folder}: neither {FILE} nor {LOG} is there; give the folder of a run"]) from None

    async def show() -> None:
        watch = Watch(kept, lines, ended=lambda: in_use(folder) is None)
        await serve(watch, port, lambda address: print(f"watch: {address}", flush=True))

    try:
        asyncio.run(show())
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno else str(error)
        raise InputError([f"{HOST}:{port}: {reason}"]) from None
    return OK


WATCH = Command(
    "show a run in a browser, as it goes or again",
    """
  bench watch runs/hivemind                   # a finished run, to be played again
  bench run hivemind --watch                  # a run that begins""",
    _add_watch,
    _watch,
    """
Serves a page on 127.0.0.1 until Ctrl-C. Runs with --watch keep the most; of others their log is shown.""",
)
