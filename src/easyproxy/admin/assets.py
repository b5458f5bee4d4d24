"""The files of the status page, read once from the package (a wheel or a checkout) and served from memory.

Only names that were found at the start are known, so no request can name a file elsewhere.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from importlib import resources

_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}


@dataclass(frozen=True, slots=True)
class Asset:
    """One file: its bytes, its media type, and a tag that changes with the content (RFC 9110, section 8.8.3)."""

    body: bytes
    media_type: str
    etag: str


def load_assets() -> dict[str, Asset]:
    """Read every file of ``admin/static`` with a known ending, by its name."""
    assets = {}
    for file in resources.files("easyproxy.admin").joinpath("static").iterdir():
        media_type = _TYPES.get("." + file.name.rpartition(".")[2])
        if media_type is not None:
            body = file.read_bytes()
            assets[file.name] = Asset(body, media_type, f'"{hashlib.sha256(body).hexdigest()[:16]}"')
    return assets
