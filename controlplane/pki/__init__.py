"""Identity: the private certificate authority of this control plane, and what a proxy's certificate says of its node.

`authority` keeps the authority in the state folder and issues; `identity` reads the certificate of a peer; `issuing`
builds the X.509. Used by the xDS server, the bootstrap and the command line. It must know no gateway and no gRPC.
"""
