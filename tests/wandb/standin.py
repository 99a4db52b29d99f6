"""A stand-in for the W&B server on 127.0.0.1: the real client talks to it, and it remembers everything it was sent.

In: HTTP requests of wandb-core, `wandb sync`, `wandb.Api` and wandb-workspaces 0.31/0.4.13, as observed. Out: answers
good enough for them to go on, and `Standin.projects`: runs with config, summary, history, files, artifacts, reports.
It can be told to misbehave: `refuse` (connections are closed), `hang` (no answer), `error` (status 500).
An operation that it does not know is an error 400 and is listed in `unknown`, so that a test can name it.
"""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import ThreadingHTTPServer
from typing import Any, Literal

from tests.wandb.wire import Handler

ENTITY = "lab"
KEY = "0123456789" * 4
Mode = Literal["ok", "refuse", "hang", "error"]


@dataclass
class KeptRun:
    """One run as the server holds it."""

    id: str
    entity: str
    project: str
    name: str = ""
    group: str | None = None
    job_type: str | None = None
    tags: list[str] = field(default_factory=list)
    config: dict[str, Any] = field(default_factory=dict)
    summary: dict[str, Any] = field(default_factory=dict)
    lines: dict[int, dict[str, Any]] = field(default_factory=dict)
    """Offset → row: a row sent twice to one offset is one row, as at W&B."""
    files: dict[str, bytes] = field(default_factory=dict)
    state: str = "running"
    writes: int = 0
    """How often anything reached it."""

    @property
    def storage_id(self) -> str:
        return base64.b64encode(f"Run:v1:{self.id}:{self.project}:{self.entity}".encode()).decode()

    @property
    def history(self) -> list[dict[str, Any]]:
        assert sorted(self.lines) == list(range(len(self.lines))), "a hole in the history"
        return [self.lines[at] for at in sorted(self.lines)]


@dataclass
class KeptArtifact:
    """One version of an artifact: its description and the files of its manifest."""

    id: str
    type: str
    name: str
    run: str
    metadata: dict[str, Any]
    aliases: list[str]
    digest: str
    files: dict[str, bytes] = field(default_factory=dict)
    manifest: dict[str, Any] = field(default_factory=dict)
    state: str = "PENDING"


class Standin(ThreadingHTTPServer):
    """The server; `with serving() as server`. Everything it holds is under `projects`, `artifacts`, `reports`."""

    daemon_threads = True
    block_on_close = False

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server_address[1]}"
        self.lock = threading.RLock()
        self.projects: dict[tuple[str, str], dict[str, KeptRun]] = {}
        self.artifacts: list[KeptArtifact] = []
        self.reports: list[dict[str, Any]] = []
        self.operations: list[str] = []
        self.unknown: list[str] = []
        self.mode: Mode = "ok"

    def run(self, run_id: str | None = None) -> KeptRun:
        """The one run, or the one with this id."""
        found = [run for runs in self.projects.values() for run in runs.values() if run_id in (None, run.id)]
        assert len(found) == 1, [run.id for run in found]
        return found[0]

    def runs(self) -> list[KeptRun]:
        return [run for runs in self.projects.values() for run in runs.values()]

    def environment(self, home: str) -> dict[str, str]:
        """What a process needs to talk to this server and to no other, writing below `home` alone."""
        return {
            "HOME": home, "WANDB_BASE_URL": self.url, "WANDB_API_KEY": KEY, "WANDB_MODE": "online",
            "WANDB_CONFIG_DIR": f"{home}/config", "WANDB_CACHE_DIR": f"{home}/cache",
        }  # fmt: skip

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that goes away is nothing to print."""

    def stream(self, entity: str, project: str, run_id: str, sent: dict[str, Any]) -> None:
        """Rows and summary of a run; a chunk replaces what stood at its offset."""
        with self.lock:
            run = self.projects[entity, project][run_id]
            run.writes += 1
            for name, chunk in (sent.get("files") or {}).items():
                if name == "wandb-history.jsonl":
                    for at, line in enumerate(chunk["content"]):
                        run.lines[chunk["offset"] + at] = json.loads(line)
                elif name == "wandb-summary.json":
                    run.summary = json.loads(chunk["content"][-1])
            if sent.get("complete"):
                run.state = "finished" if sent.get("exitcode") == 0 else "failed"

    def put(self, kind: str, place: list[str], body: bytes) -> None:
        """A file of a run (`put`), a file of an artifact (`artifact`) or its manifest (`manifest`)."""
        with self.lock:
            if kind == "put":
                entity, project, run_id, *name = place
                run = self.projects[entity, project][run_id]
                run.files["/".join(name)] = body
                run.writes += 1
                return
            found = next(one for one in self.artifacts if one.id == place[0])
            if kind == "manifest":
                found.manifest = json.loads(body)
            else:
                found.files["/".join(place[1:])] = body

    # ------------------------------------------------------------ GraphQL, one method per operation

    def answer(self, operation: str, given: dict[str, Any]) -> dict[str, Any] | None:
        method = getattr(self, f"op_{operation.lower()}", None)
        with self.lock:
            self.operations.append(operation)
            if method is None:
                self.unknown.append(operation)
                return None
            answer: dict[str, Any] = method(given)
            return answer

    def op_viewer(self, given: dict[str, Any]) -> dict[str, Any]:
        user = {
            "id": "VXNlcjox", "entity": ENTITY, "username": ENTITY, "name": ENTITY, "email": "lab@example.org",
            "flags": "{}", "admin": False, "deletedAt": None, "defaultFramework": None, "apiKeys": {"edges": []},
            "teams": {"edges": [{"node": {"name": ENTITY}}]}, "capabilities": [], "codeSavingEnabled": False,
        }  # fmt: skip
        return {
            "viewer": user,
            "serverInfo": {"cliVersionInfo": {}, "features": [], "exposesExplicitly": False},
        }

    op_defaultviewer = op_getviewer = op_defaultentity = op_getdefaultentity = op_viewer

    def op_serverfeaturesquery(self, given: dict[str, Any]) -> dict[str, Any]:
        return {"serverInfo": {"features": []}}

    def op_artifacttype(self, given: dict[str, Any]) -> dict[str, Any]:
        return {"project": {"artifact": None}}  # no artifact of this name yet, so it may have any type

    def op_organizationcoreweaveorganizationid(self, given: dict[str, Any]) -> dict[str, Any]:
        return {"entity": {"organization": None}}

    def op_runresumestatus(self, given: dict[str, Any]) -> dict[str, Any]:
        run = self._find(given)
        model = {"id": "p", "name": given["project"], "entity": {"id": "e", "name": ENTITY}}
        return {"model": {**model, "bucket": run and {
            "id": run.storage_id, "name": run.id, "summaryMetrics": json.dumps(run.summary), "displayName": run.name,
            "logLineCount": 0, "historyLineCount": len(run.lines), "eventsLineCount": 0,
            "historyTail": json.dumps([json.dumps(row) for row in run.history[-1:]]), "eventsTail": "[]",
            "config": json.dumps(run.config), "tags": run.tags, "wandbConfig": json.dumps({"t": 1}),
        }}}  # fmt: skip

    def op_upsertbucket(self, given: dict[str, Any]) -> dict[str, Any]:
        run = self._by_storage(given["id"]) if given.get("id") else self._find(given)
        inserted = run is None
        if run is None:
            run_id = given.get("name") or f"made{len(self.runs())}"
            run = KeptRun(run_id, given.get("entity") or ENTITY, given.get("project") or "uncategorized")
            self.projects.setdefault((run.entity, run.project), {})[run_id] = run
        run.writes += 1
        run.name = given.get("displayName") or given.get("display_name") or run.name
        run.group = given.get("groupName") or run.group
        run.job_type = given.get("jobType") or run.job_type
        run.tags = given["tags"] if given.get("tags") is not None else run.tags
        run.config = json.loads(given["config"]) if given.get("config") else run.config
        run.summary = json.loads(given["summaryMetrics"]) if given.get("summaryMetrics") else run.summary
        run.state = given.get("state") or run.state
        bucket = {
            **self._run(run), "config": json.dumps(run.config), "sweepName": None, "historyLineCount": len(run.lines),
            "project": {"id": "p", "name": run.project, "entity": {"id": "e", "name": run.entity}},
        }  # fmt: skip
        return {"upsertBucket": {"bucket": bucket, "inserted": inserted}}

    def op_updaterunstate(self, given: dict[str, Any]) -> dict[str, Any]:
        body = given.get("input") or given
        run = self._by_storage(body.get("id") or "") or self._find(body)
        assert run is not None
        run.state, run.writes = body["state"], run.writes + 1
        return {"updateRunState": {"success": True}}

    def op_createrunfiles(self, given: dict[str, Any]) -> dict[str, Any]:
        run = self._find({"name": given["run"], **{k: given.get(k) for k in ("project", "entity")}})
        assert run is not None
        place = f"{self.url}/put/{run.entity}/{run.project}/{run.id}"
        files = [{"name": name, "uploadUrl": f"{place}/{name}"} for name in given["files"]]
        return {"createRunFiles": {"runID": run.storage_id, "uploadHeaders": [], "files": files}}

    def op_runstoppedstatus(self, given: dict[str, Any]) -> dict[str, Any]:
        return {"project": {"run": {"stopped": False}}}

    # ------------------------------------------------------------ artifacts

    def op_createartifact(self, given: dict[str, Any]) -> dict[str, Any]:
        body = given.get("input") or given
        names = body.get("artifactCollectionNames") or [body.get("artifactCollectionName")]
        found = KeptArtifact(
            f"A{len(self.artifacts)}", body["artifactTypeName"], names[0], body.get("runName") or "",
            json.loads(body.get("metadata") or "{}"), [a["alias"] for a in body.get("aliases") or []], body["digest"],
        )  # fmt: skip
        self.artifacts.append(found)
        sequence = {"id": "S", "latestArtifact": None, "name": names[0]}
        return {
            "createArtifact": {
                "artifact": {"id": found.id, "state": found.state, "artifactSequence": sequence}
            }
        }

    def op_createartifactmanifest(self, given: dict[str, Any]) -> dict[str, Any]:
        body = given.get("input") or given
        url = f"{self.url}/manifest/{body['artifactID']}" if body.get("includeUpload", True) else None
        file = _manifest_file(url)
        return {
            "createArtifactManifest": {"artifactManifest": {"id": f"M{body['artifactID']}", "file": file}}
        }

    def op_updateartifactmanifest(self, given: dict[str, Any]) -> dict[str, Any]:
        body = given.get("input") or given
        url = f"{self.url}/manifest/{body['artifactManifestID'][1:]}"
        file = _manifest_file(url)
        return {
            "updateArtifactManifest": {"artifactManifest": {"id": body["artifactManifestID"], "file": file}}
        }

    def op_createartifactfiles(self, given: dict[str, Any]) -> dict[str, Any]:
        body = given.get("input") or given
        edges = []
        for index, spec in enumerate(body["artifactFiles"]):
            url = f"{self.url}/artifact/{spec['artifactID']}/{spec['name']}"
            edges.append({"node": {
                "id": f"F{index}", "name": spec["name"], "displayName": spec["name"], "uploadUrl": url,
                "uploadHeaders": [], "storagePath": None, "uploadMultipartUrls": None,
                "artifact": {"id": spec["artifactID"]},
            }})  # fmt: skip
        return {"createArtifactFiles": {"files": {"edges": edges}}}

    def op_commitartifact(self, given: dict[str, Any]) -> dict[str, Any]:
        body = given.get("input") or given
        found = next(one for one in self.artifacts if one.id == body["artifactID"])
        found.state = "COMMITTED"
        return {"commitArtifact": {"artifact": {"id": found.id, "digest": found.digest}}}

    # ------------------------------------------------------------ reading back (wandb.Api) and reports

    def op_runs(self, given: dict[str, Any]) -> dict[str, Any]:
        kept = self.projects.get((given.get("entity") or ENTITY, given["project"]))
        if kept is None:
            return {"project": None}
        wanted = json.loads(given.get("filters") or "{}")
        found = [run for run in kept.values() if _matches(run, wanted)]
        edges = [
            {"node": {"projectId": 7, **self._run(run)}, "cursor": str(at)} for at, run in enumerate(found)
        ]
        page = {"endCursor": None, "hasNextPage": False}
        runs = {"edges": edges, "pageInfo": page}
        return {"project": {"internalId": 7, "runCount": len(found), "readOnly": False, "runs": runs}}

    op_getruns = op_runs

    def op_run(self, given: dict[str, Any]) -> dict[str, Any]:
        run = self._find(given)
        return {"project": {"run": None if run is None else {"projectId": 7, **self._run(run)}}}

    def op_projectinternalid(self, given: dict[str, Any]) -> dict[str, Any]:
        name, entity = (
            given.get("projectName") or given.get("name"),
            given.get("entityName") or given.get("entity"),
        )
        there = (entity or ENTITY, name) in self.projects
        return {"project": {"id": "p", "internalId": "7"} if there else None}

    def op_getprojects(self, given: dict[str, Any]) -> dict[str, Any]:
        node = {"id": "p", "createdAt": "2026-01-01T00:00:00", "isBenchmark": False, "user": None}
        edges = [
            {"node": {**node, "name": project, "entityName": entity}, "cursor": "c"}
            for entity, project in self.projects
        ]
        return {"models": {"edges": edges, "pageInfo": {"endCursor": None, "hasNextPage": False}}}

    def op_upsertview(self, given: dict[str, Any]) -> dict[str, Any]:
        view = {
            "id": given.get("id") or f"Vmlldzo{len(self.reports)}", "name": given["name"], "type": given["type"],
            "displayName": given["displayName"], "description": given["description"], "spec": given["spec"],
            "project": {"id": "p", "name": given["projectName"], "entityName": given["entityName"]},
            "updatedAt": "2026-01-01T00:00:00",
        }  # fmt: skip
        self.reports = [one for one in self.reports if one["id"] != view["id"]] + [view]
        return {"upsertView": {"view": view, "inserted": not given.get("id")}}

    def _run(self, run: KeptRun) -> dict[str, Any]:
        return {
            "id": run.storage_id, "tags": run.tags, "name": run.id, "displayName": run.name, "sweepName": None,
            "state": run.state, "config": json.dumps(run.config), "group": run.group, "jobType": run.job_type,
            "commit": None, "readOnly": False, "createdAt": "2026-01-01T00:00:00", "heartbeatAt": "2026-01-01T00:00:00",
            "description": None, "notes": None, "systemMetrics": "{}", "summaryMetrics": json.dumps(run.summary),
            "historyLineCount": len(run.lines), "user": {"name": ENTITY, "username": ENTITY}, "historyKeys": None,
        }  # fmt: skip

    def _find(self, given: dict[str, Any]) -> KeptRun | None:
        project = self.projects.get(
            (given.get("entity") or ENTITY, given.get("project") or "uncategorized"), {}
        )
        return project.get(given.get("name") or given.get("run") or "")

    def _by_storage(self, storage_id: str) -> KeptRun | None:
        return next((run for run in self.runs() if run.storage_id == storage_id), None)


def _matches(run: KeptRun, wanted: dict[str, Any]) -> bool:
    """The few filters that the project uses: equality of group, jobType, state, and `$and`."""
    facts = {"group": run.group, "jobType": run.job_type, "state": run.state, "name": run.id}
    return all(
        all(_matches(run, part) for part in value) if key == "$and" else facts[key] == value
        for key, value in wanted.items()
    )


@contextmanager
def serving() -> Iterator[Standin]:
    """A stand-in that listens until the block ends."""
    server = Standin()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.mode = "ok"
        server.shutdown()
        server.server_close()
        thread.join(5)


def _manifest_file(url: str | None) -> dict[str, Any]:
    name = "wandb_manifest.json"
    return {"id": "F", "name": name, "displayName": name, "uploadUrl": url, "uploadHeaders": []}
