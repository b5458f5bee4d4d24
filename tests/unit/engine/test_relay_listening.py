"""Opening listening sockets: what is taken, what is refused, and what is said."""

from __future__ import annotations

import contextlib
import grp
import os
import socket
import stat

import pytest

from easyproxy.engine.relay.inherited import LentSocket
from easyproxy.engine.relay.listening import open_listener, share, tune
from easyproxy.errors import EngineError
from easyproxy.model import Address, Listener


@contextlib.contextmanager
def opened(bind: Address, **settings):
    with open_listener(Listener("front", bind, "p", **settings)) as sock:
        yield sock


def has_ipv6() -> bool:
    try:
        with socket.socket(socket.AF_INET6) as sock:
            sock.bind(("::1", 0))
    except OSError:
        return False
    return True


IPV6 = pytest.mark.skipif(not has_ipv6(), reason="this machine has no IPv6")


def reaches(where, family=socket.AF_INET) -> bool:
    with socket.socket(family, socket.SOCK_STREAM) as sock:
        sock.settimeout(10)
        try:
            sock.connect(where)
        except ConnectionRefusedError:
            return False
        return True


def test_port_0_gives_a_port_of_the_systems_choice():
    with opened(Address("127.0.0.1", 0)) as sock:
        assert sock.getsockname()[1] > 0
        assert reaches(sock.getsockname())


def test_a_port_in_use_is_refused_with_what_to_do():
    with opened(Address("127.0.0.1", 0)) as sock:
        port = sock.getsockname()[1]
        with pytest.raises(EngineError, match=f"listener front: .*port {port} is in use.*ss -ltnp"):
            open_listener(Listener("front", Address("127.0.0.1", port), "p"))


def test_a_port_that_another_program_shares_is_not_joined_silently():
    """SO_REUSEPORT would let us in, and take half of the other program's clients."""
    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(EngineError, match="is in use"):
            open_listener(Listener("front", Address("127.0.0.1", port), "p"))


@pytest.mark.parametrize("is_shared", [True, False])
def test_a_port_is_shared_only_while_that_is_wished(is_shared):
    with opened(Address("127.0.0.1", 0)) as sock, socket.socket() as other:
        share([sock], {sock.getsockname()[1]})
        if not is_shared:
            share([sock], ())
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        with contextlib.nullcontext() if is_shared else pytest.raises(OSError, match="in use"):
            other.bind(sock.getsockname())
        assert reaches(sock.getsockname())  # who is only bound takes no client


def test_an_address_of_another_machine_is_refused():
    with pytest.raises(EngineError, match=r"192\.0\.2\.1:0: no interface of this machine has that address"):
        open_listener(Listener("front", Address("192.0.2.1", 0), "p"))


def test_localhost_is_the_ipv4_loopback():
    with opened(Address("localhost", 0)) as sock:
        assert sock.getsockname()[0] == "127.0.0.1"


@IPV6
def test_an_ipv6_address_takes_ipv6_clients_only():
    with opened(Address("::1", 0)) as sock:
        port = sock.getsockname()[1]
        assert reaches(("::1", port), socket.AF_INET6)
        assert not reaches(("127.0.0.1", port))


@IPV6
def test_every_address_of_this_machine_means_both_families():
    with opened(Address("", 0)) as sock:
        port = sock.getsockname()[1]
        assert reaches(("::1", port), socket.AF_INET6)
        assert reaches(("127.0.0.1", port))


def test_accepted_sockets_inherit_what_saves_calls():
    with opened(Address("127.0.0.1", 0), keepalive_s=30, user_timeout_s=5) as sock:
        assert not sock.getblocking()
        assert not sock.get_inheritable()
        with socket.create_connection(sock.getsockname(), 10):
            sock.settimeout(10)
            client, _ = sock.accept()
            with client:
                option = client.getsockopt
                assert option(socket.IPPROTO_TCP, socket.TCP_NODELAY)
                assert option(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
                assert option(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) == 30
                assert option(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 5000


def mode_of(path) -> str:
    return f"{stat.S_IMODE(path.stat().st_mode):04o}"


def test_the_file_of_a_unix_socket_has_the_mode_and_the_group_that_are_asked_for(tmp_path):
    path = tmp_path / "s"
    group = grp.getgrgid(os.getgid())
    bind = Address(path=str(path))
    with opened(bind, mode=0o620, group=group.gr_name) as sock:
        assert (mode_of(path), path.stat().st_gid) == ("0620", group.gr_gid)
        tune([sock], Listener("front", bind, "p", mode=0o666))
        assert mode_of(path) == "0666", "a reload changes it"
        lent = LentSocket(fileno=os.dup(sock.fileno()))
        tune([lent], Listener("front", bind, "p", mode=0o600))
        lent.close()
        assert mode_of(path) == "0666", "the file of one that is lent is its lender's"


def test_a_group_that_does_not_exist_is_named_and_no_file_is_left(tmp_path):
    path = tmp_path / "s"
    listener = Listener("front", Address(path=str(path)), "p", group="no-such-group")
    with pytest.raises(EngineError, match=r"listener front: there is no group no-such-group .* make it"):
        open_listener(listener)
    assert not path.exists()


def test_permissions_are_never_given_to_what_somebody_has_put_in_the_place_of_the_socket(tmp_path):
    path, secret = tmp_path / "s", tmp_path / "secret"
    secret.touch(0o600)
    with opened(Address(path=str(path))) as sock:
        path.unlink()
        path.symlink_to(secret)
        listener = Listener("front", Address(path=str(path)), "p", mode=0o666)
        with pytest.raises(EngineError, match=f"listener front: cannot set permissions of {path}: "):
            tune([sock], listener)
        path.unlink()
        secret.rename(path)
        with pytest.raises(EngineError, match="cannot set permissions"):
            tune([sock], listener)
    assert mode_of(path) == "0600"


def test_a_unix_socket_is_listened_on(tmp_path):
    path = str(tmp_path / "front.sock")
    with opened(Address(path=path)):
        assert reaches(path, socket.AF_UNIX)


def test_a_socket_file_that_nobody_answers_on_is_replaced(tmp_path):
    path = str(tmp_path / "front.sock")
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(path)
    with opened(Address(path=path)):
        assert reaches(path, socket.AF_UNIX)


def test_a_living_socket_file_is_not_taken_over(tmp_path):
    path = str(tmp_path / "front.sock")
    with opened(Address(path=path)):
        with pytest.raises(EngineError, match=r"front\.sock is in use"):
            open_listener(Listener("second", Address(path=path), "p"))
        assert reaches(path, socket.AF_UNIX)


@pytest.mark.timeout(20)
def test_a_living_socket_whose_backlog_is_full_is_alive_and_holds_nobody_up(tmp_path):
    path = str(tmp_path / "front.sock")
    with contextlib.ExitStack() as stack:
        busy = stack.enter_context(socket.socket(socket.AF_UNIX))
        busy.bind(path)
        busy.listen(0)
        waiting = stack.enter_context(socket.socket(socket.AF_UNIX))
        waiting.connect(path)
        with pytest.raises(EngineError, match=r"front\.sock is in use"):
            open_listener(Listener("front", Address(path=path), "p"))


def test_a_file_that_is_no_socket_is_left_alone(tmp_path):
    path = tmp_path / "precious"
    path.write_text("data")
    with pytest.raises(EngineError, match="precious is in use"):
        open_listener(Listener("front", Address(path=str(path)), "p"))
    assert path.read_text() == "data"


def test_a_folder_that_does_not_exist_is_named(tmp_path):
    with pytest.raises(EngineError, match=r"the folder .*/no does not exist; make it"):
        open_listener(Listener("front", Address(path=str(tmp_path / "no" / "x.sock")), "p"))


def test_nothing_is_left_open_or_lying_about_when_one_of_the_sockets_fails(tmp_path):
    path = tmp_path / "front.sock"
    with pytest.raises((EngineError, OverflowError)):
        open_listener(Listener("front", Address(path=str(path)), "p", backlog=2**40))
    if path.exists():
        assert stat.S_ISSOCK(path.stat().st_mode)
        with opened(Address(path=str(path))):
            assert reaches(str(path), socket.AF_UNIX)
