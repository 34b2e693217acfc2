"""The second family of clients: gRPC without a proxy. Its resources are made from those of Envoy, row by row.

Read `tables.py` first. What a message means to gRPC stands in `route.py`, `cluster.py` and `listener.py`; what gRPC
cannot do is withheld there, never weakened. docs/grpc.md is what users are told, ADR 12 why it is built so.
"""
