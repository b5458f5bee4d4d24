"""The version, where everybody can import it without importing the rest."""

from __future__ import annotations

__version__ = "0.1.0"
