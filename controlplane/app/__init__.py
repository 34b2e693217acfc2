"""The composition root: the only place that knows sources, compiler, snapshots, xDS, state and admin together.

Read `process` first: it makes the parts, starts them in order, and ends them. The others in the order of a change
(which of them know which is a contract in pyproject.toml):

    readiness  listening  addresses           the first answer, and where this process can be reached
    sources  clusters  datacenters            which sources the configuration asks for
    intake  services  source_status  memory   what they say, how they stand, what was in force before and is kept on disk
    secrets  successors                       which secrets are in force, and which do not replace them
    loop  pace  garbage                       edits are gathered, and swept in slices
    lane                                      endpoints, beside that
    publishing                                what follows from a commit, at once
    leaving  requirements  draining  in_place what no spec says any more, and some proxy still needs
    doubts                                    what documents said before edits that proxies may refuse
    fleet  trust  gone                        which proxy sees what, who is let in, who has left
    problems  refusals  reports  offered      what is wrong, and whom it is told
    look  rollcall  routes  changes  ages  observing   what the admin API and the metrics show
"""

from controlplane.app.addresses import Addresses
from controlplane.app.process import serve

__all__ = ["Addresses", "serve"]
