"""Where a server stands, from what it says: roles, lag and the reason, in new words and old ones."""

from __future__ import annotations

import math

import pytest

from easyproxy.errors import ProbeFailed
from easyproxy.health.checks.mysql.standing import by_name, is_galera, judge, refuse_unsynced

MARIA, MYSQL = "10.11.19-MariaDB", "8.4.3"
OLD = {
    "Master_Host": "10.0.0.1",
    "Master_Port": "3306",
    "Slave_IO_Running": "Yes",
    "Slave_SQL_Running": "Yes",
    "Seconds_Behind_Master": "0",
    "Connection_name": "",
}
NEW = {
    "Source_Host": "10.0.0.1",
    "Source_Port": "3306",
    "Replica_IO_Running": "Yes",
    "Replica_SQL_Running": "Yes",
    "Seconds_Behind_Source": "0",
    "Channel_Name": "",
}
READ_ONLY = {"read_only": "ON"}
WRITABLE = {"read_only": "OFF"}


def said(finding):
    return finding.facts.role, finding.facts.lag_s


def test_one_that_takes_writes_and_follows_nobody_is_the_primary():
    finding = judge(MARIA, WRITABLE, [])
    assert said(finding) == ("primary", -1.0)
    assert finding.detail == "primary, 10.11.19-MariaDB"


@pytest.mark.parametrize("row", [OLD, NEW])
def test_one_that_follows_is_a_replica_in_new_words_and_old_ones(row):
    finding = judge(MYSQL, READ_ONLY, [row])
    assert said(finding) == ("replica", 0.0)
    assert dict(finding.facts.notes)["follows"] == "10.0.0.1:3306"


@pytest.mark.parametrize("name", ["read_only", "super_read_only", "innodb_read_only"])
@pytest.mark.parametrize("value", ["ON", "1", "NO_LOCK"])
def test_every_kind_of_read_only_makes_a_replica(name, value):
    assert judge(MARIA, {name: value}, [OLD]).facts.role == "replica"


def test_a_replica_that_could_be_written_to_is_still_a_replica():
    assert said(judge(MARIA, WRITABLE, [OLD | {"Seconds_Behind_Master": "7"}])) == ("replica", 7.0)


def test_in_a_ring_the_one_that_takes_writes_is_the_primary_if_so_configured():
    assert judge(MARIA, WRITABLE, [OLD], writable_is_primary=True).facts.role == "primary"
    assert judge(MARIA, READ_ONLY, [OLD], writable_is_primary=True).facts.role == "replica"


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"Slave_SQL_Running": "No"}, "the SQL thread is stopped"),
        ({"Slave_IO_Running": "No"}, "the IO thread is stopped"),
        (
            {"Slave_SQL_Running": "No", "Last_SQL_Errno": "1062", "Last_SQL_Error": "Duplicate entry '7'"},
            "the SQL thread is stopped (error 1062): Duplicate entry '7'",
        ),
        ({"Slave_IO_Running": None}, "the IO thread is stopped"),
    ],
)
def test_a_thread_that_is_stopped_does_not_follow_and_says_why(changes, why):
    finding = judge(MARIA, READ_ONLY, [OLD | {"Seconds_Behind_Master": None} | changes])
    assert said(finding) == ("replica", math.inf)
    assert why in finding.detail


def test_one_that_has_lost_its_source_does_not_know_how_far_it_is_behind():
    """The source may be dead: then nobody is further than this one."""
    row = OLD | {"Slave_IO_Running": "Connecting", "Last_IO_Errno": "2003", "Last_IO_Error": "timed out"}
    finding = judge(MARIA, READ_ONLY, [row | {"Seconds_Behind_Master": None}])
    assert said(finding) == ("replica", -1.0)
    assert finding.detail == (
        "replica, lag unknown: no connection to 10.0.0.1:3306 (error 2003): timed out, 10.11.19-MariaDB"
    )


@pytest.mark.parametrize("value", ["", "-1", "x", "9" * 13, None, "٣"])
def test_a_lag_that_is_no_number_is_not_known(value):
    assert judge(MARIA, READ_ONLY, [OLD | {"Seconds_Behind_Master": value}]).facts.lag_s == -1.0


def test_of_several_sources_the_worst_counts():
    near = OLD | {"Connection_name": "a", "Seconds_Behind_Master": "2"}
    far = OLD | {"Connection_name": "b", "Seconds_Behind_Master": "90"}
    lost = OLD | {"Connection_name": "c", "Slave_IO_Running": "Connecting"}
    stopped = OLD | {"Connection_name": "d", "Slave_SQL_Running": "No"}
    assert judge(MARIA, READ_ONLY, [near, far]).facts.lag_s == 90
    assert judge(MARIA, READ_ONLY, [near, far, lost]).facts.lag_s == -1
    finding = judge(MARIA, READ_ONLY, [stopped, near, far, lost])
    assert finding.facts.lag_s == math.inf
    assert dict(finding.facts.notes)["follows"].startswith("10.0.0.1:3306 (d), 10.0.0.1:3306 (a)")


def test_one_that_takes_no_writes_and_follows_nobody_is_behind_for_ever():
    """An old primary after a planned change, before it follows the new one."""
    finding = judge(MARIA, READ_ONLY, [])
    assert said(finding) == ("replica", math.inf)
    assert "not set up to follow" in finding.detail


def test_a_promotion_without_reset_is_told_what_is_missing():
    finding = judge(MARIA, WRITABLE, [OLD | {"Slave_SQL_Running": "No", "Slave_IO_Running": "No"}])
    assert finding.facts.role == "replica"
    assert "RESET REPLICA ALL says so" in finding.detail


def test_without_the_right_to_see_replication_only_read_only_tells():
    why = "may not see replication (error 1227); GRANT REPLICATION CLIENT ON *.* TO monitor"
    writable, read_only = (judge(MYSQL, each, None, missing=why) for each in (WRITABLE, READ_ONLY))
    assert (said(writable), said(read_only)) == (("", -1.0), ("replica", -1.0))
    assert writable.detail == f"role unknown: {why}, 8.4.3"
    assert dict(read_only.facts.notes)["rights"] == why


def test_members_of_group_replication_follow_without_being_set_up_to():
    applier = NEW | {"Channel_Name": "group_replication_applier", "Replica_IO_Running": "No"}
    member = {"group_replication_group_name": "aaaaaaaa-aaaa"}
    second = judge(MYSQL, {"super_read_only": "ON"} | member, [applier])
    assert said(second) == ("replica", -1.0)
    assert judge(MYSQL, {"super_read_only": "OFF"} | member, [applier]).facts.role == "primary"


def test_a_position_is_shown_shortened():
    long = "0-1-" + "7" * 500
    assert len(dict(judge(MARIA, WRITABLE | {"gtid_current_pos": long}, []).facts.notes)["position"]) <= 120


# -- Galera

SYNCED = {
    "wsrep_ready": "ON",
    "wsrep_cluster_status": "Primary",
    "wsrep_local_state_comment": "Synced",
    "wsrep_cluster_size": "3",
}


def test_a_synced_node_takes_writes():
    cluster = refuse_unsynced(SYNCED)
    finding = judge(MARIA, WRITABLE, [], cluster=cluster)
    assert finding.facts.role == "primary"
    assert dict(finding.facts.notes)["cluster"] == "Synced, 3 nodes"


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"wsrep_cluster_status": "non-Primary"}, "in the non-Primary part of the cluster, without a quorum"),
        ({"wsrep_local_state_comment": "Donor/Desynced"}, "is Donor/Desynced, not Synced"),
        ({"wsrep_ready": "OFF"}, "not ready for queries"),
    ],
)
def test_a_node_that_cannot_serve_is_not_healthy(changes, why):
    with pytest.raises(ProbeFailed) as caught:
        refuse_unsynced(SYNCED | changes)
    assert why in str(caught.value)


def test_a_node_that_says_nothing_is_not_healthy():
    with pytest.raises(ProbeFailed, match="does not say"):
        refuse_unsynced({})


def test_only_a_provider_makes_a_node():
    assert not is_galera({"wsrep_on": "ON", "wsrep_provider": "none"})
    assert not is_galera({"wsrep_on": "OFF", "wsrep_provider": "/usr/lib/libgalera_smm.so"})
    assert is_galera(
        by_name(
            [
                {"Variable_name": "wsrep_on", "Value": "ON"},
                {"Variable_name": "wsrep_provider", "Value": "/x.so"},
            ]
        )
    )
