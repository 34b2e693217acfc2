"""State on disk: the last good inputs of this process and a manifest of what was served, for the next start.

`store.State` is the whole interface, used by `app`; `content` holds the values that go in and come out. It must know
no document's meaning, no Envoy and no source: texts go in and the same texts come out.
"""
