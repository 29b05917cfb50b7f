"""Prints what the parts of Home Assistant that are set up here need beside its own requirements.

Run by Home Assistant's own Python. It would install them when they are first used; but then it
would have to reach a package index while it is tested.
"""

import json
from pathlib import Path

import homeassistant
from homeassistant.bootstrap import DEFAULT_INTEGRATIONS

# ruff: noqa: T201

USED = {*DEFAULT_INTEGRATIONS, "config", "hassio", "history", "isal", "mqtt", "onboarding"}
VOICE = {"assist_pipeline"}  # its requirements want a compiler

components = Path(homeassistant.__file__).parent / "components"
waiting, seen, requirements = set(USED), set(VOICE), set()
while waiting:
    name = waiting.pop()
    manifest = components / name / "manifest.json"
    if name in seen or not manifest.exists():
        continue
    seen.add(name)
    content = json.loads(manifest.read_text())
    waiting.update(content.get("dependencies", []))
    requirements.update(content.get("requirements", []))
print("\n".join(sorted(requirements)))
