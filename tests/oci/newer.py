"""Builds the Debian package of version 0.2.0 of this code into FOLDER/debs, for tests/oci/run."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(CHECKOUT / "tests/service"))

from versions import write_version  # noqa: E402


def main() -> None:
    folder = Path(sys.argv[1])
    pip = [sys.executable, "-m", "pip", "wheel", "-qq", "--no-deps", "-w", str(folder)]
    subprocess.run([*pip, str(CHECKOUT)], check=True)
    (base,) = folder.glob("*.whl")
    (folder / "debs").mkdir()
    wheel = write_version(base, folder / "debs", "0.2.0")
    build = [str(CHECKOUT / "deploy/build-deb"), "--wheel", str(wheel)]
    subprocess.run([*build, "--output", str(folder / "debs")], check=True)


if __name__ == "__main__":
    main()
