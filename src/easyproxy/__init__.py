"""EasyProxy: a TCP load balancer."""

__version__ = "0.1.0"
