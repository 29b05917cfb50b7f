"""The base of the image: Debian's packages, unpacked and configured for arm64, as one tar.

The base takes ten to twenty minutes on an amd64 machine, which runs the packages' scripts under
qemu-user. So the tar is cached, under a name that is a digest of all its inputs.
"""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path

__all__ = ["SUITE", "base_tar", "words_of"]

SUITE = "trixie"
_KERNEL = "linux-image-arm64"
_HERE = Path(__file__).parent
_KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
_LEFT_OUT_DOCS = ("man", "locale", "info", "doc")
_LEFT_OUT_U_BOOTS = ("rpi_3", "rpi_4")
"""U-Boot for one board each; that for all boards, rpi_arm64, stays."""


def words_of(path: Path) -> list[str]:
    """Return the lines of a list, without comments."""
    lines = (line.partition("#")[0].strip() for line in path.read_text().splitlines())
    return [line for line in lines if line]


def base_tar(cache: Path, say: Callable[[str], None], *, newer_kernel: bool) -> Path:
    """Return the tar of the base; build it if `cache` does not have it.

    `newer_kernel`: use the kernel of Debian's backports.
    """
    packages = words_of(_HERE / "packages.txt")
    if newer_kernel:
        packages[packages.index(_KERNEL)] = f"{_KERNEL}/{SUITE}-backports"
    hooks = _HERE / "hooks"
    parts = (
        _HERE / "packages.txt",
        _HERE / "modules-left-out.txt",
        hooks / "essential",
        hooks / "customize",
        hooks / "trial-deadline",
    )
    content = [part.read_bytes() for part in parts]
    if newer_kernel:
        content.append(b"newer kernel")
    recipe = hashlib.sha256(b"\0".join(content)).hexdigest()
    tar = cache / f"base-{SUITE}-arm64-{recipe[:16]}.tar"
    if tar.exists():
        say(f"base: {tar} is there")
        return tar
    say(f"base: {len(packages)} packages and what they need; ten to twenty minutes, once")
    cache.mkdir(parents=True, exist_ok=True)
    unfinished = tar.with_suffix(".unfinished.tar")
    command = [
        # Its mounts are invisible to other processes, and disappear when it ends, in any way.
        *("unshare", "--mount", "--"),
        "mmdebstrap",
        "--mode=root",
        "--architectures=arm64",
        "--variant=minbase",
        f"--include={','.join(packages)}",
        f"--keyring={_KEYRING}",
        *_dpkg_options(),
        f"--essential-hook={hooks / 'essential'}",
        f"--customize-hook={hooks / 'customize'}",
        SUITE,
        str(unfinished),
        *apt_sources(backports=newer_kernel),
    ]
    with tempfile.TemporaryDirectory(prefix="base-", dir=cache) as work:
        Path(work).chmod(0o755)  # apt fetches as a separate user
        try:
            _run_with_progress(command, say, work)
            unfinished.replace(tar)
        finally:
            unfinished.unlink(missing_ok=True)
    return tar


def apt_sources(*, backports: bool) -> list[str]:
    """Return lines for sources.list: this machine's Debian mirrors, for the image's release."""
    asked = subprocess.run(
        [
            "apt-get",
            "indextargets",
            "--format",
            "$(ORIGIN)\t$(REPO_URI)\t$(RELEASE)",
            "Created-By: Packages",
        ],
        check=True,
        capture_output=True,
        text=True,
    )
    lines = []
    for line in asked.stdout.splitlines():
        origin, uri, release = line.split("\t")
        _, dash, pocket = release.partition("-")
        # Only Debian's own archives, and only the pockets that every release has.
        if origin == "Debian" and pocket in ("", "updates", "security"):
            lines.append(f"deb {uri} {SUITE}{dash}{pocket} main non-free-firmware")
            if backports and not pocket:
                lines.append(f"deb {uri} {SUITE}-backports main")
    if not lines:
        raise SystemExit(
            "base: apt of this machine knows no Debian mirror; run `apt-get update`, and look at "
            "/etc/apt/sources.list.d"
        )
    return sorted(set(lines))


def _dpkg_options() -> list[str]:
    left_out = [f"/usr/share/{name}/*" for name in _LEFT_OUT_DOCS]
    for folder in words_of(_HERE / "modules-left-out.txt"):
        left_out += [
            f"/usr/lib/modules/*/kernel/{folder}/*",
            f"/lib/modules/*/kernel/{folder}/*",
        ]
    options = [f"--dpkgopt=path-exclude={pattern}" for pattern in left_out]
    options += [f"--dpkgopt=path-exclude=/usr/lib/u-boot/{name}/*" for name in _LEFT_OUT_U_BOOTS]
    options.append("--dpkgopt=path-include=/usr/share/doc/*/copyright")
    options.append("--dpkgopt=force-unsafe-io")
    return options


def _run_with_progress(command: list[str], say: Callable[[str], None], work: str) -> None:
    """Run mmdebstrap; pass on its progress messages, without the names of mirrors."""
    seen: list[str] = []
    with subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "TMPDIR": work},
        start_new_session=True,
    ) as process:
        assert process.stdout is not None
        try:
            for line in process.stdout:
                seen.append(line.rstrip())
                if line.startswith("I: ") and "://" not in line:
                    say(f"base: {line[3:].rstrip()}")
        except BaseException:
            os.killpg(process.pid, signal.SIGKILL)
            raise
    if process.returncode != 0:
        raise SystemExit(
            "\n".join([*seen[-30:], f"base: mmdebstrap failed, exit code {process.returncode}"])
        )
