"""TLS with folders and with QEMU's objects: ostler-img beside qemu-img, qemu-nbd and libnbd's tools."""

import json
import shutil
import peers
from peers import MIB, Peers


class Tls(Peers):
    def certificate(self, folder, who, template, authority=None):
        """`who`-cert.pem and its key in `folder`, as certtool makes them of `template`."""
        info, key, certificate = self.path(who + ".info"), folder / f"{who}-key.pem", folder / f"{who}-cert.pem"
        info.write_text(f"cn = {who}\n" + "\n".join(template))
        self.run_tool("certtool", "--generate-privkey", "--key-type=ecdsa", "--outfile", key)
        made = ["--generate-self-signed"] if authority is None else [
            "--generate-certificate", "--load-ca-certificate", authority / "ca-cert.pem", "--load-ca-privkey", authority / "ca-key.pem"]
        self.run_tool("certtool", *made, "--load-privkey", key, "--template", info, "--outfile", certificate)

    def certificates(self, name="pki"):
        folder = self.path(name)
        folder.mkdir()
        days = "expiration_days = 10"
        self.certificate(folder, "ca", [days, "ca", "cert_signing_key"])
        names = ["dns_name = localhost", "dns_name = disks.example", "ip_address = 127.0.0.1"]
        self.certificate(folder, "server", [days, "tls_www_server", "signing_key", *names], folder)
        self.certificate(folder, "client", [days, "tls_www_client", "signing_key"], folder)
        return folder

    def part(self, folder, name, *files):
        """A folder with some of the files of another."""
        made = self.path(name)
        made.mkdir()
        for each in files:
            shutil.copy(folder / each, made)
        return made

    def keys(self, *users):
        folder = self.path("psk")
        folder.mkdir()
        for user in users:
            self.run_tool("psktool", "-u", user, "-p", folder / "keys.psk")
        return folder

    def qemu_nbd(self, *words):
        """A socket's path."""
        socket = self.path("q")
        self.start("qemu-nbd", "-t", "-e", "8", "-f", "raw", "-k", socket, *words, until=socket)
        return socket

    def serve_tcp(self, *words):
        """The port."""
        _, uri = self.serve("-f", "raw", "--address", "127.0.0.1", "--port", "0", "-t", *words)
        return uri.split(":")[2].split("/")[0]


class ServeTls(Tls):
    """The credentials are a folder."""

    def test_certificates(self):
        folder = self.certificates()
        disk = self.content("disk.raw")
        port = self.serve_tcp("--tls-creds", folder, disk)
        secure = f"nbds://localhost:{port}/?tls-certificates={folder}"
        self.run_tool("nbdcopy", secure, self.path("copy.raw"))
        self.same(disk, self.path("copy.raw"))
        self.run_tool("qemu-img", "compare", "--object", f"tls-creds-x509,id=t,dir={folder},endpoint=client", "--image-opts",
                      f"driver=raw,file.driver=nbd,file.host=127.0.0.1,file.port={port},file.tls-creds=t,file.tls-hostname=localhost",
                      "driver=raw,file.driver=file,file.filename=disk.raw")
        # Without TLS, and without a certificate.
        self.assertNotEqual(self.run_tool("nbdinfo", f"nbd://127.0.0.1:{port}/", status=None).returncode, 0)
        (folder / "client-cert.pem").unlink()
        (folder / "client-key.pem").unlink()
        self.assertNotEqual(self.run_tool("nbdinfo", "--size", secure, status=None).returncode, 0)

    def test_ours_with_ours(self):
        folder = self.certificates()
        disk = self.content("disk.raw")
        port = self.serve_tcp("-r", "--tls-creds", folder, disk)
        self.img("compare", "-f", "raw", "-F", "raw", f"nbds://localhost:{port}/?tls-creds={folder}", disk)
        self.img("info", "-f", "raw", f"nbd://localhost:{port}/", status=1)

    def test_a_unix_socket_needs_the_certificates_name(self):
        folder = self.certificates()
        disk = self.content("disk.raw")
        _, uri = self.serve("-f", "raw", "-k", self.path("s"), "-t", "-r", "--tls-creds", folder, disk)
        self.img("compare", "-f", "raw", "-F", "raw", f"{uri}&tls-creds={folder}&tls-hostname=disks.example", disk)
        self.assertIn("tls-hostname=NAME", self.img("info", "-f", "raw", f"{uri}&tls-creds={folder}", status=1).stderr)
        other = self.part(self.certificates("other"), "mixed", "ca-cert.pem")
        done = self.img("info", "-f", "raw", f"{uri}&tls-creds={other}&tls-hostname=disks.example", status=1)
        self.assertIn("is not signed by an authority that is trusted", done.stderr)

    def test_shared_keys(self):
        folder = self.keys("qemu")
        disk = self.content("disk.raw")
        _, uri = self.serve("-f", "raw", "--socket", self.path("s"), "-t", "-r", "--tls-creds", folder, disk)
        self.run_tool("qemu-img", "compare", "--object", f"tls-creds-psk,id=t,dir={folder},endpoint=client", "--image-opts",
                      f"driver=raw,file.driver=nbd,file.path={self.path('s')},file.tls-creds=t", "driver=raw,file.driver=file,file.filename=disk.raw")
        self.img("compare", "-f", "raw", "-F", "raw", f"{uri}&tls-creds={folder}", disk)


class TlsObjects(Tls):
    """The credentials are objects, with QEMU's words for both programs."""

    LOCAL = "driver=raw,file.driver=file,file.filename=disk.raw"

    def options(self, *more, place=None):
        place = place or f"file.server.type=unix,file.server.path={self.path('q')}"
        return ",".join(["driver=raw,file.driver=nbd", place, "file.tls-creds=t", *more])

    def tcp(self, port, *more):
        return self.options(*more, place=f"file.server.type=inet,file.server.host=127.0.0.1,file.server.port={port}")

    def test_certificates_of_our_server(self):
        folder = self.certificates()
        bare = self.part(folder, "bare", "ca-cert.pem")
        self.content("disk.raw")
        for verify, without in (("on", 1), ("off", 0)):
            server = f"tls-creds-x509,id=s,dir={folder},endpoint=server,verify-peer={verify}"
            port = self.serve_tcp("-r", "--object", server, "--tls-creds", "s", "disk.raw")
            for program in ("qemu-img", peers.BIN / "ostler-img"):
                for client, status in ((folder, 0), (bare, without)):
                    words = ["--object", f"tls-creds-x509,id=t,dir={client},endpoint=client", "--image-opts"]
                    self.run_tool(program, "info", *words, self.tcp(port), status=status)
                    if status == 0:
                        self.run_tool(program, "compare", *words, self.tcp(port), self.LOCAL)
            done = self.run_tool("nbdcopy", f"nbds://localhost:{port}/?tls-certificates={bare}", self.path("copy.raw"), status=None)
            self.assertEqual(done.returncode != 0, without == 1)

    def test_certificates_of_qemu_nbd(self):
        folder = self.certificates()
        bare = self.part(folder, "bare", "ca-cert.pem")
        self.content("disk.raw")
        self.qemu_nbd("-r", "--object", f"tls-creds-x509,id=s,dir={folder},endpoint=server", "--tls-creds", "s", "disk.raw")
        client = f"tls-creds-x509,id=t,dir={folder},endpoint=client"
        self.img("compare", "--object", client, "--image-opts", self.options("file.tls-hostname=disks.example"), self.LOCAL)
        for words, text in (((client, self.options("file.tls-hostname=other.example")), "is for another name"),
                            ((client, self.options()), "tls-hostname=NAME"),
                            ((client, self.options("file.tls-hostname=localhost", "file.export=other")), "server has no export named 'other'"),
                            ((client.replace(str(folder), str(bare)), self.options("file.tls-hostname=localhost")), "it may want a client's certificate")):
            self.assertIn(text, self.img("info", "--object", words[0], "--image-opts", words[1], status=1).stderr)
        other = self.certificates("other")
        shutil.copy(folder / "client-cert.pem", other)
        shutil.copy(folder / "client-key.pem", other)
        strange = f"tls-creds-x509,id=t,dir={other},endpoint=client,sanity-check=off"
        done = self.img("info", "--object", strange, "--image-opts", self.options("file.tls-hostname=localhost"), status=1)
        self.assertIn("is not signed by an authority that is trusted", done.stderr)
        self.img("compare", "--object", strange + ",verify-peer=off", "--image-opts", self.options(), self.LOCAL)

    def test_much_content_both_ways(self):
        folder = self.certificates()
        with open(self.path("disk.raw"), "wb") as file:
            for at in range(48):
                file.write(bytes((at * 31 + i) & 0xff for i in range(256)) * (MIB // 256))
        self.run_tool("truncate", "-s", "48M", self.path("copy.raw"))
        socket = self.qemu_nbd("--object", f"tls-creds-x509,id=s,dir={folder},endpoint=server,verify-peer=off", "--tls-creds", "s", "copy.raw")
        client = ["--object", f"tls-creds-x509,id=t,dir={folder},endpoint=client"]
        target = f"driver=raw,file.driver=nbd,file.server.type=unix,file.server.path={socket},file.tls-creds=t,file.tls-hostname=localhost"
        self.img("convert", "-n", *client, "--image-opts", "--target-image-opts", self.LOCAL, target)
        self.assertTrue(self.path("copy.raw").read_bytes() == self.path("disk.raw").read_bytes())
        self.img("compare", *client, "--image-opts", target, self.LOCAL)

    def test_connections_that_break_are_made_again(self):
        """In the midst of requests, of the negotiation and of the handshake."""
        folder = self.certificates()
        cuts = [300_001, 10, 100, 2000, 1_000_003, 65_537]
        server = ["--object", f"tls-creds-x509,id=s,dir={folder},endpoint=server", "--tls-creds", "s"]
        client = ["--object", f"tls-creds-x509,id=t,dir={folder},endpoint=client"]
        self.content("disk.raw")
        for name in ("ours", "theirs"):
            self.run_tool("truncate", "-s", "4M", f"{name}.raw")
        self.qemu_nbd(*server, "theirs.raw")
        self.serve("-f", "raw", "-k", self.path("o"), "-t", "-e", "8", *server, "ours.raw")
        for name, place in (("ours", "o"), ("theirs", "q")):
            for words in (["convert", "-n", *client, "--image-opts", "--target-image-opts", self.LOCAL],
                          ["compare", *client, "--image-opts", self.LOCAL]):
                path = self.path(f"{words[0]}-{name}")
                proxy = peers.CuttingProxy(path, self.path(place), cuts)
                self.img(*words, f"driver=raw,file.driver=nbd,file.server.type=unix,file.server.path={path},file.tls-creds=t,"
                         "file.tls-hostname=localhost,file.reconnect-delay=60")
                self.assertEqual(proxy.made, len(cuts) + 1)
            self.same("disk.raw", f"{name}.raw")

    def test_what_info_tells_opens_the_disk_again(self):
        folder = self.certificates()
        self.content("disk.raw")
        self.qemu_nbd("-r", "--object", f"tls-creds-x509,id=s,dir={folder},endpoint=server", "--tls-creds", "s", "disk.raw")
        client = ["--object", f"tls-creds-x509,id=t,dir={folder},endpoint=client"]
        # A part of a disk has no shorter name than its options.
        part = self.options("file.tls-hostname=localhost", "size=1048576")
        info = json.loads(self.img("info", "--output=json", *client, "--image-opts", part).stdout)
        self.assertIn('"tls-hostname": "localhost"', info["filename"])
        for program in ("qemu-img", peers.BIN / "ostler-img"):
            again = json.loads(self.run_tool(program, "info", "--output=json", *client, info["filename"]).stdout)
            self.assertEqual(again["virtual-size"], MIB)

    def test_keys_both_ways(self):
        folder = self.keys("qemu", "alice")
        disk = self.content("disk.raw")
        server = ["--object", f"tls-creds-psk,id=s,dir={folder},endpoint=server", "--tls-creds", "s"]
        self.qemu_nbd("-r", *server, disk)
        self.serve("-f", "raw", "-k", self.path("o"), "-t", "-r", "-e", "8", *server, disk)
        ours = self.options(place=f"file.server.type=unix,file.server.path={self.path('o')}")
        for user in ("", ",username=alice", ",username=qemu"):
            client = ["--object", f"tls-creds-psk,id=t,dir={folder},endpoint=client{user}", "--image-opts"]
            self.img("compare", *client, self.options(), self.LOCAL)
            self.img("compare", *client, ours, self.LOCAL)
            self.run_tool("qemu-img", "compare", *client, ours, self.LOCAL)
        self.run_tool("nbdcopy", f"nbds+unix://alice@/?socket={self.path('o')}&tls-psk-file={folder / 'keys.psk'}", self.path("copy.raw"))
        self.same(disk, self.path("copy.raw"))
        done = self.img("info", "--object", f"tls-creds-psk,id=t,dir={folder},username=bob", "--image-opts", self.options(), status=1)
        self.assertIn("no key of the user 'bob'", done.stderr)

    def test_priorities(self):
        folder = self.certificates()
        self.content("disk.raw")
        only = "priority=NORMAL:-VERS-ALL:+VERS-TLS1."
        server = f"tls-creds-x509,id=s,dir={folder},endpoint=server,{only}2"
        port = self.serve_tcp("-r", "--object", server, "--tls-creds", "s", "disk.raw")
        for program in ("qemu-img", peers.BIN / "ostler-img"):
            for version, status in (("2", 0), ("3", 1)):
                client = f"tls-creds-x509,id=t,dir={folder},endpoint=client,{only}{version}"
                self.run_tool(program, "info", "--object", client, "--image-opts", self.tcp(port), status=status)

    def test_passwords_of_private_keys(self):
        folder = self.certificates()
        plain = self.part(folder, "plain", "ca-cert.pem", "client-cert.pem", "client-key.pem", "server-cert.pem", "server-key.pem")
        for who in ("server", "client"):
            self.run_tool("certtool", "--to-p8", "--pkcs-cipher=aes-256", "--password=open sesame", "--load-privkey", plain / f"{who}-key.pem",
                          "--outfile", folder / f"{who}-key.pem")
        self.content("disk.raw")
        good, bad = "secret,id=p,data=open sesame", "secret,id=p,data=open poppy"
        server = f"tls-creds-x509,id=s,dir={folder},endpoint=server"
        for words, text in ((["--object", server], "its password is missing: passwordid=ID"),
                            (["--object", bad, "--object", server + ",passwordid=p"], "not with the password"),
                            (["--object", server + ",passwordid=p"], "no secret 'p'")):
            done = self.img("serve", "-f", "raw", *words, "--tls-creds", "s", "disk.raw", status=1)
            self.assertIn(text, done.stderr)
            self.assertEqual(done.stderr.count("\n"), 1)
        port = self.serve_tcp("-r", "--object", good, "--object", server + ",passwordid=p", "--tls-creds", "s", "disk.raw")
        self.run_tool("qemu-img", "compare", "--object", f"tls-creds-x509,id=t,dir={plain},endpoint=client", "--image-opts", self.tcp(port), self.LOCAL)
        self.qemu_nbd("-r", "--object", f"tls-creds-x509,id=s,dir={plain},endpoint=server", "--tls-creds", "s", "disk.raw")
        client = f"tls-creds-x509,id=t,dir={folder},endpoint=client,passwordid=p"
        self.img("compare", "--object", good, "--object", client, "--image-opts", self.options("file.tls-hostname=localhost"), self.LOCAL)
        done = self.img("info", "--object", bad, "--object", client, "--image-opts", self.options("file.tls-hostname=localhost"), status=1)
        self.assertIn("not with the password", done.stderr)

    def test_certificates_that_cannot_work_are_told_at_the_start(self):
        folder = self.certificates()
        self.content("disk.raw")

        def complaint(template, authority=folder, who="server"):
            """Of a server whose certificate is made of `template`; it works if that is not looked at."""
            bad = self.part(folder, "bad", "ca-cert.pem", "server-cert.pem", "server-key.pem")
            self.certificate(bad, who, template, authority)
            server = f"tls-creds-x509,id=s,dir={bad},endpoint=server"
            words = ["-f", "raw", "-k", self.path("s"), "--tls-creds", "s", "disk.raw"]
            done = self.img("serve", "--object", server, *words, status=1)
            process, _ = self.serve("--object", server + ",sanity-check=off", *words)
            process.terminate()
            process.communicate(timeout=peers.TIMEOUT)
            self.running.remove(process)
            shutil.rmtree(bad)
            self.assertEqual(done.stderr.count("\n"), 1)
            return done.stderr

        days = "expiration_days = 10"
        self.assertIn("server-cert.pem is not meant for a server", complaint([days, "tls_www_client", "signing_key"]))
        self.assertIn("server-cert.pem has expired on 2020-01-02", complaint(
            ['activation_date = "2020-01-01 00:00:00"', 'expiration_date = "2020-01-02 00:00:00"', "tls_www_server", "signing_key"]))
        self.assertIn("server-cert.pem is not valid before", complaint(
            ['activation_date = "2199-01-01 00:00:00"', 'expiration_date = "2199-01-02 00:00:00"', "tls_www_server", "signing_key"]))
        self.assertIn("server-cert.pem is of an authority", complaint([days, "ca", "cert_signing_key"]))
        self.assertIn("is not signed by an authority that is trusted, by ", complaint(
            [days, "tls_www_server", "signing_key"], self.certificates("other")))
        self.assertIn("ca-cert.pem is not of an authority", complaint([days, "signing_key"], None, "ca"))

    def test_mistakes_are_explained(self):
        folder = self.certificates()
        self.content("disk.raw")
        server, client = (f"tls-creds-x509,id=t,dir={folder},endpoint={endpoint}" for endpoint in ("server", "client"))
        for words, text in ((["--object", client, "--tls-creds", "t"], "is for a client, and this is a server; give it endpoint=server"),
                            (["--tls-creds", "t"], "--object tls-creds-x509,id=t,dir=DIR,endpoint=server"),
                            (["--object", server, "--tls-creds", "t", "--tls-verify-peer", "off"], "say verify-peer=off in the object 't'"),
                            (["--object", server.replace("pki", "nowhere")], "nowhere/server-cert.pem is missing"),
                            (["--object", server + ",priority=NORMAL:+ROT13"], "does not know '+ROT13'"),
                            (["--object", server, "--object", server], "there is an object 't' already"),
                            (["--object", "tls-creds-anon,id=t,endpoint=server"], "tls-creds-psk")):
            done = self.img("serve", "-f", "raw", *words, "disk.raw", status=1)
            self.assertIn(text, done.stderr)
            self.assertEqual(done.stderr.count("\n"), 1)
        for made, text in ((server, "is for a server, and this is a client; give it endpoint=client"), (client.replace("id=t", "id=u"), "there is no object 't'")):
            done = self.img("info", "--object", made, "--image-opts", self.options(), status=1)
            self.assertIn(text, done.stderr)
