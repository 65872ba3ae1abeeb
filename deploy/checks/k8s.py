"""k8s/: what the chart renders, for `kubectl apply -k`. `python k8s.py` writes the generated files anew, and the
rules and dashboards that the chart carries; the checks compare them, and each overlay with the chart under the example values of its name."""

import shutil
import subprocess
import sys

import yaml

from chart import ROOT, example, identity, objects

HEAD = "# Made from deploy/helm/fanfare by deploy/checks/k8s.py: change the chart, then `make k8s`.\n"


def plain(each: dict) -> dict:
    """The object without what only Helm wants: kustomize's users have other means."""

    def helms(key, value):
        return key.startswith("helm.sh/") or key == "app.kubernetes.io/managed-by" or (key == "annotations" and not value)

    def strip(value):
        if isinstance(value, dict):
            stripped = {key: strip(inner) for key, inner in value.items()}
            return {key: inner for key, inner in stripped.items() if not helms(key, inner)}
        if isinstance(value, list):
            return [strip(inner) for inner in value]
        return value

    return strip(each)


def rendered(name: str) -> list[dict]:
    """The objects under an example's values, without the test."""
    return [plain(each) for each in objects(example(name)) if "helm.sh/hook" not in each["metadata"].get("annotations", {})]


def test() -> list[dict]:
    """The test's pod, as the chart renders it by its defaults."""
    return [plain(each) for each in objects({}) if each["kind"] == "Pod"]


def files() -> dict[str, str]:
    """Path → text of every generated file."""
    base = rendered("default")
    of_base = {identity(each) for each in base}
    beside = [each for each in rendered("production") if identity(each) not in of_base]
    made = {}
    for folder, found in (("k8s/base", base), ("k8s/overlays/production", beside)):
        for kind in sorted({each["kind"] for each in found}):
            of_kind = [each for each in found if each["kind"] == kind]
            made[f"{folder}/{kind.lower()}.yaml"] = HEAD + yaml.safe_dump_all(of_kind, sort_keys=False, width=120)
    made["k8s/test/pod.yaml"] = HEAD + yaml.safe_dump_all(test(), sort_keys=False, width=120)
    kinds = sorted({each["kind"].lower() for each in base})
    made["k8s/base/kustomization.yaml"] = HEAD + yaml.safe_dump(
        {
            "apiVersion": "kustomize.config.k8s.io/v1beta1",
            "kind": "Kustomization",
            "resources": [f"{kind}.yaml" for kind in kinds],
        },
        sort_keys=False,
    )
    return made


def carried() -> dict[str, str]:
    """The rules and dashboards, which the chart carries in its own folder: Helm reads nothing outside."""
    made = {}
    for folder, pattern in (("alerts", "*.yaml"), ("dashboards", "*.json")):
        for path in sorted((ROOT / "deploy" / folder).glob(pattern)):
            if not path.name.endswith(".test.yaml"):
                made[f"deploy/helm/fanfare/files/{folder}/{path.name}"] = path.read_text()
    return made


def kustomized(folder: str) -> list[dict] | None:
    """What kubectl makes of a folder of k8s/; none without kubectl."""
    if not shutil.which("kubectl"):
        return None
    made = subprocess.run(["kubectl", "kustomize", ROOT / "k8s" / folder], capture_output=True, text=True)
    if made.returncode:
        sys.exit(f"kubectl kustomize k8s/{folder}: {made.stderr}")
    return sorted((each for each in yaml.safe_load_all(made.stdout) if each), key=identity)


if __name__ == "__main__":
    for path, text in {**carried(), **files()}.items():
        (ROOT / path).parent.mkdir(parents=True, exist_ok=True)
        (ROOT / path).write_text(text)
        print("wrote", path)
