"""Strategies: one small pure class per file."""
