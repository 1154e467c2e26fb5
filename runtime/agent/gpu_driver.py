"""The driver's library, loaded, and each GPU used a little: a process of its own, since it may hang."""

from __future__ import annotations

import json
import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


class Driver:
    """The driver's library; every call is checked."""

    BYTES = 1 << 20
    PATTERN = 0xDF

    def __init__(self) -> None:
        import ctypes

        self.step("libcuda.so.1")
        try:
            self._library = ctypes.CDLL("libcuda.so.1")
        except OSError as error:
            self.fail(f"libcuda.so.1 cannot be loaded: {error}")

    @staticmethod
    def step(name: str) -> None:
        os.write(1, json.dumps({"step": name}).encode() + b"\n")

    @staticmethod
    def fail(failure: str) -> None:
        os.write(1, json.dumps({"failure": failure}).encode() + b"\n")
        os._exit(1)

    def call(self, name: str, *arguments: Any, on: str = "") -> None:
        """Call a function of the library; the process ends with its own words where it answers with an error."""
        import ctypes

        self.step(name + on)
        code = getattr(self._library, name)(*arguments)
        if code:
            words = ctypes.c_char_p()
            self._library.cuGetErrorName(code, ctypes.byref(words))
            self.fail(f"{name}{on}: error {code} {(words.value or b'').decode(errors='replace')}")

    def devices(self) -> list[dict[str, Any]]:
        import ctypes

        self.call("cuInit", 0)
        count = ctypes.c_int()
        self.call("cuDeviceGetCount", ctypes.byref(count))
        return [self._use(number) for number in range(count.value)]

    def _use(self, number: int) -> dict[str, Any]:
        """Make a context on one GPU, write to its memory and read it back."""
        import ctypes

        on = f" on GPU {number}"
        device, size, name = ctypes.c_int(), ctypes.c_size_t(), ctypes.create_string_buffer(128)
        context, memory = ctypes.c_void_p(), ctypes.c_uint64()
        back, length = ctypes.create_string_buffer(self.BYTES), ctypes.c_size_t(self.BYTES)
        self.call("cuDeviceGet", ctypes.byref(device), number, on=on)
        self.call("cuDeviceGetName", name, 128, device, on=on)
        self.call("cuDeviceTotalMem_v2", ctypes.byref(size), device, on=on)
        self.call("cuDevicePrimaryCtxRetain", ctypes.byref(context), device, on=on)
        self.call("cuCtxSetCurrent", context, on=on)
        self.call("cuMemAlloc_v2", ctypes.byref(memory), length, on=on)
        self.call("cuMemsetD8_v2", memory, ctypes.c_ubyte(self.PATTERN), length, on=on)
        self.call("cuMemcpyDtoH_v2", back, memory, length, on=on)
        if back.raw != bytes([self.PATTERN]) * self.BYTES:
            self.fail(f"memory{on}: it gave back other bytes than were written")
        self.call("cuMemFree_v2", memory, on=on)
        self.call("cuDevicePrimaryCtxRelease_v2", device, on=on)
        return {
            "name": name.value.decode(errors="replace"),
            "memory_bytes": size.value,
            "uuid": "",
        }


def gpu(_which: str) -> None:
    """Use every GPU a little; what came of it is the last line of the output."""
    devices = Driver().devices()
    os.write(1, json.dumps({"devices": devices}).encode() + b"\n")
    # The library's own clean-up can hang where its GPU does.
    os._exit(0)
