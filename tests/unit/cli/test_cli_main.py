from __future__ import annotations

import subprocess
import sys

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


@pytest.mark.parametrize("name", ["demo", "status"])
def test_help_shows_examples(name):
    assert f"Examples:\n    easyproxy {name}" in CliRunner().invoke(main, [name, "--help"]).output


def test_version():
    assert CliRunner().invoke(main, ["--version"]).output == f"easyproxy {__version__}\n"


def test_an_unknown_command_is_a_usage_error():
    assert CliRunner().invoke(main, ["rum"]).exit_code == 2


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


def test_the_shell_completes_commands():
    result = CliRunner().invoke(
        main,
        env={"_EASYPROXY_COMPLETE": "bash_complete", "COMP_WORDS": "easyproxy sta", "COMP_CWORD": "1"},
        prog_name="easyproxy",
    )
    assert "plain,status" in result.output
