"""The bill of materials: what the release's files are made of, as SPDX 2.3 (ISO/IEC 5962) in JSON.

The Debian packages are those of the image's manifest, the Python packages those of the lock file,
each with the sha256 of its wheel. Licences are not judged here: the image has Debian's copyright
files (/usr/share/doc), a wheel its own.
"""

from __future__ import annotations

import re
import uuid
from typing import Any
from urllib.parse import quote

__all__ = ["bill_of_materials"]

_LOCKED = re.compile(r"^([\w.-]+)==(\S+)((?: --hash=sha256:[0-9a-f]{64})+)$", re.M)
_SPACE = uuid.UUID("0b9a7b0e-6f0c-4f63-9c5a-6f5b4f0a7a11")
_HOME = "https://spdx.org/spdxdocs"


def bill_of_materials(
    *,
    version: str,
    created: str,
    files: dict[str, str],
    lock: str,
    manifest: dict[str, Any] | None,
) -> dict[str, Any]:
    """Return the document.

    `files`: the release's own files and their sha256. `lock`: the text of requirements-arm64.txt,
    and of other locks of the same versions. `manifest`: the image's; None for a release without it.
    """
    own = [
        _package("File", name, version, purl="", digests=[digest])
        for name, digest in sorted(files.items())
    ]
    parts = [
        _package("PyPI", name, number, purl=f"pkg:pypi/{name}@{quote(number)}", digests=digests)
        for (name, number), digests in _locked(lock).items()
    ]
    for name, number in sorted((manifest or {}).get("debian_packages", {}).items()):
        purl = f"pkg:deb/debian/{quote(name)}@{quote(number, safe='')}?distro=debian-13"
        parts.append(_package("Debian", name, number, purl=purl, digests=[]))
    described = [_relation("SPDXRef-DOCUMENT", "DESCRIBES", each["SPDXID"]) for each in own]
    image = [each["SPDXID"] for each in own if each["name"].endswith(".img.xz")]
    # Without the image, the wheel is what needs the Python packages.
    whole = image or [each["SPDXID"] for each in own if each["name"].endswith(".whl")]
    kind = "CONTAINS" if image else "DEPENDS_ON"
    space = uuid.uuid5(_SPACE, repr(sorted(files.items())))
    return {
        "spdxVersion": "SPDX-2.3",
        "dataLicense": "CC0-1.0",
        "SPDXID": "SPDXRef-DOCUMENT",
        "name": f"sensor-node {version}",
        "documentNamespace": f"{_HOME}/sensor-node-{space}",
        "creationInfo": {"created": created, "creators": ["Tool: sensor-node-deploy-release"]},
        "packages": own + parts,
        "relationships": described
        + [_relation(above, kind, part["SPDXID"]) for above in whole for part in parts],
    }


def _locked(lock: str) -> dict[tuple[str, str], list[str]]:
    """Return the sha256 of each wheel by name and version; some have one for each processor."""
    found: dict[tuple[str, str], list[str]] = {}
    for name, number, hashes in _LOCKED.findall(lock):
        digests = found.setdefault((name, number), [])
        digests += [d for d in re.findall("[0-9a-f]{64}", hashes) if d not in digests]
    return found


def _package(
    origin: str, name: str, version: str, *, purl: str, digests: list[str]
) -> dict[str, Any]:
    package: dict[str, Any] = {
        "SPDXID": f"SPDXRef-{origin}-{re.sub('[^A-Za-z0-9.-]', '-', name)}",
        "name": name,
        "versionInfo": version,
        "downloadLocation": "NOASSERTION",
        "filesAnalyzed": False,
        "licenseConcluded": "NOASSERTION",
        "licenseDeclared": "NOASSERTION" if purl else "MIT",
        "copyrightText": "NOASSERTION",
    }
    if digests:
        package["checksums"] = [{"algorithm": "SHA256", "checksumValue": d} for d in digests]
    if purl:
        package["externalRefs"] = [
            {
                "referenceCategory": "PACKAGE-MANAGER",
                "referenceType": "purl",
                "referenceLocator": purl,
            }
        ]
    return package


def _relation(one: str, kind: str, other: str) -> dict[str, str]:
    return {"spdxElementId": one, "relationshipType": kind, "relatedSpdxElement": other}
