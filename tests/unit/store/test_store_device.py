# SPDX-License-Identifier: GPL-3.0-or-later
"""A repository on an attached device: real file systems on loop devices, an ordinary user."""

import functools
import json
import os
import shlex
import shutil
import struct
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from testing.store import archives
from testing.store.driver import PASSWORD, PAYLOAD, Store, refusal

NOBODY = 65534
MOUNTS = "/mnt/dedup-store"


@pytest.mark.parametrize("label", ["", ".x", "-x", "a b", "a/b", "x" * 33, "ä", "a\\nb"])
def test_labels_that_are_refused(tmp_path: Path, label: str) -> None:
    store = Store(tmp_path, "borg")
    store.configure()
    store.config.write_text(f'engine = "borg"\ndevice = "{label}"\n')
    assert "'device' must be a label" in refusal(store, "list")


@pytest.mark.parametrize(
    "place", ["/mnt/x", f"{MOUNTS}/B", f"{MOUNTS}/B/../C/x", f"{MOUNTS}/BC/x", "rclone:x:y"]
)
def test_repository_beside_the_device(tmp_path: Path, place: str) -> None:
    store = Store(tmp_path, "restic")
    store.configure(device="B", location=place)
    assert f"'location' must be below the device's {MOUNTS}/B" in refusal(store, "list")


class Device:
    """A store of an ordinary user, whose repository is on a device that can be attached.

    Each command runs in a mount namespace of its own, with its own /etc/fstab, and without the
    machine's cache of labels: it would hide a loop device that is used anew within two seconds
    (BLKID_PROBE_MIN of libblkid). In a qube, udev's links come before that cache.
    """

    def __init__(self, folder: Path) -> None:
        """Make the file system, and the configuration."""
        self.folder = folder
        self.label = f"T{os.getpid()}.{folder.name[-4:]}"[:16]  # more is no label of ext4
        self.point = f"{MOUNTS}/{self.label}"
        self.image = folder / "image"
        self.loop = ""
        self.make_image()
        shutil.copytree(PAYLOAD, folder / "program")
        self.config = folder / "config"
        self.config.mkdir()
        (self.config / "default.toml").write_text(f'engine = "borg"\ndevice = "{self.label}"\n')
        for path in (folder, self.config):
            path.chmod(0o755)
            shutil.chown(path, NOBODY, NOBODY)
        line = f"LABEL={self.label} {self.point} auto noauto,user,nosuid,nodev,noexec 0 0\n"
        (folder / "fstab").write_text(line)

    def make_image(self) -> None:
        """Make the device, with an empty file system."""
        with self.image.open("wb") as image:
            image.truncate(64 << 20)
        made = ["mkfs.ext4", "-q", "-L", self.label, "-E", f"root_owner={NOBODY}:{NOBODY}"]
        subprocess.run([*made, self.image], check=True)

    def attach(self, *options: str) -> None:
        """Attach the device."""
        attach = ["losetup", "--find", "--show", *options, self.image]
        self.loop = subprocess.check_output(attach, text=True).strip()

    def detach(self) -> None:
        """Detach it."""
        if self.loop:
            subprocess.run(["losetup", "--detach", self.loop], check=True)
        self.loop = ""

    def run(
        self,
        *words: str,
        data: bytes = b"",
        before: str = ":",
        after: str = ":",
    ) -> subprocess.CompletedProcess[bytes]:
        """Run dedup-store as the user; before and after are root's shell commands."""
        as_user = f"setpriv --reuid={NOBODY} --regid={NOBODY} --clear-groups --"
        program = shlex.join([str(self.folder / "program" / "dedup-store"), *words])
        script = (
            f"set -e; mount -t tmpfs none /mnt; mkdir -p {self.point} /run/blkid\n"
            "mount -t tmpfs none /run/blkid\n"
            f"mount --bind {self.folder}/fstab /etc/fstab\n"
            f"{before}\nset +e\n{as_user} {program}; code=$?\n{after}\nexit $code\n"
        )
        variables = {
            "PATH": os.environ["PATH"],
            "HOME": str(self.folder),
            "DEDUP_STORE_CONFIG_DIR": str(self.config),
            "AS_USER": as_user,
        }
        return subprocess.run(
            ["unshare", "--mount", "--propagation=private", "sh", "-c", script],
            input=data,
            capture_output=True,
            check=False,
            env=variables,
        )


@pytest.fixture
def device() -> Iterator[Device]:
    if os.geteuid() != 0:
        pytest.skip("only root can make devices")
    # pytest's own folders are closed to other users
    folder = Path(tempfile.mkdtemp(prefix="dedup-store-device"))
    made = Device(folder)
    try:
        yield made
    finally:
        made.detach()
        shutil.rmtree(folder)


def luks(label: str) -> bytes:
    """The beginning of a LUKS2 container, of which nothing can be opened.

    cryptsetup lib/luks2/luks2.h struct luks2_hdr_disk.
    """
    return struct.pack(
        ">6sHQQ48s32s64s40s48sQ",
        b"LUKS\xba\xbe",
        *(2, 16384, 1, label.encode(), b"sha256", bytes(64)),
        *(b"8f0d1c3e-2b1a-4c5d-9e6f-7a8b9c0d1e2f", b"", 0),
    ).ljust(16384, b"\0")


def partition_table() -> bytes:
    """A disk with one partition (UEFI specification, 5.2.1 Legacy Master Boot Record)."""
    entry = struct.pack("<B3sB3sII", 0, b"", 0x83, b"", 2048, 4096)
    return bytes(446) + entry.ljust(64, b"\0") + b"\x55\xaa"


# What udev notes of devices (systemd src/udev/udev-builtin-blkid.c, src/libsystemd/sd-device/
# device-private.c device_update_db), for lsblk: here runs none.
UDEV = """mount -t tmpfs none /run; mkdir -p /run/udev/data /run/blkid
for device in {}; do
    {{ echo I:1; blkid -p -o udev $device | sed s/^/E:/; }} \\
        >/run/udev/data/b$(lsblk -dno MAJ:MIN $device | tr -d ' ')
done"""


@functools.cache
def backup() -> bytes:
    return archives.join(archives.members(archives.small_qubes()))


def test_from_init_to_get(device: Device) -> None:
    """Each command finds it unmounted, and mounts it."""
    device.attach()
    assert device.run("set-password", data=PASSWORD.encode() + b"\n").returncode == 0
    made = device.run("init", "--json")
    assert made.returncode == 0, made.stderr
    assert json.loads(made.stdout)["location"] == f"{device.point}/dedup-store/default"
    assert device.run("put", data=backup()).returncode == 0
    assert device.run("get", "latest").stdout == backup()
    device.detach()
    image = device.image
    device.image = image.rename(image.with_name("moved"))
    device.attach()  # another device name, the same label
    assert device.run("get", "latest").stdout == backup()
    mounted = device.run(
        *("list", "--lines"),
        before=f"$AS_USER mount {device.point}",
        after=f"umount {device.point}",
    )
    assert mounted.returncode == 0, mounted.stderr
    assert json.loads(mounted.stdout)["status"] == "whole"
    assert mounted.stderr == b""


def test_plain_files(device: Device) -> None:
    """The engine directory, which has no password."""
    (device.config / "default.toml").write_text(
        f'engine = "directory"\ndevice = "{device.label}"\n'
    )
    device.attach()
    assert device.run("init").returncode == 0
    assert device.run("put", data=backup()).returncode == 0
    assert device.run("get", "latest").stdout == backup()
    device.detach()
    result = device.run("put", data=backup())
    assert result.returncode == 1
    assert f"no file system labelled {device.label} is attached" in result.stderr.decode()


@pytest.mark.parametrize(
    "words", [["list"], ["put"], ["get", "latest"], ["init"], ["init", "--check"], ["export-keys"]]
)
def test_not_attached(device: Device, words: list[str]) -> None:
    device.run("set-password", data=PASSWORD.encode() + b"\n")
    # what a mistaken command could write into, if the mount point let it
    owned = f"chown {NOBODY} {device.point}; install -d -o {NOBODY} {device.point}/dedup-store"
    result = device.run(
        *words, data=b"x" * 2_000_000, before=owned, after=f"find {device.point} >&2"
    )
    assert result.returncode == 1
    message, *found = result.stderr.decode().splitlines()
    assert message.startswith(
        f"dedup-store: no file system labelled {device.label} is attached: attach it in dom0 with"
        " `qvm-block attach QUBE DEVICE`, and try again ("
    )
    assert "mount: " in message  # before it, what else is attached to this machine
    assert found == [device.point, f"{device.point}/dedup-store"]


def test_another_disk_with_the_same_label(device: Device) -> None:
    device.attach()
    device.run("set-password", data=PASSWORD.encode() + b"\n")
    assert device.run("init").returncode == 0
    device.detach()
    device.image.rename(device.folder / "first")
    device.make_image()
    device.attach()
    for words in (["init"], ["put"], ["list"]):
        result = device.run(*words, data=backup(), after=f"ls {device.point} >&2")
        assert result.returncode == 1
        message, *found = result.stderr.decode().splitlines()
        assert f"the repository {device.point}/dedup-store/default, in use here since" in message
        assert found == ["lost+found"]
    assert device.run("init", "--new").returncode == 0
    assert device.run("put", data=backup()).returncode == 0
    device.detach()
    (device.folder / "first").rename(device.image)
    device.attach()  # disks that are used in turn
    assert device.run("list").stdout.count(b"\n") == 1
    assert device.run("put", data=backup()).returncode == 0


@pytest.mark.parametrize("command", ["init", "put", "list", "mount"])
def test_luks_that_is_not_opened(device: Device, command: str) -> None:
    device.image.write_bytes(luks(device.label).ljust(8 << 20, b"\0"))
    device.attach()
    device.run("set-password", data=PASSWORD.encode() + b"\n")
    result = device.run(command, data=backup())
    assert result.returncode == 1
    said = result.stderr.decode()
    assert f"what is labelled {device.label} is attached, but can't be mounted: it is LUKS" in said
    assert "cryptsetup open" in said


def test_file_system_that_nothing_mounts(device: Device) -> None:
    """As NTFS or exFAT without their driver; swap is what no machine has one for."""
    subprocess.run(["mkswap", "-q", "-L", device.label, device.image], check=True)
    device.attach()
    said = device.run("mount").stderr.decode()
    assert f"{device.label} is attached, but can't be mounted: it is swap, and this qube" in said
    assert "Use a disk with ext4, XFS or Btrfs" in said


def test_file_system_that_is_damaged(device: Device) -> None:
    subprocess.run(["mkfs.ext4", "-qF", "-L", device.label, device.image], check=True)
    os.truncate(device.image, 1 << 20)
    device.attach()
    said = device.run("mount").stderr.decode()
    assert f"{device.label} is attached, but can't be mounted: mount: " in said
    assert "wrong fs type, bad option, bad superblock" in said


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (luks(""), "crypto_LUKS, not opened without a label"),
        (partition_table(), "partition table dos"),
        (b"", "nothing known"),
    ],
    ids=["luks", "partitions", "nothing"],
)
def test_what_is_attached_in_its_place_is_told(device: Device, content: bytes, told: str) -> None:
    device.image.write_bytes(content.ljust(8 << 20, b"\0"))
    device.attach()
    said = device.run("mount", before=UDEV.format(device.loop)).stderr.decode()
    assert f"no file system labelled {device.label} is attached: attach it in dom0" in said
    assert f"{device.loop.removeprefix('/dev/')}, {told}" in said


def test_two_disks_with_one_label(device: Device) -> None:
    device.attach()
    first = device.loop
    device.image = device.folder / "second"
    device.make_image()
    try:
        device.attach()
        before = UDEV.format(f"{first} {device.loop}")
        said = device.run("mount", before=before).stderr.decode()
        assert f"2 file systems that are attached have the label {device.label} (loop" in said
        assert "detach all but one" in said
    finally:
        subprocess.run(["losetup", "--detach", first], check=True)


def test_device_that_can_only_be_read(device: Device) -> None:
    device.attach()
    device.run("set-password", data=PASSWORD.encode() + b"\n")
    assert device.run("init").returncode == 0
    assert device.run("put", data=backup()).returncode == 0
    device.detach()
    device.attach("--read-only")
    for command in ("put", "prune"):
        result = device.run(command, data=backup())
        assert result.returncode == 1
        assert f"labelled {device.label} can only be read: unmount it" in result.stderr.decode()
    assert device.run("mount").stdout.decode() == f"{device.label} is mounted at {device.point}\n"


def test_new_device_that_can_only_be_read(device: Device) -> None:
    device.attach("--read-only")
    device.run("set-password", data=PASSWORD.encode() + b"\n")
    result = device.run("init")
    assert result.returncode == 1
    assert "attach it without `--ro`" in result.stderr.decode()


def test_qube_that_is_not_prepared(device: Device) -> None:
    device.attach()
    device.run("set-password", data=PASSWORD.encode() + b"\n")
    for before in (f"rmdir {device.point}", "umount /etc/fstab"):
        result = device.run("list", before=before)
        assert result.returncode == 2
        assert f"not prepared for the device {device.label}" in result.stderr.decode()


def test_file_system_that_belongs_to_root(device: Device) -> None:
    device.attach()
    device.run("set-password", data=PASSWORD.encode() + b"\n")
    owned = f"mount {device.point}; chown root {device.point}"
    result = device.run("init", before=owned)
    assert result.returncode == 2
    assert f"`install -d -o user -m 700 {device.point}/dedup-store`" in result.stderr.decode()
    helped = f"{owned}; install -d -o {NOBODY} -m 700 {device.point}/dedup-store"
    assert device.run("init", before=helped).returncode == 0


def test_it_cannot_be_unmounted_under_a_command(device: Device) -> None:
    device.attach()
    device.run("set-password", data=PASSWORD.encode() + b"\n")
    assert device.run("init").returncode == 0
    engine = device.folder / "bin" / "borg"
    engine.parent.mkdir()
    unmount = f"umount {device.point} 2>{device.folder}/said"
    engine.write_text(f'#!/bin/sh\n{unmount}\nexec {shutil.which("borg")} "$@"\n')
    engine.chmod(0o755)
    path = f"PATH={engine.parent}:$PATH; export PATH"
    result = device.run("list", before=f"{path}; $AS_USER touch {device.folder}/said")
    assert result.returncode == 0, result.stderr
    assert "busy" in (device.folder / "said").read_text()
