"""Pure functions from rows to Envoy resources, and the tables that wire them.

Read `pipeline` first. `compiler` is what the process calls, `offline` and `standalone` what commands call.

    rows  codes  xds_types                            what lies between specs and resources; what can be wrong
    namesakes  claims  ownership  grants              who has a name, a host, a path; what a namespace was granted
    route  routes  references  match  action          one route: what it refers to, takes and does
    preflights                                        which policy answers what a browser asks before
    placement  hosts  shard                           where it is reachable, and the shards that come of that
    listener  chains  tls  ports  views  access_log   listeners, and what the gateways of one proxy share
    heirs                                             who answers what a renamed listener drains
    changes                                           what commits of the graph changed, put together
    secrets  certificates  providers  expiry          certificates and key sets, whether they can be used, and until when
    backends  shape  cluster  pool                    backends, and how each is divided into clusters
    endpoints  assignment                             the lane of endpoints
    checks  provenance                                Envoy's own rules; from a resource back to its spec
    proxyless                                         the same rows for gRPC without a proxy
"""
