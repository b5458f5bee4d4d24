from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from easyproxy import __version__
from easyproxy.cli import COMMANDS, main

HEAVY = ("fastapi", "pydantic", "uvicorn", "yaml", "structlog")


def test_help_lists_every_command_and_tells_of_completion():
    result = CliRunner().invoke(main, ["--help"])
    assert result.exit_code == 0
    for words in (*COMMANDS, *COMMANDS.values(), "_EASYPROXY_COMPLETE=bash_source"):
        assert words in result.output


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_explains_itself(name):
    result = CliRunner().invoke(main, [name, "--help"])
    assert result.exit_code == 0
    assert "Usage:" in result.output


@pytest.mark.parametrize("name", COMMANDS)
def test_help_shows_examples(name):
    examples = CliRunner().invoke(main, [name, "--help"]).output.partition("\n  Examples:\n")[2]
    assert f"easyproxy {name}" in examples


def test_version():
    assert CliRunner().invoke(main, ["--version"]).output == f"easyproxy {__version__}\n"


@pytest.mark.parametrize(("typed", "meant"), [("rum", "run"), ("staus", "status"), ("xyz", None)])
def test_an_unknown_command_is_a_usage_error_that_names_the_nearest_one(typed, meant):
    result = CliRunner().invoke(main, [typed])
    assert result.exit_code == 2
    assert f"No such command '{typed}'." in result.output
    assert ("Did you mean" in result.output) == (meant is not None)
    assert meant is None or f"Did you mean '{meant}'?" in result.output


@pytest.mark.parametrize("arguments", [["--help"], ["status", "--help"], ["demo", "--help"]])
def test_help_imports_nothing_heavy(arguments):
    program = (
        "import sys; from easyproxy.cli import main\n"
        f"try: main({arguments!r})\n"
        "except SystemExit: pass\n"
        f"print([name for name in {HEAVY!r} if name in sys.modules], file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stderr == "[]\n"


@pytest.mark.parametrize("workers", ["-3", "0", "\u00b2", "9" * 20])
def test_a_number_of_workers_that_cannot_be_is_refused_in_words(workers):
    arguments = ["run", "--listen", "127.0.0.1:0", "--backend", "127.0.0.1:1", "--workers", workers]
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 2
    assert result.output.startswith("workers: ")
    assert "without quotes" not in result.output


def test_the_shell_completes_commands():
    result = CliRunner().invoke(
        main,
        env={"_EASYPROXY_COMPLETE": "bash_complete", "COMP_WORDS": "easyproxy sta", "COMP_CWORD": "1"},
        prog_name="easyproxy",
    )
    assert "plain,status" in result.output


@pytest.mark.parametrize(
    ("begun", "offered"),
    [("--strategy le", "least_connections"), ("--check post", "postgresql"), ("--engine k", "kernel")],
)
def test_the_shell_completes_words_of_options(begun, offered):
    line = {"COMP_WORDS": f"easyproxy run {begun}", "COMP_CWORD": "3"}
    result = CliRunner().invoke(
        main, env={"_EASYPROXY_COMPLETE": "bash_complete", **line}, prog_name="easyproxy"
    )
    assert f"plain,{offered}" in result.output


def test_closed_standard_streams_lead_to_nowhere_and_their_numbers_to_nothing_else(tmp_path):
    program = (
        "import os, sys\n"
        "from easyproxy.cli import main\n"
        "try: main(['check', '/nonexistent.yaml'])\n"
        "except SystemExit: pass\n"
        "next_one = os.dup(0)\n"
        f"open({str(tmp_path / 'said')!r}, 'w').write(f'{{next_one > 2}} {{sys.stderr.isatty()}}')\n"
    )
    script = tmp_path / "program.py"
    script.write_text(program)
    subprocess.run(["/bin/sh", "-c", 'exec "$0" "$1" <&- >&- 2>&-', sys.executable, str(script)], check=True)
    assert (tmp_path / "said").read_text() == "True False"


def test_a_file_named_from_a_folder_that_has_been_removed_is_missed_in_words(tmp_path):
    program = (
        "import os; os.rmdir(os.getcwd()); from easyproxy.cli import main; main(['run', 'easyproxy.yaml'])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (2, "easyproxy.yaml: there is no such file\n")


@pytest.mark.parametrize(
    ("environment", "has_colours"),
    [({}, True), ({"NO_COLOR": "1"}, False), ({"TERM": "dumb"}, False), ({"NO_COLOR": ""}, True)],
)
def test_colours_are_left_out_where_they_are_not_wanted(tmp_path, environment, has_colours):
    file = tmp_path / "wrong.yaml"
    file.write_text("listeners: none")
    where = {"TERM": "xterm", "NO_COLOR": None} | environment
    result = CliRunner().invoke(main, ["check", str(file)], color=True, env=where)
    assert ("\x1b[" in result.output) == has_colours


def test_top_does_not_offer_json():
    assert "--json" not in CliRunner().invoke(main, ["top", "--help"]).output


@pytest.mark.parametrize("command", [["overrides"], ["kernel", "check"]])
def test_an_answer_that_cannot_be_written_is_told_in_words(serve, command):
    where = ["--admin", str(serve())] if command == ["overrides"] else []
    with Path("/dev/full").open("w") as full:
        result = subprocess.run(
            [sys.executable, "-m", "easyproxy", *command, *where],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    told = f"easyproxy {' '.join(command)}: the answer cannot be written: No space left on device\n"
    assert result.stderr == told
    assert result.returncode == 1
