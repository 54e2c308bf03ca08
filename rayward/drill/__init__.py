"""Breaks a running cluster on purpose, under load, and measures what a user of Ray would notice.

Works on any cluster that ``local`` runs. Must not know of the command line.
"""
