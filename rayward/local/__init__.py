"""Shell 1: one machine. Runs Pod manifests as processes in namespaces of their own; no API server."""
