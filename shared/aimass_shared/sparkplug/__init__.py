"""Sparkplug B 3.0: the payload codec, and the rules of edge nodes and hosts without I/O.

Implements the parts of the specification that telemetry and predictions need; it has not run the
official TCK. Whoever connects, subscribes and publishes is elsewhere (`aimass_edge.ingest`).
"""
