"""The loss of a run's model over fixed windows of its data, by all ranks together.

    estimate_loss(run, iter_num, stop)      {split: the loss of each dataset}
"""
import torch

from optim import block_size_at
from pipeline.errors import UserError
from pipeline.read.batches import eval_batches, to_xy
from pipeline.read.folder import SPLITS


@torch.no_grad()
def estimate_loss(run, iter_num, stop=None):
    """{"train": (L,), "val": (L,)}: for each dataset its loss, float64 in nats a token, over the
    same windows of the split each time, cut to the context length of iteration iter_num.

    stop: asked between batches, since an evaluation may take far longer than the 30 seconds that
    torchrun leaves a process which it has sent SIGTERM. Where it says so, the result is None.
    """
    length = block_size_at(iter_num, run.args)
    run.model.eval()  # no dropout
    try:
        losses = {}
        for split in SPLITS if run.args.eval_train else ("val",):
            totals = _totals(run, split, length, stop)
            if totals is None:
                return None
            losses[split] = (totals[:, :-1] / totals[:, -1:]).flatten().numpy()
        return losses
    finally:
        run.model.train()


def _totals(run, split, length, stop):
    """(members, streams + 1) float64, over all ranks: of each member the summed loss of each
    stream, and the number of learned tokens. None where the ranks have agreed to stop."""
    args, mixture, ranks = run.args, run.mixture, run.ranks
    totals = torch.zeros(len(mixture.members), mixture.num_streams + 1, dtype=torch.float64)
    for member, total in enumerate(totals):
        sums = [torch.zeros(mixture.num_streams, device=ranks.device)]
        for batch in eval_batches(
                mixture, split, member, eval_iters=args.eval_iters, batch_size=args.batch_size,
                rank=ranks.rank, num_ranks=ranks.count):
            if stop and stop.agreed():
                return None
            if batch is None:  # this rank has read its part, and another has not
                continue
            x, y, marks = to_xy(batch, ranks.device, length)
            # a batch of another shape would be compiled anew, for this one use
            whole = batch.num_targets() == args.batch_size * args.block_size
            with run.autocast:
                _, loss = (run.eval_model if whole else run.model)(x, y, **marks)
            sums.append(loss.reshape(-1) * batch.num_targets())
            total[-1] += batch.num_learned()
        total[:-1] = torch.stack(sums).cpu().double().sum(0)
    totals = ranks.sum(totals)
    for member, num_learned in zip(mixture.members, totals[:, -1].tolist()):
        if not num_learned and split == "val":  # which decides what is best; train may be NaN
            raise UserError(f"an evaluation of {member[0].path(split)} reads {args.eval_iters} * "
                            f"{mixture.batch_size} windows, and none of their tokens is to be "
                            f"learned. Raise --eval_iters")
    return totals
