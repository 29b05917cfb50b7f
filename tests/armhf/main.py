"""`tests/armhf/run`, once the root file system is made: the installer in it, and what it has left.

Nothing is booted: a stand-in for systemctl accepts everything, and says that nothing runs. So what
is proved is the installation: compilers are fetched, two packages compiled, the commands run.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(CHECKOUT / "tests/fresh"))

from root import Root  # noqa: E402

# ruff: noqa: T201

_LIMIT_S = 4 * 3600.0
_SYSTEMCTL = '#!/bin/sh\\n[ "$1" != is-active ]\\n'
_PREPARE = (
    f"mkdir -p /run/systemd/system && printf '{_SYSTEMCTL}' >/usr/local/sbin/systemctl && "
    "chmod +x /usr/local/sbin/systemctl && ! ls /usr/include/python3*/Python.h 2>/dev/null"
)
_INSTALL = "export PIP_NO_BINARY=msgspec,gpiod; deploy/install.sh --no-start"
_PYTHON = "/opt/sensor-node/current/bin/python -I -c"
_CHECKS = {
    "both were compiled here": f"{_PYTHON} 'import gpiod, gpiod._ext, msgspec._core as core; "
    "print(core.__file__, gpiod._ext.__file__)' && file=$(ls /opt/sensor-node/current/lib/python*/"
    "site-packages/msgspec/_core*.so) && head -c 20 $file | od -An -tx1 | grep -q '7f 45 4c 46 01'",
    "the command runs": "sensor-node --version && sensor-node drivers dht22 >/dev/null",
    "the example is valid": "sensor-node check --config /etc/sensor-node/node.toml",
    "a simulated chip is read": 'printf \'[mqtt]\\nhost = "127.0.0.1"\\n[[sensor]]\\nid = "air"\\n'
    'driver = "bme280"\\n\' >/run/node.toml && sensor-node read --simulate --config /run/node.toml',
}


def main() -> int:
    parser = argparse.ArgumentParser(prog="tests/armhf/run")
    parser.add_argument("tar", type=Path)
    parser.add_argument("--keep", action="store_true")
    arguments = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="armhf-", dir=arguments.tar.parent))
    folder.chmod(0o755)
    bundle = folder / "bundle"
    git = ["git", "-C", str(CHECKOUT), "bundle", "create", "-q", str(bundle), "HEAD"]
    subprocess.run(git, check=True)
    root = Root(folder / "root", arguments.tar, bundle)
    failed = passed = 0
    try:
        steps = {
            "Python's headers are not there": _PREPARE,
            "the installer ends well": _INSTALL,
            **_CHECKS,
        }
        for name, command in steps.items():
            log = folder / "log"
            done = root.run("root", command, log, limit_s=_LIMIT_S)
            good = done.exit_code == 0
            if command == _INSTALL and good:
                good = all(word in done.output for word in ("Debian's gcc", "building msgspec"))
            print(f"{'passed' if good else 'FAILED'}  {done.seconds:6.0f} s  {name}", flush=True)
            if not good or command == _INSTALL:
                print("\n".join(f"    {line}" for line in done.output.splitlines()[-40:]))
            failed += not good
            passed += good
            if not good and command == _INSTALL:
                break
    finally:
        if arguments.keep:
            print(f"kept: {folder}")
        else:
            root.remove()
            bundle.unlink()
            (folder / "log").unlink(missing_ok=True)
            folder.rmdir()
    print(f"{passed} passed, {failed} failed")
    return min(failed, 1)


if __name__ == "__main__":
    sys.exit(main())
