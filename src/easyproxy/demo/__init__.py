"""The demo: small web servers to stand behind the balancer, and what starts them. No part of the balancer."""
