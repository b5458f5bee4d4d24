"""Data planes, behind the one seam `Engine`."""
