"""State on disk: the last good inputs of this process and a manifest of what was served, for the next start.

`store.State` is the whole interface, used by `app`; `content` holds the values that go in and come out. It must know
no document's meaning, no Envoy and no source: texts go in and the same texts come out.

    store                                 what waits to be written, and the thread that does it
    ledger                                what is in the file now, and what becomes of faults
    claim  owner                          whose folder it is: of which process, fleet and version
    opening  database                     the SQLite file, whatever its condition
    rows  tables  content  sealing        what is kept, as values and as rows; secrets are encrypted
"""
