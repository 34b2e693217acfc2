"""The last filter: sends the request on."""
