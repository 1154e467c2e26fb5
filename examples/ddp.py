"""Data-parallel training with torch on two machines that exist for this call only.

Both machines are this computer, each with a home, an SSH server and a port of its own; torch is installed there, by the run itself.
"""

from __future__ import annotations

from dayfly import cluster


@cluster(
    provider="local",
    nodes=2,
    distributed="torchrun",
    environment=["torch", "numpy"],
    time="30m",
    job_name="ddp",
)
def train(steps: int) -> dict[str, float]:
    """Fits a plane; each rank sees half of the points, and all of them take the same steps."""
    import torch
    import torch.distributed as dist
    from torch.nn.parallel import DistributedDataParallel

    dist.init_process_group("gloo")  # "nccl" where the machines have GPUs
    rank, ranks = dist.get_rank(), dist.get_world_size()
    torch.manual_seed(0)
    points = torch.randn(512, 2)
    heights = points @ torch.tensor([[2.0], [-1.0]]) + 0.5
    mine, wanted = points[rank::ranks], heights[rank::ranks]
    model = DistributedDataParallel(torch.nn.Linear(2, 1))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    loss = torch.tensor(0.0)
    for step in range(1, steps + 1):
        optimizer.zero_grad()
        loss = torch.nn.functional.mse_loss(model(mine), wanted)
        loss.backward()  # averages the gradients of all ranks
        optimizer.step()
        if step % 10 == 0:
            print(f"step {step:3d}  loss {loss.item():.6f}", flush=True)
    weights = model.module.weight.detach().flatten()
    everywhere = [torch.empty_like(weights) for _ in range(ranks)]
    dist.all_gather(everywhere, weights)
    apart = max(float((other - weights).abs().max()) for other in everywhere)
    dist.destroy_process_group()
    return {"ranks": ranks, "loss": loss.item(), "weights apart": apart}


if __name__ == "__main__":
    for name, value in train(50).items():
        print(f"{name:14} {value:g}")
