"""Pure planning: what should exist for a manifest, given what does, and the steps to get there.

Raw Kubernetes objects in, raw Kubernetes objects out. No I/O, no clock, no randomness.
"""
