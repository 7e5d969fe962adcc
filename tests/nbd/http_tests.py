"""The http node of ostler-img, with a small web server that knows ranges."""

import base64
import http.server
import json
import re
import threading
from peers import MIB, Peers


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def do_GET(self):
        server = self.server
        server.requests.append((self.path, self.headers.get("Range"), self.headers.get("Cookie")))
        if server.password and self.headers.get("Authorization") != "Basic " + base64.b64encode(server.password.encode()).decode():
            return self.answer(401, b"who?", {"WWW-Authenticate": 'Basic realm="x"'})
        if self.path != "/disk":
            return self.answer(404, b"no such file")
        content = server.content
        match = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range") or "")
        if not match or not server.ranges:
            return self.answer(200, content)
        first, last = int(match[1]), min(int(match[2]), len(content) - 1)
        if first >= len(content):
            return self.answer(416, b"", {"Content-Range": f"bytes */{len(content)}"})
        total = len(content) if first == 0 and last == 0 else len(content) + server.lie
        return self.answer(206, content[first:last + 1], {"Content-Range": f"bytes {first}-{last}/{total}"})

    def answer(self, status, body, headers=()):
        self.send_response(status)
        for name, value in dict(headers).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        try:
            self.wfile.write(body)
        except ConnectionError:
            pass


class Http(Peers):
    def setUp(self):
        super().setUp()
        self.disk = self.content("disk.raw")
        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.content = self.disk.read_bytes()
        self.server.requests, self.server.ranges, self.server.password, self.server.lie = [], True, None, 0
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self.server.server_port}/disk"

    def tearDown(self):
        self.server.shutdown()
        self.server.server_close()
        super().tearDown()

    def options(self, *more):
        return ",".join(["driver=raw", "file.driver=http", f"file.url={self.url}", *more])

    def test_reads_in_ranges(self):
        self.img("compare", "-f", "raw", "-F", "raw", self.url, self.disk)
        self.assertTrue(all(each[1] for each in self.server.requests))
        info = json.loads(self.img("info", "-f", "raw", "--output=json", self.url).stdout)
        self.assertEqual(info["virtual-size"], 4 * MIB)

    def test_odd_and_empty_files(self):
        self.server.content = b"x" * 1000
        self.path("whole").write_bytes(b"x" * 1000 + bytes(24))
        self.img("compare", "-f", "raw", "-F", "raw", self.url, self.path("whole"))
        self.server.content = b""
        info = json.loads(self.img("info", "-f", "raw", "--output=json", self.url).stdout)
        self.assertEqual(info["virtual-size"], 0)

    def test_cookie_and_password(self):
        self.server.password = "me:secret"
        self.path("word").write_text("secret")
        self.img("info", "--object", f"secret,id=s,file={self.path('word')}", "--image-opts",
                 self.options("file.cookie=a=b", "file.username=me", "file.password-secret=s"))
        self.assertEqual(self.server.requests[-1][2], "a=b")
        self.assertIn("401", self.img("info", "--image-opts", self.options(), status=1).stderr)

    def test_what_cannot_be_used_is_explained(self):
        self.assertIn("404", self.img("info", "-f", "raw", self.url + "x", status=1).stderr)
        self.assertIn("cannot be written", self.img("resize", "-f", "raw", self.url, "8M", status=1).stderr)
        self.assertIn("readahead", self.img("info", "--image-opts", self.options("file.readahead=5"), status=1).stderr)
        self.server.ranges = False
        self.assertIn("whole files only", self.img("info", "-f", "raw", self.url, status=1).stderr)

    def test_file_that_changes_is_an_error(self):
        self.server.lie = 512
        done = self.img("compare", "-f", "raw", "-F", "raw", self.url, self.disk, status=None)
        self.assertGreater(done.returncode, 1)
