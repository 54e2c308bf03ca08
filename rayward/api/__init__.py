"""What a user writes: ray.io/v1 manifests and the few core kinds, read, checked and turned into values.

Knows the documents and their rules, never a cluster, a process or a file that it was not handed as text.
"""
