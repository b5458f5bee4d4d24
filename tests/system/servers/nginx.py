"""nginx: says its name at ``/name``, serves and takes files elsewhere, and can be killed and started again."""

from __future__ import annotations

import os
from pathlib import Path

from ports import free_port
from programs import Program, is_listening

# One process: killing it is a crash of the whole server. Every path inside the folder, so that it runs for anybody.
_CONFIGURATION = """
daemon off;
master_process off;
pid {folder}/nginx.pid;
{user}
worker_rlimit_nofile 8192;
events {{ worker_connections 4096; }}
http {{
    access_log off;
    default_type application/octet-stream;
    client_max_body_size 0;
    keepalive_requests {keepalive_requests};
    keepalive_timeout 1h;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    server {{
        listen 127.0.0.1:{port} backlog=4096;
        location = /name {{ return 200 "{name}\\n"; }}
        location / {{ root {folder}/files; dav_methods PUT DELETE; create_full_put_path on; }}
    }}
}}
"""


class Nginx:
    """One nginx. ``files`` is the folder that it serves and that uploads go to."""

    def __init__(self, name: str, folder: Path, *, keepalive_requests: int = 1_000_000) -> None:
        self.name = name
        self.folder = folder
        self.port = free_port()
        self.files = folder / "files"
        self.files.mkdir(parents=True)
        (self.files / "health").write_text("well\n")
        self._configuration = folder / "nginx.conf"
        self._configuration.write_text(
            _CONFIGURATION.format(
                folder=folder,
                name=name,
                port=self.port,
                user="user root;" if os.geteuid() == 0 else "",
                keepalive_requests=keepalive_requests,
            )
        )
        self._program: Program | None = None

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def errors(self) -> str:
        """Its error log."""
        return (self.folder / "error.log").read_text(errors="replace")

    @property
    def is_running(self) -> bool:
        return self._program is not None

    def start(self) -> None:
        self._program = Program(
            [
                "nginx",
                "-p",
                str(self.folder),
                "-e",
                str(self.folder / "error.log"),
                "-c",
                str(self._configuration),
            ],
            self.folder / "output.txt",
        )
        self._program.wait_until(lambda: is_listening(self.port), "nginx accepts connections")

    def kill(self) -> None:
        """Crash it."""
        assert self._program is not None
        self._program.kill()
        self._program = None

    def stop(self) -> None:
        if self._program is not None:
            self._program.stop()
            self._program = None
