"""A virtual kubelet that offloads pods to another cluster and knows no storage.

It stands in for Liqo's virtual kubelet where Liqo is not installed: a Node that
stands for a cluster, its pods run in that cluster under the same name in a mapped
namespace, with their volumes as they are. So whatever makes a claim of the same
name appear there has to be the storage driver under test.
"""
