"""Profiles: the links that packlight is measured on, as others have measured them."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Profile:
    """A link: rates in bit/s of IP packets, times in seconds, *loss* as a share of the packets in each direction.

    *round_trip* is that of an idle link, and packets are up to some multiple of *jitter* later, in order. Losses
    come in bursts of *burst* packets on average. *source* is where the figures come from.
    """

    title: str
    up: float
    down: float
    round_trip: float
    loss: float = 0.0
    jitter: float = 0.0
    burst: float = 1.0
    source: str = ""


PROFILES = {
    "geo": Profile(
        "GEO satellite in the air", 1.89e6, 1.89e6, 0.760, loss=0.06, jitter=0.030, source="Wolsing et al. 2019"
    ),
    "atg": Profile(
        "air-to-ground", 0.468e6, 0.468e6, 0.262, loss=0.033, jitter=0.015, source="Wolsing et al. 2019"
    ),
    "3g": Profile("3G", 0.768e6, 1.6e6, 0.300, jitter=0.020, source="WebPageTest, Mobile 3G"),
    "hotel": Profile(
        "hotel wifi", 1e6, 5e6, 0.080, loss=0.01, jitter=0.010, burst=2, source="a crowded network; an estimate"
    ),
    "starlink": Profile(
        "Starlink in the air", 24e6, 64e6, 0.070, loss=0.005, jitter=0.008, burst=3, source="arXiv 2508.09839"
    ),
    "fibre": Profile("fibre", 20e6, 100e6, 0.020, source="a good home or office line"),
}
