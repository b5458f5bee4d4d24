"""Where the addresses of backends come from."""
