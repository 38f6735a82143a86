# SPDX-License-Identifier: GPL-3.0-or-later
"""The command line of qvm-backup: write a profile if none is given, and let qubesd make the backup.

Stands in for qubes-core-admin-client qubesadmin/tools/qvm_backup.py, with its options, messages and
exit codes: 0 done or declined, 1 failed, 2 usage.
"""

from __future__ import annotations

import argparse
import contextlib
import fnmatch
import getpass
import os
import signal
import socket
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import FrameType

import qubesadmin
import qubesadmin.config
import yaml
from qubesadmin.exc import QubesException

from .system import PROFILE_DIR, problem


def make_parser() -> argparse.ArgumentParser:
    """Return the command line's parser."""
    parser = argparse.ArgumentParser(prog="qvm-backup")
    add = parser.add_argument
    add("--verbose", "-v", action="count", default=1, help="increase verbosity")
    add("--quiet", "-q", action="count", default=0, help="decrease verbosity")
    add("--yes", "-y", action="store_true", help="do not ask for confirmation")
    add("--profile", metavar="NAME", help="perform the backup defined by a profile")
    add = parser.add_argument_group("without --profile").add_argument
    add("--exclude", "-x", action="append", dest="exclude_list", default=[], metavar="VM")
    add("--dest-vm", "-d", dest="appvm", metavar="VM", help="the qube the backup is sent to")
    add("--encrypt", "-e", action="store_true", help="ignored, backup is always encrypted")
    add("--passphrase-file", "-p", metavar="FILE", help="its first line; - is stdin")
    add("--compress", "-z", action="store_true", dest="compression", default=None)
    add("--no-compress", action="store_false", dest="compression")
    add("--compress-filter", "-Z", dest="compression", metavar="PROGRAM", help="default: gzip")
    add("--save-profile", metavar="NAME", help="keep the profile, with its passphrase in clear")
    add("backup_location", nargs="?", help="absolute directory path, or command to pipe to")
    add("vms", nargs="*", help="backup only those VMs; patterns are allowed")
    return parser


def _profile_options(args: argparse.Namespace) -> list[str]:
    """Return the options in use that --profile doesn't go with."""
    names = ("exclude_list", "passphrase_file", "compression", "save_profile")
    return [name for name in names if getattr(args, name)]


def expand_names(app: qubesadmin.Qubes, words: Sequence[str]) -> list[str]:
    """Return the names of existing qubes that the words mean.

    Stands in for VmNameAction of qubesadmin/tools/__init__.py.

    Raises:
        ValueError: there is no such qube.
    """
    known = [str(vm.name) for vm in app.domains]
    names: list[str] = []
    for word in words:
        is_pattern = any(char in word for char in "*?[!]")
        found = fnmatch.filter(known, word) if is_pattern else [word]
        names += [name for name in found if name not in names]
    for name in names:
        if name not in known:
            raise ValueError(f"no such domain: {name!r}")
    return names


def write_profile(path: Path, args: argparse.Namespace, passphrase: str | None = None) -> None:
    """Write a profile from the options; the passphrase is written only after the user agreed."""
    profile: dict[str, object] = {"include": list(args.vms) or None}
    if args.exclude_list:
        profile["exclude"] = args.exclude_list
    if passphrase:
        profile["passphrase_text"] = passphrase
    profile["compression"] = True if args.compression is None else args.compression
    if args.appvm and args.appvm != "dom0":
        profile |= {"destination_vm": args.appvm, "destination_path": args.backup_location}
    else:
        location = os.path.join(os.getcwd(), args.backup_location)  # noqa: PTH109, PTH118 -- as is
        profile |= {"destination_vm": "dom0", "destination_path": location}
    path.write_text(yaml.safe_dump(profile), encoding="utf-8")


def read_passphrase(file: str | None) -> str:
    """Return the passphrase from a file's first line, from stdin ("-"), or asked for twice.

    Raises:
        QubesException: the two entries differ.
        OSError: the file can't be read.
    """
    if file == "-":
        return sys.stdin.readline().rstrip()
    if file is not None:
        with Path(file).open(encoding="utf-8") as handle:
            return handle.readline().rstrip()
    passphrase = getpass.getpass(
        "Please enter the passphrase that will be used to encrypt and verify the backup: "
    )
    if getpass.getpass("Enter again for verification: ") != passphrase:
        raise problem("Passphrase mismatch!")
    return passphrase


class ProgressDisplay(threading.Thread):
    """Shows the backup's progress on stderr, as told by qubesd's events.

    An event is 1 SUBJECT NAME (KEY VALUE)* and an empty word, NUL after each word; see
    qubesadmin/events/__init__.py.
    """

    def __init__(self, profile: str) -> None:
        """Take the profile's name."""
        super().__init__(daemon=True)
        self._profile = profile
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)

    def run(self) -> None:
        """Show progress until `end`; without events there is just none."""
        with contextlib.suppress(OSError, StopIteration), self._socket as connection:
            connection.connect(qubesadmin.config.QUBESD_SOCKET)
            connection.sendall(b"admin.Events+ dom0 name dom0\0")
            connection.shutdown(socket.SHUT_WR)
            words = self._words()
            while next(words) == "1":
                next(words)  # the subject
                name, values = next(words), {}
                while key := next(words):
                    values[key] = next(words)
                self._show(name, values)

    def _words(self) -> Iterator[str]:
        received = b""
        while block := self._socket.recv(4096):
            *words, received = (received + block).split(b"\0")
            for word in words:
                yield word.decode(errors="replace")

    def _show(self, name: str, values: Mapping[str, str]) -> None:
        if name == "backup-progress" and values.get("backup_profile") == self._profile:
            percent = float(values["progress"])
            print(f"\rMaking a backup... {percent:.02f}%", end="", file=sys.stderr)

    def end(self) -> None:
        """Stop listening."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)


def execute(app: qubesadmin.Qubes, profile: str) -> int:
    """Run the backup; SIGINT cancels it."""

    def cancel(_signal: int, _frame: FrameType | None) -> None:
        with contextlib.suppress(QubesException):
            app.qubesd_call("dom0", "admin.backup.Cancel", profile)

    display = ProgressDisplay(profile)
    display.start()
    signal.signal(signal.SIGINT, cancel)
    try:
        app.qubesd_call("dom0", "admin.backup.Execute", profile)
    except QubesException as error:
        print(f"\nBackup error: {error}", file=sys.stderr)
        return 1
    finally:
        display.end()
        print("\n")
    return 0


def backup(app: qubesadmin.Qubes, args: argparse.Namespace, profile: str, path: Path | None) -> int:
    """Show what will be stored, ask, and do it.

    Args:
        app: the system.
        args: the command line.
        profile: the profile's name.
        path: where to write the passphrase to; None if the profile was there before.
    """
    try:
        print(app.qubesd_call("dom0", "admin.backup.Info", profile).decode())
    except QubesException as error:
        print(f"\nBackup preparation error: {error}", file=sys.stderr)
        return 1
    if not args.yes and input("Do you want to proceed? [y/N] ").upper() != "Y":
        return 0
    if path is not None:
        write_profile(path, args, read_passphrase(args.passphrase_file))
    return execute(app, profile)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the program and return its exit code."""
    parser = make_parser()
    args = parser.parse_args(argv)
    app = qubesadmin.Qubes()
    path = None
    try:
        if args.profile is not None:
            if clash := _profile_options(args):
                option = clash[0].replace("_", "-")
                parser.error(f"--{option} option could not be used together with --profile")
            return backup(app, args, args.profile, None)
        if args.backup_location is None:
            parser.error("either --profile or 'backup_location' is required")
        args.vms = expand_names(app, args.vms)
        profile = args.save_profile or f"backup-run-{os.getpid()}"
        path = PROFILE_DIR / f"{profile}.conf"
        write_profile(path, args)
        return backup(app, args, profile, path)
    except ValueError as error:
        parser.error(str(error))
    except (QubesException, OSError) as error:
        print(f"{parser.prog}: error: {error}", file=sys.stderr)
        return 1
    finally:
        if path is not None and not args.save_profile:
            path.unlink(missing_ok=True)


if __name__ == "__main__":
    sys.exit(main())
