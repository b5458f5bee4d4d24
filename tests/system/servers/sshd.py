"""OpenSSH's server with a host key, a user key and a configuration of its own."""

from __future__ import annotations

import getpass
import os
import tempfile
from pathlib import Path
from shutil import rmtree

from ports import free_port
from programs import Program, find, is_listening, run_client


class Sshd:
    """One sshd that lets the user in who runs the tests, by a key."""

    def __init__(self) -> None:
        # Keys in a folder that nobody else can write to: sshd looks at every folder above it.
        self.folder = Path(tempfile.mkdtemp(prefix="easyproxy-sshd-"))
        self.port = free_port()
        self.address = f"127.0.0.1:{self.port}"
        self._program: Program | None = None
        try:
            self._start()
        except BaseException:
            self.stop()
            raise

    def _start(self) -> None:
        folder = self.folder
        for name in ("host", "user"):
            run_client("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / name))
        (folder / "authorized").write_text((folder / "user.pub").read_text())
        if os.geteuid() == 0:
            Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)  # where sshd separates privileges; it insists
        configuration = folder / "sshd_config"
        configuration.write_text(
            f"Port {self.port}\nListenAddress 127.0.0.1\nHostKey {folder}/host\nPidFile {folder}/pid\n"
            f"AuthorizedKeysFile {folder}/authorized\nStrictModes no\nUsePAM no\nPermitRootLogin yes\n"
            "PasswordAuthentication no\nMaxStartups 100\n"
        )
        self._program = Program(  # sshd starts itself anew for each client, and wants its whole path for that
            [find("sshd"), "-D", "-e", "-f", str(configuration)], folder / "log.txt"
        )
        self._program.wait_until(lambda: is_listening(self.port), "sshd accepts connections")

    def client(self, port: int) -> list[str]:
        """Return the command of an ssh client that knows this server, at another port."""
        known = self.folder / f"known-{port}"
        key = (self.folder / "host.pub").read_text()
        known.write_text(f"[127.0.0.1]:{port} {key}")
        return [
            *(find("ssh"), "-F", "none", "-p", str(port), "-i", str(self.folder / "user")),
            *("-o", "StrictHostKeyChecking=yes", "-o", f"UserKnownHostsFile={known}", "-o", "BatchMode=yes"),
            *("-l", getpass.getuser()),
        ]

    def stop(self) -> None:
        if self._program is not None:
            self._program.stop()
        rmtree(self.folder, ignore_errors=True)
