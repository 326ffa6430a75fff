"""A model of the pipeline's throughput: what each part has to do, and how many of it that takes.

Every GPU has one worker. A worker's cycle is `every` training steps and one candidate, a whole image:

    exchange  = 2 (g - 1) / g * gradient_bytes / network            0 for one GPU
    step      = batch / crops_per_s + exchange
    cycle     = every * step + candidate_s
    samples/s = g * batch * every / cycle          candidates/s = g / cycle

Pure functions of a :class:`Job` and of :class:`Costs`. All rates are per second and over all GPUs, sizes are
bytes. Caches are taken as holding a random part of what is asked for.
"""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Costs:
    """What one of each part can do."""

    crops_per_s: float
    """Rainy crops that one GPU trains on, by the whole step of RGSUD."""
    candidate_s: float
    """That one GPU takes to derain a whole image."""
    gradient_bytes: float
    """Of all networks, exchanged in every step."""
    network: float
    """Bytes a second that one GPU's share of its machine's network carries, in either direction."""
    scorings_per_s: float
    """Of one replica of the scorer."""
    view_bytes: float
    """What travels to the scorer for one candidate."""
    decisions_per_s: float
    """Of one Redis server; a look-up of an entry is taken to cost as much as a decision."""
    service_per_s: float
    """Decisions a second of one process of the pool's HTTP service, look-ups as above."""
    entry_bytes: float
    """Of one image's entry in Redis."""
    server_bytes: float
    """That one Redis server may hold."""
    puts_per_s: float
    """Of one partition of the object store."""
    gets_per_s: float
    """Of one partition of the object store."""
    reward_bytes: float
    """Of a stored reward, and of a training image as it is stored."""
    decoded_bytes: float
    """Of an image in a cache."""
    entering: float
    """Share of the candidates that replace a reward."""


@dataclass(frozen=True)
class Job:
    """A data set and what trains on it; the rest as a run has it by default."""

    images: int
    gpus: int
    batch: int = 4
    every: int = 4
    reward_cache: float = 2.0**30
    """Decoded rewards that a worker holds."""
    image_cache: float = 2.0**31
    """Decoded training images that a worker holds, half of it for either domain."""


@dataclass(frozen=True)
class Rates:
    """What happens in a second, over all GPUs."""

    samples: float
    candidates: float
    puts: float
    """Rewards written."""
    gets: float
    """Rewards and training images read from where they are kept."""
    pool_calls: float
    """Decisions, two a candidate since what would enter is offered again; look-ups of entries."""
    network_share: float
    """Of one GPU's network, that is in use."""
    training_share: float
    """Of a GPU's time that is training, the rest being candidates and exchange."""


PARTS = {
    "GPU network": "more bandwidth a GPU, or larger batches",
    "scorer": "replicas of the scorer",
    "Redis": "sub-pools on more Redis servers",
    "Redis memory": "sub-pools on more Redis servers",
    "pool service": "processes of the pool service, or the pool by redis:// without it",
    "object store PUTs": "partitions of the object store",
    "object store GETs": "partitions of the object store, or larger caches",
}
"""What to add to each."""


def missed(cache: float, images: int, decoded_bytes: float) -> float:
    """Share of the look-ups that a cache does not answer, when any image is as likely as any other."""
    return max(0.0, 1 - cache / (images * decoded_bytes))


def replaced_since(job: Job, costs: Costs) -> float:
    """Probability that a reward was replaced since its worker last looked.

    The workers share the images of an epoch, so one meets an image again after as many epochs as there are
    workers; in an epoch a share 1 / (batch * every) of the images has a candidate.
    """
    return 1 - (1 - costs.entering / (job.batch * job.every)) ** job.gpus


def rates(job: Job, costs: Costs) -> Rates:
    """What a job makes the parts do."""
    exchanged = 2 * (job.gpus - 1) / job.gpus * costs.gradient_bytes
    training = job.batch / costs.crops_per_s
    cycle = job.every * (training + exchanged / costs.network) + costs.candidate_s
    candidates = job.gpus / cycle
    samples = candidates * job.batch * job.every
    kept = 1 - missed(job.reward_cache, job.images, costs.decoded_bytes)
    rewards = samples * (1 - kept * (1 - replaced_since(job, costs)))
    # A candidate's rainy image is loaded for it; crops come from the cache.
    images = candidates + 2 * samples * missed(job.image_cache / 2, job.images, costs.decoded_bytes)
    puts = candidates * costs.entering
    carried = (rewards + images + puts) * costs.reward_bytes + candidates * costs.view_bytes
    busy = (job.every * exchanged / cycle + carried / job.gpus) / costs.network
    return Rates(
        samples=samples,
        candidates=candidates,
        puts=puts,
        gets=rewards + images,
        pool_calls=2 * candidates + samples,
        network_share=busy,
        training_share=job.every * training / cycle,
    )


def loads(job: Job, costs: Costs) -> dict[str, float]:
    """How many of each part the job keeps busy: more than 1 is more than one of it can do."""
    found = rates(job, costs)
    return {
        "GPU network": found.network_share,
        "scorer": found.candidates / costs.scorings_per_s,
        "Redis": found.pool_calls / costs.decisions_per_s,
        "Redis memory": job.images * costs.entry_bytes / costs.server_bytes,
        "pool service": found.pool_calls / costs.service_per_s,
        "object store PUTs": found.puts / costs.puts_per_s,
        "object store GETs": found.gets / costs.gets_per_s,
    }


def fullest(job: Job, costs: Costs) -> tuple[str, float]:
    """The part that is nearest to its limit, or farthest beyond, with one of each; and its load."""
    found = loads(job, costs)
    part = max(found, key=found.__getitem__)
    return part, found[part]


def needed(job: Job, costs: Costs) -> dict[str, int]:
    """How many of each part the job takes."""
    return {part: max(1, math.ceil(load)) for part, load in loads(job, costs).items()}


def saturates_at(images: int, part: str, costs: Costs, most: int) -> int | None:
    """The least number of GPUs that one of a part cannot serve; None where it serves `most`."""
    low, high = 1, most
    if loads(Job(images, most), costs)[part] <= 1:
        return None
    while low < high:
        middle = (low + high) // 2
        if loads(Job(images, middle), costs)[part] > 1:
            high = middle
        else:
            low = middle + 1
    return low


def pass_seconds(job: Job, costs: Costs) -> float:
    """Until every image has had a candidate: the oldest that a verdict on a reward can be."""
    return job.images / rates(job, costs).candidates


def pass_samples(job: Job) -> int:
    """Rainy crops trained on meanwhile, whatever the number of GPUs."""
    return job.images * job.batch * job.every


def largest_pool(costs: Costs) -> int:
    """Images whose pool one server can hold."""
    return int(costs.server_bytes // costs.entry_bytes)
