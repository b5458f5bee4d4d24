"""From results to tables and the picture."""

import xml.etree.ElementTree as ET

import pytest
from bench import plot, report
from bench.results import Idle, Results, Sample, read


@pytest.fixture
def results():
    found = Results(
        machine={"cores": "2"},
        method={"rounds": "2"},
        anchor="easyproxy",
        titles={"direct": "no balancer", "easyproxy": "EasyProxy <1>", "fast": "Fast", "slow": "Slow"},
        missing={"gone": "not to be had"},
        scenarios={"s": {"title": "a scenario", "unit": "requests/s", "operation": "request"}},
        idle=[Idle("easyproxy", 8000, 1.2, 60.0), Idle("fast", 8000, None, failure="refused")],
    )
    for number, speed in enumerate([1.0, 0.5]):  # the machine halves its speed after the first round
        rates = {"direct": 4000, "easyproxy": 1100, "fast": 1000, "slow": 500}
        for position, peer in enumerate(["direct", "easyproxy", "fast", "easyproxy", "slow"]):
            rate = rates[peer] * speed
            found.samples.append(Sample("s", number, position, peer, rate, rate, 0.01 * speed, 0.02 * speed))
    return found


def test_the_best_other_balancer_is_one_and_neither_easyproxy_nor_the_direct_connection(results):
    (table,) = report.tables(results)
    assert table.best == "fast"
    ratios = {row.peer: round(row.ratio.median, 3) for row in table.rows}
    assert ratios == {"direct": 4.0, "easyproxy": 1.1, "fast": 1.0, "slow": 0.5}


def test_a_machine_that_changed_its_speed_between_rounds_leaves_no_spread(results):
    (table,) = report.tables(results)
    for row in table.rows:
        assert row.ratio.low == pytest.approx(row.ratio.high)


def test_cpu_is_given_per_operation_and_not_for_the_direct_connection(results):
    (table,) = report.tables(results)
    assert table.row("fast").user_us == pytest.approx(10.0)
    assert "| no balancer | 3,000 | 4.00 | 4.00 … 4.00 | - | - | - |" in report.markdown(results)


def test_what_was_left_out_or_failed_is_named(results):
    results.samples.append(Sample("s", 0, 9, "slow", None, failure="wrk: broken"))
    text = report.markdown(results)
    assert "left out: gone: not to be had" in text
    assert "failed: slow, s: wrk: broken" in text
    assert "failed: refused" in text


def test_a_report_of_the_written_file_is_the_report_of_the_run(results, tmp_path):
    results.write(tmp_path / "r.json")
    assert report.markdown(read(tmp_path / "r.json")) == report.markdown(results)


def test_a_report_takes_the_place_of_the_former_one_and_of_nothing_else():
    document = f"before\n{report.BEGIN}\nold\n{report.END}\nafter\n"
    once = report.insert(document, "new\n")
    assert once == f"before\n{report.BEGIN}\n\nnew\n\n{report.END}\nafter\n"
    assert report.insert(once, "new\n") == once


def test_a_document_without_a_place_for_the_report_is_refused():
    with pytest.raises(ValueError, match="to write between"):
        report.insert("no marks", "new")


def test_a_file_of_another_format_is_refused(tmp_path):
    (tmp_path / "r.json").write_text("{}")
    with pytest.raises(ValueError, match="not a result"):
        read(tmp_path / "r.json")


def test_the_picture_is_well_formed_and_shows_every_balancer(results):
    root = ET.fromstring(plot.svg(results))  # noqa: S314 - our own
    words = [element.text for element in root.iter("{http://www.w3.org/2000/svg}text")]
    assert {"EasyProxy <1>", "Fast", "Slow"} <= set(words)
    assert "no balancer" not in words


def test_a_run_that_was_cut_short_before_its_first_burst_has_a_report(results):
    results.samples.clear()
    results.idle.clear()
    assert "a scenario" in report.markdown(results)
    ET.fromstring(plot.svg(results))  # noqa: S314 - our own
