"""The whole story of one run, from its journal: also long after its machine is gone."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from dayfly.infra.spec import DEFAULT_GRACE_S
from dayfly.infra.units import human_bytes, human_seconds
from dayfly.runtime import ledger, phases, samples, wording
from dayfly.runtime.outputs import described
from dayfly.runtime.phases import Phase
from dayfly.runtime.redact import redact
from dayfly.runtime.samples import Use
from dayfly.stacks import kept
from dayfly.stacks.journal import Event, History
from dayfly.stacks.receipt import Receipt
from dayfly.stacks.standing import hold_until, standing

# Told elsewhere in the story, or of no use to a reader.
_SAID = {"public_key", "host_key", "spec", "offer", "resources", "client", "by", "notes", "program"}


def cost_so_far(history: History, now: float) -> float:
    """Dollars of a run: those of its receipt, else its rate times the time since the launch."""
    receipt = Receipt.of(history.directory)
    if receipt is not None:
        return receipt.usd
    launched = next(iter(history.launched.values()), None)
    if launched is None:
        return 0.0
    return float(launched.fields.get("usd_per_hour", 0.0)) * max(0.0, now - launched.time) / 3600


def summary(history: History, now: float) -> dict[str, Any]:
    """One run as one line of a list: plain JSON values, times as unix times."""
    status, why = standing(history, now)
    receipt = Receipt.of(history.directory)
    intent = history.intent
    return {
        "id": history.id,
        "status": status,
        "why": why,
        "function": intent.get("function") or "",
        "job_name": intent.get("job_name") or "",
        "stack": intent.get("stack") or "",
        "provider": history.provider,
        "created": intent.get("created"),
        "deadline": intent.get("deadline"),
        "hold_until": hold_until(history) if status == "HELD" else None,
        "kept_until": kept.until(history) if status == "KEPT" else None,
        "machine_of": kept.machine_of(history),
        "usd_per_hour": float(history.field("launched", "usd_per_hour", 0.0)),
        "usd": cost_so_far(history, now),
        "minutes": round(receipt.minutes, 3) if receipt else None,
        "covered_by_install": not history.credentials,
        "closed_at": receipt.confirmed_at if receipt else None,
    }


def story(history: History, now: float | None = None) -> dict[str, Any]:
    """Everything that is known of a run, as plain JSON values."""
    intent, receipt = history.intent, Receipt.of(history.directory)
    machine = history.last_of(0, "machine")
    uses = [
        use.as_dict() if (use := Use.of(told)) else None
        for told in samples.read_all(history.directory, history.nodes)
    ]
    return {
        **summary(history, time.time() if now is None else now),
        "owner": intent.get("owner"),
        "lineage": intent.get("lineage"),
        "client": intent.get("client"),
        "spec": intent.get("spec"),
        "offer": intent.get("offer"),
        "worst_case_usd": intent.get("worst_case_usd"),
        "code_digest": intent.get("code_digest"),
        "environment": intent.get("environment"),
        "environment_digest": intent.get("environment_digest"),
        "resources": history.field("resources", "resources", []),
        "machine": dict(machine.fields) if machine else None,
        "machines": [
            dict(found.fields)
            for node in range(history.nodes)
            if (found := history.last_of(node, "machine")) is not None
        ],
        "provenance": provenance(history),
        "job": _fields(history, "job_ended"),
        "result": _fields(history, "result"),
        "outputs": _fields(history, "outputs"),
        "calls": ledger.totals(history.directory),
        "directory": str(history.directory),
        "events": [{"event": e.name, "time": e.time, **e.fields} for e in history.events],
        "receipt": receipt.as_dict() if receipt else None,
        "phases": [phase.as_dict() for phase in phases.of(history)],
        "use": uses[0],
        "uses": uses,
    }


def provenance(history: History) -> dict[str, Any]:
    """Where it really ran: host, instance, region, GPUs, driver, pid."""
    machine, connected = _first(history, "machine"), _first(history, "connected")
    reported = _fields(history, "result").get("provenance") or {}
    found = {
        "host": connected.get("host"),
        "platform": connected.get("platform"),
        "instance_id": machine.get("id"),
        "region": machine.get("region"),
        "instance_type": machine.get("instance_type"),
        "gpus": connected.get("gpus"),
        "driver": connected.get("driver"),
        **reported,
    }
    return {name: value for name, value in found.items() if value not in (None, "", [])}


def paragraphs(told: Mapping[str, Any]) -> list[tuple[str, list[tuple[str, str]]]]:
    """The story as titles with labels and texts, for people."""
    parts = [
        (f"run {told['id']}", _opening(told)),
        ("resources", [(r["name"], r["type"]) for r in told["resources"]]),
        ("provenance", [(name, _words(value)) for name, value in told["provenance"].items()]),
        ("machines", _machines(told["machines"])),
        ("function", _outcome(told)),
        ("timeline", _timeline(told["phases"])),
        *_uses(told["uses"]),
        ("outputs", _outputs(told["outputs"])),
        ("calls", _calls(told["calls"])),
        ("events", _events(told["events"])),
        ("money", _money(told)),
        ("receipt", _receipt(told["receipt"])),
    ]
    return [(title, rows) for title, rows in parts if rows]


def _opening(told: Mapping[str, Any]) -> list[tuple[str, str]]:
    rows = [("status", f"{told['status']}: {told['why']}")]
    for name in (
        "function",
        "job_name",
        "stack",
        "provider",
        "machine_of",
        "lineage",
        "code_digest",
    ):
        if told[name]:
            rows.append((name, str(told[name])))
    if told["environment"]:
        digest = told["environment_digest"]
        rows.append(("environment", told["environment"] + (f"  {digest[:12]}" if digest else "")))
    if told["created"]:
        rows.append(("created", wording.stamp(told["created"])))
        rows.append(("deadline", wording.stamp(told["deadline"])))
    spec = told["spec"] or {}
    asked = {name: value for name, value in spec.items() if value not in (None, [], "", 0, False)}
    if "min_gpu_utilization" not in asked:
        asked.pop("gpu_utilization_window", None)
    if asked.get("grace") == DEFAULT_GRACE_S:
        asked.pop("grace")
    spans = ("max_runtime", "hold", "grace", "keep", "gpu_utilization_window")
    asked |= {n: human_seconds(asked[n]) for n in spans if not isinstance(asked.get(n, ""), str)}
    return [*rows, ("spec", _words(asked)), ("directory", told["directory"])]


def _outcome(told: Mapping[str, Any]) -> list[tuple[str, str]]:
    job, result = told["job"], told["result"]
    rows = []
    if job:
        how = job.get("how", "")
        detail = {"killed": f"signal {job.get('signal')}", "exited": f"code {job.get('code')}"}
        detail["idle"] = str(job.get("detail", ""))
        detail["finished"] = detail["idle"] or {"deadline": "at the deadline"}.get(
            job.get("cue"), ""
        )
        rows.append(("ended", " ".join(filter(None, (how, detail.get(how, ""))))))
        if job.get("rank") is not None:
            rows.append(("by rank", str(job["rank"])))
        if job.get("ended") and job.get("started"):
            rows.append(("took", human_seconds(job["ended"] - job["started"])))
        if job.get("peak_rss_bytes"):
            rows.append(("peak memory", human_bytes(job["peak_rss_bytes"])))
    if result:
        said = ": ".join(str(result[n]) for n in ("outcome", "type") if result.get(n))
        rows.append(("result", said))
    return rows


def _machines(told: Sequence[Mapping[str, Any]]) -> list[tuple[str, str]]:
    """Where there are several: the others are nowhere else in the story."""
    if len(told) < 2:
        return []
    return [
        (str(each.get("node") or 0), f"{each.get('id')} at {each.get('host')}:{each.get('port')}")
        for each in told
    ]


def _timeline(told: Sequence[Mapping[str, Any]]) -> list[tuple[str, str]]:
    rows = []
    for values in told:
        phase = Phase(**values)
        took = human_seconds(phase.seconds(time.time()))
        goes_on = "" if phase.end is not None else ", goes on"
        rows.append((phase.name, f"{took:>12}  from {wording.clock(phase.start)}{goes_on}"))
    return rows


def _uses(
    told: Sequence[Mapping[str, Any] | None],
) -> list[tuple[str, list[tuple[str, str]]]]:
    """A paragraph for each machine."""
    titles = ["use"] if len(told) == 1 else [f"use of machine {node}" for node in range(len(told))]
    return [(title, _use(each)) for title, each in zip(titles, told, strict=True)]


def _use(told: Mapping[str, Any] | None) -> list[tuple[str, str]]:
    if told is None:
        return []
    rows = [
        ("CPU", _level(told["cpu_cores"], lambda cores: f"{cores:.2f} cores")),
        ("memory", _level(told["memory_bytes"], human_bytes)),
        (
            "machine's CPU",
            _level(told["machine_share"], lambda share: wording.percent(100 * share)),
        ),
        ("machine's memory", _level(told["machine_memory_bytes"], human_bytes)),
    ]
    for number, gpu in enumerate(told["gpus"]):
        rows.append((f"GPU {number}", _level(gpu["percent"], wording.percent)))
        rows.append((f"GPU {number} memory", _level(gpu["memory_bytes"], human_bytes)))
    return rows


def _level(told: Mapping[str, Any], words: Callable[[float], str]) -> str:
    if told["mean"] is None:
        return "not told"
    return f"{words(told['mean'])} in the mean, {words(told['peak'])} at most"


def _outputs(told: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What the function has left in its folder, the first files by name."""
    if not told:
        return []
    rows = [("home", described(told))]
    for file in told["files"]:
        rows.append((file["sha256"][:12], f"{file['path']}  ({human_bytes(file['size'])})"))
    if told["count"] > len(told["files"]):
        rows.append(("", f"and {told['count'] - len(told['files'])} more"))
    rows += [("left out", text) for text in told["left_out"]]
    if told["left_out_count"] > len(told["left_out"]):
        rows.append(("left out", f"{told['left_out_count'] - len(told['left_out'])} more"))
    return rows


def _calls(totals: Mapping[str, Any] | None) -> list[tuple[str, str]]:
    """The sums of the run's ledger."""
    if totals is None:
        return []
    rows = [("made", f"{totals['calls']}, {totals['without_value']} of them without a value")]
    for name, value in totals.items():
        if name.endswith("_s") and value:
            rows.append((name.removesuffix("_s"), human_seconds(value)))
    if totals["data_bytes"]:
        rows.append(("data sent", human_bytes(totals["data_bytes"])))
    return [*rows, ("peak memory", f"{human_bytes(totals['peak_rss_bytes'])} in one call")]


def _events(events: list[dict[str, Any]]) -> list[tuple[str, str]]:
    rows = []
    for event in events:
        shown = {
            name: value
            for name, value in event.items()
            if name not in _SAID | {"event", "time"} and value not in (None, "", [])
        }
        moment = wording.stamp(event["time"])[5:] + f"{event['time'] % 1:.3f}"[1:]
        rows.append((moment, f"{event['event']:<16}{_words(shown) if _is_short(event) else ''}"))
    return rows


def _is_short(event: Mapping[str, Any]) -> bool:
    """The intent, the machine and the receipt are told in paragraphs of their own."""
    return event["event"] not in ("intent", "machine", "closed", "result", "outputs")


def _money(told: Mapping[str, Any]) -> list[tuple[str, str]]:
    rows = [("rate", f"{wording.dollars(told['usd_per_hour'])}/h")]
    if told["offer"]:
        rows[0] = ("rate", f"{rows[0][1]}  ({wording.price_source(told['offer'])})")
    if told["worst_case_usd"] is not None:
        rows.append(("worst case", wording.dollars(told["worst_case_usd"])))
    return [*rows, ("cost" if told["receipt"] else "cost so far", wording.dollars(told["usd"]))]


def _receipt(values: Mapping[str, Any] | None) -> list[tuple[str, str]]:
    if values is None:
        return []
    receipt = Receipt.from_dict(values)
    how = {"pulumi": "by its stack", "provider": "through the provider's own API"}
    rows = [("closed", f"{wording.receipt_line(receipt)}  ({wording.stamp(receipt.confirmed_at)})")]
    rows.append(("how", how.get(receipt.how, receipt.how)))
    return [*rows, *(("note", note) for note in receipt.notes)]


def _first(history: History, event: str) -> dict[str, Any]:
    """Of the first machine, where there are several."""
    found = history.last_of(0, event)
    return {} if found is None else found.fields


def _fields(history: History, event: str) -> dict[str, Any]:
    found: Event | None = history.last(event)
    return {} if found is None else found.fields


def _words(value: Any) -> str:
    """A value as people read it."""
    if isinstance(value, Mapping):
        return redact(", ".join(f"{name}={_words(item)}" for name, item in value.items()))
    if isinstance(value, list | tuple):
        return " ".join(_words(item) for item in value)
    if isinstance(value, float):
        return f"{value:g}" if abs(value) < 1e9 else wording.stamp(value)
    return redact(str(value))
