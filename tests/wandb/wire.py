"""The HTTP side of the stand-in: bodies in (plain, gzip, chunked), answers out, and misbehaviour on demand.

In: requests of the W&B clients. Out: calls of `Answers`, which knows what they mean; JSON replies.
"""

from __future__ import annotations

import gzip
import json
import re
import time
from http.server import BaseHTTPRequestHandler
from typing import Any, Protocol
from urllib.parse import unquote


class Answers(Protocol):
    """What the handler asks of its server."""

    mode: str

    def answer(self, operation: str, given: dict[str, Any]) -> dict[str, Any] | None: ...
    def stream(self, entity: str, project: str, run_id: str, sent: dict[str, Any]) -> None: ...
    def put(self, kind: str, place: list[str], body: bytes) -> None: ...


class Handler(BaseHTTPRequestHandler):
    server: Any  # Answers
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: Any) -> None:
        """Quiet."""

    def do_POST(self) -> None:
        body = self._body()
        if self._misbehaves():
            return
        if self.path == "/graphql":
            asked = json.loads(body)
            found = re.search(r"(?:query|mutation)\s+(\w+)", asked["query"])
            operation = found.group(1) if found else "?"
            answer = self.server.answer(operation, asked.get("variables") or {})
            if answer is None:
                self._reply(400, {"errors": [{"message": f"the stand-in does not know {operation}"}]})
            else:
                self._reply(200, {"data": answer})
        elif self.path.endswith("/file_stream"):
            self._stream(json.loads(body))
        else:  # telemetry
            self._reply(200, {})

    def do_PUT(self) -> None:
        body = self._body()
        if self._misbehaves():
            return
        kind, *place = unquote(self.path.split("?")[0]).strip("/").split("/")
        self.server.put(kind, place, body)
        self._reply(200, {})

    def do_GET(self) -> None:
        if not self._misbehaves():
            self._reply(200, {})

    do_HEAD = do_GET

    def _stream(self, sent: dict[str, Any]) -> None:
        _, _files, entity, project, run_id, _stream = self.path.split("/")
        self.server.stream(entity, project, run_id, sent)
        self._reply(200, {"limits": {}})

    def _misbehaves(self) -> bool:
        mode = self.server.mode
        if mode == "hang":
            while self.server.mode == "hang":
                time.sleep(0.05)
        elif mode == "error":
            self._reply(500, {"error": "told to fail"})
        if mode in ("hang", "refuse"):
            self.close_connection = True
            self.connection.close()
        return mode != "ok"

    def _body(self) -> bytes:
        if "chunked" in self.headers.get("Transfer-Encoding", ""):
            parts = []
            while size := int(self.rfile.readline().split(b";")[0], 16):
                parts.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            body = b"".join(parts)
        else:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        return gzip.decompress(body) if self.headers.get("Content-Encoding") == "gzip" else body

    def _reply(self, status: int, body: dict[str, Any]) -> None:
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)
