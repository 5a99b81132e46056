"""The driver's main job, shown on two real clusters: `python -m lab.demo`.

A StatefulSet of the virtual class spreads over both clusters, each replica with
its volume in the cluster that runs it; then its pods are deleted, and the data
brings them back to where it is. Everything shown is also checked: the command
fails when any of it is not so.
"""
