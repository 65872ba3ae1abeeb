"""May A reach B on port P? By the network policies of a render, as Kubernetes reads them."""

import ipaddress
from dataclasses import dataclass, field


@dataclass
class Place:
    """A pod (of Fanfare's namespace or another), or an address outside."""

    namespace: str | None = None
    labels: dict = field(default_factory=dict)
    address: str | None = None


def matches(selector: dict | None, labels: dict) -> bool:
    return all(labels.get(key) == value for key, value in (selector or {}).get("matchLabels", {}).items())


def is_peer(peer: dict, place: Place, own: str) -> bool:
    if "ipBlock" in peer:
        if place.address is None:
            return False
        address = ipaddress.ip_address(place.address)
        inside = lambda block: address in ipaddress.ip_network(block)
        return inside(peer["ipBlock"]["cidr"]) and not any(map(inside, peer["ipBlock"].get("except", [])))
    if place.namespace is None:
        return False
    if "namespaceSelector" in peer:
        if not matches(peer["namespaceSelector"], {"kubernetes.io/metadata.name": place.namespace}):
            return False
    elif place.namespace != own:
        return False
    return matches(peer.get("podSelector"), place.labels)


def side(policies: list[dict], kind: str, who: Place, other: Place, port: int, protocol: str, own: str) -> bool:
    """Whether one side's policies let it through. Nobody's policy: everything may."""
    rules, peers = ("ingress", "from") if kind == "Ingress" else ("egress", "to")
    of_who = [
        each["spec"]
        for each in policies
        if who.namespace == own and matches(each["spec"]["podSelector"], who.labels) and kind in each["spec"]["policyTypes"]
    ]
    if not of_who:
        return True
    for spec in of_who:
        for rule in spec.get(rules) or []:
            ports = rule.get("ports")
            right = not ports or any(p["port"] == port and p.get("protocol", "TCP") == protocol for p in ports)
            if right and (not rule.get(peers) or any(is_peer(peer, other, own) for peer in rule[peers])):
                return True
    return False


def reaches(policies: list[dict], source: Place, target: Place, port: int, protocol: str = "TCP", own: str = "fanfare") -> bool:
    return side(policies, "Egress", source, target, port, protocol, own) and side(
        policies, "Ingress", target, source, port, protocol, own
    )
