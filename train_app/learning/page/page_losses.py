"""Losses of retrieval and scorer together: what the page needs of both, and of each for itself.

Torch on arrays of one step; knows no model, no data and no schedule. Legend: B moments, C items of
a moment's sample, D width. A sample stands for the whole catalogue: `weights` [B, C] says for how
many items each stands (1 for what was taken on purpose, more for what was drawn, 0 for padding).
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

_TINY = 1e-12


def soft_rank(scores: Tensor, target: Tensor, weights: Tensor, temperature: float) -> Tensor:
    """The true item's expected rank, from 1, among all that the sample stands for, [B].

    Every other item counts with the chance that it stands above, a sigmoid of the difference
    (the pairwise relaxation of a rank; Qin et al., ApproxNDCG, Information Retrieval 2010).

    Args:
        scores: [B, C].
        target: [B] column of the true item.
        weights: [B, C], for how many items each stands; the true item's own does not matter.
    """
    own = scores.gather(1, target[:, None])
    above = torch.sigmoid((scores - own) / temperature) * weights
    return 1.0 + above.scatter(1, target[:, None], 0.0).sum(1)


def survival(rank: Tensor, quota: float, sharpness: float) -> Tensor:
    """The log chance that a soft rank is within a quota: log sigmoid(sharpness * log(quota/rank)).

    One half at the quota itself, and never flat, so an item far outside still learns.
    """
    return functional.logsigmoid(sharpness * (torch.log(torch.tensor(quota)) - torch.log(rank)))


def survival_loss(
    retrieval: Tensor,
    estimates: Tensor,
    target: Tensor,
    weights: Tensor,
    quotas: tuple[float, float],
    temperature: float = 1.0,
    sharpness: float = 1.0,
) -> Tensor:
    """Minus the log chance that the true item survives retrieval and then the scorer, mean over B.

    The chance of both is bounded from below by the product of the stages' chances (Wang et al.,
    Learning Cascade Ranking as One Network, arXiv 2503.09492, section 3). The bound there ranks
    against the whole catalogue at both stages. Here an item competes at the second stage only as
    far as it survives the first, which is what the page does and is tighter: retrieval learns to
    leave out what would displace the true item, and the scorer need not order what never arrives.

    Args:
        retrieval: [B, C] retrieval scores, in logits.
        estimates: [B, C] the scorer's estimates, in logits.
        target: [B] column of the true item.
        quotas: how many items retrieval passes on, and how many the page shows.
        temperature: of the pairwise comparisons, in logits.
        sharpness: of the quota; large is a step.
    """
    n_retrieved, n_shown = quotas
    passed = survival(soft_rank(retrieval, target, weights, temperature), n_retrieved, sharpness)
    arrives = arrival(retrieval, weights, n_retrieved, temperature)
    place = soft_rank(estimates, target, weights * arrives, temperature)
    shown = survival(place, n_shown, sharpness)
    return -(passed + shown).mean()


def arrival(scores: Tensor, weights: Tensor, quota: float, temperature: float) -> Tensor:
    """The chance that each item is among the best `quota` of what the sample stands for, [B, C].

    A sigmoid around the score at which the weights above reach the quota; the score itself is
    taken as given, so that the chance moves with an item's own score alone.
    """
    order = scores.detach().masked_fill(weights <= 0, -torch.inf).argsort(1, descending=True)
    above = weights.gather(1, order).cumsum(1)
    n_within = (above < quota).sum(1, keepdim=True).clamp_max(scores.shape[1] - 1)
    bar = scores.detach().gather(1, order.gather(1, n_within))
    everything = above[:, -1:] <= quota  # a catalogue within the quota arrives whole
    return torch.where(everything, 1.0, torch.sigmoid((scores - bar) / temperature))


def listwise_loss(scores: Tensor, target: Tensor, weights: Tensor) -> Tensor:
    """Softmax cross-entropy of the true item against all that the sample stands for, mean over B.

    The log of a weight corrects its logit (importance sampling; Bengio and Senecal 2008).
    """
    log_shares = torch.log_softmax(scores + _log_weights(weights, target), dim=1)
    return -log_shares.gather(1, target[:, None]).mean()


def distillation_loss(student: Tensor, teacher: Tensor, weights: Tensor) -> Tensor:
    """KL(teacher || student) of the softmax over the sample, mean over B; the teacher is constant.

    The retriever learns the ranker's order, on items drawn by the retriever and corrected for the
    drawing (Huang et al., Cooperative Retriever and Ranker, arXiv 2206.14649, equation 5).

    Args:
        student: [B, C] logits that learn.
        teacher: [B, C] logits that are matched.
    """
    log_weights = _log_weights(weights)
    taught = torch.log_softmax(teacher.detach() + log_weights, dim=1)
    learned = torch.log_softmax(student + log_weights, dim=1)
    gap = torch.where(weights > 0, taught.exp() * (taught - learned), 0.0)
    return gap.sum(1).mean()


def similarity_loss(
    estimates: Tensor, vectors: Tensor, weights: Tensor, temperature: float = 1.0
) -> Tensor:
    """The expected cosine of two items that the page draws by its estimates, mean over B.

    Low where the page is diverse: the squared length of the mean direction, each item weighed by
    its softmax share.

    Args:
        vectors: [B, C, D] item vectors.
    """
    on_page = (weights > 0) & (weights <= 1)  # what stands for many others is no page
    logits = (estimates / temperature).masked_fill(~on_page, -torch.inf)
    has_any = on_page.any(1, keepdim=True)
    shares = torch.where(has_any, torch.softmax(torch.where(has_any, logits, 0.0), dim=1), 0.0)
    directions = functional.normalize(vectors, dim=-1, eps=_TINY)
    mean = torch.bmm(shares[:, None], directions)[:, 0]
    return mean.square().sum(-1).mean()


def _log_weights(weights: Tensor, target: Tensor | None = None) -> Tensor:
    logs = torch.log(weights.clamp_min(_TINY)).masked_fill(weights <= 0, -torch.inf)
    return logs if target is None else logs.scatter(1, target[:, None], 0.0)
