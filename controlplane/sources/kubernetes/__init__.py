"""A Kubernetes cluster as a source: gateway specs, services, endpoints and secrets, watched and never lost.

`source` puts it together. `reflector` keeps lists and watches alive, `client` is one request, `access` who we are there;
`endpoints`, `specs` and `secrets` make rows of what arrives. Loaded only by a process that is told to watch a cluster.
"""
