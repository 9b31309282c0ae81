"""The commands of ``bench``, each with its help, examples, arguments and function in one place.

Functions import what they need, so that ``bench --help`` needs neither torch nor YAML.
"""

from bench.cli.command import Command
from bench.cli.commands import hosts, links, models, results, running, suites, watch

COMMANDS: dict[str, Command] = {
    "run": running.RUN,
    "verify": running.VERIFY,
    "watch": watch.WATCH,
    "list": suites.LIST,
    "describe": suites.DESCRIBE,
    "schema": suites.SCHEMA,
    "validate": suites.VALIDATE,
    "report": results.REPORT,
    "compare": results.COMPARE,
    "merge": results.MERGE,
    "export": results.EXPORT,
    "check": results.CHECK,
    "profile": models.PROFILE,
    "split": models.SPLIT,
    "fit": suites.FIT,
    "links": links.LINKS,
    "link": links.LINK,
    "trace": links.TRACE,
    "node": hosts.NODE,
    "certs": hosts.CERTS,
    "doctor": hosts.DOCTOR,
}
