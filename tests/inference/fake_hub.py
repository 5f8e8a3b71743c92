"""A model hub on loopback: what huggingface_hub asks of one to upload and fetch small files."""

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class FakeHub:
    """Repositories as revisions of files, in memory.

    ``commits``: of each repository the files after each commit; ``fetched``: paths asked for.
    """

    def __init__(self):
        self.commits: dict[str, list[tuple[str, dict[str, bytes]]]] = {}
        self.fetched: list[str] = []

    def files(self, name, revision="main"):
        found = [files for sha, files in self.commits[name] if revision in ("main", sha)]
        return found[-1]

    def knows(self, name, revision):
        return revision in ("main", *(sha for sha, _ in self.commits[name]))

    def sha(self, name, revision="main"):
        return [sha for sha, _ in self.commits[name] if revision in ("main", sha)][-1]

    def commit(self, name, changes):
        files = {**(self.files(name) if self.commits[name] else {}), **changes}
        sha = hashlib.sha1(repr(sorted(files.items())).encode()).hexdigest()
        self.commits[name].append((sha, files))
        return sha


@contextmanager
def serve(hub: FakeHub) -> Iterator[str]:
    """The address at which a hub is served."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_):
            pass

        def _send(self, content=b"", status=200, **headers):
            if not isinstance(content, bytes):
                content = json.dumps(content).encode()
                headers["Content-Type"] = "application/json"
            self.send_response(status)
            for key, value in {**headers, "Content-Length": len(content)}.items():
                self.send_header(key.replace("_", "-"), str(value))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(content)

        def _body(self):
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))

        def do_POST(self):
            body = self._body()
            if self.path == "/api/repos/create":
                asked = json.loads(body)
                name = f"{asked.get('organization') or 'me'}/{asked['name']}"
                hub.commits.setdefault(name, [])
                self._send({"url": f"http://{self.headers['Host']}/{name}", "name": name})
            elif self.path == "/api/validate-yaml":
                self._send({"errors": [], "warnings": []})
            elif match := re.fullmatch(r"/api/models/(.+)/preupload/.+", self.path):
                files = json.loads(body)["files"]
                told = [{"path": f["path"], "uploadMode": "regular"} for f in files]
                self._send({"files": [{**each, "shouldIgnore": False} for each in told]})
            elif match := re.fullmatch(r"/api/models/(.+)/commit/.+", self.path):
                lines = [json.loads(line)["value"] for line in body.splitlines()]
                changed = {v["path"]: base64.b64decode(v["content"]) for v in lines if "path" in v}
                sha = hub.commit(match[1], changed)
                url = f"http://{self.headers['Host']}/{match[1]}/commit/{sha}"
                self._send({"commitUrl": url, "commitOid": sha, "success": True})
            else:
                self._send({"error": self.path}, 404)

        def do_GET(self):
            path = self.path.split("?")[0]
            if match := re.fullmatch(r"/api/models/([^/]+/[^/]+)(/revision/(.+))?", path):
                if match[1] not in hub.commits:
                    return self._send({"error": "none"}, 404, X_Error_Code="RepoNotFound")
                name, revision = match[1], match[3] or "main"
                if not hub.knows(name, revision):
                    return self._send({"error": "none"}, 404, X_Error_Code="RevisionNotFound")
                siblings = [{"rfilename": file} for file in hub.files(name, revision)]
                sha = hub.sha(name, revision)
                return self._send({"id": name, "sha": sha, "siblings": siblings})
            if match := re.fullmatch(r"/api/models/([^/]+/[^/]+)/tree/([^/]+)", path):
                if not hub.knows(match[1], match[2]):
                    return self._send({"error": "none"}, 404, X_Error_Code="RevisionNotFound")
                files = hub.files(match[1], match[2])
                return self._send(
                    [
                        {"type": "file", "path": file, "size": len(data), "oid": "0" * 40}
                        for file, data in files.items()
                    ]
                )
            if match := re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
                name, revision, file = match.groups()
                if not hub.commits.get(name) or file not in hub.files(name, revision):
                    return self._send(b"", 404, X_Error_Code="EntryNotFound")
                data = hub.files(name, revision)[file]
                if self.command == "GET":
                    hub.fetched.append(file)
                tag, sha = hashlib.sha1(data).hexdigest(), hub.sha(name, revision)
                return self._send(data, ETag=f'"{tag}"', X_Repo_Commit=sha)
            return self._send({"error": path}, 404)

        do_HEAD = do_GET

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
