"""One Consul datacenter as a source: endpoints of the services that are referred to, and specs from its key-value store.

`client` asks over HTTP, `watch` keeps a blocking query going, `answers` reads JSON into services, `pace` bounds how
often anything happens, `specs` believes what the key-value store says, and `source` puts them together.
"""
