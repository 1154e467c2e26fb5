"""Tensors of torch travel from where their memory lies to where it stays, and share it afterwards as they did before."""

from __future__ import annotations

import ctypes
import io
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dayfly.runtime import outcome, payload
from dayfly.runtime.agent import caller
from dayfly.runtime.parts import Parts, flat

torch = pytest.importorskip(
    "torch", reason="torch is not installed here; `pip install torch` has these tests made"
)

Carry = Callable[[Any], Any]


def to_the_machine(value: Any) -> Any:
    """As an argument of a call, loaded there."""
    task = bytes(payload.pack(len, (value,), {}).task)
    _, (given,), _ = pickle.loads(task.partition(b"\n")[2])
    return given


def home(value: Any) -> Any:
    """As the value of a call, loaded here."""
    writer = Written()
    writer.write(b'{"outcome": "value", "type": ""}\n')
    caller.pickle_value(value, writer, check=False)
    return outcome.load(io.BytesIO(b"".join(map(bytes, writer.parts))), run_id="r")


class Written:
    """What takes a result on the machine."""

    def __init__(self) -> None:
        self.parts: list[memoryview] = []

    def write(self, data: Any) -> int:
        self.parts.append(flat(data))
        return self.parts[-1].nbytes


both_ways = pytest.mark.parametrize("carry", [to_the_machine, home])


@both_ways
@pytest.mark.parametrize(
    "dtype",
    ["float32", "float64", "float16", "bfloat16", "complex64", "int64", "uint8", "bool"],
)
def test_a_tensor_is_the_same_afterwards(carry: Carry, dtype: str) -> None:
    """Of whatever type; also where numpy has no such type."""
    tensor = torch.arange(24).reshape(2, 3, 4).to(getattr(torch, dtype))
    made = carry(tensor)
    assert (made.dtype, made.shape, made.stride()) == (tensor.dtype, (2, 3, 4), (12, 4, 1))
    assert torch.equal(made, tensor)
    assert made.is_contiguous()
    made.add_(made)  # It is its own, and may be written to.
    assert torch.equal(tensor, torch.arange(24).reshape(2, 3, 4).to(tensor.dtype))


@both_ways
@pytest.mark.parametrize("name", ["float8_e4m3fn", "uint16", "uint32", "uint64"])
def test_newer_types_travel_too(carry: Carry, name: str) -> None:
    """Those that torch pickles in a way of their own."""
    dtype = getattr(torch, name, None)
    if dtype is None:
        pytest.skip(f"this torch has no {name}")
    tensor = torch.tensor([1, 2, 250], dtype=torch.uint8).repeat(8).view(dtype)
    made = carry(tensor)
    assert made.dtype == dtype
    assert made.view(torch.uint8).tolist() == [1, 2, 250] * 8


@both_ways
def test_what_shares_memory_shares_it_afterwards(carry: Carry) -> None:
    """Views, whichever comes first, and a storage itself; what does not, does not."""
    base = torch.zeros(1000, dtype=torch.float32)
    middle, turned, alike = base[10:20], base.view(10, 100).T, torch.zeros(1000)
    made = carry([middle, base, turned, base.view(torch.int32), alike, base.untyped_storage()])
    assert (made[0].storage_offset(), made[2].stride()) == (10, (1, 100))
    made[1][10] = 1.0
    assert made[0][0] == 1.0
    assert made[2][10, 0] == 1.0
    assert made[3][10] == 0x3F800000
    assert made[4][10] == 0.0
    assert made[5]._untyped_storage.data_ptr() == made[1].untyped_storage().data_ptr()
    assert base[10] == 0.0


@both_ways
def test_gradients_and_parameters_stay_what_they_are(carry: Carry) -> None:
    """A leaf that wants one, a parameter, a whole module with two names for one weight."""
    leaf = torch.ones(3, requires_grad=True)
    model = torch.nn.Sequential(torch.nn.Linear(3, 3), torch.nn.Linear(3, 3))
    model[1].weight = model[0].weight
    made, loaded, plain = carry((leaf, model, leaf.detach()))
    assert (made.requires_grad, made.is_leaf, plain.requires_grad) == (True, True, False)
    assert loaded[1].weight is loaded[0].weight
    assert isinstance(loaded[0].bias, torch.nn.Parameter)
    assert torch.equal(loaded(plain), model(leaf.detach()))
    loaded(made).sum().backward()
    assert made.grad is not None
    loaded[0].bias.data.zero_()
    assert model[0].bias.abs().sum() > 0


@both_ways
def test_what_has_no_memory_of_its_own_travels_as_torch_has_it(carry: Carry) -> None:
    """Nothing, one number, a sparse one, one that is conjugated only when it is read, one without content."""
    sparse = torch.eye(4).to_sparse()
    turned = torch.tensor([1 + 2j]).conj()
    made = carry((torch.empty(0), torch.tensor(7), sparse, turned, torch.empty(3, device="meta")))
    assert (made[0].numel(), made[1].item(), made[1].shape) == (0, 7, ())
    assert torch.equal(made[2].to_dense(), torch.eye(4))
    assert made[3].tolist() == [1 - 2j]
    assert made[4].device.type == "meta"


def test_no_memory_is_copied_on_the_way_out() -> None:
    """Neither here nor there: what is sent is the tensor's own."""
    tensor = torch.zeros(100_000)
    place = tensor.untyped_storage().data_ptr()
    task = payload.pack(len, ([tensor, tensor[1:]],), {}).task
    assert len(task) < 1.1 * 400_000
    here = [_address_of(part) for part in _buffers(task)]
    there = Written()
    caller.pickle_value([tensor, tensor[1:]], there, check=False)
    assert (here.count(place), [_address_of(part) for part in there.parts].count(place)) == (1, 1)
    assert sum(part.nbytes for part in there.parts) < 1.1 * 400_000


def _buffers(task: Parts) -> list[memoryview]:
    return [part for part in task._parts if isinstance(part, memoryview)]


def _address_of(part: memoryview) -> int:
    if part.readonly or not part.nbytes:
        return 0
    return ctypes.addressof(ctypes.c_char.from_buffer(part))


@both_ways
def test_no_memory_is_copied_on_the_way_in(carry: Carry) -> None:
    """A tensor stays where the pickle was read to: torch cannot enlarge that place, as it can its own."""
    made = carry(torch.zeros(100_000))
    assert not made.untyped_storage().resizable()
    assert made.untyped_storage().nbytes() == 400_000


def test_a_buffer_keeps_the_memory_that_it_shows() -> None:
    """A tensor that is made for one call only is gone before all of it is sent."""
    task = payload.pack(len, (torch.full((100_000,), 7, dtype=torch.uint8),), {}).task
    filler = [torch.full((100_000,), 9, dtype=torch.uint8) for _ in range(20)]
    assert bytes(task).count(b"\7" * 100_000) == 1
    del filler


@pytest.mark.process
def test_torch_must_be_on_the_machine(tmp_path: Path) -> None:
    """A call says so, and whoever loads it without torch is told which module is missing."""
    packed = payload.pack(len, (torch.zeros(3),), {})
    assert "torch" in packed.imports
    (tmp_path / "task").write_bytes(bytes(packed.task).partition(b"\n")[2])
    code = "import pickle, sys; sys.modules['torch'] = None\npickle.load(open(sys.argv[1], 'rb'))"
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "task")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert "ModuleNotFoundError" in done.stderr
    assert "torch" in done.stderr
