"""KubeRay's guide to GCS fault tolerance, played on this machine with the real command line, and checked.

``python -m rayward.quickstart`` runs it. Must not reach around the command line for anything that a user
would do with it; it looks into a cluster's folder only to check what was said.
"""
