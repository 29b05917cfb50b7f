"""A pristine Debian, unpacked from a tar, in which commands are run as in a machine of its own.

Each command has its own processes, mounts, /proc, /dev and /dev/shm; the network is this machine's,
because packages come from there. The root is entered by pivot_root, not by chroot, in which the
kernel makes no user namespaces.
"""

from __future__ import annotations

import contextlib
import os
import pty
import re
import shutil
import subprocess
import sys
import termios
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from registries import bring_registries, proxies

__all__ = ["CLONES", "USER", "Done", "Root"]

USER = "visitor"
CLONES = {"root": "/srv/sensor-node", USER: f"/home/{USER}/sensor-node"}
_HOMES = {"root": "/root", USER: f"/home/{USER}"}
_LEFT = "left behind: "
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_PATH_OF_USER = "/usr/local/bin:/usr/bin:/bin:/usr/local/games:/usr/games"
_ESCAPE = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|\x1b[()][A-Z0-9]|\x1b[=>]")

# bash, as process 1: it waits for whatever ends, and at the end tells what has not.
_INIT = r"""
root=$1 who=$2 folder=$3 home=$4 path=$5 command=$6
set -e
mount --bind "$root" "$root"
cd "$root"
mount -t proc proc proc
mount -t sysfs sysfs sys
mount -t tmpfs -o mode=755 tmpfs dev
mkdir dev/pts dev/shm
mount -t devpts -o newinstance,ptmxmode=0666,mode=620 devpts dev/pts
mount -t tmpfs -o mode=1777 tmpfs dev/shm
for device in "null 3" "zero 5" "full 7" "random 8" "urandom 9"; do
    mknod -m 666 "dev/${device% *}" c 1 "${device#* }"
done
mknod -m 666 dev/tty c 5 0
ln -s pts/ptmx dev/ptmx
ln -s /proc/self/fd dev/fd
ln -s fd/0 dev/stdin
ln -s fd/1 dev/stdout
ln -s fd/2 dev/stderr
mkdir -p .host
pivot_root . .host
export PATH=$path HOME=$home
hash -r
cd /
/bin/umount -l /.host
/bin/rmdir /.host
shopt -s nullglob
before=" $(echo /tmp/* /dev/shm/*) "
cd "$folder"
set +e
if [[ $who == root ]]; then
    bash -c "$command"
else
    setpriv --reuid="$who" --regid="$who" --init-groups bash -c "$command"
fi
code=$?
for ((try = 0; try < 20; try++)); do
    left=()
    for process in /proc/[1-9]*; do
        words=()
        mapfile -d '' -t words 2>/dev/null <"$process/cmdline" || true
        [[ ${process#/proc/} == 1 ]] || ((!${#words[@]})) || left+=("process ${words[*]}")
    done
    ((${#left[@]})) || break
    sleep 0.1
done
for file in /tmp/* /dev/shm/*; do
    [[ $before == *" $file "* ]] || left+=("file $file")
done
for one in "${left[@]}"; do echo "LEFT$one"; done
exit "$code"
""".replace("LEFT", _LEFT)


@dataclass
class Done:
    """A command that has ended."""

    exit_code: int | None
    """None: it was ended when its time was over."""
    seconds: float
    output: str
    left: list[str] = field(default_factory=list)
    """Processes and files that it left, each as a line."""


class Root:
    """Made of `tar` in `folder`; `bundle`: the commit, as git packs it."""

    def __init__(self, folder: Path, tar: Path, bundle: Path) -> None:
        self._folder = folder
        folder.mkdir()
        subprocess.run(["tar", "-xf", tar, "-C", folder], check=True)
        bring_registries(folder)
        # Services are not started: the network is this machine's.
        refuse = folder / "usr/sbin/policy-rc.d"
        refuse.write_text("#!/bin/sh\nexit 101\n")
        refuse.chmod(0o755)
        # It is thrown away: dpkg need not wait for the disk after each file.
        (folder / "etc/dpkg/dpkg.cfg.d/unsafe-io").write_text("force-unsafe-io\n")
        shutil.copy(bundle, folder / "srv/sensor-node.bundle")
        self._inside("root", "/", f"useradd --create-home --shell /bin/bash {USER}")
        for who, clone in CLONES.items():
            git = "git -c advice.detachedHead=false clone -q"
            self._inside(who, "/", f"{git} /srv/sensor-node.bundle {clone}")

    def _inside(self, who: str, folder: str, command: str) -> None:
        log = self._folder.with_suffix(".log")
        done = self._run(who, folder, command, log, 120)
        assert done.exit_code == 0, f"{command}: exit code {done.exit_code}: {done.output}"

    def run(
        self,
        who: str,
        command: str,
        log: Path,
        *,
        limit_s: float,
        until: Callable[[str], bool] | None = None,
    ) -> Done:
        """Run it in the clone of `who`. `until`: at a terminal, with Ctrl-C when that is true."""
        return self._run(who, CLONES[who], command, log, limit_s, until)

    def _run(
        self,
        who: str,
        folder: str,
        command: str,
        log: Path,
        limit_s: float,
        until: Callable[[str], bool] | None = None,
    ) -> Done:
        path = _PATH if who == "root" else _PATH_OF_USER
        words = [
            # It goes when this process does, however that ends; and all that is in it with it.
            *("setpriv", "--pdeathsig=KILL", "--"),
            *("unshare", "--mount", "--pid", "--ipc", "--uts", "--fork", "--kill-child", "--"),
            *("bash", "-c", _INIT, "init", str(self._folder), who, folder, _HOMES[who], path),
            command,
        ]
        environment = {"PATH": _PATH, "TERM": "xterm", **proxies()}
        began_s = time.monotonic()
        with log.open("wb") as stream:
            stream.write(f"# {who}, in {folder}:\n{command}\n\n".encode())
            stream.flush()
            if until is None:
                process = subprocess.Popen(
                    words,
                    stdin=subprocess.DEVNULL,
                    stdout=stream,
                    stderr=stream,
                    env=environment,
                )
                code = _wait(process, limit_s)
        if until is not None:
            code = _at_terminal(words, environment, log, limit_s, until)
        output = log.read_text(errors="replace").partition("\n\n")[2]
        lines = output.splitlines()
        left = [line.removeprefix(_LEFT) for line in lines if line.startswith(_LEFT)]
        return Done(code, time.monotonic() - began_s, output, left)

    def remove(self) -> None:
        """Its mounts are gone with the processes that had them."""
        shutil.rmtree(self._folder)
        self._folder.with_suffix(".log").unlink(missing_ok=True)


def _wait(process: subprocess.Popen[bytes], limit_s: float) -> int | None:
    try:
        return process.wait(limit_s)
    except subprocess.TimeoutExpired:
        return None
    finally:
        process.kill()
        process.wait()


def _at_terminal(
    words: list[str],
    environment: dict[str, str],
    log: Path,
    limit_s: float,
    until: Callable[[str], bool],
) -> int | None:
    """Run it as at a terminal of 120 x 40; press Ctrl-C once, when `until` says so."""
    ours, its = pty.openpty()
    termios.tcsetwinsize(its, (40, 120))
    deadline_s = time.monotonic() + limit_s
    process = subprocess.Popen(
        ["setsid", "--ctty", *words],
        stdin=its,
        stdout=its,
        stderr=its,
        env=environment,
    )
    os.close(its)
    seen = ""
    pressed = False
    os.set_blocking(ours, False)
    try:
        with log.open("a") as stream:
            while time.monotonic() < deadline_s:
                ended = process.poll() is not None
                with contextlib.suppress(BlockingIOError, OSError):
                    while piece := os.read(ours, 65536):
                        text = _ESCAPE.sub("", piece.decode(errors="replace")).replace("\r", "")
                        stream.write(text)
                        seen += text
                if ended:
                    return process.returncode
                if not pressed and until(seen):
                    os.write(ours, b"\x03")
                    pressed = True
                time.sleep(0.1)
            return None
    finally:
        process.kill()
        process.wait()
        os.close(ours)
