"""A network namespace for peers and the VMM beside them, so that nothing of the host's own network is touched."""

import os
import subprocess

from .steps import Failed


class Namespace:
    """A network namespace that lasts as long as the `with` block; its commands are run by `prefix`."""

    def __enter__(self):
        user = [] if os.geteuid() == 0 else ["-Ur"]
        self.holder = subprocess.Popen(["unshare", *user, "-n", "sh", "-c", "echo ready; exec sleep 3600"],
                                       stdout=subprocess.PIPE, text=True)
        if self.holder.stdout.readline().strip() != "ready":
            raise Failed("this user cannot make network namespaces (unshare -n)")
        self.prefix = ["nsenter", "-t", str(self.holder.pid), "-n"]
        if user:
            self.prefix += ["-U", "--preserve-credentials"]
        return self

    def __exit__(self, *exception):
        self.holder.kill()
        self.holder.wait()
        self.holder.stdout.close()

    def run(self, *command):
        return subprocess.run([*self.prefix, *command], check=True, text=True, stdout=subprocess.PIPE).stdout

    def start(self, *command, **settings):
        return subprocess.Popen([*self.prefix, *command], **settings)
