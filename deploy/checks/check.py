"""All that can be checked of the chart, k8s/ and docs/ without a cluster. Each check is a function that yields what is
wrong; `python check.py [part of a name]`. docs/install.md says what cannot be checked here."""

import ipaddress
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
import time

import helm_python as helm
import kubernetes_validate
import yaml

import crds
import k8s
import policy
import settings
from chart import CHART, EXAMPLES, NEWEST, OLDEST, ROOT, SERVICES, containers_of, example, identity, objects, pod_of, refusal, texts

TARGET = ROOT / os.environ.get("CARGO_TARGET_DIR", "target")
OTHERS = {"ScaledObject", "ServiceMonitor", "PrometheusRule", "HTTPRoute", "RabbitmqCluster"}
NODE = TARGET / "deploy/node"


def chart_lints():
    for name in EXAMPLES:
        for message in helm.lint(CHART, example(name), strict=True)["messages"]:
            if message["severity"] >= 2:
                yield f"{name}: {message}"


def renders_are_alike_each_time_and_hold_no_time():
    for name in EXAMPLES:
        if texts(example(name)) != texts(example(name)):
            yield f"{name}: two renders differ"
        if not any("Fanfare" in text for path, text in texts(example(name)).items() if path.endswith("NOTES.txt")):
            yield f"{name}: no notes"


def objects_are_kubernetes_own():
    for name in EXAMPLES:
        for version in (OLDEST, NEWEST):
            for each in objects(example(name), version):
                if each["kind"] in OTHERS:
                    continue
                try:
                    kubernetes_validate.validate(each, version, strict=True)
                except Exception as why:  # of three unrelated classes
                    yield f"{name}, Kubernetes {version}, {identity(each)}: {why}"


def objects_of_other_kinds_are_of_their_types():
    found = [each for each in objects(example("everything")) if each["kind"] in OTHERS]
    missing = OTHERS - {each["kind"] for each in found} - (set() if k8s.carried() else {"PrometheusRule"})
    if missing:
        yield f"examples/everything.yaml renders none of {missing}"
    if not (NODE / "node_modules").is_dir():
        print("          not checked: npm is not here")
        return
    yield from crds.check(found, NODE)


def helm_would_install_it_from_its_oldest_kubernetes_on():
    with helm.Chart.load(CHART) as chart:
        wanted = chart.metadata["kubeVersion"]
    if wanted != f">={OLDEST}.0-0":
        yield f"Chart.yaml's kubeVersion is {wanted}, and {OLDEST} is the oldest that is checked"
    with helm.Config(storage_driver="memory", namespace="fanfare") as config:
        for name in EXAMPLES:
            try:
                config.install(str(CHART), "fanfare", example(name), dry_run="client")
            except helm.HelmError as why:
                yield f"{name}: {why}"


def the_schema_is_closed():
    for values in (
        {"replicaCount": 3},
        {"services": {"ingest": {"replica": 3}}},
        {"services": {"ingress": {}}},
        {"defaults": {"autoscaling": {"kind": "vpa"}}},
        {"secrets": {"amqp_url": {}}},
        {"allowNetworks": {"a": "10.0.0.0"}},
        {"image": {"digest": "latest"}},
        {"networkPolicy": {"to": {"redis": {"a": {"port": 6379}}}}},
        {"metrics": {"rules": {"disabled": "FanfareServiceDown"}}},
        {"metrics": {"rules": {"runbookBase": "docs.example.com"}}},
        {"tests": {"port": "http"}},
    ):
        if refusal(values) is None:
            yield f"takes {values}"
    if why := refusal({"global": {"any": 1}, "enabled": True}):
        yield f"does not take what a parent chart passes on: {why}"


def the_chart_can_be_another_charts_part():
    with tempfile.TemporaryDirectory() as folder:
        parent = pathlib.Path(folder) / "parent"
        shutil.copytree(CHART, parent / "charts/fanfare")
        (parent / "Chart.yaml").write_text("apiVersion: v2\nname: parent\nversion: 1.0.0\n")
        found = objects({"global": {"a": 1}, "fanfare": {"enabled": True, "defaults": {"replicas": 4}}}, path=parent)
        replicas = {each["spec"]["replicas"] for each in found if each["kind"] == "Deployment"}
        if replicas != {4}:
            yield f"a parent's value does not arrive: {replicas}"


REFUSED = (
    ({"settings": {"shutdown": {"grace": "60s"}}}, "shutdown.graceSeconds"),
    ({"settings": {"targets": {"allow_networks": ["10.0.0.0/8"]}}}, "allowNetworks"),
    ({"settings": {"catalogs": {"path": "/x"}}}, "catalogs.files"),
    ({"settings": {"ingest": {"listen": "0.0.0.0:80"}}}, "the chart's ports"),
    ({"settings": {"secrets": {"keys": "a:b"}}}, "secrets-keys"),
    ({"settings": {"api": {"admin_token": "x"}}}, "admin-token"),
    ({"settings": {"amqp": {"url": "amqp://a:b@c/"}}}, "holds a password"),
    ({"settings": {"amqp": {"tls": {"ca": "x"}}}}, "sections have no sections"),
    ({"settings": {"dispatcher": {"timeout": "20s"}}}, "cuts attempts off"),
    ({"settings": {"dispatcher": {"timeout": "1m"}}}, "cuts attempts off"),
    ({"settings": {"dispatcher": {"timeout": "1500ms"}}}, "write it as seconds"),
    ({"shutdown": {"graceSeconds": 10}}, "cuts attempts off"),
    ({"secrets": {"name": ""}}, "`secrets.name` is empty"),
    ({"defaults": {"autoscaling": {"kind": "keda"}}}, "keda.prometheusUrl"),
    ({"defaults": {"autoscaling": {"kind": "hpa", "min": 9}}}, "at most"),
    ({"defaults": {"autoscaling": {"kind": "hpa"}, "resources": {"requests": {"cpu": None}}}}, "requests none"),
    ({"expose": {"api": {"kind": "ingress"}}}, "expose.api.host"),
    ({"expose": {"api": {"kind": "httpRoute", "host": "a"}}}, "Gateway"),
    ({"networkPolicy": {"enabled": True}}, "networkPolicy.to.broker"),
    ({"networkPolicy": {"enabled": True}, "rabbitmqCluster": {"enabled": True}}, "networkPolicy.to.redis"),
    ({"catalogs": {"files": {"a.yaml": ""}, "configMap": "b"}}, "both set"),
    ({"rabbitmqCluster": {"enabled": True, "replicas": 2}}, "odd number"),
)


def what_cannot_work_is_refused_with_a_sentence():
    for values, sentence in REFUSED:
        why = refusal(values)
        if why is None or sentence not in why:
            yield f"{values}: {why}"


def pods_are_restricted_and_end_in_order():
    for name in EXAMPLES:
        values = example(name)
        for each in objects(values):
            pod = pod_of(each)
            if pod is None:
                continue
            here = f"{name}, {identity(each)}"
            security = pod["securityContext"]
            if not (security["runAsNonRoot"] and security["runAsUser"] == 65532 and security["seccompProfile"]["type"] == "RuntimeDefault"):
                yield f"{here}: the pod is not restricted"
            if pod["automountServiceAccountToken"] or pod["enableServiceLinks"]:
                yield f"{here}: has a token or service links"
            for container in containers_of(pod):
                inner = container["securityContext"]
                if inner["allowPrivilegeEscalation"] or not inner["readOnlyRootFilesystem"] or inner["capabilities"] != {"drop": ["ALL"]}:
                    yield f"{here}: its container is not restricted"
                memory = {container["resources"][part]["memory"] for part in ("requests", "limits")}
                if len(memory) != 1 or "cpu" in container["resources"]["limits"]:
                    yield f"{here}: memory's limit is its request, and CPU has none"
                if each["kind"] == "Deployment":
                    sleep = container.get("lifecycle", {}).get("preStop", {}).get("sleep", {}).get("seconds", 0)
                    if ("http" in [port["name"] for port in container["ports"]]) != bool(sleep):
                        yield f"{here}: preStop belongs to what a load balancer leads to"
                    grace = values.get("shutdown", {}).get("graceSeconds", 25)
                    if pod["terminationGracePeriodSeconds"] != grace + sleep + 5:
                        yield f"{here}: its grace period is {pod['terminationGracePeriodSeconds']}"


QUANTITY = re.compile(r"^[0-9]+(\.[0-9]+)?(m|k|Ki|Mi|Gi|Ti)?$")


def names_and_references_hold():
    given = {"our-catalogs", "our-cas"}  # of examples/everything.yaml, made by its reader
    for name in EXAMPLES:
        found = objects(example(name))
        kept = {identity(each) for each in found}
        pods = [each["spec"]["template"] for each in found if each["kind"] == "Deployment"]
        tests = [each for each in found if each["kind"] == "Pod"]
        if len(kept) != len(found):
            yield f"{name}: two objects of one name"
        for each in found:
            here = f"{name}, {identity(each)}"
            if not re.fullmatch(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?", each["metadata"]["name"]):
                yield f"{here}: not a name"
            for key, value in each["metadata"].get("labels", {}).items():
                if not re.fullmatch(r"([A-Za-z0-9]([\w.-]{0,61}[A-Za-z0-9])?)?", value):
                    yield f"{here}: label {key}: {value}"
            pod = pod_of(each)
            if pod:
                for volume in pod["volumes"]:
                    wanted = volume["configMap"]["name"]
                    if wanted not in given and ("ConfigMap", wanted) not in kept:
                        yield f"{here}: no ConfigMap {wanted}"
                for container in containers_of(pod):
                    mounted = {mount["name"] for mount in container["volumeMounts"]}
                    if not mounted <= {volume["name"] for volume in pod["volumes"]}:
                        yield f"{here}: mounts what is no volume"
                    for part in container["resources"].values():
                        for quantity in part.values():
                            if not QUANTITY.match(str(quantity)):
                                yield f"{here}: quantity {quantity}"
                    for variable in container["env"]:
                        if variable["name"] == "EXAMPLE_COUNT" and variable["value"] != "1000000":
                            yield f"{here}: a number became {variable['value']}"
                        if variable["name"].startswith("FANFARE_") and variable["name"] != "FANFARE_CONFIG" and "valueFrom" not in variable:
                            yield f"{here}: {variable['name']} stands in the open"
            if each["kind"] == "Deployment":
                labels = each["spec"]["template"]["metadata"]["labels"]
                if not each["spec"]["selector"]["matchLabels"].items() <= labels.items():
                    yield f"{here}: does not select its pods"
            if each["kind"] == "Service":
                behind = [pod for pod in pods if each["spec"]["selector"].items() <= pod["metadata"]["labels"].items()]
                for port in each["spec"]["ports"]:
                    has = [any(own["name"] == port["targetPort"] for own in pod["spec"]["containers"][0]["ports"]) for pod in behind]
                    if not has or not all(has):
                        yield f"{here}: port {port['targetPort']} leads nowhere"
            if each["kind"] in ("HorizontalPodAutoscaler", "ScaledObject"):
                aim = each["spec"]["scaleTargetRef"]["name"]
                deployments = [other for other in found if identity(other) == ("Deployment", aim)]
                if not deployments or "replicas" in deployments[0]["spec"]:
                    yield f"{here}: scales nothing, or what has replicas of its own"
            if each["kind"] in ("PodDisruptionBudget", "NetworkPolicy"):
                selector = each["spec"].get("selector") or each["spec"]["podSelector"]
                if not any(selector["matchLabels"].items() <= pod["metadata"]["labels"].items() for pod in pods + tests):
                    yield f"{here}: selects nothing"
            if each["kind"] == "Ingress":
                for path in each["spec"]["rules"][0]["http"]["paths"]:
                    if ("Service", path["backend"]["service"]["name"]) not in kept:
                        yield f"{here}: leads to no Service"


def selectors_stay_what_they_were():
    """A Deployment's selector can never be changed: an upgrade would fail."""
    lines = []
    for each in objects(example("everything")):
        spec = each.get("spec", {})
        selector = spec.get("selector") if each["kind"] in ("Deployment", "Service") else None
        if selector:
            labels = selector.get("matchLabels", selector)
            lines.append(" ".join([*identity(each), *(f"{key}={value}" for key, value in sorted(labels.items()))]))
    if "\n".join(lines) + "\n" != (ROOT / "deploy/checks/selectors.txt").read_text():
        yield "deploy/checks/selectors.txt is not what is rendered:\n" + "\n".join(lines)


def labels_of(name: str) -> dict:
    return {"app.kubernetes.io/name": "fanfare", "app.kubernetes.io/instance": "fanfare", "app.kubernetes.io/component": name}


# May A reach B on port P, under examples/production.yaml?
TEST = policy.Place("fanfare", labels_of("test"))
INGRESS, PROMETHEUS = policy.Place("ingress-nginx"), policy.Place("monitoring")
DATA, STRANGER = policy.Place("data"), policy.Place("elsewhere")
DNS = policy.Place("kube-system", {"k8s-app": "kube-dns"})
WORLD, WORLD6 = policy.Place(address="93.184.216.34"), policy.Place(address="2606:2800:220:1::1")
PRIVATE = [policy.Place(address=address) for address in ("10.0.0.1", "169.254.169.254", "192.168.1.1", "fd00::1", "127.0.0.1", "fe80::1")]


def only_who_should_reaches_what_it_should():
    policies = [each for each in objects(example("production")) if each["kind"] == "NetworkPolicy"]
    ours = {name: policy.Place("fanfare", labels_of(name)) for name in SERVICES}
    admin = {"ingest": 9101, "fanout": 9102, "dispatcher": 9103, "scheduler": 9104, "api": 9105}
    table = []
    for name, own in ours.items():
        table += [
            (own, DATA, 5672, True), (own, DATA, 6379, True), (own, DATA, 22, False), (own, DATA, 15672, False), (own, STRANGER, 5672, False),
            (own, DNS, 53, True), (PROMETHEUS, own, admin[name], True), (STRANGER, own, admin[name], False),
            (INGRESS, own, admin[name], False), (INGRESS, own, 8080, name == "ingest"), (INGRESS, own, 8081, name == "api"),
            (STRANGER, own, 8080, False), (STRANGER, own, 8081, False),
            (own, WORLD, 443, name == "dispatcher"), (own, WORLD6, 8443, name == "dispatcher"),
            (TEST, own, 8080, name == "ingest"), (TEST, own, 8081, name == "api"), (TEST, own, admin[name], False),
            (own, TEST, 8090, False), (own, TEST, 8080, False),
        ]  # fmt: skip
        table += [(own, place, 443, False) for place in PRIVATE]
        table += [(own, other, port, False) for other in ours.values() for port in (8080, 8081, 9103)]
    for source, target, port, wanted in table:
        if policy.reaches(policies, source, target, port) != wanted:
            yield f"{source} to {target} at {port}: {not wanted}"
    for own in (ours["api"], TEST):
        if not policy.reaches(policies, own, DNS, 53, "UDP"):
            yield f"no DNS over UDP for {own}"
    for place, port in ((DATA, 6379), (WORLD, 443), (STRANGER, 80)):
        if policy.reaches(policies, TEST, place, port) or policy.reaches(policies, place, TEST, 8090):
            yield f"the test's pod and {place} reach each other"

    policies = [each for each in objects(example("everything")) if each["kind"] == "NetworkPolicy"]
    broker = policy.Place("fanfare", {"app.kubernetes.io/name": "fanfare-rabbitmq"})
    mail, log, branch, management = (policy.Place(address=address) for address in ("10.1.2.5", "10.1.2.4", "10.20.1.1", "10.1.2.6"))
    for name, own in ours.items():
        for place, port, wanted in (
            (broker, 5672, True),
            (broker, 15672, name == "scheduler"),
            (management, 443, name == "scheduler"),
            (mail, 587, name == "scheduler"),
            (log, 6666, name in ("api", "dispatcher", "scheduler")),
            (branch, 443, name == "dispatcher"),
            (policy.Place("monitoring"), 4318, True),
            (TEST, 8090, name == "dispatcher"),
        ):
            if policy.reaches(policies, own, place, port) != wanted:
                yield f"everything: {name} to {place} at {port}: {not wanted}"


# What KEDA asks, by service and name: the value it is kept at, and what of it.
SCALED = {
    ("dispatcher", "in-flight"): ("0.7", "AverageValue"),
    ("dispatcher", "queue"): ("500", "AverageValue"),
    ("dispatcher", "oldest-due"): ("15", "Value"),
    ("fanout", "oldest-event"): ("2", "Value"),
}
# What Prometheus may have while two schedulers both still show how everything stands, and what each query makes of it.
STANDING = """
fanfare_deliveries_in_flight{pod="a"} 384
fanfare_deliveries_in_flight{pod="b"} 128
fanfare_deliveries_in_flight_limit{pod="a"} 512
fanfare_deliveries_in_flight_limit{pod="b"} 512
fanfare_queue_depth{pod="a",queue="fanfare.deliveries"} 650
fanfare_queue_depth{pod="b",queue="fanfare.deliveries"} 700
fanfare_queue_depth{pod="b",queue="fanfare.tier"} 90000
fanfare_oldest_pending_seconds{pod="a",reason="due"} 20
fanfare_oldest_pending_seconds{pod="b",reason="due"} 21
fanfare_oldest_pending_seconds{pod="b",reason="held"} 86400
fanfare_oldest_unfanned_seconds{pod="a"} 2
fanfare_oldest_unfanned_seconds{pod="b"} 3
"""
ANSWERS = {"in-flight": 1, "queue": 700, "oldest-due": 21, "oldest-event": 3}


def pods_follow_what_they_can_help_with():
    guide = (ROOT / "docs/autoscaling.md").read_text()
    sources = "".join(path.read_text() for path in ROOT.glob("services/*/src/*.rs"))
    found, queries = {}, {}
    for each in objects(example("everything")):
        if each["kind"] != "ScaledObject":
            continue
        name, spec = each["metadata"]["labels"]["app.kubernetes.io/component"], each["spec"]
        if spec["minReplicaCount"] < 2:
            yield f"{name}: {spec['minReplicaCount']} pods at least"
        asked = [trigger for trigger in spec["triggers"] if trigger["type"] == "prometheus"]
        if asked and spec["fallback"]["behavior"] != "currentReplicasIfHigher":
            yield f"{name}: sends pods home when Prometheus is away"
        for trigger in asked:
            data = trigger["metadata"]
            found[name, trigger["name"]] = (data["threshold"], trigger["metricType"])
            queries[trigger["name"]] = data["query"]
            if data["ignoreNullValues"] != "false":
                yield f"{name}, {trigger['name']}: takes an empty answer for 0"
            if f"`{data['query']}`" not in guide:
                yield f"docs/autoscaling.md does not explain `{data['query']}`"
            for metric in re.findall(r"fanfare_\w+", data["query"]):
                if f'"{metric}"' not in sources:
                    yield f"{name}, {trigger['name']}: no service has `{metric}`"
    if found != SCALED:
        yield f"KEDA asks {found}"
    if not shutil.which("promtool"):
        print("          not checked: promtool is not here")
        return
    series = [line.rsplit(" ", 1) for line in STANDING.split("\n") if line]
    tests = [{"expr": query, "eval_time": "1m", "exp_samples": [{"value": ANSWERS[name]}]} for name, query in queries.items()]
    with tempfile.TemporaryDirectory() as folder:
        for test in tests:  # labels of the answer are of no use to KEDA
            test["expr"] = f"sum without (queue, reason) ({test['expr']})"
        told = {"tests": [{"input_series": [{"series": name, "values": f"{value}x5"} for name, value in series], "promql_expr_test": tests}]}
        file = pathlib.Path(folder) / "queries.yaml"
        file.write_text(yaml.safe_dump(told))
        ran = subprocess.run(["promtool", "test", "rules", file], capture_output=True, text=True)
        if ran.returncode:
            yield ran.stdout + ran.stderr


def alerts_lead_to_their_runbooks():
    for base, leads in (("", "docs/alerts.md#"), ("https://docs.example.com/fanfare", "https://docs.example.com/fanfare/alerts/#")):
        values = {"metrics": {"rules": {"enabled": True, "runbookBase": base}}}
        for each in objects(values):
            for group in each["spec"]["groups"] if each["kind"] == "PrometheusRule" else []:
                for rule in group["rules"]:
                    link = rule.get("annotations", {}).get("runbook_url", "")
                    if "alert" in rule and link != leads + rule["alert"].lower():
                        yield f"{rule['alert']} leads to {link}"


def the_policys_world_is_the_dispatchers():
    source = (ROOT / "shared/domain/src/target.rs").read_text()
    listed = set()
    for address, bits in re.findall(r"\(Ipv4Addr::new\(([^)]*)\), (\d+)\)", source.split("NOT_PUBLIC_V6")[0]):
        listed.add(ipaddress.ip_network(f"{'.'.join(address.split(', '))}/{bits}"))
    for address, bits in re.findall(r"\(Ipv6Addr::new\(([^)]*)\), (\d+)\)", source):
        parts = [f"{int(part, 0):x}" for part in address.split(", ")]
        listed.add(ipaddress.ip_network(f"{':'.join(parts)}/{bits}"))
    world = texts({"networkPolicy": example("production")["networkPolicy"]})
    rule = next(text for path, text in world.items() if path.endswith("networkpolicies.yaml"))
    allowed = next(each for each in yaml.safe_load_all(rule) if each and each["metadata"]["name"].endswith("dispatcher"))
    ours = {ipaddress.ip_network(net) for peer in allowed["spec"]["egress"][-1]["to"] for net in peer["ipBlock"]["except"]}
    if ours != listed:
        yield f"domain::target and templates/networkpolicies.yaml differ: {ours ^ listed}"


SAMPLES = {
    "amqp-url": "amqp://user:password@broker:5672/%2f",
    "redis-url": "redis://redis:6379/0",
    "secrets-keys": "k1:" + "A" * 43 + "=",
    "admin-token": "token",
    "operator": "token",
    "smtp-url": "smtp://mail:25",
    "amqp-management-url": "http://user:password@broker:15672",
    "password": "password",
    "username": "fanfare",
}


def environment(container: dict, mounts: pathlib.Path) -> dict:
    """A container's environment, with samples for secrets and what is mounted elsewhere."""
    made = {}
    for variable in container["env"]:
        if "fieldRef" in variable.get("valueFrom", {}):
            made[variable["name"]] = "127.0.0.1"
        elif "value" in variable:
            made[variable["name"]] = variable["value"].replace("/etc/fanfare", str(mounts))
        elif not variable["valueFrom"]["secretKeyRef"].get("optional"):
            made[variable["name"]] = SAMPLES[variable["valueFrom"]["secretKeyRef"]["key"]]
    return made


def mounted(found: list[dict], pod: dict, folder: pathlib.Path) -> pathlib.Path:
    """The pod's volumes in a folder."""
    catalog = {"tidewater.yaml": (ROOT / "docs/catalogs/tidewater.yaml").read_text()}
    for volume in pod["volumes"]:
        data = next((each["data"] for each in found if identity(each) == ("ConfigMap", volume["configMap"]["name"])), catalog)
        (folder / volume["name"]).mkdir(parents=True, exist_ok=True)
        for name, text in data.items():
            (folder / volume["name"] / name).write_text(text.replace("/etc/fanfare", str(folder)))
    return folder


def binary(container: dict) -> list[str]:
    """A container's command, with the binary of this machine."""
    path = container["command"][0]
    return [str(settings.BINARIES / pathlib.Path(path).name), *container["command"][1:]]


def the_binaries_take_every_rendered_configuration():
    for name in EXAMPLES:
        found = objects(example(name))
        for each in found:
            pod = pod_of(each)
            with tempfile.TemporaryDirectory() as folder:
                for container in containers_of(pod) if pod else []:
                    command = [binary(container)[0], "--check-config"]
                    variables = environment(container, mounted(found, pod, pathlib.Path(folder)))
                    ran = subprocess.run(command, env=variables, capture_output=True, text=True)
                    if ran.returncode:
                        yield f"{name}, {identity(each)}, {container['name']}: {ran.stdout}{ran.stderr}"


def ports_and_probes_are_the_binaries():
    own = ["unshare", "--net"] if os.geteuid() == 0 else ["unshare", "--net", "--map-root-user"]
    if subprocess.run([*own, "ip", "link", "set", "lo", "up"], capture_output=True).returncode:
        print("          not checked: no network namespace can be made here")
        return
    asked = []
    with tempfile.TemporaryDirectory() as folder:
        found = objects({})
        for each in found:
            if each["kind"] != "Deployment":
                continue
            pod = pod_of(each)
            container = pod["containers"][0]
            ports = {port["name"]: port["containerPort"] for port in container["ports"]}
            probes = {
                probe: (ports[container[probe]["httpGet"]["port"]], container[probe]["httpGet"]["path"])
                for probe in ("startupProbe", "livenessProbe", "readinessProbe")
            }
            variables = environment(container, mounted(found, pod, pathlib.Path(folder)))
            variables |= {"FANFARE_AMQP__URL": "amqp://127.0.0.1:1/%2f", "FANFARE_REDIS__URL": "redis://127.0.0.1:1/0"}
            asked.append({"name": container["name"], "command": binary(container), "env": variables, "probes": probes, "admin": ports["admin"]})
            if "http" in ports:
                said = subprocess.run([*binary(container), "--help"], capture_output=True, text=True).stdout
                listens = re.search(rf"FANFARE_{container['name'].upper()}__LISTEN\n.*Default: `0\.0\.0\.0:(\d+)`", said)
                if not listens or int(listens[1]) != ports["http"]:
                    yield f"{container['name']}: listens elsewhere than at {ports['http']}"
        ran = subprocess.run(
            [*own, sys.executable, ROOT / "deploy/checks/binaries.py"], input=json.dumps(asked), capture_output=True, text=True
        )
        yield from ran.stdout.splitlines()
        if ran.returncode:
            yield ran.stderr


def k8s_is_what_the_chart_renders():
    kept = {str(path.relative_to(ROOT)) for path in CHART.glob("files/*/*.*") if path.name != ".gitkeep"}
    for path in sorted(kept - k8s.carried().keys()):
        yield f"{path} has no original in deploy/alerts or deploy/dashboards"
    for path, text in {**k8s.carried(), **k8s.files()}.items():
        if not (ROOT / path).is_file() or (ROOT / path).read_text() != text:
            yield f"{path} is not what it is made from: run `make k8s`"
    wanted_of = {f"overlays/{name}": k8s.rendered(name) for name in ("small", "production")}
    for folder, wanted in {**wanted_of, "test": k8s.test()}.items():
        made = k8s.kustomized(folder)
        if made is None:
            print("          not checked: kubectl is not here")
            return
        for one in made:
            if one not in wanted:
                yield f"k8s/{folder}: {identity(one)} is not the chart's under the example values of that name"
        if len(made) != len(wanted):
            yield f"k8s/{folder} has {len(made)} objects, the chart {len(wanted)} under the example values of that name"


def the_settings_page_is_what_help_says():
    if not settings.PAGE.is_file() or settings.PAGE.read_text() != settings.page():
        yield "docs/settings.md is not what `--help` says: run `make docs-settings`"


def the_guide_builds_and_its_links_lead_somewhere():
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", TARGET / "deploy/site"]
    # Not --quiet: it swallows the warnings that --strict counts.
    quiet = os.environ | {"NO_MKDOCS_2_WARNING": "1"}
    ran = subprocess.run(command, cwd=ROOT, env=quiet, capture_output=True, text=True)
    if ran.returncode:
        yield ran.stdout + ran.stderr


def the_dockerfile_is_clean():
    hadolint = pathlib.Path(sys.executable).parent / "hadolint"
    ran = subprocess.run([hadolint, ROOT / "deploy/image/Dockerfile"], capture_output=True, text=True)
    if ran.returncode:
        yield ran.stdout + ran.stderr


def the_image_has_the_allocator_that_was_measured():
    """`make bench` runs what deploy/local starts."""
    line = re.search(r'ALLOCATOR: .* = \("(\w+)", "(\d+)"\);', (ROOT / "deploy/local/src/service.rs").read_text())
    if f"ENV {line[1]}={line[2]}\n" not in (ROOT / "deploy/image/Dockerfile").read_text():
        yield f"the Dockerfile does not set {line[1]}={line[2]}, with which deploy/local starts what `make bench` measures"


def every_broker_passes_a_due_retry_on_again_soon():
    """What `make run`, tests and compose have, in the chart's cluster and in the guide."""
    said = re.findall(r"\{dead_letter_worker\w+, \d+\}", (ROOT / "deploy/local/advanced.config").read_text())
    clusters = [each for each in objects({"rabbitmqCluster": {"enabled": True}}) if each["kind"] == "RabbitmqCluster"]
    advanced = [each["spec"]["rabbitmq"]["advancedConfig"] for each in clusters]
    for where, text in (("the chart", "".join(advanced)), ("docs/broker.md", (ROOT / "docs/broker.md").read_text())):
        for each in said:
            if each not in text:
                yield f"{where} lacks {each}, which deploy/local/advanced.config has"
    if not said:
        yield "deploy/local/advanced.config does not say when a due retry is passed on again"


def the_compose_file_is_right():
    folder = ROOT / "deploy/compose"
    compose = yaml.safe_load((folder / "compose.yaml").read_text())
    scraped = yaml.safe_load((folder / "prometheus.yaml").read_text())["scrape_configs"][0]["static_configs"][0]["targets"]
    admin = {}
    for each in objects({}):
        if each["kind"] == "Deployment":
            container = pod_of(each)["containers"][0]
            admin[container["name"]] = next(port["containerPort"] for port in container["ports"] if port["name"] == "admin")
    if set(scraped) != {f"{name}:{port}" for name, port in admin.items()}:
        yield f"prometheus.yaml scrapes {scraped}"
    for name, service in compose["services"].items():
        for port in service.get("ports", []):
            if not port.startswith("127.0.0.1:"):
                yield f"{name}: port {port} is open to everybody"
        for volume in service.get("volumes", []):
            source = volume.split(":")[0]
            later = source in ("../alerts", "../dashboards")  # compose makes an empty folder of what is not there
            if source.startswith(".") and not later and not (folder / source).exists():
                yield f"{name}: mounts {source}, which is not there"
        if name in SERVICES:
            if not service["read_only"] or service["user"] != "65532:65532" or service["cap_drop"] != ["ALL"]:
                yield f"{name}: is not restricted"
            ran = subprocess.run(
                [*binary({"command": service["command"]}), "--check-config"], env=service["environment"], capture_output=True, text=True
            )
            if ran.returncode:
                yield f"{name}: {ran.stderr}"


CHECKS = (
    chart_lints,
    renders_are_alike_each_time_and_hold_no_time,
    objects_are_kubernetes_own,
    objects_of_other_kinds_are_of_their_types,
    helm_would_install_it_from_its_oldest_kubernetes_on,
    the_schema_is_closed,
    the_chart_can_be_another_charts_part,
    what_cannot_work_is_refused_with_a_sentence,
    pods_are_restricted_and_end_in_order,
    names_and_references_hold,
    selectors_stay_what_they_were,
    only_who_should_reaches_what_it_should,
    pods_follow_what_they_can_help_with,
    alerts_lead_to_their_runbooks,
    the_policys_world_is_the_dispatchers,
    the_binaries_take_every_rendered_configuration,
    ports_and_probes_are_the_binaries,
    k8s_is_what_the_chart_renders,
    the_settings_page_is_what_help_says,
    the_guide_builds_and_its_links_lead_somewhere,
    the_dockerfile_is_clean,
    the_image_has_the_allocator_that_was_measured,
    every_broker_passes_a_due_retry_on_again_soon,
    the_compose_file_is_right,
)


def main() -> None:
    failed = 0
    for check in CHECKS:
        if len(sys.argv) > 1 and sys.argv[1] not in check.__name__:
            continue
        began = time.monotonic()
        wrong = list(check())
        print(f"{'FAILED' if wrong else 'ok':9} {check.__name__.replace('_', ' ')}  ({time.monotonic() - began:.1f} s)")
        for each in wrong:
            print("          " + each.strip().replace("\n", "\n          "))
        failed += bool(wrong)
    sys.exit(f"{failed} checks failed" if failed else 0)


main()
