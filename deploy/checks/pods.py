"""The chart's pods as `podman play kube` takes them: the helm test's pod, which has each service read its settings and
secrets, in the image, as user 65532, on a read-only root. `pods.py IMAGE FOLDER` writes pods.yaml and secret.json, which
podman wants apart."""

import base64
import json
import pathlib
import sys

import yaml

from chart import identity, objects

SECRET = {
    "amqp-url": "amqp://fanfare:fanfare@127.0.0.1:1/%2f",
    "redis-url": "redis://127.0.0.1:1/0",
    "secrets-keys": "k1:" + "A" * 43 + "=",
    "admin-token": "token",
}


def main() -> None:
    image = sys.argv[1]
    repository, tag = image.rsplit(":", 1)
    found = objects({"image": {"repository": repository, "tag": tag, "pullPolicy": "Never"}})
    kept = [each for each in found if identity(each) == ("ConfigMap", "fanfare") or each["kind"] == "Pod"]
    for each in kept:
        if each["kind"] == "Pod":
            each["spec"]["containers"] = each["spec"].pop("initContainers")  # an event needs all of Fanfare
            each["spec"]["hostNetwork"] = True  # a test's machine may make no networks
            for unknown in ("serviceAccountName", "enableServiceLinks"):
                del each["spec"][unknown]
    data = {key: base64.b64encode(text.encode()).decode() for key, text in SECRET.items()}
    folder = pathlib.Path(sys.argv[2])
    (folder / "secret.json").write_text(json.dumps(data))
    (folder / "pods.yaml").write_text(yaml.safe_dump_all(kept))


main()
