"""Reading what the load generators print."""

import json

import pytest
from bench.scenarios import SERVICES, UnreadableOutput, parse_iperf3, parse_redis, parse_wrk, scenarios

_WRK = """Running 1s test @ http://127.0.0.1:80/1k
  1 threads and 50 connections
  Thread Stats   Avg      Stdev     Max   +/- Stdev
    Latency     1.27ms  638.96us   9.80ms   89.93%
    Req/Sec    40.21k     2.51k   43.30k    70.00%
  Latency Distribution
     50%    1.18ms
     75%    1.40ms
     90%  800.00us
     99%    4.27ms
  {count} requests in 1.00s, 48.44MB read
{errors}Requests/sec:  39990.12
Transfer/sec:     48.41MB
"""
_REDIS = (
    '"test","rps","avg_latency_ms","min_latency_ms","p50_latency_ms","p95_latency_ms","p99_latency_ms","max_latency_ms"\n'
    '"PING_MBULK","50000.00","0.5","0.1","0.447","0.8","1.247","3.0"\n'
)


def test_a_result_of_wrk_is_read():
    measured = parse_wrk(_WRK.format(count=40000, errors=""))
    assert (measured.rate, measured.operations) == (39990.12, 40000)
    assert measured.latency_ms == {"p50": 1.18, "p99": 4.27}


@pytest.mark.parametrize(
    "errors",
    [
        "  Non-2xx or 3xx responses: 3\n",
        "  Socket errors: connect 0, read 41, write 0, timeout 0\n",
        "  Socket errors: connect 0, read 0, write 0, timeout 50\n",
    ],
)
def test_a_fast_balancer_that_breaks_sessions_has_no_result(errors):
    with pytest.raises(UnreadableOutput, match=errors.strip()):
        parse_wrk(_WRK.format(count=40000, errors=errors))


def test_wrk_without_an_answer_has_no_result():
    with pytest.raises(UnreadableOutput):
        parse_wrk("unable to connect to 127.0.0.1:1 Connection refused")
    with pytest.raises(UnreadableOutput):
        parse_wrk(_WRK.format(count=0, errors=""))


def test_a_result_of_redis_benchmark_is_read_past_its_warnings():
    measured = parse_redis("WARNING: Could not fetch server CONFIG\n" + _REDIS)
    assert (measured.rate, measured.latency_ms) == (50000.0, {"p50": 0.447, "p99": 1.247})


@pytest.mark.parametrize("parse", [parse_redis, parse_iperf3])
def test_an_error_message_is_no_result(parse):
    with pytest.raises(UnreadableOutput):
        parse("Could not connect to Redis at 127.0.0.1:1: Connection refused")


def test_iperf3_counts_what_the_client_received():
    text = json.dumps(
        {"end": {"sum_received": {"bits_per_second": 12.5e9, "bytes": 3 << 20}, "sum_sent": {}}}
    )
    measured = parse_iperf3(text)
    assert (measured.rate, measured.operations) == (12.5, 3)


def test_every_scenario_loads_a_listener_that_every_balancer_has():
    listed = scenarios(cores=2)
    assert {one.service for one in listed} <= set(SERVICES)
    assert len({one.name for one in listed}) == len(listed)
    for one in listed:
        assert one.command("127.0.0.1", 4321, 1, 10)[0] == one.program
