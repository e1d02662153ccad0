"""The shares of a run's members over all its iterations, also where a resumed run has changed them.

    segment_of(args, datasets, first)    what the flags say, from iteration `first` on
    with_change(history, args, ...)      the history with another segment
    fractions_over(history, steps)       a function: batch numbers -> the fractions there
    columns_of(history)                  the names of all members there have ever been

A history is a list of segments, dicts of plain values that a checkpoint keeps:

    first     the iteration that it begins with; the next one's is its end
    members   the names of the datasets, in their order
    weights   a list; final: another, to which they move, or None
    method    how they move; length: in how many iterations from `first` on

A member's own order knows nothing of shares. It only counts how many windows the member has given,
over all segments; so a member that is dropped and comes back goes on where it stopped.
"""
import itertools

import numpy as np

from pipeline.errors import UserError
from pipeline.read import sampler


def segment_of(args, datasets, first=0, now=None):
    """The segment that the flags describe. now: the fractions of these datasets at the moment, with
    which it begins unless the flags give weights."""
    # dividing by the largest first keeps enormous weights from overflowing
    if args.dataset_sampling_alpha is not None:
        sizes = np.array([dataset.num_tokens["train"] for dataset in datasets], dtype=np.float64)
        # alpha 1 samples by size, alpha 0 all alike
        weights = (sizes / sizes.max()) ** args.dataset_sampling_alpha
    else:
        given = args.dataset_sampling_probs
        weights = np.array(given or ([1.0] * len(datasets) if now is None else now))
        weights = weights / weights.max()
    final = args.dataset_sampling_probs_final
    return {"first": first, "members": [dataset.name for dataset in datasets],
            "weights": weights.tolist(),
            "final": final and (np.array(final) / max(final)).tolist(),
            "method": args.dataset_sampling_probs_transition_method,
            "length": args.dataset_sampling_probs_transition_iters}


def only_member(name):
    """The segment of a run on one dataset."""
    return {"first": 0, "members": [name], "weights": [1.0], "final": None, "method": None,
            "length": None}


def fractions_in(segment, batches, steps):
    """(m, members) fractions of a segment at these batches (m,); steps: batches an iteration."""
    weights = np.array(segment["weights"])
    if not segment["final"]:
        return np.tile(weights / weights.sum(), (len(batches), 1))
    progress = (batches - segment["first"] * steps) / (segment["length"] * steps)
    return sampler.moved_fractions(weights, np.array(segment["final"]), segment["method"], progress)


def columns_of(history):
    return list(dict.fromkeys(itertools.chain(*(segment["members"] for segment in history))))


def fractions_over(history, steps):
    """A function: batch numbers (m,) -> (m, columns) fractions, 0 for those that are no members."""
    columns = columns_of(history)
    begins = np.array([segment["first"] for segment in history]) * steps
    places = [[columns.index(name) for name in segment["members"]] for segment in history]

    def fractions_at(batches):
        batches = np.asarray(batches)
        fractions = np.zeros((len(batches), len(columns)))
        which = np.searchsorted(begins, batches, side="right") - 1
        for number in np.unique(which).tolist():
            rows = np.flatnonzero(which == number)
            fractions[np.ix_(rows, places[number])] = fractions_in(history[number], batches[rows],
                                                                   steps)
        return fractions
    return fractions_at


# ---- a change


def with_change(history, args, datasets, iter_num, steps):
    """The history with another segment from iteration iter_num on, as the flags now say. Raises
    UserError where none of the members would stay."""
    before, names = history[-1], [dataset.name for dataset in datasets]
    if not set(names) & set(before["members"]):
        raise UserError(f"--dataset_list {' '.join(names)} drops all members of this run "
                        f"({', '.join(before['members'])}). Keep one of them, or start a new run")
    now = None
    if names == before["members"]:
        now = fractions_in(before, np.array([iter_num * steps]), steps)[0].tolist()
    after = segment_of(args, datasets, iter_num, now)
    if {**after, "first": before["first"]} == before:  # the members have other places, no others
        return history
    return [*(segment for segment in history if segment["first"] < iter_num), after]
