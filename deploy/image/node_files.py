"""Puts the node, its libraries and their byte code into the root file system of the image.

The result is a virtual environment as the Pi itself would make it; of its programs, only the
compiler is run. Downloads, and files that take minutes under emulation, are kept in the cache.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from image.lock import CHECKOUT, LOCK, PLATFORM_OPTIONS

__all__ = ["HOME", "PYTHON", "SITE", "NodeFiles", "compile_python"]

HOME = Path("opt/sensor-node")
PYTHON = "3.13"
"""The version of the image's Python."""
SITE = HOME / f"lib/python{PYTHON}/site-packages"
_BUILD_TOOLS = Path(__file__).with_name("build-requirements.txt")
_START = """\
#!/{home}/bin/python3 -I
import sys

from node.cli.main import main

sys.exit(main())
"""


class NodeFiles:
    """The files below `HOME`, in `root`; `work` is for temporary files."""

    def __init__(self, root: Path, work: Path, cache: Path, say: Callable[[str], None]) -> None:
        self._root = root
        self._work = work
        self._cache = cache
        self._say = say

    def add(self, base: str) -> None:
        """Add all files. The Python of `base` compiles them."""
        self._add_libraries(base)
        self._add_node()
        compile_python(self._root, f"/{SITE}/node", f"/{SITE}/drivers")

    def _add_libraries(self, base: str) -> None:
        """Add the packages in the lock file, compiled."""
        kept = self._cache / f"libraries-{_digest(base.encode(), LOCK.read_bytes())}.tar"
        site = self._root / SITE
        site.mkdir(parents=True)
        if not kept.exists():
            self._say("root file system: the libraries; three minutes, once")
            install = self._pip("install", f"--target={site}", "--no-deps", "--no-compile")
            _run(*install, "--require-hashes", f"--requirement={LOCK}", *PLATFORM_OPTIONS)
            shutil.rmtree(site / "bin", ignore_errors=True)
            compile_python(self._root, f"/{SITE}")
            unfinished = kept.with_suffix(".unfinished.tar")
            # The time is not that of this installation, but 1980, as in many a wheel.
            options = ("--sort=name", "--mtime=@315532800", f"--directory={site}")
            _run("tar", "--create", f"--file={unfinished}", *options, ".")
            unfinished.replace(kept)
            shutil.rmtree(site)
            site.mkdir()
        _run("tar", "--extract", f"--file={kept}", f"--directory={site}")

    def _add_node(self) -> None:
        """Add the node itself, and the command that starts it."""
        home = self._root / HOME
        (home / "bin").mkdir()
        (home / "bin/python3").symlink_to("/usr/bin/python3")
        (home / "pyvenv.cfg").write_text(
            "home = /usr/bin\ninclude-system-site-packages = true\nversion = 3.13\n"
        )
        wheel = self._build_wheel()
        own = self._work / "own"
        _run(*self._pip("install", f"--target={own}", "--no-deps", "--no-compile"), wheel)
        shutil.rmtree(own / "bin")
        (notes,) = own.glob("*.dist-info")
        (notes / "direct_url.json").unlink()  # names the wheel's place on this machine
        # RECORD's lines for that file and for bin contain digests of this machine's paths.
        lines = (notes / "RECORD").read_text(encoding="utf-8").splitlines(keepends=True)
        there = [line for line in lines if (own / line.split(",")[0]).exists()]
        (notes / "RECORD").write_text("".join(there), encoding="utf-8")
        shutil.copytree(own, self._root / SITE, dirs_exist_ok=True)
        start = home / "bin/sensor-node"
        start.write_text(_START.format(home=HOME))
        start.chmod(0o755)
        for part in ("README.md", "deploy", "drivers", "node"):
            for file in (CHECKOUT / part, *sorted((CHECKOUT / part).rglob("*.md"))):
                if file.is_file():
                    copy = home / "doc" / file.relative_to(CHECKOUT)
                    copy.parent.mkdir(parents=True, exist_ok=True)
                    shutil.copy(file, copy)
        (self._root / "usr/local/bin/sensor-node").symlink_to(f"/{HOME}/bin/sensor-node")

    def _build_wheel(self) -> Path:
        tools = self._cache / f"build-tools-{_digest(_BUILD_TOOLS.read_bytes())}"
        listed = ("--require-hashes", f"--requirement={_BUILD_TOOLS}")
        if not tools.exists():
            unfinished = tools.with_suffix(".unfinished")
            _run(*self._pip("download", "--no-deps", f"--dest={unfinished}", *listed))
            unfinished.rename(tools)
        _run(*self._pip("install", "--no-index", f"--find-links={tools}", *listed))
        wheels = self._work / "wheels"
        make = self._pip("wheel", "--no-deps", "--no-build-isolation", f"--wheel-dir={wheels}")
        _run(*make, self._clean_checkout())
        (wheel,) = wheels.iterdir()
        return wheel

    def _pip(self, *words: str) -> tuple[object, ...]:
        """Return the command of this machine's pip, in a separate environment."""
        venv = self._work / "venv"
        if not venv.exists():
            _run(sys.executable, "-I", "-m", "venv", venv)
        pip = (venv / "bin/python3", "-I", "-m", "pip", "-qq", "--disable-pip-version-check")
        return (*pip, *words)

    def _clean_checkout(self) -> Path:
        """Return a copy of the wheel's sources, without files that setuptools left behind."""
        copy = self._work / "checkout"
        copy.mkdir()
        for name in ("pyproject.toml", "README.md", "LICENSE"):
            shutil.copy(CHECKOUT / name, copy)
        for name in ("node", "drivers"):
            ignored = shutil.ignore_patterns("__pycache__")
            shutil.copytree(CHECKOUT / name, copy / name, ignore=ignored)
        return copy


def compile_python(root: Path, *folders: str) -> None:
    """Make byte code, which a Pi could not save: its file system is read-only.

    The byte code is hash-based and unchecked, so it does not depend on file times. The base has
    the byte code of Debian's own packages.
    """
    command = ["-P", "-s", "-m", "compileall", "-q", "--invalidation-mode", "unchecked-hash"]
    done = subprocess.run(
        ["chroot", root, "/usr/bin/python3", *command, *folders],
        check=False,
        env={**os.environ, "PYTHONHASHSEED": "0"},
    )
    if done.returncode != 0:
        raise SystemExit(
            "compiling failed; if it says `Exec format error`, this machine cannot run arm64 "
            "programs: apt-get install qemu-user-static binfmt-support"
        )


def _run(*command: object) -> None:
    subprocess.run([str(word) for word in command], check=True)


def _digest(*parts: bytes) -> str:
    return hashlib.sha256(b"\0".join(parts)).hexdigest()[:16]
