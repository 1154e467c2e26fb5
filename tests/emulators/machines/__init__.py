"""Machines of an emulated cloud, on this computer: each has namespaces, a disk and a real SSH server of its own.

What they leave out: a kernel, a network and a clock of their own, systemd, and GPUs, for which `tests.emulators.gpu` stands in.
"""
