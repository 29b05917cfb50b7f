"""Where an update finds what it needs on the node, and where it writes.

The other parts write `paths.ROOT`, so a place is named here alone.
"""

from __future__ import annotations

from pathlib import Path

__all__ = [
    "ATTEMPTS",
    "CONFIG",
    "CURRENT",
    "DROP_IN",
    "INCOMING",
    "KEYS",
    "LOCK",
    "NOTICE",
    "PACKAGES",
    "RELEASES",
    "ROOT",
    "STATE",
    "TRIAL",
    "TRUST",
    "VERDICT",
]

ROOT = Path("/opt/sensor-node")
RELEASES = ROOT / "releases"
CURRENT = ROOT / "current"
TRIAL = ROOT / "trial.json"
VERDICT = ROOT / "verdict.json"
"""The result of the newest trial."""
CONFIG = Path("/etc/sensor-node/node.toml")
PACKAGES = Path("/etc/sensor-node/packages.txt")
"""The owner's own packages, drivers for example, in pip's format; part of every release."""
LOCK = ROOT / "update.lock"
KEYS = Path("/etc/sensor-node/update-keys")
"""Public keys of minisign (*.pub). Where there is one, only signed bundles are installed."""
TRUST = ROOT / "update-trust.json"
"""What was taken before, so that nothing older is (update_parts/trust.py)."""
INCOMING = ROOT / "incoming"
"""Root's copy of a bundle while it is verified and installed: nobody can change it meanwhile."""
ATTEMPTS = ROOT / "staged-attempts"
"""How often the bundle that the node has staged was begun (update_parts/staged.py)."""
STATE = Path("/var/lib/sensor-node")
DROP_IN = Path("/etc/systemd/system/sensor-node.service.d/packages.conf")
"""The devices that the drivers in PACKAGES need (update_parts/devices.py); that of the running
release (`releases.DEVICES`)."""
NOTICE = STATE / "update-undone"
"""A sentence for the `problems` of the node's health (node/system/update_notice.py)."""
