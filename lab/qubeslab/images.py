# SPDX-License-Identifier: GPL-3.0-or-later
"""Make the root images that labs start from: dom0's and a template's, both Debian 13.

dom0 can also be made of another Debian, to have other versions of rpm and dnf.
They are built once for a checkout, named after what went into them, and copied by each lab.
Debian's own signatures are checked by mmdebstrap while it fetches the packages.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from .host import run
from .paths import CACHE, LAB_DIR, LabError

SUITE = "trixie"
MIRROR = os.environ.get("LAB_DEBIAN_MIRROR", "http://deb.debian.org/debian")
ROOT_BYTES = 10 * 2**30  # a template's root volume: qubes-core-admin qubes/config.py defaults

COMMON = ["systemd", "systemd-sysv", "dbus", "python3", "sudo", "procps", "tar", "e2fsprogs"]
RPM = ["rpm", "createrepo-c", "scrypt"]
DNF4 = ["dnf", "dnf-plugins-core"]
DOM0_PACKAGES = [*COMMON, *RPM, *DNF4, "python3-yaml", "python3-lxml", "ansible-core"]
# What a template may install from the lab's copy of Debian: engines and what they need for storage,
# and what a management qube has (testing/upstream/ansible_lab.py).
REPOSITORY_PACKAGES = [
    *("restic", "fuse3", "borgbackup", "rclone", "scrypt", "openssh-client", "openssh-server"),
    "ansible-core",
]


@dataclass(frozen=True)
class Image:
    """One image to build.

    Attributes:
        name: what its files in the cache are called; no two names may begin alike.
        script: its customize script in lab/images/.
        packages: what mmdebstrap installs.
        download: what is only downloaded, for the templates' repository.
        suite: the Debian release.
        boots: its systemd runs in a container.
    """

    name: str
    script: str
    packages: list[str]
    download: list[str]
    suite: str = SUITE
    boots: bool = True

    @property
    def key(self) -> str:
        """Twelve hex digits of everything that the image is made from."""
        parts = self.command(Path("tree"), Path("repository"))
        parts += [path.read_text() for path in sorted((LAB_DIR / "images").iterdir())]
        return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:12]

    @property
    def path(self) -> Path:
        """The ext4 image."""
        return CACHE / f"{self.name}-{self.key}.img"

    @property
    def repository(self) -> Path:
        """The folder of packages that belongs to it."""
        return CACHE / f"{self.name}-{self.key}-debian"

    def command(self, tree: Path, repository: Path) -> list[str]:
        """Return mmdebstrap's argv that builds `tree`."""
        script = LAB_DIR / "images" / self.script
        argv = [
            "mmdebstrap",
            "--quiet",
            "--variant=minbase",
            f"--include={','.join(self.packages)}",
        ]
        if self.download:
            fetch = " ".join(self.download)
            argv += [
                "--skip=cleanup/apt",
                '--customize-hook=rm -f "$1"/var/cache/apt/archives/*.deb',
                '--customize-hook=chroot "$1" apt-get install -qq --yes --download-only '
                f"--no-install-recommends {fetch} >/dev/null",
            ]
        if self.suite == "sid":  # its Release file is valid for a week; signatures stay checked
            argv += ['--aptopt=Acquire::Check-Valid-Until "false"']
        argv += [f'--customize-hook=LAB_REPOSITORY="{repository}" "{script}" "$1"']
        return [*argv, self.suite, str(tree), MIRROR]


DOM0_IMAGE = Image("dom0", "dom0.sh", DOM0_PACKAGES, [])
TEMPLATE_IMAGE = Image("template", "template.sh", [*COMMON, "python3-apt"], REPOSITORY_PACKAGES)
# By Debian release: rpm 4.20 and dnf 4.23, as near as Debian comes to R4.3's rpm 4.20; rpm 4.18 and
# dnf 4.14, as in R4.2; rpm 6.1 and dnf5, as in R4.3.
DOM0_IMAGES = {
    SUITE: DOM0_IMAGE,
    "bookworm": Image("bookworm", "dom0.sh", [*COMMON, *RPM, *DNF4], [], "bookworm"),
    "sid": Image("sid", "dom0.sh", [*COMMON, *RPM, "dnf5"], [], "sid", boots=False),
}


def ensure(images: tuple[Image, ...] = (DOM0_IMAGE, TEMPLATE_IMAGE)) -> None:
    """Build the images that are missing, all at once, and say so.

    Raises:
        LabError: one could not be built; with the end of its log.
    """
    CACHE.mkdir(parents=True, exist_ok=True)
    # Several labs may be started at once: the second one waits for what the first one builds.
    with (CACHE / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        missing = [image for image in images if not image.path.exists()]
        if missing:
            _build(missing)


def _build(missing: list[Image]) -> None:
    names = " and ".join(f"{image.name} ({image.suite})" for image in missing)
    print(
        f"lab: building the images {names} from Debian's packages (once, about a minute)",
        file=sys.stderr,
    )
    builds = [(image, _start(image)) for image in missing]
    failed = [image for image, process in builds if process.wait() != 0]
    if failed:
        log = _log(failed[0]).read_text(errors="replace").strip().splitlines()[-5:]
        raise LabError(
            f"building the {failed[0].name} image failed; is the Debian mirror reachable? "
            f"The end of {_log(failed[0])}:\n" + "\n".join(log)
        )
    for image in missing:
        _pack(image)


def _tree(image: Image) -> Path:
    return CACHE / f"{image.name}.tree"


def _log(image: Image) -> Path:
    return CACHE / f"{image.name}.log"


def _start(image: Image) -> subprocess.Popen[bytes]:
    scratch = image.repository.with_suffix(".new")
    for leftover in (_tree(image), scratch):
        shutil.rmtree(leftover, ignore_errors=True)
    scratch.mkdir()
    with _log(image).open("wb") as log:
        try:
            return subprocess.Popen(
                image.command(_tree(image), scratch),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        except FileNotFoundError as error:
            raise LabError("mmdebstrap is missing on this machine: run `make setup`") from error


def _pack(image: Image) -> None:
    """Turn a finished tree into an ext4 image; the last rename makes it count."""
    scratch = image.path.with_suffix(".new")
    scratch.unlink(missing_ok=True)
    with scratch.open("wb") as handle:
        handle.truncate(ROOT_BYTES)
    run(["mkfs.ext4", "-q", "-F", "-m", "0", "-d", str(_tree(image)), str(scratch)])
    shutil.rmtree(_tree(image))
    shutil.rmtree(image.repository, ignore_errors=True)
    image.repository.with_suffix(".new").rename(image.repository)
    scratch.rename(image.path)
    for old in CACHE.glob(f"{image.name}-*"):
        if old not in (image.path, image.repository):
            shutil.rmtree(old) if old.is_dir() else old.unlink()
