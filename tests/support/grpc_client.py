"""A gRPC client of `xds:///` targets as a process of its own: gRPC reads its bootstrap once for a process.

It reads a JSON document a line, `{"target", "method", "metadata", "timeout", "count", "options"}`, and answers with one:
a list of `{"code", "text", "seconds"}`. `bootstrap` is another bootstrap for new targets, `{"close": true}` closes all
channels. It ends with its input.
"""

from __future__ import annotations

import json
import os
import sys
import time
from typing import Any

import grpc
import grpc.experimental


def _credentials() -> Any:
    return grpc.xds_channel_credentials(grpc.experimental.insecure_channel_credentials())


def main() -> None:
    """Call as told."""
    channels: dict[tuple[str, ...], Any] = {}
    for line in sys.stdin:
        told = json.loads(line)
        if told.get("close"):
            for channel in channels.values():
                channel.close()
            channels.clear()
            print("[]", flush=True)
            continue
        if told.get("bootstrap"):
            os.environ["GRPC_XDS_BOOTSTRAP_CONFIG"] = told["bootstrap"]
        options = [tuple(option) for option in told.get("options", ())]
        key = (told["target"], *map(str, options))
        if key not in channels:
            channels[key] = grpc.secure_channel(told["target"], _credentials(), options)
        call = channels[key].unary_unary(told["method"])
        answers = []
        for _ in range(told.get("count", 1)):
            began = time.monotonic()
            try:
                text, code = call(b"", timeout=told["timeout"], metadata=told.get("metadata", ())).decode(), "OK"
            except grpc.RpcError as error:
                text, code = error.details(), error.code().name
            answers.append({"code": code, "text": text, "seconds": time.monotonic() - began})
        print(json.dumps(answers), flush=True)


if __name__ == "__main__":
    main()
