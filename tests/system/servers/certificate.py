"""A certificate that a server shows and nobody trusts: enough for a connection that nobody else can read."""

from __future__ import annotations

from pathlib import Path

from programs import run_client


def certify(folder: Path) -> tuple[Path, Path]:
    """Make a key and its self-signed certificate in a folder; return both."""
    key, certificate = folder / "server.key", folder / "server.crt"
    run_client(
        *("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost"),
        *("-keyout", str(key), "-out", str(certificate)),
    )
    key.chmod(0o600)
    return key, certificate
