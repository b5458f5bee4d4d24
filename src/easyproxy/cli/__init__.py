"""The command `easyproxy`."""
