"""The bench: EasyProxy and its peers on one machine, in one run, in short interleaved bursts.

``python -m bench`` runs it; docs/benchmarks.md says how it measures and why. Nothing of the package imports it,
and it needs the standard library only, besides the programs that it starts.
"""
