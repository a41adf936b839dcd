#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Makes a docker archive (docker load, gatehouse image load) of a root file
system's tar: a second, independent writer of the format for the tests."""
import argparse, hashlib, io, json, shlex, tarfile

p = argparse.ArgumentParser()
for a in ("--rootfs", "--tag", "--output", "--cmd"):
    p.add_argument(a, required=True)
p.add_argument("--arch", default="amd64")
a = p.parse_args()

h = hashlib.sha256()
with open(a.rootfs, "rb") as f:
    while chunk := f.read(1 << 20):
        h.update(chunk)
diff = "sha256:" + h.hexdigest()
config = json.dumps({
    "architecture": a.arch, "os": "linux",
    "config": {"Cmd": shlex.split(a.cmd), "Env": ["PATH=/usr/sbin:/usr/bin:/sbin:/bin"], "WorkingDir": "/"},
    "rootfs": {"type": "layers", "diff_ids": [diff]},
    "history": [{"created_by": "mkimage"}],
}).encode()
name = hashlib.sha256(config).hexdigest() + ".json"
manifest = json.dumps([{"Config": name, "RepoTags": [a.tag], "Layers": ["layer.tar"]}]).encode()
with tarfile.open(a.output, "w") as out:
    for n, b in ((name, config), ("manifest.json", manifest)):
        i = tarfile.TarInfo(n)
        i.size = len(b)
        out.addfile(i, io.BytesIO(b))
    out.add(a.rootfs, "layer.tar")
