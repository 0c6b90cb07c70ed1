"""Manifests: which main program runs, for which array and under which policy, if m of n developers signed it."""
