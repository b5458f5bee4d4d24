"""``python -m easyproxy``: the command ``easyproxy`` for an interpreter whose scripts are not on the path."""

from easyproxy.cli import main

if __name__ == "__main__":
    main(prog_name="easyproxy")
