# SPDX-License-Identifier: GPL-3.0-or-later
"""Keep official Qubes OS backups in a deduplicating repository (restic or borg)."""

import argparse
import contextlib
import json
import os
import signal
import sys
from collections.abc import Callable, Iterable
from typing import Any, NoReturn

from dedup_store import VERSION, config, engine, pipes, restore_service
from dedup_store import get as get_module
from dedup_store import put as put_module
from dedup_store.errors import EXIT_PARTIAL, EXIT_READER_GONE, StoreError, UsageError, clean
from dedup_store.manifest import PARTIAL, WHOLE, Member

_EPILOG = """\
exit codes:
  0    success
  1    the engine or the repository failed
  2    wrong command line or configuration
  3    put: the stream is no whole backup; what came is kept as a partial run
       (nothing is kept of an empty stream)
  4    get, show: there is no such run
  5    get, show: what came back is not what was stored; do not use the output
  130  interrupted
  141  get: the reader closed the pipe before the end
  143  terminated

put reads its input to the end whatever happens. A run is `whole` when its structure is,
`partial` with a reason when not, and `opaque` when it is encrypted, so that it can't be told;
`latest` is the newest whole run. With borg, a command waits for another one that works on the
repository (setting lock_wait); with restic, several can put and get at the same time.

configuration: /rw/config/dedup-store/NAME.toml, or NAME.toml in $DEDUP_STORE_CONFIG_DIR
  engine         "restic" or "borg"
  repository     absolute path, qrexec:QUBE/NAME for the repository NAME of a storage qube, or a
                 location of the engine's (default /rw/dedup-store/NAME/repo)
  password_file  mode 0600, made by init (default NAME.password beside the configuration)
  lock_wait      seconds to wait for a locked repository, borg (default 3600)
"""

_STDIN, _STDOUT = 0, 1
_MAX_NAME = 200  # characters of a member's name that `show` tells; Qubes' own are shorter


def main() -> int:
    """Run the command line's command.

    Returns:
        The exit code.
    """
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _terminated)
    arguments = _parse()
    try:
        return _COMMANDS[arguments.command](arguments, config.load(arguments.profile))
    except StoreError as error:
        _say(str(error))
        _drain_if_put(arguments)
        if arguments.json:
            _write_json(arguments, {"error": clean(str(error)), "exit_code": error.exit_code})
        return error.exit_code
    except BrokenPipeError:
        _forget_stdout()
        return EXIT_READER_GONE
    except OSError as error:
        _say(f"{error.filename or 'input or output'}: {error.strerror}")
        _drain_if_put(arguments)
        return StoreError.exit_code
    except KeyboardInterrupt:
        return 130


def _terminated(_number: int, _frame: object) -> NoReturn:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # one is enough; now the engine is stopped
    sys.exit(143)


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="dedup-store",
        description=__doc__,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"dedup-store {VERSION}")
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--profile", metavar="NAME", default="default", help="default: default")
    common.add_argument(
        "--json", action="store_true", help="report as JSON on stdout (get: on stderr)"
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    commands.add_parser("init", parents=[common], help="make the repository and its password file")
    commands.add_parser("put", parents=[common], help="store the backup that comes on stdin")
    getter = commands.add_parser("get", parents=[common], help="write a stored backup to stdout")
    getter.add_argument("run", metavar="RUN", help="a run's name, or `latest`")
    getter.add_argument(
        "--members",
        metavar="PREFIX",
        nargs="+",
        help="only members whose names begin with one of these",
    )
    shower = commands.add_parser("show", parents=[common], help="list the members of a run")
    shower.add_argument("run", metavar="RUN", help="a run's name, or `latest`")
    lister = commands.add_parser("list", parents=[common], help="list the runs, oldest first")
    for command, each in ((shower, "the run and each member"), (lister, "each run, without qubes")):
        command.add_argument("--lines", action="store_true", help=f"a line of JSON for {each}")
    restorer = commands.add_parser(
        "restore-service", help="what the qrexec service dedupbackup.Restore runs"
    )
    restorer.add_argument("argument", metavar="[PROFILE+]RUN")
    restorer.set_defaults(json=False)
    arguments = parser.parse_args()
    if arguments.command == "restore-service":
        arguments.profile, arguments.run = restore_service.split_argument(arguments.argument)
    return arguments


def _drain_if_put(arguments: argparse.Namespace) -> None:
    """Read stdin to its end when put failed: Qubes must not take an early end for success."""
    if arguments.command == "put" and not os.isatty(_STDIN):
        pipes.drain(_STDIN)


def _say(text: str) -> None:
    """Tell the user, in one line. Qubes keeps some hundred characters of it."""
    with contextlib.suppress(OSError):
        sys.stderr.write(f"dedup-store: {clean(text, 600)}\n")
        sys.stderr.flush()


def _write_json(arguments: argparse.Namespace, data: object) -> None:
    stream = sys.stderr if arguments.command == "get" else sys.stdout
    stream.write(json.dumps(data) + "\n")
    stream.flush()


def _write_lines(rows: Iterable[dict[str, Any]]) -> None:
    for row in rows:
        sys.stdout.write(json.dumps(row) + "\n")
    sys.stdout.flush()


def _forget_stdout() -> None:
    """Keep the interpreter's last flush from complaining about a closed pipe."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), _STDOUT)


def _init(arguments: argparse.Namespace, settings: config.Config) -> int:
    repository = engine.open_engine(settings)
    path = settings.password_file
    has_folder = settings.local_repository is not None and engine.check_folder(settings)
    new_password = not has_folder and not os.path.lexists(path)
    if new_password:
        config.create_password_file(path)
    config.check_password_file(path)
    changed = not repository.exists()
    if changed:
        repository.create()
    report = {
        "changed": changed,
        "password_file_created": new_password,
        "engine": settings.engine,
        "repository": settings.repository,
        "password_file": str(path),
    }
    text = f"{settings.engine} repository {settings.repository}"
    _report(arguments, report, f"made {text}" if changed else f"{text} is already there")
    return 0


def _put(arguments: argparse.Namespace, settings: config.Config) -> int:
    if os.isatty(_STDIN):
        raise UsageError("put reads a backup from stdin, and that is a terminal")
    summary = put_module.put(_open(settings), _STDIN, _warn)
    if summary is None:
        _say("nothing came on stdin, nothing was stored")
        _report(arguments, {"run": None, "status": PARTIAL}, "")
        return EXIT_PARTIAL
    status, run = summary["status"], summary["run"]
    if status == PARTIAL:
        _say(f"not a whole backup, kept as partial run {run}: {summary['reason']}")
    elif status != WHOLE:
        _warn(f"{run} is kept as it came, without deduplication: {summary['reason']}")
    _report(arguments, summary, f"stored {run} ({status}, {_size(summary['stream_bytes'])})")
    return EXIT_PARTIAL if status == PARTIAL else 0


def _get(arguments: argparse.Namespace, settings: config.Config) -> int:
    repository = _open(settings)
    run = get_module.find(repository, arguments.run)
    if run["status"] != WHOLE:
        _warn(f"{run['run']} is {run['status']}: {run['reason']}")
    get_module.get(repository, run["run"], _STDOUT, arguments.members)
    if arguments.json:
        _write_json(arguments, run)
    return 0


def _show(arguments: argparse.Namespace, settings: config.Config) -> int:
    repository = _open(settings)
    run = get_module.find(repository, arguments.run)
    found, _ = get_module.read_manifest(repository, run["run"])
    members = map(_public, found.members)
    if arguments.lines:
        _write_lines([_short(found.summary()) | {"members": len(found.members)}])
        _write_lines(members)
    elif arguments.json:
        _write_json(arguments, found.summary() | {"members": list(members)})
    else:
        for member in members:
            cells = (member["container"], member["payload_length"], clean(member["name"] or "-"))
            sys.stdout.write("{:<13} {:>12}  {}\n".format(*cells))
        sys.stdout.flush()
    return 0


def _public(member: Member) -> dict[str, Any]:
    """What `show` tells of a member: nothing of where it lies."""
    return {
        "name": member.name if member.name is None else member.name[:_MAX_NAME],
        "container": member.container,
        "payload_length": member.payload_length,
        "payload_sha256": member.payload_sha256,
    }


def _short(run: dict[str, Any]) -> dict[str, Any]:
    """A run in one line of bounded length, for programs that read line by line."""
    del run["qubes"]
    return run | {"reason": clean(run["reason"])}


def _restore_service(arguments: argparse.Namespace, settings: config.Config) -> int:
    restore_service.require_dom0()
    prefixes = restore_service.read_prefixes(_STDIN)
    repository = _open(settings)
    run = get_module.find(repository, arguments.run)
    if run["status"] != WHOLE:
        _warn(f"{run['run']} is {run['status']}: {run['reason']}")
    return restore_service.send(repository, run["run"], prefixes)


def _list(arguments: argparse.Namespace, settings: config.Config) -> int:
    runs = get_module.list_runs(_open(settings))
    if arguments.lines:
        _write_lines(map(_short, runs))
        return 0
    if arguments.json:
        _write_json(arguments, {"runs": runs})
        return 0
    row = "{:<58} {:<20} {:<8} {:>5} {:>10}  {}\n"
    sys.stdout.write(row.format("RUN", "TIME", "STATUS", "QUBES", "SIZE", "REASON").rstrip() + "\n")
    for run in runs:
        cells = (run["run"], clean(run["time"], 20), run["status"], len(run["qubes"]))
        line = row.format(*cells, _size(run["stream_bytes"]), clean(run["reason"]))
        sys.stdout.write(line.rstrip() + "\n")
    sys.stdout.flush()
    return 0


def _open(settings: config.Config) -> engine.Engine:
    config.check_password_file(settings.password_file)
    engine.require_folder(settings)
    return engine.open_engine(settings)


def _warn(text: str) -> None:
    _say(f"warning: {text}")


def _report(arguments: argparse.Namespace, data: dict[str, Any], text: str) -> None:
    if arguments.json:
        _write_json(arguments, data)
    elif text:
        sys.stdout.write(text + "\n")
        sys.stdout.flush()


def _size(count: int) -> str:
    size = float(count)
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} TB"


_COMMANDS: dict[str, Callable[[argparse.Namespace, config.Config], int]] = {
    "init": _init,
    "put": _put,
    "get": _get,
    "show": _show,
    "list": _list,
    "restore-service": _restore_service,
}
