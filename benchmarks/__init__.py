"""
How fast the service is, beside other servers: one run, one machine, the same load for all.

``python -m benchmarks --help`` tells how to run it.
"""
