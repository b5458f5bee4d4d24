"""Taking over descriptors as sd_listen_fds(3) describes it."""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket

import pytest

from easyproxy.control.activation import activated


@pytest.fixture
def block():
    """Give descriptors in a row, as systemd does; the test says what stands where."""
    with contextlib.ExitStack() as stack:

        def place(*things: int) -> int:
            first = 200
            for number, thing in enumerate(things, first):
                os.dup2(thing, number)
                stack.callback(_close, number)
            return first

        yield place


def _close(number: int) -> None:
    with contextlib.suppress(OSError):
        os.close(number)


def environment(count: int, names: str = "", pid: int | None = None) -> dict[str, str]:
    return {
        "LISTEN_PID": str(os.getpid() if pid is None else pid),
        "LISTEN_FDS": str(count),
        "LISTEN_FDNAMES": names,
        "PATH": "/bin",
    }


def test_sockets_come_by_address_with_their_names(block, tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as one, socket.socket(socket.AF_UNIX) as two:
        two.bind(str(tmp_path / "two.sock"))
        two.listen()
        first = block(one.fileno(), two.fileno(), one.fileno())
        variables = environment(3, "mysql.socket:two:mysql.socket")
        groups, problems = activated(variables, first)
        assert problems == []
        assert variables == {"PATH": "/bin"}  # they were for this process, not for its children
        assert [(group.name, len(group.sockets)) for group in groups] == [("mysql.socket", 2), ("two", 1)]
        assert groups[0].sockets[0].getsockname() == one.getsockname()
        for sock in (sock for group in groups for sock in group.sockets):
            assert fcntl.fcntl(sock.fileno(), fcntl.F_GETFD) & fcntl.FD_CLOEXEC
            sock.close()


def test_what_is_no_listening_stream_socket_is_named(block, tmp_path):
    with (
        socket.socket() as idle,
        socket.socket(type=socket.SOCK_DGRAM) as datagrams,
        (tmp_path / "file").open("wb") as file,
    ):
        datagrams.bind(("127.0.0.1", 0))
        first = block(file.fileno(), idle.fileno(), datagrams.fileno())
        groups, problems = activated(environment(4, "a:b"), first)
    assert groups == []
    assert [problem.split(" is no ")[0] for problem in problems] == [
        "descriptor 200 (a)",
        "descriptor 201 (b)",
        "descriptor 202 (no name)",
        "descriptor 203 (no name)",
    ]


@pytest.mark.parametrize(
    "variables",
    [
        {},
        environment(1, pid=1),  # for our parent, which forgot to remove them
        {"LISTEN_FDS": "1"},
        {"LISTEN_PID": str(os.getpid())},
        {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": "-1"},
        {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": "many"},
        {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": "\N{ARABIC-INDIC DIGIT ONE}"},
    ],
)
def test_what_was_not_meant_for_us_is_left_alone(variables, block):
    with socket.create_server(("127.0.0.1", 0)) as sock:
        first = block(sock.fileno())
        assert activated(dict(variables), first) == ([], [])
        os.fstat(first)  # still open


@pytest.mark.parametrize("count", ["4", "100000", "9" * 5000])
def test_where_fewer_are_given_than_is_said_nothing_of_our_own_is_taken_or_closed(block, count):
    ours, theirs = socket.socketpair()
    with (
        ours,
        theirs,
        socket.create_server(("127.0.0.1", 0)) as given,
        socket.create_server(("127.0.0.1", 0)) as own,
    ):
        first = block(given.fileno(), ours.fileno())
        own_fd = first + 3  # behind a gap
        os.dup2(own.fileno(), own_fd)
        try:
            groups, problems = activated({**environment(0), "LISTEN_FDS": count}, first)
            os.fstat(first + 1)
            os.fstat(own_fd)
        finally:
            os.close(own_fd)
    assert [len(group.sockets) for group in groups] == [1]
    assert [problem.split(" is no ")[0] for problem in problems] == [
        "descriptor 201 (no name)",
        "descriptor 202 (no name)",
    ]
    groups[0].sockets[0].close()
