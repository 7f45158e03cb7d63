"""Which proxy, if any, a URL is reached through: Go's rules, which Prometheus' settings mean.

Pure. Connecting is `session`'s.
"""

from collections.abc import Mapping
from ipaddress import ip_address, ip_network
from urllib.parse import urlsplit

_PORTS = {"http": "80", "https": "443"}


def proxy_for(url: str, proxy_url: str, no_proxy: str) -> str:
    """Return the proxy for `url`, "" for none; without `no_proxy` it is always `proxy_url`."""
    return "" if not proxy_url or (no_proxy and _goes_direct(url, no_proxy)) else proxy_url


def proxy_from_environment(url: str, environ: Mapping[str, str]) -> str:
    """Return the proxy that HTTP_PROXY, HTTPS_PROXY and NO_PROXY (also in lower case) want for `url`, "" for none."""
    proxy_url = _variable(environ, f"{urlsplit(url).scheme}_proxy")
    if not proxy_url or _goes_direct(url, _variable(environ, "no_proxy")):
        return ""
    return proxy_url if "://" in proxy_url else f"http://{proxy_url}"


def _variable(environ: Mapping[str, str], name: str) -> str:
    return environ.get(name.upper()) or environ.get(name, "")


def _goes_direct(url: str, no_proxy: str) -> bool:
    parts = urlsplit(url)
    host = (parts.hostname or "").rstrip(".")
    port = str(parts.port or _PORTS.get(parts.scheme, ""))
    if host == "localhost" or _in_network(host, "127.0.0.0/8") or host == "::1":
        return True
    return any(_matches(host, port, rule) for word in no_proxy.split(",") if (rule := word.strip().lower()))


def _matches(host: str, port: str, rule: str) -> bool:
    """Tell whether a rule names a host: `*`, a network, an address or a domain, the last two also with a port."""
    if rule == "*" or _in_network(host, rule):
        return True
    name, colon, wanted = rule.rpartition(":")
    # More than one colon without brackets is an IPv6 address, not a port.
    if colon and (":" not in name or name.startswith("[")):
        if wanted != port:
            return False
        rule = name.strip("[]")
        if _in_network(host, rule):
            return True
    rule = rule.removeprefix("*")
    return host.endswith(rule) if rule.startswith(".") else host == rule or host.endswith(f".{rule}")


def _in_network(host: str, network: str) -> bool:
    try:
        return ip_address(host) in ip_network(network, strict=False)
    except ValueError:
        return False
