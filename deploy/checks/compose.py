"""The compose file, up: an event goes through it, Prometheus sees all of it, what is stored outlives its containers, and its
services end in order. `compose.py`, in namespaces of its own, with the images made by deploy/compose/check."""

import http.server
import json
import os
import pathlib
import queue
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request

import yaml

FILE = pathlib.Path(__file__).resolve().parents[1] / "compose/compose.yaml"
SERVICES = ("ingest", "api", "fanout", "dispatcher", "scheduler")
OTHERS = ("rabbitmq", "redis", "prometheus")
API, INGEST, PROMETHEUS = "http://127.0.0.1:8081", "http://127.0.0.1:8080", "http://127.0.0.1:9090"
RECEIVER_PORT = 9999
BRIDGE = "podman1"  # as podman names its first
WITHIN_SECONDS = 60


class Failed(Exception):
    """What the compose file does not do."""


def run(*command: str) -> str:
    ran = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    if ran.returncode:
        raise Failed(f"`{' '.join(command)}` ended with {ran.returncode}: {ran.stdout}{ran.stderr}")
    return ran.stdout


def compose(*arguments: str) -> str:
    # This machine, as podman's first network sees it.
    return run("env", "HOST_GATEWAY=10.89.0.1", "podman-compose", "--file", str(FILE), *arguments)


def until(what: str, found):
    """What `found` gives, once it gives something."""
    end = time.monotonic() + WITHIN_SECONDS
    while True:
        why = ""
        try:
            if given := found():
                return given
        except (Failed, OSError) as error:
            why = f": {error}"
        if time.monotonic() > end:
            raise Failed(f"{what}: not within {WITHIN_SECONDS} s{why}")
        time.sleep(0.2)


def ask(url: str, key: str | None = None, body: object = None) -> dict:
    request = urllib.request.Request(url, headers={"Content-Type": "application/json"})
    if key:
        request.add_header("Authorization", f"Bearer {key}")
    if body is not None:
        request.data = json.dumps(body).encode()
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            return json.load(answer)
    except urllib.error.HTTPError as refused:
        raise Failed(f"{url} answers {refused.code}: {refused.read().decode()}") from refused


def receiver() -> queue.Queue:
    """One on this machine, as its user would start it; what it is sent."""
    received = queue.Queue()

    class Receive(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            received.put(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(204)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("0.0.0.0", RECEIVER_PORT), Receive)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return received


def container(service: str) -> str:
    return f"fanfare_{service}_1"


def up() -> None:
    compose("up", "--detach", "--no-build", OTHERS[0])
    # With the first container there is the bridge. Made by netavark 1.4, it has no address of its own but the lowest of the
    # containers', which another one's start may change: to those before it, gateway and name server are then gone until they
    # look for its address again, up to a minute later.
    run("ip", "link", "set", BRIDGE, "address", "02:00:00:00:00:01")
    compose("up", "--detach", "--no-build", *SERVICES, *OTHERS)
    checked = yaml.safe_load(FILE.read_text())["services"]
    for service in OTHERS:
        if "healthcheck" in checked[service]:
            until(f"{service} is healthy", lambda: run("podman", "healthcheck", "run", container(service)) is not None)


def accepted(key: str, total: int) -> None:
    event = {"id": f"order-{total}", "type": "order.paid", "data": {"total": total}}  # once, however often it is tried
    until("ingest accepts an event", lambda: ask(f"{INGEST}/v1/events", key, event))


def arrives(received: queue.Queue, key: str, total: int) -> None:
    try:
        body = received.get(timeout=WITHIN_SECONDS)
    except queue.Empty:
        raise Failed(f"the event does not arrive: {json.dumps(ask(f'{API}/v1/deliveries', key)['deliveries'])}") from None
    if body["data"] != {"total": total}:
        raise Failed(f"another event arrives: {body}")


def prometheus_sees_all() -> None:
    def down() -> list[str]:
        targets = ask(f"{PROMETHEUS}/api/v1/targets?state=active")["data"]["activeTargets"]
        wrong = [f"{each['scrapeUrl']}: {each['lastError'] or each['health']}" for each in targets if each["health"] != "up"]
        return wrong if len(targets) == len(SERVICES) else [*wrong, f"{len(targets)} targets"]

    def all_up() -> bool:
        if wrong := down():
            raise Failed(", ".join(wrong))
        return True

    until("Prometheus reaches the five services", all_up)
    builds = [each["metric"] for each in ask(f"{PROMETHEUS}/api/v1/query?query=fanfare_build_info")["data"]["result"]]
    # Those whose names are the services', and the revision that the image was built with.
    revision = os.environ.get("FANFARE_REVISION", "unknown")
    if {(each["service"], each["revision"]) for each in builds} != {(name, revision) for name in SERVICES}:
        raise Failed(f"Prometheus knows of these builds, and {revision} is meant: {builds}")
    written = yaml.safe_load((FILE.parents[1] / "alerts/fanfare.yaml").read_text())["groups"]
    loaded = ask(f"{PROMETHEUS}/api/v1/rules")["data"]["groups"]
    wanted, has = (sum(len(group["rules"]) for group in groups) for groups in (written, loaded))
    if wanted != has:
        raise Failed(f"Prometheus has loaded {has} rules of {wanted}")


def stop() -> None:
    compose("stop", *SERVICES)  # before what they depend on, as docker does by itself
    for service in SERVICES:
        code = run("podman", "inspect", "--format", "{{.State.ExitCode}}", container(service)).strip()
        if code != "0":
            raise Failed(f"{service}, told to stop, ends with {code}")


def story() -> None:
    received = receiver()
    up()
    until("the api makes a tenant", lambda: ask(f"{API}/v1/tenants", "operator", {"id": "acme"}))
    key = ask(f"{API}/v1/tenants/acme/keys", "operator", {})["key"]
    ask(f"{API}/v1/webhooks", key, {"target": f"http://host.docker.internal:{RECEIVER_PORT}/hook", "triggers": ["order.paid"]})
    accepted(key, 1)
    arrives(received, key, 1)
    prometheus_sees_all()
    # What broker and Redis hold outlives their containers.
    compose("stop", "fanout")
    accepted(key, 2)
    stop()
    compose("down")
    up()
    arrives(received, key, 2)


def main() -> None:
    run("ip", "link", "set", "lo", "up")
    run("mount", "-t", "tmpfs", "tmpfs", "/run")  # where podman's networks note their addresses
    began = time.monotonic()
    try:
        story()
    except (Failed, OSError) as why:
        print(f"FAILED    the compose file: {why}")
        for service in (*OTHERS, *SERVICES):
            logs = subprocess.run(["podman", "logs", "--tail", "10", container(service)], capture_output=True, text=True)
            print(f"          {service}:\n{logs.stdout}{logs.stderr}")
        sys.exit(1)
    finally:
        # Their cgroups alone are the machine's own, and go once nothing is in them.
        for what in (["stop", "--time", "0"], ["rm"], ["pod", "rm"]):
            subprocess.run(["podman", *what, "--all"], capture_output=True)
    print(f"ok        the compose file brings Fanfare up, without Grafana  ({time.monotonic() - began:.1f} s)")


main()
