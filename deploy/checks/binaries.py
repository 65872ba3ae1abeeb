"""What the chart says of the binaries, against the binaries: runs in a network namespace of its own, so that the real
ports are free. Reads on stdin `[{name, command, ports, probes}]`, writes what is wrong."""

import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request


def get(url: str) -> int | None:
    try:
        with urllib.request.urlopen(url, timeout=2) as answer:
            return answer.status
    except urllib.error.HTTPError as answer:
        return answer.code
    except OSError:
        return None


def main() -> None:
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    for each in json.load(sys.stdin):
        # Neither broker nor Redis: a service lives and is not ready.
        with subprocess.Popen(each["command"], env=each["env"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
            until = time.monotonic() + 20
            for probe, (port, path) in each["probes"].items():
                wanted = (200, 503) if probe == "readinessProbe" else (200,)
                while (status := get(f"http://127.0.0.1:{port}{path}")) not in wanted and time.monotonic() < until:
                    time.sleep(0.05)
                if status not in wanted:
                    print(f"{each['name']}: {probe} at port {port}, {path}: {status}")
            if get(f"http://127.0.0.1:{each['admin']}/metrics") != 200:
                print(f"{each['name']}: no /metrics at port {each['admin']}")
            os.kill(process.pid, signal.SIGTERM)
            try:
                if process.wait(30):
                    print(f"{each['name']}: SIGTERM ended it with {process.returncode}")
            except subprocess.TimeoutExpired:
                process.kill()
                print(f"{each['name']}: SIGTERM did not end it within 30 s")


main()
