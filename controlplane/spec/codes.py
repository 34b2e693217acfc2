"""The stable codes of everything that can be wrong with files, YAML, the schema of documents, and secrets on disk.

The table in docs/errors.md is made of it. Codes are never reused: GW00xx files and YAML, GW01xx the schema,
GW02xx references and routes (compile), GW03xx sources.
"""

from __future__ import annotations

from enum import StrEnum


class Code(StrEnum):
    """A code; its meaning is in `MEANINGS`."""

    UNREADABLE = "GW0001"
    TOO_LARGE = "GW0002"
    NOT_UTF8 = "GW0003"
    CONTROL_CHARACTER = "GW0004"
    SYNTAX = "GW0005"
    DUPLICATE_KEY = "GW0006"
    TAG = "GW0007"
    MERGE_KEY = "GW0008"
    ALIAS = "GW0009"
    TOO_DEEP = "GW0010"
    NUMBER = "GW0011"
    KEY = "GW0012"
    TAB = "GW0013"
    EMPTY_FILE = "GW0014"
    TOO_MANY_DOCUMENTS = "GW0015"

    UNKNOWN_FIELD = "GW0101"
    MISSING_FIELD = "GW0102"
    WRONG_TYPE = "GW0103"
    NOT_A_CHOICE = "GW0104"
    OUT_OF_RANGE = "GW0105"
    MALFORMED = "GW0106"
    CONTRADICTION = "GW0107"
    UNKNOWN_KIND = "GW0108"
    TOO_MANY_ERRORS = "GW0109"

    DUPLICATE_OBJECT = "GW0301"
    ROOT_UNREADABLE = "GW0302"
    SECRET_UNREADABLE = "GW0303"
    NOT_A_FILE = "GW0304"
    REMOVAL_HELD = "GW0305"
    MASS_REMOVAL = "GW0311"
    TRUST_STALE = "GW0306"
    NOT_WATCHED = "GW0309"
    UNUSABLE_INSTANCE = "GW0310"
    STATUS_NOT_WRITTEN = "GW0313"
    STORED_UNUSABLE = "GW0314"
    CREDENTIALS_STALE = "GW0315"


MEANINGS: dict[Code, str] = {
    Code.UNREADABLE: "a file or folder cannot be read; what it declared stays in force",
    Code.TOO_LARGE: "a file, or one document of it, is larger than the limit",
    Code.NOT_UTF8: "a file is not UTF-8 text",
    Code.CONTROL_CHARACTER: "a file holds a character that YAML does not allow, or for which only some readers of YAML end a "
    "line (U+0085, U+2028, U+2029)",
    Code.SYNTAX: "a document is not YAML",
    Code.DUPLICATE_KEY: "a key stands twice in one mapping",
    Code.TAG: "a YAML tag other than those of the core schema",
    Code.MERGE_KEY: "a merge key (<<), which YAML 1.2 does not have",
    Code.ALIAS: "an alias without an anchor, inside its own anchor, or one that expands beyond the limit",
    Code.TOO_DEEP: "mappings and lists are nested too deeply",
    Code.NUMBER: "a number that is not finite or has too many digits",
    Code.KEY: "a key that is not a text",
    Code.TAB: "a tab where YAML wants spaces",
    Code.EMPTY_FILE: "a file holds nothing at all",
    Code.TOO_MANY_DOCUMENTS: "a file holds more documents than the limit",
    Code.UNKNOWN_FIELD: "a field that does not exist here",
    Code.MISSING_FIELD: "a field that is needed is missing",
    Code.WRONG_TYPE: "a value of the wrong type, such as a number where a text is needed",
    Code.NOT_A_CHOICE: "a value that is none of the possible ones",
    Code.OUT_OF_RANGE: "a number, text or list that is too small or too large",
    Code.MALFORMED: "a text that does not have the form that its field needs",
    Code.CONTRADICTION: "fields that do not fit together",
    Code.UNKNOWN_KIND: "a document that is neither a GatewaySpec nor a RouteSpec",
    Code.TOO_MANY_ERRORS: "a document has more errors than are listed",
    Code.DUPLICATE_OBJECT: "the same object is declared twice; the smaller path wins",
    Code.ROOT_UNREADABLE: "the folder of a source is missing or cannot be read; what it said last stays in force",
    Code.SECRET_UNREADABLE: "a secret cannot be read; its previous content stays in force",
    Code.NOT_A_FILE: "something with the name of a spec file that is not a regular file; it is not opened",
    Code.MASS_REMOVAL: "much of what a source declares is gone at once; it stays in force until that is confirmed, or for a time",
    Code.REMOVAL_HELD: "objects stay in force that are missing from an unfinished file, whose custom resource was "
    "removed, or which vanished from Consul's key-value store together",
    Code.TRUST_STALE: "certificates of the xDS server or its deny list cannot be used as they are on disk; what was before "
    "stays in force",
    Code.NOT_WATCHED: "a spec refers to a part of a source that the configuration leaves out",
    Code.UNUSABLE_INSTANCE: "an instance of a discovered service has no address and port that an endpoint can have",
    Code.STORED_UNUSABLE: "what was in force of an object before a restart is not valid for this version of the program, and its "
    "source cannot be read: nothing of the object is served",
    Code.CREDENTIALS_STALE: "what a source shows to its cluster or datacenter cannot be used as it is on disk; what was before is "
    "shown",
    Code.STATUS_NOT_WRITTEN: "the status of custom resources cannot be written; what they declare is served all the same",
}
