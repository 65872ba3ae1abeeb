"""The chart, rendered by the real Helm engine without a cluster."""

import json
import pathlib

import helm_python as helm
import yaml
from helm_python import _native

ROOT = pathlib.Path(__file__).resolve().parents[2]
CHART = ROOT / "deploy/helm/fanfare"
OLDEST, NEWEST = "1.30", "1.37"
SERVICES = ("api", "dispatcher", "fanout", "ingest", "scheduler")


def example(name: str) -> dict:
    """One of the chart's example values; `default` is the chart as it comes."""
    if name == "default":
        return {}
    values = yaml.safe_load((CHART / f"examples/{name}.yaml").read_text())
    if name == "everything":
        for kind, files in (("rules", "alerts/*.yaml"), ("dashboards", "dashboards/*.json")):
            values["metrics"][kind] = {"enabled": any(CHART.glob(f"files/{files}"))}
    return values


EXAMPLES = ("default", "small", "production", "everything")


def texts(values: dict, kubernetes: str = OLDEST, path: pathlib.Path = CHART) -> dict[str, str]:
    """Template path → what it renders to. `Chart.render` takes no Kubernetes version, the call below it does."""
    with helm.Chart.load(path) as chart:
        chart.validate_schema(values)
        options = {"name": "fanfare", "namespace": "fanfare", "kube_version": f"v{kubernetes}.0", "api_versions": []}
        return json.loads(_native.call_string("helm_render", chart._raw(), json.dumps(values), json.dumps(options)))


def objects(values: dict, kubernetes: str = OLDEST, path: pathlib.Path = CHART) -> list[dict]:
    """Every object, hooks too, in the order of their kinds and names."""
    found = []
    for name, text in texts(values, kubernetes, path).items():
        if not name.endswith("NOTES.txt"):
            found += [each for each in yaml.safe_load_all(text) if each]
    return sorted(found, key=identity)


def identity(each: dict) -> tuple[str, str]:
    return (each["kind"], each["metadata"]["name"])


def refusal(values: dict) -> str | None:
    """Why the chart does not render with these values."""
    try:
        texts(values)
    except helm.HelmError as why:
        return str(why)
    return None


def pod_of(each: dict) -> dict | None:
    """The pod's spec of an object that has one."""
    if each["kind"] == "Pod":
        return each["spec"]
    if each["kind"] == "Deployment":
        return each["spec"]["template"]["spec"]
    return None


def containers_of(pod: dict) -> list[dict]:
    """All containers of a pod's spec, those that run first before the others."""
    return pod.get("initContainers", []) + pod["containers"]
