# SPDX-License-Identifier: GPL-3.0-or-later
"""What no input may do to the shim's readers and routes; driven by hypothesis and by atheris.

`make fuzz` runs this file under atheris (coverage-guided) for FUZZ_SECONDS.
"""

import hashlib
import importlib.machinery
import os
import sys
import tempfile
from collections.abc import Callable
from types import FunctionType, ModuleType

from testing.paths import PAYLOAD

SHIM = PAYLOAD / "dom0/scrypt"
LINE = b"20240101T120000-1234!vm7/private.img.000!dedup:correct-horse-battery-staple"
REFUSALS = {
    "Input is not valid scrypt-encrypted block",
    "Decrypting file would require too much memory",
    "Passphrase is incorrect",
}
slow_scrypt = hashlib.scrypt


def cheap_scrypt(password: bytes, *, n: int, r: int, p: int, salt: bytes, **_: int) -> bytes:
    """Derive a key at once; the shim must have checked what it asks for."""
    assert n in {1 << 14, 1 << 15, 1 << 16, 1 << 17}
    assert (r, p) == (8, 1)
    return slow_scrypt(password, salt=salt, n=2, r=1, p=1, dklen=64)


def load() -> ModuleType:
    """Load the shim as a module."""
    loader = importlib.machinery.SourceFileLoader("scrypt_shim", str(SHIM))
    module = ModuleType(loader.name)
    module.__file__ = str(SHIM)
    loader.exec_module(module)
    return module


class Fuzzed:
    """The shim in this process, deriving keys cheaply."""

    def __init__(self) -> None:
        """Load it."""
        hashlib.scrypt = cheap_scrypt  # type: ignore[assignment]  # it has no maxmem and dklen
        self.shim = load()
        self.exact = self.container(b"payload", LINE)

    def container(self, payload: bytes, line: bytes) -> bytes:
        """Let the shim make a container."""
        with tempfile.TemporaryFile() as source, tempfile.TemporaryFile() as made:
            source.write(payload)
            source.seek(0)
            self.shim.encode_authenticated(source.fileno(), made.fileno(), line)
            return os.pread(made.fileno(), 1 << 20, 0)

    def decode(self, stored: bytes, line: bytes) -> bytes | None:
        """Give a container's payload; None if it was refused with one of the known reasons."""
        with tempfile.TemporaryFile() as source, tempfile.TemporaryFile() as out:
            source.write(stored)
            source.seek(0)
            try:
                self.shim.decode_authenticated(source.fileno(), out.fileno(), line)
            except self.shim.ScryptError as error:
                assert str(error) in REFUSALS
                return None
            return os.pread(out.fileno(), 1 << 20, 0)

    def check_container(self, stored: bytes) -> None:
        """Nothing but a container comes through."""
        assert self.decode(stored, LINE) == (b"payload" if stored == self.exact else None)

    def check_changed(self, change: bytes) -> None:
        """A container of which bytes were altered (position and difference in turns)."""
        stored = bytearray(self.exact)
        for position, difference in zip(change[::2], change[1::2], strict=False):
            stored[position % len(stored)] ^= difference
        self.check_container(bytes(stored))

    def check_line(self, line: bytes, path: str) -> None:
        """What is taken for Qubes' line is put together again to that line."""
        backup, member, user = self.shim.split_line(line, path)
        if backup:
            assert line == b"%s!%s!%s" % (backup, member.removesuffix(b".enc"), user)
            assert os.fsencode(path).endswith(b"/" + member)
            assert backup.replace(b"-", b"").isalnum()
        elif member:
            assert line == b"backup-header!" + user
            assert path.rpartition("/")[2] == "backup-header.hmac"
        else:
            assert user == b""

    def check_route(self, argv: list[str]) -> str:
        """Give the route; all but the calls that Qubes makes go to the real scrypt, untouched."""
        taken: list[str] = []

        def taker(name: str) -> Callable[..., list[str]]:
            def take(given: list[str], *_: object) -> list[str]:
                taken.append(name)
                return given

            return take

        for name in ("encode", "decode", "exec_real"):
            setattr(self.shim, name, taker(name))
        assert self.shim.run(argv) is argv
        [route] = taken
        if route == "encode":
            _, action, source, target = argv
            assert (action, target.endswith((".enc", "backup-header.hmac"))) == ("enc", True)
        elif route == "decode":
            _, action, force, source, target = argv
            assert (action, force) == ("dec", "-f")
            assert source != "-"
        if route != "exec_real":
            assert source == "-" or not source.startswith("-")
            assert source
            assert not target.startswith("-")
            assert os.path.isfile(target) or not os.path.exists(target)  # noqa: PTH110, PTH113
        return route


def main() -> None:
    """Fuzz for as long as libFuzzer's options in the arguments say."""
    import atheris  # noqa: PLC0415 - only `make fuzz` has it

    fuzzed = Fuzzed()
    for name, function in list(vars(fuzzed.shim).items()):
        if isinstance(function, FunctionType):
            setattr(fuzzed.shim, name, atheris.instrument_func(function))

    def one(data: bytes) -> None:
        provider = atheris.FuzzedDataProvider(data)
        match provider.ConsumeIntInRange(0, 4):
            case 0:
                fuzzed.check_container(provider.ConsumeBytes(1 << 16))
            case 4:  # past the first check
                start = b"scrypt\x80" + provider.ConsumeBytes(41)
                start += hashlib.sha256(start).digest()[:16]
                fuzzed.check_container(start + provider.ConsumeBytes(1 << 16))
            case 1:
                fuzzed.check_changed(provider.ConsumeBytes(1 << 16))
            case 2:
                path = provider.ConsumeUnicodeNoSurrogates(99)
                if provider.ConsumeBool():  # a path and a line that nearly fit
                    path = f"/t/{path}.enc"
                fuzzed.check_line(provider.ConsumeBytes(1 << 16), path)
            case _:
                count = provider.ConsumeIntInRange(0, 6)
                words = [provider.ConsumeUnicodeNoSurrogates(40) for _ in range(count)]
                fuzzed.check_route(["scrypt", *words])

    atheris.Setup(sys.argv, one)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
