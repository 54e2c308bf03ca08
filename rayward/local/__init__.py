"""Shell 1: one machine. Runs Pod manifests as processes in network and mount namespaces, without an API server."""
