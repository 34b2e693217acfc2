"""xDS: sessions as pure state machines, and the two modules that know gRPC.

Read `session` first. `nodes` and `observer` are the doors: the directory and the observer that `app` implements.

    server  transport  stream  peers  environment           gRPC: methods, connections, one open stream
    admission  turns  bounds  checks  request_names         who may come now, and what a peer may ask
    session  delta  sotw  requests  subscription            what comes in, and what a client wants
    difference  returning  full_sets  nameset  heartbeats   what it lacks
    outgoing  progress  order  lanes  warming virtual_hosts what it is sent, and when: make before break
    blame  isolation  holds  instead  dependents  resending what it refused, and who is spared it
    types  wire  inventory  leftovers                       kinds of resource, bytes of responses, what people see, memory
"""
