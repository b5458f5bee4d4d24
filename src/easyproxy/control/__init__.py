"""The control plane: the registry of what is known, and what follows from it for an engine."""
