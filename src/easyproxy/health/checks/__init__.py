"""Health checks: one small class per protocol."""
