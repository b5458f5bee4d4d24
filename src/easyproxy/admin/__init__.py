"""The admin server: the state of the balancer over HTTP. It reads the control plane through `View` only."""
