"""The repository for Raspberry Pi Imager 2: one JSON file that offers the image with its dialogs.

The fields are those of Imager's doc/json-schema/os-list-schema.json and doc/schema-notes.md;
`devices`, at both places, are as in the list of Raspberry Pi itself. Imager shows its dialogs for
Wi-Fi, host name and SSH only for an image whose `init_format` it knows (its
doc/os_customisation_formats.md): with "cloudinit", which 1.8 knows too, it writes the files that
`deploy/image/root/usr/lib/sensor-node/imager.py` takes over.
"""

from __future__ import annotations

from typing import Any

__all__ = ["os_list"]

_BOARDS = (
    ("Raspberry Pi 4", "Models 4 B, 400 and Compute Module 4", "pi4-64bit"),
    ("Raspberry Pi 3", "Models 3 A+, 3 B, 3 B+ and Compute Module 3", "pi3-64bit"),
    ("Raspberry Pi Zero 2 W", "Zero 2 W", "pi3-64bit"),
)
_PI_5 = ("Raspberry Pi 5", "Models 5, 500 and Compute Module 5", "pi5-64bit")


def os_list(
    *,
    version: str,
    url: str,
    released: str,
    manifest: dict[str, Any],
    compressed: tuple[int, str],
    pi5: bool,
) -> dict[str, Any]:
    """Return the content of the file.

    `url`: of the compressed image, which may be on this computer (file://). `released`: a day,
    2026-11-29. `manifest`: the image's own, with its size and digest. `compressed`: the size in
    bytes and the sha256 of the compressed image.
    """
    boards = (_PI_5, *_BOARDS) if pi5 else _BOARDS
    size, digest = compressed
    image = {
        "name": f"sensor-node {version}",
        "description": "Temperature sensors by MQTT: Debian 13 and the node, 64-bit",
        "icon": "",
        "url": url,
        "release_date": released,
        "extract_size": manifest["bytes"],
        "extract_sha256": manifest["sha256"],
        "image_download_size": size,
        "image_download_sha256": digest,
        "devices": sorted({tag for _, _, tag in boards}),
        "init_format": "cloudinit",
        "architecture": "armv8",
    }
    devices = [
        {
            "name": name,
            "description": description,
            "icon": "",
            "tags": [tag],
            "default": False,
            "matching_type": "inclusive",
        }
        for name, description, tag in boards
    ]
    return {"imager": {"devices": devices}, "os_list": [image]}
