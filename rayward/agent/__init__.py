"""The agent: runs beside Ray on every node, starts it, watches it and brings back what dies.

Standard library (and redis-py, in child processes only), Python 3.9: it ships as one zip into stock images.
"""
