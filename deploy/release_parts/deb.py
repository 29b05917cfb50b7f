"""The Debian package: its files, as `deploy/install.sh` would place them, and the archive.

/usr/lib/sensor-node is a virtual environment on Debian's own python3. One package serves Debian 12
(Python 3.11) and 13 (3.13), and stays right when a computer goes from one to the other: compiled
modules of both lie in one folder, as in Debian's own packages, since their names have the version
(PEP 3149). The maintainer scripts are in `deploy/debian`.
"""

from __future__ import annotations

import gzip
import hashlib
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
from email.message import Message
from email.parser import Parser
from pathlib import Path

from image.lock import CHECKOUT, DEBIAN_LOCK, platform_options

__all__ = ["ARCHITECTURES", "CHECKOUT", "Impossible", "build", "fetch", "require_pip"]

ARCHITECTURES = {"amd64": "x86_64", "arm64": "aarch64"}
"""Debian's names of processors, and those of wheels."""

_PARTS = CHECKOUT / "deploy" / "debian"
_PYTHONS = ("3.11", "3.13")
_PYTHON_DEPENDENCY = "python3 (>= 3.11), python3 (<< 3.14), python3 (<< 3.12) | python3 (>= 3.13)"
_LIBC = "2.28"
"""Of the newest platform of wheels that `platform_options` allows."""
_MAINTAINER = "the sensor-node contributors <sensor-node@localhost>"
_HOME = Path("usr/lib/sensor-node")
_SITE = _HOME / "lib/python3/site-packages"
_DOC = Path("usr/share/doc/sensor-node")
_PROGRAMS = ("sensor-node.service", "sensor-node-web.service")
_UNITS = (
    *_PROGRAMS,
    "sensor-node-config.path",
    "sensor-node-config.service",
    "sensor-node-alarm.socket",
    "sensor-node-alarm@.service",
)
_START = """\
#!/usr/lib/sensor-node/bin/python3 -I
import sys

from node.cli.main import main

sys.exit(main())
"""
_OWN_PACKAGES = "/usr/local/lib/sensor-node"
_NEVER_TAKEN = {"RECORD", "INSTALLER", "REQUESTED", "direct_url.json"}
"""Files of a .dist-info by which pip would remove what belongs to dpkg."""


class Impossible(Exception):
    """The package cannot be made; the message says why."""


def build(*, wheel: Path, architecture: str, output: Path, cache: Path, epoch: int) -> Path:
    """Make the package of the node's own `wheel`, and return its path.

    `epoch`: the time of all files in it, in seconds. The compression is that of dpkg-deb, which
    DPKG_DEB_COMPRESSOR_TYPE may change.

    Raises:
        Impossible: a wheel does not fit, or two wheels have different files of one name.
        subprocess.CalledProcessError: pip or dpkg-deb has failed.
    """
    version = debian_version(wheel.name.split("-")[1])
    wheels = fetch(architecture, cache)
    output.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="build-deb-") as work:
        root = Path(work, "root")
        site = root / _SITE
        site.mkdir(parents=True)
        for each in (*wheels, wheel):
            unpack(each, site)
        add_environment(root)
        add_system_files(root)
        add_documents(root, version, epoch)
        add_control(root, version, architecture)
        set_modes_and_times(root, epoch)
        target = output / f"sensor-node_{version}_{architecture}.deb"
        run(
            *("dpkg-deb", "--root-owner-group", "--build", str(root), str(target)),
            SOURCE_DATE_EPOCH=str(epoch),
            DPKG_DEB_THREADS_MAX="1",  # more make other archives of the same files
        )
    return target


def debian_version(version: str) -> str:
    """Return the version of a wheel (PEP 440) as dpkg orders it: 0.2.0rc1 is before 0.2.0."""
    return re.sub(r"\.?(a|b|rc|dev)(?=\d)", r"~\1", version)


def require_pip() -> None:
    """Make sure that pip is there; Debian's python3 comes without it.

    Raises:
        Impossible: it is not; the message says what to do.
    """
    if importlib.util.find_spec("pip") is None:
        raise Impossible(f"{sys.executable} has no pip: sudo apt install python3-pip")


def fetch(architecture: str, cache: Path) -> list[Path]:
    """Return the wheels of the lock file for this processor; fetch those not in the cache.

    Raises:
        Impossible: there is no pip.
    """
    digest = hashlib.sha256(DEBIAN_LOCK.read_bytes()).hexdigest()[:8]
    folder = cache / f"deb-wheels-{architecture}-{digest}"
    if not folder.exists():
        require_pip()
        unfinished = folder.with_name(f"{folder.name}.unfinished")
        shutil.rmtree(unfinished, ignore_errors=True)
        for python in _PYTHONS:
            run(
                *(sys.executable, "-I", "-m", "pip", "download", "-qq", "--no-deps"),
                *("--disable-pip-version-check", "--require-hashes", f"--dest={unfinished}"),
                *platform_options(ARCHITECTURES[architecture], python),
                f"--requirement={DEBIAN_LOCK}",
            )
        unfinished.replace(folder)
    return sorted(folder.glob("*.whl"))


def unpack(wheel: Path, site: Path) -> None:
    """Unpack what a wheel has for the folder of modules; its scripts are left out.

    Raises:
        Impossible: another wheel has another file of the same name.
    """
    with zipfile.ZipFile(wheel) as archive:
        for member in archive.infolist():
            top, _, rest = member.filename.partition("/")
            if member.is_dir() or top.endswith(".data"):
                if top.endswith(".data") and rest.startswith(("purelib/", "platlib/")):
                    raise Impossible(f"{wheel.name} has {member.filename}, which is not placed")
                continue
            if top.endswith(".dist-info") and Path(rest).name in _NEVER_TAKEN:
                continue
            content, target = archive.read(member), site / member.filename
            if target.exists() and target.read_bytes() != content and not rest.endswith("WHEEL"):
                raise Impossible(f"two wheels have different {member.filename} ({wheel.name})")
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(content)


def add_environment(root: Path) -> None:
    """Make a virtual environment of the modules, for each of Debian's Pythons, and the command."""
    home = root / _HOME
    (home / "bin").mkdir()
    (home / "bin/python3").symlink_to("../../../bin/python3")
    # The system's packages are needed for Raspberry Pi OS's python3-lgpio.
    (home / "pyvenv.cfg").write_text("home = /usr/bin\ninclude-system-site-packages = true\n")
    for python in _PYTHONS:
        (home / f"lib/python{python}").symlink_to("python3")
    (root / _SITE / "sensor-node-own.pth").write_text(f"{_OWN_PACKAGES}\n")
    place(_START, home / "bin/sensor-node", mode=0o755)
    (root / "usr/bin").mkdir()
    (root / "usr/bin/sensor-node").symlink_to("../lib/sensor-node/bin/sensor-node")
    place((_PARTS / "take-over").read_text(encoding="utf-8"), home / "take-over", mode=0o755)
    rtupdate = root / "usr/share/python3/runtime.d/sensor-node.rtupdate"
    place((_PARTS / "rtupdate").read_text(encoding="utf-8"), rtupdate, mode=0o755)


def add_system_files(root: Path) -> None:
    """Add the units, the user, the rules of udev, and what shells and man read."""
    deploy = CHECKOUT / "deploy"
    for name in _UNITS:
        text = with_paths_of_the_package((deploy / name).read_text(encoding="utf-8"))
        text = with_condition(text) if name in _PROGRAMS else text
        place(text, root / "usr/lib/systemd/system" / name)
    for source, target in {
        "sensor-node.sysusers": "usr/lib/sysusers.d/sensor-node.conf",
        "debian/tmpfiles": "usr/lib/tmpfiles.d/sensor-node.conf",
        "sensor-node.rules": "usr/lib/udev/rules.d/90-sensor-node.rules",
        "completion/sensor-node": "usr/share/bash-completion/completions/sensor-node",
        "completion/_sensor-node": "usr/share/zsh/vendor-completions/_sensor-node",
        "debian/lintian-overrides": "usr/share/lintian/overrides/sensor-node",
    }.items():
        place((deploy / source).read_text(encoding="utf-8"), root / target)
    manual = (deploy / "man/sensor-node.1").read_bytes()
    place_compressed(manual, root / "usr/share/man/man1/sensor-node.1.gz")


def with_paths_of_the_package(text: str) -> str:
    """Return a text of `deploy` with the places that this package has for the same.

    Raises:
        Impossible: it names something else below /opt/sensor-node.
    """
    text = text.replace("/opt/sensor-node/bin/sensor-node", "/usr/bin/sensor-node")
    text = re.sub("/opt/sensor-node/(current/)?bin/python ", f"/{_HOME}/bin/python3 ", text)
    text = text.replace("/opt/sensor-node/alarm_hook.py", f"/{_SITE}/node/alarms/hook.py")
    text = text.replace("/opt/sensor-node/doc/", f"/{_DOC}/")
    if left := re.search(r"\S*/opt/sensor-node/\S*", text):
        raise Impossible(f"{left[0]} is not in the package")
    return text


def with_condition(unit: str) -> str:
    """Return the unit, which is passed over, without a failure, while there is nothing to run."""
    condition = "ConditionPathExists=/etc/sensor-node/node.toml\n"
    return unit.replace("StartLimitIntervalSec=0\n", f"{condition}StartLimitIntervalSec=0\n", 1)


def add_documents(root: Path, version: str, epoch: int) -> None:
    """Add the documents, in the folders that their links name, licences and changelog."""
    doc = root / _DOC
    for part in ("README.md", "deploy", "drivers", "node"):
        source = CHECKOUT / part
        files = [source] if source.is_file() else sorted(source.rglob("*.md"))
        for file in (*files, *sorted(source.glob("wiring/*.svg"))):
            target = doc / file.relative_to(CHECKOUT)
            place(file.read_text(encoding="utf-8"), target)
    example = (CHECKOUT / "deploy/node.toml").read_text(encoding="utf-8")
    place(with_paths_of_the_package(example), doc / "examples/node.toml")
    place(copyright_of(root / _SITE), doc / "copyright")
    changes = (CHECKOUT / ".github/CHANGELOG.md").read_bytes()
    place_compressed(changes, doc / "CHANGELOG.md.gz")
    day = time.strftime("%a, %d %b %Y %H:%M:%S +0000", time.gmtime(epoch))
    entry = f"sensor-node ({version}) unstable; urgency=medium\n\n  * See CHANGELOG.md.gz.\n\n"
    place_compressed(f"{entry} -- {_MAINTAINER}  {day}\n".encode(), doc / "changelog.gz")


def copyright_of(site: Path) -> str:
    """Return the licences: ours, and those that the packages in the folder state of themselves."""
    text = (_PARTS / "copyright").read_text(encoding="utf-8")
    for metadata in sorted(site.glob("*.dist-info/METADATA")):
        facts = Parser().parsestr(metadata.read_text(encoding="utf-8"), headersonly=True)
        if facts["Name"] != "pi-sensor-node":
            text += f" {facts['Name']} {facts['Version']}: {licence(facts)}\n"
    return text


def licence(facts: Message) -> str:
    """Return the licence that the metadata of a package name, in a line."""
    if facts["License-Expression"]:
        return str(facts["License-Expression"])
    classifiers = facts.get_all("Classifier") or []
    found = [each.rsplit("::", 1)[1].strip() for each in classifiers if each.startswith("License")]
    if found:
        return "; ".join(found)
    return (facts["License"] or "see its own files").splitlines()[0]


def add_control(root: Path, version: str, architecture: str) -> None:
    """Add what dpkg reads: the facts, the sums of all files, and the scripts."""
    files = sorted(file for file in root.rglob("*") if file.is_file() and not file.is_symlink())
    size_kb = sum(max(1, (file.stat().st_size + 1023) // 1024) for file in files)
    sums = [
        f"{hashlib.md5(file.read_bytes()).hexdigest()}  {file.relative_to(root)}\n"
        for file in files
    ]
    values = {
        "VERSION": version,
        "ARCHITECTURE": architecture,
        "MAINTAINER": _MAINTAINER,
        "SIZE": str(size_kb),
        "PYTHON": _PYTHON_DEPENDENCY,
        "LIBC": _LIBC,
    }
    text = (_PARTS / "control").read_text(encoding="utf-8")
    control = re.sub(r"@(\w+)@", lambda found: values[found[1]], text)
    place(control, root / "DEBIAN/control")
    place("".join(sums), root / "DEBIAN/md5sums")
    for name in ("preinst", "postinst", "prerm", "postrm"):
        place((_PARTS / name).read_text(encoding="utf-8"), root / "DEBIAN" / name, mode=0o755)


def place(text: str, target: Path, *, mode: int = 0o644) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(text, encoding="utf-8")
    target.chmod(mode)


def place_compressed(content: bytes, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(gzip.compress(content, compresslevel=9, mtime=0))


def set_modes_and_times(root: Path, epoch: int) -> None:
    """Leave nothing of this computer's umask and clock in the files."""
    for path in (root, *root.rglob("*")):
        if path.is_dir() and not path.is_symlink():
            path.chmod(0o755)
        elif not path.is_symlink():
            path.chmod(0o755 if path.stat().st_mode & 0o100 else 0o644)
        os.utime(path, (epoch, epoch), follow_symlinks=False)


def run(*command: str, **environment: str) -> None:
    """Run the program, whose output goes to standard error."""
    subprocess.run(command, check=True, stdout=sys.stderr, env={**os.environ, **environment})
