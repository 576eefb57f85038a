"""The thresholds of the conditions, and their defaults."""

from typing import Annotated

import msgspec
from msgspec import Meta

Count = Annotated[int, Meta(ge=1, le=1_000_000)]
Seconds = Annotated[int, Meta(ge=60, le=60 * 60 * 24 * 31)]


class Thresholds(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """When each condition is reported; times are whole seconds of the events' own clock."""

    failure_percent: Annotated[int, Meta(ge=0, le=100)] = 10
    """Reported where more than this share of the lookups fail …"""
    failure_lookups: Count = 20
    """… of at least so many …"""
    failure_seconds: Seconds = 300
    """… within so long."""
    spike_factor: Annotated[int, Meta(ge=2, le=1_000)] = 3
    """Reported where reads are more than so many times the usual …"""
    spike_reads: Count = 100
    """… and at least so many …"""
    spike_seconds: Seconds = 600
    """… within so long."""
    baseline_seconds: Seconds = 86_400
    """What is usual: the mean over so long before that."""
    bulk_hosts: Annotated[int, Meta(ge=1, le=10_000)] = 50
    """Reported where one actor reads more distinct hosts than this …"""
    bulk_seconds: Seconds = 3_600
    """… within so long."""
    checkpoint_seconds: Seconds = 600
    """Reported where an event is that old and no published checkpoint covers it."""
    cooldown_seconds: Seconds = 3_600
    """A condition that still holds is reported again after so long."""
