"""GCS state where it rests: addresses, connections, key schema, clean-up and decoding of Redis and RocksDB.

Knows nothing of Pods, manifests or processes; the agent, the shells and the command line use it.
"""
