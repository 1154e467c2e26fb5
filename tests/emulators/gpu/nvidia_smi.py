"""The stand-in `nvidia-smi`: -L and --query-gpu in CSV, once or in a loop, as the real one words them; reads ../gpu.conf."""

from __future__ import annotations

import hashlib
import sys
import time
from pathlib import Path

FOLDER = Path(__file__).resolve().parent.parent
DRIVER_LOST = (
    "NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver. Make sure that the latest NVIDIA "
    "driver is installed and running."
)
HEADINGS = {
    "memory.total": "memory.total [MiB]",
    "memory.used": "memory.used [MiB]",
    "memory.free": "memory.free [MiB]",
    "utilization.gpu": "utilization.gpu [%]",
}


def settings() -> dict[str, str]:
    """What is to be shown."""
    lines = (FOLDER / "gpu.conf").read_text().splitlines()
    return dict(line.split("=", 1) for line in lines)


def rows(shown: dict[str, str]) -> list[dict[str, str]]:
    """Every field of every GPU, with its unit."""
    memory, used = int(shown["memory_mib"]), int(shown["used_mib"])
    percents = shown["percents"].split(",")
    return [
        {
            "index": str(index),
            "name": shown["model"],
            "gpu_name": shown["model"],
            "uuid": uuid(shown["machine"], index),
            "gpu_uuid": uuid(shown["machine"], index),
            "count": shown["count"],
            "driver_version": shown["driver"],
            "memory.total": f"{memory} MiB",
            "memory.used": f"{used} MiB",
            "memory.free": f"{memory - used} MiB",
            "utilization.gpu": percents[index]
            if percents[index] == "[N/A]"
            else f"{percents[index]} %",
            "pci.bus_id": f"00000000:{index + 1:02X}:00.0",
        }
        for index in range(int(shown["count"]))
    ]


def uuid(machine: str, index: int) -> str:
    """The same for one GPU of one machine, whenever it is asked."""
    digits = hashlib.md5(f"{machine}/{index}".encode(), usedforsecurity=False).hexdigest()
    return "GPU-" + "-".join(
        digits[start:end] for start, end in ((0, 8), (8, 12), (12, 16), (16, 20), (20, 32))
    )


def query(fields: list[str], style: list[str], found: list[dict[str, str]]) -> int:
    """Print the fields asked for."""
    for field in fields:
        if field not in found[0]:
            print(f'Field "{field}" is not a valid field to query.\n')
            return 2
    if "noheader" not in style:
        plain = "nounits" in style
        print(", ".join(field if plain else HEADINGS.get(field, field) for field in fields))
    for row in found:
        values = [row[field] for field in fields]
        if "nounits" in style:
            values = [value.removesuffix(" MiB").removesuffix(" %") for value in values]
        print(", ".join(values))
    return 0


def main(arguments: list[str]) -> int:
    """Answer one command line and give its exit code."""
    shown = settings()
    if shown["lie"] == "smi_hangs":
        time.sleep(3600)
    if shown["lie"] == "smi_fails":
        print(DRIVER_LOST + "\n")
        return 9
    found = rows(shown)
    if not found:
        print("No devices were found")
        return 6
    if arguments in (["-L"], ["--list-gpus"]):
        for row in found:
            print(f"GPU {row['index']}: {row['name']} (UUID: {row['uuid']})")
        return 0
    options = dict(argument.partition("=")[::2] for argument in arguments)
    unknown = sorted(set(options) - {"--query-gpu", "--format", "--loop", "--loop-ms"})
    if unknown or not options.get("--query-gpu"):
        asked = unknown[0] if unknown else " ".join(arguments)
        print(
            f"Invalid combination of input arguments. Please run 'nvidia-smi -h' for help. {asked}"
        )
        return 2
    style = options.get("--format", "").split(",")
    if style[0] != "csv":
        print('"--format=" switch is missing. "--query-*" switch requires "--format=" switch.')
        return 2
    fields = options["--query-gpu"].split(",")
    pause_s = float(options.get("--loop", 0)) or float(options.get("--loop-ms", 0)) / 1000
    code = query(fields, style, found)
    # Its heading comes once.
    style.append("noheader")
    while pause_s and not code:
        sys.stdout.flush()
        time.sleep(pause_s)
        code = query(fields, style, rows(settings()))
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
