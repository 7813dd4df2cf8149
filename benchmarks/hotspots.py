"""What the time of a call is spent on."""

from collections.abc import Callable
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile


def hotspots(call: Callable[[], Any], *, device: torch.device, most: int = 8) -> list[dict[str, Any]]:
    """The `most` expensive operations (CPU) or kernels (GPU) of one call, each with its share of all their time."""
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if device.type == "cuda" else [])]
    with profile(activities=activities, acc_events=True) as trace:
        call()
    seconds = {}
    for event in trace.key_averages():
        if event.device_type.name.lower() == device.type:
            seconds[event.key] = event.self_device_time_total if device.type == "cuda" else event.self_cpu_time_total
    total = sum(seconds.values()) or 1.0
    ranked = sorted(seconds, key=seconds.__getitem__, reverse=True)[:most]
    return [{"operation": name, "share": seconds[name] / total} for name in ranked]
