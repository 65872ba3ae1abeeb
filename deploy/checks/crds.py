"""Objects of other people's kinds against the types they publish: unknown fields by the TypeScript compiler, values by
the schemas in the same packages. The RabbitMQ operator publishes none: its fields that we use are listed here."""

import json
import os
import pathlib
import subprocess

TYPES = {
    "ScaledObject": "@kubernetes-models/keda/keda.sh/v1alpha1/ScaledObject",
    "ServiceMonitor": "@kubernetes-models/prometheus-operator/monitoring.coreos.com/v1/ServiceMonitor",
    "PrometheusRule": "@kubernetes-models/prometheus-operator/monitoring.coreos.com/v1/PrometheusRule",
    "HTTPRoute": "@kubernetes-models/gateway-api/gateway.networking.k8s.io/v1/HTTPRoute",
}
# https://www.rabbitmq.com/kubernetes/operator/using-operator, v1beta1
RABBITMQ = {
    "replicas": int,
    "persistence": {"storage": str, "storageClassName": str},
    "resources": {"requests": dict, "limits": dict},
    "rabbitmq": {"additionalConfig": str, "advancedConfig": str},
}


def unlike(value, shape, path: str) -> list[str]:
    """Where a value is not of its shape."""
    if isinstance(shape, type):
        return [] if isinstance(value, shape) else [f"{path}: is no {shape.__name__}"]
    wrong = []
    for key, inner in value.items():
        wrong += unlike(inner, shape[key], f"{path}.{key}") if key in shape else [f"{path}.{key}: unknown"]
    return wrong


def check(found: list[dict], home: pathlib.Path) -> list[str]:
    """What is wrong with these objects. `home`: where node_modules lies."""
    wrong = []
    imports, body = {}, []
    for number, each in enumerate(found):
        kind = each["kind"]
        if kind == "RabbitmqCluster":
            wrong += unlike(each["spec"], RABBITMQ, "RabbitmqCluster.spec")
            continue
        if kind not in TYPES:
            wrong.append(f"{kind}: no type is known to check it by")
            continue
        imports[kind] = f'import {{ {kind}, I{kind} }} from "{TYPES[kind]}";'
        body.append(f"const o{number}: I{kind} = {json.dumps(each)};\nnew {kind}(o{number}).validate();")
    (home / "objects.ts").write_text("\n".join([*imports.values(), *body, ""]))
    options = ["--strict", "--skipLibCheck", "--target", "es2022", "--module", "nodenext", "--noEmitOnError"]
    compiled = subprocess.run(
        ["node_modules/.bin/tsc", *options, "objects.ts"], cwd=home, capture_output=True, text=True
    )
    if compiled.returncode:
        return [*wrong, compiled.stdout]
    ran = subprocess.run(["node", "objects.js"], cwd=home, capture_output=True, text=True, env={"PATH": os.environ["PATH"]})
    return [*wrong, ran.stderr] if ran.returncode else wrong
