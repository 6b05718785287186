#!/usr/bin/env python3
"""Prints packaging/grafana/bulkhead.json: the dashboard's panels from one table. make_dashboard.py > packaging/grafana/bulkhead.json"""
import json

SOURCE = {"type": "prometheus", "uid": "${datasource}"}
ON = 'instance=~"$instance"'
GPU = ON + ',gpu_uuid=~"$gpu"'
TENANT = GPU + ',tenant=~"$tenant"'
T = "bulkhead_tenant_"
D = "bulkhead_device_"


def panel(kind, title, unit, x, y, w, h, *targets, **more):
    options = {"stat": {"reduceOptions": {"calcs": ["lastNotNull"]}, "graphMode": "area", "colorMode": more.get("colour", "none")},
               "bargauge": {"reduceOptions": {"calcs": ["lastNotNull"]}, "orientation": "horizontal", "displayMode": "basic"},
               "timeseries": {"legend": {"displayMode": "list", "placement": "bottom"}, "tooltip": {"mode": "multi", "sort": "desc"}},
               "table": {"showHeader": True}}[kind]
    defaults = {"unit": unit, "custom": {"fillOpacity": more.get("fill", 8), "showPoints": "never"} if kind == "timeseries" else {}}
    defaults.update({k: more[k] for k in ("min", "max", "thresholds") if k in more})
    return {"type": kind, "title": title, "datasource": SOURCE, "gridPos": {"x": x, "y": y, "w": w, "h": h}, "options": options,
            "fieldConfig": {"defaults": defaults, "overrides": []}, "description": more.get("text", ""),
            "targets": [{"datasource": SOURCE, "refId": chr(65 + i), "expr": e, "legendFormat": n, "instant": kind == "table",
                         "format": "table" if kind == "table" else "time_series"} for i, (e, n) in enumerate(targets)]}


RED = {"mode": "absolute", "steps": [{"color": "green", "value": None}, {"color": "red", "value": 1}]}
LOW = {"mode": "absolute", "steps": [{"color": "red", "value": None}, {"color": "green", "value": 1}]}
PANELS = [
    panel("stat", "Nodes up", "short", 0, 0, 4, 4, (f"sum(bulkhead_up{{{ON}}})", ""), colour="value", thresholds=LOW),
    panel("stat", "GPU memory in use", "bytes", 4, 0, 4, 4, (f"sum({D}memory_used_bytes{{{GPU}}})", "")),
    panel("stat", "Promised", "percentunit", 8, 0, 4, 4,
          (f"sum({D}memory_promised_bytes{{{GPU}}}) / sum({D}memory_usable_bytes{{{GPU}}})", ""), text="Limits of all tenants over what the drivers hand out"),
    panel("stat", "Used of promised", "percentunit", 12, 0, 4, 4, (f"sum({T}memory_used_bytes{{{TENANT}}}) / sum({T}memory_limit_bytes{{{TENANT}}})", "")),
    panel("stat", "Outside the books", "short", 16, 0, 4, 4, (f"sum(bulkhead_strays{{{GPU}}})", ""), colour="value", thresholds=RED),
    panel("stat", "Time to reuse, p99", "s", 20, 0, 4, 4,
          (f"histogram_quantile(0.99, sum by(le) (rate(bulkhead_reap_delay_seconds_bucket{{{ON}}}[$__range])))", "")),
    panel("timeseries", "Memory by GPU", "bytes", 0, 4, 12, 8, (f"{D}memory_used_bytes{{{GPU}}}", "{{instance}} {{gpu_uuid}}"), min=0),
    panel("timeseries", "Utilisation by GPU", "percentunit", 12, 4, 12, 8, (f"{D}utilization_ratio{{{GPU}}}", "{{instance}} {{gpu_uuid}}"), min=0, max=1),
    panel("timeseries", "Memory by tenant", "bytes", 0, 12, 12, 9, (f"sum by(tenant) ({T}memory_used_bytes{{{TENANT}}})", "{{tenant}}"), min=0, fill=20),
    panel("timeseries", "GPU time by tenant", "percentunit", 12, 12, 12, 9, (f"{T}utilization_ratio{{{TENANT}}}", "{{tenant}} {{gpu_uuid}}"), min=0,
          text="What NVML alone cannot tell on a shared GPU"),
    panel("bargauge", "Used of limit, highest 10", "percentunit", 0, 21, 12, 9,
          (f"topk(10, {T}memory_used_bytes{{{TENANT}}} / {T}memory_limit_bytes{{{TENANT}}})", "{{tenant}}"), min=0, max=1),
    panel("bargauge", "Memory held, highest 10", "bytes", 12, 21, 12, 9, (f"topk(10, sum by(tenant) ({T}memory_used_bytes{{{TENANT}}}))", "{{tenant}}")),
    panel("timeseries", "Refused requests", "ops", 0, 30, 8, 7, (f'rate({T}refusals_total{{{ON},tenant=~"$tenant"}}[5m]) > 0', "{{tenant}}"), min=0),
    panel("timeseries", "Reaped memory", "Bps", 8, 30, 8, 7, (f"rate(bulkhead_reaped_memory_bytes_total{{{ON}}}[5m])", "{{instance}}"), min=0),
    panel("timeseries", "The daemon's own processor time", "percentunit", 16, 30, 8, 7, (f"rate(bulkhead_daemon_cpu_seconds_total{{{ON}}}[5m])", "{{instance}}"), min=0),
    panel("timeseries", "Share had, of the GPU's time", "percentunit", 0, 37, 8, 8, (f"{T}compute_delivered_ratio{{{TENANT}}}", "{{tenant}}"),
          (f"{T}compute_share_ratio{{{TENANT}}}", "{{tenant}} asked"), min=0, max=1, text="As the library counted it; tenants with a share only"),
    panel("timeseries", "Held and borrowed", "percentunit", 8, 37, 8, 8, (f"rate({T}compute_held_seconds_total{{{TENANT}}}[5m])", "{{tenant}} held"),
          (f"rate({T}compute_gated_seconds_total{{{TENANT}}}[5m])", "{{tenant}} for latency tenants"),
          (f"rate({T}compute_borrowed_seconds_total{{{TENANT}}}[5m])", "{{tenant}} borrowed"), min=0,
          text="Held: seconds of all its threads in a second. Borrowed: GPU time above the share"),
    panel("timeseries", "Who goes first waits at most", "s", 16, 37, 8, 8, (f"{D}gate_bound_seconds{{{GPU}}}", "{{instance}} {{gpu_uuid}}"), min=0,
          text="The longest batch operation measured, what may be queued ahead, one switch"),
    panel("table", "Tenants", "bytes", 0, 45, 24, 9, (f"{T}memory_limit_bytes{{{TENANT}}}", "")),
]


def variable(name, label, query):
    return {"name": name, "label": label, "type": "query", "datasource": SOURCE, "query": {"query": query, "refId": name}, "refresh": 2,
            "includeAll": True, "multi": True, "current": {"text": "All", "value": "$__all"}, "sort": 1}


print(json.dumps({
    "title": "Bulkhead", "uid": "bulkhead", "tags": ["gpu", "bulkhead"], "schemaVersion": 38, "version": 1, "editable": True,
    "refresh": "30s", "time": {"from": "now-6h", "to": "now"}, "timezone": "browser",
    "templating": {"list": [
        {"name": "datasource", "type": "datasource", "query": "prometheus", "label": "Source"},
        variable("instance", "Node", "label_values(bulkhead_up, instance)"),
        variable("gpu", "GPU", f"label_values({D}memory_used_bytes{{{ON}}}, gpu_uuid)"),
        variable("tenant", "Tenant", f"label_values({T}memory_limit_bytes{{{ON}}}, tenant)")]},
    "panels": [dict(p, id=i + 1) for i, p in enumerate(PANELS)]}, indent=1))
