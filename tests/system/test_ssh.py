"""ssh, rsync and nc through the balancer: protocols in which either side may speak first, pause, or half-close."""

from __future__ import annotations

import hashlib
import os
import random
import socket
import subprocess
import threading
from pathlib import Path

from proxy import simple

from programs import find, run_client


def tree_of(folder: Path) -> dict[str, str]:
    """Return the SHA-256 of every file, by its path."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file()
    }


def plant(folder: Path) -> None:
    """Make a tree with many small files and a few big ones."""
    chance = random.Random(1)
    for number in range(200):
        path = folder / f"d{number % 17}" / f"e{number % 5}" / f"file {number}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(chance.randbytes(chance.randrange(20_000)))
    for number in range(3):
        (folder / f"big-{number}").write_bytes(os.urandom(8_000_000))


def test_ssh_runs_a_command_and_brings_its_output(start, sshd):
    balancer = start(simple({"name": "shell", "address": sshd.address}))
    client = sshd.client(balancer.port())
    out = run_client(*client, "127.0.0.1", "cat; echo done", stdin="x" * 3_000_000)
    assert out == "x" * 3_000_000 + "done\n"
    balancer.wait_for_no_sessions()


def test_rsync_brings_a_tree_there_and_back_unchanged(start, sshd, tmp_path):
    balancer = start(simple({"name": "shell", "address": sshd.address}))
    remote = " ".join(sshd.client(balancer.port()))
    source, there, back = tmp_path / "source", tmp_path / "there", tmp_path / "back"
    plant(source)
    run_client("rsync", "-a", "-e", remote, f"{source}/", f"127.0.0.1:{there}/")
    assert tree_of(there) == tree_of(source)
    run_client("rsync", "-a", "-z", "-e", remote, f"127.0.0.1:{there}/", f"{back}/")
    assert tree_of(back) == tree_of(source)
    # A change is carried over by rsync's own algorithm, which talks both ways at once.
    with (source / "big-0").open("r+b") as file:
        file.seek(4_000_000)
        file.write(b"changed")
    run_client("rsync", "-a", "--no-whole-file", "-I", "-e", remote, f"{source}/", f"127.0.0.1:{there}/")
    assert tree_of(there) == tree_of(source)
    balancer.wait_for_no_sessions()


def test_nc_half_closes_and_gets_the_whole_answer(start):
    """Behaviours 2 and 3, with nc -N: the answer is made only after the client's end was seen."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        address = f"127.0.0.1:{listening.getsockname()[1]}"

        def answer() -> None:
            client, _ = listening.accept()
            with client, client.makefile("rb") as incoming:
                received = incoming.read()
                client.sendall(received[::-1])

        balancer = start(simple({"name": "echo", "address": address}, check={"type": "none"}))
        serving = threading.Thread(target=answer)
        serving.start()
        said = os.urandom(5_000_000)
        done = subprocess.run(
            [find("nc"), "-N", "127.0.0.1", str(balancer.port())],
            input=said,
            capture_output=True,
            timeout=60,
            check=True,
        )
        serving.join()
    assert done.stdout == said[::-1]
    balancer.wait_for_no_sessions()
    assert not any(balancer.status()["ends"].get(word) for word in ("client_reset", "backend_reset"))
