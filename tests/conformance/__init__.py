"""One suite of claims that every engine must keep; it knows engines by their seam and real sockets only."""
